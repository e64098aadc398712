"""Chroma of a shot along its motion."""

import pytest
import torch

from comfyui_exemplar.color import frame_flow
from comfyui_exemplar.color.frame_flow import Link, Look, links_between
from comfyui_exemplar.color.registration import boxed
from comfyui_exemplar.color.steady import FARTHER, Colored, steadied_along

SIDE = 64
#: A red thing on a blue ground.
GROUND, THING = torch.tensor([10.0, -40.0]), torch.tensor([50.0, 30.0])


@pytest.fixture(params=["with OpenCV", "without OpenCV"])
def either(request, monkeypatch):
    if request.param == "without OpenCV":
        without_opencv(monkeypatch)
    else:
        pytest.importorskip("cv2")
    return request.param


def without_opencv(monkeypatch):
    monkeypatch.setattr("comfyui_exemplar.color.registration.opencv", lambda: None)
    monkeypatch.setattr(frame_flow, "opencv", lambda: None)


def texture(seed, side=2 * SIDE):
    plane = boxed(torch.randn(side, side, generator=torch.Generator().manual_seed(seed)), 1, 2)
    return plane / plane.std()


def film(frames=24, step=2.0, thing=True, seed=0):
    """Lightness and true chroma of a square thing that crosses a ground, both with texture of their own."""
    ground, skin = 65 + 6 * texture(seed)[:SIDE, :SIDE], 35 + 6 * texture(seed + 1)
    for number in range(frames):
        lightness, chroma = ground.clone(), GROUND.expand(SIDE, SIDE, 2).clone()
        if thing:
            left = round(-20 + step * number)
            columns = slice(max(0, left), max(0, min(SIDE, left + 24)))
            shown = slice(columns.start - left, columns.stop - left)
            lightness[20:44, columns] = skin[20:44, shown]
            chroma[20:44, columns] = THING
        yield lightness, chroma


def flickering(shot, amount=12.0, seed=3):
    """What is found for each frame: the truth, and an error of its own that changes slowly from place to place."""
    generator = torch.Generator().manual_seed(seed)
    for lightness, chroma in shot:
        error = torch.randn(1, 2, 4, 4, generator=generator) * amount
        error = torch.nn.functional.interpolate(error, lightness.shape, mode="bicubic")[0].movedim(0, -1)
        yield Colored(lightness, chroma + error, torch.full(lightness.shape, 0.7))


def changes(chroma):
    return torch.stack(chroma).diff(dim=0).norm(dim=-1).mean()


def errors(chroma, shot):
    return torch.stack([(found - true).norm(dim=-1).mean() for found, (_, true) in zip(chroma, shot, strict=True)])


def test_a_still_scene_becomes_steady(either):
    shot = list(film(thing=False))
    found = list(flickering(shot))
    calm = list(steadied_along(found))
    assert changes(calm) < 0.1 * changes([frame.chroma for frame in found])
    assert errors(calm, shot).mean() < 0.5 * errors([frame.chroma for frame in found], shot).mean()


def test_what_moves_becomes_steady_along_its_motion():
    pytest.importorskip("cv2")
    shot = list(film())
    found = list(flickering(shot))
    calm = list(steadied_along(found))
    assert errors(calm, shot).mean() < 0.5 * errors([frame.chroma for frame in found], shot).mean()
    inside = (slice(14, 20), slice(24, 40), slice(30, 34))  # the thing is there by then
    true = torch.stack([chroma for _, chroma in shot])
    own = torch.stack([frame.chroma for frame in found])
    assert (torch.stack(calm) - true)[inside].norm(dim=-1).mean() < 0.6 * (own - true)[inside].norm(dim=-1).mean()


def test_nothing_leaks_over_an_occlusion(either):
    """The ground keeps its color where the thing was and where it will be, and the other way around."""
    shot = list(film())
    found = [Colored(lightness, chroma, torch.full(lightness.shape, 0.7)) for lightness, chroma in shot]
    for chroma, (_, true) in zip(steadied_along(found), shot, strict=True):
        wrong = (chroma - true).norm(dim=-1) > 15  # of colors that are 80 apart
        assert wrong.float().mean() < 0.03
        around = boxed((true[..., 0] == THING[0]).float(), 2)
        assert (wrong & ((around == 0) | (around == 1))).float().mean() < 0.004  # all but a seam of two pixels


def test_nothing_leaks_over_a_cut(either):
    first, second = list(film(6, seed=0)), [(light - 25, -true) for light, true in film(6, seed=5)]
    found = [Colored(light, true, torch.full(light.shape, 0.7)) for light, true in first + second]
    apart = [Colored(light, true, torch.full(light.shape, 0.7)) for light, true in second]
    both, alone = list(steadied_along(found))[6:], list(steadied_along(apart))
    assert (torch.stack(both) - torch.stack(alone)).norm(dim=-1).mean() < 2


def test_the_unsure_follow_the_sure(either):
    """A place that is wrong and unsure in one frame takes what its neighbors in time know."""
    light = next(film())[0]
    found = [Colored(light, GROUND.expand(SIDE, SIDE, 2), torch.full(light.shape, 0.8)) for _ in range(9)]
    found[4] = Colored(light, THING.expand(SIDE, SIDE, 2), torch.full(light.shape, 0.05))
    calm = list(steadied_along(found))[4]
    assert (calm - GROUND).norm(dim=-1).mean() < 2


def test_what_is_given_holds_on_its_frame_and_goes_on(either):
    light = next(film())[0]
    given = torch.zeros(light.shape)
    given[16:48, 16:48] = 1
    found = [Colored(light, GROUND.expand(SIDE, SIDE, 2), torch.full(light.shape, 0.5)) for _ in range(21)]
    painted = torch.where(given[..., None] > 0, THING, GROUND)
    found[10] = Colored(light, painted, found[10].confidence, given)
    calm = list(steadied_along(found))
    assert torch.equal(calm[10][16:48, 16:48], painted[16:48, 16:48])
    for number in (2, 8, 9, 11, 12, 18):  # past and future
        assert (calm[number][20:44, 20:44] - THING).norm(dim=-1).mean() < 10
        assert (calm[number][:12] - GROUND).norm(dim=-1).mean() < 5


def test_colors_stay_near_those_that_were_found(either):
    found = list(flickering(film(12)))
    planes = torch.stack([frame.chroma for frame in found]).flatten(0, 2)
    room = 0.1 * (planes.amax(0) - planes.amin(0))  # bicubic, at sharp edges
    for chroma in steadied_along(found):
        assert (chroma >= planes.amin(0) - room).all()
        assert (chroma <= planes.amax(0) + room).all()


def test_keep_of_zero_changes_nothing():
    found = list(flickering(film(5)))
    for frame, chroma in zip(found, steadied_along(found, keep=0), strict=True):
        torch.testing.assert_close(chroma, frame.chroma, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("ahead", [0, 1, 5, 8])
def test_few_frames_wait_and_nothing_beyond_them_counts(ahead):
    read = 0

    def counted(frames):
        nonlocal read
        for frame in frames:
            read += 1
            yield frame

    found = list(flickering(film(20)))
    results = []
    for chroma in steadied_along(counted(found), ahead=ahead):
        results.append(chroma)
        assert read - len(results) <= ahead + 1
    assert len(results) == 20
    for count in (1, 2, 13):  # the same, whatever comes after
        cut = list(steadied_along(found[: count + ahead + 1], ahead=ahead))
        assert all(torch.equal(*pair) for pair in zip(results[:count], cut[:count], strict=True))


def test_the_same_whatever_the_number_of_threads():
    cv2 = pytest.importorskip("cv2")
    found = list(flickering(film(6)))
    threads, own = torch.get_num_threads(), cv2.getNumThreads()
    try:
        runs = []
        for number in (1, 3):
            torch.set_num_threads(number)
            cv2.setNumThreads(number)
            runs.append(list(steadied_along(found)))
            assert cv2.getNumThreads() == number
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(own)
    assert all(torch.equal(*pair) for pair in zip(*runs, strict=True))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (17, 16), (37, 300), (33, 20)])
def test_any_size(size, either):
    found = [Colored(50 + torch.randn(size), torch.randn(*size, 2), torch.rand(size)) for _ in range(3)]
    assert [tuple(chroma.shape) for chroma in steadied_along(found)] == [(*size, 2)] * 3


def test_no_confidence_at_all_is_no_division_by_zero():
    found = [Colored(torch.full((20, 20), 50.0), torch.ones(20, 20, 2), torch.zeros(20, 20)) for _ in range(3)]
    for chroma in steadied_along(found):
        torch.testing.assert_close(chroma, torch.ones(20, 20, 2))


def test_what_does_not_fit_is_named():
    frame = next(flickering(film(1)))
    with pytest.raises(ValueError, match="found keep 1"):
        steadied_along([frame], keep=1.0)
    with pytest.raises(ValueError, match="-1 frames ahead"):
        steadied_along([frame], ahead=-1)
    other = Colored(torch.zeros(8, 8), torch.zeros(8, 8, 2), torch.zeros(8, 8))
    with pytest.raises(ValueError, match=r"lightness of \(8, 8\), expected \(64, 64\)"):
        list(steadied_along([frame, other]))
    with pytest.raises(ValueError, match="found pinned"):
        list(steadied_along([Colored(frame.lightness, frame.chroma, frame.confidence, torch.zeros(2, 2))]))
    assert list(steadied_along([])) == []


def test_links_say_where_places_were_and_are():
    pytest.importorskip("cv2")
    whole = 50 + 10 * texture(1)
    before, after = whole[10:74, 10:94], whole[12:76, 7:91]  # the camera went 2 down and 3 to the left
    back, on = links_between(Look.of(before), Look.of(after))
    own = frame_flow.grid(tuple(before.shape)).float()
    for link, motion in ((back, [-3.0, 2.0]), (on, [3.0, -2.0])):
        miss = (link.places - own - torch.tensor(motion)).norm(dim=-1)[12:-12, 12:-12]
        assert miss.mean() < 0.2
        assert link.reliability[12:-12, 12:-12].mean() > 0.8
    assert back.reliability[:, :2].max() < 0.1  # was not in the picture yet
    assert on.reliability[:, -2:].max() < 0.1
    laid = back.carried(before[None])[0]
    assert (laid - after).abs()[12:-12, 12:-12].mean() < 0.2 * (before - after).abs().mean()


def test_a_change_of_light_is_no_other_thing(either):
    light = next(film())[0]
    back, _ = links_between(Look.of(light), Look.of(light - 8))
    assert back.reliability.mean() > 0.9


@pytest.mark.parametrize("keep", [0.5, 0.94, 0.99])
def test_what_is_given_counts_more_than_all_that_is_found(keep, monkeypatch):
    monkeypatch.setattr(frame_flow, "opencv", lambda: None)
    light, sure, color = 50 + 10 * texture(1), torch.ones_like(texture(1)), torch.full((*texture(1).shape, 2), 30.0)
    found = [Colored(light, torch.zeros_like(color), sure)] * 100
    given = Colored(light, color, sure, pinned=sure)
    steady = list(steadied_along([*found, given, *found], keep=keep, ahead=100))
    assert torch.equal(steady[100], color)
    for near in (steady[99], steady[101]):
        assert near.mean() > 0.5 * 30


def test_without_motion_a_neighbor_stays_in_place():
    planes = torch.rand(3, 2, 2)
    assert Link(None, torch.ones(2, 2)).carried(planes) is planes


def given_at(place, frames=80):
    """A ground that does not move, found gray in every frame and given in color in one of them."""
    lightness = 65 + 6 * texture(5)[:SIDE, :SIDE]
    gray, color = torch.zeros(SIDE, SIDE, 2), GROUND.expand(SIDE, SIDE, 2)
    sure, whole = torch.full((SIDE, SIDE), 0.5), torch.ones(SIDE, SIDE)
    for number in range(frames):
        given = number == place
        yield Colored(lightness, color if given else gray, sure, whole if given else None)


def test_frames_long_before_a_given_one_know_of_it_and_none_jumps():
    place = 70
    far = torch.stack([chroma.norm(dim=-1).mean() for chroma in steadied_along(given_at(place), pins=[place])])
    near = torch.stack([chroma.norm(dim=-1).mean() for chroma in steadied_along(given_at(place))])
    strong = float(GROUND.norm())
    assert float(far[place]) == pytest.approx(strong, rel=1e-5)
    assert float(far[place - 30]) > 0.3 * strong and float(near[place - 30]) < 0.01 * strong
    assert float(far[: place - FARTHER * 20].max()) < 1e-4
    for found in (far, near):
        assert float(found[: place + 1].diff().max()) < 0.2 * strong


def test_no_more_frames_wait_than_know_of_a_given_one():
    read = []

    def counted():
        for number, frame in enumerate(given_at(70)):
            read.append(number)
            yield frame

    waits = [read[-1] - number for number, _ in enumerate(steadied_along(counted(), pins=[70]))]
    assert max(waits) <= FARTHER * 20 + 1 and waits[0] <= 22
