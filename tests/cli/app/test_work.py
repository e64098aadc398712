"""What the buttons do, on the embedded models, without a page."""

import numpy as np
import pytest
import torch

from comfyui_exemplar.cli import main
from comfyui_exemplar.cli.app.jobs import Stopped
from comfyui_exemplar.cli.app.pictures import write_result
from comfyui_exemplar.cli.app.work import Colorize, auto, colorize, legend_of, recolor
from comfyui_exemplar.files.pictures import load_picture, save_picture
from comfyui_exemplar.pipelines import attention_map

from .conftest import PICTURES

GRAY, REFERENCE, OTHER = (PICTURES / f"{name}.png" for name in ("scene-gray", "scene-reference", "drawing-reference"))
#: Small, so that a run is short; the picture has its own size all the same.
SMALL = {"resolution": 64}


@pytest.fixture
def job(jobs):
    with jobs.job("test") as made:
        yield made


def test_what_the_page_has_read_is_not_read_again(models, jobs, monkeypatch):
    from comfyui_exemplar.files import pictures

    seen = [jobs.pictures.read(path) for path in (GRAY, REFERENCE)]
    monkeypatch.setattr(pictures, "read_photograph", None)
    with jobs.job("test") as job:
        assert colorize(models, job, Colorize(GRAY, [REFERENCE], chosen=SMALL)).dropped is seen[0]


def test_by_memory_it_is_the_command_lines_result(models, job, tmp_path):
    outcome = colorize(models, job, Colorize(GRAY, [REFERENCE], chosen=SMALL))
    path = write_result(outcome.made.image, outcome.dropped, tmp_path)
    line = [str(GRAY), "--reference", str(REFERENCE), "--method", "memory", "--resolution", "64", "--bits", "16"]
    assert main(["colorize", *line, "--no-sheet", "--output", str(tmp_path / "line.png")]) == 0
    assert path.read_bytes() == (tmp_path / "line.png").read_bytes()
    assert outcome.made.image.shape == outcome.before.shape == load_picture(GRAY).shape
    assert "By memory, from 1 reference." in outcome.made.said and outcome.seconds > 0


def test_several_references_strokes_and_a_palette_have_a_legend(models, job):
    layer = np.zeros((384, 512, 4), np.uint8)
    layer[200:260, 360:420] = (10, 200, 30, 255)
    asked = Colorize(GRAY, [REFERENCE, OTHER], [layer], chosen=SMALL, weights=(1.0, 0.5), palette="#10c81e #c8102e")
    made = colorize(models, job, asked).made
    assert [each.name for each in made.legend] == ["1. scene-reference.png", "2. drawing-reference.png", "strokes"]
    assert sum(each.share for each in made.legend) == pytest.approx(1, abs=0.01)
    assert made.legend[2].share > 60 * 60 / (384 * 512) * 0.9, "what was painted is the strokes'"
    green = made.image[0, 230, 390]
    assert green[1] > green[0] and green[1] > green[2]
    assert made.confidence.shape == made.origin.shape == made.image.shape
    assert len({each.color for each in made.legend}) == 3


def test_strokes_alone_are_enough(models, job):
    layer = np.zeros((192, 256, 4), np.uint8)  # a small copy was painted on
    layer[100:130, 180:210] = (200, 30, 10, 255)
    made = colorize(models, job, Colorize(GRAY, (), [layer], chosen=SMALL)).made
    red = made.image[0, 230, 390]
    assert red[0] > red[1] and [each.name for each in made.legend] == ["strokes"]


def test_by_attention(models, job):
    steps = []
    job.on_step = lambda done, total, what: steps.append((done, total))
    few = {**SMALL, "depth": 2}
    outcome = colorize(models, job, Colorize(GRAY, [REFERENCE], method="attention", chosen=few))
    assert outcome.made.image.shape == outcome.before.shape and outcome.made.legend == ()
    assert outcome.made.confidence.shape == outcome.made.origin.shape == outcome.before.shape
    assert steps[-1][0] == steps[-1][1] > 2
    two = colorize(models, job, Colorize(GRAY, [REFERENCE, OTHER], method="attention", chosen=few, weights=(1.0, 2.0)))
    assert "from 2 references" in two.made.said and two.made.origin is not None
    assert not torch.equal(two.made.image, outcome.made.image)


@pytest.mark.parametrize("references", [[REFERENCE], [REFERENCE, OTHER]])
def test_where_settings_keep_nothing_to_match_there_are_no_maps(models, job, caplog, references):
    nothing = {**SMALL, "depth": 1, "gamma_shallow": 0.0, "gamma_deep": 0.0}
    made = colorize(models, job, Colorize(GRAY, references, method="attention", chosen=nothing)).made
    assert made.confidence is made.origin is None and made.image.shape == load_picture(GRAY).shape
    assert "kept nothing to make them of" in caplog.text


def test_what_else_fails_at_the_maps_is_told(models, job, monkeypatch):
    def fails(*_):
        raise ValueError("something else")

    monkeypatch.setattr(attention_map, "attention_maps", fails)
    with pytest.raises(ValueError, match="something else"):
        colorize(models, job, Colorize(GRAY, [REFERENCE], method="attention", chosen={**SMALL, "depth": 1}))


def test_automatic_colors_stand_in_where_the_memory_is_unsure(models, job):
    asked = {"chosen": {**SMALL, "fallback_below": 1.0}}
    plain = colorize(models, job, Colorize(GRAY, [OTHER], **asked)).made.image
    other = colorize(models, job, Colorize(GRAY, [OTHER], fallback="automatic colors", **asked)).made.image
    automatic = auto(models, job, GRAY, {}).made.image
    assert (other - automatic).abs().mean() < (plain - automatic).abs().mean()


@pytest.mark.parametrize("method, chosen", [("memory", SMALL), ("attention", {**SMALL, "depth": 4})])
def test_it_stops_within_a_step(models, jobs, method, chosen):
    calls = []

    def on_step(done, *_):
        calls.append(done)
        if done == 1:
            jobs.stop("me")

    with pytest.raises(Stopped), jobs.job("me", on_step=on_step) as job:
        colorize(models, job, Colorize(GRAY, [REFERENCE], method=method, chosen=chosen))
    assert calls[-1] == 1


@pytest.mark.parametrize(
    "asked, said",
    [
        ({}, "references: found none"),
        ({"references": [GRAY]}, "found no color in scene-gray.png"),
        ({"references": [REFERENCE], "palette": "red"}, "colors: found 'red'"),
        ({"method": "attention"}, "references: found none, expected at least one color picture; drop one\\."),
        ({"method": "attention", "references": [REFERENCE], "palette": "#f00"}, "attention does not take a palette"),
        ({"references": [REFERENCE], "chosen": {"layers": "nowhere"}}, "nowhere"),
    ],
)
def test_what_does_not_go_together_is_refused(models, job, asked, said):
    with pytest.raises(ValueError, match=said):
        colorize(models, job, Colorize(GRAY, **asked))


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="picture: found none"):
        Colorize(None)
    with pytest.raises(ValueError, match=r"weights: found 2 for 1 reference"):
        Colorize(GRAY, [REFERENCE], weights=(1.0, 2.0))


def test_colors_of_an_edit_come_back(job, tmp_path):
    save_picture(load_picture(PICTURES / "scene-truth.png"), tmp_path / "edit.png")
    outcome = recolor(job, GRAY, tmp_path / "edit.png", {"motion": "none"})
    truth = load_picture(PICTURES / "scene-truth.png")
    assert (outcome.made.image - truth).abs().mean() < 0.02
    with pytest.raises(ValueError, match="edited copy: found none"):
        recolor(job, GRAY, None, {})


def test_automatic(models, job):
    made = auto(models, job, GRAY, {"resolution": 64}).made
    assert made.image.shape == load_picture(GRAY).shape and "DDColor" in made.said
    with pytest.raises(ValueError, match="picture: found none"):
        auto(models, job, None, {})


def test_the_legend_counts_places():
    source = torch.tensor([[[0, 0, 1, -1]]])
    first, second = legend_of(("a", "b"), source)
    assert (first.share, second.share) == (0.5, 0.25) and first.color.startswith("#") and first.color != second.color
    assert legend_of((), source) == ()
