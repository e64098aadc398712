"""Colors of a reference by statistics."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..pipelines.match import MatchSettings, match_colors
from .common import CATEGORY_COLOR, FrameProgress
from .inputs import optional_mask, picture
from .widgets import later_widgets, resolved, widgets

if TYPE_CHECKING:
    from torch import Tensor


class MatchColors(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarMatchColors",
            display_name="Match Colors",
            category=CATEGORY_COLOR,
            description="Gives pictures or the frames of a film the colors of a reference by statistics: mean and "
            "spread, covariance, histogram or optimal transport, in float, with masks on both sides. It needs no "
            "model.",
            search_aliases=[
                "color match",
                "colormatch",
                "color transfer",
                "color grading",
                "color correction",
                "color drift",
                "reinhard",
                "mkl",
                "monge-kantorovich",
                "mvgd",
                "hm-mvgd-hm",
                "hm-mkl-hm",
                "histogram matching",
                "optimal transport",
                "sliced",
            ],
            inputs=[
                io.Image.Input("image", tooltip="The pictures or frames to change. The result has their size."),
                io.Image.Input(
                    "reference",
                    tooltip="Whose colors to take, of any size: one for all, or with each frame one for each. Other "
                    "statistics take any number together.",
                ),
                *widgets(
                    MatchSettings, "method", "keep_lightness", "strength", "statistics", "frame", "space", "gamut"
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Which part of the image is matched: statistics are taken there, and colors change there, "
                    "as far as it is white. One for all, or one for each.",
                ),
                io.Mask.Input(
                    "reference_mask",
                    optional=True,
                    tooltip="Which part of the reference counts, as far as it is white. One for all references, or one "
                    "for each.",
                ),
                *later_widgets(MatchSettings),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures in the reference's colors, at their size.")
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        reference: Tensor,
        mask: Tensor | None = None,
        reference_mask: Tensor | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.memory import compute_device, results

        settings = resolved(cls, MatchSettings, {}, values)
        image, reference = picture(cls, image, "image"), picture(cls, reference, "reference")
        mask = optional_mask(cls, mask, "mask")
        reference_mask = optional_mask(cls, reference_mask, "reference_mask", len(reference))
        made = match_colors(
            image,
            reference,
            settings,
            mask=mask,
            reference_mask=reference_mask,
            device=compute_device(),
            progress=_Shown(max(len(image), len(reference))),
        )
        return io.NodeOutput(*results(made))


class _Shown:
    """A progress bar with a preview once a second: frames take milliseconds, and a preview takes longer."""

    def __init__(self, total: int) -> None:
        self.bar, self.shown = FrameProgress(total), 0.0

    def __call__(self, done: int, frame: Tensor | None) -> None:
        if frame is not None and time.monotonic() - self.shown >= 1:
            self.shown = time.monotonic()
            self.bar(done, frame)
        else:
            self.bar(done)


NODES = [MatchColors]
