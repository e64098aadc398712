"""Y'CbCr and R'G'B' beside values of the standards and swscale's own."""

import pytest
import torch

from comfyui_exemplar.color.yuv import WEIGHTS, chroma_down, chroma_up, from_rgb, gray_to_rgb, rounded, to_rgb

#: BT.709, limited, 8 bits: pure colors' codes as the standard's tables of color bars at 100 % have them.
BARS = {
    (1, 1, 1): (235, 128, 128),
    (1, 1, 0): (219, 16, 138),
    (0, 1, 1): (188, 154, 16),
    (0, 1, 0): (173, 42, 26),
    (1, 0, 1): (78, 214, 230),
    (1, 0, 0): (63, 102, 240),
    (0, 0, 1): (32, 240, 118),
    (0, 0, 0): (16, 128, 128),
}


def test_color_bars():
    image = torch.tensor([list(map(float, color)) for color in BARS])[None]
    made = from_rgb(image, bits=8, matrix="bt709", full=False)
    codes = torch.stack([rounded(each, 8) for each in made], -1)[0]
    assert codes.tolist() == [list(map(float, code)) for code in BARS.values()]


@pytest.mark.parametrize("matrix", WEIGHTS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_there_and_back(matrix, full, bits):
    image = torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(0))
    made = from_rgb(image, bits=bits, matrix=matrix, full=full)
    assert torch.allclose(to_rgb(*made, bits=bits, matrix=matrix, full=full), image, atol=2e-6)
    codes = [rounded(each, bits) for each in made]
    off = (to_rgb(*codes, bits=bits, matrix=matrix, full=full) - image).abs().max()
    assert off < 2.2 / 2**bits + 2e-6


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("full", [False, True])
def test_white_and_black_are_exact(bits, full):
    unit = 2 ** (bits - 8)
    white, black = (2**bits - 1, 0) if full else (235 * unit, 16 * unit)
    gray = torch.full((1, 1), 128.0 * unit)
    for matrix in WEIGHTS:
        for code, value in ((white, 1.0), (black, 0.0)):
            y = torch.full((1, 1), float(code))
            assert to_rgb(y, gray, gray, bits=bits, matrix=matrix, full=full).eq(value).all()
            assert gray_to_rgb(y, bits=bits, full=full).eq(value).all()


@pytest.mark.parametrize("siting", ["left", "center"])
@pytest.mark.parametrize("size", [(8, 10), (7, 9)])
def test_chroma_stands_where_it_belongs(siting, size):
    """A ramp comes back as it was: a sample half a pixel off would shift it."""
    height, width = size
    ramp = torch.arange(width).float() * 3 + torch.arange(height).float()[:, None] * 2
    small = chroma_down(ramp, rows=True, columns=True, siting=siting)
    assert small.shape == (-(-height // 2), -(-width // 2))
    again = chroma_up(small, height, width, siting)
    assert torch.allclose(again[2:-3, 2:-3], ramp[2:-3, 2:-3])


def test_chroma_of_a_quarter_and_of_all():
    plane = torch.arange(8.0)[None].repeat(2, 1)
    assert chroma_up(plane, 2, 8).equal(plane)
    up = chroma_up(plane[:, :2], 2, 8)
    assert up[0].tolist() == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="found 5 chroma samples along 8 pixels"):
        chroma_up(torch.zeros(2, 5), 2, 8)


def test_unknown_matrix():
    with pytest.raises(ValueError, match="'ycgco' is not known; expected one of bt709"):
        from_rgb(torch.zeros(1, 1, 3), bits=8, matrix="ycgco", full=False)
