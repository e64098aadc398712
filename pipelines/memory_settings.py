"""What a user can choose of color memories."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..memory.keys import Precision
from ..settings import Settings, setting, share, shown

#: Largest weight of a reference or a memory: beyond it the others are as good as not there.
MOST_WEIGHT = 1000.0
#: Colors that can be listed by hand.
MOST_COLORS = 256


@dataclass(frozen=True)
class FeatureSettings(Settings):
    """Where a network is looked into. A memory remembers them, and is asked with the same.

    The embedded model's values were chosen on a development split and stand in its file. For Stable Diffusion no
    released weights were at hand: there the layers are chosen by depth and kind. ``match`` is of the coarser of the two
    finest decoder resolutions that have attention the last block, of the finest the first two, and of a stack its last
    transformer: ``output.8-10`` on SD 1.x and 2.x, ``output.2.9, output.3.1, output.4.1`` on SDXL. Temperatures are 1,
    the mean of the layers' own logits; the level is the lowest but one, where the paper's inversion begins. SDXL is
    looked into at 1024, its own size.
    """

    layers: str = setting(
        "match",
        "Layers whose attention matches places. match is, of a UNet, one coarse and two fine ones of the decoder, of a "
        "transformer three around the middle, of a vision encoder the last block but one. Others are presets (color, "
        "fine, coarse, decoder; early, middle, late) or ranges such as output.8-10, double.8-10, block.18. More layers "
        "make a memory larger; coarser ones go more by meaning and less by place.",
        advanced=True,
    )
    timestep: int = setting(
        1,
        "Noise level at which the network is read, as a training timestep; no noise is added. Low sees the picture "
        "sharply; high leaves the network more to guess and matches in larger patches. A vision encoder has none.",
        low=0,
        high=999,
        advanced=True,
        auto=True,
    )
    context: float = share(
        0.5,
        "How much of the places around is seen in each place. 0 looks at each place alone and keeps fine detail apart; "
        "1 sees three by three places as one, which is steadier inside things and mixes neighbors.",
        advanced=True,
        auto=True,
    )
    resolution: int = setting(
        512,
        "The network sees pictures at the area of a square with this side, in their own proportions; best is what it "
        "was trained for. Low is fast and coarse; high gives more entries and finer color. 0 is the pictures' own "
        "size.",
        low=0,
        high=4096,
        step=8,
        auto=True,
    )
    positions: Literal["without", "with"] = setting(
        "without",
        "For transformers whose attention knows positions (Flux, Qwen-Image, Z-Image, Anima). without matches by what "
        "places look like; with also by where they are, which suits pictures of one scene in one pose. Other models do "
        "not feel it.",
        advanced=True,
        later=True,
    )


@dataclass(frozen=True)
class WritingSettings(Settings):
    """How references, strokes and palettes are written into a memory."""

    features: FeatureSettings = field(default_factory=FeatureSettings)
    keys: Precision = setting(
        "float16",
        "How a memory stores what places look like. float16 and int8 take a half and a quarter of float32's space, at "
        "no difference that we could measure.",
        advanced=True,
    )


def _temperature(layers: str) -> Any:
    """The setting of how sharply some layers choose."""
    return setting(
        1.0,
        f"Of the {layers} layers. Low lets each place take the color of its best match, high blends many matches and "
        "fades.",
        low=0.05,
        high=20.0,
        step=0.05,
        round=0.001,
        advanced=True,
        auto=True,
    )


@dataclass(frozen=True)
class MemorySettings(Settings):
    """How a memory is asked, and what becomes of its answer."""

    features: FeatureSettings = field(default_factory=FeatureSettings)
    temperature_coarse: float = _temperature("coarse")
    temperature_fine: float = _temperature("fine")
    coherence: float = share(
        0.5,
        "How far places of the picture that look alike to the network take the same color. 0 leaves each place with "
        "what it found by itself; 1 is calmest inside things and may wash out small ones.",
        advanced=True,
        auto=True,
    )
    top: int = setting(
        0,
        "How many entries a place may take color from: few keep colors full and hard, many blend them. 0 is all of "
        "them, which is fastest.",
        low=0,
        high=4096,
        advanced=True,
    )
    most: int = setting(
        8192,
        "How many entries of a large memory each picture asks; a coarse look chooses them. Low is fast with many "
        "references and may miss small things; 0 asks all, whose time grows with the memory.",
        low=0,
        high=10_000_000,
        advanced=True,
    )
    saturation: float = setting(
        1.0,
        "Colorfulness. 0 is gray, 1 is as it was found, above 1 is stronger; blending matches pales colors a little, "
        "which a value slightly above 1 makes up for. Strokes keep their own on their picture.",
        low=0.0,
        high=2.0,
        step=0.05,
        round=0.001,
        auto=True,
    )
    reach: float = setting(
        3.0,
        "How far a stroke flows on its own picture where no edge stops it, in longest sides of the picture. 0 colors "
        "the painted places only; high fills whole grounds.",
        low=0.0,
        high=10.0,
        step=0.05,
        round=0.001,
        advanced=True,
    )
    fallback_below: float = share(
        0.3,
        "Where the memory is less sure than this, the fallback's colors are used, if there is one: 0 never uses them, "
        "1 nearly everywhere. The confidence mask shows how sure it is.",
        advanced=True,
    )
    agreement: float = setting(
        0.0,
        "With several references: how far a region takes its color from the same one. 0 lets each place choose by "
        "itself; high keeps references that show something else from mixing in, and may miss small things that only "
        "one of them has.",
        low=0.0,
        high=20.0,
        step=0.1,
        round=0.001,
        advanced=True,
        auto=True,
        later=True,
    )
    batch: int = setting(
        8,
        "Most pictures in one model call. Low saves memory, high is faster on a GPU. Halved by itself when memory runs "
        "out.",
        low=1,
        high=256,
        advanced=True,
    )


@dataclass(frozen=True)
class MethodSettings(Settings):
    """By which method a picture is colored."""

    method: Literal["attention", "memory"] = setting(
        "attention",
        "attention is the published method: inversion and guided sampling. memory reads input and reference in one "
        "model call and carries colors over, at a fraction of the cost; with it the settings of sampling do "
        "nothing, and there are no inversions.",
        advanced=True,
        later=True,
    )


@dataclass(frozen=True)
class ShareSettings(Settings):
    """How much each of several things counts."""

    weights: str = setting(
        "",
        "How much each counts beside the others, in their order: numbers above 0, separated by commas, such as 1, 0.5. "
        "Empty counts all alike.",
        advanced=True,
    )

    @property
    def numbers(self) -> tuple[float, ...]:
        """The weights; () where all count alike.

        :raises ValueError: something else than numbers above 0.
        """
        try:
            found = tuple(float(word) for word in self.weights.replace(";", ",").split(",") if word.strip())
        except ValueError:
            found = (0.0,)
        if not all(0 < number <= MOST_WEIGHT for number in found):
            raise ValueError(
                f"weights: found {shown(self.weights)}, expected numbers above 0 and up to {MOST_WEIGHT:g}, separated "
                "by commas; leave out what is not to count."
            )
        return found


@dataclass(frozen=True)
class PaletteSettings(Settings):
    """Which colors a palette has."""

    colors: str = setting(
        "",
        "Colors as on the web, #c8102e or c8102e, separated by spaces, commas or lines. They come beside those of the "
        "picture, if one is connected.",
        multiline=True,
    )
    by_lightness: bool = setting(
        False,
        "On, each color holds only for places about as light as itself: dark places take the dark colors, light ones "
        "the light. Off, every color may be anywhere.",
    )

    @property
    def listed(self) -> Tensor | None:
        """(1, 1, P, 3) in 0..1: the colors as a picture one pixel high; None where there are none.

        :raises ValueError: something else than colors.
        """
        words = [word for word in re.split(r"[\s,;]+", self.colors) if word]
        for word in words:
            if re.fullmatch(r"#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})", word) is None:
                raise ValueError(f"colors: found {shown(word)}, expected colors such as #c8102e; write them so.")
        if len(words) > MOST_COLORS:
            raise ValueError(f"colors: found {len(words)}, expected at most {MOST_COLORS}; connect a picture of them.")
        digits = [word.lstrip("#") for word in words]
        digits = ["".join(2 * each for each in word) if len(word) == 3 else word for word in digits]
        bytes_of = [[int(word[i : i + 2], 16) for i in (0, 2, 4)] for word in digits]
        return torch.tensor(bytes_of).float()[None, None] / 255 if bytes_of else None


@dataclass(frozen=True)
class SaveMemorySettings(Settings):
    """Where a memory is saved."""

    filename_prefix: str = setting(
        "color_memories/memory",
        "Name of the file within ComfyUI's output folder; a number is put behind it, so that no file is replaced. Load "
        "Color Memory lists what is in color_memories.",
    )
