"""Drift that is known, and pairs made with it."""

import json

import numpy as np
import pytest
import torch

SIZE = (96, 128)


@pytest.fixture
def ramp():
    """(H, W, 3): red is x, green is y, both a pixel's center in shares of the size."""
    from training.drift import grid

    places = grid(SIZE) / torch.tensor([SIZE[1], SIZE[0]])
    return torch.cat([places, torch.full((*SIZE, 1), 0.5)], -1).float()


def drifts():
    from training.drift import Drift

    return {
        "zoom": Drift(zoom=1.05),
        "shift": Drift(shift=(7.0, -3.5)),
        "turn": Drift(turn=2.0),
        "perspective": Drift(tilt=(0.02, -0.01)),
        "warp": Drift(warp=4.0, seed=3),
        "all": Drift(0.96, (5.0, 4.0), -1.0, (0.005, 0.01), 6.0, 9),
    }


@pytest.mark.parametrize("kind", ["zoom", "shift", "turn", "perspective", "warp", "all"])
def test_the_way_back_is_the_way_back(kind):
    """A pixel of the original is seen at the place of the edit that shows it."""
    from training.drift import grid

    drift, here = drifts()[kind], grid(SIZE)
    assert not drift.still
    there = drift.place_of(here, SIZE)
    assert float((there - here).abs().max()) > 0.5
    assert float((drift.shown(there, SIZE) - here).abs().max()) < 1e-3


@pytest.mark.parametrize("kind", ["zoom", "shift", "turn", "perspective", "warp"])
def test_what_a_drift_shows_lies_where_it_says(kind, ramp):
    """The edit, looked up at those places, is the original again."""
    from training.drift import grid, sample

    drift, here = drifts()[kind], grid(SIZE)
    edit = sample(ramp, drift.shown(here, SIZE))
    there = drift.place_of(here, SIZE)
    extent = torch.tensor([SIZE[1], SIZE[0]])
    inside = ((there > 4) & (there < extent - 4)).all(-1) & ((here > 12) & (here < extent - 12)).all(-1)
    again = sample(edit, there)
    assert int(inside.sum()) > 1000
    assert float((again - ramp)[inside].abs().max()) < 0.3 / SIZE[0]


def test_amounts_are_what_they_say():
    from training.drift import Drift, grid

    here = grid((512, 512))
    middle, corner = torch.tensor([[[256.0, 256.0]]]).double(), torch.tensor([[[512.0, 256.0]]]).double()
    zoomed = Drift(zoom=1.05).place_of(corner, (512, 512))
    assert zoomed[0, 0].tolist() == pytest.approx([256 + 256 * 1.05, 256])
    assert Drift(zoom=1.05).place_of(middle, (512, 512))[0, 0].tolist() == pytest.approx([256, 256])
    assert Drift(shift=(32.0, 0.0)).place_of(middle, (512, 512))[0, 0].tolist() == pytest.approx([288, 256])
    # clockwise, as seen with y downward: what is on the right goes down
    turned = Drift(turn=2.0).place_of(corner, (512, 512))[0, 0]
    assert turned.tolist() == pytest.approx([256 + 256 * np.cos(np.pi / 90), 256 + 256 * np.sin(np.pi / 90)], abs=1e-3)
    warp = Drift(warp=8.0, seed=1)
    assert 5.0 < float((warp.shown(here, (512, 512)) - here).norm(dim=-1).max()) < 9.0
    tilted = Drift(tilt=(0.02, 0.0)).shown(corner, (512, 512))[0, 0]
    assert float(tilted[0]) == pytest.approx(512 - 0.02 * 512, abs=1.0)


class TestDegradations:
    @pytest.fixture
    def picture(self):
        return torch.rand(1, 64, 80, 3, generator=torch.Generator().manual_seed(5))[0] * 0.6 + 0.2

    def test_nothing_of_nothing(self, picture):
        from training.drift import grained, softened, textured, toned

        gray = picture[..., :1].expand(-1, -1, 3)
        for changed, given in (
            (toned(picture, 0.0, np.random.default_rng(0)), picture),
            (textured(picture, 0.0, np.random.default_rng(0)), picture),
            (grained(gray, 0.0, np.random.default_rng(0)), gray),
            (softened(picture, 0.0), picture),
        ):
            assert torch.allclose(changed, given, atol=1e-4)

    def test_tones_change_and_colors_stay(self, picture):
        from comfyui_exemplar.color import rgb_to_lab
        from training.drift import textured, toned

        lab = rgb_to_lab(picture[None])
        for change in (toned, textured):
            other = rgb_to_lab(change(picture, 0.5, np.random.default_rng(4))[None])
            assert float((other - lab)[..., 0].abs().mean()) > 0.5
            assert float((other - lab)[..., 1:].abs().median()) < 0.05

    def test_grain_is_gray_and_as_strong_as_said(self):
        from training.drift import grained

        made = grained(torch.full((128, 128, 3), 0.5), 1.0, np.random.default_rng(2))
        assert torch.equal(made[..., 0], made[..., 1])
        assert float(made[..., 0].std()) == pytest.approx(12 / 255, rel=0.05)

    def test_softening_takes_detail(self, picture):
        from training.drift import softened

        little, much = (float(softened(picture, amount).diff(dim=1).abs().mean()) for amount in (0.25, 1.0))
        assert much < little < float(picture.diff(dim=1).abs().mean())


def canvas(side=64, margin=16):
    """A disc on a ground of stripes; drawn anew it is a square."""
    from training.canvases import Canvas

    full = side + 2 * margin
    y, x = torch.meshgrid(torch.arange(full), torch.arange(full), indexing="ij")
    disc = (torch.hypot(x - full / 2.0, y - full / 2.0) < 12).float()
    square = torch.maximum((x - full / 2.0).abs(), (y - full / 2.0).abs()) < 12
    ground = torch.stack(
        [0.4 + 0.2 * torch.sin(x / 3.0), 0.5 + 0.2 * torch.cos(y / 4.0), torch.full_like(disc, 0.3)], -1
    )
    picture = torch.where(disc[..., None] > 0, torch.tensor([0.8, 0.2, 0.2]), ground)
    other = torch.where(square[..., None], torch.tensor([0.1, 0.3, 0.8]), ground)
    return Canvas(picture, margin, "a disc", lambda r: (other, (disc > 0) | square), lambda r: disc)


def made(kind, amount=1.0, seed=1):
    from training.drift_pairs import changes, pair

    random = np.random.default_rng(seed)
    return pair(canvas(), kind, amount, changes(kind, amount, random), random)


class TestPairs:
    @pytest.mark.parametrize("kind", ["none", "tone", "soft", "texture", "grain", "recolored", "redrawn"])
    def test_kinds_that_move_nothing(self, kind):
        pair = made(kind)
        assert bool(pair.seen.all()) and float(pair.displacement.abs().max()) < 1e-3
        assert torch.equal(pair.edited, pair.undrifted)
        assert bool(pair.redrawn.any()) == (kind == "redrawn")

    @pytest.mark.parametrize("kind", ["zoom", "shift", "zoom and shift", "turn", "perspective", "warp", "mixed"])
    def test_kinds_that_move(self, kind):
        pair = made(kind)
        assert pair.displacement.norm(dim=-1).max() > 1
        assert pair.edited.shape == pair.undrifted.shape
        assert not torch.equal(pair.edited, pair.undrifted)

    def test_a_shift_is_a_shift(self):
        pair = made("shift", 0.5)
        moved = pair.displacement[pair.seen]
        assert float(moved.abs().max()) == pytest.approx(16.0, abs=1e-2)
        assert float((moved - moved[0]).abs().max()) < 1e-2

    def test_a_crop_shows_a_part(self):
        pair = made("crop")
        height, width = pair.edited.shape[1:3]
        assert height < 64 and width < 64 and pair.undrifted.shape[1:3] == (64, 64)
        assert int(pair.seen.sum()) == height * width

    def test_sizes_of_32(self):
        assert all(side % 32 == 0 for side in made("resampled").edited.shape[1:3])

    def test_the_truth_has_the_originals_lightness(self):
        from comfyui_exemplar.color import is_gray, luminance

        for kind in ("grain", "recolored", "mixed"):
            pair = made(kind)
            assert is_gray(pair.original)
            assert float((luminance(pair.truth) - luminance(pair.original)).abs().max()) < 0.05

    def test_a_recolored_thing_has_the_edits_colors(self):
        from comfyui_exemplar.color import ab_error

        pair, plain = made("recolored"), made("none")
        assert float(ab_error(pair.truth, plain.truth)) > 2.0
        assert float(ab_error(pair.edited, pair.truth)) < 0.5 * float(ab_error(plain.edited, pair.truth))

    def test_the_same_seed_gives_the_same_pair(self):
        one, other, third = made("mixed"), made("mixed"), made("mixed", seed=2)
        assert torch.equal(one.edited, other.edited) and torch.equal(one.places, other.places)
        assert one.edited.shape != third.edited.shape or not torch.equal(one.edited, third.edited)


def test_a_view_of_a_cube_map():
    """Ahead is +z, to its right +x; the middle of a wall is where it looks."""
    from training.canvases import view

    colors = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]]).float()
    walls = colors[:, None, None].expand(6, 16, 16, 3)
    for yaw, wall in ((0.0, 4), (np.pi / 2, 0), (np.pi, 5), (-np.pi / 2, 1)):
        assert torch.allclose(view(walls, (20, 30), yaw, 0.0, 1.0), colors[wall].expand(20, 30, 3))
    assert torch.allclose(view(walls, (20, 30), 0.0, np.pi / 2, 1.0), colors[2].expand(20, 30, 3))


def test_a_view_goes_on_across_walls():
    """Three numbers that are linear in the direction stay so over the seam, none is mirrored."""
    from training.canvases import view

    side = 64
    t, s = torch.meshgrid(*[(torch.arange(side) + 0.5) / side * 2 - 1] * 2, indexing="ij")
    one = torch.ones_like(s)
    rays = [(one, -t, -s), (-one, -t, s), (s, one, t), (s, -one, -t), (s, -t, one), (-s, -t, -one)]
    walls = (
        torch.stack([torch.stack(ray, -1) / torch.stack(ray, -1).norm(dim=-1, keepdim=True) for ray in rays]) / 2 + 0.5
    )
    found = view(walls, (40, 60), np.pi / 4, 0.3)
    steps = torch.cat([found.diff(dim=0).flatten(), found.diff(dim=1).flatten()])
    assert float(steps.abs().max()) < 0.03


@pytest.fixture
def ways():
    """The plain merge, and one who knows the truth and what was redrawn."""
    from training.transfer import BOUND, OURS, PLAIN, WAYS, Colored

    def knows(pair):
        return Colored(pair.truth, 1 - pair.redrawn.float(), pair.displacement.float())

    return {PLAIN: WAYS[PLAIN], BOUND: WAYS[BOUND], OURS: knows}


class TestMeasure:
    def test_who_knows_is_right(self, ways):
        from training.transfer import OURS, measure

        row, _ = measure(made("redrawn"), ways)
        mine = row["ways"][OURS]
        assert mine["error"] == mine["displaced"] == 0 and mine["lightness off"] < 1e-3
        assert mine["flagged right"] == mine["flagged"] == mine["wrong"] > 0
        assert mine["ghosting"] == pytest.approx(row["truth's ghosting"])

    def test_errors_are_the_metrics(self, ways):
        from comfyui_exemplar.color import ab_error
        from training.transfer import PLAIN, measure

        pair = made("redrawn")
        row, results = measure(pair, ways)
        image, found = results[PLAIN].image, row["ways"][PLAIN]
        assert found["error"] == pytest.approx(float(ab_error(image, pair.truth)))
        redrawn = pair.redrawn[None].float()
        assert found["error where redrawn"] == pytest.approx(float(ab_error(image, pair.truth, redrawn)), rel=1e-4)
        assert found["error where seen"] == pytest.approx(float(ab_error(image, pair.truth, 1 - redrawn)), rel=1e-4)

    def test_summary_and_table(self, ways, tmp_path):
        from training.transfer import OURS, measure, summary
        from training.transfer_report import sheet, table

        rows, shown = [], []
        for kind in ("none", "shift", "redrawn"):
            pair = made(kind)
            row, results = measure(pair, ways)
            rows.append(row)
            shown.append((pair, results, row))
        numbers = {"split": "test", **summary(rows)}
        assert numbers["groups"]["redrawn"]["ways"][OURS]["precision"] == 1
        assert numbers["groups"]["redrawn"]["ways"][OURS]["recall"] == 1
        assert numbers["groups"]["all that drift"]["of plain"] == 0
        text = table(json.loads(json.dumps(numbers)))
        assert "| shift | 1 |" in text and "| color ghosting, of the truth's | 1.000 | at most 1.1 | yes |" in text
        sheet(shown, tmp_path / "sheet.jpg")
        assert (tmp_path / "sheet.jpg").stat().st_size > 1000

    def test_plot(self, ways, tmp_path):
        pytest.importorskip("matplotlib")
        from training.transfer import measure
        from training.transfer_report import plot

        plot([measure(made(kind), ways)[0] for kind in ("none", "shift")], tmp_path / "plot.png")
        assert (tmp_path / "plot.png").stat().st_size > 1000

    def test_a_lookup_by_the_truth_is_near_the_copy_without_drift(self):
        from training.transfer import BOUND, PLAIN, TRUE, WAYS, measure

        for kind in ("shift", "zoom", "warp", "turn", "crop"):
            row, _ = measure(made(kind), {name: WAYS[name] for name in (PLAIN, BOUND, TRUE)})
            errors = {name: row["ways"][name]["error where seen"] for name in (PLAIN, BOUND, TRUE)}
            assert errors[TRUE] < 1.15 * errors[BOUND] + 0.1 and errors[TRUE] < 0.9 * errors[PLAIN], (kind, errors)

    def test_each_way_colors(self):
        """All of them give a picture of the original's size; only the registration knows the place."""
        from training.transfer import WAYS, measure

        row, results = measure(made("shift", 0.25))
        assert set(results) == set(WAYS)
        assert all(each.image.shape == (1, 64, 64, 3) for each in results.values())
        assert all(0 <= numbers["error"] < 60 and numbers["seconds"] >= 0 for numbers in row["ways"].values())


class TestBaselines:
    @pytest.fixture
    def pictures(self):
        generator = torch.Generator().manual_seed(6)
        gray = torch.rand(1, 40, 50, 1, generator=generator).expand(-1, -1, -1, 3)
        return gray, torch.rand(1, 30, 60, 3, generator=generator) * 0.5 + 0.2

    def test_statistics_of_the_reference(self, pictures):
        """Of a colored picture, which has a spread in every channel."""
        from comfyui_exemplar.color import rgb_to_lab
        from training.baselines import monge_kantorovich, reinhard

        _, reference = pictures
        other = reference.flip(1) * 0.6 + 0.1
        wanted = rgb_to_lab(reference)[0].flatten(0, 1)
        for way in (reinhard, monge_kantorovich):
            found = rgb_to_lab(way(other, reference))[0].flatten(0, 1)
            assert torch.allclose(found.mean(0), wanted.mean(0), atol=0.6)
            assert torch.allclose(found.std(0), wanted.std(0), atol=0.6)
        found = rgb_to_lab(monge_kantorovich(other, reference))[0].flatten(0, 1)
        assert torch.allclose(torch.cov(found.T), torch.cov(wanted.T), atol=8.0)

    def test_histograms(self, pictures):
        from training.baselines import match_histogram

        gray, reference = pictures
        found = match_histogram(gray, reference)
        for channel in range(3):
            one, other = (p[..., channel].flatten().quantile(torch.linspace(0.05, 0.95, 7)) for p in (found, reference))
            assert torch.allclose(one, other, atol=0.03)


def test_what_the_sheet_shows(monkeypatch, tmp_path):
    """The strongest of a kind, a photograph and a drawing by turns; of the mixed ones the first."""
    from training import transfer, transfer_report
    from training.drift_pairs import KINDS

    class Pairs:
        def __init__(self, packages, split):
            pass

        def make(self, kind, at, count):
            return made(kind, min(1.0, (at // 2 + 1) / max(1, count // 2)), seed=at)

    seen = []
    monkeypatch.setattr(transfer, "Pairs", Pairs)
    monkeypatch.setattr(transfer_report, "sheet", lambda shown, path: seen.extend(shown))
    monkeypatch.setattr(transfer_report, "plot", lambda rows, path: None)  # needs matplotlib
    kinds = ("none", "shift", "mixed")
    monkeypatch.setitem(transfer.WAYS, transfer.OURS, transfer.WAYS[transfer.BOUND])
    ways = (transfer.PLAIN, transfer.BOUND, transfer.OURS)
    numbers = transfer.evaluate_transfer(tmp_path, tmp_path, kinds=kinds, a_kind=4, mixed=8, ways=ways)
    assert numbers["pairs"] == 16
    assert [each[2]["kind"] for each in seen] == ["none", "shift", *["mixed"] * 6]
    assert all(each[2]["amount"] == 1 for each in seen[:2])
    stored = json.loads((tmp_path / "transfer.json").read_text())
    assert len(stored["rows"]) == 16 and set(stored["rows"][0]["errors"]) == set(ways)
    assert stored["groups"]["none"]["ways"][transfer.PLAIN]["error"] > 0
    assert set(KINDS) > set(kinds) and (tmp_path / "transfer.json").exists() and (tmp_path / "transfer.md").exists()
