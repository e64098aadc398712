"""DDColor's recorded set: its numbers, and the weights that they were made with, from the recipe in its description."""

import hashlib
import json
import zlib
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

#: Weights by the set's name for them -> the key list they follow.
KEYS = {"convnext_t": "paper_tiny", "convnext_l": "modelscope"}


class DDColorSet:
    """One folder; sizes, salt and cases come from its ``meta.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def meta(self) -> dict:
        return self.json("meta")

    def json(self, name: str) -> dict:
        return json.loads((self.folder / f"{name}.json").read_text("utf-8"))

    def file(self, name: str) -> dict:
        return load_file(self.folder / f"{name}.safetensors")

    def keys(self, weights: str) -> dict[str, list[int]]:
        return self.json(f"keys_official_ddcolor_{KEYS[weights]}")

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return recipe(self.keys(name), self.meta["salt"])


def recipe(shapes: dict[str, list[int]], salt: str) -> dict[str, torch.Tensor]:
    """Weights in published names for any sizes: uniform numbers, scaled so that nothing explodes or dies."""
    made = {}
    for name, shape in shapes.items():
        if not name.endswith("weight_v"):
            made[name] = torch.from_numpy(_value(name, tuple(shape), salt))
    for name in shapes:
        if name.endswith("weight_v"):
            layer = name.removesuffix("weight_v")
            matrix = made[f"{layer}weight_orig"].flatten(1).double()
            v = matrix.T @ made[f"{layer}weight_u"].double()
            made[name] = (v / v.norm()).float()
    return made


def _value(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    if name in ("mean", "std"):
        values = (0.485, 0.456, 0.406) if name == "mean" else (0.229, 0.224, 0.225)
        return np.array(values, np.float32).reshape(shape)
    if name.endswith("num_batches_tracked"):
        return np.array(0, np.int64)
    seed = zlib.crc32(f"{salt}:{name}".encode())
    z = (2 * np.random.RandomState(seed).random_sample(prod(shape)) - 1).reshape(shape)
    if name.endswith("weight_u"):
        z /= np.linalg.norm(z)
    elif name.endswith("running_mean"):
        z *= 0.1
    elif name.endswith("running_var"):
        z = 1 + 0.5 * z
    elif name.endswith("gamma"):
        z = 0.3 + 0.2 * z
    elif len(shape) == 1:
        z = 1 + 0.2 * z if name.endswith(".weight") else 0.1 * z
    elif not name.endswith(("query_feat.weight", "query_embed.weight", "level_embed.weight")):
        z *= (3 / prod(shape[1:])) ** 0.5
        if name.endswith("color_embed.layers.2.weight"):
            z *= 16
    return z.astype(np.float32)


def checksum(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names and bytes, without the vectors v, whose last bit is the linear algebra library's."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        if not name.endswith("weight_v"):
            digest.update(name.encode() + b"\0" + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
