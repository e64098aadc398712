"""Phrases drawn into masks: the published step against autograd, the normalized one against its reasons."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from comfyui_exemplar.attention.call import CROSS, AttentionCall
from comfyui_exemplar.attention.instances import (
    REACH,
    Instance,
    InstanceEdit,
    InstanceSettings,
    normalized_step,
    official_grid,
    official_step,
    soft_grid,
    token_logits,
)

from . import naive

LENGTH = 11
GRID = (4, 6)


def half_mask(height=32, width=48, side="left"):
    mask = torch.zeros(1, height, width)
    mask[..., : width // 2] = 1
    return mask if side == "left" else 1 - mask


def cross_call(branches=(1, 0), batch=1, repeats=1, heads=naive.HEADS, width=naive.WIDTH, grid=GRID, **kwargs):
    """A call whose keys are a prompt's, written down one or more times."""
    call = naive.call(
        branches=branches, batch=batch, tokens=grid[0] * grid[1], grid=grid, heads=heads, width=width, **kwargs
    )
    k, v = (naive.rand(len(call.rows), LENGTH, width, seed=s).repeat(1, repeats, 1) for s in (50, 51))
    return dataclasses.replace(call, k=k, v=v, kind=CROSS)


def instance(tokens=(2, 3), masks=None, **settings):
    return Instance("red cup", tokens, LENGTH, half_mask() if masks is None else masks, InstanceSettings(**settings))


def run(call, *instances):
    return InstanceEdit(instances, (32, 48))(call, AttentionCall.plain)


def by_hand(call, *instances):
    """The same with maps spelled out in float64."""
    logits = naive.logits(call.q, call.k, call.heads)
    for one in instances:
        for row, (branch, picture) in enumerate(zip(call.branches, call.pictures, strict=True)):
            if branch:
                continue
            masks = one.masks[picture % len(one.masks)][None]
            for token in [t for t in range(call.k.shape[1]) if t % LENGTH in one.tokens]:
                if one.settings.step == "normalized":
                    mask = soft_grid(masks, call.grid).flatten().double()
                    logits[row, :, :, token] += one.settings.strength * REACH * (2 * mask - 1)
                else:
                    mask = official_grid(masks, (32, 48), call.grid).flatten()
                    n = call.heads * len(one.tokens) * call.q.shape[1]
                    own = naive.logits(call.q, call.k, call.heads)[row, :, :, token]
                    logits[row, :, :, token] -= one.settings.strength * (own.sigmoid() - mask) / n
    return naive.apply(logits.softmax(-1), call.v, call.heads).float()


BOTH_STEPS = [{"step": "normalized"}, {"step": "official", "strength": 200.0}]


class TestEdit:
    @pytest.mark.parametrize("settings", BOTH_STEPS)
    @pytest.mark.parametrize("branches", [(0,), (1, 0), (0, 1), (2, 0, 1), (0, 0)])
    def test_equals_the_spelled_out_computation(self, branches, settings):
        call, one = cross_call(branches, batch=2), instance(**settings)
        torch.testing.assert_close(run(call, one), by_hand(call, one), atol=1e-5, rtol=0)
        assert not torch.allclose(run(call, one), call.plain(), atol=1e-3)

    @pytest.mark.parametrize("settings", BOTH_STEPS)
    @pytest.mark.parametrize("heads, width, grid", [(1, 8, (1, 1)), (5, 20, (3, 7)), (2, 80, (8, 2))])
    def test_any_heads_and_sizes(self, settings, heads, width, grid):
        call, one = cross_call(heads=heads, width=width, grid=grid), instance(**settings)
        torch.testing.assert_close(run(call, one), by_hand(call, one), atol=1e-5, rtol=0)

    @pytest.mark.parametrize("settings", BOTH_STEPS)
    def test_a_repeated_prompt_is_the_same_prompt(self, settings):
        once, thrice = cross_call(), cross_call(repeats=3)
        torch.testing.assert_close(
            run(once, instance(**settings)), run(thrice, instance(**settings)), atol=1e-5, rtol=0
        )

    def test_both_steps_and_shared_tokens_in_one_call(self):
        call = cross_call()
        some = [
            instance((2, 3), **BOTH_STEPS[0]),
            instance((3, 4, 5), half_mask(side="right"), **BOTH_STEPS[1]),
            instance((7,), half_mask(20, 20), strength=0.3),
        ]
        torch.testing.assert_close(run(call, *some), by_hand(call, *some), atol=1e-5, rtol=0)

    def test_masks_of_their_own_for_each_picture(self):
        masks = torch.cat([half_mask(), half_mask(side="right")])
        call, one = cross_call(batch=4), instance(masks=masks)
        torch.testing.assert_close(run(call, one), by_hand(call, one), atol=1e-5, rtol=0)

    def test_unconditional_rows_are_the_hosts(self):
        call = cross_call((1, 0, 1), batch=2)
        found = run(call, instance())
        rest = [i for i, branch in enumerate(call.branches) if branch]
        assert torch.equal(found[rest], call.select(rest).plain())

    @pytest.mark.parametrize(
        "call, settings",
        [
            (cross_call((1,)), {}),
            (dataclasses.replace(cross_call(), kind="attn1"), {}),
            (cross_call(), {"strength": 0.0}),
            (cross_call(), {"sigma_start": 0.9}),
            (cross_call(), {"sigma_end": 1.1}),
        ],
    )
    def test_elsewhere_it_does_nothing(self, call, settings):
        assert torch.equal(run(call, instance(**settings)), call.plain())

    def test_half_precision(self):
        call = cross_call()
        half = dataclasses.replace(call, q=call.q.bfloat16(), k=call.k.bfloat16(), v=call.v.bfloat16())
        found = run(half, instance())
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), run(call, instance()), atol=0.05, rtol=0)

    def test_no_map_is_built(self):
        """With many tokens nothing as large as a map of one head appears."""
        call = dataclasses.replace(
            cross_call(grid=(64, 64), heads=4, width=32),
            k=naive.rand(2, 7 * LENGTH, 32),
            v=naive.rand(2, 7 * LENGTH, 32),
        )
        largest = 0

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                nonlocal largest
                out = function(*args, **(kwargs or {}))
                if isinstance(out, torch.Tensor):
                    largest = max(largest, out.numel())
                return out

        with Watch():
            run(call, instance())
        assert largest < 4096 * 7 * LENGTH


class TestPublishedStep:
    def test_is_the_gradient(self):
        logits = 6 * naive.rand(2, 3, 24, 4).double()
        mask = (naive.rand(2, 24, seed=1) > 0).double()
        mask[0, :5] = torch.linspace(0, 1, 5)  # resized masks have values in between
        logits.requires_grad_()
        for row in range(2):  # the published program knows one picture
            target = mask[row][None, :, None].expand_as(logits[row])
            F.binary_cross_entropy(logits[row].sigmoid(), target).backward()
        torch.testing.assert_close(official_step(logits.detach(), mask), -logits.grad, atol=1e-12, rtol=1e-9)

    def test_saturated_logits_stay(self):
        """Where the float32 sigmoid rounds to 1 torch's gradient is 0, and so is the step; it fades where it rounds to
        0."""
        logits = torch.tensor([16.0, 17.0, 30.0, -20.0, -30.0, -120.0]).reshape(1, 1, -1, 1).requires_grad_()
        for mask in (torch.zeros(1, 6), torch.ones(1, 6)):
            logits.grad = None
            F.binary_cross_entropy(logits.sigmoid(), mask[:, None, :, None]).backward()
            torch.testing.assert_close(official_step(logits.detach(), mask), -logits.grad, atol=0, rtol=1e-4)
        assert official_step(logits.detach(), torch.zeros(1, 6)).flatten()[1] == 0

    def test_size_is_divided_by_all_there_is(self):
        one = official_step(torch.zeros(1, 2, 6, 3), torch.ones(1, 6))
        assert torch.allclose(one, torch.full_like(one, 0.5 / 36))
        assert torch.allclose(official_step(torch.zeros(5, 2, 6, 3), torch.ones(5, 6)), one.expand(5, -1, -1, -1))

    def test_logits(self):
        call = cross_call()
        wanted = naive.logits(call.q, call.k)[..., [4, 1]].float()
        torch.testing.assert_close(token_logits(call, (4, 1)), wanted, atol=1e-5, rtol=0)


class TestNormalizedStep:
    def test_goes_the_way_of_the_published_one(self):
        mask = (naive.rand(1, 50, seed=1) > 0).float()
        published = official_step(4 * naive.rand(1, 2, 50, 3), mask)
        assert torch.equal(published.sign(), normalized_step(mask)[:, None, :, None].sign().expand_as(published))

    def test_shifts_the_balance_by_a_known_factor(self):
        """Inside, a phrase's tokens gain e^REACH on all others; outside they lose as much."""
        call, one = cross_call((0,)), instance()
        before, after = (share_of(call, tokens, one.tokens) for tokens in ((), (one,)))
        odds = (after / (1 - after)) / (before / (1 - before))
        inside = soft_grid(one.masks, GRID).flatten() > 0.5
        torch.testing.assert_close(odds[inside].log(), torch.full_like(odds[inside], REACH), atol=1e-3, rtol=0)
        torch.testing.assert_close(odds[~inside].log(), torch.full_like(odds[~inside], -REACH), atol=1e-3, rtol=0)


def share_of(call, instances, tokens):
    """How much attention each place gives to tokens, (N,) of the first head: values that are 1 there show it."""
    marked = torch.zeros_like(call.v)
    marked[:, list(tokens)] = 1
    return run(dataclasses.replace(call, v=marked), *instances)[0, :, 0].double()


class TestMasks:
    def test_a_thing_smaller_than_a_token_has_one(self):
        mask = torch.zeros(1, 32, 32)
        mask[0, 3:5, 3:5] = 1
        small = soft_grid(mask, (4, 4))
        assert small[0, 0, 0] == 1 and small.sum() == 1

    def test_shares(self):
        mask = torch.zeros(1, 8, 12)
        mask[..., :5] = 1
        torch.testing.assert_close(soft_grid(mask, (2, 3)), torch.tensor([1.0, 0.25, 0.0]).expand(1, 2, 3))

    def test_published_resize_takes_the_nearest_pixel(self):
        mask = torch.zeros(1, 8, 8)
        mask[0, :, 4:] = 1
        assert torch.equal(official_grid(mask, (8, 8), (1, 2))[0], torch.tensor([[0.0, 1.0]]).double())
        assert torch.equal(official_grid(mask, (8, 8), (1, 1))[0], torch.tensor([[0.0]]).double())

    @pytest.mark.parametrize(
        "masks",
        [
            torch.zeros(1, 8, 8),
            torch.full((1, 8, 8), 0.4),
            torch.zeros(1, 0, 8),
            torch.stack([torch.ones(8, 8), torch.zeros(8, 8)]),
        ],
    )
    def test_empty_ones_are_refused(self, masks):
        with pytest.raises(ValueError, match=r"masks: found nothing above one half in that of 'red cup'"):
            instance(masks=masks)


class TestBadInput:
    @pytest.mark.parametrize("tokens", [(), (-1,), (3, LENGTH)])
    def test_tokens(self, tokens):
        with pytest.raises(ValueError, match="'red cup' has the tokens"):
            instance(tokens)

    @pytest.mark.parametrize(
        "settings, word",
        [
            ({"strength": -1}, "strength"),
            ({"strength": float("nan")}, "strength"),
            ({"step": "big"}, "step"),
            ({"schedule": "none"}, "schedule"),
        ],
    )
    def test_settings(self, settings, word):
        with pytest.raises(ValueError, match=f"{word} is"):
            InstanceSettings(**settings)

    def test_another_prompt(self):
        call = cross_call()
        with pytest.raises(ValueError, match=r"positive prompt has 10 tokens, the one that 'red cup' .* in 11"):
            run(dataclasses.replace(call, k=call.k[:, :10], v=call.v[:, :10]), instance())
