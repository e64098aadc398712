"""Color from words by L-CAD (Chang et al., NeurIPS 2023), on any host.

    gray picture --luminance--> gray encoder --last map--> UNet, beside the noisy latent; words by cross-attention
                                             --all maps--> decoder --picture--> its colors on the gray picture's
                                             lightness

The published program squeezes every picture into a square of 256 pixels; that is ``official square``. Ours keeps the
proportions. Descriptions may be full, partial or empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..attention.instances import Instance, InstanceSettings
from ..color import as_picture, merge_luminance, resize
from ..color.sizes import working_size
from ..diffusion.schedule import CONVENTIONS, rescale, sampling_sigmas
from ..networks.lcad.model import OFFICIAL_SIDE, official_square

SHAPES = ("aspect", "official square")


class LCADHost(Protocol):
    """What the pipeline asks of a loaded L-CAD."""

    #: (train timesteps,) ascending training sigmas.
    sigma_table: Tensor
    #: Channels of the latent, and pixels that one covers.
    channels: int
    factor: int
    #: Sides in pixels are best multiples of this: then no level of the UNet has to round.
    multiple: int

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """(1, H, W, 3) in 0..1 -> the gray maps."""

    def phrase_places(self, prompt: str, phrases: Sequence[str]) -> tuple[list[tuple[int, ...]], int]:
        """Places of phrases in a prompt's context, and its length; raises ValueError for those that it lacks."""

    def sample(
        self,
        x: Tensor,
        sigmas: Tensor,
        gray: Tensor,
        prompt: str,
        negative: str,
        guidance: float,
        instances: Sequence[Instance] = (),
    ) -> Tensor:
        """DDIM sampling with the gray encoder's last map; ``x`` at ``sigmas[0]`` -> at ``sigmas[-1]``."""

    def decode(self, latent: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(B, C, h, w) in the UNet's scale -> (B, H, W, 3) in 0..1."""


@dataclass(frozen=True)
class LCADSettings:
    """Everything a user can choose. Defaults are the published program's, but for shape and the last step.

    :param steps: DDIM steps.
    :param guidance: how much the words count; 1 runs half the rows and follows them loosely.
    :param resolution: side of the square whose area the networks work at; 0 keeps the picture's own size.
    :param shape: ``aspect`` keeps the picture's proportions, ``official square`` squeezes it into a square.
    :param convention: where sampling ends, see ``diffusion.schedule.sampling_sigmas``.
    :param exact_luminance: 1 puts the colors on the picture's own lightness, 0 takes the decoder's picture.
    :param seed: of the noise.
    """

    steps: int = 50
    guidance: float = 4.5
    resolution: int = OFFICIAL_SIDE
    shape: str = SHAPES[0]
    convention: str = CONVENTIONS[0]
    exact_luminance: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("shape", SHAPES), ("convention", CONVENTIONS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is '{getattr(self, name)}'; expected one of {', '.join(allowed)}.")
        if self.steps < 1 or self.resolution < 0 or self.guidance < 0:
            raise ValueError(
                f"steps is {self.steps}, resolution {self.resolution}, guidance {self.guidance}; steps must be above "
                f"0, the "
                "others not below."
            )
        if not 0 <= self.exact_luminance <= 1:
            raise ValueError(f"exact_luminance is {self.exact_luminance}; it must lie between 0 and 1.")


def prepare(image: Tensor, resolution: int, shape: str, multiple: int, factor: int) -> Tensor:
    """What the gray encoder gets: pictures at the size that the networks work at.

    :param image: (B, H, W, 3) in 0..1.
    :param multiple: as ``LCADHost.multiple``; ``factor`` too.
    :returns: (B, h, w, 3) in 0..1.
    """
    if shape == SHAPES[1]:
        side = resolution or max(image.shape[1:3])
        return official_square(image, max(multiple, round(side / multiple) * multiple))
    return resize(image, working_size(*image.shape[1:3], resolution, multiple, factor))


def finish(
    decoded: Tensor, image: Tensor, exact_luminance: float = 1.0, *, upsampling: str = "guided", gamut: str = "fit"
) -> Tensor:
    """The decoder's pictures at the gray pictures' own size, if wanted with exactly their lightness.

    :param decoded: (n, h, w, 3) in 0..1.
    :param image: (m, H, W, 3) in 0..1; decoded picture i belongs to picture i modulo m.
    :param exact_luminance: 1 takes over the lightness (``color.merge``), 0 keeps the decoder's, between mixes the two.
    :returns: (n, H, W, 3), on the CPU.
    """
    image = image[[i % len(image) for i in range(len(decoded))]].to("cpu", torch.float32)
    decoded = decoded.to("cpu", torch.float32)
    plain = resize(decoded, tuple(image.shape[1:3])) if exact_luminance < 1 else None
    if exact_luminance == 0:
        return plain
    merged = merge_luminance(decoded, image, upsampling=upsampling, gamut=gamut)
    return merged if plain is None else torch.lerp(plain, merged, exact_luminance)


def describe(
    host: LCADHost,
    image: Tensor,
    prompt: str = "",
    settings: LCADSettings | None = None,
    *,
    negative: str = "",
    regions: Sequence[tuple[str, Tensor]] = (),
    drawing: InstanceSettings | None = None,
) -> Tensor:
    """Color a gray picture by words; without any the colors are the model's own choice.

    :param image: (1, H, W, 3) in 0..1; only luminance is used.
    :param regions: phrases as they stand in the prompt, each with a mask (1, H, W) in 0..1 where its colors belong.
    :param drawing: how firmly, and when (``attention.instances``); None is its default.
    :returns: (1, H, W, 3) at the picture's own size.
    :raises ValueError: a picture or settings that do not fit, before the networks run.
    """
    settings = settings or LCADSettings()
    image = as_picture(image, "image")
    places, length = host.phrase_places(prompt, [phrase for phrase, _ in regions]) if regions else ([], 0)
    instances = [
        Instance(phrase, at, length, mask, drawing or InstanceSettings())
        for (phrase, mask), at in zip(regions, places, strict=True)
    ]
    prepared = prepare(image, settings.resolution, settings.shape, host.multiple, host.factor)
    maps = host.encode(prepared)
    sigmas = sampling_sigmas(host.sigma_table, settings.steps, settings.convention)
    size = (len(image), host.channels, *(side // host.factor for side in prepared.shape[1:3]))
    noise = torch.randn(size, generator=torch.Generator().manual_seed(settings.seed))
    x = rescale(noise, 0.0, float(sigmas[0]))
    end = host.sample(x, sigmas, maps[-1], prompt, negative, settings.guidance, instances)
    decoded = host.decode(rescale(end, float(sigmas[-1]), 0.0), maps)
    return finish(decoded, image, settings.exact_luminance)
