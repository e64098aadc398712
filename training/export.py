"""Write the embedded model's one file: weights in half precision, configuration and credits in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from comfyui_exemplar.files.headers import CONFIG_KEY, FORMAT, FORMAT_KEY, RECOMMENDED_KEY
from comfyui_exemplar.files.output import whole

from .autoencoder import FACTOR
from .model import SCHEDULE, TEXT, UNET

#: Chosen with `tune` on the development split. Guidance 1.5 did hardly better than 1 (error 18.94 against 19.06) for
#: twice the cost.
COLORIZE: dict[str, Any] = {
    "steps": 20,
    "depth": 4,
    "guidance": 1.0,
    "passes": 1,
    "gamma_shallow": 0.5,
    "gamma_deep": 0.5,
    "beta_shallow": 0.0,
    "beta_deep": 0.0,
    "match_latents": 0.0,
    "match_chroma": 0.0,
}
#: Chosen on the development split and crops of training photographs; one row of what was tried is flat beside the next.
MEMORY: dict[str, Any] = {
    "timestep": 1,
    "context": 0.5,
    "temperature_coarse": 1.5,
    "temperature_fine": 0.75,
    "coherence": 1.0,
    "agreement": 3.0,
    "saturation": 1.08,
}
#: Chosen by looking at what translation does with few tiny pictures (``translation``).
TRANSLATE: dict[str, Any] = {
    "steps": 10,
    "cfg": 4.0,
    "concept_weight": 1.0,
    "pivot_iterations": 3,
    "updates": 40,
    "learning_rate": 0.005,
}
CREDIT = (
    "Trained on emoji drawings: Noto Emoji and Noto Emoji v1 (Google, Apache-2.0), Fluent Emoji flat and 3D "
    "(Microsoft, MIT), FxEmojis (Mozilla, Apache-2.0), Twemoji (Copyright Twitter, Inc and other contributors, "
    "CC-BY-4.0), EmojiOne 2 (emojione.com, CC-BY-4.0); and on photographs by Emil Persson (Humus, humus.name, "
    "CC-BY-3.0), danielbuechele and vultilion (Flickr, CC-BY-2.0) and SpaceX (public domain). All were changed: "
    "cropped, recolored, put together."
)
LICENSE = (
    "The weights are under the pack's license (MIT); what they were trained on keeps its own, see exemplar.credit."
)


def configuration() -> dict[str, Any]:
    """What the header says of the model; read back by ``files.headers.read_config``."""
    side = UNET["sample_size"]
    return {
        "image_size": side * FACTOR,
        "latent": {
            "size": side,
            "channels": UNET["in_channels"],
            "downscale": FACTOR,
            "scale_factor": 1.0,
            "meaning": ["mean Y", "mean Cb", "mean Cr", "strongest detail of Y"],
            "range_in": "RGB in [-1, 1]",
        },
        "vae": {"type": "linear"},
        "unet": {
            "class": "diffusers UNet2DConditionModel",
            "key_prefix": "unet.",
            **UNET,
            "note": "attention_head_dim is the NUMBER of heads in diffusers' naming; every head is 64 wide",
        },
        "text": {**TEXT, "table": "text.emb.weight", "null_token": 0},
        "schedule": SCHEDULE,
        "trained_on": CREDIT,
    }


def recommended() -> dict[str, dict[str, Any]]:
    """What the header recommends, system by system, under the settings' own names (``files.headers``)."""
    side = {"resolution": UNET["sample_size"] * FACTOR}
    return {"exemplar": side | COLORIZE, "memory": side | MEMORY, "vct": side | TRANSLATE}


def export(folder: Path, output: Path, weights: str = "average") -> None:
    """``folder/unet.pt`` and its autoencoder -> one safetensors file.

    :param weights: "average", or "net": the last step's own. After a short last stage the average is still half of what
        was before it.
    """
    chosen = torch.load(folder / "unet.pt", map_location="cpu", weights_only=True)[weights]
    tensors = {name: value.half().contiguous() for name, value in chosen.items()}
    tensors |= {f"vae.{name}": value for name, value in load_file(folder / "autoencoder.safetensors").items()}
    metadata = {
        "format": "pt",
        FORMAT_KEY: FORMAT,
        CONFIG_KEY: json.dumps(configuration()),
        RECOMMENDED_KEY: json.dumps(recommended()),
        "exemplar.credit": CREDIT,
        "exemplar.license": LICENSE,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole(output) as beside:
        save_file(tensors, beside, metadata=metadata)
    print(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB, {sum(t.numel() for t in tensors.values()) / 1e6:.2f} M "
        "numbers"
    )
