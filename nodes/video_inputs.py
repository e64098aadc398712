"""What comes into the nodes of films: the film, its key frames and references; and progress over its frames."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hosts.comfy.runs import stop_if_canceled
from ..settings import Settings, entries
from .common import FrameProgress
from .inputs import optional_mask, optional_picture
from .widgets import announce, title

if TYPE_CHECKING:
    from torch import Tensor

    from ..hosts.comfy.color_memories import Looking
    from ..hosts.comfy.videos import GivenFilm
    from ..memory.entries import ColorMemory as Memory
    from ..memory.features import FeatureSource
    from ..pipelines.film_memory import KeyFrame
    from ..pipelines.film_settings import FilmSettings, VideoFileSettings
    from ..pipelines.film_thorough import ThoroughKeys

#: Seconds between previews: a frame is shown sooner than the page draws it.
_PREVIEW = 0.4
#: Frames that are looked at for cuts in the time in which one is colored, for the bar.
_LOOKED = 10


def own(settings: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a node's widgets those of one class."""
    known = {entry.widget for entry in entries(settings).values()}
    return {name: value for name, value in values.items() if name in known}


def given_film(node: type[io.ComfyNode], video: Any, files: VideoFileSettings) -> GivenFilm:
    """The film of a VIDEO, looked at; what its file does not say goes to the log and to the node's text.

    :raises ValueError: none that can be read.
    """
    from ..hosts.comfy.videos import film_of

    try:
        given = film_of(video, deinterlace=files.deinterlace, codec=files.codec)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"{title(node)}: video: {error}") from error
    for sentence in given.film.facts.assumed:
        announce(node, sentence)
    return given


def listed_keys(node: type[io.ComfyNode], pictures: Any, masks: Any, files: VideoFileSettings) -> tuple[KeyFrame, ...]:
    """Key frames from the sockets.

    :raises ValueError: not pictures or masks, or another number of them than is listed.
    """
    from ..color.batches import part_of
    from ..pipelines.film_memory import KeyFrame

    numbers = files.numbers
    frames = optional_picture(node, pictures, "key_frames")
    found = 0 if frames is None else len(frames)
    if len(numbers) != found:
        raise ValueError(
            f"{title(node)}: key_frame_numbers: found {len(numbers)} number(s) and {found} picture(s) in key_frames, "
            "expected one number for each picture; correct the list."
        )
    if frames is None:
        if masks is not None:
            raise ValueError(
                f"{title(node)}: key_frame_mask: found one without key_frames, expected both; connect the pictures, "
                "or disconnect the mask."
            )
        return ()
    given = optional_mask(node, masks, "key_frame_mask", found)
    parts = [slice(i, i + 1) for i in range(found)]
    return tuple(
        KeyFrame(number, frames[part], part_of(given, part)) for number, part in zip(numbers, parts, strict=True)
    )


@dataclass(frozen=True)
class References:
    """Color pictures that serve every shot, checked.

    :param pictures: (B, H, W, 3) in 0..1; None for none.
    :param masks: (1 or B, H, W), or None.
    """

    pictures: Tensor | None
    masks: Tensor | None

    @classmethod
    def checked(cls, node: type[io.ComfyNode], reference: Any, reference_mask: Any) -> References:
        """From the sockets.

        :raises ValueError: not pictures or masks, or a mask without a picture.
        """
        pictures = optional_picture(node, reference, "reference")
        if pictures is None and reference_mask is not None:
            raise ValueError(
                f"{title(node)}: reference_mask: found one without a reference, expected both; connect the reference, "
                "or disconnect the mask."
            )
        masks = None if pictures is None else optional_mask(node, reference_mask, "reference_mask", len(pictures))
        return cls(pictures, masks)

    def identity(self) -> str:
        """What tells them from others."""
        from ..pipelines.film_identity import digest

        given = [each for each in (self.pictures, self.masks) if each is not None]
        return digest(given) if given else "none"

    def beside(self, memory: Memory | None, source: FeatureSource, settings: FilmSettings) -> Memory | None:
        """A memory of them and of another one; None where there is neither."""
        from ..memory.entries import Made
        from ..pipelines.memory import merged_memories, write_references
        from ..pipelines.memory_settings import WritingSettings

        if memory is not None and memory.made is not None:
            context = settings.asking.features.context
            memory.made.check(Made(source.fingerprint, source.spaces, context, source.name))
        if self.pictures is None:
            return memory
        writing = WritingSettings(settings.asking.features)
        made = write_references(source, self.pictures, writing, masks=self.masks, beside_others=memory is not None)
        return made if memory is None else merged_memories({"memory": memory, "reference": made})

    def thorough(self, network: Looking, settings: FilmSettings) -> ThoroughKeys | None:
        """What colors a shot's surest frame by them; None where that is not wanted, or there is nothing to do it by."""
        if self.pictures is None or network.host is None or settings.key_method != "thorough":
            return None
        from ..hosts.comfy.recommended import recommended
        from ..pipelines.exemplar_references import References as Several
        from ..pipelines.exemplar_settings import ColorizeSettings
        from ..pipelines.film_thorough import ThoroughKeys

        chosen = ColorizeSettings.resolve(recommended(network.network, "exemplar"))
        network.host.on_step = lambda _: stop_if_canceled()
        return ThoroughKeys(network.host, Several.of(self.pictures, self.masks, ()), chosen)


class FilmProgress:
    """A bar over looking for cuts, then over coloring; ends the run when the user cancels.

    A shot that begins anew, where memory ran out, does not turn it back.

    :param frames: what the film's header promises; 0 where it does not say.
    :param colors: whether frames are colored after they were looked at.
    """

    def __init__(self, frames: int, *, colors: bool = True) -> None:
        self._colors, self._frames, self._done, self._shown = colors, frames, 0, 0.0
        self._bar = FrameProgress(self._total(frames))

    def looked(self, number: int) -> None:
        """A frame was looked at for cuts."""
        self._frames = max(self._frames, number + 1)
        self._told(self._looks(number + 1), self._total(self._frames))

    def colored(self, done: int, total: int, picture: Tensor) -> None:
        """So many frames are colored; the last one, (1, H, W, 3)."""
        self._told(self._looks(total) + done, self._total(total), picture[0])

    def _looks(self, frames: int) -> int:
        return -(-frames // _LOOKED) if self._colors else frames

    def _total(self, frames: int) -> int:
        return max(1, self._looks(frames) + (frames if self._colors else 0))

    def _told(self, done: int, total: int, picture: Tensor | None = None) -> None:
        if picture is not None and time.monotonic() - self._shown < _PREVIEW and done < total:
            picture = None
        if picture is not None:
            self._shown = time.monotonic()
        self._done = max(self._done, done)
        self._bar.total = max(total, self._done)
        self._bar(self._done, picture)

    def finish(self) -> None:
        """All is done, also what was done before this run."""
        self._bar(self._bar.total)


def tell(node: type[io.ComfyNode], film: Any) -> None:
    """What went wrong in reading, in the log and in the node's text."""
    for sentence in film.notes:
        announce(node, sentence)
