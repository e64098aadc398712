"""Picture metrics."""

import math

import pytest
import torch

from comfyui_exemplar.color import ab_error, color_ghosting, desaturate, lab_to_rgb, luminance_error, psnr


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


class TestGhosting:
    def edge(self, where):
        """Left dark, right light, at column ``where`` of 32."""
        gray = torch.full((1, 16, 32, 3), 0.3)
        gray[:, :, where:] = 0.7
        return gray

    def test_color_that_follows_the_edge_is_none(self):
        gray = self.edge(16)
        colored = gray.clone()
        colored[:, :, 16:, 0] += 0.2
        assert float(color_ghosting(colored, gray)) < 1e-4

    def test_color_that_runs_over_the_edge_is_some_and_more_of_it_is_more(self):
        gray, found = self.edge(16), []
        for extra in (0.05, 0.2):
            colored = gray.clone()
            colored[:, :, 8:, 0] += extra
            found.append(float(color_ghosting(colored, gray)))
        assert 0.05 < found[0] < found[1]

    def test_one_number_a_picture(self):
        gray = self.edge(16).repeat(3, 1, 1, 1)
        assert color_ghosting(gray, gray).shape == (3,)
