"""Films: where their shots begin, and whole ones in color."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hosts.comfy import output
from ..hosts.comfy.runs import say, stop_if_canceled
from ..pipelines.film_settings import FilmSettings, ShotSettings, VideoFileSettings
from ..pipelines.memory_settings import MemorySettings
from .common import CATEGORY_VIDEO, ColorMemory
from .inputs import expect
from .memory_inputs import network_input, prompt_inputs
from .video_inputs import FilmProgress, References, given_film, listed_keys, own, tell
from .widgets import announce, later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..hosts.comfy.color_memories import Looking
    from ..memory.entries import ColorMemory as Memory
    from ..memory.features import FeatureSource
    from ..pipelines.film import FilmReport

_VIDEO = "It is read where it lies, a frame at a time, so that its length takes no memory."


class FindShots(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarFindShots",
            display_name="Find Shots",
            category=CATEGORY_VIDEO,
            description="Finds the frames at which the shots of a film begin, and which of them are in color already.",
            search_aliases=["scene detection", "cut detection", "shot boundary", "split video", "cuts"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Video.Input("video", tooltip=f"The film. {_VIDEO}"),
                *widgets(ShotSettings, "sensitivity", "shortest", "dissolves", "colored_above"),
                *widgets(VideoFileSettings, "deinterlace"),
                *later_widgets(ShotSettings, VideoFileSettings),
            ],
            outputs=[
                io.String.Output(
                    display_name="cuts",
                    tooltip="Numbers of the frames at which shots begin, counted from 0: for cuts of Exemplar Colorize "
                    "Video, as they are or corrected by hand.",
                ),
                io.Int.Output(display_name="shots", tooltip="How many shots there are."),
                io.Image.Output(
                    display_name="strip", tooltip="All shots in one picture, each by the frame in its middle."
                ),
            ],
        )

    @classmethod
    def execute(cls, video: Any, **values: Any) -> io.NodeOutput:
        from ..hosts.comfy.memory import results
        from ..pipelines.film import report_of_shots, shots_of

        expect(cls, video=video)
        settings = resolved(cls, ShotSettings, {}, own(ShotSettings, values))
        _ = settings.listed
        files = resolved(cls, VideoFileSettings, {}, own(VideoFileSettings, values))
        film = given_film(cls, video, files).film
        bar = FilmProgress(film.facts.frames or 0, colors=False)
        shots = shots_of(film, settings, bar.looked)
        bar.finish()
        report = report_of_shots(film, shots, stop_if_canceled)
        tell(cls, film)
        announce(cls, f"{len(shots)} shot(s) in {shots[-1].stop} frames")
        return io.NodeOutput(", ".join(str(shot.start) for shot in shots), len(shots), *results(report.strip()))


class ColorizeVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarColorizeVideo",
            display_name="Exemplar Colorize Video",
            category=CATEGORY_VIDEO,
            description="Colors a film by references and key frames: finds its shots, colors each by a color memory, "
            "and keeps colors steady along the motion. Frames have their own lightness; times and sound are kept.",
            search_aliases=[
                "film",
                "video",
                "movie",
                "footage",
                "keyframe",
                "key frames",
                "video colorization",
                "color propagation",
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            inputs=[
                io.Video.Input("video", tooltip=f"The film, of which only the lightness is used. {_VIDEO}"),
                network_input(),
                *widgets(VideoFileSettings, "filename_prefix", "codec"),
                *widgets(FilmSettings, "steadiness", "key_method"),
                *widgets(MemorySettings, "saturation", advanced=True),
                *widgets(FilmSettings, "in_color", advanced=True),
                *widgets(VideoFileSettings, "deinterlace"),
                *widgets(FilmSettings, "key_reach", "key_weight", "ahead"),
                *widgets(ShotSettings, "cuts"),
                *widgets(ShotSettings, "sensitivity", advanced=True),
                *widgets(ShotSettings, "dissolves", "shortest", "colored_above"),
                *widgets(MemorySettings, "resolution", advanced=True),
                *widgets(MemorySettings, "temperature_coarse", "temperature_fine", "coherence"),
                *widgets(MemorySettings, "top", "most", "batch"),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Color pictures with the same kinds of things; all of a batch serve every shot.",
                ),
                io.Mask.Input(
                    "reference_mask",
                    optional=True,
                    tooltip="Which part of the references counts. White is everywhere. One for all, or one for each.",
                ),
                ColorMemory.Input(
                    "memory",
                    optional=True,
                    tooltip="A color memory of the same model. References and key frames count beside it.",
                ),
                io.Image.Input(
                    "key_frames",
                    optional=True,
                    tooltip="Frames of the film in color, of its proportions and any size, in the order of "
                    "key_frame_numbers. Each counts for its own shot, the more the nearer it is; a shot without any "
                    "takes all as references.",
                ),
                io.Mask.Input(
                    "key_frame_mask",
                    optional=True,
                    tooltip="Where colors of key frames are given; the rest is still to be found. White is "
                    "everywhere. One for all, or one for each.",
                ),
                *prompt_inputs(),
                *widgets(VideoFileSettings, "key_frame_numbers"),
                *later_widgets(FilmSettings, ShotSettings, MemorySettings, VideoFileSettings),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video", tooltip="The colored film, as it lies in ComfyUI's output folder."
                ),
                io.Image.Output(
                    display_name="strip",
                    tooltip="All shots in one picture, with a bar for every few frames: high and green where they are "
                    "well matched, low and red where not. Blue lines are key frames, orange marks suggested ones.",
                ),
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="How well each shot is matched, 0 to 1; 1 for one that was in color already.",
                ),
                io.Int.Output(
                    display_name="suggestion",
                    tooltip="The frame that would help most as the next key frame; -1 where none would.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return output.check_prefix(filename_prefix)

    @classmethod
    def execute(  # one argument a socket
        cls,
        video: Any,
        model: Any,
        reference: Tensor | None = None,
        reference_mask: Tensor | None = None,
        memory: Memory | None = None,
        key_frames: Tensor | None = None,
        key_frame_mask: Tensor | None = None,
        vae: Any = None,
        conditioning: list | None = None,
        clip: Any = None,
        **values: Any,
    ) -> io.NodeOutput:
        from ..hosts.comfy.color_memories import looking
        from ..hosts.comfy.memory import out_of_memory, results
        from ..hosts.comfy.videos import film_output, listed, video_of
        from ..pipelines.film import FilmColors, color_film
        from ..pipelines.film_identity import identity
        from ..pipelines.film_memory import check_keys
        from ..pipelines.steady import notes

        expect(cls, video=video, model=model, memory=memory, vae=vae, clip=clip)
        files = resolved(cls, VideoFileSettings, {}, own(VideoFileSettings, values))
        references = References.checked(cls, reference, reference_mask)
        keys = listed_keys(cls, key_frames, key_frame_mask, files)
        if references.pictures is None and memory is None and not keys:
            raise ValueError(
                f"{title(cls)}: found no colors to take, expected a reference, a color memory or key frames; connect "
                "one of them."
            )
        network = looking(model, vae, conditioning, title(cls), clip)
        settings, source = _asked(cls, network, memory, values)
        _ = settings.shots.listed
        given = given_film(cls, video, files)
        film, thorough = given.film, references.thorough(network, settings)
        check_keys(keys, film.facts, film.facts.frames)
        made = {
            **identity(given.identity(), source, settings, memory, keys),
            "reference": references.identity(),
            "thorough key frames": "no" if thorough is None else "yes",
            "deinterlace": str(files.deinterlace),
        }
        sink, inside = film_output(files.filename_prefix, files.codec, film, made)
        sink.check()
        for sentence in sink.notes:
            announce(cls, sentence)
        for note in notes():
            say(f"{title(cls)}: {note}")
        bar = FilmProgress(film.facts.frames or 0)
        report = color_film(
            film,
            source,
            settings,
            FilmColors(references.beside(memory, source, settings), keys, thorough),
            sink,
            device=network.device,
            out_of_memory=out_of_memory,
            on_look=bar.looked,
            on_frame=bar.colored,
        )
        bar.finish()
        tell(cls, film)
        announce(cls, _summary(report))
        return io.NodeOutput(
            video_of(report.result),
            *results(report.strip()),
            [1.0 if shot.score is None else shot.score for shot in report.shots],
            -1 if report.suggestion is None else report.suggestion,
            ui=listed(report.result, inside),
        )


def _summary(report: FilmReport) -> str:
    """What became of a film, in a line."""
    scores = [shot.score for shot in report.shots if shot.score is not None]
    said = f"{report.frames} frames in {len(report.shots)} shot(s)"
    if scores:
        said += f", matched {sum(scores) / len(scores):.2f} on average"
    if report.suggestion is not None:
        said += f"; frame {report.suggestion} would help most as a key frame"
    return said


def _asked(
    node: type[io.ComfyNode], network: Looking, memory: Memory | None, values: dict[str, Any]
) -> tuple[FilmSettings, FeatureSource]:
    """The settings, and what looks at frames, as a connected memory wants it."""
    asking = resolved(node, MemorySettings, network.recommended, own(MemorySettings, values))
    asked = network.asking(memory, asking)
    rest = {name: value for name, value in own(FilmSettings, values).items() if name not in own(MemorySettings, values)}
    return resolved(node, FilmSettings, {}, rest, asking=asked["asking"]), asked["network"]


NODES = [FindShots, ColorizeVideo]
