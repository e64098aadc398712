"""Photographs in and out of a workflow: what a user chooses, and files of names that were free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..files.pictures import FileFacts, Photograph, check_format, save_picture
from ..settings import Settings, setting

#: Sides of the mask that stands for "nothing is transparent", as ComfyUI's Load Image gives it.
NO_MASK = 64


@dataclass(frozen=True)
class LoadPhotographSettings(Settings):
    """How a picture file is read."""

    pages: Literal["first", "all"] = setting(
        "first",
        "Of a file with several pages or frames: first reads the first one and says how many there are, all makes a "
        "batch of them, which must be of one size.",
        advanced=True,
    )


@dataclass(frozen=True)
class SavePhotographSettings(Settings):
    """How pictures are written."""

    filename_prefix: str = setting(
        "photograph",
        "What the names begin with, after it comes a number; a slash makes a folder of ComfyUI's output folder. It may "
        "hold %year%, %month%, %day%, %width% and %height%. No file is ever replaced.",
    )
    format: Literal["png", "tiff", "jpeg", "exr"] = setting(
        "png",
        "png and tiff keep every level; png can be opened in a workflow's place, tiff is what picture editors expect. "
        "jpeg is small and loses a little. exr holds linear light in half floats, for compositing.",
    )
    bits: Literal["8", "16"] = setting(
        "8",
        "Bits of a sample. 8 is enough to look at; 16 keeps the fine steps of a scan through later editing, in about "
        "twice the size. png and tiff hold both, jpeg only 8, exr only 16.",
    )
    quality: int = setting(
        95,
        "Of jpeg; the others do not look at it. Low makes small files with visible blocks; 95 is hardly to be told "
        "from the picture, and 100 only larger.",
        low=1,
        high=100,
        advanced=True,
    )
    workflow: bool = setting(
        True,
        "Writes the workflow into the file, as Save Image does, so that the file brings it back when it is dropped on "
        "the page (png) or read by other programs. Off leaves only what the photograph's file said.",
        advanced=True,
    )

    @property
    def suffix(self) -> str:
        """Of the files."""
        return {"png": ".png", "tiff": ".tif", "jpeg": ".jpg", "exr": ".exr"}[self.format]

    @property
    def depth(self) -> Literal[8, 16]:
        """Bits of a sample."""
        return 16 if self.bits == "16" else 8

    def check(self) -> None:
        """Whether the format holds the depth.

        :raises ValueError: it does not.
        """
        check_format(self.suffix, self.depth)


def mask_of(photograph: Photograph) -> Tensor:
    """(P, H, W), 1 where a photograph is transparent, as ComfyUI's masks are; small and 0 where it nowhere is."""
    if photograph.alpha is None:
        return torch.zeros(len(photograph.images), NO_MASK, NO_MASK)
    return 1 - photograph.alpha


def save_photographs(
    images: Tensor,
    folder: Path,
    stem: str,
    settings: SavePhotographSettings,
    *,
    number: int = 1,
    facts: FileFacts | None = None,
    workflow: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write each picture of (B, H, W, 3) under a name that is free; no file is replaced, whoever writes at once.

    :param stem: what names begin with; ``%batch_num%`` in it becomes a picture's place in the batch.
    :param number: of the first file, if it is free.
    :param facts: what the file said that the pictures were made of.
    :param workflow: texts by their names.
    :returns: the files, in order.
    :raises ValueError: the format does not hold what is asked for.
    """
    check_format(settings.suffix, settings.depth, (images.shape[1], images.shape[2]))
    save = partial(
        save_picture,
        bits=settings.depth,
        quality=settings.quality,
        facts=facts,
        workflow=workflow if settings.workflow else None,
        new=True,
    )
    written, numbers = [], count(number)
    for index, image in enumerate(images):
        name = stem.replace("%batch_num%", str(index))
        for free in numbers:
            path = folder / f"{name}_{free:05}_{settings.suffix}"
            if not path.exists() and _is_written(save, image[None], path):
                written.append(path)
                break
    return written


def _is_written(save: Callable[[Tensor, Path], None], image: Tensor, path: Path) -> bool:
    """Write a picture, unless another writer was faster with the name."""
    try:
        save(image, path)
    except FileExistsError:
        return False
    return True
