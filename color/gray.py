"""Gray copies of pictures, the question whether a picture is gray, and alpha."""

from __future__ import annotations

import torch

from .lab import luminance, luminance_to_rgb
from .pictures import check_picture, to_uint8, within

METHODS = ("lab", "rec601", "rec601_8bit")
_REC601 = (0.299, 0.587, 0.114)


def desaturate(image: torch.Tensor, method: str = "lab") -> torch.Tensor:
    """Gray copy of a picture.

    :param image: ``(B, H, W, 3)``, sRGB in 0..1.
    :param method: ``"lab"`` keeps CIE L; ``"rec601"`` is the float luma 0.299 R + 0.587 G + 0.114 B;
        ``"rec601_8bit"`` is what Pillow's ``convert("L")`` does with the 8-bit picture (integer luma), which is how
        the published program of Kosugi 2025 (arXiv 2505.15812) makes the gray copy of its reference.
    :returns: ``(B, H, W, 3)`` with three equal channels, same dtype and device.
    :raises ValueError: for another method, or anything that is not a floating ``(B, H, W, 3)``.
    """
    check_picture(image, "desaturate")
    if method == "lab":
        # Not through luminance()'s own rounding to the caller's dtype: half precision has only 10 bits for 0..100.
        gray = torch.empty_like(image)
        for index, frame in enumerate(image):
            gray[index] = luminance_to_rgb(luminance(frame[None].float()))[0]
        return gray
    if method not in METHODS:
        raise ValueError(f"desaturate: found method {method!r}, expected one of {', '.join(METHODS)}.")
    gray = torch.empty_like(image)
    for index, frame in enumerate(image):
        luma = _luma(frame) if method == "rec601" else _pillow_luma(to_uint8(frame).cpu()).to(image.device) / 255
        gray[index] = luma[..., None]
    return gray


def is_gray(image: torch.Tensor, tolerance: float = 2 / 255) -> bool:
    """Whether no pixel of the batch has color.

    :param image: ``(B, H, W, C)``, C 1, 3 or 4 (alpha is ignored), 0..1.
    :param tolerance: the largest difference between two channels of a pixel that still counts as gray; the default is
        two 8-bit levels, what JPEG leaves in a gray scan.
    :returns: True when every pixel is within the tolerance.
    :raises ValueError: for another shape or an integer dtype.
    """
    check_picture(image, "is_gray", (1, 3, 4))
    # Differences of v/255 in float32 miss multiples of 1/255 by about 1e-7.
    limit = tolerance + 1e-6
    # Frame by frame, so that a long batch needs no copy of itself.
    colors = (frame[..., :3].float() for frame in image)
    return all(bool((frame.amax(-1) - frame.amin(-1)).max() <= limit) for frame in colors)


def as_picture(image: torch.Tensor, name: str) -> torch.Tensor:
    """What a picture must be before long work starts: not empty, in 0..1, with structure; without its alpha channel.

    :param image: ``(B, H, W, C)`` in 0..1 with 1, 3 or 4 channels, H and W at least 2. Values that a resize left
        outside, by 0.25 at most (a few by 0.5), are clipped, with a line in the log; what lies further out (8-bit
        values, light of an HDR picture, 1e30) is refused, because clipping would destroy it.
    :param name: what the user calls it; messages start with it.
    :returns: ``(B, H, W, 3)``; the picture itself where nothing has to be changed.
    :raises ValueError: anything else, saying what was found, what was expected and what to do.
    """
    check_picture(image, name, (1, 3, 4))
    if image.shape[0] == 0:
        raise ValueError(f"{name}: found an empty batch, expected at least one picture; look at the node that made it.")
    if min(image.shape[1:3]) < 2:
        raise ValueError(
            f"{name}: found {image.shape[2]} x {image.shape[1]} pixels, expected at least 2 on each side; look at the "
            "node that made it."
        )
    return drop_alpha(within(image, name))


def drop_alpha(image: torch.Tensor, background: float = 1.0) -> torch.Tensor:
    """Three channels from whatever a picture node may hand over.

    :param image: ``(B, H, W, C)`` in 0..1: C 4 is laid over ``background`` (straight, not premultiplied alpha), C 1
        is repeated, C 3 is returned itself.
    :param background: gray level behind transparent pixels, 0 black .. 1 white.
    :returns: ``(B, H, W, 3)``, same dtype and device.
    :raises ValueError: for another number of channels, another shape or an integer dtype.
    """
    check_picture(image, "drop_alpha", (1, 3, 4))
    if image.shape[-1] == 3:
        return image
    if image.shape[-1] == 1:
        return image.repeat(1, 1, 1, 3)
    color, alpha = image[..., :3], image[..., 3:]
    return color * alpha + background * (1 - alpha)


def _luma(frame: torch.Tensor) -> torch.Tensor:
    red, green, blue = frame.to(torch.promote_types(frame.dtype, torch.float32)).unbind(-1)
    return _REC601[0] * red + _REC601[1] * green + _REC601[2] * blue


def _pillow_luma(frame: torch.Tensor) -> torch.Tensor:
    import numpy as np
    from PIL import Image

    return torch.from_numpy(np.array(Image.fromarray(frame.numpy()).convert("L")))
