"""What the nodes share: type names, categories, small checks and progress."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from comfy_api.latest import io
from torch import Tensor

from ..color import is_gray
from ..hosts.comfy.runs import stop_if_canceled
from ..settings import Settings, setting

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

#: A batch of inverted pictures with the attention features that were kept (``diffusion.inversion.Inversion``).
Inversion = io.Custom("INVERSION")

#: Per-step unconditional contexts of an inverted picture (``diffusion.pivot.Pivots``).
Pivots = io.Custom("PIVOTS")

#: What places of pictures look like and which color they have (``memory.entries.ColorMemory``).
ColorMemory = io.Custom("COLOR_MEMORY")

#: What a network gives of pictures that are to be colored (``pipelines.memory_features.PictureFeatures``).
ColorFeatures = io.Custom("COLOR_FEATURES")

CATEGORY = "exemplar"
CATEGORY_COLOR = "exemplar/color"
CATEGORY_TRANSLATE = "exemplar/translate"
CATEGORY_MEMORY = "exemplar/memory"
CATEGORY_VIDEO = "exemplar/video"
CATEGORY_STAGES = "exemplar/stages"


def conditioning_input(tooltip: str) -> io.Input:
    """The prompt of a node that works best with the empty one.

    :param tooltip: what it is for, one sentence or more.
    """
    return io.Conditioning.Input(
        "conditioning",
        optional=True,
        tooltip=f"{tooltip} Left unconnected it is the empty prompt: by clip, or the embedded model's own.",
    )


def clip_input() -> io.Input:
    """What encodes the empty prompt where no conditioning is connected."""
    return io.Clip.Input(
        "clip",
        optional=True,
        tooltip="The CLIP of the same checkpoint, in the place of conditioning: it encodes the empty prompt. The "
        "embedded model needs neither.",
    )


@dataclass(frozen=True)
class WeightSettings(Settings):
    """How a network of the pack's own is loaded."""

    precision: Literal["float32", "bfloat16", "float16"] = setting(
        "float32",
        "float32 gives the published numbers. bfloat16 and float16 take half the memory and are faster on most GPUs; "
        "results differ a little. On a CPU keep float32.",
        advanced=True,
    )

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return getattr(torch, self.precision)


def depth_within_steps(depth: int | None, steps: int | None) -> bool | str:
    """ComfyUI's verdict on two widgets before anything runs.

    A linked widget is not known yet and comes as None; one on auto, a negative number, is chosen when the node runs.
    """
    if depth is not None and steps is not None and 0 <= steps < depth:
        return f"depth is {depth}, but the schedule has only {steps} steps: lower the depth or raise the steps."
    return True


def warn_if_colored(image: Tensor, name: str) -> None:
    """Only luminance of this picture is used; say so when it has more."""
    if not is_gray(image):
        log.warning("The %s has colors; only its luminance is used.", name)


def progress_bar(total: int) -> Any:
    """ComfyUI's progress bar of the running node."""
    import comfy.utils

    return comfy.utils.ProgressBar(total)


class FrameProgress:
    """A progress bar over frames; ends the run when the user cancels."""

    def __init__(self, total: int) -> None:
        self.bar = progress_bar(total)
        self.total = total

    def __call__(self, done: int, picture: Tensor | None = None) -> None:
        """:param picture: (H, W, 3) in 0..1, the last one that is done, as preview."""
        stop_if_canceled()
        preview = None
        if picture is not None:
            from PIL import Image

            preview = ("JPEG", Image.fromarray((picture.float().clamp(0, 1) * 255).byte().cpu().numpy()), 512)
        self.bar.update_absolute(done, self.total, preview)


class ChartProgress:
    """A progress bar whose preview is drawn from time to time; ends the run when the user cancels."""

    def __init__(self, total: int, draw: Callable[[], Image], seconds: float = 1.0) -> None:
        self.bar = progress_bar(total)
        self.total, self.draw, self.seconds = total, draw, seconds
        self.drawn = time.monotonic()

    def __call__(self, done: int) -> None:
        stop_if_canceled()
        preview = None
        if time.monotonic() - self.drawn >= self.seconds:
            preview = ("JPEG", self.draw(), 512)
            self.drawn = time.monotonic()
        self.bar.update_absolute(done, self.total, preview)


class StepProgress:
    """A progress bar over model calls, with a preview of the clean estimate; ends the run when the user cancels."""

    def __init__(self, model: Any, total: int) -> None:
        self.bar = progress_bar(total)
        self.total, self.done = total, 0
        import latent_preview

        self.previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def expect(self, calls: int) -> None:
        """How many calls are still to come, where memory ran out and there will be more than was thought."""
        self.total = self.done + calls

    def __call__(self, denoised: Tensor) -> None:
        stop_if_canceled()
        self.done += 1
        preview = self.previewer.decode_latent_to_preview_image("JPEG", denoised) if self.previewer else None
        self.bar.update_absolute(self.done, self.total, preview)
