"""DDIM Inversion where memory does not suffice for all pictures at once."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP

from comfyui_exemplar.hosts.comfy.conditioning import is_shared

from .models import prompt, tiny
from .sampling import difference, invert


def narrow(model, most, error=torch.OutOfMemoryError):
    """A MODEL that has memory for a few rows; and how many each of its calls had."""
    clone, rows = model.clone(), []

    def apply(executor, x, *args, **kw):
        rows.append(len(x))
        if len(x) > most:
            raise error("CUDA out of memory. Tried to allocate 20 GiB")
        return executor(x, *args, **kw)

    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "narrow", apply)
    return clone, rows


def latents(pictures):
    return torch.randn(pictures, 4, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize(("pictures", "most", "expected"), [(5, 2, {5, 2, 1}), (4, 3, {4, 2}), (3, 1, {3, 1})])
def test_half_as_many_and_the_same_result(nodes, pictures, most, expected, capture):
    model, empty, samples = tiny("sd1"), prompt("sd1"), latents(pictures)
    kept, noised, sigmas, error = invert(nodes, model, empty, samples, capture=capture)
    few, rows = narrow(model, most)
    again, same, levels, off = invert(nodes, few, empty, samples, capture=capture)
    assert set(rows) == expected and torch.equal(sigmas, levels) and again.pictures == pictures
    # sums are rounded in another order where a batch has another size; the latents are about 1
    assert difference(noised["samples"], same["samples"]) < 1e-4 and error == pytest.approx(off, rel=1e-3)
    assert difference(kept.trajectory, again.trajectory) < 1e-4
    found = {entry[:3]: entry[3] for entry in again.bank.items()}
    assert len(found) == len(list(kept.bank.items())) and bool(found) == capture
    for sigma, layer, name, tensor in kept.bank.items():
        assert difference(found[sigma, layer, name], tensor) < 1e-3
        assert kept.bank.grid(layer) == again.bank.grid(layer)


def test_a_single_picture_is_too_much(nodes):
    few, _ = narrow(tiny("sd1"), 0)
    with pytest.raises(RuntimeError, match="out of memory"):
        invert(nodes, few, prompt("sd1"), latents(2))


def test_another_error_is_not_tried_again(nodes):
    few, rows = narrow(tiny("sd1"), 1, RuntimeError)
    with pytest.raises(RuntimeError, match="20 GiB"):
        invert(nodes, few, prompt("sd1"), latents(2), capture=False)
    assert rows == [2]


def test_pictures_with_prompts_of_their_own_stay_together(nodes):
    (context, extras), *_ = prompt("sd1")
    own = [[context.repeat(2, 1, 1) + torch.arange(2.0)[:, None, None], extras]]
    assert is_shared(prompt("sd1")) and not is_shared(own)
    assert not is_shared([[context, {**extras, "control": object()}]])
    few, rows = narrow(tiny("sd1"), 1)
    with pytest.raises(RuntimeError, match="out of memory"):
        invert(nodes, few, own, latents(2))
    assert rows == [2]
