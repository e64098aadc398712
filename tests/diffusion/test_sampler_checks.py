"""What is said of samplers and levels before a sampling under color injection, and the levels and weights that help."""

from itertools import pairwise

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.diffusion.inversion import Inversion
from comfyui_exemplar.diffusion.sampler_checks import (
    AS_GOOD,
    MEASURED,
    MENDED,
    WEIGHTS,
    latent_level,
    level_warnings,
    sampler_name,
    sampler_warnings,
)
from comfyui_exemplar.diffusion.sampling import limited_weight
from comfyui_exemplar.diffusion.schedule import closer_levels, inversion_plan

KEPT = (0.458, 0.346, 0.228, 0.041)
LEVELS = (*KEPT, 0.0)
CLOSER = closer_levels(LEVELS, 0.75)


class TestSamplers:
    @pytest.mark.parametrize("weight", [0.0, 1.0, 3.0, 10.0, 30.0, None])
    @pytest.mark.parametrize("name", ["sample_euler", "sample_heunpp2", "sample_exp_heun_2_x0"])
    def test_nothing_is_said_of_those_that_do_as_well_as_euler(self, name, weight):
        assert sampler_warnings(name, weight, LEVELS) == []

    @pytest.mark.parametrize("name", ["sample_of_another_pack", "", "sample_ddim_of_ours"])
    def test_nothing_is_said_of_unknown_ones(self, name):
        assert sampler_warnings(name, 10.0, LEVELS) == []

    @pytest.mark.parametrize("name", sorted(MEASURED))
    @pytest.mark.parametrize(("weight", "at"), [(1.0, 0), (2.0, 1), (3.0, 1), (7.5, 2), (10.0, 2), (50, 2), (None, 2)])
    def test_what_was_measured_decides(self, name, weight, at):
        said = sampler_warnings(f"sample_{name}", weight, LEVELS)
        ratio = MEASURED[name][at]
        assert bool(said) == (ratio > AS_GOOD)
        if said:
            (text,) = said
            for part in (f"sampler {name} ", f"{ratio:.1f} times", f"guidance of {WEIGHTS[at]:g} "):
                assert part in text
            assert "Take euler" in text and ("closer_sigmas" in text) == (name in MENDED)

    def test_the_issues_rows(self):
        """Rows of the report: these lose the colors at 10, euler does not."""
        for name in ("unipc", "unipc_bh2", "dpmpp_2m", "dpmpp_2m_sde", "res_multistep", "er_sde", "sa_solver"):
            assert sampler_warnings(f"sample_{name}", 10.0, LEVELS), name

    @pytest.mark.parametrize("weight", [3.0, 10.0])
    def test_closer_levels_mend_some(self, weight):
        for name in MEASURED:
            said = sampler_warnings(f"sample_{name}", weight, CLOSER)
            assert said == ([] if name in MENDED else sampler_warnings(f"sample_{name}", weight, LEVELS))

    def test_a_step_limit_leaves_what_a_weight_of_3_does(self):
        assert sampler_warnings("sample_heun", 10.0, LEVELS)
        assert sampler_warnings("sample_heun", 10.0, LEVELS, step_limit=True) == []
        assert sampler_warnings("sample_lms", 10.0, LEVELS, step_limit=True)

    @pytest.mark.parametrize(
        ("function", "name"),
        [
            ("sample_unipc", "uni_pc"),
            ("sample_unipc_bh2", "uni_pc_bh2"),
            ("dpm_fast_function", "dpm_fast"),
            ("sample_dpmpp_2m_sde_gpu", "dpmpp_2m_sde"),
        ],
    )
    def test_samplers_have_the_names_of_the_lists(self, function, name):
        assert sampler_name(function) == name and name in MEASURED


class TestLevels:
    def test_the_inversions_own_are_right(self):
        assert level_warnings(LEVELS, KEPT, 0.458) == []
        assert level_warnings(CLOSER, KEPT, 0.458) == []

    @pytest.mark.parametrize(
        ("first", "what"), [(0.346, "noise stays in"), (0.4, "noise stays in"), (0.6, "smoothed away")]
    )
    @pytest.mark.parametrize("level", [0.458, 0.44])
    def test_another_first_level_is_named_with_both_numbers(self, first, what, level):
        (text,) = level_warnings((first, 0.228, 0.0), KEPT, level)
        assert f"{first:.3f}" in text and "0.458" in text and what in text

    def test_a_first_level_to_two_percent(self):
        assert level_warnings((0.46, 0.2, 0.0), KEPT, 0.458) == []

    def test_a_sampling_that_goes_on_where_another_stopped(self):
        assert level_warnings((0.228, 0.041, 0.0), KEPT, 0.22) == []

    def test_added_noise_fits_any_first_level(self):
        assert level_warnings((0.3, 0.1, 0.0), KEPT, None) == []

    def test_noise_that_is_left_at_the_end(self):
        (text,) = level_warnings((0.458, 0.346, 0.228), KEPT, 0.458)
        assert "stops at sigma 0.228" in text

    @pytest.mark.parametrize("convention", ["consistent", "official", "diffusers"])
    def test_the_way_back_of_every_convention_is_right(self, convention):
        plan = inversion_plan(torch.linspace(0.03, 14, 1000), 20, 4, convention)
        assert level_warnings(plan.sigmas, plan.kept_sigmas, plan.sigmas[0]) == []

    def test_no_levels(self):
        assert level_warnings((), KEPT, 0.458) == []


class TestLatentLevel:
    plan = inversion_plan(torch.linspace(0.03, 14, 1000), 20, 4)

    @pytest.fixture
    def inverted(self):
        generator = torch.Generator().manual_seed(0)
        clean, noise = torch.randn(2, 2, 4, 16, 16, generator=generator)
        levels = torch.tensor(self.plan.levels).view(-1, 1, 1, 1, 1)
        return Inversion(self.plan, clean + levels * noise, FeatureBank(), "m", ())

    def test_is_what_the_latents_were_noised_to(self, inverted):
        for level, latents in zip(self.plan.levels, inverted.trajectory, strict=True):
            assert latent_level(inverted, latents) == pytest.approx(level, abs=1e-5)

    def test_of_a_flow(self):
        """As samplers give them: divided by 1 - t, so that another can go on from there."""
        plan = inversion_plan(torch.linspace(0.001, 1, 1000), 20, 18, flow=True)
        generator = torch.Generator().manual_seed(0)
        clean, noise = torch.randn(2, 2, 4, 16, 16, generator=generator)
        times = torch.tensor(plan.levels).view(-1, 1, 1, 1, 1)
        inverted = Inversion(plan, (1 - times) * clean + times * noise, FeatureBank(), "m", ())
        for time, latents in zip(plan.levels, inverted.trajectory, strict=True):
            assert latent_level(inverted, latents / (1 - time)) == pytest.approx(time, abs=1e-5)

    def test_of_a_multiple_of_the_pictures(self, inverted):
        latents = inverted.trajectory[2].repeat(3, 1, 1, 1)
        assert latent_level(inverted, latents) == pytest.approx(self.plan.levels[2], abs=1e-5)

    def test_other_colors_hardly_change_it(self, inverted):
        colors = torch.tensor([0.0, 2.0, -1.0, 0.5]).view(1, 4, 1, 1)
        level = self.plan.levels[-1]
        assert latent_level(inverted, inverted.noised() + colors) == pytest.approx(level, rel=0.05)


class TestCloserLevels:
    def test_none_are_added_at_0(self):
        assert closer_levels(LEVELS, 0.0) == LEVELS

    @pytest.mark.parametrize("ratio", [0.5, 0.75, 0.95])
    def test_each_is_at_least_that_share_of_the_one_before(self, ratio):
        made = closer_levels(LEVELS, ratio)
        assert all(low >= ratio * high * (1 - 1e-6) for high, low in pairwise(made[:-1]))
        assert made[-1] == 0 and set(LEVELS) <= set(made) and list(made) == sorted(made, reverse=True)

    def test_steps_between_two_levels_are_even_and_no_more_than_needed(self):
        assert closer_levels((8.0, 1.0, 0.0), 0.5) == pytest.approx((8, 4, 2, 1, 0))

    def test_levels_that_are_close_enough_stay_alone(self):
        assert closer_levels((1.0, 0.8, 0.64), 0.8) == (1.0, 0.8, 0.64)

    def test_a_last_level_above_0(self):
        assert closer_levels((1.0, 0.25), 0.5) == pytest.approx((1, 0.5, 0.25))

    @pytest.mark.parametrize("ratio", [1.0, -0.1, float("nan")])
    def test_another_ratio_is_refused(self, ratio):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            closer_levels(LEVELS, ratio)


class TestLimitedWeight:
    @pytest.mark.parametrize(
        ("sigma", "weight"),
        [(1.0, 4.0), (0.75, 3.0), (0.5, 5 / 3), (0.2, 1.0)],
        ids=["a quarter", "a third", "60 %", "all"],
    )
    def test_is_one_over_the_share_of_noise_that_the_step_removes(self, sigma, weight):
        assert limited_weight(10.0, sigma, (1.0, 0.75, 0.5, 0.2, 0.0)) == pytest.approx(weight)

    @pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 1.2])
    def test_a_low_weight_stays(self, weight):
        assert limited_weight(weight, 1.0, (1.0, 0.75, 0.0)) == weight

    def test_between_two_levels_it_is_the_step_that_ends_below(self):
        assert limited_weight(10.0, 0.6, (1.0, 0.75, 0.5, 0.0)) == pytest.approx(6.0)

    def test_a_level_that_comes_back_almost_equal_is_that_level(self):
        assert limited_weight(10.0, 0.75 * (1 + 1e-6), (1.0, 0.75, 0.5, 0.0)) == pytest.approx(3.0, rel=1e-4)
        assert limited_weight(10.0, 0.75 * (1 - 1e-6), (1.0, 0.75, 0.5, 0.0)) == pytest.approx(3.0, rel=1e-4)

    def test_unknown_levels_change_nothing(self):
        assert limited_weight(10.0, 0.5, ()) == 10.0

    def test_euler_does_not_go_beyond_a_color_that_is_pulled_to_with_this_weight(self):
        """The model of the docstring: what is in the latent comes back from the plain prediction, the reference's color
        from the injected one."""
        sigmas, reference = (0.458, 0.346, 0.228, 0.041, 0.0), 1.0
        ends = {}
        for limited in (False, True):
            color = 0.0
            for sigma, below in pairwise(sigmas):
                weight = limited_weight(10.0, sigma, sigmas) if limited else 10.0
                estimate = color + weight * (reference - color)
                color += (1 - below / sigma) * (estimate - color)
            ends[limited] = abs(color - reference)
        assert ends[True] < 1e-9 and ends[False] > 10
