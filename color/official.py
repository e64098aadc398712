"""The 8-bit Lab post-processing of the published program of Kosugi 2025 (arXiv 2505.15812), for parity.

:func:`color.merge.merge_luminance` does the same job in float, at any size, without the quirks kept here on purpose.
"""

from __future__ import annotations

import numpy as np
import torch

from .batches import check_batch


def official_merge(
    decoded: torch.Tensor, input_rgb: torch.Tensor, reference_rgb: torch.Tensor, wrap: bool = True
) -> torch.Tensor:
    """L of the input; a and b of the decoded picture with the reference's mean and deviation; all in 8 bits.

    As published: the decoded picture is truncated, not rounded, to 8 bits; input and reference lose one level in the
    shadows (Q2); the statistics come from a reference shrunk to a quarter and enlarged again; a and b are truncated
    and wrap around beyond 0..255 (Q3). Not as published: a channel without any deviation has only its mean moved,
    where the original divides by zero and the picture turns cyan-blue (Q4).

    :param decoded: ``(B, 3, H, W)`` in -1..1 (beyond is clamped), what the VAE decoder gives.
    :param input_rgb: ``(B or 1, H, W, 3)`` uint8.
    :param reference_rgb: ``(B or 1, h, w, 3)`` uint8. The program has it at the size of the input; other sizes are
        resized to that on the way.
    :param wrap: True is the published behavior, wrong hues where a or b overflow; False clips them instead.
    :returns: ``(B, H, W, 3)`` uint8, on the device of ``decoded``.
    :raises ImportError: when OpenCV is missing.
    :raises ValueError: for shapes, dtypes or batches that do not fit.
    """
    if decoded.ndim != 4 or decoded.shape[1] != 3 or not decoded.is_floating_point():
        raise ValueError(
            f"decoded: found {decoded.dtype} {tuple(decoded.shape)}, expected floats (B, 3, H, W) in -1..1; move the "
            "channels of a picture in front and map 0..1 to -1..1."
        )
    for name, picture in (("input_rgb", input_rgb), ("reference_rgb", reference_rgb)):
        if picture.dtype != torch.uint8 or picture.ndim != 4 or picture.shape[-1] != 3:
            raise ValueError(
                f"{name}: found {picture.dtype} {tuple(picture.shape)}, expected uint8 (B, H, W, 3); use to_uint8."
            )
    if input_rgb.shape[1:3] != decoded.shape[2:]:
        raise ValueError(
            f"input_rgb: found size {tuple(input_rgb.shape[1:3])}, expected that of decoded, "
            f"{tuple(decoded.shape[2:])}; resize the input as it was resized for the VAE."
        )
    batch = check_batch(decoded=decoded, input_rgb=input_rgb, reference_rgb=reference_rgb)
    colors = truncate_decoded(decoded)
    frames = [
        _lab_to_rgb(_combine(*(_frame(part, index) for part in (colors, input_rgb, reference_rgb)), wrap=wrap))
        for index in range(batch)
    ]
    return torch.from_numpy(np.stack(frames)).to(decoded.device)


def truncate_decoded(decoded: torch.Tensor) -> torch.Tensor:
    """Decoder output ``(B, 3, H, W)`` in -1..1 to uint8 ``(B, H, W, 3)``, truncated as published."""
    return ((decoded.float() + 1) / 2).clamp(0, 1).mul(255).to(torch.uint8).movedim(1, -1)


def _cv2():
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "The published program's 8-bit color arithmetic needs OpenCV: pip install opencv-python-headless"
        ) from error
    return cv2


def _frame(pictures: torch.Tensor, index: int) -> np.ndarray:
    return pictures[index % pictures.shape[0]].contiguous().cpu().numpy()


def _lose_shadow_level(rgb: np.ndarray) -> np.ndarray:
    # Q2: v/255 -> 2x-1 -> (x+1)/2 -> 255x in float32, then truncation, falls just below every v from 1 to 63.
    return rgb - ((rgb >= 1) & (rgb <= 63)).astype(np.uint8)


def _shrink(reference: np.ndarray, height: int, width: int) -> np.ndarray:
    cv2 = _cv2()
    small = (max(1, width // 4), max(1, height // 4))
    return cv2.resize(reference, small, interpolation=cv2.INTER_AREA)


def _combine(color: np.ndarray, photo: np.ndarray, reference: np.ndarray, wrap: bool) -> np.ndarray:
    cv2 = _cv2()
    height, width = color.shape[:2]
    small = _shrink(_lose_shadow_level(reference), height, width)
    blurred = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    combined = cv2.cvtColor(_lose_shadow_level(photo), cv2.COLOR_RGB2LAB)
    color_lab = cv2.cvtColor(np.ascontiguousarray(color), cv2.COLOR_RGB2LAB)
    target_lab = cv2.cvtColor(blurred, cv2.COLOR_RGB2LAB)
    for channel in (1, 2):
        source, target = (lab[..., channel].astype(np.float64) for lab in (color_lab, target_lab))
        deviation = source.std()
        scaled = (source - source.mean()) / deviation * target.std() if deviation > 0 else source - source.mean()
        value = np.trunc(scaled + target.mean())
        # Q3: a C cast on x86-64 wraps; spelled out because other processors saturate.
        combined[..., channel] = value.astype(np.int64) & 255 if wrap else value.clip(0, 255)
    return combined


def _lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    cv2 = _cv2()
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
