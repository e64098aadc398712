"""Color arithmetic of the pack: float CIE Lab, statistics, luminance merge, picture metrics, drifted copies.

Pure functions of torch tensors. Pictures are ``(B, H, W, C)`` floats in 0..1, masks ``(B, H, W)``; they work in float32
and give back the caller's dtype, device and batch. What pictures, masks and any tensors must be is asked in
:mod:`.pictures`, :mod:`.gray`, :mod:`.masks` and :mod:`.tensors`; :mod:`.batches` says how many fit together, in number
and in memory. Where a picture's places lie in a drifted copy of it is found by :mod:`.registration` (one fit for all),
:mod:`.flow` (what moved within it; start there) and :mod:`.evidence` (how sure it is); :mod:`.transfer` carries the
copy's chroma over. Of the frames of a film :mod:`.frame_flow` lays neighbors on each other, :mod:`.steady` averages
along that, and :mod:`.temporal` in place. :mod:`.measures` are what papers report. What every room needs stands here
too: :mod:`.devices` says what torch can be asked of a device, :mod:`.held` makes values that count as the tensors in
them. OpenCV is imported when it is called for: :mod:`.official` needs it, registration and what follows motion are
better with it.
"""

from .batches import check_batch, check_count, check_masks, in_batches, part_of
from .gray import as_picture, desaturate, drop_alpha, is_gray
from .lab import fit_gamut, fitted_rgb, lab_to_rgb, luminance, luminance_to_rgb, rgb_to_lab
from .masks import as_mask
from .merge import chroma_of, merge_chroma, merge_luminance
from .metrics import ab_error, color_ghosting, luminance_error, psnr
from .official import official_merge
from .opencv_lab import opencv_lab_to_rgb, opencv_rgb_to_lab
from .pictures import check_picture, resize, to_uint8
from .statistics import adain, match_chroma_statistics, match_mean_std
from .temporal import steadied, steady_chroma

__all__ = [
    "ab_error",
    "adain",
    "as_mask",
    "as_picture",
    "check_batch",
    "check_count",
    "check_masks",
    "check_picture",
    "chroma_of",
    "color_ghosting",
    "desaturate",
    "drop_alpha",
    "fit_gamut",
    "fitted_rgb",
    "in_batches",
    "is_gray",
    "lab_to_rgb",
    "luminance",
    "luminance_error",
    "luminance_to_rgb",
    "match_chroma_statistics",
    "match_mean_std",
    "merge_chroma",
    "merge_luminance",
    "official_merge",
    "opencv_lab_to_rgb",
    "opencv_rgb_to_lab",
    "part_of",
    "psnr",
    "resize",
    "rgb_to_lab",
    "steadied",
    "steady_chroma",
    "to_uint8",
]
