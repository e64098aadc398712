"""Films: where their shots begin, and whole ones in color."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hosts.comfy import output
from ..hosts.comfy.runs import stop_if_canceled
from ..pipelines.film_settings import FilmSettings, ShotSettings, VideoFileSettings
from ..pipelines.memory_settings import MemorySettings
from ..settings import entries
from .common import CATEGORY_VIDEO, ColorMemory, FrameProgress
from .inputs import expect, optional_mask, optional_picture
from .memory_inputs import network_input, prompt_inputs
from .widgets import announce, later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..files.films import Film
    from ..hosts.comfy.color_memories import Looking
    from ..memory.entries import ColorMemory as Memory
    from ..memory.features import FeatureSource
    from ..pipelines.film_memory import KeyFrame
    from ..pipelines.film_thorough import ThoroughKeys
    from ..pipelines.shots import Shot

_ALIASES = ["film", "movie", "footage", "clip"]
_VIDEO = "It is read where it lies, a frame at a time, so that its length takes no memory."


class FindShots(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarFindShots",
            display_name="Find Shots",
            category=CATEGORY_VIDEO,
            description="Finds the frames at which the shots of a film begin, and which of them are in color already.",
            search_aliases=["scene detection", "cut detection", "shot boundary", "split video", *_ALIASES],
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
                    tooltip="Numbers of the frames at which shots begin, counted from 0: for cuts of Colorize Video, "
                    "as they are or corrected by hand.",
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
        from ..pipelines.film_scores import ShotReport, thumbnail
        from ..pipelines.film_strip import film_strip

        expect(cls, video=video)
        settings = resolved(cls, ShotSettings, {}, values)
        film = _film(cls, video, resolved(cls, VideoFileSettings, {}, values))
        shots = _shots(film, settings)
        reports = []
        for shot in shots:
            middle = (shot.start + shot.stop) // 2
            shown = next((thumbnail(frame.picture) for frame in film.frames(middle, middle + 1)), None)
            reports.append(ShotReport(shot.start, shot.stop, shot.colored, thumbnail=shown))
        _tell(cls, film)
        announce(cls, f"{len(shots)} shot(s) in {shots[-1].stop} frames")
        return io.NodeOutput(", ".join(str(shot.start) for shot in shots), len(shots), *results(film_strip(reports)))


class ColorizeVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarColorizeVideo",
            display_name="Colorize Video",
            category=CATEGORY_VIDEO,
            description="Colors a film by references and key frames: finds its shots, colors each by a color memory, "
            "and keeps colors steady along the motion. Frames have their own lightness; times and sound are kept.",
            search_aliases=["video colorization", "color propagation", "keyframe", "deflicker", *_ALIASES],
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
                *later_widgets(FilmSettings, VideoFileSettings),
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
        from ..hosts.comfy.videos import film_output, identity_of, shown_video, video_of
        from ..pipelines.film import FilmColors, color_film
        from ..pipelines.film_identity import identity

        expect(cls, video=video, model=model, memory=memory, vae=vae, clip=clip)
        files = resolved(cls, VideoFileSettings, {}, values)
        keys = _key_frames(cls, key_frames, key_frame_mask, files)
        references = _References.checked(cls, reference, reference_mask)
        network = looking(model, vae, conditioning, title(cls), clip)
        settings, source = _asked(cls, network, memory, values)
        film = _film(cls, video, files)
        bar = _Bar(film.facts.frames or 0)
        colors = FilmColors(
            references.beside(memory, source, settings), keys, references.thorough(cls, network, settings)
        )
        made = {
            **identity(source, settings, colors.memory, keys, identity_of(video)),
            "thorough key frames": "no" if colors.thorough is None else str(settings.key_method),
            "deinterlaced": str(files.deinterlace),
        }
        sink, inside = film_output(files.filename_prefix, files.codec, film, made)
        report = color_film(
            film,
            source,
            settings,
            colors,
            sink,
            device=network.device,
            out_of_memory=out_of_memory,
            on_look=bar.looked,
            on_frame=bar.colored,
        )
        _tell(cls, film)
        return io.NodeOutput(
            video_of(report.result),
            *results(report.strip()),
            [1.0 if shot.score is None else shot.score for shot in report.shots],
            -1 if report.suggestion is None else report.suggestion,
            ui=shown_video(report.result, inside),
        )


@dataclass(frozen=True)
class _References:
    """Color pictures that serve every shot, checked.

    :param pictures: (B, H, W, 3) in 0..1; None for none.
    :param masks: (1 or B, H, W), or None.
    """

    pictures: Tensor | None
    masks: Tensor | None

    @classmethod
    def checked(cls, node: type[io.ComfyNode], reference: Any, reference_mask: Any) -> _References:
        """From the sockets.

        :raises ValueError: not pictures or masks, or a mask without a picture.
        """
        pictures = optional_picture(node, reference, "reference")
        if pictures is None and reference_mask is not None:
            raise ValueError(
                f"{title(node)}: reference_mask: found one, expected none without a reference; connect the reference, "
                "or disconnect the mask."
            )
        masks = None if pictures is None else optional_mask(node, reference_mask, "reference_mask", len(pictures))
        return cls(pictures, masks)

    def beside(self, memory: Memory | None, source: FeatureSource, settings: FilmSettings) -> Memory | None:
        """A memory of them and of another one; None where there is neither."""
        from ..pipelines.memory import merged_memories, write_references
        from ..pipelines.memory_settings import WritingSettings

        if self.pictures is None:
            return memory
        writing = WritingSettings(settings.asking.features)
        own = write_references(source, self.pictures, writing, masks=self.masks, beside_others=memory is not None)
        return own if memory is None else merged_memories({"reference": own, "memory": memory})

    def thorough(self, node: type[io.ComfyNode], network: Looking, settings: FilmSettings) -> ThoroughKeys | None:
        """What colors a shot's surest frame by them; None where that is not wanted, or there is nothing to do it by."""
        if self.pictures is None or network.host is None or settings.key_method != "thorough":
            return None
        from ..hosts.comfy.recommended import recommended
        from ..pipelines.exemplar_references import References
        from ..pipelines.exemplar_settings import ColorizeSettings
        from ..pipelines.film_thorough import ThoroughKeys

        chosen = ColorizeSettings.resolve(recommended(network.network, "exemplar"))
        network.host.on_step = lambda _: stop_if_canceled()
        return ThoroughKeys(network.host, References.of(self.pictures, self.masks, ()), chosen)


def _key_frames(
    node: type[io.ComfyNode], pictures: Any, masks: Any, files: VideoFileSettings
) -> tuple[KeyFrame, ...]:
    """Key frames from the sockets.

    :raises ValueError: not pictures or masks, or another number of them than is listed.
    """
    from ..color.batches import part_of
    from ..pipelines.film_memory import KeyFrame

    numbers, asked = files.numbers, f"{title(node)}: key_frames"
    frames = optional_picture(node, pictures, "key_frames")
    found = 0 if frames is None else len(frames)
    if len(numbers) != found:
        raise ValueError(
            f"{asked}: found {found} picture(s) and {len(numbers)} key_frame_numbers, expected as many; list one "
            "number for each picture."
        )
    if frames is None:
        return ()
    given = optional_mask(node, masks, "key_frame_mask", found)
    parts = [slice(i, i + 1) for i in range(found)]
    return tuple(
        KeyFrame(number, frames[part], part_of(given, part)) for number, part in zip(numbers, parts, strict=True)
    )


def _asked(
    node: type[io.ComfyNode], network: Looking, memory: Memory | None, values: dict[str, Any]
) -> tuple[FilmSettings, FeatureSource]:
    """The settings, and what looks at frames, as a connected memory wants it."""
    own = {entry.widget for entry in entries(MemorySettings).values()}
    asking = resolved(node, MemorySettings, network.recommended, {k: v for k, v in values.items() if k in own})
    asked = network.asking(memory, asking)
    rest = {name: value for name, value in values.items() if name not in own}
    return resolved(node, FilmSettings, {}, rest, asking=asked["asking"]), asked["network"]


def _film(node: type[io.ComfyNode], video: Any, files: VideoFileSettings) -> Film:
    from ..hosts.comfy.videos import film_of

    try:
        film = film_of(video, deinterlace=files.deinterlace)
    except ValueError as error:
        raise ValueError(f"{title(node)}: video: {error}") from error
    for sentence in film.facts.assumed:
        announce(node, sentence)
    return film


def _shots(film: Film, settings: ShotSettings) -> list[Shot]:
    from ..pipelines.shots import LOOKED_AT, find_shots

    bar = _Bar(film.facts.frames or 0)

    def looked() -> Iterator[Any]:
        for frame in film.small(LOOKED_AT):
            bar.looked(frame.index, frame.picture)
            yield frame

    return find_shots(looked(), settings)


class _Bar:
    """Progress by frames of looking for cuts, then of coloring; ends the run when the user cancels.

    :param frames: what the film's header promises; 0 where it does not say.
    """

    def __init__(self, frames: int) -> None:
        self.total, self._bar = frames, FrameProgress(max(1, frames))

    def looked(self, number: int, picture: Tensor | None = None) -> None:
        """A frame was looked at for cuts."""
        self._bar.total = max(self.total, number + 1)
        self._bar(number + 1, picture)

    def colored(self, done: int, total: int, picture: Tensor) -> None:
        """So many frames are colored; the last one, (1, H, W, 3)."""
        self._bar.total = total
        self._bar(done, picture[0])


def _tell(node: type[io.ComfyNode], film: Film) -> None:
    """What went wrong in reading."""
    for sentence in film.notes:
        announce(node, sentence)


NODES = [FindShots, ColorizeVideo]
