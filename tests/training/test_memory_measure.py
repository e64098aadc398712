"""How color memories are measured: on made-up drawings, where what must come out is known."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from comfyui_exemplar.color import desaturate, luminance, rgb_to_lab
from comfyui_exemplar.memory.features import Features, Space
from comfyui_exemplar.pipelines.memory_settings import FeatureSettings, MemorySettings, WritingSettings

FEATURES = FeatureSettings(context=0.0)
ASKING, WRITING = MemorySettings(FEATURES, coherence=0.0), WritingSettings(FEATURES)
RED, BLUE = (0.8, 0.2, 0.2), (0.2, 0.3, 0.8)


class Lightness:
    """Places of 4 x 4 pixels are alike where they are as light: all that a test needs of a network."""

    fingerprint = name = "lightness"
    spaces = (Space("light", 0.0, 2, 1, True),)

    def features(self, pictures):
        light = F.adaptive_avg_pool2d(luminance(pictures)[:, None], 32)[:, 0].flatten(1)
        angle = light / 100 * math.pi
        tokens = 100 * torch.stack([angle.cos(), angle.sin()], -1)
        return Features(self.fingerprint, self.spaces, (tokens,), (tokens,), ((32, 32),))


@pytest.fixture
def scene():
    """(picture, things): a red square above and a darker blue one below are one thing, beside it a second one."""
    picture, things = torch.ones(128, 128, 3), torch.full((128, 128), -1)
    picture[20:60, 10:60] = torch.tensor(RED)
    picture[60:100, 10:60] = torch.tensor(BLUE)
    things[20:100, 10:60] = 0
    picture[30:90, 80:120] = torch.tensor(RED)
    things[30:90, 80:120] = 1
    return picture, things


def marked(scene, own=True, seed=0):
    from training.marks import mark

    picture, things = scene
    return mark(picture, desaturate(picture[None])[0], things, np.random.default_rng(seed), own=own)


class TestMarks:
    def test_a_flood_goes_around_corners_and_not_over_gaps(self):
        from training.marks import flood

        allowed = torch.zeros(6, 8, dtype=torch.bool)
        allowed[1, 1:4] = allowed[2, 4] = allowed[3, 4:6] = allowed[:, 7] = True
        found = flood(allowed, (1, 1))
        assert int(found.sum()) == 6 and bool(found[3, 5]) and not bool(found[:, 7].any())

    @pytest.mark.parametrize("seed", range(6))
    def test_strokes_lie_in_parts_of_one_color_within_one_thing(self, scene, seed):
        found = marked(scene, seed=seed)
        picture, things = scene
        for stroke in found.strokes:
            assert bool((stroke.part | ~stroke.place).all()) and bool((stroke.thing | ~stroke.part).all())
            assert 5 <= int(stroke.place.sum()) < int(stroke.part.sum()) / 3
            assert len(things[stroke.thing].unique()) == 1
            colors = picture[stroke.part]
            assert torch.equal(colors, colors[:1].expand_as(colors))
            assert int(stroke.part.sum()) in (40 * 50, 60 * 40)  # the whole square, nothing else
        # what is outside keeps two pixels away from the thing that is marked
        assert not bool((F.max_pool2d(stroke.thing[None].float(), 5, 1, 2)[0].bool() & found.outside).any())
        assert bool(found.outside[things == 1 - int(things[stroke.thing][0])].any())

    def test_own_colors_are_the_parts_and_others_are_far(self, scene):
        lab = rgb_to_lab(scene[0][None])[0]
        for stroke in marked(scene).strokes:
            torch.testing.assert_close(stroke.chroma, lab[stroke.part][0, 1:], atol=1e-3, rtol=0)
        for stroke in marked(scene, own=False).strokes:
            assert (stroke.chroma - lab[stroke.part][0, 1:]).norm() > 40

    def test_a_thing_without_large_parts_gets_none(self):
        noise = torch.rand(128, 128, 3, generator=torch.Generator().manual_seed(0))
        assert marked((noise, torch.zeros(128, 128, dtype=torch.long))) is None

    def test_the_painted_picture_is_gray_but_for_the_strokes(self, scene):
        found = marked(scene, own=False)
        gray = desaturate(scene[0][None])
        apart = (found.painted - gray).abs().amax(-1) > 8 / 255
        assert torch.equal(apart, found.place.bool())


class TestStrokes:
    def test_a_perfect_answer_and_a_leak(self, scene):
        from training.marks import aimed
        from training.strokes_measure import compare

        found = marked(scene, own=False)
        gray = desaturate(scene[0][None])[0]
        after = gray.clone()
        for stroke in found.strokes:
            after[stroke.part] = aimed(gray, stroke.chroma)[stroke.part]
        shares, moved = compare(found, gray, gray, after)
        assert all(marks == parts == inner == 1 for marks, parts, inner, _ in shares) and float(moved.max()) == 0
        assert all(whole < 1 for *_, whole in shares) or len(found.strokes) == 1
        after[found.outside] = aimed(gray, torch.tensor([30.0, 0.0]))[found.outside]
        _, moved = compare(found, gray, gray, after)
        assert float(moved.mean()) > 1 and len(moved) == int(found.outside.sum())

    def test_numbers_over_pictures(self):
        from training.strokes_measure import StrokeNumbers

        found = StrokeNumbers(
            torch.ones(2),
            torch.tensor([1.0, 0.5]),
            torch.tensor([1.0, 0.6]),
            torch.tensor([0.4, 0.2]),
            (torch.zeros(90), torch.full((10,), 8.0)),
        ).summary()
        assert found["taken, parts"] == 0.75 and found["strokes that fill their part"] == 0.5
        assert found["moved outside, mean"] == pytest.approx(0.8) and found["moved outside, worst picture"] == 8
        assert found["pictures that move less than the goal outside"] == 0.5

    def test_on_flat_squares_strokes_fill_them_and_leave_the_rest(self, scene):
        from training.pairs import EvaluationPairs
        from training.strokes_measure import measure_strokes

        picture, things = (each[None].repeat(2, *[1] * each.ndim) for each in scene)
        pairs = EvaluationPairs(picture, picture, things, things, torch.tensor([2, 2]), ["a", "b"])
        shown = []
        found = measure_strokes(Lightness(), pairs, ASKING, WRITING, seed=3, shown=shown)
        row = found["all"].summary()
        assert row["pictures"] == 2 and set(found) == {"own color", "another color", "all"}
        assert row["taken, marks"] == 1 and row["taken, parts"] > 0.9 and row["taken, parts without edges"] > 0.95
        assert row["moved outside, 95th percentile"] < 0.5
        assert len(shown) == 2 and all(each.shape == (128, 128, 3) for each in shown[0].values())


@pytest.fixture(scope="module")
def stories(drawings):
    from training.pages import draw_pages

    return draw_pages(drawings, "train", stories=1, pages=4, seed=2)


class TestPages:
    def test_the_same_things_stand_elsewhere_on_each_page(self, stories):
        (story,) = stories
        assert story.pictures.shape == (4, 128, 128, 3) and len(set(story.boxes)) == 4
        for number in (0, 1):
            same = story.straightened(rgb_to_lab(story.pictures)[..., 1:], number)
            # but for resizing, the thing is the same on all pages
            assert float((same - same.mean(0)).norm(dim=-1)[:, 8:40, 8:40].mean()) < 6
            elsewhere = story.straightened(rgb_to_lab(story.pictures)[..., 1:], 1 - number)
            assert float((elsewhere - same).norm(dim=-1)[:, 16:32, 16:32].mean()) > 12

    def test_true_pages_spread_less_than_pages_in_changing_colors(self, stories):
        from training.palette_measure import _of_story

        (story,) = stories
        spread, places, error, beyond, _ = _of_story(story, story.pictures, None)
        assert float(spread.max()) < 2 and float(error.max()) == 0 and len(beyond) == 0
        changed = story.pictures.clone()
        changed[::2] = changed[::2].flip(-1)
        more, more_places, error, *_ = _of_story(story, changed, None)
        assert bool((more > 5 * spread).all()) and bool((more_places > 2 * places).all()) and float(error[0]) > 10

    def test_a_palette_of_one_color_ends_all_spread(self, stories, monkeypatch):
        from training import palette_measure

        monkeypatch.setattr(palette_measure, "COLORS", 1)
        monkeypatch.setattr(palette_measure.colors_of, "__defaults__", (1,))
        found = palette_measure.measure_palettes(Lightness(), stories, ASKING, WRITING)
        plain = found[palette_measure.PLAIN]
        row = found["a palette for each thing"].summary(plain)
        assert row["spread of things, of that without"] < 0.5
        assert found["palette"].summary(plain)["beyond the hull, max"] < 3
        assert "beyond the hull, max" not in plain.summary(plain)


def test_colors_of_a_region_are_its_own(scene):
    from training.palette_measure import colors_of

    picture, things = scene
    found = colors_of(picture, things == 0, 6)[0, 0]
    wanted = (torch.tensor([RED, BLUE]) * 255).round() / 255
    assert (
        float(torch.cdist(found, wanted).amin(1).max()) < 0.02
        and float(torch.cdist(wanted, found).amin(1).max()) < 0.02
    )


def test_how_far_points_are_from_a_hull():
    from training.palette_measure import beyond_hull

    square = torch.tensor([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0], [0.0, 10.0], [5.0, 5.0]])
    points = torch.tensor([[5.0, 5.0], [10.0, 4.0], [13.0, 14.0], [-2.0, 5.0]])
    torch.testing.assert_close(beyond_hull(points, square), torch.tensor([0.0, 0.0, 5.0, 2.0]))
    torch.testing.assert_close(beyond_hull(points, square[:1]), points.norm(dim=-1))
    torch.testing.assert_close(
        beyond_hull(points, square[:2]), torch.tensor([5.0, 4.0, math.hypot(3, 14), math.hypot(2, 5)])
    )


class TestPairs:
    def test_references_apart_show_one_thing_each(self, drawings):
        from training.pairs import build_apart

        pairs, apart, as_large = build_apart(drawings, "train", 2, seed=1)
        assert apart.shape == as_large.shape == (2, 2, 128, 128, 3) and pairs.count.tolist() == [2, 2]
        sizes = [(rgb_to_lab(each.flatten(0, 1))[..., 1:].norm(dim=-1) > 10).sum((1, 2)) for each in (apart, as_large)]
        assert bool((sizes[0] > 2 * sizes[1]).all())
        for i in range(2):
            for number in (0, 1):
                alone = rgb_to_lab(apart[i, number][None])[0]
                own = rgb_to_lab(pairs.truth[i][None])[0][pairs.things[i] == number]
                other = rgb_to_lab(pairs.truth[i][None])[0][pairs.things[i] == 1 - number]
                colored = alone[alone[..., 1:].norm(dim=-1) > 10]
                near, far = (float(torch.cdist(colored, each[::9]).amin(1).median()) for each in (own, other))
                assert near < 5 < far

    def test_both_beside_the_better_single_one(self):
        from training.memory_measure import against_better
        from training.pairs import EvaluationPairs

        truth = torch.full((2, 4, 4, 3), 0.5)
        truth[..., 0] = 0.9
        half = truth.clone()
        half[:, :2] = 0.5
        things = torch.zeros(2, 4, 4, dtype=torch.long)
        pairs = EvaluationPairs(truth, truth, things, things, torch.tensor([1, 1]), ["", ""])
        gray = torch.full_like(truth, 0.5)
        shown = {"first": half, "second": gray, "both": truth, "one picture of both": half}
        found = against_better(shown, pairs)
        assert found["both, of the better"] == pytest.approx(0, abs=1e-6)
        assert found["one picture of both, of the better"] == pytest.approx(1)
        assert found["better single reference"] == pytest.approx(found["first"]) and found["first"] < found["second"]


class TestPlaces:
    def test_confidence_that_says_all_and_that_says_nothing(self):
        from training.memory_measure import Places

        random = torch.Generator().manual_seed(0)
        error = 40 * torch.rand(4000, generator=random)
        inside = torch.ones(4000, dtype=torch.bool)
        assert Places(1 - error / 40, error, inside).correlation == pytest.approx(1)
        assert abs(Places(torch.rand(4000, generator=random), error, inside).correlation) < 0.05

    def test_calibration_is_the_share_of_right_places(self):
        from training.memory_measure import Places

        random = torch.Generator().manual_seed(1)
        sure = torch.rand(20_000, generator=random)
        right = torch.rand(20_000, generator=random) < sure
        found = Places(sure, torch.where(right, 5.0, 50.0), right).summary()
        assert found["off"] < 0.03 and len(found["calibration"]["stated"]) == 10
        assert Places(sure, torch.full((20_000,), 50.0), right).summary()["off"] == pytest.approx(0.5, abs=0.02)

    def test_of_pictures(self, scene):
        from training.memory_measure import Places
        from training.pairs import EvaluationPairs

        picture, things = (each[None] for each in scene)
        pairs = EvaluationPairs(picture, picture, things, things, torch.tensor([2]), ["a"])
        found = Places.of(desaturate(picture), torch.full((1, 128, 128), 0.5), pairs)
        assert found.error.shape == (1024,) and float(found.error[found.inside].min()) > 20
        assert float(found.error[~found.inside].max()) < 1e-2
        assert bool(found.take(found.inside).inside.all())


def test_the_report_is_written_from_numbers(scene, tmp_path, drawings):
    from PIL import Image

    from training import memory_report as report
    from training.memory_measure import Places, against_better
    from training.pages import draw_pages
    from training.pairs import EvaluationPairs
    from training.palette_measure import PLAIN, measure_palettes
    from training.report import rounded
    from training.strokes_measure import measure_strokes

    picture, things = (each[None].repeat(2, *[1] * each.ndim) for each in scene)
    pairs = EvaluationPairs(picture, picture, things, things, torch.tensor([2, 2]), ["a", "b"])
    shown, pages = [], []
    strokes = measure_strokes(Lightness(), pairs, ASKING, WRITING, seed=3, shown=shown)
    palettes = measure_palettes(
        Lightness(), draw_pages(drawings, "train", stories=1, pages=2, seed=2), ASKING, WRITING, pages
    )
    sure = torch.linspace(0, 1, 500)
    ways = {name: picture for name in ("first", "second", "both", "one picture of both")}
    two = against_better({**ways, "first": desaturate(picture), "second": desaturate(picture)}, pairs)
    found = {
        "split": "test",
        "strokes": {"drawings": {name: each.summary() for name, each in strokes.items()}},
        "palettes": {name: each.summary(palettes[PLAIN]) for name, each in palettes.items()},
        "two references": {"color memory": two, "dual attention": two},
        "confidence": {"drawings": Places(sure, 30 - 20 * sure, torch.ones(500).bool()).summary()},
    }
    text = report.table(found)
    assert (
        "| drawings, own color | " in text
        and "| color memory | 2 | " in text
        and "| a palette for each thing |" in text
    )
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.count("|") for line in block}) == 1 for block in tables) and len(tables) == 4
    short = json.loads(json.dumps(rounded({**found, "third": [1 / 3, 2]})))
    assert short["split"] == "test" and short["third"] == [0.3333, 2]
    pytest.importorskip("matplotlib")
    report.plot(found, tmp_path / "memory.png")
    report.sheet(shown, pages, tmp_path / "memory.jpg")
    for name in ("memory.png", "memory.jpg"):
        with Image.open(tmp_path / name) as opened:
            assert min(opened.size) > 300
