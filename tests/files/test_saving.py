"""Pictures written: what comes back, at which depth, with what the file said."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_exemplar.files import saving
from comfyui_exemplar.files.pictures import FileFacts, check_format, read_photograph, save_picture

from ..fixtures.scans import Tiff, drawing, gray, saved

WORKFLOW = {
    "prompt": json.dumps({"1": {"class_type": "LoadImage"}}),
    "workflow": json.dumps({"nodes": [], "name": "Größe"}),
}
LOSSLESS = [("png", 8), ("png", 16), ("tif", 8), ("tiff", 16), ("webp", 8), ("bmp", 8)]


def noise(bits, height=37, width=53):
    """(1, H, W, 3) of every kind of level, the first and the last with them."""
    levels = np.random.default_rng(bits).integers(0, 2**bits, (1, height, width, 3))
    levels[0, 0, 0], levels[0, -1, -1] = 0, 2**bits - 1
    return torch.from_numpy((levels / (2**bits - 1)).astype("f4")), levels[0]


def facts():
    exif = Image.Exif()
    exif[0x010F], exif[0x0132], exif[0x013B] = "Maker", "2026:01:02 03:04:05", "Somebody"
    exif[0x8769] = {0x829A: 0.008, 0x9003: "2026:01:02 03:04:05", 0xA001: 1}
    exif[0x8825] = {1: "N", 2: (50.0, 4.0, 30.0)}
    return FileFacts("JPEG", 8, False, resolution=(600.0, 300.0), exif=exif.tobytes()[6:])


@pytest.mark.parametrize("suffix, bits", LOSSLESS)
def test_levels_come_back(tmp_path, suffix, bits):
    image, levels = noise(bits)
    path = tmp_path / f"a.{suffix}"
    save_picture(image, path, bits=bits)
    found = read_photograph(path)
    assert np.array_equal(np.round(found.images[0].numpy().astype("f8") * (2**bits - 1)), levels)
    assert found.facts.bits == bits and found.alpha is None and not found.facts.notes
    assert list(tmp_path.iterdir()) == [path]
    save_picture(found.images, tmp_path / f"b.{suffix}", bits=bits)  # once more: nothing moves
    assert (tmp_path / f"b.{suffix}").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("suffix, bits", [*LOSSLESS[:-1], ("jpg", 8)])
def test_what_the_file_said_is_kept(tmp_path, suffix, bits):
    path = tmp_path / f"a.{suffix}"
    save_picture(noise(8)[0], path, bits=bits, facts=facts())
    found = read_photograph(path).facts
    assert found.resolution == pytest.approx((600, 300), abs=0.01)
    assert "sRGB" in found.profile
    kept = Image.Exif()
    kept.load(b"Exif\0\0" + found.exif)
    assert (kept[0x010F], kept[0x013B]) == ("Maker", "Somebody") and 0x0112 not in kept
    assert float(kept.get_ifd(0x8769)[0x829A]) == pytest.approx(0.008) and kept.get_ifd(0x8769)[0xA001] == 1
    assert tuple(map(float, kept.get_ifd(0x8825)[2])) == (50, 4, 30)


@pytest.mark.parametrize("suffix, bits", [*LOSSLESS[:-1], ("jpg", 8)])
@pytest.mark.parametrize("given", [None, facts()])
def test_the_workflow_is_kept(tmp_path, suffix, bits, given):
    path = tmp_path / f"a.{suffix}"
    save_picture(noise(8)[0], path, bits=bits, facts=given, workflow=WORKFLOW)
    with Image.open(path) as opened:
        opened.load()
        if suffix == "png":
            assert {name: opened.info[name] for name in WORKFLOW} == WORKFLOW
        else:
            exif = opened.getexif()
            texts = [str(value) for value in dict(exif).values() if str(value).startswith(("prompt:", "workflow:"))]
            assert f"prompt:{WORKFLOW['prompt']}" in texts and len(texts) == 2
            assert given is None or exif[0x010F] == "Maker"
    again = read_photograph(path).facts  # a workflow is no capture metadata
    assert b"prompt:" not in (again.exif or b"")


def test_a_workflow_too_large_for_jpeg_is_left_with_a_word(tmp_path, caplog):
    save_picture(noise(8)[0], tmp_path / "a.jpg", facts=facts(), workflow={"workflow": "x" * 70000})
    assert "64 kB" in caplog.text
    assert read_photograph(tmp_path / "a.jpg").facts.exif is not None


def test_jpeg_quality(tmp_path):
    """Low is smaller and further off."""
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    sizes, errors = [], []
    for quality in (20, 95):
        path = tmp_path / f"{quality}.jpg"
        save_picture(picture, path, quality=quality)
        sizes.append(path.stat().st_size)
        errors.append(float((read_photograph(path).images - picture).abs().mean()))
    assert sizes[0] < 0.5 * sizes[1] and errors[0] > 2 * errors[1]


def test_jpeg_keeps_every_color_sample(tmp_path):
    edges = torch.zeros(1, 32, 32, 3)
    edges[:, :, ::2, 0] = 1
    save_picture(edges, tmp_path / "a.jpg")
    assert (read_photograph(tmp_path / "a.jpg").images - edges).abs().max() < 0.05


class TestExr:
    def test_back(self, tmp_path):
        pytest.importorskip("av")
        image, levels = noise(8)
        save_picture(image, tmp_path / "a.exr", bits=16, facts=facts(), workflow=WORKFLOW)
        found = read_photograph(tmp_path / "a.exr")
        assert np.abs(found.images[0].numpy() - levels / 255).max() < 1 / 4096
        assert found.facts.bits == 16 and found.facts.resolution == (600, 300) and not found.facts.notes

    def test_attributes(self, tmp_path):
        from comfyui_exemplar.files.exr import read_header

        save_picture(noise(8)[0], tmp_path / "a.exr", bits=16, workflow=WORKFLOW)
        header = read_header((tmp_path / "a.exr").read_bytes())
        assert header.attributes["prompt"].decode() == WORKFLOW["prompt"]
        assert header.attributes["workflow"].decode() == WORKFLOW["workflow"]
        assert header.size == (53, 37) and header.resolution is None

    def test_smooth_pictures_are_packed(self, tmp_path):
        save_picture(torch.full((1, 100, 100, 3), 0.5), tmp_path / "a.exr", bits=16)
        assert (tmp_path / "a.exr").stat().st_size < 5000


class TestFormats:
    @pytest.mark.parametrize("name", [".png", "png.PNG", "a.tif", "b/a.tiff", "a.jpg", "a.JPEG", "a.webp", "a.bmp"])
    def test_eight(self, name):
        check_format(name)

    @pytest.mark.parametrize("name", [".png", "a.tif", "a.tiff", "a.exr", ".exr"])
    def test_sixteen(self, name):
        check_format(name, 16)

    @pytest.mark.parametrize("name, bits, words", [
        ("a.jpg", 16, ".jpg holds 8 bits, 16 are asked for; choose 8 bits, or .png, .tif, .tiff, .exr"),
        (".webp", 16, ".webp holds 8 bits"),
        ("a.exr", 8, ".exr holds 16 bits, 8 are asked for; choose 16 bits, or .png"),
        ("a.gif", 8, "ends in '.gif'; give a name that ends in .png"),
        ("a", 8, "no suffix"),
    ])  # fmt: skip
    def test_refused(self, tmp_path, name, bits, words):
        with pytest.raises(ValueError, match=words.replace(".", r"\.")):
            check_format(name, bits)
        with pytest.raises(ValueError):
            save_picture(noise(8)[0], tmp_path / name, bits=bits)
        assert not list(tmp_path.iterdir())


def test_bad_pictures_are_refused(tmp_path):
    image = noise(8)[0]
    image[0, 3, 4, 1] = torch.nan
    with pytest.raises(ValueError, match="no numbers"):
        save_picture(image, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"expected \(H, W, 3\)"):
        save_picture(torch.zeros(1, 4, 4, 1), tmp_path / "a.png")
    with pytest.raises(ValueError, match="sides up to 16383"):
        save_picture(torch.zeros(1, 1, 16384, 3), tmp_path / "a.webp")
    assert not list(tmp_path.iterdir())


def test_an_older_picture_stays_until_the_new_one_is_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_picture(noise(8)[0], path)
    before = path.read_bytes()

    def full(file, *_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "_write_png", full)
    with pytest.raises(OSError, match="the disk is full"):
        save_picture(torch.ones(1, 8, 8, 3), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_values_beyond_are_clipped_and_half_precision_is_fine(tmp_path):
    save_picture(torch.tensor([[[[-1.0, 0.5, 2.0]]]], dtype=torch.float16), tmp_path / "a.png")
    assert (read_photograph(tmp_path / "a.png").images[0, 0, 0] * 255).round().tolist() == [0, 128, 255]


@pytest.mark.parametrize("bits", [8, 16])
def test_from_a_scan_to_a_result(tmp_path, bits):
    """A turned scan of 600 dpi with a gray profile's metadata, read and written."""
    file = Tiff()
    inner = file.block({33434: (5, (1, 125)), 40961: (3, 65535)})
    more = {274: (3, 6), 271: (2, b"Scanner\0"), 282: (5, (600, 1)), 283: (5, (300, 1)), 296: (3, 2), 34665: (4, inner)}
    levels = np.round(np.rot90(gray(), 1) * 65535).astype("u2")
    (tmp_path / "scan.tif").write_bytes(file.page(levels, 1, 16, more=more).file())
    read = read_photograph(tmp_path / "scan.tif")
    for suffix in ("png", "tif"):
        save_picture(read.images, tmp_path / f"a.{suffix}", bits=bits, facts=read.facts)
        found = read_photograph(tmp_path / f"a.{suffix}")
        assert np.abs(found.images[0].numpy() - gray()[..., None]).max() < 0.5001 / (2**bits - 1) + 1e-6
        assert found.facts.resolution == pytest.approx((300, 600), abs=0.01)
        assert b"Scanner" in found.facts.exif


def test_other_programs_read_sixteen_bits(tmp_path):
    """OpenCV, which does not know our reader."""
    cv2 = pytest.importorskip("cv2")
    image, levels = noise(16)
    for suffix in ("png", "tif"):
        save_picture(image, tmp_path / f"a.{suffix}", bits=16, facts=facts(), workflow=WORKFLOW)
        found = cv2.imread(str(tmp_path / f"a.{suffix}"), cv2.IMREAD_UNCHANGED)
        assert found.dtype == np.uint16 and np.array_equal(found[..., ::-1], levels)
    assert Image.open(io.BytesIO(saved(np.round(drawing() * 255).astype("u1"), "PNG"))).mode == "RGB"
