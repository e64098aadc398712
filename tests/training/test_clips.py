"""Rendered clips: the same by number as in order, the same by seed, and true to their own flow."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from comfyui_exemplar.color import luminance, rgb_to_lab

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def stock():
    from training.clip_scenes import Stock

    return Stock.demo()


@pytest.fixture(scope="module")
def clip(stock):
    from training.clips import Clip

    return Clip(stock, 3, frames=90, size=64)


def looked_up(picture, displacement):
    height, width = picture.shape[:2]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    grid = (torch.stack([x, y], -1) + displacement) / torch.tensor([width, height]) * 2 - 1
    return F.grid_sample(picture.movedim(-1, 0)[None], grid[None], align_corners=False)[0].movedim(0, -1)


def test_a_frame_by_its_number_is_that_of_the_row(clip, stock):
    from training.clips import Clip

    again = Clip(stock, 3, frames=90, size=64)
    row = {frame.number: frame for frame in clip.frames(40, 44)}
    assert list(row) == [40, 41, 42, 43]
    for number in (43, 40):
        alone = again.frame(number)
        for key in ("clean", "color", "gray"):
            assert torch.equal(getattr(alone, key), getattr(row[number], key))


def test_seeds_motions_and_numbers_differ(clip, stock):
    from training.clips import Clip

    frame = clip.frame(10).clean
    for other in (Clip(stock, 4, frames=90, size=64).frame(10), clip.again().frame(10), clip.frame(11)):
        assert float((other.clean - frame).abs().mean()) > 1e-3


def test_shots_are_of_every_kind_and_cover_the_clip(stock):
    from training.clip_scenes import KINDS
    from training.clips import Clip

    for seed in range(3):
        scenes = Clip(stock, seed, frames=500).scenes
        assert [s.start for s in scenes[1:]] == [s.stop for s in scenes[:-1]]
        assert (scenes[0].start, scenes[-1].stop) == (0, 500) and {s.kind for s in scenes} == set(KINDS)
        assert all(len(scene) >= 100 for scene in scenes)
    assert len(Clip(stock, 0, frames=20).scenes) == 1


def test_gray_is_the_colors_own_with_grain_and_clean_has_none(clip):
    frame = clip.frame(5)
    assert frame.gray.shape == frame.color.shape == (64, 64, 3)
    assert torch.equal(frame.gray[..., 0], frame.gray[..., 2])
    assert float((luminance(frame.gray[None]) - luminance(frame.color[None])).abs().mean()) < 1.5
    noise = (frame.color - frame.clean).std()
    assert 0.004 < float(noise) < 0.03
    assert float(rgb_to_lab(frame.color[None])[..., 1:].norm(dim=-1).mean()) > 5


def test_a_longer_clip_moves_no_faster(stock):
    from training.clips import Clip

    steps = [
        float(Clip(stock, 1, frames=frames, size=64).flow(2, 3)[0].norm(dim=-1).mean()) for frames in (36, 500, 5000)
    ]
    assert max(steps) == pytest.approx(min(steps))


def test_the_flow_is_right_within_half_a_pixel(clip):
    shot = clip.scenes[1]
    beside = [(0.0, 0.0), (0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)]
    apart = torch.zeros(len(beside))
    for number in range(shot.start, shot.stop - 4, 5):
        here, there = (torch.from_numpy(clip.drawn(each)[0]) for each in (number, number + 3))  # in one light
        displacement, seen = clip.flow(number, number + 3)
        assert float(seen.float().mean()) > 0.6
        apart += torch.stack(
            [(looked_up(there, displacement + torch.tensor(off)) - here).abs()[seen].mean() for off in beside]
        )
    assert float(apart[0]) < 0.6 * float(apart[1:].min())


def test_flow_there_and_back_ends_where_it_began(clip):
    displacement, seen = clip.flow(4, 8)
    back, _ = clip.flow(8, 4)
    missed = (looked_up(back, displacement) + displacement).norm(dim=-1)
    inner = seen & (
        F.max_pool2d((clip.things(4)[None].float() + 1).diff(dim=-1, append=torch.zeros(1, 64, 1)).abs(), 7, 1, 3)[0]
        == 0
    )
    assert int(inner.sum()) > 300 and float(missed[inner].median()) < 0.05


def test_what_is_hidden_or_outside_is_not_seen(clip):
    shot = clip.scenes[0]
    displacement, seen = clip.flow(shot.start, shot.start + 25)
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    new = torch.stack([x, y], -1) + displacement
    outside = ((new < 0) | (new >= 64)).any(-1)
    assert not bool((seen & outside).any())
    things, later = clip.things(shot.start), clip.things(shot.start + 25)
    at = new.floor().long().clamp(0, 63)
    assert torch.equal(seen, ~outside & (later[at[..., 1], at[..., 0]] == things))
    assert bool((~seen & ~outside).any())


def test_flow_over_a_cut_and_numbers_beyond_the_end_are_refused(clip, stock):
    from training.clips import Clip

    cut = clip.scenes[1].start
    with pytest.raises(ValueError, match="different shots"):
        clip.flow(cut - 1, cut)
    with pytest.raises(ValueError, match="expected 0 to 89"):
        clip.frame(90)
    with pytest.raises(ValueError, match="at least 1"):
        Clip(stock, 0, frames=0)


def test_a_reference_shows_the_same_colors_in_other_places(clip):
    def colors(picture):
        ab = rgb_to_lab(picture)[..., 1:].reshape(-1, 2).numpy()
        return np.histogram2d(*ab.T, bins=9, range=[[-70, 70]] * 2)[0] / len(ab)

    for shot, scene in enumerate(clip.scenes):
        reference, own = clip.reference(shot), clip.frame(scene.middle).clean[None]
        others = [clip.reference(i) for i in range(3) if i != shot]
        assert reference.shape == (1, 64, 64, 3) and float((reference - own).abs().mean()) > 0.02
        alike = np.minimum(colors(reference), colors(own)).sum()
        assert alike > max(np.minimum(colors(other), colors(own)).sum() for other in others)


def test_evaluated_seeds_are_not_those_of_development():
    from training.clips import DEVELOPMENT, EVALUATION

    assert not set(DEVELOPMENT) & set(EVALUATION)
