"""Multi-concept inversion on a model that can be followed by hand."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from comfyui_exemplar.diffusion.concept import (
    ConceptOptions,
    ConceptState,
    draw_copies,
    initial_vectors,
    learn_concept,
)
from comfyui_exemplar.diffusion.learning import drain

TABLE = torch.linspace(0.03, 10.0, 1000)
PICTURES = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
OPTIONS = ConceptOptions(updates=6, learning_rate=0.05, accumulation=4, rows=2)


def encode(vectors):
    """Two encoders, as SDXL has, and a pooled output of one of them."""
    first, second = vectors
    return torch.cat([first, second], -1).unsqueeze(0).tanh(), second.mean(0, keepdim=True)


def predict(x, sigma, context, pooled):
    spread = sigma.view(-1, 1, 1, 1)
    return x / (1 + spread**2) + context.mean() * x.sign() + pooled.mean()


def start(count=3):
    return ConceptState.fresh([torch.full((count, 2), 0.3), torch.full((count, 5), -0.2)])


def learn(state=None, options=OPTIONS, seed=5, **kw):
    """What every update yielded; the search's value is the last one's state."""
    state, seen = state or start(), []
    copies = draw_copies(PICTURES, TABLE, options.accumulation, seed, state.updates)
    last = drain(learn_concept(predict, kw.get("encode", encode), state, copies, options), seen.append)
    assert last is (seen[-1].state if seen else state)
    return seen


def close(a, b, tolerance=1e-6):
    return all((x - y).abs().max() <= tolerance for x, y in zip(a, b, strict=True))


def test_only_the_vectors_move():
    seen = learn()
    assert len(seen) == 6 and [p.state.updates for p in seen] == [1, 2, 3, 4, 5, 6]
    last = seen[-1].state.vectors
    assert [v.shape for v in last] == [(3, 2), (3, 5)] and not any(v.requires_grad for v in last)
    assert not close(last, start().vectors, 1e-3)
    assert all(p.loss == pytest.approx(p.mse + p.l1) for p in seen)


@pytest.mark.parametrize("rows", [1, 3, 4, 64])
def test_rows_a_call_change_nothing(rows):
    assert close(learn()[-1].state.vectors, learn(options=replace(OPTIONS, rows=rows))[-1].state.vectors)


def test_the_text_encoder_runs_once_an_update():
    calls = []

    def counted(vectors):
        calls.append(None)
        return encode(vectors)

    learn(options=replace(OPTIONS, rows=1), encode=counted)
    assert len(calls) == OPTIONS.updates


def test_taken_up_again_it_goes_on_as_if_never_stopped():
    whole = learn()
    part = learn(options=replace(OPTIONS, updates=2))[-1].state
    rest = learn(part)
    assert len(rest) == 4
    for a, b in zip(whole[2:], rest, strict=True):
        assert a.loss == b.loss and close(a.state.vectors, b.state.vectors, 0)
        assert close(a.state.second, b.state.second, 0)
    assert learn(whole[-1].state) == []


def test_seeds():
    assert close(learn()[-1].state.vectors, learn()[-1].state.vectors, 0)
    assert not close(learn()[-1].state.vectors, learn(seed=6)[-1].state.vectors, 1e-6)


def test_learning_rate_and_terms():
    assert ConceptOptions().rate == pytest.approx(2e-3) and ConceptOptions(scale_rate=False).rate == 5e-4
    without = learn(options=replace(OPTIONS, l1_weight=0.0))
    assert all(p.l1 == 0 and p.loss == p.mse for p in without)
    still = learn(options=replace(OPTIONS, learning_rate=1e-6, weight_decay=0.0))[-1].state.vectors
    # six updates of at most the rate of four copies
    assert close(still, start().vectors, 6 * 4.1e-6)


def test_gradient_scale_changes_nothing():
    assert close(learn()[-1].state.vectors, learn(options=replace(OPTIONS, gradient_scale=4096.0))[-1].state.vectors, 0)


def test_copies():
    copies = list(islice(draw_copies(PICTURES, TABLE, 64, 3), 2))
    assert {tuple(c.flatten().tolist()) for c in copies[0].clean} == {tuple(p.flatten().tolist()) for p in PICTURES}
    assert copies[0].noise.shape == (64, 4, 5, 6) and copies[0].noise.std() == pytest.approx(1, abs=0.1)
    assert torch.isin(copies[0].sigmas, TABLE).all() and not torch.equal(copies[0].noise, copies[1].noise)
    (again,) = islice(draw_copies(PICTURES, TABLE, 64, 3, first=1), 1)
    assert torch.equal(again.noise, copies[1].noise) and torch.equal(again.sigmas, copies[1].sigmas)


def test_initial_vectors():
    words = torch.arange(6.0).view(3, 2)
    assert torch.equal(initial_vectors(words, 5), words[[0, 0, 1, 1, 2]])
    assert torch.equal(initial_vectors(words[:1], 2), words[[0, 0]]) and torch.equal(
        initial_vectors(words, 1), words[:1]
    )
    with pytest.raises(ValueError, match="0 vectors cannot start"):
        initial_vectors(words, 0)


def test_bad_input():
    with pytest.raises(ValueError, match="accumulation is 0; it must lie between 1 and 64"):
        learn(options=replace(OPTIONS, accumulation=0))
    with pytest.raises(ValueError, match="the loss of update 1 is"):
        copies = draw_copies(PICTURES, TABLE, 2, 0)
        list(learn_concept(lambda x, _, c, p: x / 0 + c.mean(), encode, start(), copies, OPTIONS))
