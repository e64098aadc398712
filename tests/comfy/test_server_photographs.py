"""Photographs through a real ComfyUI server: from a scan to a 16-bit TIFF with what the scan said."""

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_exemplar.color import rgb_to_lab
from comfyui_exemplar.files.pictures import load_picture, read_photograph

from .server import load_workflow, needs_comfyui, only, to_prompt
from .workflows import chroma

needs_comfyui()

NAME = "Photograph in, photograph out"


@pytest.fixture
def prompt():
    return to_prompt(load_workflow(NAME))


@pytest.fixture
def scan(server):
    """A 16-bit gray scan of 600 dpi in the server's input folder."""
    y, x = np.mgrid[0:96, 0:128]
    samples = (20000 + 15000 * np.sin(x / 15) + 150 * y).astype(np.uint16)
    exif = Image.Exif()
    exif[0x010F] = "A scanner"
    Image.fromarray(samples).save(server.base / "input" / "scan.tif", dpi=(600, 600), exif=exif)
    return server.base / "input" / "scan.tif"


def written(server, prompt):
    """The file that Save Photograph writes, and what the page shows of it."""
    run = server.run(prompt)
    assert run.status == "success", run.error
    files = run.files[only(prompt, "ExemplarSavePhotograph")]
    (result,) = [path for path in files if path.is_relative_to(server.base / "output")]
    (shown,) = [path for path in files if path.is_relative_to(server.base / "temp")] or [result]
    return result, shown


def test_the_workflow(server, prompt):
    result, shown = written(server, prompt)
    photograph = read_photograph(result)
    assert (photograph.facts.format, photograph.facts.bits) == ("TIFF", 16)
    assert chroma(photograph.images) > 2 and shown.suffix == ".png"
    torch.testing.assert_close(load_picture(shown), photograph.images, atol=1.1 / 255, rtol=0)


def test_a_scan(server, prompt, scan):
    prompt[only(prompt, "ExemplarLoadPhotograph")]["inputs"]["image"] = scan.name
    result, _ = written(server, prompt)
    photograph = read_photograph(result)
    assert photograph.facts.resolution == pytest.approx((600, 600), abs=0.1)
    assert b"A scanner" in photograph.facts.exif
    lightness = [rgb_to_lab(load_picture(path))[..., 0] for path in (result, scan)]
    assert float((lightness[0] - lightness[1]).abs().max()) < 0.02  # 8 bits alone would be 0.2


def test_a_changed_file_is_read_again(server, prompt, scan):
    prompt[only(prompt, "ExemplarLoadPhotograph")]["inputs"]["image"] = scan.name
    first, _ = written(server, prompt)
    assert server.run(prompt).cached >= {only(prompt, "ExemplarDDColor")}
    Image.new("L", (64, 64), 90).save(scan)
    second, _ = written(server, prompt)
    assert first != second and read_photograph(second).images.shape == (1, 64, 64, 3)


def test_a_folder_of_several_sizes(server, prompt):
    folder = server.base / "input" / "scans"
    folder.mkdir(exist_ok=True)
    for index, size in enumerate(((64, 48), (48, 64))):
        Image.new("L", size, 100 + index).save(folder / f"{index}.png", dpi=(300 + index, 300 + index))
    loader = only(prompt, "ExemplarLoadPhotograph")
    prompt[loader] = {"class_type": "ExemplarLoadPhotographFolder", "inputs": {"folder": "scans", "pages": "first"}}
    run = server.run(prompt)
    assert run.status == "success", run.error
    files = run.files[only(prompt, "ExemplarSavePhotograph")]
    results = [read_photograph(path) for path in files if path.is_relative_to(server.base / "output")]
    assert [tuple(result.images.shape[1:3]) for result in results] == [(48, 64), (64, 48)]
    assert [round(result.facts.resolution[0]) for result in results] == [300, 301]


@pytest.mark.parametrize("name", ["gone.tif", "../server.log", "/etc/hostname"])
def test_what_is_not_there_is_refused_before_anything_runs(server, prompt, name):
    prompt[only(prompt, "ExemplarLoadPhotograph")]["inputs"]["image"] = name
    status, body = server.refusal(prompt)
    assert status == 400 and ("There is no" in body or "leads out of ComfyUI" in body)


def test_a_depth_that_the_format_lacks_is_refused(server, prompt):
    prompt[only(prompt, "ExemplarSavePhotograph")]["inputs"]["format"] = "jpeg"
    status, body = server.refusal(prompt)
    assert status == 400 and "8 bits" in body
