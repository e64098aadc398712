"""Color from words by L-CAD (Chang et al., NeurIPS 2023), on any host.

    gray picture --luminance--> gray encoder --last map--> UNet, beside the noisy latent; words by cross-attention
                                             --all maps--> decoder --picture--> its colors on the gray picture's
                                             lightness

The published program squeezes every picture into a square of 256 pixels; that is ``official square``. Ours keeps the
proportions. Descriptions may be full, partial or empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..attention.instances import Instance, InstanceSettings
from ..color import as_picture, merge_luminance, resize
from ..color.merge import Gamut, Upsampling
from ..color.sizes import size_of, working_size
from ..diffusion.schedule import rescale, sampling_sigmas
from ..networks.lcad.model import OFFICIAL_SIDE, official_square
from ..settings import Settings, setting, share

Shape = Literal["aspect", "official square"]


class LCADHost(Protocol):
    """What the pipeline asks of a loaded L-CAD."""

    @property
    def sigma_table(self) -> Tensor:
        """(train timesteps,) ascending training sigmas."""
        ...

    @property
    def channels(self) -> int:
        """Channels of the latent."""
        ...

    @property
    def factor(self) -> int:
        """Pixels a latent covers."""
        ...

    @property
    def multiple(self) -> int:
        """Sides in pixels are best multiples of this: then no level of the UNet has to round."""
        ...

    @property
    def recommended(self) -> Mapping[str, Any]:
        """Settings that the file recommends for L-CAD."""
        ...

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """(1, H, W, 3) in 0..1 -> the gray maps."""
        ...

    def phrase_places(self, prompt: str, phrases: Sequence[str]) -> tuple[list[tuple[int, ...]], int]:
        """Places of phrases in a prompt's context, and its length.

        :raises ValueError: phrases that it lacks.
        """
        ...

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
        """DDIM sampling with the gray encoder's last map; ``x`` at ``sigmas[0]`` -> at ``sigmas[-1]``."""
        ...

    def decode(self, latent: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(B, C, h, w) in the UNet's scale -> (B, H, W, 3) in 0..1."""
        ...


@dataclass(frozen=True)
class LoadSettings(Settings):
    """How an L-CAD model attends."""

    attention: Literal["fresh", "official"] = setting(
        "fresh",
        "fresh lets every step attend for itself. official uses the attention of each odd step again in the step after "
        "it, as the published program does, a defect by all signs: for comparing with its results.",
        published="official",
        advanced=True,
    )


@dataclass(frozen=True)
class ConditionSettings(Settings):
    """How the gray picture is shown to the networks."""

    resolution: int = setting(
        OFFICIAL_SIDE,
        "The networks work at the area of a square with this side, in the picture's proportions. Low: fast, coarse "
        "areas of color. High: slow, and far above what the model was trained at colors get patchy. 0 is the picture's "
        "own size.",
        low=0,
        high=2048,
        step=16,
        auto=True,
    )
    shape: Shape = setting(
        "aspect",
        "aspect keeps the picture's proportions; official square squeezes it into a square, in 8 bits, as the "
        "published program does.",
        published="official square",
        advanced=True,
    )


@dataclass(frozen=True)
class BatchSettings(ConditionSettings):
    """The same for several colorings at once."""

    variations: int = setting(
        1, "How many colorings of each picture to sample at once; more take more memory.", low=1, high=64
    )


@dataclass(frozen=True)
class DecodeSettings(Settings):
    """How the decoder's picture and the gray one come together."""

    exact_luminance: float = share(
        1.0,
        "0 takes the decoder's picture, with its small errors of lightness; 1 puts its colors on exactly the gray "
        "picture's lightness, at full sharpness; between mixes the two.",
        published=0.0,
    )
    upsampling: Upsampling = setting(
        "guided",
        "How colors come to a larger picture's size: guided lets them follow its edges, smooth blurs across them. Only "
        "for exact luminance.",
        advanced=True,
    )
    gamut: Gamut = setting(
        "fit",
        "Colors that no screen can show: fit makes them paler at the same lightness and hue; clip cuts each channel, "
        "which changes lightness. Only for exact luminance.",
        advanced=True,
    )


@dataclass(frozen=True)
class LCADSettings(DecodeSettings, ConditionSettings):
    """Everything a user can choose for a whole coloring."""

    steps: int = setting(
        50,
        "Steps of DDIM sampling. Low is quick and coarse, high slower and a little finer.",
        low=1,
        high=999,
        auto=True,
    )
    cfg: float = setting(
        4.5,
        "How much the words count. 1 is fastest and follows them loosely, high values make colors harsh.",
        low=0.0,
        high=100.0,
        step=0.1,
        round=0.001,
        auto=True,
        formerly="guidance",
    )
    convention: Literal["consistent", "official"] = setting(
        "consistent",
        "consistent samples down to noise level 0. official stops at the smallest trained noise level, as the "
        "published program does, which leaves a trace of noise.",
        published="official",
        advanced=True,
    )
    seed: int = setting(
        0, "Number of the noise that sampling starts from; another one colors otherwise.", low=0, high=2**63 - 1
    )


def prepare(image: Tensor, settings: ConditionSettings, multiple: int, factor: int) -> Tensor:
    """What the gray encoder gets: pictures at the size that the networks work at.

    :param image: (B, H, W, 3) in 0..1.
    :param multiple: as ``LCADHost.multiple``; ``factor`` too.
    :returns: (B, h, w, 3) in 0..1.
    """
    resolution = settings.resolution
    if settings.shape == "official square":
        side = resolution or max(image.shape[1:3])
        return official_square(image, max(multiple, round(side / multiple) * multiple))
    return resize(image, working_size(*size_of(image), resolution, multiple, factor))


def finish(decoded: Tensor, image: Tensor, settings: DecodeSettings) -> Tensor:
    """The decoder's pictures at the gray pictures' own size, with exactly their lightness if so chosen.

    :param decoded: (n, h, w, 3) in 0..1.
    :param image: (m, H, W, 3) in 0..1; decoded picture i belongs to picture i modulo m.
    :returns: (n, H, W, 3), on the CPU.
    """
    share = settings.exact_luminance
    image = image[[i % len(image) for i in range(len(decoded))]].to("cpu", torch.float32)
    decoded = decoded.to("cpu", torch.float32)
    if share == 0:
        return resize(decoded, size_of(image))
    merged = merge_luminance(decoded, image, upsampling=settings.upsampling, gamut=settings.gamut)
    return merged if share == 1 else torch.lerp(resize(decoded, size_of(image)), merged, share)


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
    :param settings: None is the file's recommendation, else the published program's.
    :param drawing: how firmly the phrases are drawn into their masks, and when; None is the default.
    :returns: (1, H, W, 3) at the picture's own size.
    :raises ValueError: a picture or settings that do not fit, before the networks run.
    """
    settings = settings or LCADSettings.resolve(host.recommended)
    image = as_picture(image, "image")
    places, length = host.phrase_places(prompt, [phrase for phrase, _ in regions]) if regions else ([], 0)
    drawing = (drawing or InstanceSettings()).scheduled(partial(_sigma_after, host.sigma_table))
    instances = [
        Instance(phrase, tokens, length, mask, drawing) for (phrase, mask), tokens in zip(regions, places, strict=True)
    ]
    prepared = prepare(image, settings, host.multiple, host.factor)
    maps = host.encode(prepared)
    sigmas = sampling_sigmas(host.sigma_table, settings.steps, settings.convention)
    size = (len(image), host.channels, *(side // host.factor for side in prepared.shape[1:3]))
    noise = torch.randn(size, generator=torch.Generator().manual_seed(settings.seed))
    x = rescale(noise, 0.0, float(sigmas[0]))
    end = host.sample(x, sigmas, maps[-1], prompt, negative, settings.cfg, instances)
    decoded = host.decode(rescale(end, float(sigmas[-1]), 0.0), maps)
    return finish(decoded, image, settings)


def _sigma_after(table: Tensor, percent: float) -> float:
    """Noise level after a share of the sampling; above all at 0, below all at 1.

    :param table: (train timesteps,) ascending training sigmas.
    """
    if percent <= 0:
        return float("inf")
    if percent >= 1:
        return 0.0
    place = torch.tensor((1 - percent) * (len(table) - 1))
    low, high = table.log()[int(place.floor())], table.log()[int(place.ceil())]
    return float(torch.lerp(low, high, place.frac()).exp())
