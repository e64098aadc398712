"""Multi-concept inversion against VCT's recorded training: losses, gradients through the text encoder, vectors."""

import importlib.util

import pytest
import torch

from comfyui_exemplar.diffusion.concept import (
    ConceptOptions,
    ConceptState,
    NoisedCopies,
    initial_vectors,
    learn_concept,
)
from comfyui_exemplar.diffusion.schedule import sigmas_from_alphas
from comfyui_exemplar.hosts.diffusers.text_encoders import encode_concept

from . import hosts

INSIDE_COMFY = importlib.util.find_spec("comfy") is not None


@pytest.fixture(autouse=True)
def gradients():
    """Inside ComfyUI they are switched off for all tests."""
    with torch.enable_grad():
        yield


@pytest.fixture(scope="module")
def predict(vct_set):
    return hosts.differentiable(vct_set)


class TransformersText:
    """The recorded text encoder under transformers."""

    def __init__(self, parity, word):
        self.clip, sizes = parity.clip_model().requires_grad_(False), parity.meta["clip"]
        self.marks = sizes["bos"], sizes["eos_and_pad"], sizes["eos_and_pad"]
        self.ids = sizes["ids_of"].get(word)

    def word_rows(self):
        return (self.clip.get_input_embeddings().weight[self.ids],)

    def __call__(self, vectors):
        return encode_concept(self.clip, vectors[0], *self.marks)[:1]


@pytest.fixture(scope="module")
def text_of(vct_set):
    """word -> the recorded text encoder with that initial word: ComfyUI's where that is, else transformers'."""

    def make(word):
        if not INSIDE_COMFY:
            return TransformersText(vct_set, word)
        from comfyui_exemplar.hosts.comfy.borrowed import gradients as allowed
        from comfyui_exemplar.hosts.comfy.gradients import DifferentiableText

        with allowed():
            return DifferentiableText(hosts.comfy_clip(vct_set), word)

    return make


def recorded_copies(vct_set, recorded, meta):
    table = sigmas_from_alphas(vct_set.file("base")["alphas_cumprod"])
    group = meta["grad_accumulation"]
    for first in range(0, meta["micro_batches"], group):
        part = slice(first, first + group)
        sigmas = table[torch.tensor(meta["timesteps"][part])]
        yield NoisedCopies(recorded["latents"][part, 0], recorded["noise"][part, 0], sigmas)


def options_of(meta, rows):
    return ConceptOptions(
        updates=meta["updates"],
        learning_rate=meta["base_lr"],
        accumulation=meta["grad_accumulation"],
        l1_weight=meta["l1_weight"] if meta["use_l1"] else 0.0,
        weight_decay=meta["weight_decay"],
        rows=rows,
    )


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_training(vct_set, predict, text_of, rows):
    """One copy at a time, as released; in unequal parts; all copies of an update in one call."""
    for case in vct_set.cases("g5"):
        recorded, meta = vct_set.file(f"5_training_{case}"), vct_set.meta["g5"][case]
        group = meta["grad_accumulation"]
        options = options_of(meta, rows)
        assert options.rate == pytest.approx(meta["effective_lr"])
        text = text_of(meta["initializer"])
        (words,) = text.word_rows()
        start = initial_vectors(words, meta["num_vectors"])
        assert torch.equal(start, recorded["emb_init"])
        copies = recorded_copies(vct_set, recorded, meta)
        state = ConceptState.fresh([start])
        seen = list(learn_concept(predict, lambda vectors, text=text: text(vectors)[:1], state, copies, options))
        assert len(seen) == meta["updates"]
        for update, found in enumerate(seen):
            part = slice(update * group, (update + 1) * group)
            assert found.mse == pytest.approx(sum(meta["mse"][part]) / group, rel=1e-5)
            assert found.loss == pytest.approx(sum(meta["loss"][part]) / group, rel=1e-5)
            if meta["use_l1"]:
                assert found.l1 == pytest.approx(sum(meta["l1"][part]) / group, rel=1e-5)
            wanted = recorded["grads"][update]
            assert (found.gradients[0] - wanted).abs().max() <= 1e-3 * wanted.abs().max(), (case, update)
            assert (found.state.vectors[0] - recorded["emb_after"][update]).abs().max() <= 1e-6, (case, update)


@torch.no_grad()
def test_noised_copies_and_predictions(vct_set, predict, text_of):
    """In between: what the network sees, what it predicts, the clean latent that follows."""
    looked = 0
    for case in vct_set.cases("g5"):
        recorded, meta = vct_set.file(f"5_training_{case}"), vct_set.meta["g5"][case]
        if "model_pred" not in recorded or "x0_pred" not in recorded:
            continue  # the committed set has them for one case
        table = sigmas_from_alphas(vct_set.file("base")["alphas_cumprod"])
        for i, timestep in enumerate(meta["timesteps"]):
            sigma, alpha = table[timestep], vct_set.alpha(timestep)
            x = recorded["latents"][i] + sigma * recorded["noise"][i]
            assert (x * alpha**0.5 - recorded["noisy_latents"][i]).abs().max() <= 1e-5
            if i == 0:  # before the first update the context is known: it is the recorded text encoder's
                denoised = predict(x, sigma.view(1), text_of(meta["initializer"])([recorded["emb_init"]])[0])
                assert ((x - denoised) / sigma - recorded["model_pred"][i]).abs().max() <= 1e-5
                assert (denoised - recorded["x0_pred"][i]).abs().max() <= 1e-5
                looked += 1
    assert looked


@torch.no_grad()
def test_recorded_contexts(vct_set, text_of):
    base, word = vct_set.file("base"), next(iter(vct_set.meta["clip"]["ids_of"]))
    context = text_of(word)([base["learned"]])[0]
    assert (context - base["ctx_concept"]).abs().max() <= 1e-5
