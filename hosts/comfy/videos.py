"""ComfyUI's VIDEO as a film, and films as VIDEO."""

from __future__ import annotations

import glob
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files.films.codecs import CODECS, encoding_of
from .output import destination

if TYPE_CHECKING:
    from ...files.films import Film, FilmOutput
    from .video_pictures import PicturesFilm


@dataclass(frozen=True)
class GivenFilm:
    """A VIDEO as a film.

    :param film: read frame by frame.
    :param identity: what tells it from others, for a run that goes on; called where it is asked, since it may take
        a moment.
    """

    film: Film | PicturesFilm
    identity: Callable[[], str]


def film_of(video: Any, *, deinterlace: bool = False, codec: str = "h264") -> GivenFilm:
    """The film of a VIDEO: a file where it lies, pictures as they are; the part that the VIDEO is trimmed to.

    :param codec: what it is to be written as, which its sound must suit where that is not encoded yet.
    :raises ValueError: no film in it, an interlaced one without ``deinterlace``, no PyAV.
    """
    from comfy_api.latest import Input, InputImpl

    if not isinstance(video, Input.Video):
        raise ValueError(f"found {type(video).__name__}, expected VIDEO; connect Load Video.")
    if isinstance(video, InputImpl.VideoFromComponents):
        pictures = _of_pictures(video, codec)
        return GivenFilm(pictures, pictures.identity)
    from ...files.films import open_film

    source = video.get_stream_source()
    start, duration = video.get_active_trim_window()
    part = f"{duration:g} s from {start:g} s"

    def identity() -> str:
        from ...pipelines.film_identity import file_identity

        if isinstance(source, io.BytesIO):
            with source.getbuffer() as view:  # not copied: it may be a whole film
                return f"{len(view)} bytes, {hashlib.sha256(view).hexdigest()[:16]}, {part}"
        return f"{file_identity(Path(source))}, {part}"

    return GivenFilm(open_film(source, deinterlace=deinterlace, start=start, duration=duration), identity)


def _of_pictures(video: Any, codec: str) -> PicturesFilm:
    from .video_pictures import PicturesFilm, SoundedPictures

    components, bits = video.get_components(), video.get_bit_depth()
    pictures, audio = (components.images, components.frame_rate, bits), components.audio
    if not len(components.images):
        raise ValueError("found a film without a frame, expected at least one; look at the node before it.")
    if not audio or not audio["waveform"].numel():
        return PicturesFilm(*pictures)
    sound = "aac" if CODECS[codec].suffixes[0] == ".mp4" else "pcm_s16le"
    return SoundedPictures(*pictures, audio["waveform"][0], int(audio["sample_rate"]), sound)


def film_output(prefix: str, codec: str, film: Film | PicturesFilm, made: Mapping[str, str]) -> tuple[FilmOutput, str]:
    """Where a film goes, and the name of its folder within ComfyUI's output folder.

    A run of the very same work that did not come to its end is gone on with; else it gets the next free number.

    :param prefix: what its name begins with.
    :param made: what identifies the work.
    :raises ValueError: a prefix that leads out of the output folder, or a film that the codec does not take.
    """
    from ...files.films import FilmOutput

    encoding_of(CODECS[codec], film.facts)
    suffix = CODECS[codec].suffixes[0]
    folder, stem, number, inside = destination(prefix, film.facts.width, film.facts.height)
    for parts in sorted(folder.glob(f"{glob.escape(stem)}_*_{glob.escape(suffix)}.parts")):
        begun = FilmOutput(parts.with_suffix(""), codec, film, made)
        if _is_begun(begun):
            return begun, inside
    return FilmOutput(folder / f"{stem}_{number:05}_{suffix}", codec, film, made), inside


def _is_begun(output: FilmOutput) -> bool:
    """Whether parts of this very work lie there."""
    try:
        output.journal.check()
    except (ValueError, OSError):
        return False
    return output.journal.path.is_file()


def listed(path: Path, inside: str) -> dict[str, Any]:
    """A film in the output folder, for the page's list of outputs.

    The node itself shows its last live preview: that stands before what a node ends with until it runs again, and the
    page takes it for a film, and fails, where the end of a node with a VIDEO socket has ``images``. Save Video behind
    it plays the film.
    """
    return {"video": [{"filename": path.name, "subfolder": inside, "type": "output"}]}


def video_of(path: Path) -> Any:
    """A file as VIDEO."""
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(str(path))
