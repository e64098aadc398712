"""A film as a folder of pictures: a picture a frame, numbered from 1, and a file that says when each is shown."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from torch import Tensor

from ..output import try_folder, whole
from ..saving import save_picture
from .facts import FilmFrame

#: When each picture is shown, in milliseconds, as mkvmerge and others read it ("timestamp format v2").
TIMES = "timestamps.txt"


def picture_name(index: int, suffix: str) -> str:
    """Of a frame's picture; names sort as frames do."""
    return f"frame_{index + 1:08}{suffix}"


class PictureWriter:
    """Pictures of one shot's frames, in order."""

    def __init__(self, folder: Path, suffix: str, size: tuple[int, int]) -> None:
        self._folder, self._suffix, self._size = folder, suffix, (*size, 3)
        #: What is journaled with the shot: anything that JSON holds.
        self.scores: dict[str, Any] = {}
        self.frames = 0
        #: Bytes of each picture, and when it is shown.
        self.sizes: dict[str, int] = {}
        self.times: list[int] = []

    def write(self, frame: FilmFrame, picture: Tensor) -> None:
        """A frame in its new colors; see :meth:`.output.ShotWriter.write`."""
        if tuple(picture.shape) != self._size:
            raise ValueError(
                f"found a picture of shape {tuple(picture.shape)} for frame {frame.index}, expected {self._size}."
            )
        path = self._folder / picture_name(frame.index, self._suffix)
        save_picture(picture[None], path, bits=16)
        self.sizes[path.name] = path.stat().st_size
        self.times.append(frame.pts)
        self.frames += 1


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """A folder that gets its name when the block ends well; else nothing of it stays."""
    beside = path.with_name(path.name + ".writing")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_folder(path: Path, suffix: str, *, replace: bool) -> None:
    """Whether pictures can be written into a folder.

    :raises ValueError: no folder, or there are numbered pictures in it that are not to be replaced.
    """
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; give the name of a folder.")
    try_folder(path.parent, path.name)
    if not path.is_dir():
        return
    try_folder(path, picture_name(0, suffix))
    if not replace and (found := next(path.glob(f"frame_*{suffix}"), None)):
        raise ValueError(
            f"{path} holds {found.name} already, which is not replaced; choose another folder, or say to overwrite."
        )


def is_there(place: Path, folder: Path, sizes: Mapping[str, Any]) -> bool:
    """Whether all pictures of a shot are whole, in the shot's own place or, moved already, in the output."""
    return bool(sizes) and all(
        _size(place / name) == size or _size(folder / name) == size for name, size in sizes.items()
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def put_together(places: Sequence[Path], folder: Path, times: Sequence[int], base: Fraction) -> None:
    """Move all shots' pictures into the folder, and say there when each is shown.

    :raises OSError: one cannot be moved; a next run goes on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for place in places:
        if not place.is_dir():
            continue
        for path in sorted(place.iterdir()):
            os.replace(path, folder / path.name)
        place.rmdir()
    with whole(folder / TIMES) as beside:
        lines = [f"{float(time * base * 1000):.6f}" for time in times]
        beside.write_text("\n".join(["# timestamp format v2", *lines, ""]), "utf-8")
