"""ComfyUI's VIDEO as a film, and films as VIDEO."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...files.films import Film


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


def video_of(path: Path) -> Any:
    """A file as VIDEO."""
    from comfy_api.latest import InputImpl

    return InputImpl.VideoFromFile(str(path))
