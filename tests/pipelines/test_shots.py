"""Shots: cuts are found where the picture changes for good and nowhere else; color is told from gray and tints."""

from types import SimpleNamespace

import pytest
import torch

from comfyui_exemplar.color import resize
from comfyui_exemplar.pipelines.film_settings import ShotSettings
from comfyui_exemplar.pipelines.shots import Shot, color_of, find_shots

SIZE = (72, 128)


def scene(seed):
    """A large gray picture with things of several sizes in it."""
    generator = torch.Generator().manual_seed(seed)
    planes = [
        torch.nn.functional.interpolate(torch.rand(1, 1, cells, 2 * cells, generator=generator), (240, 480), mode=mode)
        for cells, mode in ((4, "bilinear"), (12, "nearest"), (40, "nearest"))
    ]
    gray = (0.5 * planes[0] + 0.3 * planes[1] + 0.2 * planes[2])[0, 0]
    return gray[..., None].expand(-1, -1, 3)


def take(seed, frames, *, pan=0.0, zoom=0.0, light=lambda _: 1.0, grain=0.02, start=20):
    """Frames of a camera on a scene: it moves by ``pan`` pixels a frame, its view widens by ``zoom``."""
    whole, noise, made = scene(seed), torch.Generator().manual_seed(seed + 100), []
    for number in range(frames):
        left, width = start + pan * number, 200 + zoom * number
        view = whole[20 : 20 + round(width * SIZE[0] / SIZE[1]), round(left) : round(left + width)]
        picture = resize(view[None], SIZE)[0] * light(number)
        made.append((picture + grain * torch.randn(*SIZE, 1, generator=noise)).clamp(0, 1))
    return made


def dissolve(one, other, frames):
    keep = len(one) - frames
    shares = [(number + 0.5) / frames for number in range(frames)]
    mixed = [torch.lerp(one[keep + i], other[i], share) for i, share in enumerate(shares)]
    return one[:keep] + mixed + other[frames:]


def starts(pictures, **settings):
    frames = [SimpleNamespace(index=i, picture=picture) for i, picture in enumerate(pictures)]
    shots = find_shots(iter(frames), ShotSettings(**settings))
    assert [shot.start for shot in shots[1:]] == [shot.stop for shot in shots[:-1]], "no gap"
    assert shots[0].start == 0 and shots[-1].stop == len(pictures)
    return [shot.start for shot in shots[1:]]


def flash(pictures, first, values):
    for number, value in enumerate(values):
        pictures[first + number] = pictures[first + number] * (1 - value) + value
    return pictures


def inserted(pictures, first, others):
    return pictures[:first] + others + pictures[first + len(others) :]


@pytest.mark.parametrize("pan, zoom, grain", [(0, 0, 0.02), (3, 0, 0.02), (0, 1.0, 0.02), (0, 0, 0.1)])
def test_a_hard_cut_is_found_at_its_frame(pan, zoom, grain):
    shots = [take(seed, 30, pan=pan, zoom=zoom, grain=grain) for seed in (0, 1, 2)]
    assert starts([picture for shot in shots for picture in shot]) == [30, 60]


@pytest.mark.parametrize(
    "pictures",
    [
        lambda: take(0, 50),
        lambda: take(0, 50, pan=4),
        lambda: take(0, 16, pan=16),
        lambda: take(0, 50, zoom=2.5),
        lambda: take(0, 50, grain=0.15),
        lambda: take(0, 50, light=lambda n: 1 if n < 25 else 0.3),
        lambda: take(0, 50, light=lambda n: 0.6 + 0.4 * (n % 4 < 2)),
        lambda: flash(take(0, 50), 25, (1.0, 0.8, 0.4)),
        lambda: inserted(take(0, 50), 25, take(1, 4)),
        lambda: inserted(take(0, 50, pan=1), 25, [torch.zeros(*SIZE, 3)] * 5),
    ],
    ids=["still", "pan", "fast pan", "zoom", "grain", "lamp", "flicker", "flash", "insert", "dark frames"],
)
def test_what_is_no_cut(pictures):
    assert starts(pictures()) == []


@pytest.mark.parametrize("frames, pan", [(10, 0), (16, 0), (30, 0), (10, 0.7), (16, 0.7)])
def test_a_dissolve_is_a_cut_near_its_middle(frames, pan):
    pictures = dissolve(take(0, 60, pan=pan), take(1, 60, pan=-pan, start=80), frames)
    (found,) = starts(pictures)
    assert abs(found - (60 - frames / 2)) <= 0.2 * frames + 1
    assert starts(pictures, dissolves=False) == []


def test_a_fade_through_black_is_one_cut():
    down = take(0, 50, light=lambda n: min(1, (49 - n) / 20))
    up = take(1, 50, light=lambda n: min(1, n / 20))
    (found,) = starts(down + up)
    assert abs(found - 50) <= 3


def test_short_shots_belong_to_what_is_around():
    pictures = take(0, 30) + take(1, 4) + take(2, 30)
    assert len(starts(pictures)) == 1
    assert starts(pictures, shortest=3) == [30, 34]


def test_listed_cuts_are_taken_as_they_are():
    pictures = take(0, 20) + take(1, 20)
    assert starts(pictures, cuts="7, 12") == [7, 12]
    assert starts(pictures, cuts="0") == []
    with pytest.raises(ValueError, match="begins at frame 40, but the film has 40 frames"):
        starts(pictures, cuts="40")
    with pytest.raises(ValueError, match="cuts: found"):
        starts(pictures, cuts="soon")


def test_color_cuts_where_it_comes_for_good():
    gray = take(0, 40)
    tinted = torch.tensor([1.1, 0.9, 0.6])
    hue = torch.linspace(-0.25, 0.25, SIZE[1])[None, :, None] * torch.tensor([1.0, 0.0, -1.0])
    colored = [(picture + hue).clamp(0, 1) for picture in gray]

    def found(pictures):
        return find_shots([SimpleNamespace(index=i, picture=p) for i, p in enumerate(pictures)], ShotSettings())

    assert found(gray[:20] + colored[20:]) == [Shot(0, 20), Shot(20, 40, True)]
    assert found(gray[:20] + colored[20:22] + gray[22:]) == [Shot(0, 40)]
    assert found([(picture * tinted).clamp(0, 1) for picture in gray]) == [Shot(0, 40)], "a toned print is gray"
    assert color_of(gray[0]) < 0.1 < 3 < color_of(colored[0])


def test_a_film_without_frames_is_named():
    with pytest.raises(ValueError, match="found no frame"):
        find_shots([], ShotSettings())


def test_what_is_kept_does_not_grow(monkeypatch):
    """Frames are let go while others come."""
    import weakref

    alive = weakref.WeakSet()
    most = 0

    def frames():
        nonlocal most
        for number, picture in enumerate(take(0, 30) * 10):
            frame = SimpleNamespace(index=number, picture=picture.clone())
            alive.add(frame.picture)
            most = max(most, len(alive))
            yield frame

    find_shots(frames(), ShotSettings())
    assert most <= 3


def test_a_cut_to_something_half_alike_stands_out_of_calm_frames():
    """Less of a change than a cut must have, many times that of the frames around it."""
    one, other = take(0, 60), take(1, 60)
    half = [torch.lerp(a, b, 0.6) for a, b in zip(one[30:], other[30:], strict=True)]
    assert starts(one[:30] + half) == [30]


def test_a_large_thing_that_comes_is_no_dissolve():
    """Detail goes as it covers more and more, and no frame has less than both ends."""
    pictures = take(0, 80)
    for number in range(30, 80):
        edge = round(SIZE[1] * 0.7 * min(1.0, (number - 30) / 24))
        pictures[number] = pictures[number].clone()
        pictures[number][:, :edge] = 0.2 + 0.02 * torch.randn(SIZE[0], edge, 1).expand(-1, -1, 3)
    assert starts(pictures) == []
