"""Inversions of flow matching, against the exact flow of a Gaussian."""

import math
from functools import partial

import pytest
import torch

from comfyui_exemplar.diffusion.flow import drawn, drawn_to, invert_controlled, invert_heun
from comfyui_exemplar.diffusion.inversion import round_trip_error
from comfyui_exemplar.diffusion.sampling import invert_ddim, sample_ddim
from comfyui_exemplar.diffusion.schedule import inversion_plan

MEAN, SPREAD = 0.7, 0.4


def spread(t):
    """Standard deviation of (1 - t) · data + t · noise."""
    return (((1 - t) * SPREAD) ** 2 + t**2) ** 0.5


def exact(x, sigma):
    """The clean estimate where data are N(MEAN, SPREAD²)."""
    t = sigma.view(-1, *[1] * (x.ndim - 1))
    share = (1 - t) * SPREAD**2 / spread(t) ** 2
    return MEAN + share * (x - (1 - t) * MEAN)


def flowed(x, t):
    """Where the exact flow takes a picture."""
    return (1 - t) * MEAN + spread(t) / SPREAD * (x - MEAN)


def climbed(way, steps, top=0.8, **more):
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0)).double() * SPREAD + MEAN
    sigmas = torch.linspace(0, top, steps + 1).double()
    return x, way(exact, x, sigmas, disable=True, **more), flowed(x, top)


def euler(*args, **more):
    return invert_ddim(*args, read_as=lambda x, *_: x, **more)


def order(way, **more):
    errors = [float((found - wanted).abs().max()) for _, found, wanted in (climbed(way, n, **more) for n in (40, 80))]
    return math.log2(errors[0] / errors[1])


def test_orders():
    assert order(euler) == pytest.approx(1, abs=0.15)
    assert order(invert_heun) == pytest.approx(2, abs=0.3)


def test_heun_is_closer_at_the_cost_of_two_calls():
    calls = []

    def counted(x, sigma):
        calls.append(float(sigma[0]))
        return exact(x, sigma)

    x = torch.full((1, 1, 2, 2), 0.2)
    sigmas = torch.linspace(0, 0.6, 7)
    invert_heun(counted, x, sigmas, disable=True)
    levels = sigmas[1:].tolist()
    assert calls == pytest.approx(
        [levels[0]] * 3 + [level for level in levels[1:-1] for _ in range(2)] + levels[-1:], abs=1e-6
    )
    apart = [float((climbed(way, 40)[1] - climbed(way, 40)[2]).abs().max()) for way in (euler, invert_heun)]
    assert apart[1] < 0.1 * apart[0]


@pytest.mark.parametrize("shape", [(1, 4, 6, 5), (2, 16, 1, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_any_shape_and_precision(shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    sigmas = torch.tensor([0.0, 0.2, 0.4])
    for found in (
        invert_heun(exact, x, sigmas, disable=True),
        invert_controlled(exact, x, sigmas, disable=True, control=0.5, noise=torch.randn(shape).to(dtype)),
    ):
        assert found.shape == x.shape and found.dtype == dtype and bool(found.isfinite().all())


def test_the_fixed_point_comes_back_closer_than_euler():
    """Refined, a climb retraces Euler's way down: each iteration brings the round trip closer."""
    apart = []
    for refinements in (0, 1, 2, 6):
        x, top, _ = climbed(euler, 8, refinements=refinements)
        back = sample_ddim(exact, top, torch.linspace(0.8, 0, 9).double(), disable=True)
        apart.append(round_trip_error(x, back))
    assert apart == sorted(apart, reverse=True) and apart[1] < 0.5 * apart[0] and apart[-1] < 1e-3 * apart[0]


@pytest.mark.parametrize(
    "way", [euler, invert_heun, partial(invert_controlled, control=0.4, noise=torch.full((1, 4, 3, 3), 0.3).double())]
)
def test_pictures_of_a_batch_do_not_meet(way):
    x = torch.randn(3, 4, 3, 3, generator=torch.Generator().manual_seed(5)).double()
    sigmas = torch.linspace(0, 0.7, 6).double()
    alone = [way(exact, one, sigmas, disable=True) for one in x.split(1)]
    torch.testing.assert_close(way(exact, x, sigmas, disable=True), torch.cat(alone))


def test_visits_every_level():
    seen = []
    x = torch.zeros(1, 1, 2, 2)
    last = invert_heun(exact, x, torch.tensor([0.0, 0.1, 0.3]), disable=True, visit=seen.append)
    assert len(seen) == 3 and torch.equal(seen[0], x) and torch.equal(seen[-1], last)


def test_control_leads_to_the_noise():
    """0 is the model's own way; the more, the nearer to where the straight way to the noise is at that time."""
    noise = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(2)).double()
    x, free, _ = climbed(euler, 30)
    found = [climbed(invert_controlled, 30, control=gamma, noise=noise)[1] for gamma in (0.0, 0.3, 0.7, 1.0)]
    torch.testing.assert_close(found[0], free)
    straight = 0.2 * x + 0.8 * noise
    apart = [float((one - straight).abs().mean()) for one in found]
    assert apart == sorted(apart, reverse=True) and apart[-1] < 1e-6


def test_control_leads_back_to_the_picture():
    picture = torch.full((1, 1, 2, 2), 0.9).double()
    start = torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(3)).double()
    apart = []
    for eta in (0.0, 0.3, 0.7, 1.0):

        def controlled(x, sigma, eta=eta):
            return drawn_to(exact(x, sigma), picture, eta)

        back = sample_ddim(controlled, start, torch.linspace(0.9, 0, 20).double(), disable=True)
        apart.append(float((back - picture).abs().mean()))
    assert apart == sorted(apart, reverse=True) and apart[-1] < 1e-9


def test_control_stops_at_a_time():
    """Above it and at it the picture draws, below it the model is left alone; eta 0 is the model bit for bit."""
    x, picture = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(6)), torch.full((1, 2, 3, 3), 0.5)
    times = torch.tensor([0.9, 0.5, 0.49, 0.1])
    plain, found = exact(x, times), drawn(exact, picture, 0.6, until=0.5)(x, times)
    torch.testing.assert_close(found[:2], drawn_to(plain[:2], picture, 0.6))
    assert torch.equal(found[2:], plain[2:]) and torch.equal(drawn(exact, picture, 0.0)(x, times), plain)
    start, levels = torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(7)), torch.linspace(0.9, 0, 19)
    apart = []
    for until in (1.0, 0.8, 0.4, 0.0):
        back = sample_ddim(drawn(exact, picture, 0.6, until), start, levels, disable=True)
        apart.append(float((back - picture).abs().mean()))
    assert apart == sorted(apart, reverse=True) and apart[-1] < 0.2 * apart[0]


def test_no_way_is_left_at_1():
    with pytest.raises(ValueError, match="below 1"):
        invert_controlled(exact, torch.zeros(1, 1, 2, 2), torch.tensor([0.0, 1.0]), control=0.5, noise=torch.zeros(1))


def test_a_plan_of_times():
    table = torch.linspace(0.001, 1, 1000)
    plan = inversion_plan(table, 20, 8, flow=True)
    x = torch.rand(1, 1, 2, 2)
    assert plan.levels[0] == 0 and plan.flow and plan.is_ordered
    assert (
        torch.equal(plan.from_clean(x), x) and torch.equal(plan.to_sampling(x), x) and torch.equal(plan.to_clean(x), x)
    )
    torch.testing.assert_close(plan.as_given(x) * (1 - plan.sigmas[0]), x)
    with pytest.raises(ValueError, match="convention: found official, expected consistent"):
        inversion_plan(table, 20, 8, "official", flow=True)
    with pytest.raises(ValueError, match="leaves nothing of the picture"):
        inversion_plan(torch.linspace(0.5, 1, 1000) ** 0.001, 20, 20, flow=True)
