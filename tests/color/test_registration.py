"""Where places of a picture lie in a drifted copy of it."""

import math
import sys

import pytest
import torch

from comfyui_exemplar.color import registration
from comfyui_exemplar.color.evidence import in_tones_of, quantile
from comfyui_exemplar.color.flow import register, smoothed
from comfyui_exemplar.color.registration import (
    apply,
    blurred,
    by_phase,
    comparable,
    displacement_of,
    fit_global,
    frame_of,
    grid,
    lightness_at,
    sampled,
)

SIZE = (240, 304)


def scene(size=SIZE, seed=0):
    """(H, W, 3): soft blobs with hard-edged disks on them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 14, 17, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0.05, 0.95)
    rows, columns = torch.meshgrid(*(torch.arange(side) for side in size), indexing="ij")
    for _ in range(70):
        y, x, radius = torch.rand(3, generator=generator) * torch.tensor([size[0], size[1], size[0] / 14.0])
        disk = (rows - y).square() + (columns - x).square() < radius.square()
        picture = torch.where(disk, torch.rand(1, 3, 1, 1, generator=generator), picture)
    return blurred(picture[0], 0.6).movedim(0, -1)


def about_middle(zoom=1.0, turn=0.0, shift=(0.0, 0.0), tilt=(0.0, 0.0), size=SIZE):
    """(3, 3): places of the original to those of the copy."""
    middle = torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2], dtype=torch.float64)
    angle = math.radians(turn)
    spin = zoom * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[:2, :2], matrix[:2, 2] = spin, middle - spin @ middle + torch.tensor(shift, dtype=torch.float64)
    matrix[2, :2] = torch.tensor(tilt, dtype=torch.float64) / size[1]
    return matrix


def copy_of(picture, matrix):
    """The copy in which each place of the original lies where the matrix says."""
    back = apply(torch.linalg.inv(matrix), grid((picture.shape[0], picture.shape[1])))
    return sampled(picture.movedim(-1, 0), back, "bicubic").movedim(0, -1).clamp(0, 1)


def off(found, matrix, margin=24):
    """Pixels by which a displacement misses, away from the border."""
    expected = displacement_of(matrix, (found.shape[0], found.shape[1]))
    return float((found - expected).norm(dim=-1)[margin:-margin, margin:-margin].mean())


MOTIONS = [
    {"shift": (9.0, -5.5)},
    {"zoom": 1.04},
    {"zoom": 0.97, "turn": 1.5, "shift": (-6.0, 4.0)},
    {"shift": (3.0, 2.0), "tilt": (0.03, 0.02)},
]


@pytest.mark.parametrize("motion", MOTIONS)
def test_one_motion_of_the_whole_is_found(motion):
    pytest.importorskip("cv2")
    matrix, picture = about_middle(**motion), scene()
    edited = copy_of(picture, matrix) ** 1.4  # another tone curve, too
    for kind in ("global", "local"):
        assert off(register(picture, edited, kind).displacement, matrix) < 0.3


@pytest.mark.parametrize("motion", MOTIONS[:3])
def test_without_opencv_about_a_pixel(motion, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert registration.opencv() is None
    matrix, picture = about_middle(**motion), scene()
    found = register(picture, copy_of(picture, matrix))
    assert off(found.displacement, matrix) < 1.2
    assert float(register(picture, picture).displacement.abs().max()) == 0


def test_a_smooth_warp_is_found():
    pytest.importorskip("cv2")
    picture = scene()
    rows, columns = (axis.float() for axis in grid(SIZE).unbind(-1)[::-1])
    warp = torch.stack([4 * torch.sin(rows / 40), 3 * torch.cos(columns / 50)], -1)
    edited = sampled(picture.movedim(-1, 0), grid(SIZE).float() + warp, "bicubic").movedim(0, -1).clamp(0, 1)
    # the copy shows at q what the original has at q + warp(q); the way back by fixed-point iteration
    expected = torch.zeros_like(warp)
    for _ in range(30):
        expected = -sampled(warp.movedim(-1, 0), grid(SIZE).float() + expected).movedim(0, -1)
    found = register(picture, edited)
    miss = (found.displacement - expected).norm(dim=-1)[16:-16, 16:-16]
    assert float(miss.mean()) < 0.75 < 2 < float(expected.norm(dim=-1).mean())
    assert float((found.confidence[16:-16, 16:-16] > 0.5).float().mean()) > 0.98


@pytest.mark.parametrize("change", ["same", "tones", "grain", "half size"])
def test_what_did_not_move_is_exactly_still(change):
    pytest.importorskip("cv2")
    picture = scene()
    edited = picture
    if change == "tones":
        edited = 0.15 + 0.7 * picture**0.6
    elif change == "grain":
        edited = picture + 0.04 * torch.randn(*SIZE, 1, generator=torch.Generator().manual_seed(1))
    elif change == "half size":
        edited = torch.nn.functional.avg_pool2d(picture.movedim(-1, 0)[None], 2)[0].movedim(0, -1)
    found = register(picture, edited.clamp(0, 1))
    assert float(found.displacement.abs().max()) == 0
    assert float((found.confidence > 0.5).float().mean()) > 0.99


def test_what_was_drawn_anew_is_unsure():
    pytest.importorskip("cv2")
    picture, other = scene(), scene(seed=5)
    edited = picture.clone()
    place = (slice(70, 150), slice(90, 190))
    edited[place] = other[place]
    flagged = register(picture, edited).confidence < 0.5
    inside = float(flagged[place].sum())
    assert inside / (80 * 100) > 0.8 and inside / float(flagged.sum()) > 0.8


def test_an_unrelated_picture_is_not_alike():
    pytest.importorskip("cv2")
    found = register(scene(), scene(seed=9))
    assert found.similarity < 0.25 and float(found.confidence.mean()) < 0.3
    assert register(scene(), scene()).similarity > 0.99


def test_the_same_every_time_and_opencv_keeps_its_threads():
    cv2 = pytest.importorskip("cv2")
    before = cv2.getNumThreads()
    picture = scene()
    edited = copy_of(picture, about_middle(1.02, 0.5, (4.0, 3.0)))
    first, second = register(picture, edited), register(picture, edited)
    assert torch.equal(first.displacement, second.displacement) and torch.equal(first.confidence, second.confidence)
    assert cv2.getNumThreads() == before


@pytest.mark.parametrize("size", [(2, 2), (1, 40), (15, 300), (33, 33)])
@pytest.mark.parametrize("motion", ["local", "global", "none"])
def test_any_size(size, motion):
    generator = torch.Generator().manual_seed(2)
    original = torch.rand(*size, 3, generator=generator)
    for edited in (torch.rand(7, 5, 3, generator=generator), torch.full((40, 20, 3), 0.5), original):
        found = register(original, edited, motion)
        assert found.displacement.shape == (*size, 2) and found.confidence.shape == size
        assert bool(found.displacement.isfinite().all()) and bool(found.confidence.isfinite().all())


def test_flat_pictures_stay_still():
    found = register(torch.full((64, 64, 3), 0.5), torch.full((80, 50, 3), 0.7))
    assert float(found.displacement.abs().max()) == 0


def test_the_frame_is_bounded():
    assert frame_of(300, 200) == (300, 200)
    assert frame_of(8000, 4000) == (1024, 512)
    assert frame_of(20000, 3) == (1024, 1)


def test_lightness_of_a_large_picture_is_that_of_a_small_one():
    picture = scene((64, 80))
    large = picture.repeat_interleave(6, 0).repeat_interleave(6, 1)
    assert float((lightness_at(large, (32, 40)) - lightness_at(picture, (32, 40))).abs().mean()) < 0.5


def test_comparable_lightness_does_not_know_the_tone_curve():
    lightness = lightness_at(scene(), SIZE)
    other = 20 + 0.7 * lightness
    first, second = comparable(lightness), comparable(other)
    assert float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) > 0.99


def test_blurring_keeps_the_mean_and_constants():
    plane = torch.rand(40, 50, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(blurred(torch.full((9, 7), 3.0), 4.0), torch.full((9, 7), 3.0))
    assert abs(float(blurred(plane, 3.0).mean() - plane.mean())) < 0.02
    assert blurred(plane[None].expand(2, -1, -1), 2.0).shape == (2, 40, 50)


@pytest.mark.parametrize("size", [(37, 5), (1, 1), (2, 90, 70)])
@pytest.mark.parametrize("radius", [1, 20])
def test_boxes_are_the_same_without_opencv(size, radius, monkeypatch):
    plane = torch.rand(size, generator=torch.Generator().manual_seed(0)) * 100
    once, by_opencv = registration.boxed(plane, radius), registration.boxed(plane, radius, 3)
    monkeypatch.setattr(registration, "opencv", lambda: None)
    assert (registration.boxed(plane, radius, 3) - by_opencv).abs().max() < 1e-3
    assert (registration.boxed(plane, radius) - once).abs().max() < 1e-3
    window = plane[..., : radius + 1, : radius + 1]  # of the first place
    assert torch.allclose(once[..., 0, 0], window.mean((-1, -2)), atol=1e-3)


def test_phase_correlation_of_an_empty_picture_is_the_identity():
    flat = torch.zeros(40, 40)
    assert torch.equal(by_phase(flat, flat).matrix, torch.eye(3, dtype=torch.float64))
    assert torch.equal(fit_global(flat[:8], flat[:8]).matrix, torch.eye(3, dtype=torch.float64))


def test_a_motion_is_continued_where_nothing_is_seen():
    motion = torch.zeros(60, 60, 2)
    motion[:, :20, 0] = 5
    motion[:, 20:] = 99  # never believed
    weight = torch.zeros(60, 60)
    weight[:, :20] = 1
    found = smoothed(motion, weight, 4.0)
    assert torch.allclose(found[:, :15, 0], torch.tensor(5.0), atol=0.3)
    assert float(found[:, 40, 0].min()) > 3 and float(found.max()) < 6


def test_tone_curves_and_quantiles():
    lightness = torch.linspace(0, 100, 400).view(20, 20)
    other = 100 * (lightness / 100) ** 0.5
    assert float((in_tones_of(lightness, other, torch.ones(20, 20)) - lightness).abs().mean()) < 1.5
    values, weight = torch.tensor([3.0, 1.0, 2.0, 9.0]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert float(quantile(values, weight, 0.5)) == 2 and float(quantile(values, weight, 1.0)) == 3
