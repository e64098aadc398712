"""The embedded L-CAD's one file: UNet, words, gray encoder and decoder in half precision, configuration in the
header."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from comfyui_exemplar.files.headers import CONFIG_KEY, FORMAT, FORMAT_KEY, RECOMMENDED_KEY
from comfyui_exemplar.files.output import whole

from . import guided
from .drawings import SIDE
from .export import CREDIT, LICENSE, configuration

#: Chosen by looking at what the tiny model does at the size of its training pictures.
RECOMMENDED = {"lcad": {"resolution": SIDE, "steps": 20, "cfg": 3.0}}


def export_lcad(folder: Path, output: Path) -> None:
    """The averaged weights of ``folder/lcad.pt`` and ``folder/guided.pt`` -> one safetensors file."""
    path = folder / "lcad.pt"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `python -m training lcad` first.")
    tensors = dict(torch.load(path, map_location="cpu", weights_only=True)["average"])
    network = guided.averaged(folder)
    for prefix, module in (("gray.", network.encoder), ("decoder.", network.decoder), ("vae.", network.base)):
        tensors |= {prefix + name: value for name, value in module.state_dict().items()}
    half = {name: value.half().contiguous() for name, value in tensors.items() if not name.startswith("vae.")}
    half |= {name: value.float().contiguous() for name, value in tensors.items() if name.startswith("vae.")}
    described = configuration()
    described["image_size"] = SIDE
    described["unet"]["in_channels"] = guided.SIZES.latent + guided.SIZES.features
    described["text"]["type"] = "hashed words, each of which hears its neighbors"
    described["lcad"] = {
        "widths": list(guided.SIZES.widths),
        "blocks": guided.SIZES.blocks,
        "groups": guided.SIZES.groups,
    }
    metadata = {
        "format": "pt",
        FORMAT_KEY: FORMAT,
        CONFIG_KEY: json.dumps(described),
        RECOMMENDED_KEY: json.dumps(RECOMMENDED),
        "exemplar.credit": CREDIT,
        "exemplar.license": LICENSE,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole(output) as beside:
        save_file(half, beside, metadata=metadata)
    print(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB, {sum(t.numel() for t in half.values()) / 1e6:.2f} M numbers"
    )
