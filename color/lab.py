"""CIE Lab (D65, 2 degree observer, sRGB primaries) in float, and the pull of colors back into the sRGB cube."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from .pictures import check_picture

# What a round trip through float32 Lab costs (6e-6) must not count as "outside"; clamping this much moves L by < 1e-3.
_CUBE_TOLERANCE = 1e-5

# Pixels that are converted at once.
_STRIP = 2**20


def rgb_to_lab(image: torch.Tensor) -> torch.Tensor:
    """sRGB to Lab.

    :param image: ``(B, H, W, 3)``, sRGB in 0..1.
    :returns: ``(B, H, W, 3)``: L in 0..100, a and b about -108..98 for sRGB. Same dtype and device.
    :raises ValueError: for anything that is not a floating ``(B, H, W, 3)``.
    """
    check_picture(image, "rgb_to_lab")
    return _by_frame(_rgb_to_lab, image)


def lab_to_rgb(lab: torch.Tensor, clip: bool = True) -> torch.Tensor:
    """Lab to sRGB.

    :param lab: ``(B, H, W, 3)`` as :func:`rgb_to_lab` gives it.
    :param clip: clamp to 0..1. Without it, colors that sRGB does not have come back below 0 or above 1 and convert
        back to the same Lab (except where Z would be strongly negative: very dark with extreme b).
    :returns: ``(B, H, W, 3)`` sRGB, same dtype and device.
    :raises ValueError: for anything that is not a floating ``(B, H, W, 3)``.
    """
    check_picture(lab, "lab_to_rgb")
    return _by_frame(lambda frame: _lab_to_rgb(frame, clip), lab)


def luminance(image: torch.Tensor) -> torch.Tensor:
    """CIE L of an sRGB picture.

    :param image: ``(B, H, W, 3)``, sRGB in 0..1.
    :returns: ``(B, H, W)``, 0..100, same dtype and device.
    :raises ValueError: for anything that is not a floating ``(B, H, W, 3)``.
    """
    check_picture(image, "luminance")
    out = image.new_empty(image.shape[:3])
    for part, place in _strips(image, out):
        place.copy_(_rgb_to_lab(_work(part))[..., 0])
    return out


def luminance_to_rgb(lightness: torch.Tensor) -> torch.Tensor:
    """The neutral gray of a given CIE L, with three exactly equal channels.

    Lab with a = b = 0 would do, but the usual six-digit sRGB matrix and white point disagree by 2e-5 there, which
    leaves channels that are not quite equal.

    :param lightness: ``(B, H, W)``, L in 0..100.
    :returns: ``(B, H, W, 3)``, sRGB in 0..1, same dtype and device.
    """
    from kornia.color import linear_rgb_to_rgb

    f = (lightness.to(torch.promote_types(lightness.dtype, torch.float32)) + 16) / 116
    # The constants are those of kornia's forward conversion, so that L survives the round trip.
    linear = torch.where(f > 0.2068966, f**3, (f - 4 / 29) / 7.787)
    # One channel of the answer, repeated: pow rounds differently in the vectorized and the remaining part of a tensor.
    gray = linear_rgb_to_rgb(linear[:, None].expand(-1, 3, -1, -1))[:, 0]
    return gray.clamp(0, 1)[..., None].repeat(1, 1, 1, 3).to(lightness.dtype)


def fit_gamut(lab: torch.Tensor, iterations: int = 14) -> torch.Tensor:
    """Pull colors that sRGB cannot show toward the neutral axis, at constant L and hue.

    a and b are multiplied by the largest s in [0, 1] for which the color fits the sRGB cube (found by bisection, only
    for pixels that need it). Clamping RGB instead would change L, which is the one thing colorization has to keep.
    L outside 0..100 fits nowhere and becomes neutral.

    :param lab: ``(B, H, W, 3)``.
    :param iterations: bisection steps; chroma is right to 2^-iterations of its length.
    :returns: ``(B, H, W, 3)``: L untouched, a and b scaled; same dtype and device.
    :raises ValueError: for anything that is not a floating ``(B, H, W, 3)``.
    """
    check_picture(lab, "fit_gamut")
    return _by_frame(lambda frame: _fit_frame(frame, iterations), lab)


def fitted_rgb(lab: torch.Tensor) -> torch.Tensor:
    """``lab_to_rgb(fit_gamut(lab))`` in one go: what fits anyway, mostly all of a picture, is converted once.

    :param lab: ``(B, H, W, 3)``.
    :returns: ``(B, H, W, 3)`` sRGB in 0..1, same dtype and device.
    :raises ValueError: for anything that is not a floating ``(B, H, W, 3)``.
    """
    check_picture(lab, "fitted_rgb")
    return _by_frame(_fitted_rgb, lab)


def _work(frame: torch.Tensor) -> torch.Tensor:
    # On accelerators kornia multiplies its color matrices with conv2d, which cuDNN rounds to TF32 (10 bits) by default:
    # L would be off by hundredths. ComfyUI keeps pictures on the CPU anyway, so this moves nothing in practice.
    return frame.to("cpu", torch.promote_types(frame.dtype, torch.float32))


def _by_frame(convert: Callable[[torch.Tensor], torch.Tensor], picture: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(picture)
    for part, place in _strips(picture, out):
        place.copy_(convert(_work(part)))
    return out


def _strips(picture: torch.Tensor, out: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Frame by frame, large ones some rows at a time: a conversion holds about ten temporaries of its input's size."""
    rows = max(1, _STRIP // picture.shape[2])
    for frame, result in zip(picture, out, strict=True):
        yield from zip(frame.split(rows), result.split(rows), strict=True)


def _rgb_to_lab(frame: torch.Tensor) -> torch.Tensor:
    from kornia.color import rgb_to_lab as convert

    # An enclosing autocast would round the color matrix to bfloat16.
    with torch.autocast("cpu", enabled=False):
        return convert(frame.movedim(-1, 0)).movedim(0, -1)


def _lab_to_rgb(frame: torch.Tensor, clip: bool) -> torch.Tensor:
    from kornia.color import lab_to_rgb as convert

    with torch.autocast("cpu", enabled=False):
        return convert(frame.movedim(-1, 0), clip=clip).movedim(0, -1)


def _in_cube(rgb: torch.Tensor) -> torch.Tensor:
    return (rgb.amin(-1) >= -_CUBE_TOLERANCE) & (rgb.amax(-1) <= 1 + _CUBE_TOLERANCE)


def _fit_frame(frame: torch.Tensor, iterations: int) -> torch.Tensor:
    outside = ~_in_cube(_lab_to_rgb(frame, clip=False))
    if not bool(outside.any()):
        return frame
    fitted = frame.clone()
    fitted[outside] = _fit_pixels(frame[outside], iterations)
    return fitted


def _fitted_rgb(frame: torch.Tensor, iterations: int = 14) -> torch.Tensor:
    rgb = _lab_to_rgb(frame, clip=False)
    outside = ~_in_cube(rgb)
    if bool(outside.any()):
        rgb[outside] = _lab_to_rgb(_fit_pixels(frame[outside], iterations)[None], clip=True)[0]
    return rgb.clamp_(0, 1)


def _fit_pixels(stray: torch.Tensor, iterations: int) -> torch.Tensor:
    """Pixels (n, 3) outside the cube -> on its surface."""
    low = stray.new_zeros(len(stray), 1)
    high = torch.ones_like(low)
    for _ in range(iterations):
        middle = (low + high) / 2
        at_middle = torch.cat([stray[:, :1], stray[:, 1:] * middle], 1)
        fits = _in_cube(_lab_to_rgb(at_middle[None], clip=False)[0])[:, None]
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.cat([stray[:, :1], stray[:, 1:] * low], 1)
