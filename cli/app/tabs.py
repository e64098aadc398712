"""The other tabs: colors of an edit, and automatic ones."""

# No `from __future__ import annotations`: gradio reads the annotation of a request where gradio is imported here.

from pathlib import Path
from typing import Any

from .controls import chosen, controls
from .jobs import Job, Jobs
from .models import Models
from .parts import Action, Results, buttons, drop_zone, path_of, runner, settings_of
from .work import Outcome, auto, recolor

#: Settings that do nothing for a single picture.
OF_MANY = ("steady", "batch")


def of_an_edit(jobs: Jobs) -> None:
    """Colors of an edited copy, back on the photograph."""
    import gradio as gr

    from ...pipelines.transfer import TransferSettings

    basic = controls(TransferSettings, {}, skip=("reach",))
    advanced = controls(TransferSettings, {}, only=("reach",))
    with gr.Row():
        with gr.Column(min_width=340):
            original = drop_zone("Original, whose pixels and lightness are kept", elem_classes="first")
            edited = drop_zone("Edited copy in color, of any size")
            go, stop = buttons("Bring colors back")
        with gr.Column(min_width=340):
            results = Results("Copy, laid on the original")
    widgets = settings_of(basic, advanced)

    def work(job: Job, original: Any, edited: Any, *values: Any) -> Outcome:
        settings = chosen(TransferSettings, [*basic, *advanced], values)
        return recolor(job, path_of(original), path_of(edited), settings)

    action = Action(runner(jobs, work, _uploads(2)), [original, edited, *widgets], results, "recolor")
    action.on(go)
    action.stopped_by(stop, jobs)


def automatic(models: Models, jobs: Jobs) -> None:
    """Colors with no reference."""
    import gradio as gr

    from ...pipelines.ddcolor import AutoColorSettings

    shown_here = ("resolution", "saturation", "strength")
    recommended = models.ddcolor.recommended
    basic = controls(AutoColorSettings, recommended, only=shown_here)
    advanced = controls(AutoColorSettings, recommended, skip=(*shown_here, *OF_MANY))
    with gr.Row():
        with gr.Column(min_width=340):
            picture = drop_zone("Gray picture: drop a file, click, or paste", elem_classes="first")
            go, stop = buttons("Color the picture")
        with gr.Column(min_width=340):
            results = Results(maps=False)
    widgets = settings_of(basic, advanced)

    def work(job: Job, picture: Any, *values: Any) -> Outcome:
        return auto(models, job, path_of(picture), chosen(AutoColorSettings, [*basic, *advanced], values))

    action = Action(runner(jobs, work, _uploads(1)), [picture, *widgets], results, "auto")
    action.on(go)
    action.stopped_by(stop, jobs)


def _uploads(count: int) -> Any:
    return lambda *values: [Path(each) for each in values[:count] if each]
