"""Measures as published, against what the published programs printed for the same pictures and weights."""

import math

import pytest
import torch
from safetensors.torch import save_file

from comfyui_exemplar.color.film_metrics import cdc
from comfyui_exemplar.color.measures import colorfulness_as_ddcolor
from comfyui_exemplar.networks.measure.files import load_networks
from comfyui_exemplar.pipelines.measure import MeasureSettings, Measuring, Pair

CLOSE = 1e-4  # relative


def tensor(picture):
    return torch.from_numpy(picture)[None].float() / 255


@pytest.fixture(scope="module")
def networks(measure_set, tmp_path_factory):
    """From files as they are published, one of each kind."""
    folder = tmp_path_factory.mktemp("weights")
    torch.save(measure_set.weights("fid"), folder / "pt_inception-2015-12-05-6726825d.pth")
    save_file(measure_set.weights("torchvision"), folder / "inception_v3_google-1a9a5a14.safetensors")
    torch.save(measure_set.weights("alexnet"), folder / "alexnet-owt-7be5be79.pth")
    torch.save(measure_set.weights("heads"), folder / "alex.pth")
    loaded = load_networks(folder)
    assert not loaded.missing
    return loaded


@pytest.fixture(scope="module")
def measured(measure_set, networks):
    kinds = [measure_set.pictures(kind) for kind in ("output", "reference", "truth")]
    measuring = Measuring(MeasureSettings(frames=True), networks)
    for number, (output, reference, truth) in enumerate(zip(*kinds, strict=True)):
        measuring.add(Pair(f"{number:03}.png", tensor(output), tensor(reference), tensor(truth)))
    return measuring.result()


@pytest.mark.parametrize("kind", ["fid", "torchvision"])
def test_what_inception_sees(measure_set, networks, kind):
    network = networks.inception if kind == "fid" else networks.torchvision
    pictures = torch.cat([tensor(each) for each in measure_set.pictures("output")[:2]])
    with torch.no_grad():
        seen = network.look(pictures)
    wanted = measure_set.features
    for found, name in (
        (seen.first.mean((2, 3)), "first"),
        (torch.nn.functional.max_pool2d(seen.second, 3, 2).mean((2, 3)), "second_pooled"),
        (seen.last, "last"),
    ):
        if f"{kind}_{name}" in wanted:
            expected = wanted[f"{kind}_{name}"]
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max(), name


@pytest.mark.parametrize("numpy", ["1.26", "2.4"])
def test_the_tables(measure_set, measured, numpy):
    recorded = measure_set.recorded(numpy)
    exemplar, colormnet, ddcolor = (recorded[name] for name in ("exemplar", "colormnet", "ddcolor"))
    expected = {
        "fid_reference": exemplar["fid"],
        "his": sum(exemplar["his"]) / len(exemplar["his"]),
        "lpips_reference": exemplar["lpips"],
        "fid_truth": ddcolor["fid"],
        "lpips_truth": colormnet["lpips"],
        "psnr": colormnet["psnr"],
        "ssim": colormnet["ssim"],
        "colorfulness": sum(ddcolor["colorfulness"]) / len(ddcolor["colorfulness"]),
        "cdc": colormnet["cdc"],
    }
    if exemplar["si_fid"] is not None:
        expected["si_fid"] = exemplar["si_fid"]
    found = {key: measured.row(key).published for key in expected}
    assert found == pytest.approx(expected, rel=CLOSE)
    assert f"{found['his']:.4f}" == exemplar["his_printed"]


def test_each_picture(measure_set, measured):
    recorded = measure_set.recorded("2.4")
    for key, expected in (("his", recorded["exemplar"]["his"]), ("colorfulness", recorded["ddcolor"]["colorfulness"])):
        assert [published for published, _ in measured.row(key).each] == pytest.approx(expected, rel=CLOSE)


def test_colormnet_takes_red_for_blue(measure_set):
    """Its arithmetic is DDColor's, but that has pictures as BGR and this as RGB."""
    pictures = torch.cat([tensor(picture) for picture in measure_set.pictures("output")])
    expected = measure_set.recorded("2.4")["colormnet"]["colorfulness"]
    assert colorfulness_as_ddcolor(pictures.flip(-1)).mean().item() == pytest.approx(expected, rel=CLOSE)
    assert colorfulness_as_ddcolor(pictures).mean().item() != pytest.approx(expected, rel=CLOSE)


def test_si_fid_depends_on_numpy(measure_set):
    """The program ends without a number where numpy's ``cov`` gives a matrix."""
    assert measure_set.recorded("1.26")["exemplar"]["si_fid"] > 0
    newer = measure_set.recorded("2.4")["exemplar"]
    assert newer["si_fid"] is None and newer["si_fid_error"].startswith("LinAlgError")


def test_what_was_published_is_not_what_is_defined(measured):
    """Where the two columns differ by more than rounding, and where they do not."""
    for row in measured.rows:
        if row.published is None:
            continue
        same = math.isclose(row.published, row.defined, rel_tol=CLOSE)
        assert same == (row.metric.key in ("fid_reference", "lpips_reference", "cdc")), row.metric.name


def test_frames(measure_set, measured):
    assert measured.row("cdc").defined == cdc(tensor(picture)[0] for picture in measure_set.pictures("output"))
