"""Parts of the page that its tabs share: the drop zone, settings, the result, and how a button runs a job."""

# No `from __future__ import annotations`: gradio reads the annotation of a request where gradio is imported here.

import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .controls import Control
from .jobs import Jobs, Refused, Stopped
from .pictures import SMALL, Dropped, shown, write_result, write_shown
from .work import Outcome, Source

#: On a narrow window the result is below: the page goes there, to show how far it is.
_SHOW = """() => {
  const seen = [...document.querySelectorAll(".result")].find((each) => each.offsetParent);
  if (seen) seen.scrollIntoView({ block: "nearest", behavior: "smooth" });
}"""
#: What runs a job: it is given the job and what the widgets hold.
Work = Callable[..., Outcome]


def drop_zone(label: str, *, several: bool = False, elem_classes: str = "others") -> Any:
    """Where files are dropped: whatever the pack reads, whether the browser can show it or not."""
    import gradio as gr

    from ...files.pictures import READ

    return gr.File(
        label=label,
        file_count="multiple" if several else "single",
        file_types=list(READ),
        type="filepath",
        height=128,
        elem_classes=elem_classes,
    )


def path_of(file: Any) -> Path | None:
    """What a drop zone of one file holds."""
    return Path(file) if file else None


def settings_of(basic: Sequence[Control], advanced: Sequence[Control]) -> list[Any]:
    """Widgets of settings side by side, the advanced ones folded away."""
    import gradio as gr

    with gr.Row(elem_classes="settings"):
        made = [control.component() for control in basic]
    if advanced:
        with gr.Accordion("Advanced", open=False), gr.Row(elem_classes="settings"):
            made += [control.component() for control in advanced]
    return made


@dataclass
class Results:
    """The right side: result, confidence, where colors come from, what was done, and the file.

    :param origin: what the third picture is called.
    """

    origin: str = "Where colors come from"
    maps: bool = True
    slider: Any = field(init=False)
    confidence: Any = field(init=False)
    source: Any = field(init=False)
    legend: Any = field(init=False)
    said: Any = field(init=False)
    download: Any = field(init=False)

    def __post_init__(self) -> None:
        import gradio as gr

        common = {"format": "png", "buttons": ["fullscreen"], "show_label": False, "interactive": False}
        with gr.Tabs():
            with gr.Tab("Result"):
                self.slider = gr.ImageSlider(type="numpy", max_height=560, elem_classes="result", **common)
            with gr.Tab("Confidence", visible=self.maps):
                self.confidence = gr.Image(type="numpy", height=480, **common)
                gr.HTML(said("Dark is unsure, bright is sure."))
            with gr.Tab(self.origin, visible=self.maps):
                self.source = gr.Image(type="numpy", height=480, **common)
                self.legend = gr.HTML()
        self.said = gr.HTML(said("Nothing colored yet."))
        self.download = gr.DownloadButton("Download 16-bit PNG", interactive=False)

    @property
    def all(self) -> list[Any]:
        """Its components, in the order of :meth:`shown`."""
        return [self.slider, self.confidence, self.source, self.legend, self.said, self.download]


def told(outcome: Outcome, notes: Sequence[str]) -> str:
    """What was done, as HTML: seconds, method, settings that were automatic, and what else a user should know."""
    lines = [f"{outcome.seconds:.1f} s, {outcome.dropped.about}. {outcome.made.said}"]
    lines += list(dict.fromkeys([*outcome.dropped.facts.notes, *notes]))
    return "".join(map(said, lines))


def said(line: str) -> str:
    """A line as HTML."""
    return f'<p class="said">{html.escape(line)}</p>'


def legend(sources: Sequence[Source]) -> str:
    """Sources by their colors on the map, as HTML."""
    rows = [
        f'<li><i style="background:{each.color}"></i>{html.escape(each.name)} <b>{each.share:.0%}</b></li>'
        for each in sources
    ]
    return f'<ul class="legend">{"".join(rows)}</ul>' if rows else ""


def thumbnails(pictures: Sequence[Dropped]) -> str:
    """Small pictures with their numbers, as HTML."""
    rows = [
        f'<figure><img src="{_inline(each)}" alt="">'
        f"<figcaption>{number}. {html.escape(each.name)}</figcaption></figure>"
        for number, each in enumerate(pictures, 1)
    ]
    return f'<div class="thumbnails">{"".join(rows)}</div>'


def _inline(dropped: Dropped) -> str:
    import base64
    import io

    from PIL import Image

    made = io.BytesIO()
    Image.fromarray(shown(dropped.image, SMALL)).save(made, "PNG")
    return f"data:image/png;base64,{base64.b64encode(made.getvalue()).decode()}"


def runner(jobs: Jobs, work: Work, files: Callable[..., Sequence[Path]]) -> Callable[..., Iterator[list[Any]]]:
    """What a button calls: a job, whose result is shown first and then written.

    :param work: ``work(job, *values)``.
    :param files: of the values, those that were uploaded.
    """
    import gradio as gr

    def run(
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  # gradio's way to ask for it
        *values: Any,
    ) -> Iterator[list[Any]]:
        def on_step(done: int, total: int, what: str) -> None:
            progress((done, total), desc=what)

        try:
            with jobs.job(request.session_hash or "", files(*values), on_step) as job:
                outcome = work(job, *values)
                seen = [*_pictures(outcome, job.folder), told(outcome, job.notes)]
                yield [*seen, gr.DownloadButton(interactive=False)]
                written = write_result(outcome.made.image, outcome.dropped, job.folder)
                # said once more: widgets of a tab that is not open forget what they had when they are passed over
                yield [*seen, gr.DownloadButton(value=str(written), interactive=True)]
        except Stopped:
            return  # the button that stopped it has said so
        except Refused as error:
            raise gr.Error(html.escape(str(error)), duration=20, print_exception=False) from error

    return run


def _pictures(outcome: Outcome, folder: Path) -> list[Any]:
    made = outcome.made
    pictures = {"before": outcome.before, "after": made.image, "confidence": made.confidence, "origin": made.origin}
    before, after, *maps = (
        None if picture is None else write_shown(picture, folder / f"{name}.png") for name, picture in pictures.items()
    )
    return [(before, after), *maps, legend(made.legend)]


@dataclass
class Action:
    """A button's job, and whatever else starts or stops it.

    :param run: from :func:`runner`.
    :param inputs: the widgets whose values it is given.
    :param name: of the call for programs.
    """

    run: Callable[..., Any]
    inputs: Sequence[Any]
    results: Results
    name: str
    events: list[Any] = field(default_factory=list)

    def on(self, button: Any) -> None:
        """Run it at a button's click."""
        self._listen(button.click, api_name=self.name)
        button.click(None, js=_SHOW, api_visibility="private")

    def after(self, event: Any) -> None:
        """Run it when another event went well."""
        self._listen(event.success, api_visibility="private")

    def stopped_by(self, button: Any, jobs: Jobs) -> None:
        """Stop it at a button's click: what runs ends with its next step, what waits does not begin."""
        import gradio as gr

        def stop(request: gr.Request) -> str:
            there = jobs.stop(request.session_hash or "")
            return said("Stopped." if there else "Nothing is running.")

        button.click(stop, outputs=[self.results.said], cancels=self.events, queue=False, api_visibility="private")

    def _listen(self, to: Callable[..., Any], **more: Any) -> None:
        event = to(
            self.run,
            inputs=list(self.inputs),
            outputs=self.results.all,
            concurrency_id="job",
            concurrency_limit=1,
            show_progress_on=[self.results.slider],
            **more,
        )
        self.events.append(event)


def buttons(label: str) -> tuple[Any, Any]:
    """The button that runs a tab's job, and the one that stops it."""
    import gradio as gr

    with gr.Row():
        return gr.Button(label, variant="primary", scale=3), gr.Button("Stop", variant="stop", scale=1, min_width=96)
