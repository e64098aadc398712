"""What the doctor looks at inside ComfyUI: its device, its attention, and models that its loaders gave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.samplers
import comfy.sd
import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from torch import Tensor

from ... import demo
from ...attention.call import Attend
from ...attention.instances import Instance
from ...color import resize
from ...diffusion.sampling import sample_ddim
from ...diffusion.schedule import inversion_plan
from ...networks.ddcolor.load import load_ddcolor
from ...networks.deadiff.load import load_deadiff
from ...pipelines.deadiff import DEADiffEncodeSettings, DEADiffSettings
from ...pipelines.doctor.checks import Check, Finding, NotRunError
from ...pipelines.doctor.machine import GIB, version_of
from ...pipelines.doctor.subjects import Checkpoint, Files, Model, Once, Tokens, family_of, other_precision
from ...pipelines.recommended import SYSTEMS
from . import sampling
from .attention import fused_attention
from .ddcolor import ComfyDDColor
from .deadiff import ComfyDEADiff, apply
from .embedded import load_demo
from .families.found import require_network
from .front_end import front_end
from .host import ComfyHost
from .lcad import ComfyLCADVAE, GrayPicture, LCADModel, load_file, with_gray
from .lcad_instances import phrase_places
from .model import context_width, file_name, sigma_table
from .recommended import recommended
from .vct import ComfyTranslator

if TYPE_CHECKING:
    from ...pipelines.doctor.subjects import Describer

_SYSTEMS = ("exemplar", "memory", "vct")


def check_kind(model: Any, name: str, node: str) -> None:
    """Whether a MODEL is of the kind that a socket is for: plain Stable Diffusion colors nothing in L-CAD's place.

    :param name: ``model`` or ``lcad_model``; ``node`` is the asking node's display name.
    :raises ValueError: it is of the other kind.
    """
    found = isinstance(model.model, LCADModel)
    if found and name == "model":
        raise ValueError(
            f"{node}: model: found an L-CAD MODEL, expected Stable Diffusion; connect it to lcad_model, with the other "
            "two outputs of Load L-CAD."
        )
    if not found and name == "lcad_model":
        raise ValueError(
            f"{node}: lcad_model: found {type(model.model).__name__}, expected the MODEL of Load L-CAD; connect other "
            "checkpoints to model."
        )


def attend() -> Attend:
    """ComfyUI's attention as edits ask for it."""
    return fused_attention({})


def attention_name() -> str:
    """What the attention function is called that edits get here: on a CPU torch's own."""
    on_cpu = device().type == "cpu"
    return (attention_pytorch if on_cpu else optimized_attention).__name__


def device() -> torch.device:
    """Where ComfyUI computes."""
    return comfy.model_management.get_torch_device()


def stops(error: BaseException) -> bool:
    """Whether an error says that the user canceled."""
    return isinstance(error, comfy.model_management.InterruptProcessingException)


def environment() -> dict[str, str]:
    """What ComfyUI says of itself: versions, memory, attention and precision; none of other packs."""
    mm, there = comfy.model_management, device()
    found = {"host": "ComfyUI", "comfyui": _core_version()}
    for name, version in (("front end", front_end()), ("comfy-aimdo", version_of("comfy-aimdo"))):
        if version:
            found[name] = version
    chosen = optimized_attention.__name__
    found["attention"] = chosen if chosen == attention_name() else f"{chosen}, edits on a CPU {attention_name()}"
    found["vram state"] = mm.vram_state.name
    found["free memory"] = f"{mm.get_free_memory(there) / GIB:.1f} of {mm.get_total_memory(there) / GIB:.1f} GiB"
    found["vae device and dtype"] = f"{mm.vae_device()}, {str(mm.vae_dtype()).removeprefix('torch.')}"
    return found


def _core_version() -> str:
    try:
        return str(import_module("comfyui_version").__version__)
    except (ImportError, AttributeError):
        return "unknown"


def embedded_files() -> Files:
    """The pack's own files, under ComfyUI's model manager."""

    def load_model() -> Model:
        model, clip, vae = load_demo()
        return _model(ComfyTranslator(model, clip, vae), "the embedded model")

    return Files(
        Once(load_model, "the embedded model"),
        Once(lambda: ComfyDDColor(load_ddcolor(demo.ddcolor_path(), systems=SYSTEMS)), "DDColor's file"),
        Once(lambda: ComfyDescriber(*load_file(demo.lcad_path())), "L-CAD's file"),
        Once(lambda: tokens_of(ComfyDEADiff(load_deadiff(demo.deadiff_path()))), "DEADiff's file"),
    )


def checkpoint_of(model: Any, vae: Any, clip: Any, node: str) -> Checkpoint:
    """A user's MODEL with its VAE and CLIP.

    :param node: display name of the asking node.
    :raises ValueError: a MODEL of another family, named.
    """
    require_network(model, node)

    def other() -> Model:
        return _model(ComfyTranslator(in_other_precision(model), clip, vae), _family(model))

    return Checkpoint(
        file_name(model),
        Once(lambda: _model(ComfyTranslator(model, clip, vae), _family(model)), "the checkpoint"),
        Once(other, "the checkpoint in another precision"),
    )


def in_other_precision(model: Any) -> Any:
    """The file of a MODEL loaded again, in single precision where it is in half, else in half.

    :raises NotRunError: nobody knows its file, or it is patched, so that its file is not what is examined.
    """
    if model.patches:
        raise NotRunError("the MODEL is patched (a LoRA?); connect the loader itself.")
    path, load = _file_of(model), "use a core loader of checkpoints or diffusion models, or compare two runs."
    if path is None:
        raise NotRunError(f"the MODEL's loader did not say what file it is of; {load}")
    options = {"dtype": other_precision(_dtype(model), model.load_device)}
    function = getattr(model.cached_patcher_init[0], "__name__", "")
    if function == "load_diffusion_model":
        return comfy.sd.load_diffusion_model(str(path), model_options=options)
    made = comfy.sd.load_checkpoint_guess_config(
        str(path), output_vae=False, output_clip=False, output_clipvision=False, model_options=options
    )
    return made[0]


def _file_of(model: Any) -> Path | None:
    """The file that a MODEL was loaded from by one of the core's loaders."""
    init = getattr(model, "cached_patcher_init", None)
    if not init or getattr(init[0], "__module__", "") != "comfy.sd" or not init[1]:
        return None
    return Path(init[1][0]) if isinstance(init[1][0], str) else None


def paths(*models: Any) -> list[Path]:
    """Files that messages may quote."""
    found = [_file_of(model) for model in models if hasattr(model, "model_options")]
    return [path for path in found if path is not None]


def _model(host: ComfyTranslator, family: str) -> Model:
    model = host.model
    sections = {system: recommended(model, system) for system in _SYSTEMS}
    numbers = sum(parameter.numel() for parameter in model.model.diffusion_model.parameters())
    kind = type(model.get_model_object("model_sampling")).__mro__
    predicts = "v" if any(base.__name__ == "V_PREDICTION" for base in kind) else "epsilon"
    about = f"{numbers / 1e6:.0f} M numbers, predicts {predicts}{_storage(model)}"
    return Model(host, sections, family, _dtype(model), about)


def _dtype(model: Any) -> torch.dtype:
    """Of the UNet's arithmetic."""
    return model.model.get_dtype_inference() if hasattr(model.model, "get_dtype_inference") else model.model_dtype()


def _storage(model: Any) -> str:
    """In which precision the weights are, where it is another one."""
    stored = model.model_dtype()
    return "" if stored == _dtype(model) else f", kept in {str(stored).removeprefix('torch.')}"


def _family(model: Any) -> str:
    return "SDXL" if type(model.model).__name__ == "SDXL" else family_of(context_width(model))


def tokens_of(network: ComfyDEADiff) -> Tokens:
    """DEADiff's encoder as the doctor asks for it."""
    settings = DEADiffEncodeSettings.resolve(take="style & semantics")

    def tokens(pictures: Tensor) -> Mapping[str, Tensor]:
        return network.tokens(pictures, settings, lambda _: None).tokens

    return tokens


@dataclass
class ComfyDescriber:
    """What ``pipelines.lcad`` asks of a host, on the three parts that Load L-CAD gives."""

    model: Any
    clip: Any
    lcad_vae: ComfyLCADVAE

    @property
    def recommended(self) -> Mapping[str, Any]:
        return self.lcad_vae.recommended

    @property
    def sigma_table(self) -> Tensor:
        return sigma_table(self.model)

    @property
    def channels(self) -> int:
        return self.lcad_vae.channels

    @property
    def factor(self) -> int:
        return self.lcad_vae.factor

    @property
    def multiple(self) -> int:
        return self.lcad_vae.multiple

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.lcad_vae.encode(image, lambda frame: resize(frame, frame.shape[1:3])).maps

    def phrase_places(self, prompt: str, phrases: Sequence[str]) -> tuple[list[tuple[int, ...]], int]:
        _, places, length = phrase_places(self.clip, prompt, phrases)
        return places, length

    def sample(
        self,
        x: Tensor,
        sigmas: Tensor,
        gray: Tensor,
        prompt: str,
        negative: str,
        cfg: float,
        instances: Sequence[Instance] = (),
    ) -> Tensor:
        if instances:
            raise NotImplementedError("The doctor draws no phrases into masks.")
        guider = comfy.samplers.CFGGuider(self.model)
        encoded = (self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text)) for text in (prompt, negative))
        guider.set_conds(*(with_gray(conditioning, gray) for conditioning in encoded))
        guider.set_cfg(cfg)
        return sampling.run_sampler(guider, x, sample_ddim, sigmas, None)

    def decode(self, latent: Tensor, maps: Sequence[Tensor]) -> Tensor:
        gray = GrayPicture(latent, tuple(maps), self.lcad_vae)
        return self.lcad_vae.decode(self.model.model.process_latent_out(latent), gray)


def listening_check(files: Files, picture: Callable[[], Tensor]) -> Check:
    """Whether a MODEL that listens to DEADiff's tokens is the plain one, bit for bit, at weight 0, and another at 1."""

    @torch.no_grad()
    def run() -> Finding:
        host: ComfyHost = files.model().host
        network = ComfyDEADiff(load_deadiff(demo.deadiff_path()))
        tokens = network.tokens(picture(), DEADiffEncodeSettings.resolve(), lambda _: None)
        plan = inversion_plan(host.sigma_table, 8, 8)
        channels = host.model.model.latent_format.latent_channels
        noise = torch.randn(1, channels, 16, 16, generator=torch.Generator().manual_seed(0)) * plan.sigmas[0]

        def sampled(weight: float | None) -> Tensor:
            model = host.model
            if weight is not None:
                settings = replace(DEADiffSettings.resolve(), weight=weight)
                model = apply(model, tokens, settings, None, "Doctor")
            guider = sampling.color_guider(model, host.conditioning, 1.0)
            return sampling.run_sampler(guider, noise, sample_ddim, torch.tensor(plan.sigmas), None)

        plain, none, full, after = sampled(None), sampled(0.0), sampled(1.0), sampled(None)
        changed = float((full - plain).abs().max())
        numbers = {"weight 0": float((none - plain).abs().max()), "weight 1": changed}
        if not torch.equal(plain, none) or not torch.equal(plain, after):
            return Finding("other bits at weight 0, or afterward", "failed", "Please report it.", numbers)
        if not changed > 0:
            return Finding("weight 1 changes nothing", "failed", "Tokens do not reach the model.", numbers)
        return Finding(f"the same bits at 0; weight 1 changes {changed:.2g}", numbers=numbers)

    return Check(
        "embedded",
        "DEADiff in a MODEL",
        "Sampling of the embedded model that listens to tokens, at weight 0 and 1, beside plain sampling.",
        "the same bits at weight 0, others at 1",
        "an edit is a value in a clone; nothing shared is changed",
        run,
    )


if TYPE_CHECKING:
    _: type[Describer] = ComfyDescriber
