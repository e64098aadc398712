"""A checkpoint on disk -> everything that the diffusers host needs to run a method without ComfyUI.

Three kinds are read: the embedded model, a diffusers folder, and a single-file Stable Diffusion 1.x, 2.x or SDXL
checkpoint. Nothing is downloaded, no code in a file is run, every part is loaded strictly, and sizes come from the
file. The text encoders are run once, on the empty prompt (the only one that the methods here use), then dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...attention.constants import Constants
from ...files import headers, ldm
from ...files.tensors import digest, is_safetensors_inside, read_tensors, reading
from ...networks.embedded.parts import read_embedded
from ...pipelines.recommended import read_recommended
from . import folder
from . import text_encoders as text
from .codecs import Codec, KLCodec, LinearCodec, codec_of
from .folder import UNSUPPORTED
from .ldm import unet_from_ldm, vae_from_ldm
from .prediction import PREDICTIONS, Prediction, guess_prediction

__all__ = [
    "KLCodec",
    "LinearCodec",
    "StandaloneModel",
    "alphas_cumprod",
    "fingerprint",
    "load_standalone",
    "unet_from_ldm",
]

_SD_SCALE, _SDXL_SCALE = 0.18215, 0.13025


@dataclass(frozen=True, eq=False)
class StandaloneModel:
    """A loaded model and the constants of its diffusion.

    :param unet: diffusers UNet2DConditionModel in the asked dtype, eval mode, no gradients.
    :param vae: codec with ``encode``, ``decode``, ``factor`` (pixels per latent), ``channels`` and ``scale``. Its
        pictures' sides must be multiples of ``factor``; the caller sees to that.
    :param alphas_cumprod: (training steps,), float32, computed in float64; on the CPU, whose numbers cost nothing.
    :param prediction: "epsilon" or "v_prediction".
    :param context: (1, tokens, width), the empty prompt, in the UNet's dtype.
    :param added: {"text_embeds": (1, P)} for SDXL, else None; see :meth:`added_conditions`.
    :param name: the file's or folder's name.
    :param recommended: system -> settings that the file recommends; {} where it says nothing.
    :param fingerprint: 12 hexadecimal digits that identify the weights.
    """

    unet: Any
    vae: Codec
    alphas_cumprod: Tensor
    prediction: str
    context: Tensor
    added: dict[str, Tensor] | None
    name: str
    fingerprint: str
    recommended: dict[str, dict[str, Any]] = field(default_factory=dict)
    _sent: Constants = field(default_factory=Constants, repr=False)  # a few numbers a size, for as long as the model

    def added_conditions(self, batch: int, latent_size: Sequence[int]) -> dict[str, Tensor] | None:
        """SDXL's ``added_cond_kwargs`` for an uncropped picture with a latent of (rows, columns); None for others.

        ``text_embeds`` (batch, P) and ``time_ids`` (batch, 6) in pixels: original size, crop corner, target size, each
        rows first, which is SDXL's order. The ids stay float32: float16 cannot tell sizes above 2048 apart.
        """
        if self.added is None:
            return None
        pooled = self.added["text_embeds"]
        rows, columns = (int(side) * self.vae.factor for side in latent_size)
        numbers = [[float(number) for number in (rows, columns, 0, 0, rows, columns)]]
        ids = self._sent.on(pooled.device, lambda: torch.tensor(numbers), "size", rows, columns)
        return {"text_embeds": pooled.expand(batch, -1), "time_ids": ids.expand(batch, -1)}


def alphas_cumprod(
    schedule: str = "scaled_linear",
    start: float = 0.00085,
    end: float = 0.012,
    steps: int = 1000,
    *,
    zero_terminal_snr: bool = False,
) -> Tensor:
    """ᾱ of the training schedule, (steps,) float32, computed in float64 as the LDM programs do.

    :param schedule: "scaled_linear" (β linear in its square root, Stable Diffusion) or "linear".
    :param zero_terminal_snr: shift sqrt(ᾱ) so that the last step is pure noise (Lin et al., arXiv 2305.08891). The
        last value is then ComfyUI's 4.9e-8 instead of 0, which has no finite sigma.
    """
    if schedule == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    elif schedule == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    else:
        raise ValueError(f"beta schedule {schedule!r} was found, scaled_linear or linear expected: {UNSUPPORTED}")
    alphas = torch.cumprod(1 - betas, dim=0)
    if zero_terminal_snr:
        roots = alphas.sqrt()
        alphas = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
        alphas[-1] = 4.8973451890853435e-08
    return alphas.float()


def fingerprint(first_convolution: Tensor, config: Mapping[str, Any]) -> str:
    """12 hexadecimal digits for a UNet: SHA-1 of its first convolution's weights, rounded to float16, and its sizes.

    The rounding makes it the same for the float16 and float32 copies of a model, and only sizes that every source
    states alike take part, so that it is the same for the folder and the single file.
    """
    sizes = {key: config[key] for key in ("in_channels", "out_channels", "block_out_channels", "cross_attention_dim")}
    return digest(first_convolution, json.dumps(sizes, sort_keys=True))


def load_standalone(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    prediction: Prediction = "auto",
    vae: Path | None = None,
) -> StandaloneModel:
    """Load the embedded model, a diffusers folder, or a single-file SD 1.x, 2.x or SDXL checkpoint.

    :param path: a .safetensors, .ckpt, .pt, .pth or .bin file, or a folder with ``unet/``, ``vae/``, ``text_encoder/``
        (SDXL: also ``text_encoder_2/``) and ``scheduler/``.
    :param dtype: of the UNet and the context. The VAE stays float32 when this is float16, which SDXL's overflows.
    :param prediction: what the UNet predicts; "auto" is what the file says or, where it says nothing, its layout.
    :param vae: folder or file of an autoencoder in the place of the model's own, see ``folder.load_own_vae``.
    :raises FileNotFoundError: there is no such file.
    :raises ValueError: the file is another model's or is incomplete; the message says what was found.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a checkpoint file or a diffusers folder.")
    if path.is_dir():
        loaded = _load_folder(path, torch.device(device))
    elif headers.is_embedded(path):
        loaded = _load_embedded(path, torch.device(device))
    else:
        loaded = _load_single_file(path, torch.device(device))
    unet, context, added = loaded["unet"], loaded["context"], loaded["added"]
    channels = (unet.config.in_channels, unet.config.out_channels, loaded["vae"].channels)
    if len(set(channels)) != 1:
        raise ValueError(
            f"{path}: the UNet reads {channels[0]} and writes {channels[1]} channels but the VAE has {channels[2]} (an "
            f"inpainting, editing or upscaling model?); {UNSUPPORTED}"
        )
    if context.shape[-1] != unet.config.cross_attention_dim:
        raise ValueError(
            f"{path}: the text encoder is {context.shape[-1]} wide but the UNet expects "
            f"{unet.config.cross_attention_dim}: the parts are from different models; get the full checkpoint."
        )
    _check_conditions(path, unet.config, added)
    identity = fingerprint(unet.conv_in.weight, unet.config)  # before the cast: bfloat16 would change it
    ldm.place(unet, device=device, dtype=dtype)
    if vae is not None:
        loaded["vae"] = _other_codec(vae, loaded["vae"])
    ldm.place(loaded["vae"].module, device=device, dtype=torch.float32 if dtype == torch.float16 else dtype)
    if added is not None and "recommended" not in loaded:
        loaded["recommended"] = ldm.native_recommendation("sdxl")
    if prediction != "auto":
        loaded["prediction"] = PREDICTIONS[prediction]
    loaded["context"] = context.to(device=device, dtype=dtype)
    loaded["added"] = added and {key: value.to(device=device, dtype=dtype) for key, value in added.items()}
    return StandaloneModel(**loaded, name=path.stem if path.is_file() else path.resolve().name, fingerprint=identity)


def _other_codec(place: Path, own: Codec) -> Codec:
    """An autoencoder in the place of a model's own.

    :raises ValueError: its latents are not those of the model.
    """
    codec = codec_of(folder.load_own_vae(place))
    if (codec.channels, codec.factor) != (own.channels, own.factor):
        raise ValueError(
            f"{place}: found a VAE of {codec.channels} channels and {codec.factor} pixels a latent, expected "
            f"{own.channels} and {own.factor}, as the model's own has; name one that is made for this model."
        )
    return codec


def _check_conditions(path: Path, config: Any, added: dict[str, Tensor] | None) -> None:
    """Refuse UNets that need inputs which no supported model has."""
    kind = config.get("addition_embed_type")
    if (kind is None) != (added is None):
        raise ValueError(
            f"{path}: the UNet {'takes' if kind else 'does not take'} SDXL's conditions but {'no' if kind else 'a'} "
            f"second text encoder was found: the parts are from different models; {UNSUPPORTED}"
        )
    if added is not None:
        width = config["projection_class_embeddings_input_dim"]
        pooled, time_ids = added["text_embeds"].shape[-1], 6 * (config["addition_time_embed_dim"] or 0)
        if width != pooled + time_ids:
            raise ValueError(
                f"{path}: the UNet's added conditions are {width} wide, SDXL's are {pooled} + {time_ids} (is this the "
                f"refiner?); {UNSUPPORTED}"
            )


def _load_embedded(path: Path, device: torch.device) -> dict[str, Any]:
    """The pack's own file; its header says what no shape does (heads, norm groups, schedule)."""
    read, recommended = read_embedded(path), read_recommended(path)
    config = read.config
    with reading(path, "reinstall the pack to restore it"):
        unet = embedded_unet(config, read.unet, "UNet")
    return {
        "unet": unet,
        "vae": LinearCodec(read.autoencoder, config["latent"]["scale_factor"]),
        "alphas_cumprod": embedded_alphas(config),
        "prediction": config["schedule"]["prediction"],
        "context": read.words.encode([""]),
        "added": None,
        "recommended": recommended,
    }


def embedded_alphas(config: Mapping[str, Any]) -> Tensor:
    """:func:`alphas_cumprod` of an embedded file's configuration."""
    schedule = config["schedule"]
    return alphas_cumprod(schedule["type"], schedule["beta_start"], schedule["beta_end"], schedule["steps"])


def embedded_unet(config: Mapping[str, Any], weights: Mapping[str, Tensor], what: str) -> Any:
    """The UNet that an embedded file's configuration describes.

    :raises ValueError: its weights do not fit.
    """
    from diffusers import UNet2DConditionModel

    return ldm.build(lambda: UNet2DConditionModel(**config["unet"]), weights, what)


def _load_folder(path: Path, device: torch.device) -> dict[str, Any]:
    """A diffusers folder."""
    unet, vae = folder.load_unet(path), folder.load_vae(path)
    first, added = folder.load_text(path, "text_encoder", projection=False), None
    if (path / "text_encoder_2").is_dir():
        second = folder.load_text(path, "text_encoder_2", projection=True)
        context, added = text.encode_empty_sdxl(first, second, device)
    else:
        # OpenAI's CLIP (SD 1.x) and OpenCLIP (SD 2.x) differ in how they pad; their activation tells them apart.
        openai = first.config.hidden_act == "quick_gelu"
        context, _ = text.encode_empty(first, device, layer=None, pad_with_end=openai)
    scheduler = folder.read_scheduler(path)
    return {
        "unet": unet,
        "vae": KLCodec(vae),
        "alphas_cumprod": alphas_cumprod(
            scheduler["beta_schedule"],
            scheduler["beta_start"],
            scheduler["beta_end"],
            scheduler["num_train_timesteps"],
            zero_terminal_snr=scheduler["rescale_betas_zero_snr"],
        ),
        "prediction": scheduler["prediction_type"],
        "context": context,
        "added": added,
    }


def _metadata(path: Path) -> dict[str, str]:
    """What a single file's header says; {} for a pickle."""
    return headers.read_metadata(path) if is_safetensors_inside(path) else {}


def _load_single_file(path: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint in LDM naming; the text encoder's name tells the family."""
    tensors = read_tensors(path)
    if ldm.UNET + "input_blocks.0.0.weight" not in tensors:
        raise ValueError(f"{path} holds {ldm.describe(tensors)} ({len(tensors)} tensors); {UNSUPPORTED}")
    edm = [name for name in ("edm_mean", "edm_vpred.sigma_max") if name in tensors]
    if edm:
        raise ValueError(f"{path} is an EDM model ({edm[0]} found), which has other noise levels; {UNSUPPORTED}")

    added = None
    try:
        refined = any(name.startswith(ldm.UNET + "label_emb.") for name in tensors)
        known = ldm.text_family(tensors)
        if refined and known is not None and known[0] == "sd2":
            raise ValueError(f"an SDXL refiner was found; {UNSUPPORTED}")
        family, encoders = text.text_encoders(tensors)
        if family == "sdxl":
            context, added = text.encode_empty_sdxl(*encoders, device)
        else:
            context, _ = text.encode_empty(encoders[0], device, layer=None, pad_with_end=family == "sd1")
        return {
            "unet": unet_from_ldm(tensors, dtype=None),
            "vae": KLCodec(vae_from_ldm(tensors, _SDXL_SCALE if family == "sdxl" else _SD_SCALE)),
            "alphas_cumprod": alphas_cumprod(zero_terminal_snr="ztsnr" in tensors),
            "prediction": guess_prediction(tensors, _metadata(path)),
            "context": context,
            "added": added,
        }
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
