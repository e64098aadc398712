"""ComfyUI's VIDEO as a film, and films as VIDEO."""

from __future__ import annotations

import glob
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...files.films import Film, FilmOutput


def film_of(video: Any, *, deinterlace: bool = False) -> Film:
    """The film of a VIDEO, read frame by frame from where it lies; the part that it is trimmed to.

    What was made of pictures is encoded by ComfyUI first, in main memory: H.264 with the bits that the VIDEO has.

    :raises ValueError: no film in it, or an interlaced one without ``deinterlace``.
    """
    from ...files.films import open_film

    start, duration = video.get_active_trim_window()
    source = video.get_stream_source()
    if isinstance(source, io.BytesIO):
        source = io.BytesIO(source.getbuffer())  # ComfyUI reads from this one, too, and moves where it stands
    return open_film(source, deinterlace=deinterlace, start=start, duration=duration)


def identity_of(video: Any) -> str:
    """What tells a VIDEO from others, for a film that goes on: its file and the part of it, or its bytes."""
    source, part = video.get_stream_source(), "{:g} s from {:g} s".format(*reversed(video.get_active_trim_window()))
    if isinstance(source, str):
        from .changes import stamp

        return f"{stamp(Path(source))}, {part}"
    return f"{hashlib.sha256(source.getbuffer()).hexdigest()[:16]}, {part}"


def film_output(prefix: str, codec: str, film: Film, made: Mapping[str, str]) -> tuple[FilmOutput, str]:
    """Where a film goes, and the name of its folder within ComfyUI's output folder.

    A run of the very same work that was canceled is gone on with; else it gets the next free number.

    :param prefix: what its name begins with. ``made``: what identifies the work.
    :raises ValueError: a prefix that leads out of the output folder, or a film that the codec does not take.
    """
    from ...files.films import FilmOutput
    from ...files.films.codecs import CODECS
    from .output import destination

    suffix = CODECS[codec].suffixes[0]
    folder, stem, number, inside = destination(prefix, film.facts.width, film.facts.height)
    for parts in sorted(folder.glob(f"{glob.escape(stem)}_*_{suffix}.parts")):
        begun = FilmOutput(parts.with_suffix(""), codec, film, made)
        if begun.is_begun:
            return begun, inside
    return FilmOutput(folder / f"{stem}_{number:05}_{suffix}", codec, film, made), inside


def shown_video(path: Path, inside: str) -> Any:
    """A film in the output folder for a node's preview."""
    from comfy_api.latest import io, ui

    return ui.PreviewVideo([ui.SavedResult(path.name, inside, io.FolderType.output)])


def video_of(path: Path) -> Any:
    """A file as VIDEO."""
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(str(path))
