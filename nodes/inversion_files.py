"""Inversions to files and from files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hosts.comfy import changes, output
from ..hosts.comfy.folders import INVERSIONS
from ..pipelines.exemplar_settings import SaveInversionSettings
from .common import CATEGORY_STAGES, Inversion
from .inputs import choice, expect
from .widgets import announce, later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from ..diffusion.inversion import Inversion as KeptInversion

_ALIASES = ["inversion file", "keep inversion", "cache inversion", "reuse reference"]


class SaveInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarSaveInversion",
            display_name="Save Inversion",
            category=CATEGORY_STAGES,
            description="Saves an inversion to ComfyUI's output folder as a safetensors file that says what made it, "
            "so that a picture is inverted once.",
            search_aliases=["save inversion", "export inversion", "store reference", *_ALIASES],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            inputs=[
                Inversion.Input(
                    "inversion",
                    tooltip="The inversion to save: reference_inversion of Exemplar Colorize, or any of DDIM "
                    "Inversion. It takes as much room as its attention features, see Attention Capture.",
                ),
                Inversion.Input(
                    "gray_inversion",
                    optional=True,
                    tooltip="The same reference without color, kept in the same file. Exemplar Colorize and "
                    "Dual-Attention Color Injection need both.",
                ),
                *widgets(SaveInversionSettings, "filename_prefix"),
                *later_widgets(SaveInversionSettings),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return output.check_prefix(filename_prefix)

    @classmethod
    def execute(
        cls, inversion: KeptInversion, gray_inversion: KeptInversion | None = None, **values: Any
    ) -> io.NodeOutput:
        from ..files.inversions import Inversions, save_new_inversions

        settings = resolved(cls, SaveInversionSettings, {}, values)
        expect(cls, inversion=inversion, gray_inversion=gray_inversion)
        try:
            made = Inversions((inversion,), () if gray_inversion is None else (gray_inversion,))
        except ValueError as error:
            raise ValueError(f"{title(cls)}: {error}") from None
        folder, stem, number, inside = output.destination(settings.filename_prefix, 0, 0)
        path = save_new_inversions(folder, stem, number, made)
        announce(cls, f"{path.name}, {inversion.pictures} picture(s), {made.nbytes / 2**20:.1f} MB")
        return io.NodeOutput(ui={"inversions": [{"filename": path.name, "subfolder": inside, "type": "output"}]})


class LoadInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadInversion",
            display_name="Load Inversion",
            category=CATEGORY_STAGES,
            description="Loads an inversion that Save Inversion wrote: the same, bit for bit, as when it was made.",
            search_aliases=["load inversion", "open inversion", "load reference", *_ALIASES],
            inputs=[
                io.Combo.Input(
                    "inversion_name",
                    options=INVERSIONS.choices(),
                    tooltip="A file in models/inversions, or, with [output] behind its name, in inversions of the "
                    "output folder, where Save Inversion puts them.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The MODEL that inverted: a file of another one is refused here, and noised is made. "
                    "Without it the node that uses the inversion refuses.",
                ),
            ],
            outputs=[
                Inversion.Output(
                    display_name="inversion",
                    tooltip="Goes wherever the saved one went, with the model and the settings that made it.",
                ),
                Inversion.Output(
                    display_name="gray_inversion",
                    tooltip="The reference without color, where the file holds it; otherwise leave it unconnected.",
                ),
                io.Latent.Output(
                    display_name="noised",
                    tooltip="The start of the way back, as DDIM Inversion gives it. Only with a model; otherwise leave "
                    "it unconnected.",
                ),
                io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels of the way back."),
            ],
        )

    @classmethod
    def validate_inputs(cls, inversion_name: str | None = None) -> bool | str:
        return INVERSIONS.check(inversion_name)

    @classmethod
    def fingerprint_inputs(cls, inversion_name: str | None = None, **_: Any) -> str:
        known = inversion_name is not None and INVERSIONS.check(inversion_name) is True
        return changes.stamp(INVERSIONS.path(inversion_name)) if known else ""

    @classmethod
    def execute(cls, inversion_name: str, model: Any = None) -> io.NodeOutput:
        from ..files.inversions import load_inversions
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.inversions import NO_GRAY, NO_MODEL, check_model, noised, only_size, way_back

        path = choice(cls, "inversion_name", inversion_name, INVERSIONS.path)
        if model is not None:
            expect(cls, model=model)
            require_network(model, title(cls))
        found = load_inversions(path)
        if model is not None:
            check_model(found, model, title(cls), "inversion_name")
        inversion, gray = only_size(found, title(cls), "inversion_name")
        start = NO_MODEL if model is None else noised(inversion, model)
        return io.NodeOutput(inversion, NO_GRAY if gray is None else gray, start, way_back(inversion))


NODES = [SaveInversion, LoadInversion]
