"""Masks from picture files."""

import numpy as np
import pytest
from PIL import Image

from comfyui_exemplar.files.masks import load_mask

from ..fixtures.scans import Tiff, drawing, gamma, gray_profile, png, saved, tiff, turned


def shape():
    """(24, 32) of 8-bit levels: an area with a soft edge."""
    y, x = np.mgrid[0:24, 0:32]
    return np.round((1.2 - np.hypot((x - 12) / 9, (y - 10) / 7)).clip(0, 0.4) / 0.4 * 255).astype("u1")


def load(data, tmp_path, name="a.png"):
    (tmp_path / name).write_bytes(data)
    return load_mask(tmp_path / name)


def is_shape(mask, picture=None, tolerance=1e-6):
    expected = shape() / 255 if picture is None else picture
    assert tuple(mask.shape) == (1, *expected.shape)
    assert np.abs(mask[0].numpy() - expected).max() <= tolerance


GRAYS = {
    "8 bits": lambda: saved(shape(), "PNG"),
    "16 bits": lambda: saved(shape().astype("u2") * 257, "PNG"),
    "color, all channels alike": lambda: saved(shape()[..., None].repeat(3, 2), "PNG"),
    "16 bits in color": lambda: png(shape().astype("u2")[..., None].repeat(3, 2) * 257, 16, 2),
    "opaque": lambda: saved(np.dstack([shape(), np.full_like(shape(), 255)]), "PNG"),
    "a palette of grays": lambda: saved(Image.fromarray(shape()).convert("P"), "PNG"),
    "white is zero": lambda: tiff(255 - shape(), 0, 8),
    "floats": lambda: tiff((shape() / 255).astype("f4"), 1, 32, sample_format=3),
    "a profile, which is left": lambda: saved(shape(), "PNG", icc_profile=gray_profile(gamma(1.0))),
    "BMP": lambda: saved(shape(), "BMP"),
}


@pytest.mark.parametrize("name", GRAYS)
def test_gray_is_the_mask(tmp_path, name, caplog):
    is_shape(load(GRAYS[name](), tmp_path))
    assert not caplog.records


def test_one_bit(tmp_path):
    is_shape(
        load(saved(Image.fromarray(shape()).point(lambda v: 255 * (v > 99)).convert("1"), "PNG"), tmp_path),
        (shape() > 99) * 1.0,
    )


def test_jpeg_in_color(tmp_path):
    is_shape(load(saved(shape()[..., None].repeat(3, 2), "JPEG", quality=95), tmp_path), tolerance=0.1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned(tmp_path, orientation):
    is_shape(load(tiff(turned(shape(), orientation), 1, 8, more={274: (3, orientation)}), tmp_path))


class TestTransparency:
    WAYS = {
        "white": lambda: saved(np.dstack([np.full_like(shape(), 255), shape()]), "PNG"),
        "black in color": lambda: saved(np.dstack([np.zeros((24, 32, 3), "u1"), shape()]), "PNG"),
        "16 bits": lambda: png(np.dstack([np.full((24, 32), 65535), shape().astype(int) * 257]).astype("u2"), 16, 4),
        "WebP": lambda: saved(np.dstack([np.full((24, 32, 3), 255, "u1"), shape()]), "WEBP", lossless=True, exact=True),
        "TIFF": lambda: tiff(np.dstack([np.full_like(shape(), 255), shape()]), 1, 8, more={338: (3, 2)}),
        "TIFF, multiplied": lambda: tiff(np.dstack([shape(), shape()]), 1, 8, more={338: (3, 1)}),
    }  # fmt: skip

    @pytest.mark.parametrize("name", WAYS)
    def test_is_the_mask_where_it_varies(self, tmp_path, name):
        is_shape(load(self.WAYS[name](), tmp_path))

    def test_a_picture_below_it_is_said(self, tmp_path, caplog):
        colors = np.round(drawing() * 255).astype("u1")
        is_shape(load(saved(np.dstack([colors, shape()]), "PNG"), tmp_path))
        assert "its transparency is the mask" in caplog.text

    def test_one_transparent_color(self, tmp_path):
        data = png(np.where(shape() > 99, 255, 7).astype("u1"), 8, 0, (b"tRNS", b"\0\x07"))
        is_shape(load(data, tmp_path), (shape() > 99) * 1.0)


def inside(kind="u1"):
    return (shape() > 99).astype(kind)


def colored():
    return np.round(drawing() * 255).astype("u1")


def in_color(levels):
    return levels[..., None].repeat(3, 2)


REFUSED = {
    "0 and 1": (lambda: saved(inside(), "PNG"), "values up to 1 of 255: labels.*multiply them by 255"),
    "0 and 1 of 16 bits": (lambda: saved(inside("u2"), "PNG"), "up to 1 of 65535.*multiply them by 65535"),
    "8 bits in 16": (lambda: saved(shape().astype("u2"), "PNG"), "8-bit values in 16 bits; multiply them by 257"),
    "several labels": (lambda: saved(shape() // 60, "PNG"), "up to 4 of 255: labels"),
    "many labels": (lambda: saved(shape() // 8, "PNG"), "up to 31 of 255: labels"),
    "0 and 1 in color": (lambda: saved(in_color(inside()), "PNG"), "up to 1 of 255"),
    "colors": (lambda: saved(colored(), "PNG"), "a picture in color"),
    "a palette of colors": (lambda: saved(Image.fromarray(colored()).convert("P"), "PNG"), "a picture in color"),
    "inks": (lambda: saved(Image.new("CMYK", (9, 9)), "TIFF"), "a picture in CMYK"),
    "floats to 255": (lambda: tiff(shape().astype("f4"), 1, 32, sample_format=3), "from 0 to 255"),
    "words": (lambda: b"words", "not a picture that can be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, name):
    write, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as caught:
        load(write(), tmp_path)
    assert "a.png" in str(caught.value)


def test_empty_and_full_masks_are_left_to_the_caller(tmp_path):
    assert load(saved(np.zeros((9, 9), "u1"), "PNG"), tmp_path).max() == 0
    assert load(saved(np.full((9, 9), 255, "u1"), "PNG"), tmp_path).min() == 1


def test_half_masks_are_fine(tmp_path):
    is_shape(load(saved((shape() > 99).astype("u1") * 128, "PNG"), tmp_path), (shape() > 99) * 128 / 255)


def test_pages_are_said(tmp_path, caplog):
    is_shape(load(Tiff().page(shape(), 1, 8).page(shape(), 1, 8).file(), tmp_path))
    assert "2 pages, the first is read" in caplog.text


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no picture"):
        load_mask(tmp_path / "a.png")
