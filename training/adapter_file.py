"""Write the embedded model's DEADiff adapter, in the published form, and measure what its tokens do."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from comfyui_exemplar.files.output import whole
from comfyui_exemplar.networks.deadiff.load import ABOUT_KEY
from comfyui_exemplar.networks.deadiff.weights import projection_name, published_shapes

from .adapter import SIZES, SPLIT, WORDS
from .export import CREDIT, LICENSE
from .model import TEXT

#: Parts of names, ours to published; the trunk's packed matrix is put together apart.
_TRUNK = (
    ("embeddings.class_embedding", "class_embedding"),
    ("embeddings.position_embedding.weight", "positional_embedding"),
    ("embeddings.patch_embedding.weight", "conv1.weight"),
    ("pre_layrnorm.", "ln_pre."),
    ("encoder.layers.", "transformer.resblocks."),
    (".self_attn.out_proj.", ".attn.out_proj."),
    (".layer_norm", ".ln_"),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
)
_BRANCH = (
    ("qformer.model.", "Qformer.bert."),
    ("embeddings.layernorm.", "embeddings.LayerNorm."),
    ("attention.attention.", "attention.self."),
)


def export_adapter(folder: Path, output: Path) -> None:
    """The averaged weights of ``folder/adapter.pt`` -> one safetensors file with the published names."""
    averaged = torch.load(folder / "adapter.pt", weights_only=True)["average"]
    tensors = {name: tensor.half().contiguous() for name, tensor in publish(averaged).items()}
    about = {
        "what": "A small network of DEADiff's architecture for the embedded model; none of the published weights are "
        "in it.",
        "words": WORDS,
        "text_tokens": TEXT["tokens"],
        "side": SIZES.side,
        "split": SPLIT,
    }
    metadata = {"format": "pt", ABOUT_KEY: json.dumps(about), "exemplar.credit": CREDIT, "exemplar.license": LICENSE}
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole(output) as beside:
        save_file(tensors, beside, metadata=metadata)
    print(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB, {sum(t.numel() for t in tensors.values()) / 1e6:.2f} M "
        "numbers"
    )


def publish(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """An :class:`~.adapter.Adapter`'s weights under the published names, as ``networks.deadiff.load`` reads them."""
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.startswith("projections."):
            place, letter = name.removeprefix("projections.").split(".")[:2]
            block, index, depth = place.split("_")
            found[projection_name((block, int(index), int(depth)), letter)] = tensor
        elif name.startswith("encoder.trunks.style.model."):
            found[f"style_blip.visual_encoder.{_renamed(name.removeprefix('encoder.trunks.style.model.'), _TRUNK)}"] = (
                tensor
            )
        else:
            branch, rest = name.removeprefix("encoder.branches.").split(".", 1)
            rest = _renamed(rest, _BRANCH)
            if rest.startswith("proj_layer."):
                found[f"{branch}_{rest}"] = tensor
            else:
                found[f"{branch}_blip.{rest}"] = tensor
    for first in [name for name in found if ".self_attn.q_proj." in name]:
        parts = [found.pop(first.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
        layer, kind = first.split(".self_attn.q_proj.")
        found[f"{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    expected = published_shapes(SIZES, shared_trunk=True)
    encoder = {name: tuple(t.shape) for name, t in found.items() if not name.startswith("model.")}
    if encoder != expected:
        raise ValueError(f"The adapter's names are off: {sorted(set(encoder) ^ set(expected))[:5]}.")
    return found


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for ours, theirs in pairs:
        name = name.replace(ours, theirs)
    return name
