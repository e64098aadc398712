"""What was dropped on the page and painted there, read; and what is shown and downloaded, written.

Files go through the pack's own readers, so that 16 bits, profiles and orientation stay what they are; the browser only
ever sees a small copy.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ...files.pictures import FileFacts

#: Longest side of what is painted on, and of results as they are shown; what is downloaded has the picture's own size.
PAINTED, SHOWN, SMALL = 1024, 1600, 192
#: Bytes of pictures that are kept until they are asked for again: three photographs of 14 megapixels.
HELD = 512 * 2**20
#: How far the sides' ratio of what was painted may differ from the picture's by rounding.
_RATIO = 0.02


@dataclass(frozen=True)
class Dropped:
    """A picture file that was dropped.

    :param image: (1, H, W, 3) in 0..1, transparency laid on white.
    :param facts: what its file said, for whoever writes a result of it.
    """

    image: Tensor
    facts: FileFacts
    name: str

    @property
    def about(self) -> str:
        """Name, size and depth, for the page."""
        height, width = self.image.shape[1:3]
        return f"{self.name}, {width} × {height}, {self.facts.bits} bits"


def read(path: str | Path) -> Dropped:
    """A dropped file, upright, as sRGB, at its own depth.

    :raises ValueError: not a readable picture.
    """
    import torch

    from ...color import drop_alpha
    from ...files.pictures import read_photograph

    photograph = read_photograph(path)
    image = photograph.images
    if photograph.alpha is not None:
        image = drop_alpha(torch.cat([image, photograph.alpha[..., None]], -1))
    return Dropped(image, photograph.facts, Path(path).name)


class KeptPictures:
    """Files that were dropped on a page, read once: what is shown of one, what is painted on and what a job works on.

    They belong to the page, which keeps of the pictures asked for last those that :data:`HELD` bytes hold. A file that
    was written anew is another one.
    """

    def __init__(self, most: int = HELD) -> None:
        self._most, self._lock = most, threading.Lock()
        self._kept: dict[tuple[str, int, int], Dropped] = {}  # the one asked for last stands last

    def read(self, path: str | Path) -> Dropped:
        """:func:`read`.

        :raises ValueError: not a readable picture.
        """
        try:
            about = os.stat(path)
        except OSError:
            return read(path)  # it says why not
        key = (str(path), about.st_mtime_ns, about.st_size)
        with self._lock:
            found = self._kept.pop(key, None) or read(path)
            self._kept[key] = found
            sizes = [each.image.nbytes for each in self._kept.values()]
            for oldest in list(self._kept):
                if sum(sizes) <= self._most:
                    break
                del self._kept[oldest], sizes[0]
        return found


def fitted(picture: Tensor, longest: int) -> Tensor:
    """A picture, (1, H, W, 3), whose longest side is at most so long."""
    from ...color import resize

    height, width = picture.shape[1:3]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    return resize(picture, (max(1, round(height * scale)), max(1, round(width * scale))))


def shown(picture: Tensor, longest: int = SHOWN) -> NDArray[Any]:
    """(h, w, 3) uint8 of a picture, (1, H, W, 3), for the browser."""
    from ...color import to_uint8

    return to_uint8(fitted(picture, longest))[0].cpu().numpy()


def write_shown(picture: Tensor, path: Path, longest: int = SHOWN) -> str:
    """:func:`shown` as a PNG file, for the page.

    gradio copies a file once. An array it writes each time that it is shown, over the file that a browser may be
    reading by then, which breaks the answer off.

    :param path: where it goes, in a folder that is there until the page has it.
    :returns: that path.
    """
    from PIL import Image

    from ...files.output import whole

    with whole(path) as beside:
        Image.fromarray(shown(picture, longest)).save(beside, "PNG")
    return str(path)


def write_result(image: Tensor, dropped: Dropped, folder: Path) -> Path:
    """A result at its own size, with 16 bits and what the picture's file said.

    :param image: (1, H, W, 3) in 0..1.
    :returns: the file, named after the picture.
    """
    from ...files.pictures import save_picture

    path = folder / f"{Path(dropped.name).stem}_colored.png"
    save_picture(image, path, bits=16, facts=dropped.facts)
    return path


def marks_of(layers: Sequence[NDArray[Any]], size: tuple[int, int]) -> tuple[Tensor, Tensor] | None:
    """Strokes that were painted on a picture.

    :param layers: (h, w, 4) uint8, colors and how opaque they are; upper ones last.
    :param size: (H, W) of the picture; what was painted on may be a smaller copy.
    :returns: colors (1, H, W, 3) in 0..1, and mask (1, H, W), 1 where something is painted; None where nothing is.
    :raises ValueError: they were painted on a picture of other proportions.
    """
    import torch
    import torch.nn.functional as F

    painted = None
    for layer in layers:
        if layer.ndim != 3 or layer.shape[2] != 4 or not layer[..., 3].any():
            continue
        above = torch.from_numpy(layer.astype("float32") / 255)[None]
        height, width = above.shape[1:3]
        if abs(width * size[0] / (height * size[1]) - 1) > _RATIO + 1 / min(height, width):
            raise ValueError(
                f"strokes: found {width} x {height} pixels on a picture of {size[1]} x {size[0]}, expected the same "
                "proportions; clear them and paint on the picture that is shown."
            )
        alpha = above[..., 3:]
        above = torch.cat([above[..., :3] * alpha, alpha], -1).movedim(-1, 1)  # edges keep the strokes' color
        above = F.interpolate(above, size, mode="bilinear", antialias=True).movedim(1, -1)
        painted = above if painted is None else above + painted * (1 - above[..., 3:])
    if painted is None:
        return None
    mask = (painted[..., 3] > 0.5).float()
    if not bool(mask.any()):
        return None
    colors = (painted[..., :3] / painted[..., 3:].clamp_min(1e-3)).clamp(0, 1)
    return torch.where(mask[..., None] > 0, colors, 0.0), mask
