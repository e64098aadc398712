"""JPEG, WebP, GIF, BMP, JPEG 2000, AVIF, TGA, Netpbm, EXR and HDR, and what is no picture."""

import io
import struct
import warnings
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image, ImageFile, features

from comfyui_exemplar.files import exr, room
from comfyui_exemplar.files.pictures import load_picture, read_photograph

from ..fixtures.scans import drawing, gray, rgb_profile, saved, turned


def eight(picture):
    return np.round(picture * 255).astype("u1")


def smooth():
    """(72, 96, 3) that survives JPEG."""
    y, x = np.mgrid[0:72, 0:96]
    return np.stack([x / 95, y / 71, (x + y) / 166], -1)


def read(data, tmp_path, name="a.bin", **options):
    path = tmp_path / name
    path.write_bytes(data)
    return read_photograph(path, **options)


def close(photograph, picture, tolerance):
    expected = picture if picture.ndim == 3 else picture[..., None].repeat(3, -1)
    found = photograph.images[0].numpy()
    assert found.shape == expected.shape and np.abs(found - expected).max() <= tolerance


def ffmpeg(codec, array, pixels):
    """A picture as FFmpeg's encoders write it."""
    av = pytest.importorskip("av")
    context, frame = av.CodecContext.create(codec, "w"), av.VideoFrame.from_ndarray(array, format=pixels)
    context.width, context.height, context.pix_fmt, context.time_base = frame.width, frame.height, pixels, Fraction(1)
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


WAYS = {
    "JPEG": {"quality": 98, "subsampling": 0},
    "WEBP": {"lossless": True},
    "BMP": {},
    "JPEG2000": {},
    "TGA": {},
    "GIF": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
}
#: What a lossy codec, or 256 colors, may be off.
LOSS = {"JPEG": 4 / 255, "AVIF": 4 / 255, "GIF": 0.2}


@pytest.mark.parametrize("kind", WAYS)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK"])
def test_modes(tmp_path, kind, mode):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    image = Image.fromarray(eight(smooth()))
    alpha = Image.fromarray(eight(np.linspace(0, 1, 96)[None].repeat(72, 0)))
    if mode in ("RGBA", "LA"):
        if kind == "BMP":
            pytest.skip("a BMP file does not say that a fourth byte is transparency")
        image.putalpha(alpha)
    image = image.convert(mode)
    try:
        data = saved(image, kind, **WAYS[kind])
    except (OSError, ValueError):
        pytest.skip(f"{kind} has no {mode}")
    photograph = read(data, tmp_path, "a.tga")
    expected = np.asarray(image.convert("RGBA" if mode in ("RGBA", "LA") else "RGB")) / 255
    shown = expected[..., 3:] > 0.5 if expected.shape[-1] == 4 else np.ones((72, 96, 1), bool)
    tolerance = (
        0.2 if (kind, mode) == ("JPEG", "1") else 1e-6 if mode in ("P", "1") and kind == "GIF" else LOSS.get(kind, 1e-6)
    )
    assert (np.abs(photograph.images[0].numpy() - expected[..., :3]) * shown).max() <= tolerance
    if expected.shape[-1] == 4 and kind != "GIF":
        assert np.abs(photograph.alpha[0].numpy() - expected[..., 3]).max() <= LOSS.get(kind, 1e-6)
    assert photograph.facts.bits in (8, 1) and not photograph.facts.notes


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_and_metadata(tmp_path, kind, orientation):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[282], exif[283], exif[296] = orientation, "Maker", 300.0, 150.0, 2
    exif[0x8769] = {0x829A: 0.008}
    data = saved(eight(turned(smooth(), orientation)), kind, exif=exif, **WAYS[kind])
    photograph = read(data, tmp_path)
    close(photograph, smooth(), LOSS.get(kind, 0.5001 / 255))
    assert photograph.facts.resolution == ((150, 300) if orientation >= 5 else (300, 150))
    kept = Image.Exif()
    kept.load(b"Exif\0\0" + photograph.facts.exif)
    assert kept[0x010F] == "Maker" and 0x0112 not in kept and float(kept.get_ifd(0x8769)[0x829A]) == 0.008


class TestJpeg:
    def test_resolution(self, tmp_path):
        assert read(saved(eight(smooth()), "JPEG", dpi=(600, 300)), tmp_path).facts.resolution == (600, 300)
        assert read(saved(eight(smooth()), "JPEG"), tmp_path).facts.resolution is None

    @pytest.mark.parametrize("tags", [{0xA001: 2}, {0xA001: 65535, 0xA005: {1: "R03"}}])
    def test_adobe_rgb_by_exif(self, tmp_path, tags):
        from PIL import ImageCms

        adobe = ImageCms.ImageCmsProfile(io.BytesIO(rgb_profile()))
        image = ImageCms.profileToProfile(
            Image.fromarray(eight(0.2 + 0.6 * smooth())), ImageCms.createProfile("sRGB"), adobe, renderingIntent=1
        )
        exif = Image.Exif()
        exif[0x8769] = tags
        photograph = read(saved(image, "JPEG", exif=exif, **WAYS["JPEG"]), tmp_path)
        assert photograph.facts.profile == "Adobe RGB (1998)"
        close(photograph, 0.2 + 0.6 * smooth(), 10 / 255)  # JPEG's loss in the wider space
        assert np.abs(photograph.images[0].numpy() - 0.2 - 0.6 * smooth()).mean() < 1.5 / 255

    def test_uncalibrated_is_said(self, tmp_path):
        exif = Image.Exif()
        exif[0x8769] = {0xA001: 65535}
        assert "taken as sRGB" in read(saved(eight(smooth()), "JPEG", exif=exif), tmp_path).facts.notes[0]

    def test_twelve_bits(self, tmp_path):
        whole = saved(eight(smooth()), "JPEG")
        at = whole.index(b"\xff\xc0") + 4
        with pytest.raises(ValueError, match="12-bit JPEG"):
            read(whole[:at] + b"\x0c" + whole[at + 1 :], tmp_path)

    def test_broken_metadata_is_said(self, tmp_path):
        photograph = read(saved(eight(smooth()), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"), tmp_path)
        close(photograph, smooth(), 0.1)

    @pytest.mark.parametrize("tolerant", [False, True])
    @pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "JPEG2000", "TGA", "GIF", "AVIF"])
    def test_cut_off_files_are_refused(self, tmp_path, monkeypatch, kind, tolerant):
        """Also where somebody in the process has told Pillow to fill them up with gray."""
        if kind == "AVIF" and not features.check("avif"):
            pytest.skip("this Pillow has no AVIF")
        noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), "u1")
        data = saved(noise, kind, **WAYS[kind])
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", tolerant)
        for share in (0.3, 0.6, 0.97):
            with pytest.raises(ValueError, match="is not a picture that can be read"):
                read(data[: int(len(data) * share)], tmp_path, "a.tga")


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animations(tmp_path, kind):
    frames = [Image.fromarray(eight(p)).convert("P", palette=Image.Palette.ADAPTIVE) for p in (smooth(), 1 - smooth())]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0].convert("RGB"), kind, save_all=True, append_images=[frames[1].convert("RGB")], **options)
    first = read(data, tmp_path)
    assert first.facts.pages == 2 and first.facts.notes == ("2 pages, the first is read",)
    both = read(data, tmp_path, pages="all")
    assert both.images.shape[0] == 2 and not both.facts.notes
    assert np.abs(both.images[1].numpy() - np.asarray(frames[1].convert("RGB")) / 255).mean() < 0.03
    assert torch_equal(both.images[0], first.images[0])


def torch_equal(a, b):
    return np.array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("size, pages", [((96, 72), 2), ((24, 18), 1)])
def test_what_a_camera_appends_in_another_size_is_no_page(tmp_path, size, pages):
    first = Image.fromarray(eight(smooth()))
    photograph = read(saved(first, "MPO", save_all=True, append_images=[first.resize(size)]), tmp_path)
    assert photograph.facts.pages == pages and len(photograph.facts.notes) == pages - 1
    assert photograph.facts.format == "JPEG"


class TestJpeg2000:
    @pytest.mark.parametrize("bits", [16])
    def test_gray(self, tmp_path, bits):
        levels = np.round(gray() * 65535).astype("u2") // 3 * 3
        photograph = read(saved(Image.fromarray(levels), "JPEG2000"), tmp_path)
        close(photograph, levels / 65535, 1e-6)
        assert photograph.facts.bits == bits

    @pytest.mark.parametrize("pixels, channels", [("rgb48le", 3), ("rgba64le", 4)])
    def test_color_is_read_to_its_depth(self, tmp_path, pixels, channels):
        full = np.round(np.dstack([drawing(), gray()])[..., :channels] * 65535).astype("u2")
        photograph = read(ffmpeg("jpeg2000", full, pixels), tmp_path)
        found = photograph.images[0].numpy()
        assert found.max() == 1 and np.abs(found - full[..., :3] / 65535).max() < 0.1  # FFmpeg's encoder is lossy
        assert np.abs(found - full[..., :3] / 65535).mean() < 5e-3
        assert photograph.facts.bits == 16 and (photograph.alpha is not None) == (channels == 4)

    def test_resolution(self, tmp_path):
        """11811 dots in a meter across, 5906 down."""
        data = ffmpeg("jpeg2000", np.zeros((24, 32, 3), "u2"), "rgb48le")
        inner = struct.pack(">I4s4H2b", 18, b"resc", 5906, 1, 11811, 1, 0, 0)
        box = struct.pack(">I4s", 8 + len(inner), b"res ") + inner
        at = data.index(b"jp2h") - 4
        (length,) = struct.unpack(">I", data[at : at + 4])
        end = at + length
        grown = data[:at] + struct.pack(">I", length + len(box)) + data[at + 4 : end] + box + data[end:]
        assert read(grown, tmp_path).facts.resolution == (300.0, 150.01)

    def test_without_the_package_it_is_refused(self, tmp_path, monkeypatch):
        data = ffmpeg("jpeg2000", np.zeros((24, 32, 3), "u2"), "rgb48le")
        monkeypatch.setitem(__import__("sys").modules, "av", None)
        with pytest.raises(ValueError, match="JPEG 2000 beyond 8 bits in color is read by the package PyAV"):
            read(data, tmp_path)

    def test_profile(self, tmp_path):
        icc = rgb_profile()
        data = saved(eight(drawing()), "JPEG2000")
        at = data.index(b"colr") - 4
        (length,) = struct.unpack(">I", data[at : at + 4])
        box = struct.pack(">I", 11 + len(icc)) + b"colr\x02\0\0" + icc
        head = data.index(b"jp2h") - 4
        grown = struct.unpack(">I", data[head : head + 4])[0] + len(box) - length
        data = data[:head] + struct.pack(">I", grown) + data[head + 4 : at] + box + data[at + length :]
        assert read(data, tmp_path).facts.profile == "adobe-like"


@pytest.mark.parametrize("most", [1, 15, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_netpbm(tmp_path, most, kind):
    levels = np.round((drawing() if kind in ("P3", "P6") else gray()) * most).astype(int)
    head = f"{kind}\n# drawn\n32 24\n{most}\n".encode()
    if kind in ("P2", "P3"):
        body = " ".join(map(str, levels.reshape(-1))).encode()
    else:
        body = levels.astype(">u2" if most > 255 else "u1").tobytes()
    close(read(head + body, tmp_path), levels / most, 1e-6)
    with pytest.raises(ValueError, match="truncated"):
        read(head + body[: len(body) * 2 // 3], tmp_path)


@pytest.mark.parametrize("kind", ["P1", "P4"])
def test_netpbm_bits(tmp_path, kind):
    black = gray() < 0.5
    body = (
        "".join(map(str, black.astype(int).reshape(-1))).encode()
        if kind == "P1"
        else np.packbits(black, axis=1).tobytes()
    )
    photograph = read(f"{kind} 32 24\n".encode() + body, tmp_path)
    close(photograph, 1.0 - black, 0)


def linear(v):
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


class TestLinear:
    @pytest.mark.parametrize("pixels", ["gbrpf32le", "grayf32le"])
    def test_exr(self, tmp_path, pixels):
        picture = drawing() if pixels == "gbrpf32le" else gray()
        photograph = read(ffmpeg("exr", linear(picture).astype("f4"), pixels), tmp_path)
        close(photograph, picture, 1e-5)
        facts = photograph.facts
        assert (facts.format, facts.bits, facts.floating, facts.gray, facts.notes) == (
            "EXR",
            32,
            True,
            picture.ndim == 2,
            (),
        )

    def test_transparency_is_multiplied_in(self, tmp_path):
        alpha = np.linspace(0.2, 1, 32)[None].repeat(24, 0)
        stored = np.dstack([linear(drawing()) * alpha[..., None], alpha]).astype("f4")
        photograph = read(ffmpeg("exr", stored, "gbrapf32le"), tmp_path)
        close(photograph, drawing(), 1e-5)
        assert np.abs(photograph.alpha[0].numpy() - alpha).max() < 1e-6

    def test_highlights_are_clipped_and_said(self, tmp_path):
        photograph = read(ffmpeg("exr", linear(drawing()).astype("f4") * 3, "gbrpf32le"), tmp_path)
        assert "run from 0 to 3" in photograph.facts.notes[0] and photograph.images.max() == 1

    def test_no_numbers(self, tmp_path):
        stored = linear(drawing()).astype("f4")
        stored[0, 0] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            read(ffmpeg("exr", stored, "gbrpf32le"), tmp_path)

    def test_other_channels_are_named(self, tmp_path):
        data = ffmpeg("exr", linear(gray()).astype("f4"), "grayf32le").replace(b"Y\0\x02\0\0\0", b"Z\0\x02\0\0\0")
        with pytest.raises(ValueError, match="EXR with the channels Z, expected R, G, B"):
            read(data, tmp_path)

    def test_hdr(self, tmp_path):
        picture = 0.7 + 0.3 * smooth()  # eight bits with one exponent for three channels: not too far apart
        photograph = read(ffmpeg("hdr", linear(picture).astype("f4"), "gbrpf32le"), tmp_path)
        close(photograph, picture, 1.5 / 255)
        assert photograph.facts.format == "HDR"

    @pytest.mark.parametrize("codec", ["exr", "hdr"])
    def test_cut_off(self, tmp_path, codec):
        data = ffmpeg(codec, np.random.default_rng(0).random((90, 90, 3), "f4"), "gbrpf32le")
        for share in (0.3, 0.9):
            with pytest.raises(ValueError, match="is not a picture that can be read"):
                read(data[: int(len(data) * share)], tmp_path)

    def test_other_primaries(self, tmp_path):
        pytest.importorskip("av")
        file = io.BytesIO()
        exr.write(file, linear(drawing()), None, {})
        p3 = struct.pack("<8f", 0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329)
        data = file.getvalue().replace(struct.pack("<8f", *exr.CHROMATICITIES), p3)
        to_srgb = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
        moved = (linear(drawing()) @ to_srgb.T).clip(0, 1)
        close(
            read(data, tmp_path), np.where(moved <= 0.0031308, moved * 12.92, 1.055 * moved ** (1 / 2.4) - 0.055), 2e-3
        )


NO_PICTURES = {
    "words": (b"words, not pixels, at some length", "no format that is known"),
    "empty": (b"", "the file is empty"),
    "PDF": (b"%PDF-1.7 and so on", "PDF: export"),
    "Photoshop": (b"8BPS\0\x01" + b"\0" * 40, "Photoshop document"),
    "HEIC": (b"\0\0\0\x18ftypheic" + b"\0" * 40, "HEIC"),
    "camera raw": (b"II*\0\x10\0\0\0CR\x02\0" + b"\0" * 40, "camera raw"),
    "only a TIFF header": (b"II*\0\x08\0\0\0", "truncated"),
    "only a PNG header": (b"\x89PNG\r\n\x1a\n", "can be read"),
    "only a JPEG header": (b"\xff\xd8\xff\xe0", "can be read"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
    "PFM": (b"PF\n2 2\n-1.0\n" + b"\0" * 48, "no format that is known"),
}


@pytest.mark.parametrize("name", NO_PICTURES)
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_no_pictures(tmp_path, name, suffix):
    content, words = NO_PICTURES[name]
    with pytest.raises(ValueError, match=words) as caught:
        read(content, tmp_path, f"a.{suffix}")
    assert "\n" not in str(caught.value) and f"a.{suffix} is not a picture that can be read" in str(caught.value)


def test_files_that_a_user_named_may_be_large(tmp_path, monkeypatch):
    """Pillow's check of sizes is for files from strangers; ours looks at memory."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    for kind in ("PNG", "JPEG", "TIFF", "GIF", "BMP", "JPEG2000"):
        read(saved(eight(smooth()), kind), tmp_path)
    for compression in ("tiff_lzw", "packbits", "jpeg"):
        read(saved(eight(smooth()), "TIFF", compression=compression), tmp_path)
    first = Image.fromarray(eight(smooth()))
    assert read(saved(first, "MPO", save_all=True, append_images=[first]), tmp_path).facts.pages == 1
    try:
        read(saved(eight(smooth()), "WEBP"), tmp_path)
    except ValueError as error:  # Pillow 13 looks at WebP by itself
        assert "more pixels than Pillow takes from WEBP" in str(error)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "JPEG2000"])
def test_too_large_for_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(room, "LARGE", 1000)
    monkeypatch.setattr(room, "free_bytes", lambda: 100_000)
    with pytest.raises(ValueError, match=r"96 x 72 pixels need about 0.0 GB of memory and 0.0 GB are free"):
        read(saved(eight(smooth()), kind), tmp_path)
    monkeypatch.setattr(room, "free_bytes", lambda: None)  # not known
    read(saved(eight(smooth()), kind), tmp_path)


def test_free_memory_is_known_here():
    assert room.free_bytes() is None or room.free_bytes() > 1_000_000


def test_notes_are_logged(tmp_path, caplog):
    frames = [Image.fromarray(eight(p)) for p in (smooth(), 1 - smooth())]
    (tmp_path / "a.gif").write_bytes(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    load_picture(tmp_path / "a.gif")
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path / 'a.gif'}: 2 pages, the first is read"]
