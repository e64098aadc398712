"""DDIM Inversion where memory does not suffice for all pictures, and each has something of its own."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP

from comfyui_exemplar.hosts.comfy.prompt_rows import for_part, is_shared, why_together

from .models import control_net, prompt, tiny, under_control
from .sampling import difference, invert

PICTURES = 5


def narrow(model, most):
    """A MODEL that has memory for a few rows; and how many each of its calls had."""
    clone, rows = model.clone(), []

    def apply(executor, x, *args, **kw):
        rows.append(len(x))
        if len(x) > most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return executor(x, *args, **kw)

    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "narrow", apply)
    return clone, rows


def latents(count=PICTURES):
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(2))


def own_prompts(rows, family="sd1"):
    (context, extras), *_ = prompt(family)
    shift = torch.arange(float(rows))[:, None, None]
    pooled = {key: value + shift[:, 0] for key, value in extras.items()}
    return [[context + shift, pooled]]


def hinted(pictures):
    net = control_net("sd1", (64, 64))
    hints = torch.rand(pictures, 3, 64, 64, generator=torch.Generator().manual_seed(9))
    return under_control(prompt("sd1"), net.set_cond_hint(hints, 0.7))


def two_hints(pictures):
    before = hinted(pictures)[0][1]["control"]
    made = hinted(pictures)
    made[0][1]["control"].set_previous_controlnet(before.set_cond_hint(torch.rand(1, 3, 64, 64), 0.3))
    return made


def masked(pictures):
    left = torch.rand(pictures, 8, 8, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.1
    first, second = prompt("sd1")[0], own_prompts(1)[0]
    return [[first[0], {**first[1], "mask": left}], [second[0] + 1, {**second[1], "mask": 1 - left}]]


PROMPTS = {
    "shared": lambda: prompt("sd1"),
    "own": lambda: own_prompts(PICTURES),
    "own masks": lambda: masked(PICTURES),
    "a ControlNet": lambda: under_control(prompt("sd1"), control_net("sd1", (64, 64))),
    "own ControlNet pictures": lambda: hinted(PICTURES),
    "ControlNet pictures in turn": lambda: hinted(2),
    "two ControlNets": lambda: two_hints(PICTURES),
}


def compare(nodes, model, conditioning, most, samples, prompts=1):
    kept, noised, sigmas, error = invert(nodes, model, conditioning, samples)
    few, rows = narrow(model, most)
    again, same, levels, off = invert(nodes, few, conditioning, samples)
    everything = len(samples) * prompts
    assert max(rows) == everything and rows.count(everything) == 1, "tried once with all"
    assert torch.equal(sigmas, levels) and again.pictures == len(samples)
    # sums are rounded in another order where a batch has another size; the latents are about 1
    assert difference(noised["samples"], same["samples"]) < 1e-4 and error == pytest.approx(off, rel=1e-3)
    assert difference(kept.trajectory, again.trajectory) < 1e-4
    found = {entry[:3]: entry[3] for entry in again.bank.items()}
    assert len(found) == len(list(kept.bank.items())) > 0
    for sigma, layer, name, tensor in kept.bank.items():
        assert difference(found[sigma, layer, name], tensor) < 1e-3
        assert kept.bank.grid(layer) == again.bank.grid(layer)
    # what came of different pictures differs, so that a mix-up would show
    assert all(difference(*pair) > 1e-2 for pair in zip(kept.trajectory[-1][:-1], kept.trajectory[-1][1:], strict=True))
    return rows


@pytest.mark.parametrize("kind", PROMPTS)
def test_each_picture_keeps_its_own(nodes, kind):
    """Five, then two at a time, and the last one alone."""
    conditioning = PROMPTS[kind]()
    prompts = len(conditioning)
    rows = compare(nodes, tiny("sd1"), conditioning, 2 * prompts, latents(), prompts)
    assert set(rows) == {5 * prompts, 2 * prompts, prompts}


def test_one_at_a_time(nodes):
    assert set(compare(nodes, tiny("sd1"), own_prompts(3), 1, latents(3))) == {3, 1}


def test_labels_of_a_batch(nodes):
    compare(nodes, tiny("sdxl"), own_prompts(3, "sdxl"), 2, latents(3))


def test_tokens_and_masks_of_a_batch(nodes, kit):
    """What the pack's own nodes put into a MODEL for each picture goes with its picture."""
    (tokens,) = kit.nodes("ExemplarDEADiffEncode", deadiff=kit.deadiff, image=kit.colors(3), combine="one each")
    masks = torch.zeros(3, 64, 64)
    for i in range(3):
        masks[i, :, 16 * i : 16 * i + 24] = 1
    (model,) = kit.nodes("ExemplarApplyDEADiff", model=kit.model, tokens=tokens, mask=masks)
    compare(nodes, model, kit.embedded[3], 2, kit.latent(3)["samples"])
    phrases = {"prompt": "red heart", "phrases": "red heart"}
    model, drawn = kit.nodes("ExemplarLCADInstances", model=kit.model, clip=kit.embedded[1], masks=masks, **phrases)
    compare(nodes, model, drawn, 1, kit.latent(3)["samples"])


class Foreign:
    """A ControlNet of another pack, which may say something else for each frame."""

    previous_controlnet = None


def with_extra(value):
    (context, extras), *_ = prompt("sd1")
    return [[context, {**extras, "another_pack": value}]]


@pytest.mark.parametrize(
    ("conditioning", "why"),
    [
        (lambda: under_control(prompt("sd1"), Foreign()), "a Foreign on the prompt may treat"),
        (lambda: with_extra(torch.zeros(2, 3)), "under 'another_pack' can't be told apart"),
        (lambda: with_extra([torch.zeros(3, 4)]), "under 'another_pack' can't be told apart"),
    ],
)
def test_what_can_not_be_told_apart_stays_together(nodes, monkeypatch, conditioning, why):
    made = conditioning()
    assert why in why_together(made, 3) and not is_shared(made)
    monkeypatch.setattr("comfyui_exemplar.hosts.comfy.host.ComfyHost.invert", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError) as refused:
        invert(nodes, tiny("sd1"), made, latents(3), capture=False)
    said = str(refused.value)
    assert said.startswith("DDIM Inversion: memory ran out on 3 pictures at once") and why in said


def out_of_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_rows_of_a_part():
    made = for_part(own_prompts(2), slice(1, 4), PICTURES)
    assert torch.equal(made[0][0], own_prompts(2)[0][0][[1, 0, 1]])
    shared = prompt("sd1")
    assert for_part(shared, slice(0, 1), 3) is shared and is_shared(shared) and not is_shared(own_prompts(2))
    extra = with_extra(torch.arange(3.0)[:, None])
    assert why_together(extra, 3) is None
    assert for_part(extra, slice(1, 3), 3)[0][1]["another_pack"].flatten().tolist() == [1, 2]


def test_another_error_is_not_tried_again(nodes):
    model, calls = tiny("sd1").clone(), []

    def apply(executor, x, *args, **kw):
        calls.append(len(x))
        raise RuntimeError("Expected 20 GiB")

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "broken", apply)
    with pytest.raises(RuntimeError, match="20 GiB"):
        invert(nodes, model, prompt("sd1"), latents(2), capture=False)
    assert calls == [2]


@pytest.mark.parametrize("node", ["ExemplarColorize", "ExemplarTranslate"])
def test_batches_with_other_pictures_in_them_take_one_prompt(kit, node):
    """Inputs and references share a batch, of which a prompt's rows would be anybody's."""
    from .work import RUNS

    (context, extras), *_ = kit.embedded[3]
    own = [[context.repeat(2, 1, 1), extras]]
    asked = {"conditioning": own} if node == "ExemplarColorize" else {"concept": own, "reference": None}
    with pytest.raises(ValueError, match=r"(conditioning|concept): found prompts for 2 pictures, expected one prompt"):
        RUNS[node](kit, 2, **asked)
