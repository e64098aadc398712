"""TIFF: every depth, sample format, meaning, layout and compression is right, or refused by name."""

import io

import numpy as np
import pytest
from PIL import Image

from comfyui_exemplar.files.pictures import load_picture, read_photograph

from ..fixtures.scans import Tiff, drawing, gray, saved, tiff, turned

#: What 8 bits may be off; deeper samples are off by less than one of 4096 levels, and what they hold by much less.
EIGHT, DEEP = 0.5001 / 255, 1e-5
MEANINGS = {"white is zero": (0, gray), "black is zero": (1, gray), "rgb": (2, drawing)}


def read(data, tmp_path, **options):
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    return read_photograph(path, **options)


def stored(picture, bits, kind=1):
    """0..1 -> samples of so many bits; floats for kind 3."""
    if kind == 3:
        return picture.astype(f"f{bits // 8}")
    size = next(size for size in (1, 2, 4) if size * 8 >= bits)
    return np.round(picture * (2**bits - 1)).astype(f"u{size}")


def same(photograph, picture, tolerance):
    found = photograph.images[0].numpy()
    expected = picture if picture.ndim == 3 else picture[..., None].repeat(3, -1)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance


def of(meaning, bits, kind=1):
    """Photometric number, stored samples, and the picture that they are."""
    number, picture = MEANINGS[meaning]
    picture = picture()
    levels = stored(1 - picture if number == 0 and kind == 3 else picture, bits, kind)
    if kind == 1:  # what so many levels hold
        picture = levels / (2**bits - 1)
    if number == 0 and kind == 1:
        levels = (2**bits - 1) - levels
    return number, levels, picture


WHOLE = [(bits, 1) for bits in (1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32)]
FLOATS = [(16, 3), (32, 3), (64, 3)]


@pytest.mark.parametrize("bits, kind", WHOLE + FLOATS)
@pytest.mark.parametrize("meaning", MEANINGS)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("big", [False, True])
def test_depths(tmp_path, meaning, bits, kind, order, big):
    number, levels, picture = of(meaning, bits, kind)
    photograph = read(tiff(levels, number, bits, order, big, sample_format=kind), tmp_path)
    same(photograph, picture, 3e-4 if (bits, kind) == (16, 3) else 1e-6)
    facts = photograph.facts
    assert (facts.bits, facts.floating, facts.gray) == (bits, kind == 3, number != 2)
    assert facts.format == "TIFF" and not facts.notes and photograph.alpha is None


@pytest.mark.parametrize("compression", [1, 5, 8, 32946, 32773])
@pytest.mark.parametrize("bits, kind", [(1, 1), (4, 1), (8, 1), (12, 1), (16, 1), (32, 3)])
@pytest.mark.parametrize("layout", [{}, {"rows": 5}, {"tile": (16, 16)}, {"planar": True}, {"planar": True, "rows": 7}])
def test_layouts_and_compressions(tmp_path, compression, bits, kind, layout):
    for meaning in MEANINGS:
        number, levels, picture = of(meaning, bits, kind)
        same(
            read(tiff(levels, number, bits, sample_format=kind, compression=compression, **layout), tmp_path),
            picture,
            1e-6,
        )


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [5, 8])
@pytest.mark.parametrize(
    "bits, kind, predictor", [(8, 1, 2), (16, 1, 2), (32, 1, 2), (16, 3, 3), (32, 3, 3), (64, 3, 3)]
)
@pytest.mark.parametrize("layout", [{"rows": 5}, {"tile": (16, 16)}, {"planar": True}])
def test_predictors(tmp_path, order, compression, bits, kind, predictor, layout):
    number, levels, picture = of("rgb", bits, kind)
    options = {"sample_format": kind, "compression": compression, "predictor": predictor, **layout}
    same(
        read(tiff(levels, number, bits, order, **options), tmp_path), picture, 3e-4 if (bits, kind) == (16, 3) else 1e-6
    )


@pytest.mark.parametrize("bits", [1, 8, 12])
@pytest.mark.parametrize("compression", [1, 5, 8])
def test_bits_from_the_low_one_on(tmp_path, bits, compression):
    number, levels, picture = of("black is zero", bits)
    same(read(tiff(levels, number, bits, compression=compression, fill=2), tmp_path), picture, 1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits, kind, compression", [(8, 1, 1), (16, 1, 1), (8, 1, 5), (32, 3, 1)])
def test_orientation(tmp_path, orientation, bits, kind, compression):
    for meaning in MEANINGS:
        number, levels, picture = of(meaning, bits, kind)
        more = {274: (3, orientation), 282: (5, (300, 1)), 283: (5, (150, 1)), 296: (3, 2)}
        data = tiff(turned(levels, orientation), number, bits, sample_format=kind, compression=compression, more=more)
        photograph = read(data, tmp_path)
        same(photograph, picture, 1e-6)
        assert photograph.facts.resolution == ((150, 300) if orientation >= 5 else (300, 150))


@pytest.mark.parametrize("kind", ["group3", "group4", "tiff_ccitt"])
@pytest.mark.parametrize("fill", [1, 2])
def test_fax(tmp_path, kind, fill):
    picture = (gray() > 0.5).astype(float)
    page = saved(Image.fromarray((picture * 255).astype("u1")).convert("1"), "TIFF", compression=kind)
    with Image.open(io.BytesIO(page)) as opened:
        tags = opened.tag_v2
        strips = [page[at : at + size] for at, size in zip(tags[273], tags[279], strict=True)]
        options = {tag: (4, tags[tag]) for tag in (292, 293) if tag in tags}
        photometric = tags[262]
    assert len(strips) == 1
    coded = strips[0]
    data = tiff(
        picture,
        photometric,
        1,
        compression={"tiff_ccitt": 2, "group3": 3, "group4": 4}[kind],
        coded=coded,
        fill=fill,
        more=options,
    )
    same(read(data, tmp_path), picture, 0)
    other = tiff(
        picture,
        1 - photometric,
        1,
        compression={"tiff_ccitt": 2, "group3": 3, "group4": 4}[kind],
        coded=coded,
        fill=fill,
        more=options,
    )
    same(read(other, tmp_path), 1 - picture, 0)


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr", "CMYK"])
def test_jpeg_strips(tmp_path, mode):
    image = Image.fromarray(np.round(drawing() * 255).astype("u1")).resize((96, 72), Image.Resampling.BICUBIC)
    data = saved(image.convert(mode), "TIFF", compression="jpeg", quality=100)
    expected = np.asarray(image.convert(mode).convert("RGB")) / 255
    found = read(data, tmp_path).images[0].numpy()
    assert np.abs(found - expected).mean() < 4 / 255


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_palettes(tmp_path, bits):
    colors = np.random.default_rng(bits).integers(0, 256, (2**bits, 3))
    indices = np.random.default_rng(1).integers(0, 2**bits, (24, 32)).astype("u2" if bits == 16 else "u1")
    for scale in (257, 256, 1):  # most writers only move the byte up, old ones count to 255
        data = tiff(indices, 3, bits, more={320: (3, (colors.T * scale).reshape(-1).tolist())})
        same(read(data, tmp_path), colors[indices] / 255, 1e-6)


def test_a_palette_of_sixteen_bits(tmp_path):
    colors = np.random.default_rng(1).integers(0, 65536, (256, 3))
    indices = np.arange(256, dtype="u1").reshape(16, 16)
    same(
        read(tiff(indices, 3, 8, more={320: (3, colors.T.reshape(-1).tolist())}), tmp_path),
        colors[indices] / 65535,
        1e-6,
    )


@pytest.mark.parametrize("bits, kind", [(8, 1), (16, 1), (32, 3)])
@pytest.mark.parametrize("planar", [False, True])
def test_inks(tmp_path, bits, kind, planar):
    inks = np.concatenate([1 - drawing(), (gray()[..., None] * 0.5)], -1)
    expected = (1 - inks[..., :3]) * (1 - inks[..., 3:])
    same(
        read(tiff(stored(inks, bits, kind), 5, bits, sample_format=kind, planar=planar), tmp_path),
        expected,
        2 * EIGHT if bits == 8 else DEEP,
    )


def lab(picture):
    """sRGB -> L, a, b of D50, as float64, written down from the standards."""
    linear = np.where(picture <= 0.04045, picture / 12.92, ((picture + 0.055) / 1.055) ** 2.4)
    matrix = np.array(
        [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
    )
    ratio = linear @ matrix.T / (0.9642, 1, 0.8249)
    f = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


@pytest.mark.parametrize("photometric, bits, tolerance", [(8, 8, 0.07), (8, 16, 2e-3), (9, 8, 0.07), (9, 16, 2e-3)])
def test_cielab(tmp_path, photometric, bits, tolerance):
    light, a, b = np.moveaxis(lab(drawing()), -1, 0)
    unit = 2 ** (bits - 8)
    most = 65280 if (photometric, bits) == (9, 16) else 2**bits - 1
    offset = 128 if photometric == 9 else 0
    levels = np.stack([light / 100 * most, (a + offset) * unit, (b + offset) * unit], -1).round().astype(np.int64)
    photograph = read(tiff(levels.astype(f"u{bits // 8}"), photometric, bits), tmp_path)
    same(photograph, drawing(), tolerance)  # steps of 8 bits are large in dark blue
    assert np.abs(photograph.images[0].numpy() - drawing()).mean() < tolerance / 10


@pytest.mark.parametrize("across, down", [(1, 1), (2, 1), (2, 2), (4, 2)])
def test_ycbcr_without_jpeg(tmp_path, across, down):
    r, g, b = np.moveaxis(drawing().repeat(4, 0).repeat(4, 1) * 255, -1, 0)  # chroma is even within a block
    y = 0.299 * r + 0.587 * g + 0.114 * b
    parts = [np.round(part).astype("u1") for part in (y, 128 + (b - y) / 1.772, 128 + (r - y) / 1.402)]
    h, w = y.shape
    luma = parts[0].reshape(h // down, down, w // across, across).swapaxes(1, 2).reshape(h // down, w // across, -1)
    blocks = np.concatenate([luma, *(part[::down, ::across, None] for part in parts[1:])], -1)
    data = tiff(np.stack(parts, -1), 6, 8, coded=blocks.tobytes(), more={530: (3, (across, down))})
    same(read(data, tmp_path), drawing().repeat(4, 0).repeat(4, 1), 2 / 255)


@pytest.mark.parametrize("bits, kind", [(8, 1), (16, 1), (32, 3)])
@pytest.mark.parametrize("meaning", MEANINGS)
@pytest.mark.parametrize("planar", [False, True])
def test_transparency(tmp_path, bits, kind, meaning, planar):
    picture = MEANINGS[meaning][1]()
    alpha = np.linspace(0.2, 1, picture.shape[1])[None].repeat(picture.shape[0], 0)
    alpha = np.round(alpha * 255) / 255
    for meant in (2, 1):
        seen = picture if picture.ndim == 3 else picture[..., None]
        shown = seen * alpha[..., None] if meant == 1 else seen
        shown = 1 - shown if meaning == "white is zero" else shown
        levels = stored(np.concatenate([shown, alpha[..., None]], -1), bits, kind)
        data = tiff(levels, MEANINGS[meaning][0], bits, sample_format=kind, planar=planar, more={338: (3, meant)})
        photograph = read(data, tmp_path)
        assert np.abs(photograph.alpha[0].numpy() - alpha).max() < EIGHT
        same(photograph, picture, 3 / 255 if (bits, meant) == (8, 1) else 1e-4 if meant == 1 else 1e-6)
        on_white = load_picture(tmp_path / "a.tif")[0].numpy()
        assert np.abs(on_white - (seen * alpha[..., None] + 1 - alpha[..., None])).max() < 1 / 255


def test_other_channels_are_named(tmp_path):
    more = np.concatenate([drawing(), gray()[..., None]], -1)
    photograph = read(tiff(stored(more, 8), 2, 8, more={338: (3, 0)}), tmp_path)
    same(photograph, drawing(), EIGHT)
    assert photograph.alpha is None and "1 of its channels" in photograph.facts.notes[0]


class TestPages:
    def test_first_or_all(self, tmp_path):
        file = Tiff().page(stored(gray(), 8), 1, 8).page(stored(1 - gray(), 16), 1, 16).file()
        photograph = read(file, tmp_path)
        same(photograph, gray(), EIGHT)
        assert photograph.facts.pages == 2 and photograph.facts.notes == ("2 pages, the first is read",)
        both = read(file, tmp_path, pages="all")
        assert both.images.shape[0] == 2 and not both.facts.notes
        assert np.abs(both.images[1, ..., 0].numpy() - (1 - gray())).max() < EIGHT

    def test_of_different_sizes(self, tmp_path):
        file = Tiff().page(stored(gray(), 8), 1, 8).page(stored(gray()[:9], 8), 1, 8).file()
        same(read(file, tmp_path), gray(), EIGHT)
        with pytest.raises(ValueError, match="pages of different sizes \\(32 x 9, 32 x 24\\)"):
            read(file, tmp_path, pages="all")

    @pytest.mark.parametrize("kind, value", [(254, 1), (255, 2)])
    def test_a_thumbnail_is_no_page(self, tmp_path, kind, value):
        small = stored(gray()[::4, ::4], 8)
        after = Tiff().page(stored(gray(), 8), 1, 8).page(small, 1, 8, more={kind: (4, value)}).file()
        before = Tiff().page(small, 1, 8, more={kind: (4, value)}).page(stored(gray(), 8), 1, 8).file()
        for file in (after, before):
            photograph = read(file, tmp_path)
            same(photograph, gray(), EIGHT)
            assert photograph.facts.pages == 1 and not photograph.facts.notes

    def test_the_picture_below_its_thumbnail(self, tmp_path):
        file = Tiff()
        below = file.page(stored(gray(), 16), 1, 16, subpage=True)
        file.page(stored(gray()[::4, ::4], 8), 1, 8, more={254: (4, 1), 330: (4, below)})
        same(read(file.file(), tmp_path), gray(), DEEP)

    def test_a_mask_page_is_named(self, tmp_path):
        file = Tiff().page(stored(gray(), 8), 1, 8).page(stored(gray(), 1), 4, 1, more={254: (4, 4)}).file()
        assert "transparency mask" in read(file, tmp_path).facts.notes[0]


def test_a_predictor_means_nothing_without_its_compressions(tmp_path):
    for compression in (1, 32773):
        data = tiff(stored(gray(), 8), 1, 8, compression=compression, more={317: (3, 2)})
        same(read(data, tmp_path), gray(), EIGHT)


class TestFloats:
    @pytest.mark.parametrize("change, words", [
        (lambda p: p * 255, "from 0 to 255, expected 0 to 1"),
        (lambda p: p * 65535, "from 0 to 65535"),
        (lambda p: p - 1, "from -1 to 0"),
        (lambda p: np.where(p == 0, np.nan, p), "NaN"),
        (lambda p: np.where(p == 0, np.inf, p), "NaN or infinite"),
    ])  # fmt: skip
    def test_other_ranges_are_refused(self, tmp_path, change, words):
        with pytest.raises(ValueError, match=words):
            read(tiff(change(gray()).astype("f4"), 1, 32, sample_format=3), tmp_path)

    def test_a_little_more_is_clipped_and_said(self, tmp_path):
        photograph = read(tiff((gray() * 1.2 - 0.1).astype("f4"), 1, 32, sample_format=3), tmp_path)
        same(photograph, (gray() * 1.2 - 0.1).clip(0, 1), 1e-6)
        assert "from -0.1 to 1.1" in photograph.facts.notes[0]


REFUSED = {
    "signed": (lambda: tiff(stored(gray(), 16), 1, 16, sample_format=2), "signed samples of 16 bits"),
    "complex": (lambda: tiff(stored(gray(), 32), 1, 32, sample_format=6), "complex"),
    "64 bits": (lambda: tiff(stored(gray(), 32).astype("u8"), 1, 64), "samples of 64 bits"),
    "float of 8 bits": (lambda: tiff(stored(gray(), 8), 1, 8, sample_format=3), "floating-point samples of 8 bits"),
    "camera raw": (lambda: tiff(stored(gray(), 16), 32803, 16), "camera raw: develop"),
    "ITU Lab": (lambda: tiff(stored(drawing(), 8), 10, 8), "ITU Lab"),
    "JPEG 2000": (lambda: tiff(stored(gray(), 8), 1, 8, coded=b"x" * 99, compression=34712), "JPEG 2000 compression"),
    "old JPEG": (lambda: tiff(stored(gray(), 8), 1, 8, coded=b"x" * 99, compression=6), "old-style JPEG"),
    "unknown": (lambda: tiff(stored(gray(), 8), 1, 8, coded=b"x" * 99, compression=12345), "number 12345"),
    "other inks": (lambda: tiff(stored(np.dstack([drawing(), gray()]), 8), 5, 8, more={332: (3, 2)}), "inks"),
    "a short palette": (lambda: tiff(stored(gray(), 8), 3, 8, more={320: (3, (1, 2, 3))}), "palette of 1 color"),
    "uneven bits": (lambda: tiff(stored(drawing(), 8), 2, 8, more={258: (3, (5, 6, 5))}), "5, 6, 5 bits"),
    "float CIELAB": (lambda: tiff(stored(drawing(), 32, 3), 8, 32, sample_format=3), "CIELAB of 32 bits"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(tmp_path, name):
    write, words = REFUSED[name]
    with pytest.raises(ValueError, match=rf"a\.tif is not a picture that can be read \(.*{words}"):
        read(write(), tmp_path)


@pytest.mark.parametrize("compression", [1, 5, 8, 32773])
@pytest.mark.parametrize("layout", [{}, {"rows": 5}, {"tile": (16, 16)}])
def test_cut_off_files_are_refused(tmp_path, compression, layout):
    """The tags stand first, so that what is missing are pixels."""
    whole = tiff(stored(gray(), 8), 1, 8, compression=compression, **layout)
    strip = whole[8:]
    for share in (0.3, 0.9):
        lost = int(len(strip) * (1 - share))
        with pytest.raises(ValueError, match="truncated"):
            read(whole[: len(whole) - lost], tmp_path)


def test_a_strip_that_holds_too_little(tmp_path):
    for compression, coded in ((1, b"\x80" * 100), (8, b"x\x9cK\x04\x00\x00b\x00b"), (32773, b"\x81\x80\x81\x80")):
        with pytest.raises(ValueError, match=r"truncated|unpack|damaged"):
            read(tiff(stored(gray(), 8), 1, 8, compression=compression, coded=coded), tmp_path)


def test_capture_metadata_and_resolution(tmp_path):
    file = Tiff()
    inner = file.block(
        {33434: (5, (1, 125)), 40961: (3, 65535), 37500: (7, b"maker" * 9), 36867: (2, b"2026:01:02 03:04:05\0")}
    )
    file.page(
        stored(gray(), 8),
        1,
        8,
        more={
            271: (2, b"Scanner\0"),
            274: (3, 1),
            282: (5, (23622, 100)),
            283: (5, (23622, 100)),
            296: (3, 3),
            34665: (4, inner),
        },
    )
    facts = read(file.file(), tmp_path).facts
    assert facts.resolution == (600.0, 600.0)
    exif = Image.Exif()
    exif.load(b"Exif\0\0" + facts.exif)
    assert exif[271] == "Scanner" and 274 not in exif
    block = exif.get_ifd(34665)
    assert float(block[33434]) == pytest.approx(1 / 125) and block[36867] == "2026:01:02 03:04:05"
    assert block[40961] == 1 and 37500 not in block
