"""Picture files in and out, and contact sheets."""

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_exemplar.files.pictures import load_picture, save_picture


def pixels(height=5, width=7, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


class TestLoad:
    @pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
    def test_rgb(self, tmp_path, suffix):
        path, stored = tmp_path / f"a.{suffix}", pixels()
        Image.fromarray(stored).save(path, **({"lossless": True} if suffix == "webp" else {}))
        found = load_picture(path)
        assert found.shape == (1, 5, 7, 3) and found.dtype == torch.float32
        assert torch.equal((found[0] * 255).round().to(torch.uint8), torch.from_numpy(stored))

    def test_gray(self, tmp_path):
        stored = pixels()[..., 0]
        Image.fromarray(stored).save(tmp_path / "a.png")
        expected = torch.from_numpy(stored).float()[..., None].expand(-1, -1, 3) / 255
        torch.testing.assert_close(load_picture(tmp_path / "a.png")[0], expected)

    def test_sixteen_bits_are_kept(self, tmp_path):
        stored = np.linspace(0, 65535, 35).astype(np.uint16).reshape(5, 7)
        Image.fromarray(stored).save(tmp_path / "a.png")
        found = load_picture(tmp_path / "a.png")
        assert found.shape == (1, 5, 7, 3)
        torch.testing.assert_close(found[0, ..., 1], torch.from_numpy(stored / 65535).float(), atol=1e-6, rtol=0)

    def test_transparency_is_laid_on_white(self, tmp_path):
        stored = np.zeros((2, 3, 4), np.uint8)
        stored[0, ..., 3], stored[1, :, 3] = 255, 51
        Image.fromarray(stored).save(tmp_path / "a.png")
        found = load_picture(tmp_path / "a.png")[0]
        torch.testing.assert_close(found[0], torch.zeros(3, 3))
        torch.testing.assert_close(found[1], torch.full((3, 3), 0.8))

    def test_palette_with_transparency(self, tmp_path):
        image = Image.new("P", (3, 2), 0)
        image.putpalette([200, 10, 10, 0, 0, 0])
        image.putpixel((0, 0), 1)
        image.save(tmp_path / "a.png", transparency=1)
        found = load_picture(tmp_path / "a.png")[0] * 255
        assert found[0, 0].tolist() == [255, 255, 255] and found[1, 1].round().tolist() == [200, 10, 10]

    @pytest.mark.parametrize("orientation, turn", [(1, 0), (6, -1), (8, 1), (3, 2)])
    def test_turned_as_the_camera_says(self, tmp_path, orientation, turn):
        stored, exif = pixels(), Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
        found = (load_picture(tmp_path / "a.png")[0] * 255).round().to(torch.uint8)
        assert torch.equal(found, torch.from_numpy(np.rot90(stored, turn).copy()))

    def test_no_such_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"There is no picture .*a\.png"):
            load_picture(tmp_path / "a.png")

    @pytest.mark.parametrize("content", [b"", b"x", b"II", b"words, not pixels", None])
    def test_not_a_picture(self, tmp_path, content):
        path = tmp_path / "a.png"
        if content is None:  # cut off in the middle
            Image.fromarray(pixels(64, 64)).save(path)
            content = path.read_bytes()[:4000]
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.png is not a picture that can be read") as error:
            load_picture(path)
        assert "unpack" not in str(error.value) and "buffer" not in str(error.value), "words of Pillow's"

    def test_a_folder(self, tmp_path):
        with pytest.raises(ValueError, match="is not a picture that can be read"):
            load_picture(tmp_path)


def test_saved_pictures_come_back(tmp_path):
    image = torch.rand(2, 5, 7, 3)
    save_picture(image, tmp_path / "a.png")
    torch.testing.assert_close(load_picture(tmp_path / "a.png")[0], image[0], atol=0.5001 / 255, rtol=0)
