"""CIE Lab of pixels in planes, against the one of pictures."""

import numpy as np
import pytest
import torch

from comfyui_exemplar.color import fitted_rgb, lab_to_rgb, luminance, rgb_to_lab
from comfyui_exemplar.color.planes import _cube, _encoded, _light, _root, from_lab, matrixed, shown, to_lab


def picture(seed=0):
    """(1, 64, 64, 3): all of the cube, its corners and edges, and the darks."""
    made = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(seed))
    made[0, :8] *= 0.06
    made[0, 8, :8] = torch.tensor([[r, g, b] for r in (0.0, 1.0) for g in (0.0, 1.0) for b in (0.0, 1.0)])
    made[0, 9] = torch.linspace(0, 1, 64)[:, None]
    return made


def planes(pictures):
    return pictures.reshape(-1, 3).T.contiguous()


def test_both_ways_are_those_of_pictures():
    image = picture()
    lab = to_lab(planes(image))
    assert float((lab - planes(rgb_to_lab(image))).abs().max()) < 1e-3
    for gamut in ("fit", "clip"):
        assert float((from_lab(lab, gamut) - planes(image)).abs().max()) < 3e-5


@pytest.mark.parametrize(("gamut", "pictures"), [("fit", fitted_rgb), ("clip", lab_to_rgb)])
def test_what_srgb_lacks_is_brought_back_alike(gamut, pictures):
    lab = rgb_to_lab(picture())
    lab[..., 1:] *= 1.7
    difference = (from_lab(planes(lab), gamut) - planes(pictures(lab))).abs()
    assert float(difference.max()) < 2e-3 and float(difference.mean()) < 1e-5
    if gamut == "fit":
        made = from_lab(planes(lab)).T.reshape(lab.shape)
        assert float((luminance(made) - lab[..., 0]).abs().max()) < 0.01


def test_lightness_beyond_white_is_white_and_below_black_black():
    lab = torch.tensor([[104.0, -3.0], [20.0, 20.0], [-30.0, 30.0]])
    assert float((from_lab(lab) - torch.tensor([1.0, 0.0])).abs().max()) < 1e-4


def test_any_rgb_as_a_screen_shows_it():
    rgb = torch.tensor([[1.1, 0.2, 0.5], [0.5, 0.3, -0.1], [0.5, 0.4, 0.2]])
    before = rgb.clone()
    fitted, clipped = shown(rgb), shown(rgb, "clip")
    assert torch.equal(rgb, before) and torch.equal(clipped, rgb.clamp(0, 1))
    assert torch.equal(fitted[:, 1], rgb[:, 1]) and float(fitted.min()) >= 0 and float(fitted.max()) <= 1
    wanted, found = to_lab(rgb), to_lab(fitted)
    assert float((found[0] - wanted[0]).abs().max()) < 0.02, "lightness stays"


def test_a_matrix_of_planes():
    points = torch.rand(3, 7)
    matrix, offset = torch.rand(2, 3), torch.rand(2)
    made = matrixed(matrix.tolist(), points, offset.tolist())
    assert torch.allclose(made, matrix @ points + offset[:, None], atol=1e-6)


class TestCurves:
    """Each within rounding of the formula in float64, at all values of 0..1 in steps of 2^-20 and beyond both ends."""

    values = torch.cat([torch.linspace(0, 1, 2**20 + 1), torch.linspace(-0.5, 1.5, 2**16)])

    def apart(self, curve, formula, given=None):
        given = self.values if given is None else given
        with np.errstate(invalid="ignore"):
            wanted = formula(given.double().numpy())
        return float(np.abs(curve(given.clone()).double().numpy() - wanted).max())

    def test_light(self):
        def formula(c):
            return np.where(c > 0.04045, ((c + 0.055) / 1.055) ** 2.4, c / 12.92)

        assert self.apart(_light, formula) < 1e-6

    def test_back_to_srgb(self):
        def formula(x):
            return np.where(x > 0.0031308, 1.055 * x ** (1 / 2.4) - 0.055, 12.92 * x)

        assert self.apart(_encoded, formula) < 1e-6

    def test_root_and_cube(self):
        def root(x):
            return np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)

        def cube(f):
            return np.where(f > 6 / 29, f**3, (f - 4 / 29) / 7.787)

        assert self.apart(_root, root) < 5e-6, "kornia's line meets its cube root to 3e-6"
        assert self.apart(_cube, cube) < 1e-5, "and its way back likewise"


def test_what_comes_in_is_left_alone():
    rgb = planes(picture())
    before = rgb.clone()
    lab = to_lab(rgb)
    assert torch.equal(rgb, before)
    kept = lab.clone()
    for gamut in ("fit", "clip"):
        from_lab(lab, gamut)
        assert torch.equal(lab, kept)
