"""Picture metrics."""

import math

import pytest
import torch

from comfyui_exemplar.color import ab_error, desaturate, lab_to_rgb, luminance_error, psnr


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr():
    image = random(2, 5, 5, 3) * 0.5
    other = image.clone()
    other[0] += 0.1
    assert psnr(image, other)[0].item() == pytest.approx(20, abs=1e-3)
    assert math.isinf(psnr(image, other)[1].item())
    assert psnr(image, image[:1]).shape == (2,)


def test_ab_and_luminance_errors():
    lab = torch.tensor([50.0, 5.0, -5.0]).expand(1, 4, 6, 3).clone()
    moved = lab.clone()
    moved[:, :, 3:] += torch.tensor([2.0, 3.0, 4.0])
    a, b = lab_to_rgb(lab), lab_to_rgb(moved)
    assert ab_error(a, b).item() == pytest.approx(2.5, abs=1e-2)
    assert luminance_error(a, b).item() == pytest.approx(1.0, abs=1e-2)
    mask = torch.zeros(1, 4, 6)
    mask[:, :, 3:] = 0.5
    assert ab_error(a, b, mask).item() == pytest.approx(5.0, abs=1e-2)
    assert ab_error(a, b, 1 - 2 * mask).item() == pytest.approx(0.0, abs=1e-2)


def test_desaturation_changes_color_only():
    image = random(2, 9, 9, 3)
    assert (luminance_error(image, desaturate(image)) < 1e-3).all()
    assert (ab_error(image, desaturate(image)) > 10).all()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"found .*expected"):
        psnr(random(1, 4, 4, 3), random(1, 4, 5, 3))
    with pytest.raises(ValueError, match=r"found .*expected"):
        luminance_error(random(2, 4, 4, 3), random(3, 4, 4, 3))
    with pytest.raises(ValueError, match="mask"):
        ab_error(random(1, 4, 4, 3), random(1, 4, 4, 3), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="mask"):
        ab_error(random(1, 4, 4, 3), random(1, 4, 4, 3), torch.ones(1, 4, 5))
