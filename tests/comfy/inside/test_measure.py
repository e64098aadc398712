"""Measure Colors within ComfyUI: the command's numbers, networks under the model manager, cancel and refusals."""

import json

import comfy.model_management as mm
import folder_paths
import pytest
import torch

from comfyui_exemplar.hosts.comfy import measure as host
from comfyui_exemplar.networks.measure.files import load_networks
from comfyui_exemplar.networks.measure.inception import Inception
from comfyui_exemplar.networks.measure.perceptual import Perceptual
from comfyui_exemplar.pipelines.measure import MeasureSettings, Measuring, Pair


def blobs(seed, count=3, height=64, width=80):
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)


def expected(color_image, networks=None, frames=False, **against):
    measuring = Measuring(MeasureSettings(frames=frames), networks)
    for number in range(len(color_image)):
        beside = {name: each[number : number + 1] if len(each) > 1 else each for name, each in against.items()}
        measuring.add(Pair(f"picture {number + 1}", color_image[number : number + 1], **beside))
    return {row.metric.key: (row.published, row.defined) for row in measuring.result().rows}


def numbers(text):
    return {key: (each["published"], each["defined"]) for key, each in json.loads(text)["measures"].items()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """``models/measure``, empty."""
    paths, suffixes = folder_paths.folder_names_and_paths.get(host.FOLDER, ([], set()))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, host.FOLDER, ([str(tmp_path), *paths], suffixes))
    return tmp_path


@pytest.fixture
def weights(folder):
    """Files of random numbers."""
    torch.manual_seed(3)
    inception = {name: each for name, each in Inception().state_dict().items() if "num_batches" not in name}
    torch.save(inception, folder / "pt_inception-2015-12-05-6726825d.pth")
    state = Perceptual().state_dict()
    for name, file in (("features", "alexnet-owt-7be5be79.pth"), ("lin", "alex.pth")):
        torch.save({key: each.abs() for key, each in state.items() if key.startswith(name)}, folder / file)
    return folder


def test_the_numbers_of_the_flow(nodes, folder):
    pictures, truth, reference = blobs(1), blobs(2), blobs(3, 1, 90, 60)
    table, plot, text = nodes("ExemplarMeasure", color_image=pictures, truth=truth, reference=reference)
    assert numbers(text) == expected(pictures, truth=truth, reference=reference)
    assert (
        table.startswith("3 pictures\nmeasure")
        and "LPIPS is left out: models/measure lacks a file; get alexnet" in table
    )
    assert str(folder) not in table + text
    assert plot.ndim == 4 and plot.shape[3] == 3 and plot.min() >= 0 and plot.max() <= 1
    quiet = nodes("ExemplarMeasure", color_image=pictures, truth=truth, reference=reference, networks=False)[0]
    assert "left out" not in quiet


def test_frames_and_gray(nodes, folder):
    pictures, gray = blobs(1, 6), blobs(2, 1)
    text = nodes("ExemplarMeasure", color_image=pictures, image=gray, frames=True, networks=False)[2]
    assert numbers(text) == expected(pictures, gray=gray, frames=True)
    assert set(numbers(text)) == {"colorfulness", "lightness_error", "ghosting", "cdc"}


def test_networks_are_managed(nodes, weights):
    pictures, truth, reference = blobs(1), blobs(2), blobs(3)
    inputs = {"color_image": pictures, "truth": truth, "reference": reference}
    found = numbers(nodes("ExemplarMeasure", **inputs)[2])
    wanted = expected(pictures, load_networks(weights), truth=truth, reference=reference)
    assert {"fid_reference", "si_fid", "lpips_truth", "fid_truth"} <= set(wanted)
    assert found.keys() == wanted.keys()
    for key, pair in wanted.items():
        for one, other in zip(found[key], pair, strict=True):
            assert one == (other if other is None else pytest.approx(other, rel=1e-4)), key
    assert isinstance(host.load().inception, host.ComfyInception)
    mm.unload_all_models()


def test_it_stops_at_any_picture(nodes, folder, monkeypatch):
    from comfyui_exemplar.nodes import common

    stop, asked = common.stop_if_canceled, []

    def pressed():
        asked.append(1)
        if len(asked) == 2:
            mm.interrupt_current_processing()
        stop()

    inputs = {"color_image": blobs(1), "truth": blobs(2), "networks": False}
    before = nodes("ExemplarMeasure", **inputs)
    monkeypatch.setattr(common, "stop_if_canceled", pressed)
    with pytest.raises(mm.InterruptProcessingException):
        nodes("ExemplarMeasure", **inputs)
    assert len(asked) == 2
    mm.interrupt_current_processing(False)
    monkeypatch.setattr(common, "stop_if_canceled", stop)
    assert nodes("ExemplarMeasure", **inputs)[2] == before[2]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"truth": blobs(2, 2)}, "Batch sizes do not fit"),
        ({"truth": blobs(2, 3, 30, 80)}, "picture 1: found a truth of 80 x 30 pixels for 80 x 64, expected the same"),
        ({"image": blobs(2) * 255}, "image: found values from"),
        ({"frames": True}, r"frames: found 3 picture\(s\), expected at least 5"),
    ],
)
def test_refusals(nodes, folder, inputs, said):
    with pytest.raises(ValueError, match=f"^Measure Colors: .*{said}"):
        nodes("ExemplarMeasure", color_image=blobs(1), **inputs)


def test_a_damaged_file_is_named(nodes, folder):
    (folder / "alex.pth").write_bytes(b"\0" * 900)
    (folder / "alexnet.pth").write_bytes(b"\0" * 900)
    with pytest.raises(ValueError, match=r"^Measure Colors: .*alexnet\.pth"):
        nodes("ExemplarMeasure", color_image=blobs(1))
