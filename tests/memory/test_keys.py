"""Keys in fewer bits."""

import pytest
import torch

from comfyui_exemplar.memory.keys import joined, stored

KEYS = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0] * 8 + [40.0] * 4)


@pytest.mark.parametrize(("precision", "bytes_each"), [("float32", 48), ("float16", 24), ("int8", 12 + 4)])
def test_what_they_take(precision, bytes_each):
    keys = stored(KEYS, (8, 4), precision)
    assert keys.nbytes == 50 * bytes_each and keys.precision == precision and len(keys) == 50


def test_float32_is_exact_and_the_others_are_near():
    assert torch.equal(stored(KEYS, (8, 4), "float32").floats(), KEYS)
    torch.testing.assert_close(stored(KEYS, (8, 4), "float16").floats(), KEYS, rtol=2**-11, atol=1e-6)
    off = (stored(KEYS, (8, 4), "int8").floats() - KEYS).abs()
    for part, width in ((slice(0, 8), 8), (slice(8, 12), 4)):  # each space by itself: the small one is not rounded away
        largest = KEYS[:, part].abs().amax(-1, keepdim=True).expand(-1, width)
        assert (off[:, part] <= 0.51 / 127 * largest + 1e-6).all()


def test_eight_bits_never_run_over():
    keys = stored(torch.tensor([[3e-6, 0.0], [-1e4, 1e4], [0.0, 0.0]]), (2,), "int8")
    assert keys.data.abs().max() <= 127
    torch.testing.assert_close(keys.floats()[1], torch.tensor([-1e4, 1e4]), rtol=0.01, atol=0)
    assert torch.equal(keys.floats()[2], torch.zeros(2))


def test_what_half_precision_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="float32 or int8"):
        stored(torch.tensor([[1e6]]), (1,), "float16")


@pytest.mark.parametrize("pair", [("int8", "int8"), ("int8", "float16"), ("float32", "int8"), ("float16", "float16")])
def test_joined_in_the_larger_precision(pair):
    keys = joined([stored(KEYS[:20], (8, 4), pair[0]), stored(KEYS[20:], (8, 4), pair[1])])
    assert len(keys) == 50
    order = ("int8", "float16", "float32")
    assert keys.precision == max(pair, key=order.index)
    torch.testing.assert_close(keys.floats(), KEYS, rtol=0, atol=0.7)  # 0.51 steps of the largest, 170


def test_rows_are_taken_with_their_factors():
    keys = stored(KEYS, (8, 4), "int8")
    rows = torch.tensor([4, 2, 40])
    assert torch.equal(keys[rows].floats(), keys.floats()[rows])
    assert torch.equal(keys[3:7].floats(), keys.floats()[3:7])
