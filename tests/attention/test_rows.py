"""Rows without index tensors, against torch's own indexing."""

import pytest
import torch

from comfyui_exemplar.attention.rows import compact, put, spans, taken

CHOICES = [[], [2], [0, 1, 2, 3], [1, 2], [0, 2], [1, 3], [3, 0], [0, 0, 0], [2, 2], [0, 1, 0, 1], [0, 1, 3], [3, 2, 1]]


@pytest.mark.parametrize("rows", CHOICES, ids=str)
def test_any_rows(rows):
    x = torch.arange(60.0).reshape(4, 5, 3)
    assert torch.equal(taken(x, rows), x[rows])
    assert torch.equal(taken(x, rows, 1), x[:, rows])
    assert torch.equal(taken(x.movedim(0, -1), rows, -1), x.movedim(0, -1)[..., rows])
    if len(set(rows)) == len(rows):
        out, wanted, values = x.clone(), x.clone(), -x[: len(rows)]
        put(out, rows, values)
        wanted[rows] = values
        assert torch.equal(out, wanted)


def test_evenly_spaced_rows_are_a_view():
    x = torch.zeros(6, 2)
    for rows in ([3], range(1, 4), (0, 2, 4), [5]):
        assert len(spans(rows)) == 1 and taken(x, rows).untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert [len(spans(rows)) for rows in ([0, 1, 4, 5], [0, 0], [1, 0])] == [2, 2, 2]


def test_what_is_compact_keeps_nothing_else_alive():
    x = torch.arange(12.0).reshape(6, 2)
    for rows in ([1, 2], [0, 2, 4], [5]):
        part = compact(taken(x, rows))
        assert torch.equal(part, x[rows]) and part.untyped_storage().nbytes() == part.nbytes
    for whole in (x, x.T, x.expand(3, 6, 2), x.reshape(2, 6)):
        assert compact(whole) is whole
