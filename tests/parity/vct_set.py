"""VCT's recorded set: its numbers, and the two networks that they were made with.

The committed set is trimmed; what it leaves out and its description defines is put together here (see ``file``).
"""

import hashlib
import json
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

PREFIX = "model.diffusion_model."


class VCTSet:
    """One folder. ``manifest`` and ``file("weights")`` answer what ``hosts`` asks of any set with a tiny UNet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {}

    @cached_property
    def meta(self) -> dict:
        return json.loads((self.folder / "meta.json").read_text("utf-8"))

    @cached_property
    def recipe(self) -> dict:
        return json.loads((self.folder / "unet_recipe.json").read_text("utf-8"))

    def cases(self, golden: str) -> list[str]:
        """Names of the cases of ``g2`` to ``g5`` that this set has."""
        return sorted(self.meta[golden])

    def file(self, name: str) -> dict:
        """Tensors of one file; for ``weights`` and ``common`` what the other sets keep under these names."""
        if name not in self._files:
            if name == "weights":
                self._files[name] = {PREFIX + key: tensor for key, tensor in self.unet_weights("ldm").items()}
            elif name == "common":
                base = self.file("base")
                self._files[name] = {"context": base["ctx_empty"], "alphas_cumprod": base["alphas_cumprod"]}
            else:
                self._files[name] = self._completed(name, load_file(self.folder / f"{name}.safetensors"))
        return self._files[name]

    def _completed(self, name: str, tensors: dict) -> dict:
        if name == "base" and "probe_ctx" not in tensors:
            tensors["probe_ctx"] = torch.cat([tensors["ctx_empty"], tensors["ctx_concept"]])
        if name.startswith("3_attention") and "in_self_q1025" not in tensors:
            # one query too many for the window: its numbers do not matter, since nothing may change them
            inside = tensors["in_self_q1024"]
            tensors["in_self_q1025"] = torch.cat([inside, inside[:, -1:]], dim=1)
        return tensors

    @cached_property
    def manifest(self) -> dict:
        unet, scheduler = self.meta["unet"]["comfy_unetmodel_kwargs"], self.meta["scheduler"]
        with_attention = unet["transformer_depth"][:: unet["num_res_blocks"][0]]
        return {
            "unet": {
                "in_channels": unet["in_channels"],
                "out_channels": unet["out_channels"],
                "model_channels": unet["model_channels"],
                "num_res_blocks": unet["num_res_blocks"][0],
                "channel_mult": unet["channel_mult"],
                "num_heads": unet["num_heads"],
                "context_dim": unet["context_dim"],
                "transformer_depth": unet["transformer_depth_middle"],
                "attention_resolutions": [2**i for i, depth in enumerate(with_attention) if depth],
            },
            "schedule": {
                "beta_start": scheduler["beta_start"],
                "beta_end": scheduler["beta_end"],
                "num_train_timesteps": scheduler["num_train_timesteps"],
            },
            "golden": {"repeat_n3": {"scale_factor": 1.0}},  # recorded latents are in the model's own scale
        }

    def unet_weights(self, names: str = "ldm") -> dict:
        """The UNet by its recipe, under ``ldm`` or ``diffusers`` names; about 0.3 s."""
        made = {}
        for i, diffusers_key, ldm_key, shape, offset, amp in self.recipe["entries"]:
            draw = np.random.RandomState(self.recipe["base_seed"] + i).random_sample(prod(shape))
            value = (offset + amp * (2 * draw - 1)).astype(np.float32).reshape(shape)
            made[ldm_key if names == "ldm" else diffusers_key] = torch.from_numpy(value)
        return made

    def clip_weights(self, placeholders: int = 0) -> dict:
        """The text encoder's weights, Hugging Face names, with zero rows appended for placeholders."""
        weights = dict(self.file("clip"))
        sizes = self.meta["clip"]
        key = next(name for name in weights if name.endswith("token_embedding.weight"))
        stored = weights[key]
        rows = sizes.get("token_rows", range(len(stored)))  # the committed set keeps the rows that are used
        table = stored.new_zeros(sizes["base_vocab_rows"] + placeholders, stored.shape[1])
        table[list(rows)] = stored
        weights[key] = table
        return weights

    def clip_model(self, placeholders: int = 0):
        """The text encoder under transformers."""
        from transformers import CLIPTextConfig

        from comfyui_exemplar.hosts.diffusers.text_encoders import clip_model

        weights = self.clip_weights(placeholders)
        rows = self.meta["clip"]["base_vocab_rows"] + placeholders
        config = CLIPTextConfig(**{**self.meta["clip"]["config"], "vocab_size": rows})
        return clip_model(config, weights, "the recorded text encoder")

    def alpha(self, timestep: int) -> float:
        """ᾱ at a timestep as the officials read it: below 0 that of 0, never 1."""
        return float(self.file("base")["alphas_cumprod"][max(timestep, 0)])

    def noised(self, x: torch.Tensor, timestep: int) -> torch.Tensor:
        """A recorded, variance-preserving latent as the variance-exploding one that the pack works on."""
        return x / self.alpha(timestep) ** 0.5


def checksum(weights: dict) -> str:
    """SHA-256 over the raw bytes in sorted order of names (diffusers' names for the recorded sum)."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
