"""Whether everything is as it should be, inside ComfyUI."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..pipelines.doctor.checks import DoctorSettings, Meter, examine
from .common import CATEGORY, FrameProgress
from .ddcolor import DDColorNetwork
from .deadiff import DEADiffNetwork
from .inputs import expect
from .lcad import LCADVae
from .widgets import announce, later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from ..hosts.comfy.ddcolor import ComfyDDColor
    from ..hosts.comfy.deadiff import ComfyDEADiff
    from ..hosts.comfy.lcad import ComfyLCADVAE
    from ..pipelines.doctor.checks import Check

#: What the names of reports in the output folder begin with.
_PREFIX = "exemplar_doctor/report"


class Doctor(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarDoctor",
            display_name="Doctor",
            category=CATEGORY,
            description="Looks whether everything is as it should be: this machine, every system on the small files "
            "that come with the pack, and the models that you connect, each number beside what is expected. Attach its "
            "JSON to a report.",
            search_aliases=["diagnose", "self test", "health check", "benchmark", "report a bug", "debug info"],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            inputs=[
                *widgets(DoctorSettings, "quick", "embedded_files"),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="A Stable Diffusion 1.x, 2.x or SDXL checkpoint to look at, best straight from its loader; "
                    "with its vae and clip. Without it only the machine and the pack's own files are looked at.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP that belongs to the model."),
                io.Vae.Input("vae", optional=True, tooltip="The VAE that belongs to the model."),
                DDColorNetwork.Input("ddcolor", optional=True, tooltip="A DDColor network to look at."),
                io.Model.Input("lcad_model", optional=True, tooltip="From Load L-CAD; with lcad_clip and lcad_vae."),
                io.Clip.Input("lcad_clip", optional=True, tooltip="From the same Load L-CAD."),
                LCADVae.Input("lcad_vae", optional=True, tooltip="From the same Load L-CAD."),
                DEADiffNetwork.Input("deadiff", optional=True, tooltip="A DEADiff encoder to look at."),
                *later_widgets(DoctorSettings),
            ],
            outputs=[
                io.String.Output(
                    display_name="report",
                    tooltip="The table as text. The same as JSON is in exemplar_doctor of the output folder: attach "
                    "that file to a report. It names no folders and no other packs.",
                ),
                io.Image.Output(display_name="table", tooltip="The table as a picture, as the node shows it."),
                io.Image.Output(
                    display_name="sheet",
                    tooltip="Pictures to judge by eye: the embedded systems' results, and of your model the round trip "
                    "of its VAE, what its attention carries over, and a photograph that it colored.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        return str(time.time_ns())  # it is asked again because something may have changed

    @classmethod
    def execute(  # one argument a socket
        cls,
        model: Any = None,
        vae: Any = None,
        clip: Any = None,
        ddcolor: ComfyDDColor | None = None,
        lcad_model: Any = None,
        lcad_clip: Any = None,
        lcad_vae: ComfyLCADVAE | None = None,
        deadiff: ComfyDEADiff | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        from comfy_api.latest import ui

        from ..hosts.comfy import doctor as host
        from ..hosts.comfy import output
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.fits import check_vae
        from ..hosts.comfy.memory import out_of_memory, results
        from ..pipelines.doctor.machine import environment
        from ..pipelines.doctor.report import Report, save_new

        settings = resolved(cls, DoctorSettings, {}, values)
        expect(cls, model=model, vae=vae, clip=clip, ddcolor=ddcolor, deadiff=deadiff)
        expect(cls, lcad_model=lcad_model, lcad_clip=lcad_clip, lcad_vae=lcad_vae)
        _together(cls, model=model, vae=vae, clip=clip)
        _together(cls, lcad_model=lcad_model, lcad_clip=lcad_clip, lcad_vae=lcad_vae)
        if model is not None:
            require_network(model, title(cls))
            host.check_kind(model, "model", title(cls))
            check_vae(vae, model, title(cls))
        if lcad_model is not None:
            host.check_kind(lcad_model, "lcad_model", title(cls))
        folder, stem, number, inside = output.destination(_PREFIX, 0, 0)
        checkpoint = None if model is None else host.checkpoint_of(model, vae, clip, title(cls))
        lcad = None if lcad_model is None else host.ComfyDescriber(lcad_model, lcad_clip, lcad_vae)
        checks = _checks(settings, checkpoint, ddcolor, lcad, deadiff)
        bar, found = FrameProgress(len(checks)), []

        def begin(check: Check) -> None:
            announce(cls, f"{check.group}: {check.name}")
            bar(len(found))

        meter = Meter(host.device())
        paths = host.paths(model, lcad_model)
        for result in examine(checks, meter, stops=host.stops, free=out_of_memory, on_check=begin, paths=paths):
            found.append(result)
        bar(len(found))
        facts = {**environment(host.device()), **host.environment()}
        report = Report(facts, found, settings.quick, meter.counts)
        path = save_new(report, folder, stem, number)
        announce(cls, f"{report.summary}; {path.name}")
        table, sheet = results(report.picture(), report.sheet())
        shown = ui.PreviewImage(table).as_dict()["images"]
        files = [{"filename": path.name, "subfolder": inside, "type": "output"}]
        return io.NodeOutput(report.table(), table, sheet, ui={"images": shown, "reports": files})


def _together(node: type[io.ComfyNode], **parts: Any) -> None:
    """Whether all parts of a model are connected, or none.

    :raises ValueError: some are.
    """
    missing = [name for name, part in parts.items() if part is None]
    if missing and len(missing) < len(parts):
        others = ", ".join(name for name in parts if name not in missing)
        raise ValueError(
            f"{title(node)}: {missing[0]}: found nothing beside {others}, expected what comes from the same loader; "
            "connect it too."
        )


def _checks(settings: DoctorSettings, checkpoint: Any, ddcolor: Any, lcad: Any, deadiff: Any) -> list[Check]:
    """All that is to be looked at."""
    from .. import demo
    from ..hosts.comfy import doctor as host
    from ..pipelines.doctor import machine, networks
    from ..pipelines.doctor.checkpoint import Examination
    from ..pipelines.doctor.embedded import Embedded, Pictures
    from ..pipelines.doctor.expected import read
    from ..pipelines.doctor.subjects import Once

    pictures = Pictures(demo.pictures_path())
    made = machine.checks(host.device(), host.attend(), host.attention_name())
    if settings.embedded_files:
        files = host.embedded_files()
        made += Embedded(pictures, files, read(demo.recorded_path())).checks()
        made.append(host.listening_check(files, lambda: pictures.scene[1]))
    if checkpoint is not None:
        made += Examination(pictures, checkpoint, settings.quick).checks()
    if ddcolor is not None:
        made += networks.ddcolor_checks(pictures, Once(lambda: ddcolor, "DDColor"))
    if lcad is not None:
        made += networks.lcad_checks(pictures, Once(lambda: lcad, "L-CAD"), settings.quick)
    if deadiff is not None:
        made += networks.deadiff_checks(pictures, Once(lambda: host.tokens_of(deadiff), "DEADiff"))
    return made


NODES = [Doctor]
