"""Sampling and inversion loops against diffusers and against a denoiser whose answer is known."""

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler

from comfyui_exemplar.diffusion.inversion import Inversion, check_same_model, round_trip_error
from comfyui_exemplar.diffusion.sampling import guide, invert_ddim, sample_ddim, scaled_ends, to_eps
from comfyui_exemplar.diffusion.schedule import inversion_plan, rescale, sigmas_from_alphas


def gaussian(x, sigma):
    """The exact denoiser of unit Gaussian data."""
    sigma = sigma.view(-1, *[1] * (x.ndim - 1))
    return x / (1 + sigma**2)


def mixture(x, sigma):
    """The exact denoiser of two clusters, at -1 and 1 with spread 0.5, in every number: far from linear."""
    sigma = sigma.view(-1, *[1] * (x.ndim - 1))
    total = 0.5**2 + sigma**2
    return (0.5**2 * x + sigma**2 * torch.tanh(x / total)) / total


def crooked(x, sigma):
    """A function with structure: different everywhere, different at every level."""
    sigma = sigma.view(-1, *[1] * (x.ndim - 1))
    return torch.tanh(x / (1 + sigma)) * (1.2 - 0.3 * torch.sin(3 * sigma)) + 0.1 * x.roll(1, -1) / (1 + sigma)


def scheduler():
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


TABLE = sigmas_from_alphas(scheduler().alphas_cumprod)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class TestAgainstDiffusers:
    @pytest.mark.parametrize("steps", [1, 3, 7, 20, 50])
    def test_ddim(self, steps):
        theirs = scheduler()
        theirs.set_timesteps(steps)
        timesteps = theirs.timesteps.tolist()
        sigmas = torch.cat([TABLE[timesteps], torch.zeros(1)])
        z = noise(2, 4, 5, 6)
        found = sample_ddim(crooked, z * (1 + sigmas[0] ** 2).sqrt(), sigmas, disable=True)
        for t in timesteps:
            sigma = TABLE[t]
            scale = (1 + sigma**2).sqrt()
            x = z * scale
            eps = (x - crooked(x, sigma.repeat(2))) / sigma
            z = theirs.step(eps, t, z, eta=0.0).prev_sample
        torch.testing.assert_close(found, z, atol=2e-4, rtol=2e-4)

    def test_stopping_above_zero(self):
        """The officials end at the smallest training sigma; diffusers does so with set_alpha_to_one off."""
        theirs = DDIMScheduler.from_config(scheduler().config, set_alpha_to_one=False)
        theirs.set_timesteps(50)
        plan = inversion_plan(TABLE, 50, 5, "official")
        z = noise(1, 4, 5, 6)
        found = plan.to_clean(
            sample_ddim(crooked, rescale(z, 0.0, plan.sigmas[0]), torch.tensor(plan.sigmas), disable=True)
        )
        for t in (81, 61, 41, 21, 1):
            x = rescale(z, 0.0, TABLE[t])
            z = theirs.step(to_eps(x, float(TABLE[t]), crooked(x, TABLE[t : t + 1])), t, z, eta=0.0).prev_sample
        torch.testing.assert_close(found, z, atol=1e-4, rtol=1e-4)


class TestHead:
    """k-diffusion's: model, x, sigmas, extra_args, callback, disable, in this order."""

    @pytest.mark.parametrize("loop, sigmas", [(sample_ddim, [2.0, 1.0, 0.5]), (invert_ddim, [0.5, 1.0, 2.0])])
    def test_positional_call_extra_arguments_and_callback(self, loop, sigmas):
        seen, steps = [], []

        def model(x, sigma, **extra):
            seen.append((tuple(sigma.shape), sigma.unique().tolist(), extra))
            return gaussian(x, sigma)

        out = loop(model, noise(3, 4, 5, 6), torch.tensor(sigmas), {"seed": 7}, steps.append, True)
        assert out.shape == (3, 4, 5, 6)
        assert [shape for shape, _, _ in seen] == [(3,), (3,)]  # one sigma a row
        assert [level for _, level, _ in seen] == [[2.0], [1.0]] if loop is sample_ddim else [[1.0], [2.0]]
        assert all(extra == {"seed": 7} for _, _, extra in seen)
        assert [step["i"] for step in steps] == [0, 1]
        for step in steps:
            assert set(step) == {"x", "i", "sigma", "sigma_hat", "denoised"}
            assert step["x"].shape == step["denoised"].shape == (3, 4, 5, 6)

    def test_callback_hands_out_the_latent_before_the_step_and_its_clean_estimate(self):
        steps, start, sigmas = [], noise(1, 4, 5, 6), torch.tensor([2.0, 1.0, 0.0])
        sample_ddim(gaussian, start, sigmas, callback=steps.append, disable=True)
        assert torch.equal(steps[0]["x"], start)
        torch.testing.assert_close(steps[0]["denoised"], start / 5)
        assert [float(step["sigma"]) for step in steps] == [2.0, 1.0]

    def test_the_input_is_left_alone_and_no_gradients_are_kept(self):
        start = noise(1, 4, 5, 6).requires_grad_()
        before = start.detach().clone()
        for loop, sigmas in ((sample_ddim, [2.0, 0.0]), (invert_ddim, [0.0, 2.0])):
            assert not loop(gaussian, start, torch.tensor(sigmas), disable=True).requires_grad
        assert torch.equal(start.detach(), before)


def test_batched_equals_one_by_one():
    x = noise(3, 4, 5, 6)
    up = torch.tensor([0.0, 0.1, 0.4, 1.0])
    climbed = invert_ddim(crooked, x, up, disable=True, refinements=2)
    for i in range(3):
        alone = invert_ddim(crooked, x[i : i + 1], up, disable=True, refinements=2)
        torch.testing.assert_close(climbed[i : i + 1], alone)
        torch.testing.assert_close(
            sample_ddim(crooked, climbed, up.flip(0), disable=True)[i : i + 1],
            sample_ddim(crooked, alone, up.flip(0), disable=True),
        )


class TestInversion:
    def test_first_step_from_a_clean_latent(self):
        """From 0 to s, read at s from the latent scaled as a variance-preserving one would be, spelled out."""
        x, s = noise(1, 4, 5, 6), 0.7
        seen = x * (1 + s * s) ** 0.5
        eps = (seen - seen / (1 + s * s)) / s
        torch.testing.assert_close(invert_ddim(gaussian, x, torch.tensor([0.0, s]), disable=True), x + s * eps)

    def test_reads_below(self):
        """The official program reads at the lower end: plain explicit Euler, upward."""
        x = noise(1, 4, 5, 6)
        levels, reads = torch.tensor([0.1, 0.5, 1.0]), (0.1, 0.5)
        expected = x
        for a, b in ((0.1, 0.5), (0.5, 1.0)):
            expected = expected + expected * a / (1 + a * a) * (b - a)
        torch.testing.assert_close(invert_ddim(gaussian, x, levels, disable=True, reads=reads), expected)

    def round_trip(self, model, plan, refinements):
        x = noise(2, 4, 5, 6)
        start = plan.from_clean(x)
        top = invert_ddim(
            model, start, torch.tensor(plan.levels), disable=True, reads=plan.reads, refinements=refinements
        )
        back = sample_ddim(model, plan.to_sampling(top), torch.tensor(plan.sigmas), disable=True)
        return round_trip_error(x, plan.to_clean(back))

    @pytest.mark.parametrize("model", [gaussian, mixture])
    def test_round_trip_error_shrinks_with_steps(self, model):
        """The same stretch of noise levels, in ever finer steps."""
        plans = [inversion_plan(TABLE, steps, depth) for steps, depth in ((10, 3), (50, 11), (200, 41))]
        assert plans[0].levels[-1] == plans[1].levels[-1] == plans[2].levels[-1]
        errors = [self.round_trip(model, plan, 0) for plan in plans]
        assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0, errors

    @pytest.mark.parametrize("model", [gaussian, mixture])
    def test_round_trip_error_shrinks_with_refinements(self, model):
        plan = inversion_plan(TABLE, 50, 5)
        errors = [self.round_trip(model, plan, refinements) for refinements in (0, 1, 2, 12)]
        assert errors[0] > 2 * errors[1] > 4 * errors[2], errors
        assert errors[-1] < 1e-4, errors

    def test_a_denoiser_that_knows_the_picture_is_inverted_exactly(self):
        """With one clean picture as all data the path is a straight line, which Euler's steps follow."""
        picture = noise(1, 4, 5, 6)
        levels = torch.tensor([0.5, 1.0, 2.0])
        x = picture + 0.5 * noise(1, 4, 5, 6, seed=1)
        top = invert_ddim(lambda x, sigma: picture, x, levels, disable=True, refinements=25)
        torch.testing.assert_close(sample_ddim(lambda x, sigma: picture, top, levels.flip(0), disable=True), x)

    def test_visit_is_called_at_every_level(self):
        visited, levels = [], torch.tensor([0.0, 0.2, 0.5, 1.0])
        x = noise(1, 4, 5, 6)
        top = invert_ddim(gaussian, x, levels, disable=True, refinements=2, visit=visited.append)
        assert len(visited) == 4 and torch.equal(visited[0], x) and torch.equal(visited[-1], top)
        assert all(a.abs().sum() < b.abs().sum() for a, b in pairwise(visited))

    @pytest.mark.parametrize("refinements", [0, 3])
    def test_model_calls(self, refinements):
        calls, steps = [], []

        def model(x, sigma):
            calls.append(float(sigma[0]))
            return gaussian(x, sigma)

        invert_ddim(
            model, noise(1, 4, 5, 6), torch.tensor([0.0, 0.5, 1.0]), None, steps.append, True, refinements=refinements
        )
        assert calls == [0.5] * (refinements + 1) + [1.0] * (refinements + 1)
        assert len(steps) == len(calls)  # what progress bars count

    @pytest.mark.parametrize("reads", [(0.5,), (0.5, 1.0, 2.0), (0.0, 1.0), (-0.5, 1.0), ()])
    def test_wrong_reads(self, reads):
        with pytest.raises(ValueError, match="2 steps need as many positive reads"):
            invert_ddim(gaussian, noise(1, 4, 5, 6), torch.tensor([0.0, 0.5, 1.0]), disable=True, reads=reads)

    def test_refinement_needs_the_upper_level(self):
        args = (gaussian, noise(1, 4, 5, 6), torch.tensor([0.1, 0.5, 1.0]))
        with pytest.raises(ValueError, match="read at the upper level"):
            invert_ddim(*args, disable=True, reads=(0.1, 0.5), refinements=1)
        upper = invert_ddim(*args, disable=True, reads=(0.5, 1.0), refinements=1)
        assert torch.equal(upper, invert_ddim(*args, disable=True, refinements=1))


@pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
def test_guide(weight):
    color, plain = noise(2, 3, seed=1), noise(2, 3, seed=2)
    torch.testing.assert_close(guide(color, plain, weight), (1 - weight) * plain + weight * color)
    if weight == 0:
        assert torch.equal(guide(color, plain, weight), plain)


def test_guiding_clean_estimates_is_guiding_noise():
    """The paper mixes noise predictions; in this convention the clean estimates may be mixed instead."""
    x, color, plain = (noise(2, 3, seed=i) for i in range(3))
    mixed = guide(to_eps(x, 0.7, color), to_eps(x, 0.7, plain), 10.0)
    torch.testing.assert_close(to_eps(x, 0.7, guide(color, plain, 10.0)), mixed)


class TestInversionValue:
    def inversion(self, plan=None):
        from comfyui_exemplar.attention.bank import FeatureBank
        from comfyui_exemplar.attention.layers import Layer

        plan = plan or inversion_plan(TABLE, 50, 2)
        bank = FeatureBank()
        bank.put(plan.sigmas[0], Layer("output", 0), (2, 3), q=noise(3, 6, 8))
        return Inversion(plan, noise(len(plan.levels), 3, 4, 5, 6), bank, "abc")

    def test_sizes(self):
        inversion = self.inversion()
        assert inversion.pictures == 3 and inversion.size == (5, 6)

    def test_take(self):
        whole = self.inversion()
        part = whole.take(range(1, 3))
        assert torch.equal(part.trajectory, whole.trajectory[:, 1:3]) and part.bank.pictures == 2
        assert part.plan == whole.plan and part.model == "abc"

    def test_noised_is_the_start_of_the_way_back(self):
        official = inversion_plan(TABLE, 50, 2, "official")
        for plan in (inversion_plan(TABLE, 50, 2), official):
            inversion = self.inversion(plan)
            expected = rescale(inversion.trajectory[-1], plan.levels[-1], plan.sigmas[0])
            assert torch.equal(inversion.noised(), expected)

    def test_another_model(self):
        check_same_model(self.inversion(), "abc")
        with pytest.raises(ValueError, match=r"another model \(abc\), expected one of this model \(xyz\)"):
            check_same_model(self.inversion(), "xyz")


def test_round_trip_error_is_relative_to_the_spread():
    x = noise(2, 4, 5, 6)
    assert round_trip_error(x, x) == 0
    assert round_trip_error(10 * x, 10 * x + 1) == pytest.approx(1 / (10 * x.std().item()), rel=1e-3)
    assert round_trip_error(x, torch.zeros_like(x)) == pytest.approx(1, abs=0.05)


def test_scaled_ends():
    """In: what the loop starts from; out: what is handed on; between them the loop sees its own numbers."""
    seen = []

    def loop(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        seen.append((x.clone(), options))
        return x + 1

    x = torch.tensor([2.0])
    assert scaled_ends(loop, 3.0, 0.5)(None, x, None, {}, None, True, eta=1.0) == 3.5
    assert seen[0][0] == 6 and seen[0][1] == {"eta": 1.0} and x == 2


def test_round_trip_error_of_a_picture_without_spread():
    """An empty latent has nothing to compare with: the difference itself."""
    empty = torch.zeros(1, 4, 8, 8)
    assert round_trip_error(empty, empty) == 0
    assert round_trip_error(empty, empty + 0.5) == pytest.approx(0.5)
