"""PNG: every color type, depth, transparency and word about colors."""

import struct

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from comfyui_exemplar.files.pictures import read_photograph

from ..fixtures.scans import chunk, drawing, gray, png, rgb_profile, saved, turned

#: Color type -> the drawing as its channels.
KINDS = {
    0: lambda: gray()[..., None],
    2: drawing,
    4: lambda: np.dstack([gray(), drawing()[..., 0]]),
    6: lambda: np.dstack([drawing(), gray()]),
}


def read(data, tmp_path, **options):
    path = tmp_path / "a.png"
    path.write_bytes(data)
    return read_photograph(path, **options)


def levels(picture, bits):
    return np.round(picture * (2**bits - 1)).astype("u2" if bits > 8 else "u1")


@pytest.mark.parametrize(
    "kind, bits", [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)]
)
@pytest.mark.parametrize("interlaced", [False, True])
def test_depths(tmp_path, kind, bits, interlaced):
    samples = levels(KINDS[kind](), bits)
    if bits == 16:  # low bytes of their own
        samples = samples + np.arange(samples.size, dtype="u2").reshape(samples.shape) % 200 * (samples < 60000)
    photograph = read(png(samples, bits, kind, interlaced=interlaced), tmp_path)
    values = samples / (2**bits - 1)
    colors = values[..., :1] if kind in (0, 4) else values[..., :3]
    assert np.abs(photograph.images[0].numpy() - colors).max() < 1e-6
    assert (photograph.facts.bits, photograph.facts.gray, photograph.facts.notes) == (bits, kind in (0, 4), ())
    if kind in (4, 6):
        assert np.abs(photograph.alpha[0].numpy() - values[..., -1]).max() < 1e-6
    else:
        assert photograph.alpha is None


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("transparent", [False, True])
def test_palettes(tmp_path, bits, transparent):
    colors = np.random.default_rng(bits).integers(0, 256, (2**bits, 3), dtype="u1")
    indices = np.random.default_rng(1).integers(0, 2**bits, (24, 32)).astype("u1")
    alpha = np.linspace(0, 255, 2**bits).astype("u1")
    chunks = [(b"PLTE", colors.tobytes())] + [(b"tRNS", alpha.tobytes())] * transparent
    photograph = read(png(indices, bits, 3, *chunks), tmp_path)
    shown = alpha[indices] > 0 if transparent else np.ones_like(indices, bool)
    assert np.abs(photograph.images[0].numpy() - colors[indices] / 255)[shown].max() < 1e-6
    if transparent:
        assert np.abs(photograph.alpha[0].numpy() - alpha[indices] / 255).max() < 1e-6
    else:
        assert photograph.alpha is None


@pytest.mark.parametrize("kind, bits", [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
def test_one_transparent_color(tmp_path, kind, bits):
    samples = levels(KINDS[kind](), bits)
    key = samples[3, 5]
    near = samples[10, 10] = key.copy()
    if bits == 16:  # another color with the same high bytes
        near = samples[10, 10] = key ^ 1
    data = png(samples, bits, kind, (b"tRNS", struct.pack(f">{len(key)}H", *key)))
    alpha = read(data, tmp_path).alpha[0].numpy()
    assert np.array_equal(alpha, (samples != key).any(-1).astype(float))
    assert alpha[10, 10] == (near != key).any() and alpha.max() == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("bits", [8, 16])
def test_orientation(tmp_path, orientation, bits):
    exif = Image.Exif()
    exif[0x0112] = orientation
    said = [(b"pHYs", struct.pack(">IIB", 11811, 5906, 1)), (b"eXIf", exif.tobytes()[6:])]
    photograph = read(png(levels(turned(drawing(), orientation), bits), bits, 2, *said), tmp_path)
    assert np.abs(photograph.images[0].numpy() - drawing()).max() < 1e-6
    assert photograph.facts.resolution == ((150.01, 300.0) if orientation >= 5 else (300.0, 150.01))
    assert photograph.facts.exif is None  # nothing else was in it


def test_resolution_without_unit_is_none(tmp_path):
    assert (
        read(png(levels(gray(), 8), 8, 0, (b"pHYs", struct.pack(">IIB", 2, 1, 0))), tmp_path).facts.resolution is None
    )


def linear(v):
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def encoded(v):
    v = v.clip(0, 1)
    return np.where(v <= 0.0031308, v * 12.92, 1.055 * v ** (1 / 2.4) - 0.055)


def phys(name, *values):
    return name, struct.pack(f">{len(values)}I", *(round(v * 100000) for v in values))


P3 = (0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
BT709 = (0.3127, 0.329, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
#: Linear Display P3 -> linear sRGB, as published.
P3_TO_SRGB = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])


class TestColors:
    @pytest.mark.parametrize("bits", [8, 16])
    @pytest.mark.parametrize("chunks, expected", [
        ([phys(b"gAMA", 1 / 2.2)], drawing()),
        ([phys(b"gAMA", 1 / 2.2), phys(b"cHRM", *BT709)], drawing()),
        ([(b"sRGB", b"\0"), phys(b"gAMA", 1 / 1.8)], drawing()),  # sRGB is the stronger word
        ([phys(b"gAMA", 1)], encoded(drawing())),
        ([phys(b"gAMA", 1 / 1.8)], encoded(drawing() ** 1.8)),
        ([(b"cICP", bytes([1, 13, 0, 1]))], drawing()),
        ([(b"cICP", bytes([12, 13, 0, 1]))], encoded(linear(drawing()) @ P3_TO_SRGB.T)),
        ([phys(b"gAMA", 1 / 2.2), phys(b"cHRM", *P3)], encoded(linear(drawing()) @ P3_TO_SRGB.T)),
    ])  # fmt: skip
    def test_words(self, tmp_path, bits, chunks, expected):
        photograph = read(png(levels(drawing(), bits), bits, 2, *chunks), tmp_path)
        assert np.abs(photograph.images[0].numpy() - expected).max() < 1.5e-3
        assert not photograph.facts.notes

    @pytest.mark.parametrize("kind", [0, 4])
    def test_gray_has_a_gamma_too(self, tmp_path, kind):
        found = read(png(levels(KINDS[kind](), 16), 16, kind, phys(b"gAMA", 1 / 1.8), phys(b"cHRM", *P3)), tmp_path)
        assert np.abs(found.images[0, ..., 0].numpy() - encoded(gray() ** 1.8)).max() < 1e-4

    def test_narrow_range_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="narrow range"):
            read(png(levels(drawing(), 8), 8, 2, (b"cICP", bytes([1, 13, 0, 0]))), tmp_path)

    def test_high_dynamic_range_is_refused(self, tmp_path):
        for transfer, name in ((16, "PQ"), (18, "HLG")):
            with pytest.raises(ValueError, match=f"{name} values"):
                read(png(levels(drawing(), 16), 16, 2, (b"cICP", bytes([9, transfer, 0, 1]))), tmp_path)

    @pytest.mark.parametrize(
        "chunks", [[phys(b"gAMA", 0)], [phys(b"gAMA", 1), phys(b"cHRM", *(0,) * 8)], [(b"iCCP", b"x\0\0nothing")]]
    )
    def test_broken_words_are_said(self, tmp_path, chunks):
        photograph = read(png(levels(drawing(), 8), 8, 2, *chunks), tmp_path)
        assert np.abs(photograph.images[0].numpy() - drawing()).max() < 1e-6
        assert "taken as sRGB" in photograph.facts.notes[0]


def test_animation(tmp_path):
    frames = [Image.fromarray(levels(picture, 8)) for picture in (drawing(), 1 - drawing(), drawing()[::-1])]
    data = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    first = read(data, tmp_path)
    assert first.facts.pages == 3 and first.facts.notes == ("3 pages, the first is read",)
    found = read(data, tmp_path, pages="all").images.numpy()
    for i, expected in enumerate((drawing(), 1 - drawing(), drawing()[::-1])):
        assert np.abs(found[i] - expected).max() < 1e-6


def test_large_texts_do_not_matter(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "x" * 3_000_000)
    found = read(saved(levels(drawing(), 8), "PNG", pnginfo=info), tmp_path)
    assert np.abs(found.images[0].numpy() - drawing()).max() < 1e-6


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("tolerant", [False, True])
def test_cut_off_files_are_refused(tmp_path, monkeypatch, share, tolerant):
    """Also where somebody in the process has told Pillow to fill them up with gray."""
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    data = saved(np.random.default_rng(0).integers(0, 256, (90, 90, 3), "u1"), "PNG", icc_profile=rgb_profile())
    with pytest.raises(ValueError, match="is not a picture that can be read"):
        read(data[: int(len(data) * share)], tmp_path)


@pytest.mark.parametrize("tolerant", [False, True])
def test_pixels_that_end_early_within_a_whole_file(tmp_path, monkeypatch, tolerant):
    import zlib

    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
    for bits in (8, 16):
        whole = png(levels(drawing(), bits), bits, 2)
        at = whole.index(b"IDAT") - 4
        (length,) = struct.unpack(">I", whole[at : at + 4])
        rows = zlib.decompress(whole[at + 8 : at + 8 + length])
        data = whole[:at] + chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2])) + chunk(b"IEND", b"")
        with pytest.raises(ValueError, match="is not a picture that can be read"):
            read(data, tmp_path)
