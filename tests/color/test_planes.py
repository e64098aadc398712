"""CIE Lab of pixels in planes, against the one of pictures."""

import pytest
import torch

from comfyui_exemplar.color import fitted_rgb, lab_to_rgb, luminance, rgb_to_lab
from comfyui_exemplar.color.planes import from_lab, matrixed, shown, to_lab


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
