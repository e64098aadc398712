"""Chroma upsampling along the gray picture's edges."""

import pytest
import torch

from comfyui_exemplar.color import ab_error, desaturate, luminance, merge_luminance, rgb_to_lab
from comfyui_exemplar.color.guided import follow_edges, upsample_guided


def drawing(size=64):
    """Two flat colors of different lightness with a slanted edge."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    side = (columns > rows * 0.3 + size * 0.3).unsqueeze(-1)
    return torch.where(side, torch.tensor([0.85, 0.35, 0.3]), torch.tensor([0.25, 0.35, 0.6]))[None]


def shrunk(image, factor):
    return torch.nn.functional.avg_pool2d(image.movedim(-1, 1), factor).movedim(1, -1)


def test_edges_stay_sharp():
    truth = drawing()
    small, gray = shrunk(truth, 8), desaturate(truth)
    errors = {u: float(ab_error(merge_luminance(small, gray, upsampling=u), truth)) for u in ("guided", "smooth")}
    assert errors["guided"] < 0.4 * errors["smooth"], errors


def test_given_chroma_is_kept():
    """Shrunk again, the result is the chroma that came in."""
    lab = rgb_to_lab(drawing())
    chroma = shrunk(lab, 4)[..., 1:]
    large = upsample_guided(chroma, lab[..., :1])
    smooth = torch.nn.functional.interpolate(chroma.movedim(-1, 1), (64, 64), mode="bilinear").movedim(1, -1)
    errors = [float((shrunk(found, 4) - chroma).abs().mean()) for found in (large, smooth)]
    assert errors[0] < 0.25 * errors[1] and errors[0] < 0.01 * float(chroma.abs().mean()), errors


def test_no_new_colors():
    generator = torch.Generator().manual_seed(1)
    chroma = torch.rand(1, 9, 7, 2, generator=generator) * 60 - 30
    large = upsample_guided(chroma, torch.rand(1, 35, 30, 1, generator=generator) * 100)
    assert large.shape == (1, 35, 30, 2)
    assert float(large.max()) <= float(chroma.max()) + 1e-4 and float(large.min()) >= float(chroma.min()) - 1e-4


def test_constant_chroma_and_flat_lightness():
    chroma = torch.tensor([12.0, -7.0]).expand(1, 5, 5, 2)
    assert torch.allclose(
        upsample_guided(chroma, torch.rand(1, 20, 20, 1) * 100), torch.tensor([12.0, -7.0]), atol=1e-3
    )
    varied = torch.rand(1, 5, 5, 2)
    assert torch.isfinite(upsample_guided(varied, torch.full((1, 20, 20, 1), 50.0))).all()


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (3, 3)])
def test_tiny_sizes(size):
    gray = torch.rand(1, *size, 1).expand(-1, -1, -1, 3)
    merged = merge_luminance(torch.rand(1, 1, 1, 3), gray)
    assert merged.shape == gray.shape and torch.isfinite(merged).all()
    assert float((luminance(merged) - luminance(gray)).abs().max()) < 0.2


def test_unknown_word():
    with pytest.raises(ValueError, match="guided, smooth"):
        merge_luminance(torch.rand(1, 2, 2, 3), torch.rand(1, 4, 4, 3), upsampling="cubic")


def test_grain_goes_and_edges_stay():
    columns = torch.arange(40)
    lightness = torch.where(columns < 20, 70.0, 40.0).expand(40, 40)
    true = torch.where(columns < 20, 30.0, -30.0)[None, :, None].expand(40, 40, 2)
    noise = 6 * torch.randn(40, 40, 2, generator=torch.Generator().manual_seed(0))
    followed = follow_edges(true + noise, lightness)
    assert float((followed - true).std()) < 0.35 * float(noise.std())
    torch.testing.assert_close(follow_edges(true, lightness), true, atol=1.5, rtol=0)


def test_chroma_across_an_edge_takes_the_side_that_its_lightness_has():
    """Of a pixel along the edge, and where lightness has no edge chroma is only smoothed."""
    columns = torch.arange(40)
    chroma = torch.where(columns < 19, 30.0, -30.0)[None, :, None].expand(40, 40, 2)
    edge, flat = torch.where(columns < 20, 70.0, 40.0).expand(40, 40), torch.full((40, 40), 60.0)
    followed, smoothed = follow_edges(chroma, edge), follow_edges(chroma, flat)
    assert float(followed[20, 19, 0]) > float(smoothed[20, 19, 0]) + 5 > float(chroma[20, 19, 0])


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 2)])
def test_edges_of_tiny_frames_are_followed(size):
    followed = follow_edges(torch.ones(*size, 2), torch.rand(size) * 100)
    torch.testing.assert_close(followed, torch.ones(*size, 2), atol=1e-4, rtol=0)
