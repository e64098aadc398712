"""Which row is which branch of which picture, and selections of rows."""

import pytest
import torch

from comfyui_exemplar.attention.call import AttentionCall, batch_layout

from . import naive


@pytest.mark.parametrize(
    "entries, rows, branches, pictures",
    [
        ([0], 3, (0, 0, 0), (0, 1, 2)),
        ([1, 0], 4, (1, 1, 0, 0), (0, 1, 0, 1)),
        ([0, 1], 4, (0, 0, 1, 1), (0, 1, 0, 1)),
        ([1, 0, 0], 6, (1, 1, 0, 0, 0, 0), (0, 1, 0, 1, 0, 1)),
        ([2, 1, 0], 3, (2, 1, 0), (0, 0, 0)),
    ],
)
def test_batch_layout(entries, rows, branches, pictures):
    assert batch_layout(entries, rows) == (branches, pictures)


@pytest.mark.parametrize("entries, rows", [([1, 0], 3), ([0, 1, 2], 4), ([], 2)])
def test_rows_that_do_not_divide(entries, rows):
    with pytest.raises(ValueError, match=f"{rows} rows does not divide into {len(entries)}"):
        batch_layout(entries, rows)


def test_rows_of_a_branch():
    call = naive.call(branches=(1, 0, 0), batch=2)
    assert call.rows_of(0) == [2, 3, 4, 5] and call.rows_of(1) == [0, 1] and call.rows_of(7) == []


def check_selection(call, part, positions):
    for name in "qkv":
        assert torch.equal(getattr(part, name), getattr(call, name)[positions])
    for name in ("branches", "pictures", "rows"):
        assert getattr(part, name) == tuple(getattr(call, name)[i] for i in positions)
    assert (part.layer, part.sigma, part.heads, part.grid) == (call.layer, call.sigma, call.heads, call.grid)


class TestSelect:
    @pytest.mark.parametrize("positions", [[0], [3, 1], [2, 2, 5], [5, 4, 3]])
    def test_some_rows_in_the_order_asked_for(self, positions):
        call = naive.call(branches=(1, 0, 0), batch=2)
        check_selection(call, call.select(positions), positions)

    def test_a_selection_of_a_selection_keeps_the_host_s_rows(self):
        call = naive.call(branches=(1, 0), batch=3)
        assert call.select([1, 3, 5]).select([2, 0]).rows == (5, 1)

    def test_all_rows_are_the_call_itself(self):
        call = naive.call(branches=(1, 0))
        assert call.select([0, 1]) is call

    @pytest.mark.parametrize("positions", [[1, 0], [0, 0]])
    def test_as_many_rows_as_there_are_but_others(self, positions):
        call = naive.call(branches=(1, 0))
        check_selection(call, call.select(positions), positions)

    def test_no_rows(self):
        part = naive.call(branches=(1, 0)).select([])
        assert part.q.shape == (0, 6, naive.WIDTH) and part.rows == ()


def test_plain_attention():
    call = naive.call(branches=(1, 0), batch=2)
    torch.testing.assert_close(call.plain().double(), naive.attention(call.q, call.k, call.v), atol=1e-6, rtol=0)
    assert isinstance(call, AttentionCall) and call.plain().shape == call.q.shape
