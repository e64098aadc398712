"""Files opened by FFmpeg, and nothing but files: no network, no list that names other files."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

#: FFmpeg's names of the containers that are read. Left out is what opens other files or addresses: playlists, concat
#: scripts, session descriptions, numbered pictures.
CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2",
    "matroska,webm",
    "mxf",
    "avi",
    "mpegts",
    "mpeg",
    "mpegvideo",
    "m4v",
    "h264",
    "hevc",
    "asf",
    "flv",
    "nut",
    "ogg",
    "dv",
    "gxf",
    "ivf",
    "yuv4mpegpipe",
)
_KNOWN = "MP4, MOV, MKV, WebM, MXF, AVI, MPEG, WMV, FLV, DV and the like"


class _Part(io.RawIOBase):
    """A seekable file object as a reader of its own, so that several readers share it."""

    def __init__(self, file: BinaryIO, lock: threading.Lock) -> None:
        self._file, self._lock, self._at = file, lock, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._lock:
            before = self._at if whence == 1 else 0
            self._at = self._file.seek(before + offset, 0 if whence == 1 else whence)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        with self._lock:
            self._file.seek(self._at)
            found = self._file.read(size)
            self._at += len(found)
        return found


class Source:
    """Where a film comes from: a file, or a seekable object that holds one.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: a folder, an address, an object that cannot seek.
    """

    def __init__(self, source: str | Path | BinaryIO) -> None:
        self._lock = threading.Lock()
        if isinstance(source, str | Path):
            text = str(source)
            if "://" in text:
                raise ValueError(f"{text} is an address; films are read from files: download it first.")
            path = Path(source)
            if path.is_dir():
                raise ValueError(f"{path} is a folder; a film is a file: name one in it.")
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist; look at the name of the film.")
            if not path.is_file():
                raise ValueError(f"{path} is no ordinary file; a film is one.")
            self.name, self._file = path.name, path
        else:
            if not (hasattr(source, "seek") and hasattr(source, "read")):
                raise ValueError(
                    f"found a {type(source).__name__}; a film is a file, or an object to read and seek in."
                )
            self.name, self._file = "The film", source

    @contextmanager
    def opened(self) -> Iterator[InputContainer]:
        """FFmpeg's view of it, closed when the block ends; several at a time do not disturb each other.

        :raises ValueError: FFmpeg does not open it, or there is no PyAV.
        """
        try:
            import av
            from av.error import FFmpegError
        except ImportError as error:
            raise ValueError("Films are read by PyAV, which is not installed: pip install av.") from error
        file = self._file.open("rb") if isinstance(self._file, Path) else _Part(self._file, self._lock)
        # no protocol has the name "none": what a file wants to open beside itself stays closed
        options = {"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "none"}
        with file:
            try:
                container = av.open(file, "r", options=options)
            except FFmpegError as error:
                raise ValueError(
                    f"{self.name} could not be opened as a film: it is broken, or none of {_KNOWN}. A picture is "
                    "colored as a picture; what FFmpeg plays otherwise is converted to MKV first."
                ) from error
            with container:
                yield container


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """The film itself, of all that a container holds.

    :raises ValueError: there is none.
    """
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic and stream.codec_context is not None:
            return stream
    found = ", ".join(sorted({each.type for each in container.streams})) or "nothing"
    raise ValueError(f"{name} holds no film that can be decoded (found: {found}); give a file with a video stream.")
