"""The first tab: color by references, strokes and a palette."""

# No `from __future__ import annotations`: gradio reads the annotation of a request where gradio is imported here.

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...settings import Settings, entries
from .controls import Control, chosen, controls
from .jobs import Job, Jobs, sentence
from .models import Models
from .parts import Action, Results, buttons, drop_zone, path_of, runner, settings_of, thumbnails
from .pictures import PAINTED, Dropped, write_shown
from .work import FALLBACKS, Colorize, Outcome, colorize

#: Settings of each method that most users look at; all others are folded away.
BASIC = {
    "memory": ("saturation", "resolution", "fallback_below"),
    "attention": ("guidance", "depth", "passes", "resolution", "fallback_below"),
}
#: Settings that do nothing for a single picture.
OF_MANY = ("batch",)
#: Colors at hand for strokes: skin, hair, wood, sky, water, leaves, grass, flowers, bricks, and gray for what has none.
BRUSH = ("#e0a184", "#8a5a3c", "#c98b4b", "#7fb2e5", "#2f6fb0", "#3f7f3a", "#a3b84c", "#e8c547", "#d9483b", "#b05fc0")
BRUSH_GRAY = "#808080"
#: Pictures that come with the pack, by what they are called in ``demo``.
EXAMPLES = ("drawing", "scene", "words", "photo")


#: How widgets of which no job begins are listened to.
_LIGHT = {"show_progress": "hidden", "api_visibility": "private"}


def by_example(models: Models, jobs: Jobs) -> None:
    """Build the tab, where it is to stand."""
    import gradio as gr

    with gr.Row():
        with gr.Column(min_width=340):
            dropped = _Inputs()
            examples = gr.Dataset(
                label="Examples: click one",
                components=[gr.Image(render=False)],
                samples=[[str(gray)] for gray, _ in _examples()],
                type="index",
                layout="gallery",
            )
        with gr.Column(min_width=340):
            results = Results()
    settings = _Settings(models)

    def work(job: Job, picture: Any, references: Any, editor: Any, method: Any, *values: Any) -> Outcome:
        layers = (editor or {}).get("layers") or ()
        paths = [Path(each) for each in references or ()]
        return colorize(models, job, settings.asked(path_of(picture), paths, layers, method, values))

    def files(picture: Any, references: Any, *_: Any) -> list[Path]:
        return [Path(each) for each in (picture, *(references or ())) if each]

    action = Action(runner(jobs, work, files), [*dropped.all, *settings.widgets], results, "colorize")
    action.on(dropped.go)
    dropped.listen(jobs)
    dropped.method.change(
        lambda name: [gr.Row(visible=each == name) for each in settings.groups],
        [dropped.method],
        list(settings.groups.values()),
        queue=False,
        **_LIGHT,
    )

    def example(index: int) -> tuple[str, list[str], None]:
        gray, reference = _examples()[index]
        return str(gray), [str(reference)], None

    action.after(examples.click(example, [examples], [dropped.picture, dropped.references, dropped.editor], **_LIGHT))
    action.stopped_by(dropped.stop, jobs)


class _Inputs:
    """Pictures, strokes, method and buttons."""

    def __init__(self) -> None:
        import gradio as gr

        from ...pipelines.memory_settings import MethodSettings

        self.picture = drop_zone("Gray picture: drop a file, click, or paste", elem_classes="first")
        self.editor = gr.ImageEditor(
            label="Paint strokes (optional)",
            type="numpy",
            image_mode="RGBA",
            format="png",
            sources=(),
            transforms=(),
            layers=False,
            brush=gr.Brush(colors=[*BRUSH, BRUSH_GRAY], default_color=BRUSH[0], default_size=16),
            eraser=gr.Eraser(default_size=24),
            canvas_size=(PAINTED, PAINTED),
            buttons=["fullscreen"],
            visible=False,
            elem_id="strokes",
        )
        self.references = drop_zone("Color references: drop one or several", several=True)
        self.thumbnails = gr.HTML(visible=False)
        entry = entries(MethodSettings)["method"]
        self.method = gr.Radio(["memory", "attention"], value="memory", label=entry.name, info=entry.about.help)
        self.go, self.stop = buttons("Color the picture")

    @property
    def all(self) -> list[Any]:
        """The widgets that a job is given."""
        return [self.picture, self.references, self.editor, self.method]

    def listen(self, jobs: Jobs) -> None:
        """Show what was dropped, to paint on and beside its number.

        :param jobs: of the page, with its pictures and its folder.
        """
        import gradio as gr

        def loaded(path: str | None) -> Iterator[Any]:
            if not path:
                yield gr.ImageEditor(value=None, visible=False)
                return
            with tempfile.TemporaryDirectory(prefix="shown-", dir=jobs.folder) as place:
                background = write_shown(_read(jobs, path).image, Path(place) / "picture.png", PAINTED)
                value = {"background": background, "layers": [], "composite": background}
                yield gr.ImageEditor(value=value, visible=True)

        def numbered(paths: list[str] | None) -> Any:
            return gr.HTML(thumbnails([_read(jobs, path) for path in paths or ()]), visible=bool(paths))

        self.picture.change(loaded, [self.picture], [self.editor], **_LIGHT)
        self.references.change(numbered, [self.references], [self.thumbnails], **_LIGHT)


class _Settings:
    """Settings of both methods, one of which is seen, and those of both."""

    def __init__(self, models: Models) -> None:
        import gradio as gr

        from ...pipelines.exemplar_settings import ColorizeSettings
        from ...pipelines.memory_settings import MemorySettings, PaletteSettings, ShareSettings

        self._kinds: Mapping[str, type[Settings]] = {"memory": MemorySettings, "attention": ColorizeSettings}
        self._controls, self._widgets, self.groups = dict[str, list[Control]](), dict[str, list[Any]](), {}
        for method, system in (("memory", "memory"), ("attention", "exemplar")):
            kind, recommended = self._kinds[method], models.recommended(system)
            basic = controls(kind, recommended, only=BASIC[method])
            advanced = controls(kind, recommended, skip=(*BASIC[method], *OF_MANY))
            self._controls[method] = [*basic, *advanced]
            with gr.Column(visible=method == "memory") as self.groups[method]:
                self._widgets[method] = settings_of(basic, advanced)
        (weights,), (palette,) = controls(ShareSettings, {}), controls(PaletteSettings, {}, only=("colors",))
        with gr.Accordion("Weights of references, palette, fallback", open=False), gr.Row():
            self._shared = [weights.component(), palette.component()]
            info = "Another coloring, for where the method is less sure than fallback below."
            self._shared.append(gr.Radio(list(FALLBACKS), value=FALLBACKS[0], label="fallback", info=info))

    @property
    def widgets(self) -> list[Any]:
        """The widgets that a job is given."""
        return [*self._shared, *self._widgets["memory"], *self._widgets["attention"]]

    def asked(
        self, picture: Path | None, references: Sequence[Path], layers: Any, method: Any, values: Sequence[Any]
    ) -> Colorize:
        """What is asked for.

        :param values: of :attr:`widgets`.
        :raises ValueError: a value that a setting cannot have.
        """
        from ...pipelines.memory_settings import ShareSettings

        (weights, palette, fallback), numbers = values[:3], values[3:]
        first = len(self._widgets["memory"])
        own = numbers[:first] if method == "memory" else numbers[first:]
        return Colorize(
            picture,
            references,
            layers,
            method,
            chosen(self._kinds[method], self._controls[method], own),
            ShareSettings(weights or "").numbers,
            palette or "",
            fallback,
        )


def _examples() -> list[tuple[Path, Path]]:
    from ...demo import ExampleSettings, example_paths

    return [example_paths(ExampleSettings(name)) for name in EXAMPLES]  # type: ignore[arg-type]


def _read(jobs: Jobs, path: str) -> Dropped:
    """A picture for the page.

    :raises gr.Error: it is none.
    """
    import html

    import gradio as gr

    try:
        return jobs.pictures.read(path)
    except (ValueError, OSError) as error:
        raise gr.Error(html.escape(sentence(error, [Path(path)])), duration=20, print_exception=False) from error
