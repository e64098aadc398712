"""DEADiff's recorded set: its numbers, and the networks that they were made with.

The committed set is trimmed: weights that follow a recipe are drawn again, pictures are kept by rows, stacks are cut to
their first layers with what was recorded after these as their result.
"""

import hashlib
import json
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file

PREFIX = "model.diffusion_model."


class DEADiffSet:
    """One folder; sizes and cases come from its ``manifest.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {}

    def json(self, name: str) -> dict:
        return json.loads((self.folder / f"{name}.json").read_text("utf-8"))

    @cached_property
    def meta(self) -> dict:
        return self.json("manifest")

    def file(self, name: str) -> dict:
        if name not in self._files:
            self._files[name] = load_file(self.folder / f"{name}.safetensors")
        return self._files[name]

    def weights(self, name: str) -> dict:
        """Weights of a file under official names without prefix, float32: stored in it, or by the recipe."""
        stored = {key[2:]: tensor.float() for key, tensor in self.file(name).items() if key.startswith("w.")}
        return stored or draw(self.json("weights_recipe")[name])


def draw(recipe: dict) -> dict:
    """Weights from one generator, tensor by tensor: normal numbers, matrices divided by the root of their inputs, norms
    around 1, other vectors small. Raises AssertionError if they are not those that were recorded."""
    generator = torch.Generator().manual_seed(recipe["seed"])
    shapes = {name: tuple(shape) for name, shape in recipe["tensors"]}
    made = {}
    for name, shape in shapes.items():
        z = torch.randn(shape, generator=generator)
        layer, kind = name.rsplit(".", 1)
        if len(shape) > 1:
            z = z * z[0].numel() ** -0.5
        elif kind == "weight":
            z = 1 + 0.2 * z
        else:
            z = z * (0.2 if len(shapes[f"{layer}.weight"]) == 1 else 0.1)
        made[name] = z.half().float() if recipe["half"] else z
    digest = hashlib.sha256()
    for name in sorted(made):
        digest.update(name.encode() + b"\0" + made[name].contiguous().numpy().tobytes())
    assert digest.hexdigest() == recipe["sha256"], "the recipe does not give the recorded weights"
    return made


class DEADiffUNet:
    """The set's UNet as ``hosts`` asks for one: without the image projections, which ``projections`` has."""

    def __init__(self, parity: DEADiffSet) -> None:
        self.parity = parity
        self.sizes = parity.meta["f_unet_tiny"]["config"]

    @cached_property
    def _all(self) -> dict:
        return self.parity.weights("f_unet_tiny")

    def file(self, name: str) -> dict:
        from comfyui_exemplar.hosts.diffusers.checkpoint import alphas_cumprod

        if name == "weights":
            return {PREFIX + key: tensor for key, tensor in self._all.items() if ".i_to_" not in key}
        return {"context": self.parity.file("f_unet_tiny")["in.text"], "alphas_cumprod": alphas_cumprod()}

    @cached_property
    def projections(self) -> dict:
        """Layer -> W_ik and W_iv, read as from a checkpoint."""
        from comfyui_exemplar.attention.layers import Layer
        from comfyui_exemplar.networks.deadiff.weights import read_projections

        found = read_projections({PREFIX + key: tensor for key, tensor in self._all.items()})
        return {Layer(*place): (pair["k"], pair["v"]) for place, pair in found.items()}

    @cached_property
    def manifest(self) -> dict:
        sizes, blocks = self.sizes, self.sizes["num_res_blocks"]
        levels = range(len(sizes["channel_mult"]))

        def attends(level: int) -> bool:
            return any(key.startswith(f"input_blocks.{1 + level * (blocks + 1)}.1.transformer") for key in self._all)

        return {
            "unet": {
                "in_channels": sizes["in_channels"],
                "out_channels": sizes["out_channels"],
                "model_channels": sizes["model_channels"],
                "num_res_blocks": blocks,
                "channel_mult": sizes["channel_mult"],
                "num_heads": sizes["num_heads"],
                "context_dim": sizes["context_dim"],
                "transformer_depth": sizes["transformer_depth"],
                "attention_resolutions": [2**level for level in levels if attends(level)],
            },
            "schedule": {"beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000},
            "golden": {"repeat_n3": {"scale_factor": 1.0}},  # recorded latents are in the model's own scale
        }
