"""The 8-bit post-processing beyond the recorded cases: guards, sizes, errors."""

import sys

import numpy as np
import pytest
import torch

from comfyui_exemplar.color import official_merge
from comfyui_exemplar.color.official import _lose_shadow_level, truncate_decoded


def pictures(batch=1, height=16, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    decoded = torch.rand(batch, 3, height, width, generator=generator) * 2.2 - 1.1
    photo, reference = torch.randint(0, 256, (2, batch, height, width, 3), generator=generator, dtype=torch.uint8)
    return decoded, photo, reference


def test_shadow_rule_is_the_float32_chain():
    levels = np.arange(256, dtype=np.uint8)
    chain = levels.astype(np.float32) / np.float32(255)
    chain = np.float32(2) * chain - np.float32(1)
    chain = np.float32(255) * ((chain + np.float32(1)) / np.float32(2))
    assert np.array_equal(_lose_shadow_level(levels), chain.astype(np.uint8))


def test_decoded_is_truncated():
    values = torch.tensor([-1.5, -1.0, 0.0, 0.999, 1.0, 1.5]).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    assert truncate_decoded(values)[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_batch_equals_one_by_one_and_broadcasts():
    decoded, photo, reference = pictures(3, 15, 17)
    together = official_merge(decoded, photo, reference[:1])
    assert together.shape == (3, 15, 17, 3) and together.dtype == torch.uint8
    for i in range(3):
        assert torch.equal(together[i], official_merge(decoded[i : i + 1], photo[i : i + 1], reference[:1])[0])


def test_wrap_and_clip_differ_only_where_values_overflow():
    decoded, photo, reference = pictures()
    # Muted colors against black, red and blue: a reference with far more spread than 8 bits can hold.
    reference[:] = 0
    reference[:, :8, :, 0] = 255
    reference[:, 8:, :, 2] = 255
    wrapped, clipped = (official_merge(decoded, photo, reference, wrap=wrap) for wrap in (True, False))
    differing = (wrapped != clipped).any(-1).float().mean()
    assert 0 < differing < 1
    calm = photo // 4 + 96
    assert torch.equal(official_merge(decoded, photo, calm), official_merge(decoded, photo, calm, wrap=False))


def test_constant_channel_is_guarded():
    _, photo, reference = pictures()
    merged = official_merge(torch.zeros(1, 3, 16, 16), photo, reference // 8 + 112)
    # Deviation 0 would be NaN, cast to 0: a = b = -128, saturated cyan-blue. A near-gray reference must stay near gray.
    tint = merged.int().amax(-1) - merged.int().amin(-1)
    assert tint.float().mean() < 30


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 9)])
def test_tiny_pictures(size):
    assert official_merge(*pictures(1, *size)).shape == (1, *size, 3)


def test_missing_opencv_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="pip install opencv-python-headless"):
        official_merge(*pictures())


def test_what_does_not_fit_is_refused():
    decoded, photo, reference = pictures(2)
    with pytest.raises(ValueError, match="decoded: found"):
        official_merge(photo / 255, photo, reference)
    with pytest.raises(ValueError, match=r"input_rgb: found torch.float32"):
        official_merge(decoded, photo / 255, reference)
    with pytest.raises(ValueError, match="reference_rgb: found"):
        official_merge(decoded, photo, reference[0])
    with pytest.raises(ValueError, match="input_rgb: found size"):
        official_merge(decoded, photo[:, :8], reference)
    with pytest.raises(ValueError, match="Batch sizes"):
        official_merge(decoded, photo, reference.repeat(2, 1, 1, 1))
