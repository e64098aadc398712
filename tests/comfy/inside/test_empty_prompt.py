"""A conditioning that is left unconnected is the empty prompt, bit for bit: by CLIP, or the embedded model's own."""

import pytest
import torch

from comfyui_exemplar.hosts.comfy.empty_prompt import encoded, need_prompt, prompt_or_empty
from comfyui_exemplar.nodes import NODES

from .models import text_encoder, tiny
from .sampling import run_guider

SMALL = {"resolution": 64}
FEW = {"guidance": 3.0, "passes": 1, "depth": 2, "steps": 50, **SMALL}


def tensors(value):
    """All tensors in a node's output, in their order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for part in value.values() for tensor in tensors(part)]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in tensors(part)]
    return tensors(vars(value)) if type(value).__module__.startswith("comfyui_exemplar") else []


def same(one, other):
    one, other = tensors(one), tensors(other)
    return len(one) == len(other) > 0 and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def marks(gray):
    marked = gray.clone()
    marked[:, 20:24, 20:30] = torch.tensor([0.8, 0.1, 0.1])
    return marked


#: node -> kit -> its inputs, without the prompt.
INPUTS = {
    "ExemplarColorize": lambda kit: {"image": kit.scene[0], "reference": kit.scene[1], **FEW},
    "ExemplarDDIMInversion": lambda kit: {"latent": kit.latent(1), "depth": 2, "steps": 50},
    "ExemplarPivotInversion": lambda kit: {"inversion": kit.source[0], "cfg": 3.0, "iterations": 1},
    "ExemplarColorFeatures": lambda kit: {"image": kit.scene[0], **SMALL},
    "ExemplarColorMemory": lambda kit: {"references": kit.scene[1], **SMALL},
    "ExemplarColorStrokes": lambda kit: {"image": kit.scene[0], "marks": marks(kit.scene[0]), **SMALL},
    "ExemplarMemoryColorize": lambda kit: {"image": kit.scene[0], "memory": kit.memory, **SMALL},
    "ExemplarTransferColors": lambda kit: {"original": kit.scene[0], "edited": kit.scene[1], "fallback_below": 0.5},
}


def test_every_node_with_both_sockets_is_tried():
    """Colorization Guidance is tried below: it gives a guider."""
    both = {
        schema.node_id
        for schema in (node.define_schema() for node in NODES)
        if {"conditioning", "clip"} <= {item.id for item in schema.inputs}
    }
    assert both == INPUTS.keys() | {"ExemplarColorGuidance"}


@pytest.mark.parametrize("node", INPUTS)
def test_the_embedded_model(node, kit, nodes):
    model, clip, vae, empty = kit.embedded
    inputs = {"model": model, **INPUTS[node](kit)}
    if node not in ("ExemplarDDIMInversion", "ExemplarPivotInversion"):
        inputs["vae"] = vae
    expected = nodes(node, **inputs, conditioning=empty)
    assert same(nodes(node, **inputs), expected)
    assert same(nodes(node, **inputs, clip=clip), expected)
    words = clip.encode_from_tokens_scheduled(clip.tokenize("red apple"))
    told = nodes(node, **inputs, conditioning=words)
    assert node == "ExemplarTransferColors" or not same(told, expected)
    assert same(nodes(node, **inputs, conditioning=words, clip=clip), told), "what is connected wins"


def test_by_memory_too(kit, nodes):
    model, clip, vae, empty = kit.embedded
    inputs = {"model": model, "vae": vae, "image": kit.scene[0], "reference": kit.scene[1], "method": "memory", **SMALL}
    expected = nodes("ExemplarColorize", **inputs, conditioning=empty)[0]
    for more in ({}, {"clip": clip}):
        assert torch.equal(nodes("ExemplarColorize", **inputs, **more)[0], expected)


def test_colorization_guidance(embedded, inverted, injected, nodes):
    clip, empty = embedded[1], embedded[3]
    noised, sigmas = inverted["input"][1], inverted["input"][2]

    def sampled(**prompt):
        return run_guider(nodes("ExemplarColorGuidance", model=injected(), guidance=3.0, **prompt)[0], noised, sigmas)

    expected = sampled(conditioning=empty)
    assert torch.equal(sampled(), expected) and torch.equal(sampled(clip=clip), expected)


def test_the_embedded_model_carries_what_its_clip_gives(embedded):
    model, clip, _, empty = embedded
    for found in (prompt_or_empty(None, None, model), prompt_or_empty(None, None, model.clone()), encoded(clip)):
        ((context, extras),) = found
        assert torch.equal(context, empty[0][0]) and torch.equal(extras["pooled_output"], empty[0][1]["pooled_output"])
        assert extras.keys() == empty[0][1].keys()


class TestSDXL:
    """Its empty prompt has a pooled text, and the MODEL carries none."""

    LATENT = {"samples": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))}
    INPUTS = {"latent": LATENT, "depth": 2, "steps": 10}

    def test_by_clip(self, nodes):
        model, clip = tiny("sdxl-small"), text_encoder("sdxl-small")
        empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        expected = nodes("ExemplarDDIMInversion", model=model, conditioning=empty, **self.INPUTS)
        found = nodes("ExemplarDDIMInversion", model=model, clip=clip, **self.INPUTS)
        assert same(found, expected) and "pooled_output" in need_prompt(None, clip, model, "Node")[0][1]

    def test_without_both_it_is_refused_before_any_work(self, nodes):
        model = tiny("sdxl-small")
        model.model.diffusion_model.register_forward_pre_hook(lambda *_: pytest.fail("the network ran"))
        with pytest.raises(ValueError, match=r"DDIM Inversion: conditioning: found nothing.*connect the CLIP"):
            nodes("ExemplarDDIMInversion", model=model, **self.INPUTS)

    def test_another_checkpoints_clip(self, nodes):
        with pytest.raises(ValueError, match="encode it with the CLIP of the same checkpoint"):
            nodes("ExemplarDDIMInversion", model=tiny("sdxl-small"), clip=text_encoder("sd1"), **self.INPUTS)
