"""The tables: means, distances of sets, what is left out and why. Networks are small ones made here."""

import json
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from comfyui_exemplar.color import ab_error, luminance_error
from comfyui_exemplar.color.measures import colorfulness, frechet_distance, histogram_intersection, ssim
from comfyui_exemplar.pipelines import measure_report
from comfyui_exemplar.pipelines.measure import MeasureSettings, Measuring, Pair
from comfyui_exemplar.pipelines.measure_table import METRICS


def blobs(seed, height=40, width=48):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 5, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)


@dataclass
class Seen:
    first: torch.Tensor
    second: torch.Tensor
    last: torch.Tensor | None


class Look:
    """Features without a network: differences of neighbors, and means."""

    def __init__(self):
        self.asked = []

    def look(self, pictures, *, resize=True, whole=True):
        self.asked.append((resize, whole))
        x = pictures.movedim(-1, 1)
        second = torch.cat([x[:, :, 1:, 1:], x.diff(dim=2)[..., 1:]], 1)
        return Seen(x[..., ::2, ::2], second, x.mean((2, 3)) if whole else None)


@dataclass
class Networks:
    inception: Look | None = None
    torchvision: Look | None = None
    perceptual: object = None
    missing: dict = field(default_factory=dict)


def distance(one, other):
    return (one - other).abs().mean((1, 2, 3))


def measured(pairs, networks=None, **settings):
    measuring = Measuring(MeasureSettings(**settings), networks)
    for number, pair in enumerate(pairs):
        measuring.add(Pair(f"{number}.png", **pair))
    return measuring.result()


def full(number, **sizes):
    return {
        "output": blobs(number),
        "reference": blobs(number + 50, **sizes),
        "truth": blobs(number + 100),
        "gray": blobs(number + 150),
    }


def keys(found):
    return [row.metric.key for row in found.rows]


class TestNumbers:
    def test_means_over_pictures(self):
        pairs = [full(number) for number in range(3)]
        found = measured(pairs)
        for key, measure, against in (
            ("ssim", ssim, "truth"),
            ("ab_error", ab_error, "truth"),
            ("lightness_error", luminance_error, "gray"),
            ("his", histogram_intersection, "reference"),
        ):
            each = [float(measure(pair["output"], pair[against])) for pair in pairs]
            row = found.row(key)
            assert [defined for _, defined in row.each] == pytest.approx(each)
            assert row.defined == pytest.approx(np.mean(each))
        assert found.names == ("0.png", "1.png", "2.png")

    def test_delta_is_between_means(self):
        pairs = [full(number) for number in range(3)]
        sets = [torch.cat([pair[name] for pair in pairs]) for name in ("output", "truth")]
        own, true = (float(colorfulness(pictures).mean()) for pictures in sets)
        assert measured(pairs).row("delta_colorfulness").defined == pytest.approx(abs(own - true))

    def test_the_truth_is_the_gray_input_where_none_is_given(self):
        pair = full(1)
        found = measured([{"output": pair["output"], "truth": pair["truth"]}])
        assert found.row("lightness_error").defined == float(luminance_error(pair["output"], pair["truth"]))
        gray = measured([{"output": pair["output"], "gray": pair["gray"]}])
        assert keys(gray) == ["colorfulness", "lightness_error", "ghosting"]

    def test_equal_pictures(self):
        picture = blobs(3)
        found = measured([{"output": picture, "truth": picture}])
        assert math.isinf(found.row("psnr").defined) and math.isinf(found.row("psnr").published)
        assert found.row("ssim").defined == pytest.approx(1)
        assert json.loads(json.dumps(measure_report.content(found)))["measures"]["psnr"]["defined"] == "infinite"
        assert "infinite" in measure_report.table(found)

    def test_frames(self):
        pairs = [{"output": blobs(number)} for number in range(5)]
        assert measured(pairs, frames=True).row("cdc").defined > 0
        assert measured(pairs).row("cdc") is None
        with pytest.raises(ValueError, match="found 4 frames, expected at least 5"):
            measured(pairs[:4], frames=True)


class TestNetworks:
    def networks(self):
        return Networks(Look(), Look(), distance)

    def test_distances_of_sets(self):
        pairs, networks = [full(number) for number in range(4)], self.networks()
        found = measured(pairs, networks)

        def features(name):
            levels = [(pair[name] * 255).round() / 255 for pair in pairs]
            return torch.cat([picture.mean((1, 2)) for picture in levels])

        expected = frechet_distance(features("reference"), features("output"))
        assert found.row("fid_reference").defined == pytest.approx(expected, rel=1e-4)
        assert found.row("fid_reference").published == found.row("fid_reference").defined
        expected = frechet_distance(features("truth"), features("output"))
        assert found.row("fid_truth").published == pytest.approx(expected, rel=1e-4)
        assert not found.row("fid_truth").each, "a set has one number"
        assert any("FID of 4 pictures" in note for note in found.notes)
        assert (False, False) in networks.inception.asked and (False, False) not in networks.torchvision.asked

    def test_one_picture_has_no_distance_of_sets(self):
        assert not {"fid_reference", "fid_truth"} & set(keys(measured([full(1)], self.networks())))

    def test_lpips_is_against_both(self):
        pairs = [full(number) for number in range(2)]
        found = measured(pairs, self.networks())
        row = found.row("lpips_truth")
        assert row.published == pytest.approx(127.5 * row.defined, rel=1e-4), "0..255 in the place of -1..1"
        assert found.row("lpips_reference").published == found.row("lpips_reference").defined

    def test_what_networks_are_missing_is_told(self):
        networks = Networks(missing={"torchvision": "FID as ...", "perceptual": "LPIPS is left out: ...; get ..."})
        found = measured([full(1)], networks)
        assert [note.split()[0] for note in found.notes[-2:]] == ["FID", "LPIPS"]
        without = {name: each for name, each in full(1).items() if name != "truth"}
        assert not any(note.startswith("FID as") for note in measured([without], networks).notes), "none needs it"
        assert not measured([{"output": blobs(1)}], networks).notes
        assert not {"si_fid", "lpips_truth"} & set(keys(found))

    def test_references_of_another_size(self):
        found = measured([full(number, height=60) for number in range(3)], self.networks())
        row = found.row("lpips_reference")
        assert row.published is None and row.defined is None
        told = [note for note in found.notes if note.startswith("LPIPS, to references")]
        assert told == [
            "LPIPS, to references, found 48 x 60 for 48 x 40 pixels, expected the same and at least 35 a side. "
            "(3 of 3 pictures)"
        ]

    def test_large_pictures(self):
        """Features of all their places would be gigabytes."""
        wide = {"output": blobs(1, 40, 2100), "reference": blobs(2)}
        found = measured([wide], self.networks())
        assert found.row("si_fid").published is not None and found.row("si_fid").defined is None
        assert any("SI-FID, as defined: found 2100 x 40 pixels, expected at most 2048" in note for note in found.notes)

    def test_small_pictures(self):
        """Nothing is left of them at the networks' last layers."""
        pair = {name: each[:, :20, :20] for name, each in full(1).items()}
        found = measured([pair], self.networks())
        assert found.row("si_fid").published is not None and found.row("si_fid").defined is None
        assert found.row("lpips_truth").defined is None


class TestWhatIsLeftOut:
    def test_published_sizes(self):
        """HIS as published is of 512 x 512 alone."""
        found = measured([full(1)])
        row = found.row("his")
        assert row.published is None and row.defined is not None
        assert found.notes[0].startswith("HIS, as published: picture: found 48 x 40 pixels, expected 512 x 512")
        assert found.notes[0].endswith("(1 of 1 pictures)")

    def test_no_mean_over_some(self):
        large = {"output": blobs(1, 512, 512), "reference": blobs(2, 512, 512)}
        row = measured([large, {name: full(1)[name] for name in ("output", "reference")}]).row("his")
        assert row.published is None and row.each[0][0] is not None

    def test_what_only_some_have(self):
        assert keys(measured([full(1), {"output": blobs(2)}])) == ["colorfulness"]

    def test_sizes(self):
        with pytest.raises(ValueError, match=r"0\.png: found a truth of 40 x 48 pixels for 48 x 40"):
            measured([{"output": blobs(1), "truth": blobs(2).transpose(1, 2)}])

    def test_nothing(self):
        with pytest.raises(ValueError, match="found no picture"):
            Measuring().result()


class TestReport:
    @pytest.fixture
    def found(self):
        return measured([full(number) for number in range(3)], Networks(Look(), Look(), distance))

    def test_table(self, found):
        lines = measure_report.table(found).splitlines()
        assert lines[0] == "3 pictures" and " ".join(lines[1].split()) == " ".join(measure_report.HEADS)
        for row in found.rows:
            (line,) = [line for line in lines[3:] if line.startswith(f"{row.metric.name}  ")]
            for value in (row.published, row.defined):
                assert measure_report.number(value) in line
        assert max(map(len, lines)) <= 100

    def test_json(self, found, tmp_path):
        path = tmp_path / "numbers.json"
        measure_report.check_place(path)
        measure_report.save(found, path)
        content = json.loads(path.read_text("utf-8"))
        assert content["count"] == 3 and set(content["measures"]) == set(keys(found))
        assert content["pictures"]["1.png"]["ssim"] == list(found.row("ssim").each[1])
        measure_report.check_place(path)
        path.write_text("[]")
        with pytest.raises(ValueError, match="holds no measures of ours"):
            measure_report.check_place(path)

    @pytest.mark.parametrize("count", [1, 3, 70])
    def test_picture(self, count):
        shown = measure_report.picture(measured([full(number) for number in range(count)]))
        assert shown.shape[0] == 1 and shown.shape[3] == 3 and shown.shape[2] == 900
        assert shown.min() >= 0 and shown.max() <= 1 and (shown < 0.5).any()


def test_keys_are_told_apart():
    assert len({metric.key for metric in METRICS}) == len(METRICS) == len({metric.name for metric in METRICS})
