"""LoRA, merges, and LoRAs that hang on a prompt, against a MODEL whose weights were changed directly."""

import folder_paths
import pytest
import safetensors.torch
import torch

import nodes as stock
from comfyui_exemplar.hosts.comfy.embedded import load_demo
from comfyui_exemplar.hosts.comfy.model import fingerprint

from .cells import check, meets
from .columns import COLUMNS, GUIDERS
from .neighbors import core, run_node
from .prompts import share_above

KEYS = ("Lora", "Merge", "HookLora", "HookKeyframes")
CELLS = [(key, c) for key in KEYS for c in (*COLUMNS, *GUIDERS) if meets(key, c)]
STRENGTH, RATIO = 0.8, 0.6
_AT = {
    "output_blocks.4.1.transformer_blocks.0.attn1.to_v": (64, 64),
    "middle_block.1.transformer_blocks.0.attn2.to_q": (256, 256),
    "input_blocks.3.1.transformer_blocks.0.attn1.to_k": (128, 128),
}


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """(file name, its tensors)."""
    path, tensors = tmp_path_factory.mktemp("loras"), {}
    for seed, (at, (inner, outer)) in enumerate(_AT.items()):
        tensors[f"diffusion_model.{at}.lora_up.weight"] = noise(outer, 4, seed=seed) * 0.3
        tensors[f"diffusion_model.{at}.lora_down.weight"] = noise(4, inner, seed=seed + 9) * 0.3
    safetensors.torch.save_file(tensors, path / "crossing.safetensors")
    folder_paths.add_model_folder_path("loras", str(path))
    yield "crossing.safetensors", tensors
    folder_paths.folder_names_and_paths["loras"][0].remove(str(path))


@pytest.fixture(scope="module")
def changed(lora):
    """Call it with a LoRA's strength -> a MODEL of its own with these weights."""
    with torch.inference_mode():
        model = load_demo()[0]
    parameters = dict(model.model.diffusion_model.named_parameters())
    plain = {at: parameters[f"{at}.weight"].detach().clone() for at in _AT}

    def at(strength):
        for name, weight in plain.items():
            up, down = (lora[1][f"diffusion_model.{name}.lora_{which}.weight"] for which in ("up", "down"))
            parameters[f"{name}.weight"].data.copy_(weight + strength * up @ down)
        return model

    return at


@pytest.fixture(scope="module")
def others():
    """(another model, both merged)."""
    with torch.inference_mode():
        plain, other, merged = (load_demo()[0] for _ in range(3))
    parts = [m.model.diffusion_model.parameters() for m in (plain, other, merged)]
    for seed, (here, there, both) in enumerate(zip(*parts, strict=True)):
        there.data.add_(0.1 * here.std(correction=0) * noise(*here.shape, seed=seed))
        both.data.copy_(RATIO * here + (1 - RATIO) * there)
    return other, merged


@pytest.mark.parametrize(("key", "column"), CELLS, ids=[f"{k}-{c}" for k, c in CELLS])
def test_cell(columns, embedded, lora, changed, others, key, column, caplog):
    name, column, model = column, columns(column), embedded[0]
    if key.startswith("Hook"):
        return hooked(key, name, column, model, lora[0], changed, caplog)

    def on(model):
        if key == "Lora":
            return stock.LoraLoaderModelOnly().load_lora_model_only(model, lora[0], STRENGTH)[0]
        return run_node(core("ModelMergeSimple", "nodes_model_merging"), model, others[0], RATIO)[0]

    levels, expected = column.levels(key, name), []

    def reference():
        if not expected:
            expected.append(column.expected(changed(STRENGTH) if key == "Lora" else others[1], levels))
        return expected[0]

    ours = [on(model) if name in GUIDERS else column.made(on(model))]
    if key == "Lora" and name not in GUIDERS:  # patching every weight takes seconds
        ours.append(on(column.made(model)))
    for placed in ours:
        check(key, name, lambda placed=placed: column.found(placed, sigmas=levels), reference, caplog, model=placed)


@pytest.mark.parametrize("key", ["plain", "merged"])
def test_a_model_is_known_whatever_is_loaded(columns, embedded, others, key):
    """A merge stands in the weights while it is loaded; an inversion of either MODEL serves both."""
    column, merge = columns("injection"), core("ModelMergeSimple", "nodes_model_merging")
    merged = run_node(merge, embedded[0], others[0], RATIO)[0]
    first, then = (embedded[0], merged) if key == "plain" else (merged, embedded[0])
    known = fingerprint(then)
    column.found(first)
    assert fingerprint(first) == fingerprint(then) == known
    assert fingerprint(others[0]) != known


def hooked(key, name, column, model, file, changed, caplog):
    """A LoRA on the positive prompt only, at one strength or at two."""
    hooks = run_node(core("CreateHookLoraModelOnly", "nodes_hooks"), file, STRENGTH)[0]
    share, sigma_there = share_above(model, float(column.sigmas[1]) * 1.01)
    later = 1.0
    if key == "HookKeyframes":
        later, frame = 0.25, core("CreateHookKeyframe", "nodes_hooks")
        frames = run_node(frame, later, share, prev_hook_kf=run_node(frame, 1.0, 0.0)[0])[0]
        hooks = run_node(core("SetHookKeyframes", "nodes_hooks"), hooks, hook_kf=frames)[0]
    node = core("ConditioningSetProperties", "nodes_hooks")
    positive = run_node(node, column.positive, 1.0, "default", hooks=hooks)[0]

    def prepare(reference):
        predict = reference.predict

        def under_hooks(x, sigma, prompt, branch, **kw):
            strength = STRENGTH * (1.0 if sigma > sigma_there else later)
            reference.base = changed(strength).model if branch == 0 else model.model
            return predict(x, sigma, prompt, branch, **kw)

        reference.predict = under_hooks

    ours = model if name in GUIDERS else column.made(model)
    check(key, name, lambda: column.found(ours, positive), lambda: column.expected(model, prepare=prepare), caplog)
