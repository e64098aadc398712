"""DDIM inversion and pivot turning inversion against VCT's recorded trajectories, in both hosts."""

from dataclasses import replace

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.diffusion.inversion import Inversion
from comfyui_exemplar.diffusion.learning import drain
from comfyui_exemplar.diffusion.pivot import PivotOptions, search_pivots
from comfyui_exemplar.diffusion.sampling import invert_ddim
from comfyui_exemplar.diffusion.schedule import inversion_plan, sigmas_from_alphas

from . import hosts


@pytest.fixture(autouse=True)
def gradients():
    """Inside ComfyUI they are switched off for all tests."""
    with torch.enable_grad():
        yield


@pytest.fixture(scope="module")
def predict(vct_set):
    """The tiny UNet as ``predict(x, sigma, context)``, under the host that is there."""
    return hosts.differentiable(vct_set)


def plan_of(vct_set, steps):
    table = sigmas_from_alphas(vct_set.file("base")["alphas_cumprod"])
    plan = inversion_plan(table, steps, steps, "diffusers")
    recorded = vct_set.meta["scheduler"]["timesteps_by_num_steps"].get(str(steps))
    if recorded:
        assert [int((table - sigma).abs().argmin()) for sigma in plan.sigmas[:-1]] == recorded
    return plan


def recorded_scale(x, level):
    return x / (1 + level**2) ** 0.5


@torch.no_grad()
def test_ddim_inversion(vct_set, predict):
    contexts = {"latents": "ctx_empty", "latents_concept_ctx": "ctx_concept"}  # the committed set has the first only
    recorded = vct_set.file("1_ddim_forward")
    assert "latents" in recorded
    for name in contexts.keys() & recorded.keys():
        check_inversion(vct_set, predict, vct_set.file("base")[contexts[name]], recorded[name])


def check_inversion(vct_set, predict, context, recorded):
    base = vct_set.file("base")
    plan = plan_of(vct_set, vct_set.meta["g1"]["num_steps"])
    passed = []
    invert_ddim(
        lambda x, sigma: predict(x, float(sigma[0]), context),
        plan.from_clean(base["x0"]),
        torch.tensor(plan.levels),
        reads=plan.reads,
        visit=passed.append,
        disable=True,
    )
    for x, level, wanted in zip(passed, plan.levels, recorded, strict=True):
        assert (recorded_scale(x, level) - wanted).abs().max() <= 1e-5


def cases(vct_set):
    return [(case, vct_set.file(f"2_pivot_{case}"), vct_set.meta["g2"][case]) for case in vct_set.cases("g2")]


def inversion_of(vct_set, recorded, meta):
    plan = plan_of(vct_set, meta["num_ddim_steps"])
    climbed = [x * (1 + s**2) ** 0.5 for x, s in zip(recorded["reversed_latents"], plan.levels, strict=True)]
    return Inversion(plan, torch.stack(climbed), FeatureBank(), "parity")


def options_of(meta):
    return PivotOptions(
        cfg=meta["guidance_scale"],
        advance_cfg=meta["guidance_scale"],
        iterations=meta["max_inner_steps"],
        learning_rate=meta["lr"][0],
        stop_below=meta["epsilon"],
    )


def finish(search):
    """(what a search yielded, its value)."""
    seen = []
    return seen, drain(search, seen.append)


def test_learning_rates(vct_set):
    for _, _, meta in cases(vct_set):
        rates = [options_of(meta).rate(i) for i in range(meta["num_ddim_steps"])]
        assert rates == pytest.approx(meta["lr"])


def test_pivots(vct_set, predict):
    """The whole chain: losses, early stops, contexts and the latents on the way."""
    empty = vct_set.file("base")["ctx_empty"]
    for case, recorded, meta in cases(vct_set):
        inversion = inversion_of(vct_set, recorded, meta)
        seen, pivots = finish(search_pivots(predict, inversion, empty, options=options_of(meta)))
        assert list(pivots.n_inner) == meta["n_inner"], case
        assert sum(p.last for p in seen) == len(pivots.losses)
        for losses, wanted in zip(pivots.losses, meta["losses"], strict=True):
            assert losses == pytest.approx(wanted, rel=1e-4), case
        for x, level, wanted in zip(pivots.trajectory, pivots.levels, recorded["latent_cur"], strict=True):
            assert (recorded_scale(x, level) - wanted).abs().max() <= 1e-3, case
        if "uncond" in recorded:
            off = (pivots.contexts - recorded["uncond"][:, 0]).abs()
            assert off.max() <= 2e-2 and off.flatten().quantile(0.999) <= 5e-3, case


def test_first_iterations_alone(vct_set, predict):
    """Steps from the recorded state: loss, gradient and first update, read off a search that starts there."""
    empty = vct_set.file("base")["ctx_empty"]
    tested = 0
    for _, recorded, meta in cases(vct_set):
        whole = inversion_of(vct_set, recorded, meta)
        for i, wanted in enumerate(recorded.get("grad_first_inner", ())):
            levels = whole.plan.sigmas[i : i + 2]
            start = recorded["uncond"][i - 1] if i else empty
            x = recorded["latent_cur"][i] * (1 + levels[0] ** 2) ** 0.5
            plan = replace(whole.plan, levels=levels[::-1], sigmas=levels, reads=levels[:1], depth=1)
            step = replace(whole, plan=plan, trajectory=torch.stack([whole.trajectory[-2 - i], x]))
            gradients = []

            def watched(x, sigma, context, gradients=gradients):
                if context.requires_grad:
                    context = context.clone()
                    context.register_hook(gradients.append)
                return predict(x, sigma, context)

            options = replace(options_of(meta), iterations=1, learning_rate=meta["lr"][i])
            _, pivots = finish(search_pivots(watched, step, empty, start, options))
            assert pivots.losses[0][0] == pytest.approx(meta["losses"][i][0], rel=1e-4)
            assert (gradients[0][0] - wanted).abs().max() <= 1e-3 * wanted.abs().max()
            updated = recorded.get("emb_after_inner", ())
            if i < len(updated):
                assert (pivots.contexts[0] - updated[i, 0]).abs().flatten().quantile(0.999) <= 1e-3
                tested += 1
    assert tested
