"""Logits that outlive a call: queries and keys are exchanged, values never."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.call import CROSS, AttentionCall
from comfyui_exemplar.attention.layers import Layer
from comfyui_exemplar.attention.logits import KeepLogits, LogitCache, ReuseLogits, StaleLogits

from . import naive


def calls(*branches, batch=1, **kwargs):
    return [naive.call(branches=b, batch=batch, seed=10 * i, **kwargs) for i, b in enumerate(branches)]


def plain(call):
    return call.plain()


def expected(kept, fresh):
    """Map of the kept call on the values of the fresh one."""
    return naive.attention(kept.q, kept.k, fresh.v).float()


def run(edit, call):
    return edit(call, AttentionCall.plain)


def close(found, wanted):
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


class TestStale:
    def test_every_second_call_reuses(self):
        edit = StaleLogits(LogitCache())
        made = calls((1, 0), (1, 0), (1, 0), (1, 0), batch=2)
        found = [run(edit, call) for call in made]
        assert torch.equal(found[0], plain(made[0])) and torch.equal(found[2], plain(made[2]))
        close(found[1], expected(made[0], made[1]))
        close(found[3], expected(made[2], made[3]))
        assert not torch.allclose(found[1], plain(made[1]), atol=1e-2)

    def test_guidances_own_calls_have_their_predictions_logits(self):
        """A second call of one prediction takes nothing that is meant for the next."""
        edit = StaleLogits(LogitCache())
        made = calls((1, 0), (0,), (1, 0), (0,), (1, 0))
        first, extra, second, again, third = (
            dataclasses.replace(call, prediction=number) for call, number in zip(made, (1, 1, 2, 2, 3), strict=True)
        )
        assert torch.equal(run(edit, first), plain(first))
        assert torch.equal(run(edit, extra), plain(extra)), "a fresh step's other calls are fresh"
        close(run(edit, second), expected(first, second))
        row = first.select([1])
        close(run(edit, again), expected(row, again))
        assert torch.equal(run(edit, third), plain(third))

    def test_layers_and_kinds_do_not_meet(self):
        edit = StaleLogits(LogitCache())
        first, second = calls((0,), (0,))
        run(edit, first)
        for other in (dataclasses.replace(second, layer=Layer("middle", 0)), dataclasses.replace(second, kind=CROSS)):
            assert torch.equal(run(edit, other), plain(other))
        close(run(edit, second), expected(first, second))

    @pytest.mark.parametrize("then", [[(0,), (1,)], [(1,), (0,)], [(0, 1)]])
    def test_rows_find_theirs_however_the_host_batches(self, then):
        cache = LogitCache()
        (first,) = calls((1, 0), batch=2)
        run(StaleLogits(cache), first)
        for i, branches in enumerate(then):
            call = naive.call(branches=branches, batch=2, seed=40 + i)
            at = zip(call.branches, call.pictures, strict=True)
            rows = [first.branches.index(branch) + picture for branch, picture in at]
            close(run(StaleLogits(cache), call), expected(first.select(rows), call))

    def test_another_size_is_another_picture(self):
        edit = StaleLogits(LogitCache())
        first, second = naive.call(tokens=6), naive.call(tokens=8, seed=3)
        run(edit, first)
        assert torch.equal(run(edit, second), plain(second))

    def test_a_prompt_of_several_parts(self):
        """Rows of one branch and picture are told apart by their order."""
        edit = StaleLogits(LogitCache())
        first, second = calls((0, 0), (0, 0))
        run(edit, first)
        close(run(edit, second), expected(first, second))


class TestTwoPasses:
    def test_conditional_rows_keep_theirs(self):
        cache = LogitCache()
        first, second = naive.call(branches=(1, 0), batch=2), naive.call(branches=(0,), batch=2, seed=7)
        assert torch.equal(run(KeepLogits(cache), first), plain(first))
        close(run(ReuseLogits(cache), second), expected(first.select(first.rows_of(0)), second))
        assert torch.equal(run(ReuseLogits(cache), second), plain(second)), "used once"

    def test_the_change_sees_the_kept_logits(self):
        cache, seen = LogitCache(), []

        def change(call, earlier):
            seen.append(call)
            return -earlier(call)

        first, second = calls((0,), (0,))
        run(KeepLogits(cache), first)
        close(run(ReuseLogits(cache, change), second), -expected(first, second))
        assert torch.equal(seen[0].q, first.q) and torch.equal(seen[0].v, second.v)


class TestMemory:
    """What is kept holds no other rows alive, and goes when nothing can ask for it any more."""

    @staticmethod
    def size(*kept):
        return sum(call.q.nbytes + call.k.nbytes for call in kept)

    def test_only_the_conditional_rows(self):
        cache = LogitCache()
        call = naive.call(branches=(1, 1, 0, 1), batch=2)
        run(KeepLogits(cache), call)
        assert naive.memory(cache._kept) == self.size(call.select(call.rows_of(0)))

    def test_all_rows_are_kept_as_they_are(self):
        cache = LogitCache()
        call = naive.call(branches=(1, 0), batch=2)
        run(StaleLogits(cache), call)
        assert {t.untyped_storage().data_ptr() for t in naive.tensors(cache._kept)} == {
            t.untyped_storage().data_ptr() for t in (call.q, call.k)
        }

    def test_rows_of_a_larger_tensor(self):
        """Projections may come as one tensor."""
        cache = LogitCache()
        call = naive.call(branches=(1, 0))
        q, k, v = torch.cat([call.q, call.k, call.v], -1).chunk(3, -1)
        run(StaleLogits(cache), dataclasses.replace(call, q=q, k=k, v=v))
        assert naive.memory(cache._kept) == self.size(call)

    def test_the_next_prediction_lets_go_of_the_last_ones(self):
        cache = LogitCache()
        layers = [Layer("output", i) for i in range(4)]

        def predict(number):
            """Layer after layer; what the cache holds before each."""
            held = []
            for i, layer in enumerate(layers):
                held.append(naive.memory([cache._kept, cache._used]))
                call = dataclasses.replace(naive.call(layer=layer, seed=10 * i), prediction=number)
                run(StaleLogits(cache), call)
            return [size // self.size(call) for size in held]

        assert predict(1) == [0, 1, 2, 3]
        assert predict(2) == [4, 4, 4, 4], "what this prediction has used its own guidance may ask for again"
        assert predict(3) == [4, 1, 2, 3]
