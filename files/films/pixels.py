"""Pictures of a decoder's frames, and frames for an encoder: our own arithmetic, in float.

FFmpeg's swscale only moves samples about where a format does not keep each channel in a plane; its own way to RGB takes
untagged film for BT.601, and limited white comes as 254 of 255 from it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...color.yuv import Siting, chroma_down, chroma_up, from_rgb, gray_to_rgb, rounded, to_rgb
from .facts import Colors

if TYPE_CHECKING:
    from av.video.format import VideoFormat
    from av.video.frame import VideoFrame

#: Formats with a plane of whole numbers for each channel.
_PLANAR = re.compile(r"(?P<kind>yuvj?|yuva|gbrp|gbrap|gray)(?P<chroma>4\d\d)?p?(?P<bits>\d+)?(?P<order>le|be)?")
#: Codecs whose chroma stands between the columns.
_CENTER = ("mpeg1video", "mjpeg")


def bits_of(form: VideoFormat) -> int:
    """Bits of a sample."""
    return max((each.bits for each in form.components), default=8)


def siting_of(codec: str) -> Siting:
    """Where chroma of a codec stands."""
    return "center" if codec in _CENTER else "left"


def picture_of(frame: VideoFrame, colors: Colors, siting: Siting = "left", *, turns: int = 0) -> Tensor:
    """A frame as a picture.

    :param frame: as decoded, in any format.
    :param turns: quarters counterclockwise by which it is turned.
    :returns: (H, W, 3) float32 in 0..1, R'G'B'.
    """
    frame = planar(frame)
    form = frame.format
    bits = bits_of(form)
    if form.name.startswith("gb"):
        # Green comes first, then blue and red.
        green, blue, red = (_samples(frame, index, bits) for index in range(3))
        picture = torch.stack([red, green, blue], -1) / (2.0**bits - 1)
    elif form.name.startswith("gray"):
        picture = gray_to_rgb(_samples(frame, 0, bits), bits=bits, full=colors.full)
    else:
        y, cb, cr = (_samples(frame, index, bits) for index in range(3))
        if colors.matrix == "rgb":  # H.273's identity: planes in the order of G, B, R
            picture = torch.stack([_unit(each, bits, colors.full) for each in (cr, y, cb)], -1)
        else:
            cb, cr = (chroma_up(each, y.shape[0], y.shape[1], siting) for each in (cb, cr))
            picture = to_rgb(y, cb, cr, bits=bits, matrix=colors.matrix, full=colors.full)
    return torch.rot90(picture, turns).contiguous() if turns else picture


def shrunk(frame: VideoFrame, longest: int) -> VideoFrame:
    """A frame with its longest side at most that long, by areas; range and matrix stay."""
    share = min(1.0, longest / max(frame.width, frame.height))
    if share == 1:
        return frame
    frame = planar(frame)
    size = (max(2, round(frame.width * share)), max(2, round(frame.height * share)))
    return _moved(frame, frame.format.name, size)


def planar(frame: VideoFrame) -> VideoFrame:
    """A frame with a plane for each channel: itself, or its samples moved."""
    name = _planar_name(frame.format.name)
    return frame if name == frame.format.name else _moved(frame, name)


def _moved(frame: VideoFrame, name: str, size: tuple[int, int] = (0, 0)) -> VideoFrame:
    """By swscale, which is told that nothing of range and matrix changes."""
    same: dict[str, Any] = {"src_color_range": 2, "dst_color_range": 2} if not frame.format.is_rgb else {}
    width, height = size if size[0] else (None, None)
    return frame.reformat(width, height, format=name, interpolation="AREA", **same)


@cache
def _planar_name(name: str) -> str:
    from av import VideoFormat

    if _PLANAR.fullmatch(name) and not re.fullmatch(r"yuv\w*(411|410|440)\w*be", name):
        return name
    form = VideoFormat(name, 64, 64)
    bits = bits_of(form)
    if form.is_rgb or form.has_palette:
        return "gbrp" if bits <= 8 else "gbrp16le"
    if len(form.components) < 3:
        return "gray" if bits <= 8 else "gray16le"
    chroma = form.components[1]
    sides = (64 // chroma.width, 64 // chroma.height)
    kind = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (4, 1): "411"}.get(sides, "444")
    return f"yuv{kind}p" + (f"{bits}le" if bits > 8 else "")


def _samples(frame: VideoFrame, index: int, bits: int) -> Tensor:
    """(h, w) float32 of a plane."""
    plane: Any = frame.planes[index]
    order = ">" if frame.format.is_big_endian else "<"
    kind = np.dtype(np.uint8 if bits <= 8 else f"{order}u2")
    rows = np.frombuffer(plane, kind)[: plane.height * (plane.line_size // kind.itemsize)]
    rows = rows.reshape(plane.height, plane.line_size // kind.itemsize)[:, : plane.width]
    return torch.from_numpy(rows.astype(np.float32))


def _unit(codes: Tensor, bits: int, full: bool) -> Tensor:
    unit = 2.0 ** (bits - 8)
    made = codes / (2.0**bits - 1) if full else (codes - 16 * unit) / (219 * unit)
    return made.clamp_(0, 1)


def frame_of(picture: Tensor, name: str, *, matrix: str, full: bool) -> VideoFrame:
    """A frame for an encoder in its own format, rounded from floats; FFmpeg converts nothing.

    :param picture: (H, W, 3) R'G'B' in 0..1.
    :param name: FFmpeg's name of a format with planes: ``yuv420p10le``, ``gbrp16le`` and so on.
    :param matrix: of :data:`...color.yuv.WEIGHTS`; not used for ``gbrp``.
    """
    from av import VideoFrame

    height, width, _ = picture.shape
    frame = VideoFrame(width, height, name)
    bits = bits_of(frame.format)
    picture = picture.detach().float().cpu()
    if name.startswith("gb"):
        red, green, blue = (picture.clamp(0, 1) * (2.0**bits - 1)).unbind(-1)
        planes = (green, blue, red)
    else:
        y, cb, cr = from_rgb(picture, bits=bits, matrix=matrix, full=full)
        sides = (frame.planes[1].height < height, frame.planes[1].width < width)
        planes = (y, *(chroma_down(each, rows=sides[0], columns=sides[1]) for each in (cb, cr)))
    for index, codes in enumerate(planes):
        _fill(frame, index, rounded(codes, bits), bits)
    return frame


def _fill(frame: VideoFrame, index: int, codes: Tensor, bits: int) -> None:
    plane: Any = frame.planes[index]
    kind = np.dtype(np.uint8 if bits <= 8 else "<u2")
    rows = np.frombuffer(plane, kind)[: plane.height * (plane.line_size // kind.itemsize)]
    rows = rows.reshape(plane.height, plane.line_size // kind.itemsize)
    rows[:, plane.width :] = 0  # so that what no picture has is the same in any run
    rows[:, : plane.width] = codes.numpy().astype(kind)
