"""The evaluation of films: what is measured, on frames whose numbers are known, and the whole of it on a toy."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from comfyui_exemplar.color import desaturate, lab_to_rgb, luminance, rgb_to_lab
from comfyui_exemplar.memory.features import Features, Space

pytest.importorskip("cv2")

SIZE, FRAMES = 64, 48


class Lightness:
    """Places of 4 x 4 pixels are alike where they are as light: all that a test needs of a network."""

    fingerprint = name = "lightness"
    spaces = (Space("light", 0.0, 2, 1, True),)
    asked = 0

    def features(self, pictures):
        self.asked += len(pictures)
        side = pictures.shape[1] // 4
        angle = F.adaptive_avg_pool2d(luminance(pictures)[:, None], side)[:, 0].flatten(1) / 100 * math.pi
        tokens = 100 * torch.stack([angle.cos(), angle.sin()], -1)
        return Features(self.fingerprint, self.spaces, (tokens,), (tokens,), ((side, side),))


@pytest.fixture(scope="module")
def truth():
    from training.clip_scenes import Stock
    from training.clips import Clip
    from training.film_clips import Truth

    return Truth(Clip(Stock.demo(), 1, frames=FRAMES, size=SIZE))


def measured(truth, picture, numbers=None):
    from training.film_clips import Measured

    found = Measured(truth)
    for number in range(truth.count) if numbers is None else numbers:
        found.add(number, picture(number))
    return found.written()


class TestMeasured:
    def test_true_frames_have_no_error_and_the_truths_own_steadiness(self, truth):
        found = measured(truth, lambda number: truth.clean[number].float() / 255)
        assert set(found["error"].values()) == {0.0} and len(found["error"]) == FRAMES
        own, true, pairs = found["warp"]
        assert own == pytest.approx(true) and pairs == FRAMES - 3  # no pair lies over a cut
        assert 0.02 < own / pairs < 5
        with_grain = measured(truth, lambda number: truth.color[number].float() / 255)["divergence"]
        assert with_grain[0] == pytest.approx(with_grain[1]) and with_grain[2] == FRAMES

    def test_flicker_is_seen_in_all_three(self, truth):
        def flickering(number):
            lab = rgb_to_lab(truth.key(number))
            return lab_to_rgb(lab + torch.tensor([0.0, 12.0 * (number % 2), 0.0]))[0].clamp(0, 1)

        found = measured(truth, flickering)
        assert 4 < sum(found["error"].values()) / FRAMES < 8
        assert found["warp"][0] > 3 * found["warp"][1]
        assert found["divergence"][0] > 2 * found["divergence"][1]

    def test_frames_with_gaps_are_compared_within_runs(self, truth):
        numbers = [0, 1, 2, 3, 4, 5, 9, 11, 12]
        found = measured(truth, lambda number: truth.key(number)[0], numbers)
        assert list(found["error"]) == [str(number) for number in numbers]
        assert found["warp"][2] == 6 and found["divergence"][2] == 6

    def test_gray_frames_err_by_the_chroma(self, truth):
        found = measured(truth, truth.gray, [3])
        assert found["error"]["3"] == pytest.approx(float(truth.chroma(3).norm(dim=-1).mean()), abs=0.01)


class TestFilm:
    def test_a_film_of_some_frames_has_numbers_of_its_own(self, truth):
        from training.film_clips import ClipFilm

        film = ClipFilm(truth, [4, 7, 30])
        frames = list(film.frames(1))
        assert film.facts.frames == 3 and [frame.index for frame in frames] == [1, 2]
        assert torch.equal(frames[1].picture, truth.gray(30))
        assert [frame.picture.shape for frame in film.small(32)] == [(32, 32, 3)] * 3

    def test_a_picture_is_asked_of_the_network_once(self, truth):
        from training.film_clips import KnownFeatures

        network = Lightness()
        known = KnownFeatures(network)
        pictures = torch.stack([truth.gray(number) for number in (0, 1, 1, 2)])
        first, again = known.features(pictures), known.features(pictures[1:3])
        assert network.asked == 3 and first.pictures == 4 and again.pictures == 2
        assert torch.equal(first.take(slice(1, 3)).keys[0], again.keys[0])
        assert known.fingerprint == "lightness"


def test_frames_that_are_measured_of_slow_ways(truth):
    from training.film_ways import BLOCK, sampled, windows

    near, far = windows(500)
    assert 10 in near and len(near) == len(far) == 11 and far[-1] == 499
    assert windows(8) == (range(8), range(8))
    numbers = sampled(truth)
    for scene in truth.clip.scenes:
        assert set(range(scene.start, scene.start + BLOCK)) <= set(numbers)
    assert numbers == sorted(set(numbers)) and set(windows(FRAMES)[1]) <= set(numbers)


@pytest.fixture
def bench(truth, monkeypatch):
    from training import film_ways

    monkeypatch.setattr(film_ways, "ModelFeatures", lambda host, settings: Lightness())
    monkeypatch.setattr(film_ways, "colorize", lambda host, gray, *rest, **more: _thorough(gray))
    chosen = {"memory": {"context": 0.0, "coherence": 0.0, "resolution": SIZE}}
    return film_ways.Bench(SimpleNamespace(model=SimpleNamespace(recommended=chosen)), truth)


def _thorough(gray):
    lab = rgb_to_lab(desaturate(gray))
    return SimpleNamespace(images=lab_to_rgb(lab + torch.tensor([0.0, 20.0, 5.0])).clamp(0, 1), reference=None)


@pytest.mark.parametrize("protocol", ["a key frame a shot", "references alone"])
def test_a_film_beside_each_frame_by_itself(bench, truth, protocol):
    from training.film_ways import FILM, MEMORY, RANDOM, measure

    film, each = measure(bench, FILM, protocol), measure(bench, MEMORY, protocol)
    assert len(film["error"]) == FRAMES and set(each["error"]) <= set(film["error"])
    assert film["warp"][0] < each["warp"][0] * film["warp"][2] / each["warp"][2]
    assert sum(len(shot["match"]) for shot in film["shots"]) == FRAMES
    for shot in film["shots"]:
        assert 0 <= shot["score"] <= 1 and shot["error"] > 0
        assert bool(shot["keys"]) == (protocol == "a key frame a shot")
        if shot["suggestion"] is not None:
            assert shot["start"] <= shot["suggestion"] < shot["stop"]
            assert shot["tried"]["suggested"] > 0 and len(shot["tried"]["random"]) == RANDOM
    if protocol == "a key frame a shot":
        middles = [film["error"][str(number)] for number in truth.middles]
        assert max(middles) < 2  # grain alone


def test_a_run_goes_on_where_it_was(truth, tmp_path, monkeypatch):
    from training import film_evaluate
    from training.film_ways import AUTOMATIC, FILM, KEYS

    asked = []

    def measure(bench, way, protocol):
        asked.append(way)
        return {"error": {"0": 1.0}}

    monkeypatch.setattr(film_evaluate, "measure", measure)
    monkeypatch.setattr(film_evaluate, "open_bench", lambda model, truth: SimpleNamespace(truth=truth))
    monkeypatch.setattr(film_evaluate, "Truth", lambda clip: truth)
    monkeypatch.setattr(film_evaluate.Stock, "load", classmethod(lambda cls, *given: cls.demo()))
    jobs, states = ((FILM, KEYS), (AUTOMATIC, "")), {FILM: "a", AUTOMATIC: "b"}

    def run(states):
        return film_evaluate.measured_clip(tmp_path, tmp_path, tmp_path / "s", "dev", 1, FRAMES, jobs, states)

    first = run(states)
    assert asked == [FILM, AUTOMATIC] and set(first) == {f"{FILM}: {KEYS}", AUTOMATIC}
    assert run(states) == first and len(asked) == 2
    run({**states, FILM: "c"})  # only what depends on what has changed
    assert asked[2:] == [FILM]


def made(error, shots=True, frames=60):
    """A way that errs by so much, more the further from the middle."""
    errors = {str(number): error + 0.01 * abs(number - 30) for number in range(frames)}
    row = {"error": errors, "warp": [10.0, 10.0, 10], "divergence": [0.2, 0.2, 10], "middles": [15, 45]}
    if shots:
        row["shots"] = [
            {
                "start": start,
                "stop": start + 30,
                "score": 1 / error - start / 1000,
                "match": [1 / each for each in list(errors.values())[start : start + 30]],
                "error": error + start / 1000,
                "keys": [],
                "suggestion": start,
                "tried": {"without": error, "suggested": error / 2, "random": [error / 3, error, error, error]},
            }
            for start in (0, 30)
        ]
    return row


def test_summary_table_and_plot(tmp_path):
    from PIL import Image

    from training.film_evaluate import called, summary
    from training.film_report import plot, table
    from training.film_ways import AUTOMATIC, FILM, KEYS, MEMORY, REFERENCES
    from training.report import rounded

    clips = []
    for error in (2.0, 4.0):
        clip = {called(FILM, protocol): made(error) for protocol in (KEYS, REFERENCES)}
        clip |= {called(MEMORY, KEYS): made(2 * error, shots=False), AUTOMATIC: made(8 * error, shots=False)}
        clips.append(clip)
    found = {"split": "dev", "clips": 2, "frames": 60, "size": 128, **summary(clips, 60)}
    row = found["ways"][called(MEMORY, KEYS)]
    assert row["error"] == pytest.approx(6.15, abs=0.01) and row[f"film, {KEYS}"] == pytest.approx(3.15, abs=0.01)
    assert row["far of near"] == pytest.approx(1.0, abs=0.02) and row["cdc"] == row["true cdc"]
    distances = list(row["by distance"].values())
    assert len(distances) == 2 and distances[1] > distances[0] - 0.1
    shots = found["shots"][KEYS]
    assert shots["rank correlation"] == pytest.approx(1) and shots["cuts right"] == 1
    assert shots["better than a random one"] == 0.75 and shots["better than random ones' mean"] == 1
    goals = {goal["what"]: goal for goal in found["goals"]}
    assert (
        goals[f"{KEYS}: error, of {MEMORY}"]["held"]
        and not goals[f"{KEYS}: suggested key frame better than a random one"]["held"]
    )
    text = table(json.loads(json.dumps(rounded(found))))
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 3 and all(len({line.count("|") for line in block}) == 1 for block in blocks)
    pytest.importorskip("matplotlib")
    plot(found, tmp_path / "film.png")
    with Image.open(tmp_path / "film.png") as opened:
        assert min(opened.size) > 300
