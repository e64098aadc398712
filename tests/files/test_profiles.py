"""Profiles of color: what is evaluated in floats agrees with littleCMS, and 16 bits stay precise."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from comfyui_exemplar.files import profiles
from comfyui_exemplar.files.pictures import read_photograph

from ..fixtures.scans import (
    ADOBE,
    drawing,
    formula,
    gamma,
    gray,
    gray_profile,
    named,
    png,
    points,
    profile,
    rgb_profile,
    saved,
    tiff,
)

SRGB_COLUMNS = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
SRGB_CURVE = formula(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
CURVES = {
    "gamma": gamma(2.2),
    "gamma 1": gamma(1),
    "no points": points([]),
    "points": points(np.linspace(0, 1, 64) ** 1.8),
    "power": formula(0, 1.8),
    "power with offset": formula(1, 2.2, 0.95, 0.05),
    "power over a floor": formula(2, 2.0, 0.9, 0.05, 0.0),
    "line and power": SRGB_CURVE,
    "line and power over a floor": formula(4, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0.0, 0.0),
}


def ramp():
    """(16, 16, 3) of all kinds of colors, black and white with them."""
    y, x = np.mgrid[0:16, 0:16]
    return np.stack([x * 17, y * 17, (x * y)], -1).astype("u1")


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("columns", [ADOBE, SRGB_COLUMNS])
def test_floats_agree_with_littlecms(name, columns):
    icc = rgb_profile(CURVES[name], columns)
    space = profiles.read_space(icc)
    floats, *_ = profiles.to_srgb(ramp().astype("f4") / 255, "rgb", profiles.Colors(icc))
    assert space is not None
    assert (
        np.abs(floats * 255 - profiles.by_littlecms(ramp(), "rgb", icc, exact=True)).max() < 1.1
    )  # it rounds, and sRGB stays


@pytest.mark.parametrize("name", CURVES)
def test_gray_floats_agree_with_littlecms(name):
    icc = gray_profile(CURVES[name])
    levels = np.arange(256, dtype="u1").reshape(16, 16, 1)
    floats, *_ = profiles.to_srgb(levels.astype("f4") / 255, "gray", profiles.Colors(icc))
    assert np.abs(floats * 255 - profiles.by_littlecms(levels, "gray", icc, exact=True)).max() < 0.6


def read(data, tmp_path):
    (tmp_path / "a.png").write_bytes(data)
    return read_photograph(tmp_path / "a.png")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_gray_of_gamma_18(tmp_path, bits, kind):
    levels = np.round(gray() * (2**bits - 1)).astype(f"u{bits // 8}")
    icc = gray_profile(gamma(1.8))
    data = saved(levels, "PNG", icc_profile=icc) if kind == "PNG" else tiff(levels, 1, bits, more={34675: (7, icc)})
    photograph = read(data, tmp_path)
    tone = (levels / (2**bits - 1)) ** (round(1.8 * 256) / 256)
    expected = np.where(tone <= 0.0031308, tone * 12.92, 1.055 * tone ** (1 / 2.4) - 0.055)
    assert np.abs(photograph.images[0].numpy() - expected[..., None]).max() < 1e-5
    assert photograph.facts.profile == "gray" and not photograph.facts.notes


def test_sixteen_bits_stay_precise(tmp_path):
    """Every one of 4096 steps comes out, and where it should."""
    steps = np.linspace(0.1, 1, 4096)[None].repeat(2, 0)
    levels = np.round(steps * 65535).astype("u2")
    found = read(tiff(levels, 1, 16, more={34675: (7, gray_profile(gamma(1.8)))}), tmp_path).images[0, 0, :, 0].numpy()
    assert len(np.unique(found)) == 4096 and (np.diff(found) > 0).all()
    color = np.stack([levels, levels // 2, levels // 3], -1)
    found = read(tiff(color, 2, 16, more={34675: (7, rgb_profile())}), tmp_path).images[0, 0].numpy()
    linear = (color[0] / 65535) ** (563 / 256) @ np.array(ADOBE)
    expected = linear @ np.linalg.inv(np.array(SRGB_COLUMNS))
    expected = np.where(expected <= 0.0031308, expected * 12.92, 1.055 * expected.clip(0, 1) ** (1 / 2.4) - 0.055)
    assert np.abs(found - expected).max() < 1 / 4096


@pytest.mark.parametrize("icc", [
    rgb_profile(SRGB_CURVE, SRGB_COLUMNS, "sRGB by formula"),
    rgb_profile(points([profiles.decode(np.array(i / 1023.0)) for i in range(1024)]), SRGB_COLUMNS, "sRGB by points"),
    ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
])  # fmt: skip
def test_srgb_changes_nothing(tmp_path, icc):
    levels = np.round(drawing() * 255).astype("u1")
    found = read(saved(levels, "PNG", icc_profile=icc), tmp_path)
    assert np.array_equal(np.round(found.images[0].numpy() * 255), levels)
    assert "sRGB" in found.facts.profile


def test_white_stays_white(tmp_path):
    for icc in (rgb_profile(), rgb_profile(gamma(1), SRGB_COLUMNS)):
        for bits in (8, 16):
            levels = np.full((4, 4, 3), 2**bits - 1, f"u{bits // 8}")
            found = read(tiff(levels, 2, bits, more={34675: (7, icc)}), tmp_path).images
            assert found.min() > 1 - 1e-6


class TestNotes:
    def check(self, photograph, words, picture):
        assert words in photograph.facts.notes[0] and photograph.facts.profile is None
        assert np.abs(photograph.images[0].numpy() - picture).max() < 0.5001 / 255

    @pytest.mark.parametrize("icc", [b"nothing", b"x" * 400, rgb_profile()[:180]])
    @pytest.mark.parametrize("bits", [8, 16])
    def test_broken(self, tmp_path, icc, bits):
        levels = np.round(drawing() * (2**bits - 1)).astype(f"u{bits // 8}")
        self.check(read(tiff(levels, 2, bits, more={34675: (7, icc)}), tmp_path), "sRGB", drawing())

    def test_for_other_pixels(self, tmp_path):
        levels = np.round(drawing() * 255).astype("u1")
        self.check(
            read(saved(levels, "PNG", icc_profile=gray_profile(gamma(1.8))), tmp_path),
            "is for gray, its pixels are rgb",
            drawing(),
        )

    def test_gray_pixels_with_a_profile_of_colors(self, tmp_path):
        levels = np.round(gray() * 255).astype("u1")
        found = read(saved(levels, "PNG", icc_profile=rgb_profile(gamma(1), SRGB_COLUMNS)), tmp_path)
        tone = levels / 255
        expected = np.where(tone <= 0.0031308, tone * 12.92, 1.055 * tone ** (1 / 2.4) - 0.055)
        assert np.abs(found.images[0].numpy() - expected[..., None]).max() < 1.1 / 255 and not found.facts.notes


def inks():
    """A CMYK profile of tables, small: Lab of each corner."""
    import itertools
    import struct

    table = b""
    for c, m, y, k in itertools.product((0, 1), repeat=4):
        table += struct.pack(">3H", *(round(v) for v in (65280 * (1 - k) * (1 - (c + m + y) / 4), 32768, 32768)))
    line = struct.pack(">2H", 0, 65535)
    lut = (
        b"mft2\0\0\0\0"
        + bytes([4, 3, 2, 0])
        + b"".join(struct.pack(">i", v * 65536) for v in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    )
    lut += struct.pack(">2H", 2, 2) + line * 4 + table + line * 3
    return profile(b"CMYK", [(b"desc", named("inks")), (b"A2B0", lut), (b"A2B1", lut)], pcs=b"Lab ").replace(
        b"mntr", b"prtr", 1
    )


@pytest.mark.parametrize("bits", [8, 16])
def test_inks_by_their_profile(tmp_path, bits):
    """Paper is white, full black is black; magenta, gray in this odd profile, is neither red nor what no profile
    gives."""
    levels = np.zeros((1, 3, 4), f"u{bits // 8}")
    levels[0, 1, 3] = levels[0, 2, 1] = 2**bits - 1
    photograph = read(tiff(levels, 5, bits, more={34675: (7, inks())}), tmp_path)
    found = photograph.images[0, 0].numpy()
    assert found[0].min() > 0.99 and found[1].max() < 0.01
    assert np.ptp(found[2]) < 0.02 and 0.6 < found[2].mean() < 0.8  # L 75
    assert photograph.facts.profile == "inks"
    assert ("converted at 8 bits" in str(photograph.facts.notes)) == (bits == 16)


def test_names():
    assert profiles.profile_name(rgb_profile(name="Adobe RGB (1998)")) == "Adobe RGB (1998)"
    assert profiles.profile_name(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()) == "sRGB built-in"
    assert profiles.profile_name(b"") == "unnamed"


def test_pillow_reads_the_profiles_that_these_tests_write():
    for icc in (rgb_profile(), gray_profile(gamma(1.8)), inks()):
        ImageCms.ImageCmsProfile(io.BytesIO(icc))
    assert Image.fromarray(ramp()).size == (16, 16)
    assert png(ramp(), 8, 2)[:4] == b"\x89PNG"


def test_colors_stored_in_a_wider_space(tmp_path):
    """As an editor stores them: what littleCMS wrote comes back as it was."""
    colors = np.array(
        [[(235, 232, 225), (200, 40, 50), (30, 90, 170)], [(0, 0, 0), (128, 128, 128), (90, 160, 70)]], "u1"
    )
    adobe = ImageCms.ImageCmsProfile(io.BytesIO(rgb_profile()))
    image = Image.fromarray(colors.repeat(8, 0).repeat(8, 1))
    stored = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), adobe, renderingIntent=1)
    assert np.abs(np.asarray(stored).astype(int) - np.asarray(image)).max() > 20
    found = read(saved(stored, "PNG", icc_profile=rgb_profile()), tmp_path)
    assert np.abs(found.images[0].numpy() * 255 - np.asarray(image)).max() < 1.01
    assert found.facts.profile == "adobe-like"
