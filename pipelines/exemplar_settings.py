"""What a user can choose of exemplar colorization."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..attention.capture import StorageSettings
from ..attention.dual_settings import DualAttentionSettings
from ..settings import Settings, setting, share
from .memory_settings import ShareSettings


def _resolution() -> int:
    return setting(
        512,
        "The model works at the area of a square with this side, in the picture's own proportions; best is what it was "
        "trained for. Low is fast and calm, high gives more detail and doubled or scattered color. 0 works at the "
        "pictures' own size. Color is taken back to the picture's size afterwards.",
        low=0,
        high=4096,
        step=8,
        auto=True,
    )


@dataclass(frozen=True)
class WorkingSizeSettings(Settings):
    """The size that pictures are worked on at."""

    resolution: int = _resolution()


@dataclass(frozen=True)
class ColorizeSettings(Settings):
    """Everything a user can choose; the defaults are the paper's, for Stable Diffusion."""

    guidance: float = setting(
        10.0,
        "w, the weight of colorization guidance. 0 samples without the injection; 1 is the plain injection at half the "
        "cost. Higher amplifies what the reference changes and gives fuller colors; far above what the model "
        "recommends colors bleed.",
        low=0.0,
        high=100.0,
        step=0.5,
        round=0.01,
        auto=True,
    )
    passes: int = setting(
        3,
        "N, how often the picture is colored; before each pass after the first, the result so far is inverted again. 1 "
        "is fastest; more follow the reference more closely.",
        low=1,
        high=10,
        auto=True,
    )
    depth: int = setting(
        5,
        "T, how many steps of noise coloring may use. Low keeps to the input and changes little; high gives more color "
        "and more mistakes.",
        low=1,
        high=999,
        auto=True,
    )
    resolution: int = _resolution()
    match_chroma: float = share(
        1.0,
        "0 keeps the colors as the model draws them, 1 gives them the mean and spread of the reference's colors. Lower "
        "it when input and reference show different amounts of the same things.",
        auto=True,
    )
    match_latents: float = share(
        1.0,
        "1 starts from noise that has the reference's mean and spread in each channel (AdaIN), 0 from the input's own. "
        "Acts before the first pass only.",
        advanced=True,
        auto=True,
    )
    steps: int = setting(
        50,
        "Length of the whole schedule, of which the lowest depth steps are used. Low makes each step larger and "
        "coarser; high makes them smaller, so the same depth reaches less noise.",
        low=1,
        high=999,
        advanced=True,
        auto=True,
    )
    attention: DualAttentionSettings = field(default_factory=DualAttentionSettings)
    convention: Literal["consistent", "official"] = setting(
        "consistent",
        "consistent comes back down the levels that it went up; official repeats the published program's levels, see "
        "DDIM Inversion.",
        published="official",
        advanced=True,
    )
    refinements: int = setting(
        0,
        "Fixed-point iterations of the inversion. 0 is plain DDIM inversion; each one makes it truer and costs a model "
        "call a step. Needs the consistent convention.",
        low=0,
        high=10,
        advanced=True,
    )
    postprocess: Literal["exact", "official"] = setting(
        "exact",
        "exact merges in float at the input's own size. official repeats the published 8-bit arithmetic at working "
        "size, so the result has the working size; it needs OpenCV, always matches the reference's colors and ignores "
        "the mask in the merge.",
        published="official",
        advanced=True,
    )
    storage: StorageSettings = field(default_factory=StorageSettings)
    batch: int = setting(
        8,
        "Most pictures in one model call. Low saves memory, high is faster on a GPU. Halved by itself when memory runs "
        "out. With more pictures than this, input_inversion holds the first batch only.",
        low=1,
        high=256,
        advanced=True,
    )
    fallback_below: float = share(
        0.0,
        "Where the attention of the coarse layers is less sure of its match than this, the fallback's colors are used: "
        "0 never uses them, 1 nearly everywhere; 0.3 is a start. Confidence Blend shows the confidence. Needs a "
        "fallback and exact postprocessing; acts once, at the end.",
        advanced=True,
    )

    def inversion_calls(self) -> int:
        """Model calls of one inversion."""
        return (self.depth + (self.convention == "official")) * (1 + self.refinements)

    def model_calls(self, reference_ready: bool = False, one_size: bool = True) -> int:
        """How many model calls the flow makes, for progress bars.

        :param reference_ready: the reference is inverted already.
        :param one_size: input and reference are worked on at one size, so that their inversions share calls.
        """
        first = 1 if reference_ready or one_size else 2
        return self.inversion_calls() * (first + self.passes - 1) + self.depth * self.passes


@dataclass(frozen=True)
class ReferencesSettings(Settings):
    """Whether a batch of references is one for each input, or all of them for every input."""

    references: Literal["one per image", "all for every image"] = setting(
        "one per image",
        "What a batch of references is. one per image: a single reference serves all inputs, else each input has its "
        "own. all for every image: every input looks into all references at once and takes its colors from wherever it "
        "matches; each reference costs its own inversions, and sampling hardly more.",
        advanced=True,
        later=True,
    )
    weights: str = setting(
        "",
        "With all for every image, how much each reference counts beside the others, in their order: numbers above 0, "
        "separated by commas, such as 1, 0.5. Empty counts all alike.",
        advanced=True,
        later=True,
    )

    @property
    def together(self) -> bool:
        """Whether all references serve every input.

        :raises ValueError: weights where they would do nothing.
        """
        if self.references == "all for every image":
            return True
        if self.numbers:
            raise ValueError(
                "weights: found some, expected none with references on one per image, where each input has one "
                "reference; empty them, or set references to all for every image."
            )
        return False

    @property
    def numbers(self) -> tuple[float, ...]:
        """The weights; () where all count alike.

        :raises ValueError: something else than numbers above 0.
        """
        return ShareSettings(self.weights).numbers


@dataclass(frozen=True)
class PooledReferencesSettings(ReferencesSettings):
    """The same where only the references' statistics are taken."""

    references: Literal["one per image", "all for every image"] = setting(
        "one per image",
        "What a batch of references is. one per image: a single reference serves all inputs, else each input has its "
        "own. all for every image: every input takes the statistics of all references together.",
        advanced=True,
        later=True,
    )


@dataclass(frozen=True)
class SaveInversionSettings(Settings):
    """Where an inversion is saved."""

    filename_prefix: str = setting(
        "inversions/inversion",
        "Name of the file within ComfyUI's output folder; a number is put behind it, so that no file is replaced. Load "
        "Inversion lists what is in inversions.",
    )
