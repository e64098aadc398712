"""Learning where memory is short: what a backward pass keeps, and that activations are then computed again."""

import logging

import comfy.model_management as mm
import pytest
import torch

from comfyui_exemplar.diffusion.learning import SPARED
from comfyui_exemplar.hosts.comfy.borrowed import gradients
from comfyui_exemplar.hosts.comfy.gradients import DifferentiableUNet, clone_for_autograd, working_bytes

from .models import prompt, tiny
from .sampling import difference
from .test_pivot import invert, latent_of, pivots_of
from .work import RUNS


class Kept:
    """Bytes that autograd saves while it is entered, weights apart."""

    def __init__(self, weights):
        self.own = {weight.untyped_storage().data_ptr() for weight in weights}
        self.storages = {}

    def __enter__(self):
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda saved: saved)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error):
        self._hooks.__exit__(*error)

    def _pack(self, saved):
        storage = saved.untyped_storage()
        if storage.data_ptr() not in self.own:
            self.storages[storage.data_ptr()] = storage
        return saved

    @property
    def bytes(self):
        return sum(storage.nbytes() for storage in self.storages.values())


def kept_of(model, conditioning, shape):
    """What a call keeps."""
    context, extras = conditioning[0]
    with gradients():
        unet = DifferentiableUNet(model, extras)
        x = clone_for_autograd(torch.randn(shape, generator=torch.Generator().manual_seed(1)))
        with Kept(unet.base.parameters()) as kept:
            answer = unet(x, 2.0, clone_for_autograd(context).requires_grad_(True))
        assert answer.requires_grad
    return kept.bytes


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "embedded"])
@pytest.mark.parametrize("rows", [1, 2])
def test_the_estimate_is_what_is_kept(embedded, family, rows):
    """Less than a third too much, and hardly too little."""
    model, conditioning = (embedded[0], embedded[3]) if family == "embedded" else (tiny(family), prompt(family))
    shape = (rows, 4, 32, 48)
    kept = kept_of(model, conditioning, shape)
    estimate = working_bytes(model, shape) - model.memory_required(list(shape))
    assert 0.95 * kept < estimate < 1.33 * kept


def test_weights_that_are_cast_count():
    model = tiny("sd1")
    shape, numbers = [1, 4, 8, 8], sum(weight.numel() for weight in model.model.diffusion_model.parameters())
    plain = working_bytes(model, shape)
    model.model.manual_cast_dtype = torch.float32
    assert working_bytes(model, shape) == plain + 4 * numbers
    assert working_bytes(model, shape, recomputed=True) < plain


class Short:
    """Memory that runs out in a UNet's backward-able calls until activations are computed again."""

    def __init__(self, monkeypatch, from_call=1):
        self.calls, self.spared, call, spare = 0, 0, DifferentiableUNet.__call__, DifferentiableUNet.spare

        def calling(unet, x, *args):
            if torch.is_grad_enabled():
                self.calls += 1
                if self.calls >= from_call and not unet.checkpointing:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
            return call(unet, x, *args)

        def sparing(unet):
            self.spared += 1
            return spare(unet)

        monkeypatch.setattr(DifferentiableUNet, "__call__", calling)
        monkeypatch.setattr(DifferentiableUNet, "spare", sparing)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("node", ["ExemplarPivotInversion", "ExemplarConceptInversion", "ExemplarTranslate"])
def test_it_turns_itself_on(kit, node, monkeypatch, caplog):
    """Once, for all that is learned, and said once."""
    pictures = 2 if node == "ExemplarTranslate" else 1
    expected = RUNS[node](kit, pictures)
    caplog.clear()
    with monkeypatch.context() as patch:
        short = Short(patch)
        found = RUNS[node](kit, pictures)
    assert short.spared == warnings(caplog).count(SPARED) == 1
    one, other = first_of(expected), first_of(found)
    assert difference(one, other) < 1e-4 * max(1.0, float(one.abs().max()))


def first_of(result):
    """The contexts, the prompt or the pictures that a node gives."""
    first = result[0]
    if isinstance(first, list):
        return first[0][0]
    return getattr(first, "contexts", first)


def test_later_on_the_error_stays(nodes, monkeypatch, caplog):
    """What was found until then cannot be had again by beginning anew."""
    model, conditioning = tiny("sd1"), prompt("sd1")
    inversion, *_ = invert(nodes, model, conditioning, latent_of(model), steps=2)
    short = Short(monkeypatch, from_call=2)
    with pytest.raises(torch.OutOfMemoryError, match=r"^Pivot Inversion: memory ran out"):
        pivots_of(nodes, model, conditioning, inversion, iterations=2)
    assert not short.spared and SPARED not in warnings(caplog)


def test_where_it_is_on_the_error_comes_at_once(nodes, monkeypatch, caplog):
    model, conditioning = tiny("sd1"), prompt("sd1")
    inversion, *_ = invert(nodes, model, conditioning, latent_of(model), steps=2)
    asked = []

    def calling(unet, x, *args):
        asked.append(unet.checkpointing)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(DifferentiableUNet, "__call__", calling)
    for on, calls in ((True, [True]), (False, [False, True])):
        asked.clear()
        with pytest.raises(torch.OutOfMemoryError, match=r"^Pivot Inversion: memory ran out"):
            pivots_of(nodes, model, conditioning, inversion, iterations=2, gradient_checkpointing=on)
        assert asked == calls
    assert warnings(caplog).count(SPARED) == 1


def test_on_a_computer_with_hardly_any_memory(nodes, monkeypatch, caplog):
    model, conditioning = tiny("sd1"), prompt("sd1")
    inversion, *_ = invert(nodes, model, conditioning, latent_of(model), steps=2)
    plain, *_ = pivots_of(nodes, model, conditioning, inversion, iterations=2)
    assert SPARED not in warnings(caplog)
    monkeypatch.setattr(mm, "get_free_memory", lambda dev=None, both=False: (1024, 1024) if both else 1024)
    spared, *_ = pivots_of(nodes, model, conditioning, inversion, iterations=2)
    assert warnings(caplog).count(SPARED) == 1
    assert (plain.contexts - spared.contexts).abs().max() < 1e-5
