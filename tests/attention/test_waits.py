"""That no edit waits for the device, or sends it anything, once a first step has been made."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.alignment import concept_control, equalizer, replacement
from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.call import CROSS, SELF, UNKNOWN, AttentionCall
from comfyui_exemplar.attention.capture import Capture, CaptureSpec, CaptureTarget
from comfyui_exemplar.attention.control import SOURCE, TARGET, ControlledAttention, PromptControl
from comfyui_exemplar.attention.dual import DualAttentionColor
from comfyui_exemplar.attention.dual_banks import DualBanks
from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.attention.image_tokens import ImageTokens, KeysValues
from comfyui_exemplar.attention.instances import Instance, InstanceEdit, InstanceSettings
from comfyui_exemplar.attention.logits import KeepLogits, LogitCache, ReuseLogits, StaleLogits
from comfyui_exemplar.attention.map_edits import Reweight
from comfyui_exemplar.attention.union import united
from comfyui_exemplar.attention.word_maps import BlendWords, WordMaps
from comfyui_exemplar.pipelines.vct_pair import ControlledRun, Fusion

from ..fixtures.pretended_gpu import PretendedGPU, from_gpu, to_gpu
from . import naive

LAYERS = {naive.LAYER: True}
GRID, TOKENS, WORDS = (2, 3), 6, 7


def call(branches=(1, 0), batch=1, kind=SELF, **changed):
    """A call, on the CPU."""
    made = naive.call(branches=branches, batch=batch, tokens=TOKENS, grid=GRID)
    if kind == CROSS:
        rows = len(made.rows)
        k, v = (naive.rand(rows, WORDS, naive.WIDTH, seed=seed) for seed in (11, 12))
        made = dataclasses.replace(made, k=k, v=v, kind=CROSS)
    return dataclasses.replace(made, **changed)


def moved(asked):
    return dataclasses.replace(asked, **{name: to_gpu(getattr(asked, name)) for name in "qkv"})


def bank_on_gpu(bank):
    made = FeatureBank()
    for sigma, layer, name, tensor in bank.items():
        made.put(sigma, layer, bank.grid(layer), **{name: to_gpu(tensor)})
    return made


def mask(pictures=1):
    made = torch.zeros(pictures, 8, 12)
    for picture in range(pictures):
        made[picture, :, 4 + 2 * picture :] = 1
    return made


def dual(on_gpu, pictures=1, **settings):
    banks = [naive.bank(pictures, TOKENS, layers=LAYERS, grid=GRID, seed=seed) for seed in (100, 400, 700)]
    banks = map(bank_on_gpu, banks) if on_gpu else banks
    chosen = DualAttentionSettings(gamma_shallow=0.4, beta_shallow=0.3, **settings)
    return DualAttentionColor(chosen, LAYERS, DualBanks(*banks), mask(pictures), mask(pictures))


def several(on_gpu):
    """References of two sizes for every picture, one of them masked, of unlike weight."""
    parts = [
        tuple(naive.bank(1, grid[0] * grid[1], layers=LAYERS, grid=grid, seed=seed) for seed in seeds)
        for grid, seeds in ((GRID, (400, 700)), ((3, 3), (500, 800)))
    ]
    union = united(parts, [mask(), None], (1.0, 3.0))
    banks = [naive.bank(1, TOKENS, layers=LAYERS, grid=GRID, seed=100), union.color, union.gray]
    banks = map(bank_on_gpu, banks) if on_gpu else banks
    chosen = DualAttentionSettings(gamma_shallow=0.4, beta_shallow=0.3)
    return DualAttentionColor(chosen, LAYERS, DualBanks(*banks, union.bias))


def tokens(**settings):
    pair = KeysValues(naive.rand(2, 3, naive.WIDTH, seed=4), naive.rand(2, 3, naive.WIDTH, seed=5))
    return ImageTokens({naive.LAYER: pair}, mask=mask(), text_tokens=WORDS, **settings)


def instances(step):
    settings = InstanceSettings(step=step, strength=2.0)
    return InstanceEdit([Instance("a", (4, 1), WORDS, mask(), settings), Instance("b", (2,), WORDS, mask(2))], (8, 12))


CASES = {
    "dual": (lambda on_gpu: dual(on_gpu, strength=0.5), call((1, 0, 1), 2)),
    "dual, masks of unlike sizes": (lambda on_gpu: dual(on_gpu, 2), call((1, 0), 4)),
    "dual, after softmax": (lambda on_gpu: dual(on_gpu, mix="after softmax"), call((0, 1))),
    "dual, several references": (several, call((1, 0), 2)),
    "tokens": (lambda _: tokens(), call(kind=CROSS, batch=2)),
    "tokens, weak": (lambda _: tokens(weight=0.3), call((1, 0, UNKNOWN), 2, CROSS)),
    "instances": (lambda _: instances("normalized"), call((1, 0), 2, CROSS)),
    "instances, official": (lambda _: instances("official"), call((1, 0, 1), 2, CROSS)),
    "stale logits": (lambda _: StaleLogits(LogitCache()), call(kind=CROSS)),
}


@pytest.mark.parametrize("name", CASES)
def test_nothing_waits_after_the_first_call(name):
    make, asked = CASES[name]
    wanted = make(False)(asked, AttentionCall.plain)
    given = moved(asked)
    edit = make(True)
    with PretendedGPU() as gpu:
        found = edit(given, AttentionCall.plain)
        first = len(gpu.events)
        edit(given, AttentionCall.plain)
    assert len(gpu.events) == first, gpu.events[first:]
    assert float((from_gpu(found) - wanted).abs().max()) < 1e-6


@pytest.mark.parametrize("name", ["dual", "tokens"])
def test_what_is_on_the_device_is_let_go(name):
    make, asked = CASES[name]
    given, edit = moved(asked), make(True)
    with PretendedGPU() as gpu:
        edit(given, AttentionCall.plain)
        edit.forget()
        sent = len(gpu.events)
        edit(given, AttentionCall.plain)
    assert len(gpu.events) == 2 * sent > 0


def test_capture():
    target = CaptureTarget(CaptureSpec({naive.LAYER: "qkv"}))
    with PretendedGPU() as gpu:
        Capture([target])(moved(call((1, 0, 1), 2)), AttentionCall.plain)
    assert not gpu.events and target.bank.pictures == 2


def test_kept_logits():
    cache, asked = LogitCache(), moved(call((1, 0, 1), 2, CROSS))
    with PretendedGPU() as gpu:
        KeepLogits(cache)(asked, AttentionCall.plain)
        ReuseLogits(cache)(asked, AttentionCall.plain)
    assert not gpu.events


CONTROLS = {
    "concept": concept_control((WORDS, WORDS), 2, 1, cross_window=0.8),
    "swap": PromptControl(
        (WORDS, WORDS),
        (replacement([0, 1, 2], [0, 3, 2], (WORDS, WORDS)), Reweight(equalizer(WORDS, {1: 2.0}))),
        cross_window=1.0,
        word_windows={1: 0.2, 3: (0.5, 1.0)},
    ),
}


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("kind", [SELF, CROSS])
def test_control(name, kind):
    """The tables of a control go to the device once a run, whose every prediction has an edit of its own."""
    levels, words = [8.0, 4.0, 2.0, 1.0, 0.0], BlendWords((1,), (1, 3, 4))
    run = ControlledRun(Fusion(CONTROLS[name], words=words), levels)
    marks = []

    def prediction(target, source, sigma, edit):
        marks.append(len(gpu.events))
        maps = WordMaps(words, LAYERS)
        asked = moved(call((1, SOURCE, TARGET), 1, kind, sigma=sigma))
        dataclasses.replace(edit, words=maps)(asked, AttentionCall.plain)
        assert maps.mask((4, 6)) is not None or kind == SELF
        return target, source

    with PretendedGPU() as gpu:
        for sigma in levels[:-1]:
            run.denoise(to_gpu(naive.rand(2, 4, 4, 6)), sigma, prediction)
    assert len(marks) == 4 and len(gpu.events) == marks[0], gpu.events[marks[0] :]
    assert marks[0] == sum(1 if isinstance(edit, Reweight) or name == "swap" else 2 for edit in CONTROLS[name].edits)


def test_a_prediction_alone():
    """An edit whose control was not sent works all the same."""
    edit = ControlledAttention(CONTROLS["swap"], [8.0, 4.0, 0.0])
    with PretendedGPU():
        found = edit(moved(call((1, SOURCE, TARGET), kind=CROSS, sigma=8.0)), AttentionCall.plain)
    wanted = edit(call((1, SOURCE, TARGET), kind=CROSS, sigma=8.0), AttentionCall.plain)
    assert float((from_gpu(found) - wanted).abs().max()) < 1e-6
