"""Pivot inversion on a model that can be followed by hand."""

from dataclasses import replace

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.diffusion.inversion import Inversion
from comfyui_exemplar.diffusion.learning import drain
from comfyui_exemplar.diffusion.pivot import PivotOptions, search_pivots, way_back
from comfyui_exemplar.diffusion.sampling import invert_ddim
from comfyui_exemplar.diffusion.schedule import inversion_plan

TABLE = torch.linspace(0.03, 10.0, 1000)
EMPTY = torch.full((1, 3, 2), 0.1)
OPTIONS = PivotOptions(cfg=3.0, advance_cfg=None, iterations=20)


class Model:
    """A clean estimate that leans on the context; counts its calls, and those that may be differentiated."""

    def __init__(self):
        self.calls = self.differentiable = 0

    def __call__(self, x, sigma, context):
        self.calls += 1
        self.differentiable += context.requires_grad and torch.is_grad_enabled()
        return 0.8 * x / (1 + sigma) + (1 + sigma) * torch.tanh(context.mean()) * x.sign()


def inverted(steps=4, convention="consistent", pictures=1):
    plan = inversion_plan(TABLE, steps, steps, convention)
    x = torch.randn(pictures, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    passed = []
    invert_ddim(
        lambda at, sigma: Model()(at, float(sigma[0]), EMPTY),
        plan.from_clean(x),
        torch.tensor(plan.levels),
        reads=plan.reads,
        visit=passed.append,
        disable=True,
    )
    return Inversion(plan, torch.stack(passed), FeatureBank(), "toy")


def search(model, inversion, options=OPTIONS, conditional=EMPTY, start=None):
    seen = []
    return seen, drain(search_pivots(model, inversion, conditional, start, options), seen.append)


@pytest.mark.parametrize("convention", ["consistent", "diffusers"])
def test_it_comes_closer_than_without(convention):
    inversion = inverted(convention=convention)
    _, pivots = search(Model(), inversion)
    _, one = search(Model(), inversion, replace(OPTIONS, iterations=1))
    assert pivots.reconstruction_error < one.reconstruction_error
    assert pivots.contexts.shape == (4, 3, 2) and pivots.trajectory.shape == (5, 1, 4, 5, 6)
    assert torch.equal(pivots.trajectory[0], inversion.trajectory[-1]) and pivots.levels == inversion.plan.sigmas


def test_look_up_by_sigma():
    _, pivots = search(Model(), inverted())
    for i, sigma in enumerate(pivots.sigmas):
        for near in (sigma * 0.99, sigma, sigma * 1.01):
            assert torch.equal(pivots.at(near), pivots.contexts[i])
            assert torch.equal(pivots.latent_at(near), pivots.trajectory[i])
    assert pivots.step(0.0) == len(pivots.sigmas) - 1 and pivots.step(1e9) == 0


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_computed(keep):
    """A prediction for the prompt, one an iteration, one to advance; the last one is spared where nothing moved."""
    model = Model()
    options = replace(OPTIONS, keep_last_update=keep, stop_below=1.0)  # every step ends after its first look
    seen, pivots = search(model, inverted(), options)
    assert pivots.n_inner == (1, 1, 1, 1) and len(seen) == 4 and all(p.last for p in seen)
    assert model.calls == 4 * (3 if keep else 2) and model.differentiable == 4
    assert torch.equal(pivots.contexts[0], EMPTY[0]) != keep
    tireless = Model()
    search(tireless, inverted(), replace(options, stop_below=0.0, stop_growth=0.0))
    assert tireless.calls == 4 * (1 + options.iterations + 1)


def test_the_threshold_grows():
    inversion = inverted()
    _, never = search(Model(), inversion, replace(OPTIONS, stop_below=0.0, stop_growth=0.0))
    at_the_second = never.losses[1][3]
    assert at_the_second > 0
    _, pivots = search(Model(), inversion, replace(OPTIONS, stop_below=0.0, stop_growth=at_the_second * 1.0001))
    assert pivots.n_inner[0] == OPTIONS.iterations and pivots.n_inner[1] <= 4


def test_advancing_under_another_cfg():
    inversion = inverted()
    _, same = search(Model(), inversion)
    _, official = search(Model(), inversion, replace(OPTIONS, advance_cfg=7.5))
    assert same.cfg == 3.0 and official.cfg == 7.5
    assert torch.equal(same.contexts[0], official.contexts[0])
    assert not torch.equal(same.trajectory[1], official.trajectory[1])


def test_gradient_scale_changes_nothing():
    inversion = inverted()
    _, plain = search(Model(), inversion)
    _, scaled = search(Model(), inversion, replace(OPTIONS, gradient_scale=4096.0))
    assert torch.equal(plain.contexts, scaled.contexts) and plain.losses == scaled.losses


def test_another_start_and_prompt():
    start = torch.full((1, 3, 2), 0.3)
    _, pivots = search(Model(), inverted(), replace(OPTIONS, iterations=1), start=start)
    assert (pivots.contexts[0] - start[0]).abs().max() <= 0.0101  # one update of Adam's from there


def test_bad_input():
    with pytest.raises(ValueError, match="inversion: found one of 2 pictures"):
        search(Model(), inverted(pictures=2))
    with pytest.raises(ValueError, match="does not come back down the levels"):
        way_back(official())
    with pytest.raises(ValueError, match="reaches 0 after 3 steps, but the inversion has 4"):
        search(Model(), inverted(), replace(OPTIONS, learning_rate_steps=3))
    with pytest.raises(ValueError, match="iterations is 0; it must lie between 1 and 500"):
        search(Model(), inverted(), replace(OPTIONS, iterations=0))
    with pytest.raises(ValueError, match="diverged: the loss of step 1, iteration 1 is nan"):
        search(lambda x, sigma, context: x * context.mean() * float("nan"), inverted())


def official():
    plan = inversion_plan(TABLE, 5, 3, "official")
    return Inversion(plan, torch.zeros(len(plan.levels), 1, 4, 5, 6), FeatureBank(), "toy")
