"""How good colored pictures are, in the numbers that papers report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..color import check_batch
from ..pipelines.measure import MeasureSettings, Measuring, Pair, check_frames
from ..settings import setting
from .common import CATEGORY, FrameProgress
from .inputs import optional_picture, picture
from .widgets import later_widgets, resolved, widgets

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class MeasureNodeSettings(MeasureSettings):
    """The flow's, and whether its networks are looked for."""

    networks: bool = setting(
        True,
        "On, FID, SI-FID and LPIPS are measured where the files of their networks lie in models/measure; what is "
        "missing is named below the table. Nothing is downloaded. Off leaves them out, which is faster.",
    )


#: Inputs by what they are in a pair.
_PARTS = {"reference": "reference", "truth": "truth", "image": "gray"}


class Measure(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarMeasure",
            display_name="Measure Colors",
            category=CATEGORY,
            description="Measures colored pictures as papers do: FID, SI-FID, HIS, LPIPS, PSNR, SSIM, colorfulness, "
            "CDC and more, each as its paper defines it and as the published program computes it.",
            search_aliases=[
                "metrics",
                "fid",
                "lpips",
                "psnr",
                "ssim",
                "colorfulness",
                "evaluate",
                "benchmark colorization",
                "compare with ground truth",
            ],
            is_output_node=True,
            inputs=[
                io.Image.Input("color_image", tooltip="The colored pictures, one or more."),
                *widgets(MeasureNodeSettings, "frames", "networks"),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Whose colors they should have, of any size: one for all, or one for each. Without it "
                    "SI-FID, HIS and the distances to references are left out.",
                ),
                io.Image.Input(
                    "truth",
                    optional=True,
                    tooltip="What they should be, at the same size: one for all, or one for each. Without it PSNR, "
                    "SSIM, the ab error and the distances to the truth are left out.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The gray pictures that were colored, at the same size: one for all, or one for each. Left "
                    "unconnected, the truth's lightness counts.",
                ),
                *later_widgets(MeasureNodeSettings),
            ],
            outputs=[
                io.String.Output(
                    display_name="table", tooltip="The numbers as text, with what is to be known of each below."
                ),
                io.Image.Output(
                    display_name="plot",
                    tooltip="The table as a picture, with a plot for each measure of single pictures: as published in "
                    "orange, as defined in blue, the pictures from left to right.",
                ),
                io.String.Output(
                    display_name="json", tooltip="All numbers as JSON, those of each picture too, for programs."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        color_image: Tensor,
        reference: Tensor | None = None,
        truth: Tensor | None = None,
        image: Tensor | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        from comfy_api.latest import ui

        from ..hosts.comfy import measure as host
        from ..hosts.comfy.memory import results
        from ..pipelines import measure_report

        settings = resolved(cls, MeasureNodeSettings, {}, values)
        color_image = picture(cls, color_image, "color_image")
        against = {"reference": reference, "truth": truth, "image": image}
        checked = {name: optional_picture(cls, each, name) for name, each in against.items()}
        count = check_batch(color_image=color_image, **checked)
        check_frames(settings, count)
        known = {_PARTS[name]: each for name, each in checked.items() if each is not None}
        measuring = Measuring(settings, host.load() if settings.networks else None)
        progress = FrameProgress(count)
        for number in range(count):
            progress(number)
            beside = {name: _one(each, number) for name, each in known.items()}
            measuring.add(Pair(f"picture {number + 1}", _one(color_image, number), **beside))
        measured = measuring.result()
        (plot,) = results(measure_report.picture(measured))
        progress(count)
        text = measure_report.table(measured)
        shown = ui.PreviewImage(plot).as_dict()["images"]
        return io.NodeOutput(text, plot, measure_report.as_json(measured), ui={"images": shown, "text": [text]})


def _one(pictures: Tensor, number: int) -> Tensor:
    """(1, H, W, 3): a picture of a batch, or the one that is for all."""
    return pictures if len(pictures) == 1 else pictures[number : number + 1]


NODES = [Measure]
