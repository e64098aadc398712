"""L-CAD as ComfyUI's MODEL and CLIP and as an LCAD_VAE under its model manager, and where its files are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import folder_paths
import torch
from torch import Tensor

from ... import demo
from ...color import resize
from ...files.ldm import clip_sizes, listed, unet_config
from ...files.tensors import reading
from ...networks.embedded.words import HashedWords
from ...networks.lcad.load import read_lcad
from ...networks.lcad.model import LCADAutoencoder, working_bytes
from ...pipelines.lcad import BatchSettings, LoadSettings, prepare
from ...pipelines.recommended import read_recommended
from .embedded import load_clip as load_words
from .embedded import load_unet as load_embedded_unet
from .folders import LCAD
from .lcad_instances import reuse_logits
from .managed import ManagedNetwork, clip_options, reloadable
from .recommended import recommend
from .runs import stop_if_canceled
from .unet import build_model, model_config, unet_options

log = logging.getLogger(__name__)

#: Under which key a condition carries the gray features, (B or 1, G, h, w).
GRAY_KEY = "exemplar_gray_features"

#: Under which key a LATENT carries a :class:`GrayPicture`.
PICTURE_KEY = "exemplar_gray_picture"


class LCADModel(comfy.model_base.BaseModel):
    """ComfyUI's own diffusion model, whose first convolution reads gray features beside the latent.

    The features travel with the conditions, so that every sampler, LoRA and guider works as with any other model.
    """

    def concat_cond(self, **kwargs: Any) -> Tensor:
        """(B or 1, G, h, w) from the condition, which ComfyUI puts behind the latent's channels.

        :raises ValueError: a condition without gray features, or with those of another model or another size.
        """
        noise, gray = kwargs["noise"], kwargs.get(GRAY_KEY)
        if gray is None:
            raise ValueError(
                "L-CAD: positive and negative: found prompts without a gray picture, expected those of L-CAD "
                "Condition; put it between the prompts and the sampler, for both."
            )
        first = self.diffusion_model.input_blocks[0][0].weight.shape[1]
        if gray.shape[1] + noise.shape[1] != first:
            raise ValueError(
                f"L-CAD Condition: lcad_vae: found gray features of {gray.shape[1]} channels, expected "
                f"{first - noise.shape[1]} for this MODEL; connect the lcad_vae of the same Load L-CAD."
            )
        if gray.shape[-2:] != noise.shape[-2:]:
            raise ValueError(
                f"L-CAD: latent: found one of {noise.shape[-1]} x {noise.shape[-2]}, expected {gray.shape[-1]} x "
                f"{gray.shape[-2]} as the gray features have; connect the latent of L-CAD Condition to the sampler."
            )
        return gray.to(kwargs["device"])


@dataclass(frozen=True, eq=False)
class GrayPicture:
    """A gray picture that was encoded, with the maps that decoding needs. It travels inside a LATENT.

    :param image: (B, H, W, 3), as the user gave it.
    :param maps: the gray encoder's, fine to coarse, on ComfyUI's intermediate device.
    :param made_by: the LCAD_VAE that encoded it.
    """

    image: Tensor
    maps: tuple[Tensor, ...]
    made_by: ComfyLCADVAE

    @property
    def features(self) -> Tensor:
        """(B, G, h, w), what the UNet reads."""
        return self.maps[-1]


class ComfyLCADVAE(ManagedNetwork):
    """Gray encoder and guided decoder that ComfyUI loads, offloads and counts. This is the type LCAD_VAE.

    :param multiple: pixels that a picture's sides should be multiples of, so that no level of the UNet has to round.
    :param name: the file's name.
    :param recommended: settings that the file recommends for L-CAD.
    """

    def __init__(
        self, autoencoder: LCADAutoencoder, multiple: int, name: str, recommended: Mapping[str, Any] | None = None
    ) -> None:
        mm = comfy.model_management
        self.multiple, self.name, self.recommended = multiple, name, dict(recommended or {})
        device = mm.vae_device()
        dtype = mm.vae_dtype(device, [torch.bfloat16, torch.float32])
        super().__init__(autoencoder.to(dtype), device, mm.vae_offload_device())

    @property
    def factor(self) -> int:
        """Pixels a latent covers."""
        return self.network.sizes.factor

    @property
    def channels(self) -> int:
        """Channels of the latent."""
        return self.network.sizes.latent

    def conditions(self, image: Tensor, settings: BatchSettings) -> tuple[GrayPicture, dict[str, Any]]:
        """What a sampling needs of gray pictures: them encoded, and the empty LATENT of their size, which carries them.

        :param image: (B, H, W, 3) in 0..1.
        """
        gray = self.encode(image, lambda frame: prepare(frame, settings, self.multiple, self.factor))
        height, width = gray.features.shape[-2:]
        count = len(image) * settings.variations
        samples = torch.zeros(count, self.channels, height, width, device=gray.features.device)
        log.info("L-CAD works at %d x %d pixels.", width * self.factor, height * self.factor)
        return gray, {"samples": samples, PICTURE_KEY: gray}

    def encode(self, image: Tensor, prepared: Callable[[Tensor], Tensor]) -> GrayPicture:
        """Encode pictures, one after the other.

        :param image: (B, H, W, 3) in 0..1, which goes along.
        :param prepared: (1, H, W, 3) -> (1, h, w, 3) in 0..1, sides multiples of ``factor``.
        """
        keep, encoded = comfy.model_management.intermediate_device(), []
        for frame in self._frames(image):
            small = prepared(frame[None])
            if not encoded:
                self._make_room(*small.shape[1:3])
            encoded.append([level.to(keep) for level in self.network.encode(small)])
        return GrayPicture(image, tuple(torch.cat(level) for level in zip(*encoded, strict=True)), self)

    def gray_for(self, latent: dict[str, Any], image: Tensor) -> GrayPicture:
        """The encoded picture that a LATENT carries, if it is this picture's at this size; else it is encoded now.

        :raises ValueError: a latent with other channels.
        """
        samples, carried = latent["samples"], latent.get(PICTURE_KEY)
        if samples.shape[1] != self.channels:
            raise ValueError(
                f"latent: found one of {samples.shape[1]} channels, expected {self.channels} for {self.name}; sample "
                "it with the model of the same Load L-CAD."
            )
        if (
            carried is not None
            and carried.made_by is self
            and carried.features.shape[-2:] == samples.shape[-2:]
            and carried.image.shape == image.shape
            and torch.equal(carried.image, image)
        ):
            return carried
        size = (samples.shape[-2] * self.factor, samples.shape[-1] * self.factor)
        return self.encode(image, lambda frame: resize(frame, size))

    def decode(self, latent: Tensor, gray: GrayPicture) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, H, W, 3) in 0..1; latent i belongs to gray i modulo their number."""
        self._make_room(*(side * self.factor for side in latent.shape[-2:]))
        device, keep = self.device, comfy.model_management.intermediate_device()
        decoded = []
        for index, one in enumerate(self._frames(latent)):
            maps = [level[index % len(level)][None].to(device) for level in gray.maps]
            decoded.append(self.network.decode(one[None].to(device), maps).to(keep))
        return torch.cat(decoded)

    def _frames(self, batch: Tensor) -> Iterator[Tensor]:
        for frame in batch:
            stop_if_canceled()
            yield frame

    def _make_room(self, height: int, width: int) -> None:
        element = next(self.network.parameters()).element_size()
        self.load(working_bytes(self.network.sizes, height, width, element))


def load(name: str, settings: LoadSettings | None = None) -> tuple[Any, Any, ComfyLCADVAE]:
    """(MODEL, CLIP, LCAD_VAE) of a file of the folders, by its name, or of the embedded one.

    :raises FileNotFoundError: no folder has it.
    :raises ValueError: it cannot be read as plain weights, or is not L-CAD's; the file is named.
    """
    model, clip, lcad_vae = load_file(LCAD.path(name, demo.lcad_path()))
    if settings is not None and settings.attention == "official":
        model = reuse_logits(model)
    return model, clip, lcad_vae


def load_file(path: Path, *, disable_dynamic: bool = False) -> tuple[Any, Any, ComfyLCADVAE]:
    """(MODEL, CLIP, LCAD_VAE) of a file; raises as :func:`load`.

    :param disable_dynamic: weights stay where they are, see :func:`.managed.reloadable`.
    """
    read, recommended = read_lcad(path), read_recommended(path)
    with reading(path, "give L-CAD's checkpoint"):
        if read.config is not None:
            model = load_embedded_unet(
                read.config, read.unet, read.autoencoder.base, LCADModel, paged=not disable_dynamic
            )
            words = HashedWords.from_state_dict(read.text, tokens=read.config["text"]["tokens"])
            clip = load_words(words, disable_dynamic=disable_dynamic)
        else:
            model = load_unet(read.unet, paged=not disable_dynamic)
            clip = load_text(read.text, disable_dynamic=disable_dynamic)
    recommend(model, recommended)
    reloadable(model, _reload, path, 0)
    reloadable(clip.patcher, _reload, path, 1)
    unet = model.get_model_object("diffusion_model")
    halvings = sum(type(module).__name__ == "Downsample" for block in unet.input_blocks for module in block)
    multiple = read.autoencoder.sizes.factor * 2**halvings
    return model, clip, ComfyLCADVAE(read.autoencoder, multiple, path.name, recommended.get("lcad"))


def _reload(path: Path, index: int, disable_dynamic: bool = False) -> Any:
    """The patcher of a file's MODEL or of its CLIP, fresh."""
    model, clip, _ = load_file(path, disable_dynamic=disable_dynamic)
    return (model, clip.patcher)[index]


def load_unet(weights: Mapping[str, Tensor], heads: int | None = None, *, paged: bool = True) -> Any:
    """A published UNet as a MODEL; sizes come from the tensors.

    :param weights: LDM names without prefix.
    :param heads: of every attention layer; default: Stable Diffusion 1.x's 8.
    :param paged: see :func:`.managed.managed`.
    :raises ValueError: not such a UNet, or incomplete.
    """
    config = model_config(unet_options(unet_config(weights, heads=heads)), model_class=LCADModel)
    return build_model(weights, config, "L-CAD's UNet", paged=paged)


def load_text(weights: Mapping[str, Tensor], *, disable_dynamic: bool = False) -> Any:
    """A published text encoder as a CLIP, ComfyUI's own of Stable Diffusion 1.x.

    :param weights: transformers' names.
    :param disable_dynamic: weights stay where they are, see :func:`.managed.reloadable`.
    :raises ValueError: none, or tensors that are missing or unexpected, named.
    """
    if not weights:
        raise ValueError("the file has no text encoder (cond_stage_model.*): get the full checkpoint.")
    sizes = clip_sizes(weights, "cond_stage_model.transformer.")
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=sum(tensor.numel() for tensor in weights.values()),
        model_options={"clip_l_model_config": sizes},
        **clip_options(disable_dynamic),
    )
    index = "text_model.embeddings.position_ids"  # counts 0..76; not a weight
    absent, unexpected = clip.cond_stage_model.load_sd({name: t for name, t in weights.items() if name != index})
    absent = [name for name in absent if name != "text_projection.weight"]  # Stable Diffusion 1.x has none
    if absent or unexpected:
        raise ValueError(
            f"text encoder: missing {listed(absent)}, unexpected {listed(unexpected)}: the file is incomplete or "
            "another model's; get the original one."
        )
    return clip


def with_gray(conditioning: list, gray: Tensor) -> list:
    """A copy of a CONDITIONING whose entries all carry gray features."""
    return [[text, {**extra, GRAY_KEY: gray}] for text, extra in conditioning]
