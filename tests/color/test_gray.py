"""Gray copies, the gray check and alpha."""

import pytest
import torch

from comfyui_exemplar.color import desaturate, drop_alpha, is_gray, luminance, to_uint8


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", ["lab", "rec601", "rec601_8bit"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_three_equal_channels(method, dtype):
    image = random(2, 5, 3, 3).to(dtype)
    gray = desaturate(image, method)
    assert gray.shape == image.shape and gray.dtype == dtype
    assert torch.equal(gray[..., 0], gray[..., 1]) and torch.equal(gray[..., 0], gray[..., 2])
    assert is_gray(gray, 0) and not is_gray(image)
    assert torch.equal(gray[1:], desaturate(image[1:], method))
    assert desaturate(image[:1, :1, :1], method).shape == (1, 1, 1, 3)


def test_lab_keeps_luminance():
    image = random(2, 31, 17, 3)
    assert (luminance(desaturate(image, "lab")) - luminance(image)).abs().max() < 1e-3
    # Luma does not: blue is much darker in L.
    assert (luminance(desaturate(image, "rec601")) - luminance(image)).abs().max() > 1


def test_rec601_weights():
    primaries = torch.eye(3).view(1, 1, 3, 3)
    assert torch.allclose(desaturate(primaries, "rec601")[0, 0, :, 0], torch.tensor([0.299, 0.587, 0.114]))


def test_rec601_8bit_is_pillow():
    values = torch.randint(0, 256, (1, 40, 50, 3), generator=torch.Generator().manual_seed(3))
    red, green, blue = values.unbind(-1)
    # Pillow's documented 16-bit fixed point luma.
    expected = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    gray = desaturate(values / 255, "rec601_8bit")
    assert torch.equal(to_uint8(gray)[..., 0].long(), expected)


def test_unknown_method():
    with pytest.raises(ValueError, match=r"'luma'.*rec601_8bit"):
        desaturate(random(1, 2, 2, 3), "luma")


def test_is_gray_tolerance():
    levels = torch.arange(0, 254).view(1, 1, -1, 1)
    for spread, expected in ((0, True), (1, True), (2, True), (3, False)):
        picture = torch.cat([levels, levels + spread // 2, levels + spread], -1).clamp(max=255)
        assert is_gray(picture / 255) is expected
    assert is_gray(random(2, 3, 3, 1))
    # Only the last picture of a batch has color; alpha does not count.
    batch = torch.full((3, 4, 4, 4), 0.5)
    batch[..., 3] = 0
    assert is_gray(batch)
    batch[2, 1, 1, 0] = 0.9
    assert not is_gray(batch)


def test_drop_alpha():
    color = random(2, 5, 3, 3)
    assert drop_alpha(color) is color
    single = random(2, 5, 3, 1)
    assert torch.equal(drop_alpha(single), single.expand(2, 5, 3, 3))
    half = torch.cat([color, torch.full((2, 5, 3, 1), 0.25)], -1)
    assert torch.allclose(drop_alpha(half), color * 0.25 + 0.75)
    assert torch.allclose(drop_alpha(half, background=0.0), color * 0.25)
    opaque = torch.cat([color, torch.ones(2, 5, 3, 1)], -1).half()
    assert drop_alpha(opaque).dtype == torch.float16 and torch.equal(drop_alpha(opaque), color.half())
    for channels in (2, 5):
        with pytest.raises(ValueError, match=f"found {channels} channels, expected 1 or 3 or 4; .+"):
            drop_alpha(random(1, 2, 2, channels))
