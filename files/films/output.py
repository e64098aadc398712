"""A film written shot by shot, so that a run that was killed goes on at the last whole shot, with the same bytes.

Beside ``film.mkv`` stands the folder ``film.mkv.parts`` with a segment for each shot that is whole and a journal of
them; when all are there they are put together, and the folder goes.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from ..output import check_destination, whole
from . import muxing, pictures
from .codecs import Encoding, codec_of, encoding_of
from .encoding import Encoder
from .facts import FilmFacts, FilmFrame
from .journal import LOCK, NAME, Journal
from .segments import SUFFIX, SegmentWriter

if TYPE_CHECKING:
    from .reading import Film

log = logging.getLogger(__name__)


class HasFacts(Protocol):
    """What an output must know of a film; a :class:`.reading.Film` also has sound."""

    @property
    def facts(self) -> FilmFacts:
        """What the film is."""
        ...


class FilmOutput:
    """A film that is being written; see the module.

    :param path: of the film, or of the folder of its pictures.
    :param codec: one of :data:`.codecs.CODECS`.
    :param film: that it is made of: its times are kept, and a :class:`.reading.Film`'s sound, subtitles and timecode.
    :param made: what identifies the work, by names a user understands: input, settings, fingerprints of model and
        memory.
    :param overwrite: whether a file of that name may be replaced.
    :param sound: whether sound and subtitles are taken along.
    :raises ValueError: no such codec, a container that does not take it, a film too small for it.
    """

    def __init__(
        self,
        path: str | Path,
        codec: str,
        film: HasFacts,
        made: Mapping[str, str],
        *,
        overwrite: bool = False,
        sound: bool = True,
    ) -> None:
        self.path = Path(path)
        self.codec = codec_of(codec, self.path)
        self.facts = film.facts
        self.encoding: Encoding = encoding_of(self.codec, film.facts)
        self.parts = self.path.with_name(self.path.name + ".parts")
        #: What a user should know of the output.
        self.notes: list[str] = []
        self._film: Film | None = film if sound and hasattr(film, "opened") else None  # pyright: ignore[reportAttributeAccessIssue]
        self._overwrite, self._shots = overwrite, list[tuple[int, int]]()
        self._lines: dict[int, dict[str, Any]] = {}
        self._even_facts = film.facts if self.path.suffix.lower() == ".mxf" else None
        self.journal = Journal(self.parts, {**made, **self._own()})

    def _own(self) -> dict[str, str]:
        import av

        facts = self.facts
        return {
            "codec": self.codec.name,
            "size": f"{facts.width} x {facts.height}",
            "time base": str(facts.time_base),
            "colors": f"{self.encoding.pixels} {self.encoding.matrix} {'full' if self.encoding.full else 'limited'}",
            "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
        }

    def check(self) -> None:
        """Everything that can be refused, before long work.

        :raises ValueError: see the message.
        :raises OSError: the disk is full.
        """
        self.journal.check()
        if self.codec.is_folder:
            pictures.check_folder(
                self.path, self.codec.encoder, replace=self._overwrite or bool(self.journal.finished())
            )
            return
        check_destination(self.path, self.codec.suffixes)
        if self.path.exists() and not self._overwrite and not self._is_own():
            raise ValueError(
                f"{self.path} is there already and is not replaced; choose another name, or say to overwrite."
            )
        Encoder(self.encoding, self.facts.time_base, self.facts.rate, self.facts.aspect)
        if self.encoding.pixels == self.codec.odd:
            self._note(
                f"The film is {self.facts.width} x {self.facts.height}; {self.codec.name} halves chroma only of even "
                "sizes, so all chroma is kept (4:4:4). Some players cannot show that."
            )
        if self.facts.aspect != 1 and (self.codec.encoder == "ffv1" or self._even_facts is not None):
            self._note(
                f"The film's pixels are not square ({self.facts.aspect}), and PyAV cannot say so in this file; set "
                "it in the player, or choose prores4444 in .mov."
            )
        if self._film is not None:
            for note in muxing.check_sound(self.path.suffix.lower(), self._film):
                self._note(note)

    def begin(self, shots: Sequence[tuple[int, int]]) -> Mapping[int, dict[str, Any]]:
        """Begin to write, or go on.

        :param shots: first frame of each shot, and the one after its last; they follow each other.
        :returns: the scores of the shots that are whole already, by number.
        :raises ValueError: parts of other work.
        """
        self._shots = list(shots)
        found = self.journal.begin(shots)
        self._lines = {number: line for number, line in found.items() if self._is_whole(number, line)}
        return {number: line["scores"] for number, line in self._lines.items()}

    @contextmanager
    def shot(self, number: int) -> Iterator[ShotWriter | pictures.PictureWriter]:
        """A shot's writer; when the block ends well the shot is whole, else nothing of it stays.

        :raises ValueError: it has no frame, or MXF cannot hold its times.
        :raises OSError: the disk is full, or it cannot be written; shots that are whole stay, and a next run goes on.
        """
        path = self._segment(number)
        if self.codec.is_folder:
            with pictures.written_folder(path) as folder:
                pictured = pictures.PictureWriter(folder, self.codec.encoder, (self.facts.height, self.facts.width))
                yield pictured
                self._check_frames(number, pictured.frames)
            line = {"shot": number, "frames": pictured.frames, "scores": pictured.scores}
            self._add(number, {**line, "sizes": pictured.sizes, "times": pictured.times})
            return
        with whole(path) as beside, beside.open("wb") as file:
            encoder = Encoder(self.encoding, self.facts.time_base, self.facts.rate, self.facts.aspect)
            writer = ShotWriter(encoder, SegmentWriter(file, encoder.extradata), self._even_facts)
            yield writer
            self._check_frames(number, writer.frames)
            writer.finish()
        self._add(number, {"shot": number, "frames": writer.frames, "scores": writer.scores, **_content(path)})

    def _check_frames(self, number: int, frames: int) -> None:
        if frames < 1:
            start, stop = self._shots[number]
            raise ValueError(f"Shot {number} (frames {start} to {stop - 1}) has no frame; the film ended before.")

    def _add(self, number: int, line: dict[str, Any]) -> None:
        self.journal.add(line)
        self._lines[number] = line

    def finish(self) -> Path:
        """Put the film together and remove the parts.

        :returns: where it is.
        :raises ValueError: shots are missing; a film appeared there in the meantime.
        :raises OSError: it cannot be written; the parts stay, and a next run goes on.
        """
        if missing := [number for number in range(len(self._shots)) if number not in self._lines]:
            raise ValueError(f"{len(missing)} shots are not written yet, the first is {missing[0]}.")
        segments = [self._segment(number) for number in range(len(self._shots))]
        if self.codec.is_folder:
            self.journal.add({"finished": True})
            times = [time for number in range(len(segments)) for time in self._lines[number]["times"]]
            pictures.put_together(segments, self.path, times, self.facts.time_base)
            self._clean([])
            return self.path
        replace = self._overwrite or self._is_own()
        try:
            with whole(self.path, new=not replace) as beside:
                with beside.open("w+b") as file:
                    muxing.mux(file, self.path.suffix.lower(), self.encoding, self.facts, segments, self._film)
                self.journal.add({"finished": _content(beside)})
        except FileExistsError:
            raise ValueError(
                f"{self.path} was written by somebody else in the meantime and is left as it is; the shots are in "
                f"{self.parts}. Move that file away, or say to overwrite, and run again."
            ) from None
        self._clean(segments)
        return self.path

    def _clean(self, segments: list[Path]) -> None:
        for path in [*segments, self.parts / NAME, self.parts / LOCK]:
            path.unlink(missing_ok=True)
        self.journal.release()
        try:
            self.parts.rmdir()
        except OSError:
            log.info("%s holds files of others and stays.", self.parts)

    def _segment(self, number: int) -> Path:
        return self.parts / f"shot_{number:05}{'' if self.codec.is_folder else SUFFIX}"

    def _is_whole(self, number: int, line: Mapping[str, Any]) -> bool:
        if not 0 <= number < len(self._shots) or not isinstance(line.get("scores"), dict):
            return False
        path = self._segment(number)
        if self.codec.is_folder:
            return pictures.is_there(path, self.path, line.get("sizes") or {})
        return path.is_file() and path.stat().st_size == line.get("size") and _content(path) == _facts_of(line)

    def _is_own(self) -> bool:
        """Whether the file there was put together from these very parts, by a run that was killed behind that."""
        return self.path.is_file() and self.journal.finished() == _content(self.path)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            log.info("%s", text)


class ShotWriter:
    """Frames of one shot, in order."""

    def __init__(self, encoder: Encoder, segment: SegmentWriter, even: FilmFacts | None) -> None:
        self._encoder, self._segment, self._even = encoder, segment, even
        #: What is journaled with the shot: anything that JSON holds.
        self.scores: dict[str, Any] = {}
        self.frames = 0

    def write(self, frame: FilmFrame, picture: Tensor) -> None:
        """A frame in its new colors, at its own time.

        :param picture: (H, W, 3) in 0..1, of the film's size.
        :raises ValueError: another size.
        :raises OSError: it cannot be written.
        """
        size = (self._encoder.encoding.height, self._encoder.encoding.width, 3)
        if tuple(picture.shape) != size:
            raise ValueError(
                f"found a picture of shape {tuple(picture.shape)} for frame {frame.index}, expected {size}."
            )
        if self._even is not None:
            muxing.check_even(frame, self._even)
        for packet in self._encoder.encode(picture, frame.pts, frame.duration):
            self._segment.write(packet)
        self.frames += 1

    def finish(self) -> None:
        """Write what the encoder still holds."""
        for packet in self._encoder.finish():
            self._segment.write(packet)


def _content(path: Path) -> dict[str, Any]:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return {"size": path.stat().st_size, "sha256": total.hexdigest()}


def _facts_of(line: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": line.get("size"), "sha256": line.get("sha256")}
