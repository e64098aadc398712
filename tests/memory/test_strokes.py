"""Strokes on their own picture: they hold where they are, flow in their thing, and end at its edge."""

import heapq
import itertools

import pytest
import torch

from comfyui_exemplar.memory.strokes import EDGE, Marks, overlaid, shortest_ways

RED, BLUE = torch.tensor([50.0, 30.0]), torch.tensor([0.0, -50.0])


def scene(height=40, width=60):
    """Two squares of L 60 on a ground of L 95."""
    lightness = torch.full((height, width), 95.0)
    lightness[10:30, 8:26] = 60
    lightness[10:30, 34:52] = 60
    return lightness


def marks(lightness, **places):
    place = torch.zeros(lightness.shape, dtype=torch.bool)
    chroma = torch.zeros(*lightness.shape, 2)
    for color, (rows, columns) in places.items():
        place[rows, columns] = True
        chroma[rows, columns] = {"red": RED, "blue": BLUE}[color]
    return Marks(chroma, place, lightness)


def naive_ways(lightness, start, reach):
    """Dijkstra."""
    height, width = lightness.shape
    away = {tuple(at): 0.0 for at in start.nonzero().tolist()}
    heap = [(0.0, at) for at in away]
    while heap:
        d, (y, x) = heapq.heappop(heap)
        if d > away[y, x]:
            continue
        for dy, dx in itertools.product((-1, 0, 1), repeat=2):
            to = (y + dy, x + dx)
            if (dy or dx) and 0 <= to[0] < height and 0 <= to[1] < width:
                long = (dy * dy + dx * dx) ** 0.5
                step = float(lightness[y, x] - lightness[to])
                new = d + (step / EDGE) ** 2 / long + long / reach
                if new < away.get(to, 2.0):
                    away[to] = new
                    heapq.heappush(heap, (new, to))
    return torch.tensor([[away.get((y, x), 2.0) for x in range(width)] for y in range(height)])


def test_ways_are_the_shortest():
    random = torch.Generator().manual_seed(0)
    lightness = 50 + 4 * torch.randn(15, 20, generator=random)
    start = torch.zeros(15, 20, dtype=torch.bool)
    start[3, 4] = start[12, 17] = True
    away, _ = shortest_ways(lightness, start, torch.zeros(15, 20, 2), 30.0)
    torch.testing.assert_close(away, naive_ways(lightness, start, 30.0), rtol=1e-4, atol=1e-5)


def test_a_stroke_fills_its_thing_and_leaves_the_others():
    lightness = scene()
    before = torch.full((40, 60, 2), 5.0)
    after, share = overlaid(before, marks(lightness, red=(slice(18, 21), slice(12, 20))), 1.0)
    assert (after[18:21, 12:20] - RED).norm(dim=-1).max() == 0
    assert (after[11:29, 9:25] - RED).norm(dim=-1).max() < 5
    assert (after[:, 30:] - before[:, 30:]).norm(dim=-1).max() < 0.1
    assert (after[:9] - before[:9]).norm(dim=-1).max() < 0.1
    assert share[20, 15] == 1 and share[20, 40] < 0.01


def test_each_place_takes_the_nearest_stroke():
    lightness = scene()
    both = marks(lightness, red=(slice(18, 21), slice(10, 12)), blue=(slice(18, 21), slice(36, 50)))
    after, _ = overlaid(torch.zeros(40, 60, 2), both, 1.0)
    assert (after[15:25, 9:25] - RED).norm(dim=-1).max() < 5 and (after[11:29, 35:51] - BLUE).norm(dim=-1).max() < 5


def test_on_large_pictures_too():
    """Ways are measured small there, and colors come back along the picture's edges."""
    lightness = torch.nn.functional.interpolate(scene()[None, None], scale_factor=10)[0, 0]
    before = torch.zeros(400, 600, 2)
    painted = marks(lightness, red=(slice(180, 210), slice(120, 200)))
    after, share = overlaid(before, painted, 1.0)
    assert (after[180:210, 120:200] - RED).norm(dim=-1).max() == 0
    assert (after[110:290, 90:250] - RED).norm(dim=-1).max() < 5
    assert (after[:, 280:]).norm(dim=-1).max() < 2
    assert share.min() >= 0 and share.max() == 1


def test_without_reach_only_the_painted_places():
    lightness = scene()
    painted = marks(lightness, red=(slice(18, 21), slice(12, 20)))
    after, share = overlaid(torch.zeros(40, 60, 2), painted, 0.0)
    assert torch.equal(after[painted.place], RED.expand(24, 2)) and (after[~painted.place] == 0).all()
    assert torch.equal(share, painted.place.float())


def test_grain_does_not_stop_a_stroke():
    lightness = scene()
    lightness += 1.5 * torch.randn(lightness.shape, generator=torch.Generator().manual_seed(0))
    before = torch.full((40, 60, 2), 5.0)
    after, _ = overlaid(before, marks(lightness, red=(slice(18, 21), slice(10, 12))), 3.0)
    assert ((after[11:29, 9:25] - RED).norm(dim=-1) < 5).float().mean() > 0.95
    assert (after[:, 30:] - before[:, 30:]).norm(dim=-1).max() < 1


@pytest.mark.parametrize("step", [10.0, 40.0])
def test_a_line_one_pixel_wide_stops_a_stroke(step):
    """Ink on paper."""
    lightness = torch.full((40, 60), 95.0)
    lightness[:, 30] -= step
    before = torch.zeros(40, 60, 2)
    after, _ = overlaid(before, marks(lightness, red=(slice(18, 21), slice(5, 15))), 3.0)
    assert (after[:, :29] - RED).norm(dim=-1).max() < 5 and after[:, 31:].norm(dim=-1).max() < 0.1


def test_reach_is_how_far_flat_ground_is_filled():
    flat = torch.full((30, 90), 70.0)
    painted = marks(flat, red=(slice(0, 30), slice(0, 2)))
    widths = []
    for reach in (0.1, 0.3, 1.0):
        _, share = overlaid(torch.zeros(30, 90, 2), painted, reach)
        widths.append(int((share[15] > 0.01).sum()))
    assert widths[0] < 12 and 20 < widths[1] < 32 and widths[2] > 80


def test_which_picture_was_painted_on():
    lightness = scene()
    painted = marks(lightness, red=(slice(18, 21), slice(12, 20)))
    assert painted.are_of(lightness) and painted.are_of(lightness + 0.2)
    assert not painted.are_of(lightness.flip(1).roll(5, 1)) and not painted.are_of(lightness[:-1])
