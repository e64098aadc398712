"""Picture files, in and out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .output import whole
from .photographs import FileFacts, Photograph

__all__ = ["FileFacts", "Photograph", "check_format", "load_picture", "read_photograph", "save_picture"]

#: Suffixes that a picture can be written under.
WRITTEN = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".exr")


def read_photograph(path: str | Path, *, pages: Literal["first", "all"] = "first") -> Photograph:
    """The pages of a picture file, and what it said.

    :raises ValueError: not a readable picture.
    :raises FileNotFoundError: no such file.
    """
    image = _load(Path(path))
    return Photograph(image, None, FileFacts("PNG", 8, False))


def load_picture(path: str | Path) -> Tensor:
    """(1, H, W, 3) sRGB in 0..1, turned upright; transparency is laid on white. What a user should know is logged.

    :raises ValueError: not a readable picture.
    :raises FileNotFoundError: no such file.
    """
    photograph = read_photograph(path)
    for note in photograph.facts.notes:
        logging.warning("%s: %s", path, note)
    if photograph.alpha is None:
        return photograph.images
    from ..color import drop_alpha

    return drop_alpha(torch.cat([photograph.images, photograph.alpha[..., None]], -1))


def _load(path: Path) -> Tensor:
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16-bit gray: PIL's own conversion would cut it off at 255
                gray = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535)
                return gray[None, ..., None].expand(-1, -1, -1, 3).clamp(0, 1)
            rgba = torch.from_numpy(np.asarray(image.convert("RGBA")).astype(np.float32) / 255)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"There is no picture {path}; look at the path, or reinstall the pack if it is one of its own."
        ) from None
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not a picture that can be read ({error}).") from error
    from ..color import drop_alpha

    return drop_alpha(rgba[None])


def check_format(path: str | Path, bits: Literal[8, 16] = 8) -> None:
    """Refuse before work what a format cannot hold.

    :param path: a path or a suffix such as ".png".
    :raises ValueError: an unknown suffix, or a depth that the format does not have.
    """
    suffix = Path(path).suffix.lower() or str(path).lower()
    if suffix not in WRITTEN:
        raise ValueError(f"{path}: pictures are written as {', '.join(WRITTEN)}; choose one of these.")
    if bits == 16 and suffix in (".jpg", ".jpeg", ".webp"):
        raise ValueError(f"{path}: {suffix} holds 8 bits; choose 8 bits, .png or .tif.")


def save_picture(
    image: Tensor,
    path: str | Path,
    *,
    bits: Literal[8, 16] = 8,
    facts: FileFacts | None = None,
    workflow: Mapping[str, str] | None = None,
) -> None:
    """Write the first picture of (B, H, W, 3); the suffix chooses the format.

    :param bits: bits of a sample.
    :param facts: what the file said that the picture was made of: resolution and capture metadata are kept.
    :param workflow: texts by their names, as ComfyUI writes them: "prompt", "workflow".
    :raises ValueError: the format cannot hold it.
    """
    from PIL import Image

    from ..color.pictures import to_uint8

    check_format(path, bits)
    with whole(path) as beside:
        Image.fromarray(to_uint8(image[0]).cpu().numpy()).save(beside)
