"""Photographs in and out within ComfyUI: its folders, its Load Image beside ours, and what files say."""

import asyncio
import json
import os

import folder_paths
import numpy as np
import pytest
import torch
from comfy.cli_args import args
from comfy_api.latest import io
from PIL import Image

import nodes as core
from comfyui_exemplar.files import writers
from comfyui_exemplar.files.pictures import FileFacts, load_picture, read_photograph
from comfyui_exemplar.nodes.photographs import LoadPhotograph, LoadPhotographFolder, SavePhotograph

SAVE = {"filename_prefix": "scans/a", "format": "png", "bits": "8", "workflow": True}


@pytest.fixture(autouse=True)
def places(tmp_path):
    """Folders of the test's own in the place of ComfyUI's."""
    before = {name: getattr(folder_paths, f"get_{name}_directory")() for name in ("input", "output", "temp")}
    for name in before:
        (tmp_path / name).mkdir()
        getattr(folder_paths, f"set_{name}_directory")(str(tmp_path / name))
    (tmp_path / "outside.png").write_bytes(b"")
    yield tmp_path
    for name, path in before.items():
        getattr(folder_paths, f"set_{name}_directory")(path)


def gray(path, mode="L", size=(7, 5), **options):
    values = np.linspace(0, 255, size[0] * size[1]).round().astype(np.uint8).reshape(size[::-1])
    values[0, 0] = 255
    Image.fromarray(values).convert(mode).save(path, **options)
    return torch.from_numpy(values).float() / 255


class TestLoad:
    def test_eight_bit_gray_is_v_of_255(self, places, nodes):
        """The stock node gives v / 256, so that white is not 1; this says why there is one of ours."""
        expected = gray(places / "input" / "a.png", size=(64, 48))
        image, mask, facts = nodes("ExemplarLoadPhotograph", image="a.png", pages="first")
        torch.testing.assert_close(image[0], expected[..., None].expand(-1, -1, 3), atol=1e-6, rtol=0)
        assert float(image.max()) == 1 and mask.shape == (1, 64, 64) and not mask.any()
        assert isinstance(facts, FileFacts) and facts.bits == 8 and facts.gray
        stock, _ = core.LoadImage().load_image("a.png")
        assert stock.shape == image.shape
        if float(stock.max()) == 1:
            pytest.skip("this ComfyUI reads gray files rightly")
        assert float(stock.max()) == pytest.approx(255 / 256, abs=1e-4)

    def test_transparency_is_a_mask_as_comfyui_has_them(self, places, nodes):
        pixels = np.full((5, 7, 4), 255, np.uint8)
        pixels[:, :3, 3] = 51
        Image.fromarray(pixels).save(places / "input" / "a.png")
        image, mask, _ = nodes("ExemplarLoadPhotograph", image="a.png", pages="first")
        _, stock = core.LoadImage().load_image("a.png")
        torch.testing.assert_close(mask, stock.float(), atol=1e-5, rtol=0)
        assert mask[0, 0, 0] == pytest.approx(0.8) and mask[0, 0, -1] == 0 and image.shape == (1, 5, 7, 3)

    def test_pages(self, places, nodes):
        first = Image.new("L", (7, 5), 0)
        first.save(places / "input" / "a.tif", save_all=True, append_images=[Image.new("L", (7, 5), 255)])
        one, _, facts = nodes("ExemplarLoadPhotograph", image="a.tif", pages="first")
        both, mask, _ = nodes("ExemplarLoadPhotograph", image="a.tif", pages="all")
        assert len(one) == 1 and facts.pages == 2 and any("2 pages" in note for note in facts.notes)
        assert both.mean((1, 2, 3)).tolist() == [0, 1] and len(mask) == 2

    def test_files_are_listed_and_checked(self, places):
        for name in ("a.png", "b.tif", "c.exr"):
            (places / "input" / name).touch()
        (places / "input" / "notes.txt").touch()
        (places / "input" / "sub").mkdir()
        (options,) = [i.options for i in LoadPhotograph.define_schema().inputs if i.id == "image"]
        assert options == ["a.png", "b.tif", "c.exr"]
        assert LoadPhotograph.validate_inputs(image="a.png") is True
        assert LoadPhotograph.validate_inputs() is True
        for name, said in (("none.png", "There is no 'none.png'"), ("sub", "is a folder")):
            assert said in LoadPhotograph.validate_inputs(image=name)

    @pytest.mark.parametrize("name", ["../outside.png", "sub/../../outside.png", "link.png"])
    def test_nothing_outside_is_read(self, places, nodes, name):
        (places / "input" / "link.png").symlink_to(places / "outside.png")
        assert "leads out of ComfyUI's folders" in LoadPhotograph.validate_inputs(image=name)
        assert LoadPhotograph.fingerprint_inputs(image=name, pages="first") == ""
        with pytest.raises(ValueError, match=r"Load Photograph: image is .*leads out"):
            nodes("ExemplarLoadPhotograph", image=name, pages="first")
        absolute = str(places / "outside.png")
        assert LoadPhotograph.validate_inputs(image=absolute) is not True

    def test_results_and_previews_can_be_chosen(self, places, nodes):
        gray(places / "output" / "a.png")
        assert LoadPhotograph.validate_inputs(image="a.png [output]") is True
        assert nodes("ExemplarLoadPhotograph", image="a.png [output]", pages="first")[0].shape == (1, 5, 7, 3)

    def test_a_file_is_known_by_its_content(self, places):
        path = places / "input" / "a.png"
        gray(path)
        before = LoadPhotograph.fingerprint_inputs(image="a.png", pages="first")
        assert before == LoadPhotograph.fingerprint_inputs(image="a.png", pages="first")
        Image.new("L", (7, 5)).save(path)
        assert before != LoadPhotograph.fingerprint_inputs(image="a.png", pages="first")
        assert LoadPhotograph.fingerprint_inputs(image="gone.png", pages="first") == ""


class TestFolder:
    @pytest.fixture
    def scans(self, places):
        folder = places / "input" / "scans"
        (folder / "deeper").mkdir(parents=True)
        gray(folder / "b.tif", size=(9, 4), dpi=(300, 300))
        gray(folder / "a.png")
        for other in ("notes.txt", "drawing.svg", "layers.psd", "phone.heic"):  # what is not read is passed over
            (folder / other).touch()
        return folder

    def test_one_after_another(self, scans, nodes):
        images, masks, facts = nodes("ExemplarLoadPhotographFolder", folder="scans", pages="first")
        assert [tuple(image.shape) for image in images] == [(1, 5, 7, 3), (1, 4, 9, 3)]
        assert [len(mask) for mask in masks] == [1, 1] and [each.format for each in facts] == ["PNG", "TIFF"]
        assert all(output.is_output_list for output in LoadPhotographFolder.define_schema().outputs)

    def test_checks(self, places, scans):
        (folder,) = [i.options for i in LoadPhotographFolder.define_schema().inputs if i.id == "folder"]
        assert folder == ["scans", "scans/deeper"]
        assert LoadPhotographFolder.validate_inputs(folder="scans") is True
        for name, said in (
            ("..", "no folder within"),
            ("gone", "no folder 'gone'"),
            ("scans/deeper", "holds no pictures"),
        ):
            assert said in LoadPhotographFolder.validate_inputs(folder=name)
        before = LoadPhotographFolder.fingerprint_inputs(folder="scans")
        gray(scans / "c.png")
        assert before != LoadPhotographFolder.fingerprint_inputs(folder="scans")
        assert LoadPhotographFolder.fingerprint_inputs(folder="gone") == ""


class TestSave:
    def run(self, images, facts=None, hidden=None, **values):
        before, SavePhotograph.hidden = SavePhotograph.hidden, hidden
        try:
            return SavePhotograph.execute(images=images, facts=facts, **{**SAVE, **values}).ui
        finally:
            SavePhotograph.hidden = before

    @pytest.mark.parametrize(
        "format, bits, suffix", [("png", 8, "png"), ("png", 16, "png"), ("tiff", 8, "tif"), ("tiff", 16, "tif")]
    )
    def test_what_was_read_is_written_as_it_was(self, places, nodes, format, bits, suffix):
        levels = np.linspace(0, 65535, 35).round().astype(np.uint16).reshape(5, 7)
        exif = Image.Exif()
        exif[0x010F] = "A camera"
        Image.fromarray(levels).save(places / "input" / "a.tif", dpi=(600, 600), exif=exif)
        image, _, facts = nodes("ExemplarLoadPhotograph", image="a.tif", pages="first")
        self.run(image, facts, format=format, bits=str(bits))
        path = places / "output" / "scans" / f"a_00001_.{suffix}"
        written = read_photograph(path)
        assert written.facts.bits == bits and written.facts.resolution == pytest.approx((600, 600), abs=0.02)
        assert b"A camera" in written.facts.exif
        torch.testing.assert_close(written.images, image, atol=0.5001 / (2**bits - 1), rtol=0)
        if bits == 16:
            assert torch.equal(written.images, image)

    def test_no_file_is_replaced(self, places):
        image = torch.rand(2, 5, 7, 3)
        for _ in range(2):
            self.run(image)
        self.run(image, format="jpeg", filename_prefix="scans/a")
        names = sorted(path.name for path in (places / "output" / "scans").iterdir())
        assert names == [*(f"a_0000{i}_.png" for i in range(1, 5)), "a_00005_.jpg", "a_00006_.jpg"]
        second = load_picture(places / "output" / "scans" / "a_00002_.png")
        torch.testing.assert_close(second, image[1:], atol=0.5001 / 255, rtol=0)

    def test_what_the_page_is_told(self, places):
        image = torch.rand(1, 5, 7, 3)
        assert self.run(image) == {
            "images": [{"filename": "a_00001_.png", "subfolder": "scans", "type": "output"}],
        }
        shown = self.run(image, format="tiff", bits="16")
        assert shown["photographs"] == [{"filename": "a_00002_.tif", "subfolder": "scans", "type": "output"}]
        (preview,) = shown["images"]
        assert (places / "temp" / preview["subfolder"] / preview["filename"]).is_file() and preview["type"] == "temp"

    def test_linear_light(self, places):
        self.run(torch.full((1, 5, 7, 3), 0.5), format="exr", bits="16")
        found = read_photograph(places / "output" / "scans" / "a_00001_.exr")
        torch.testing.assert_close(found.images, torch.full((1, 5, 7, 3), 0.5), atol=1e-3, rtol=0)
        assert found.facts.floating

    @pytest.mark.parametrize("off", ["widget", "option"])
    def test_the_workflow(self, places, monkeypatch, off):
        hidden = io.HiddenHolder.from_dict(
            {io.Hidden.prompt: {"1": {}}, io.Hidden.extra_pnginfo: {"workflow": {"id": "x"}}}
        )
        self.run(torch.rand(1, 5, 7, 3), hidden=hidden)
        path = places / "output" / "scans" / "a_00001_.png"
        with Image.open(path) as image:
            assert json.loads(image.text["prompt"]) == {"1": {}} and json.loads(image.text["workflow"]) == {"id": "x"}
        if off == "option":
            monkeypatch.setattr(args, "disable_metadata", True)
        self.run(torch.rand(1, 5, 7, 3), hidden=hidden, workflow=off == "option")
        with Image.open(places / "output" / "scans" / "a_00002_.png") as image:
            assert "prompt" not in image.text and "workflow" not in image.text

    @pytest.mark.parametrize(
        "format, bits, said",
        [("jpeg", "16", "8 bits"), ("exr", "8", "16 bits"), ("gif", "8", "format is"), ("png", "12", "bits is")],
    )
    def test_what_a_format_does_not_hold(self, places, format, bits, said):
        assert said in SavePhotograph.validate_inputs(format=format, bits=bits)
        with pytest.raises(ValueError):
            self.run(torch.rand(1, 5, 7, 3), format=format, bits=bits)
        assert not list((places / "output").iterdir())
        assert SavePhotograph.validate_inputs(format=format) is True  # bits comes through a link

    @pytest.mark.parametrize("prefix", ["../a", "/a", "a/../../b", ""])
    def test_nothing_is_written_outside(self, places, prefix):
        with pytest.raises(ValueError, match="leads out"):
            self.run(torch.rand(1, 5, 7, 3), filename_prefix=prefix)

    @pytest.mark.parametrize(
        "prefix, said",
        [
            ("a/b", "is no folder"),
            ("a/b/c", "is no folder"),
            ("x" * 300, "names have at most"),
            ("a\0b", "no file name can have"),
            ("scans/", "is no name"),
            ("con", "a device's on Windows"),
            ("NUL.x/scan", "a device's on Windows"),
            ("../a", "leads out"),
        ],
    )
    def test_places_are_tried_before_anything_runs(self, places, prefix, said):
        (places / "output" / "a").write_text("a file")
        assert said in SavePhotograph.validate_inputs(filename_prefix=prefix)
        with pytest.raises(ValueError, match=said):
            self.run(torch.rand(1, 5, 7, 3), filename_prefix=prefix)
        assert [path.name for path in (places / "output").iterdir()] == ["a"]

    def test_a_folder_that_its_numbers_name(self, places):
        (places / "output" / "w7").write_text("a file")
        with pytest.raises(ValueError, match="filename_prefix 'w%width%/a' cannot be used"):
            self.run(torch.rand(1, 5, 7, 3), filename_prefix="w%width%/a")
        self.run(torch.rand(1, 5, 8, 3), filename_prefix="w%width%/a")
        assert (places / "output" / "w8" / "a_00001_.png").is_file()

    @pytest.mark.parametrize("number, said", [(28, "the disk is full"), (30, "may not be written to")])
    def test_a_folder_that_cannot_be_written_to(self, places, monkeypatch, number, said):
        def fails(_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(writers, "new_folder", fails)
        assert said in SavePhotograph.validate_inputs(filename_prefix="scans/a")
        with pytest.raises((ValueError, OSError), match=said):
            self.run(torch.rand(1, 5, 7, 3))

    def test_good_places(self, places):
        for prefix in (None, "a", "scans/a", "%year%-%month%/a", "deep/er/a"):
            assert SavePhotograph.validate_inputs(filename_prefix=prefix) is True
        assert not list((places / "output").iterdir())

    def test_no_pictures(self):
        with pytest.raises(ValueError, match="NaN"):
            self.run(torch.rand(1, 5, 7, 3) / 0)


def test_validation_is_what_comfyui_calls():
    """Names of arguments are the inputs', since ComfyUI skips its own check of a combo for those."""
    import inspect

    assert "image" in inspect.signature(LoadPhotograph.validate_inputs).parameters
    assert not asyncio.iscoroutinefunction(LoadPhotograph.validate_inputs)
