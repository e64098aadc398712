"""Picture files, and the sheets that show what a run did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


def load_picture(path: Path) -> Tensor:
    """(1, H, W, 3) in 0..1, turned as its EXIF says; transparency is laid on white, 16 bits are kept.

    :raises ValueError: not a readable picture.
    :raises FileNotFoundError: no such file.
    """
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


def save_picture(image: Tensor, path: Path) -> None:
    """Write the first picture of (B, H, W, 3); the suffix chooses the format."""
    from PIL import Image

    from ..color.pictures import to_uint8

    Image.fromarray(to_uint8(image[0]).cpu().numpy()).save(path)
