"""What changes weights, what hangs on the prompt, and compiled models, where a picture is inverted."""

import pytest
import torch

import nodes as stock

from .columns import COARSE, FINE
from .naive import Recorded
from .neighbors import core, run_node
from .prompts import Residuals, controlled, share_above
from .reference import Reference
from .test_capture import compare, inverted
from .test_compile import compiled
from .test_weights import RATIO, STRENGTH, changed, lora, others

__all__ = ["changed", "lora", "others"]

KEYS = ("Lora", "Merge", "HookLora", "HookKeyframes", "ControlNet", "TorchCompile")
CELLS = [(key, "capture") for key in KEYS]


def recorded(model, empty):
    return Reference(model, empty, empty, Recorded([*COARSE, *FINE]), 1.0)


def test_lora(nodes, embedded, scene, lora, changed):
    theirs = stock.LoraLoaderModelOnly().load_lora_model_only(embedded[0], lora[0], STRENGTH)[0]
    made = inverted(nodes, embedded, scene, theirs)
    compare(recorded(changed(STRENGTH), embedded[3]), embedded, scene, made, theirs)


def test_merge(nodes, embedded, scene, others):
    theirs = run_node(core("ModelMergeSimple", "nodes_model_merging"), embedded[0], others[0], RATIO)[0]
    made = inverted(nodes, embedded, scene, theirs)
    compare(recorded(others[1], embedded[3]), embedded, scene, made, theirs)


@pytest.mark.parametrize("keyframes", [False, True])
def test_hook_lora(nodes, embedded, scene, lora, changed, keyframes):
    """ComfyUI's keyframes only go forward: an inversion climbs, and so the last one holds at all its levels."""
    hooks, strength = run_node(core("CreateHookLoraModelOnly", "nodes_hooks"), lora[0], STRENGTH)[0], STRENGTH
    if keyframes:
        strength, frame = 0.25 * STRENGTH, core("CreateHookKeyframe", "nodes_hooks")
        share, _ = share_above(embedded[0], 0.5)
        frames = run_node(frame, 0.25, share, prev_hook_kf=run_node(frame, 1.0, 0.0)[0])[0]
        hooks = run_node(core("SetHookKeyframes", "nodes_hooks"), hooks, hook_kf=frames)[0]
    node = core("ConditioningSetProperties", "nodes_hooks")
    prompt = run_node(node, embedded[3], 1.0, "default", hooks=hooks)[0]
    made = inverted(nodes, embedded, scene, embedded[0], prompt)
    compare(recorded(changed(strength), embedded[3]), embedded, scene, made, embedded[0])


def test_controlnet(nodes, embedded, scene):
    made = inverted(nodes, embedded, scene, embedded[0], controlled(embedded[3]))
    reference = recorded(embedded[0], embedded[3])
    conditional = reference.conditional
    reference.conditional = lambda x, sigma, **kw: conditional(x, sigma, control=Residuals(), **kw)
    compare(reference, embedded, scene, made, embedded[0])


def test_torch_compile(nodes, embedded, scene):
    theirs = compiled(embedded[0])
    with torch.compiler.set_stance("force_eager"):
        made = inverted(nodes, embedded, scene, theirs)
    compare(recorded(embedded[0], embedded[3]), embedded, scene, made, theirs)
