"""Guidance with one prompt on both sides: that both rows hold the same numbers is known without looking at them."""

import comfy.patcher_extension
import comfy.samplers
import pytest
import torch

from comfyui_exemplar.hosts.comfy import calls, edits
from comfyui_exemplar.hosts.comfy.rows import guider_twins
from comfyui_exemplar.hosts.comfy.sampling import color_guider

from .pairs import encode
from .sampling import Calls, run_guider

_Wrappers = comfy.patcher_extension.WrappersMP


@pytest.fixture
def looked(monkeypatch):
    """How often numbers were compared."""
    times, original = [], calls.are_alike
    monkeypatch.setattr(calls, "are_alike", lambda call: times.append(call) or original(call))
    return times


def sample(guider, inverted):
    """What is drawn in four steps, and how many rows the UNet is begun with where two are asked for."""
    with Calls(guider.model_patcher) as seen:
        made = run_guider(guider, *inverted["input"][1:3])
    assert seen.left[:3] == [2] * 3  # a weight of 1 asks for one
    return made, [entered for entered, left in zip(seen.entered, seen.left, strict=True) if left == 2]


def sides(model, positive, negative):
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(3.0)
    return guider


@pytest.mark.parametrize("step_limit", [False, True])
def test_one_prompt(looked, embedded, injected, inverted, monkeypatch, step_limit):
    """The result, bit for bit, and what was computed, are as if it had been looked."""
    guider = color_guider(injected(), embedded[3], 3.0, step_limit)
    made, entered = sample(guider, inverted)
    assert not looked and set(entered) == {1}
    monkeypatch.setattr(edits, "guider_twins", lambda _: frozenset())
    expected, entered = sample(guider, inverted)
    assert len(looked) == len(entered) and set(entered) == {1} and torch.equal(made, expected)


def test_two_prompts(looked, embedded, injected, inverted):
    """Also where they say the same."""
    model = injected()
    _, entered = sample(sides(model, embedded[3], encode(embedded, "")), inverted)
    assert len(looked) == 4 and set(entered) == {1}
    _, entered = sample(sides(model, embedded[3], encode(embedded, "red heart")), inverted)
    assert len(looked) == 8 and set(entered) == {2}


def change(x):
    """The first row of two is another picture's."""
    return torch.cat([x[:1] + 0.5, x[1:]])


def by_wrapper(kind):
    def changed(model):
        model = model.clone()
        if kind == _Wrappers.APPLY_MODEL:
            model.add_wrapper_with_key(kind, "other", lambda executor, x, *args, **kw: executor(change(x), *args, **kw))
        else:
            model.add_wrapper_with_key(kind, "other", lambda executor, *args, **kw: executor(*args, **kw))
        return model

    return changed


def by_function(model):
    model = model.clone()
    model.set_model_unet_function_wrapper(
        lambda apply, given: apply(change(given["input"]), given["timestep"], **given["c"])
    )
    return model


@pytest.mark.parametrize(
    ("other", "rows"),
    [
        (by_wrapper(_Wrappers.APPLY_MODEL), 2),
        (by_function, 2),
        (by_wrapper(_Wrappers.CALC_COND_BATCH), 1),
        (by_wrapper(_Wrappers.PREDICT_NOISE), 1),
    ],
)
def test_whoever_stands_between_is_looked_at(looked, embedded, injected, inverted, other, rows):
    _, entered = sample(color_guider(other(injected()), embedded[3], 3.0), inverted)
    assert len(looked) == 4 and set(entered) == {rows}


class Foreign(comfy.samplers.CFGGuider):
    """Another pack's, which may do anything with its prompts at every step."""


def test_guiders_of_others(embedded):
    empty = embedded[3]
    for kind, known in ((comfy.samplers.CFGGuider, True), (Foreign, False)):
        guider = kind(embedded[0])
        guider.set_conds(empty, empty)
        guider.conds = guider.original_conds
        assert len(guider_twins(guider)) == 2 * known


@pytest.mark.parametrize(
    "change",
    [
        lambda text, more: [[text, {**more, "strength": 0.5}]],
        lambda text, more: [[text, {**more, "mask": torch.ones(1, 8, 8)}]],
        lambda text, more: [[text.clone(), more]],
        lambda text, more: [[text, more], [text, more]],
    ],
)
def test_prompts_that_differ_in_anything(embedded, change):
    empty = embedded[3]
    guider = sides(embedded[0], empty, change(*empty[0]))
    guider.conds = guider.original_conds
    assert not guider_twins(guider)
