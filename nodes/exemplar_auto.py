"""What Exemplar Colorize decides before it begins, for its single stages: settings on auto, and the working size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..color.sizes import size_of
from ..pipelines.exemplar_settings import ColorizeSettings, WorkingSizeSettings
from ..settings import entries, value_of
from .common import CATEGORY_STAGES, depth_within_steps
from .inputs import expect, picture
from .widgets import announce, later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor

#: What the stages take, in the order of Exemplar Colorize's widgets.
_NUMBERS = (
    *("guidance", "depth", "resolution", "match_chroma", "match_latents", "steps"),
    *("gamma_shallow", "gamma_deep", "beta_shallow", "beta_deep"),
)
_WHOLE = ("depth", "resolution", "steps")
#: Where each goes.
_GOES = {
    "guidance": "For guidance of Colorization Guidance.",
    "depth": "For depth of every DDIM Inversion.",
    "resolution": "For resolution of Scale to Working Size.",
    "match_chroma": "For match_chroma of Luminance Merge.",
    "match_latents": "For strength of Latent Statistics Match.",
    "steps": "For steps of every DDIM Inversion.",
    "gamma_shallow": "For Dual-Attention Color Injection, as the three below.",
    "gamma_deep": "For Dual-Attention Color Injection.",
    "beta_shallow": "For Dual-Attention Color Injection.",
    "beta_deep": "For Dual-Attention Color Injection.",
}


class StageSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarStageSettings",
            display_name="Stage Settings",
            category=CATEGORY_STAGES,
            description="The settings of Exemplar Colorize as numbers for its single stages: those on auto become what "
            "the model recommends.",
            search_aliases=["auto settings", "recommended settings", "colorize settings", "exemplar parameters"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The model that inverts and samples; its file may recommend values."),
                *widgets(ColorizeSettings, *_NUMBERS[:4], advanced=False),
                *widgets(ColorizeSettings, *_NUMBERS[4:], advanced=True),
                *later_widgets(ColorizeSettings),
            ],
            outputs=[
                (io.Int if name in _WHOLE else io.Float).Output(display_name=name, tooltip=_GOES[name])
                for name in _NUMBERS
            ],
        )

    @classmethod
    def validate_inputs(cls, depth: int | None = None, steps: int | None = None) -> bool | str:
        return depth_within_steps(depth, steps)

    @classmethod
    def execute(cls, model: Any, **values: Any) -> io.NodeOutput:
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.recommended import recommended

        expect(cls, model=model)
        require_network(model, title(cls))
        # the stages are one pass
        settings = resolved(cls, ColorizeSettings, recommended(model, "exemplar"), {**values, "passes": 1})
        known = entries(ColorizeSettings)
        return io.NodeOutput(*(value_of(settings, known[name]) for name in _NUMBERS))


class WorkingSize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarWorkingSize",
            display_name="Scale to Working Size",
            category=CATEGORY_STAGES,
            description="Scales pictures to the size that a model works at, in their own proportions, as Exemplar "
            "Colorize does inside.",
            search_aliases=["resize for model", "scale to megapixels", "working resolution", "scale image"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Image.Input("image", tooltip="Pictures of one size, to be encoded."),
                io.Model.Input("model", tooltip="The model that inverts and samples."),
                io.Vae.Input("vae", tooltip="The VAE that encodes. Sides become multiples of what both need."),
                *widgets(WorkingSizeSettings, "resolution"),
                *later_widgets(WorkingSizeSettings),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="For VAE Encode.")],
        )

    @classmethod
    def execute(cls, image: Tensor, model: Any, vae: Any, **values: Any) -> io.NodeOutput:
        from ..color import resize
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.fits import check_vae
        from ..hosts.comfy.host import ComfyHost
        from ..hosts.comfy.recommended import recommended
        from ..pipelines.exemplar_inversion import size_to_work_at

        expect(cls, model=model, vae=vae)
        require_network(model, title(cls))
        check_vae(vae, model, title(cls))
        settings = resolved(cls, WorkingSizeSettings, recommended(model, "exemplar"), values)
        image = picture(cls, image, "image")
        height, width = size_to_work_at(ComfyHost(model, [], vae), image, settings)
        announce(cls, f"{size_of(image)[1]} x {size_of(image)[0]} to {width} x {height}")
        return io.NodeOutput(resize(image, (height, width)))


NODES = [StageSettings, WorkingSize]
