"""The DDIM grid and both conventions' plans, spelled out."""

from typing import get_args

import pytest
import torch

from comfyui_exemplar.diffusion.schedule import (
    Convention,
    ancestral_sigmas,
    ddim_timesteps,
    fractional_timestep,
    inversion_plan,
    rescale,
    sigmas_from_alphas,
)

#: A table in which sigma i is readable: 0.01 more than the timestep.
TABLE = torch.arange(1000).double() + 0.01


def at(*timesteps):
    return pytest.approx([t + 0.01 for t in timesteps])


def plan(**kwargs):
    return inversion_plan(TABLE, **kwargs)


class TestGrid:
    def test_fifty_steps(self):
        assert ddim_timesteps(50) == [1 + 20 * i for i in range(50)]

    def test_one_step(self):
        assert ddim_timesteps(1) == [1]

    def test_a_number_that_does_not_divide_gives_one_more(self):
        grid = ddim_timesteps(12)
        assert len(grid) == 13 and grid[:3] == [1, 84, 167] and grid[-1] == 997

    def test_almost_every_timestep(self):
        assert ddim_timesteps(999) == list(range(1, 1000))

    def test_another_training_length(self):
        assert ddim_timesteps(4, 100) == [1, 26, 51, 76]

    @pytest.mark.parametrize("steps", [1, 2, 7, 12, 50, 64, 100, 333, 500, 999])
    def test_the_same_as_comfyui_s_ddim_uniform(self, steps):
        """comfy.samplers.ddim_scheduler: every ``1000 // steps``-th sigma from the second on, ascending; then 0 in
        front."""
        pitch = max(1000 // steps, 1)
        expected, x = [], 1
        while x < 1000:
            expected.append(x)
            x += pitch
        assert ddim_timesteps(steps) == expected

    @pytest.mark.parametrize("steps", [0, -3, 1000, 5000])
    def test_out_of_range(self, steps):
        with pytest.raises(ValueError, match=f"The schedule has {steps} steps; it must have between 1 and 999"):
            ddim_timesteps(steps)


class TestConsistent:
    def test_fifty_steps_five_deep(self):
        found = plan()
        assert list(found.levels) == [0.0, *at(1, 21, 41, 61, 81).expected]
        assert list(found.reads) == at(1, 21, 41, 61, 81)  # the upper end of each step
        assert list(found.sigmas) == [*at(81, 61, 41, 21, 1).expected, 0.0]
        assert (found.convention, found.steps, found.depth) == ("consistent", 50, 5)

    def test_the_way_back_visits_the_levels_of_the_climb(self):
        for steps, depth in ((50, 1), (50, 50), (12, 13), (7, 3)):
            found = plan(steps=steps, depth=depth)
            assert found.sigmas == found.levels[::-1] and found.reads == found.levels[1:]

    def test_nothing_is_reread(self):
        x = torch.randn(2, 3)
        assert (
            torch.equal(plan().from_clean(x), x)
            and torch.equal(plan().to_sampling(x), x)
            and torch.equal(plan().to_clean(x), x)
        )


class TestOfficial:
    def test_fifty_steps_five_deep(self):
        found = plan(convention="official")
        assert list(found.levels) == at(1, 21, 41, 61, 81, 101, 121)
        assert list(found.reads) == at(1, 21, 41, 61, 81, 101)  # the lower end of each step
        assert list(found.sigmas) == at(81, 61, 41, 21, 1, 0)

    def test_the_turn_jumps_from_121_to_81(self):
        found, x = plan(convention="official"), torch.randn(2, 3)
        assert torch.equal(found.to_sampling(x), rescale(x, found.levels[-1], found.sigmas[0]))
        up, down = 121.01, 81.01
        torch.testing.assert_close(found.to_sampling(x), x * ((1 + down**2) / (1 + up**2)) ** 0.5)

    def test_enter_and_leave_are_at_timesteps_1_and_0(self):
        found, x = plan(convention="official"), torch.randn(2, 3)
        torch.testing.assert_close(found.from_clean(x), x * (1 + 1.01**2) ** 0.5)
        torch.testing.assert_close(found.to_clean(x), x / (1 + 0.01**2) ** 0.5)

    def test_the_top_of_the_climb_stays_within_the_table(self):
        found = plan(steps=50, depth=49, convention="official")
        assert list(found.levels[-2:]) == at(981, 999) and len(found.levels) == 51
        assert list(found.sigmas[:1]) == at(961)


class TestDiffusers:
    def test_consistent_above_the_smallest_training_sigma(self):
        found, same = plan(convention="diffusers"), plan()
        assert (found.levels[1:], found.reads, found.sigmas[:-1]) == (same.levels[1:], same.reads, same.sigmas[:-1])
        assert [found.levels[0], found.sigmas[-1]] == at(0, 0)

    def test_a_whole_schedule_is_as_long_as_asked(self):
        """Six steps of 1000: the grid has a seventh entry, which diffusers leaves out."""
        assert list(plan(steps=6, depth=6, convention="diffusers").sigmas) == at(831, 665, 499, 333, 167, 1, 0)


@pytest.mark.parametrize("convention, most", [("consistent", 50), ("diffusers", 50), ("official", 49)])
class TestDepth:
    def test_limits(self, convention, most):
        for depth in (1, most):
            found = plan(depth=depth, convention=convention)
            assert len(found.sigmas) == depth + 1
            assert len(found.reads) == len(found.levels) - 1 == depth + (convention == "official")
            assert list(found.levels) == sorted(found.levels) and list(found.sigmas) == sorted(found.sigmas)[::-1]

    def test_beyond(self, convention, most):
        for depth in (0, -1, most + 1):
            message = rf"depth is {depth}, expected 1 to {most}, .*\b{convention}\b.* over 50 steps can be"
            with pytest.raises(ValueError, match=message):
                plan(depth=depth, convention=convention)


def test_one_step_has_no_official_inversion():
    assert plan(steps=1, depth=1).levels == (0.0, TABLE[1])
    with pytest.raises(ValueError, match=r"official inversion needs a schedule of at least 2 steps"):
        plan(steps=1, depth=1, convention="official")


def test_unknown_convention():
    with pytest.raises(ValueError, match="convention is 'exact'; expected one of consistent, official"):
        plan(convention="exact")
    assert get_args(Convention) == ("consistent", "official", "diffusers")


def test_features_are_worth_keeping_where_the_way_back_reads():
    assert list(plan(depth=3).kept_sigmas) == at(41, 21, 1)
    assert list(plan(depth=3, convention="official").kept_sigmas) == at(41, 21, 1)


class TestReread:
    @pytest.mark.parametrize("a, b", [(0.0, 1.3), (2.0, 0.1), (14.6, 0.0), (0.03, 157.0)])
    def test_its_own_inverse(self, a, b):
        x = torch.randn(2, 3)
        torch.testing.assert_close(rescale(rescale(x, a, b), b, a), x)

    @pytest.mark.parametrize("a, b", [(0.0, 1.3), (2.0, 0.1)])
    def test_variance_preserving_numbers_stay(self, a, b):
        x = torch.randn(2, 3)
        torch.testing.assert_close(rescale(x, a, b) / (1 + b * b) ** 0.5, x / (1 + a * a) ** 0.5)

    def test_levels_may_be_tensors_and_the_dtype_stays(self):
        x = torch.randn(2, 3).half()
        found = rescale(x, torch.tensor(2.0), torch.tensor(0.5))
        assert found.dtype == torch.float16
        torch.testing.assert_close(found, x * 0.5)


def test_sigmas_from_alphas():
    alphas = torch.tensor([0.9, 0.5, 0.1])
    expected = torch.tensor([(0.1 / 0.9) ** 0.5, 1.0, 3.0])
    torch.testing.assert_close(sigmas_from_alphas(alphas), expected)
    # float32 alone would lose the digits of 1 - alpha
    near_one = torch.tensor([1 - 2**-20], dtype=torch.float32)
    torch.testing.assert_close(sigmas_from_alphas(near_one), torch.tensor([2.0**-10]), rtol=1e-6, atol=0)


def test_fractional_timesteps():
    """Whole ones at training sigmas, halfway at their geometric mean, and nothing beyond the ends."""
    table = TABLE.float()
    asked = torch.stack([table[0], table[7], (table[7] * table[8]).sqrt(), table[-1], table[-1] * 2, table[0] / 2])
    found = fractional_timestep(table, asked)
    assert found.dtype == asked.dtype
    torch.testing.assert_close(found, torch.tensor([0.0, 7.0, 7.5, 999.0, 999.0, 0.0]), atol=1e-2, rtol=0)


class TestAncestral:
    def test_whole_timesteps_are_the_table_s(self):
        # 999 in 4 steps: 999, 666, 333, 0
        found = ancestral_sigmas(TABLE, 4)
        assert found[:-1].tolist() == at(999, 666, 333, 0) and found[-1] == 0

    def test_between_two_timesteps_it_is_linear_in_log_sigma(self):
        # 999 in 3 steps: 999, 499.5, 0
        assert float(ancestral_sigmas(TABLE, 3)[1]) == pytest.approx((499.01 * 500.01) ** 0.5)

    def test_one_step_starts_at_the_top(self):
        assert ancestral_sigmas(TABLE, 1).tolist() == [pytest.approx(999.01), 0]

    def test_no_steps(self):
        with pytest.raises(ValueError, match="at least 1"):
            ancestral_sigmas(TABLE, 0)
