"""A film start to end, on a tiny random model: what is done once, goes on, is refused, and is left alone."""

import dataclasses
import logging

import pytest
import torch

from comfyui_exemplar.color import desaturate, luminance_error, rgb_to_lab
from comfyui_exemplar.memory.features import Features, Space
from comfyui_exemplar.memory.lookup import Found
from comfyui_exemplar.pipelines.film import FilmColors, color_film
from comfyui_exemplar.pipelines.film_memory import KeyFrame
from comfyui_exemplar.pipelines.film_scores import ShotScores
from comfyui_exemplar.pipelines.film_settings import FilmSettings, ShotSettings
from comfyui_exemplar.pipelines.memory import write_references
from comfyui_exemplar.pipelines.memory_answer import Answer
from comfyui_exemplar.pipelines.memory_features import ModelFeatures
from comfyui_exemplar.pipelines.memory_settings import FeatureSettings, MemorySettings, WritingSettings
from comfyui_exemplar.pipelines.shots import Shot

from ..fixtures.exemplar import muted, picture
from ..fixtures.films import TensorFilm, TensorSink

FEATURES = FeatureSettings(resolution=32, context=0.5)
SETTINGS = FilmSettings(ShotSettings(cuts="7"), MemorySettings(FEATURES, batch=3), ahead=2)
THOROUGH = dataclasses.replace(SETTINGS, key_method="thorough")
SIZE = (24, 40)
#: A random network's features are much alike; so it tells places apart.
SHARP = dataclasses.replace(SETTINGS, asking=dataclasses.replace(SETTINGS.asking, temperature_fine=0.05))


@pytest.fixture
def network(host):
    return ModelFeatures(host, FEATURES)


@pytest.fixture
def memory(network):
    return write_references(network, muted(), WritingSettings(FEATURES))


def changed(**changes):
    return dataclasses.replace(SETTINGS, **changes)


def colored(frames=12, seed=0):
    """Frames that move slowly, of two shots, in color."""
    shots = [0.5 + 0.3 * (picture(1, 40, 64, seed=seed + n) - 0.5) for n in (0, 1)]
    return torch.cat([shots[n >= 7][:, n % 16 :, n % 16 :][:, : SIZE[0], : SIZE[1]] for n in range(frames)])


def film(frames=12, **options):
    return TensorFilm(desaturate(colored(frames)), **options)


def chroma(pictures):
    return rgb_to_lab(pictures)[..., 1:]


class Counted:
    """A network that says how many pictures each call had; ``fits`` is the most that memory has room for."""

    def __init__(self, network, fits=100):
        self.network, self.fits, self.calls = network, fits, []

    def __getattr__(self, name):
        return getattr(self.network, name)

    def features(self, pictures):
        self.calls.append(len(pictures))
        if len(pictures) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self.network.features(pictures)


def test_every_frame_keeps_its_lightness_and_gets_color(network, memory):
    reader, sink, steps, looked = film(), TensorSink(), [], []
    report = color_film(
        reader,
        network,
        SETTINGS,
        FilmColors(memory),
        sink,
        on_look=looked.append,
        on_frame=lambda done, total, shown: steps.append((done, total, tuple(shown.shape))),
    )
    assert report.result.shape == (12, *SIZE, 3)
    assert float(luminance_error(report.result, reader.pictures).max()) < 0.2
    assert float(chroma(report.result).norm(dim=-1).mean()) > 0.3
    assert steps == [(n + 1, 12, (1, *SIZE, 3)) for n in range(12)] and looked == list(range(12))
    assert [(shot.start, shot.stop) for shot in report.shots] == [(0, 7), (7, 12)]
    assert all(len(shot.match) == shot.stop - shot.start for shot in report.shots)
    assert all(0 < each <= 1 for shot in report.shots for each in shot.match)
    assert report.suggestion in {shot.suggestion for shot in report.shots}
    assert report.strip().shape[0] == 1 and report.strip().shape[-1] == 3


def test_calls_have_one_number_of_rows_from_the_shots_start(network, memory):
    counted = Counted(network)
    color_film(film(), counted, SETTINGS, FilmColors(memory), TensorSink())
    assert counted.calls == [3] * 5, "frames 0-2, 3-5, 6; 7-9, 10-11"


def test_a_shot_does_not_know_the_others(network, memory):
    whole = color_film(film(), network, SETTINGS, FilmColors(memory), TensorSink()).result
    alone = TensorFilm(film().pictures[7:])
    second = color_film(alone, network, changed(shots=ShotSettings(cuts="0")), FilmColors(memory), TensorSink())
    assert torch.equal(second.result, whole[7:])


def test_it_goes_on_at_the_last_whole_shot_with_the_same_result(network, memory):
    class Stop(Exception):
        pass

    def until(number):
        def on_frame(done, *_):
            if done == number:
                raise Stop

        return on_frame

    expected = color_film(film(), network, SETTINGS, FilmColors(memory), TensorSink())
    sink = TensorSink()
    for number in (4, 9):
        with pytest.raises(Stop):
            color_film(film(), network, SETTINGS, FilmColors(memory), sink, on_frame=until(number))
    assert sorted(sink.whole) == [0] and not sink.finished
    report = color_film(film(), network, SETTINGS, FilmColors(memory), sink)
    assert sink.begun == [0, 0, 1, 1]
    assert torch.equal(report.result, expected.result)
    assert [shot.match for shot in report.shots] == [shot.match for shot in expected.shots]
    assert torch.equal(report.strip(), expected.strip()), "what was known of a shot was kept with it"


def test_without_memory_for_a_batch_the_shot_begins_anew_with_half(network, memory, caplog):
    settings = changed(asking=dataclasses.replace(SETTINGS.asking, batch=4))
    counted, sink = Counted(network, fits=2), TensorSink()
    with caplog.at_level(logging.WARNING):
        report = color_film(film(), counted, settings, FilmColors(memory), sink)
    assert "going on with 2 frame(s)" in caplog.text and sink.begun == [0, 0, 1]
    two = changed(asking=dataclasses.replace(SETTINGS.asking, batch=2))
    assert torch.equal(report.result, color_film(film(), network, two, FilmColors(memory), TensorSink()).result)
    with pytest.raises(torch.OutOfMemoryError):
        color_film(film(), Counted(network, fits=0), settings, FilmColors(memory), TensorSink())


def test_a_key_frame_has_its_colors_and_the_frames_around_it_take_them(network, memory):
    truth = colored()
    keys = (KeyFrame(3, truth[3:4]),)
    result = color_film(film(), network, SHARP, FilmColors(memory, keys), TensorSink()).result
    without = color_film(film(), network, SHARP, FilmColors(memory), TensorSink()).result
    error = (chroma(result) - chroma(truth)).norm(dim=-1).mean((1, 2))
    before = (chroma(without) - chroma(truth)).norm(dim=-1).mean((1, 2))
    assert error[3] < 0.1 * before[3]
    assert (error[:7] < 0.7 * before[:7]).all(), (error, before)


def test_a_key_frames_mask_says_where_its_colors_count(network, memory):
    red = torch.tensor([0.9, 0.2, 0.2]).expand(1, *SIZE, 3)
    mask = torch.zeros(1, *SIZE)
    mask[:, :, :20] = 1
    part, whole = (
        chroma(color_film(film(), network, SHARP, FilmColors(memory, (key,)), TensorSink()).result)[3, ..., 0]
        for key in (KeyFrame(3, red, mask), KeyFrame(3, red))
    )
    assert torch.allclose(part[:, :18], whole[:, :18], atol=0.1) and whole.min() > 60
    assert part[:, 22:].mean() < 0.8 * whole[:, 22:].mean()


def test_near_key_frames_count_more(network):
    first, last = (torch.tensor(color).expand(1, *SIZE, 3) for color in ([0.8, 0.3, 0.3], [0.3, 0.3, 0.8]))
    keys = (KeyFrame(0, first), KeyFrame(6, last))
    settings = changed(shots=ShotSettings(cuts="0"), key_reach=2, steadiness=0.0)
    result = color_film(film(7), network, settings, FilmColors(None, keys), TensorSink()).result
    reddish = chroma(result)[..., 0].mean((1, 2)) - chroma(result)[..., 1].mean((1, 2))
    bluish = -chroma(result)[..., 1].mean((1, 2))
    assert bluish[1] < bluish[3] < bluish[5]
    assert reddish.isfinite().all()


def test_a_shot_without_a_key_frame_takes_those_of_others(network):
    keys = (KeyFrame(3, colored()[3:4]),)
    report = color_film(film(), network, SETTINGS, FilmColors(None, keys), TensorSink())
    assert float(chroma(report.result[7:]).norm(dim=-1).mean()) > 0.3
    assert [shot.key_frames for shot in report.shots] == [(3,), ()]


def test_the_surest_frame_is_colored_thoroughly_first(network, memory):
    seen = []

    def thorough(gray):
        seen.append(gray)
        return (gray * torch.tensor([1.2, 0.9, 0.8])).clamp(0, 1)

    told = []
    report = color_film(
        film(), network, THOROUGH, FilmColors(memory, (), thorough), TensorSink(), on_step=lambda *all: told.append(all)
    )
    assert len(seen) == 2 and all(gray.shape == (1, *SIZE, 3) for gray in seen)
    assert all(len(shot.key_frames) == 1 for shot in report.shots)
    assert float(chroma(report.result)[..., 0].mean()) > 2
    keys = (KeyFrame(3, colored()[3:4]),)
    assert told[0] == (0, 2, "memory") and told[1] == (0, 2, "surest frame")
    made = [key for shot in report.shots for key in shot.key_frames]
    assert [all for all in told if "key frame" in all[2]] == [(i, 2, f"key frame {made[i]}") for i in range(2)]
    assert [all[0] for all in told if not all[2]] == [0, 1]
    color_film(film(), network, THOROUGH, FilmColors(memory, keys, thorough), TensorSink())
    assert len(seen) == 3, "only for the shot without one"
    color_film(film(), network, SETTINGS, FilmColors(memory, (), thorough), TensorSink())
    assert len(seen) == 3


def test_a_key_frame_is_suggested_where_none_covers_yet():
    """Frames 0 and 1 look alike, and so do 2 and 3: what is like a key frame is no help beside it."""
    looks, grid, colors = 6 * torch.eye(4)[[0, 0, 1, 1]], (4, 4), torch.zeros(16, 2)

    def suggested(keys, mask=None, spread=(1.0, 1.0, 1.0, 1.0)):
        scores = ShotScores(range(4), keys=keys)
        for number, look in enumerate(looks):
            plane = look.expand(1, 16, 4)
            features = Features("f", (Space("s", 0.0, 4, 1, True),), (plane,), (plane,), (grid,))
            one, best = torch.ones(16), torch.zeros(16, dtype=torch.long)
            found = Found(colors, spread[number] * one, one, best, torch.zeros(16), one[:, None])
            answer = Answer(colors.view(1, *grid, 2), found, plane[0])
            scores.asked(number, features, answer, mask if number in keys else None)
        return scores.suggestion()

    assert suggested((0,)) in (2, 3)
    assert suggested((2,)) in (0, 1)
    assert suggested((0, 1, 2, 3)) is None
    assert suggested((3,), torch.zeros(1, 8, 8)) in (0, 1, 2)
    assert suggested((), spread=(1.0, 1.0, 9.0, 9.0)) in (2, 3), "where doubt is"
    assert suggested((), spread=(9.0, 9.0, 1.0, 1.0)) in (0, 1)


def test_what_is_in_color_is_left_alone_unless_asked(network, memory):
    pictures = film().pictures.clone()
    pictures[7:] = picture(1, *SIZE, seed=5)
    settings = changed(shots=ShotSettings(cuts="7", shortest=2))
    kept = color_film(TensorFilm(pictures), network, settings, FilmColors(memory), TensorSink())
    assert torch.equal(kept.result[7:], pictures[7:]) and not torch.equal(kept.result[:7], pictures[:7])
    assert [shot.colored for shot in kept.shots] == [False, True] and kept.shots[1].score is None
    settings = dataclasses.replace(settings, in_color="recolor")
    again = color_film(TensorFilm(pictures), network, settings, FilmColors(memory), TensorSink())
    assert not torch.equal(again.result[7:], pictures[7:])


@pytest.mark.parametrize(
    "key, said",
    [
        (KeyFrame(12, colored()[:1]), "no such frame, expected a number from 0 to 11"),
        (KeyFrame(3, colored()[:1, :, :24]), "expected the proportions of the film, 40 x 24"),
        (KeyFrame(3, desaturate(colored()[:1])), "found no color in it"),
        (KeyFrame(3, colored()[:2]), "found 2 pictures, expected one"),
        (KeyFrame(3, colored()[:1], torch.zeros(1, *SIZE)), "covers nothing"),
    ],
)
def test_a_key_frame_that_does_not_fit_is_named_before_long_work(network, memory, key, said):
    counted, sink = Counted(network), TensorSink()
    with pytest.raises(ValueError, match=said):
        color_film(film(), counted, SETTINGS, FilmColors(memory, (key,)), sink)
    assert not counted.calls and not sink.begun
    if "no such frame" in said:  # the header may be silent
        with pytest.raises(ValueError, match=said):
            color_film(film(frames_said=None), counted, SETTINGS, FilmColors(memory, (key,)), sink)
        assert not counted.calls and not sink.begun


def test_two_pictures_of_a_key_frame_and_no_colors_at_all(network):
    key = KeyFrame(3, colored()[3:4])
    with pytest.raises(ValueError, match="found two pictures"):
        color_film(film(), network, SETTINGS, FilmColors(None, (key, key)), TensorSink())
    with pytest.raises(ValueError, match="found no colors to take"):
        color_film(film(), network, SETTINGS, FilmColors(), TensorSink())


def test_a_memory_of_another_model_is_refused(network, memory):
    other = dataclasses.replace(memory, made=dataclasses.replace(memory.made, fingerprint="other"))
    with pytest.raises(ValueError, match="memory of the model"):
        color_film(film(), network, SETTINGS, FilmColors(other), TensorSink())


def test_shots_may_be_given(network, memory):
    reader = film()
    reader.small = None  # not looked at
    report = color_film(
        reader, network, SETTINGS, FilmColors(memory), TensorSink(), shots=[Shot(0, 5), Shot(5, 12, True)]
    )
    assert torch.equal(report.result[5:], reader.pictures[5:])


def test_what_waits_does_not_grow_with_the_shot(network, memory):
    """Full frames that were read for asking and not yet for writing: the look-ahead and a batch."""
    reader, most = film(40), 0
    read = {"asked": 0, "written": 0}
    frames = reader.frames

    def counted(start=0, stop=None):
        which = "written" if read.pop("next", None) else "asked"
        read["next"] = which == "asked"
        nonlocal most
        for frame in frames(start, stop):
            read[which] += 1
            most = max(most, read["asked"] - read["written"])
            yield frame

    reader.frames = counted
    color_film(reader, network, changed(shots=ShotSettings(cuts="0")), FilmColors(memory), TensorSink())
    assert sorted((read["asked"], read["written"])) == [40, 40]
    assert most <= 2 * (SETTINGS.ahead + SETTINGS.asking.batch + 1)
