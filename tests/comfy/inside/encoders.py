"""Tiny vision encoders of random numbers, of ComfyUI's own classes."""

import comfy.clip_vision
import torch

KINDS = ("clip_vision_model", "siglip_vision_model", "siglip2_vision_model", "dinov2", "dinov3")

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "num_channels": 3,
    "patch_size": 8,
    "image_size": 32,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.3, 0.2, 0.25],
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}
_OWN = {
    "siglip2_vision_model": {"image_size": -1, "num_patches": 16},
    "dinov2": {"use_swiglu_ffn": False},
    "dinov3": {"num_register_tokens": 4, "rope_theta": 100.0},
}


def clip_vision(kind, seed=0, **sizes):
    """A CLIP_VISION as a loader gives it."""
    with torch.inference_mode(False), torch.no_grad():
        made = comfy.clip_vision.ClipVisionModel({**_SIZES, **_OWN.get(kind, {}), "model_type": kind, **sizes})
        random = torch.Generator().manual_seed(seed)
        weights = {
            # norms near 1, all else small enough for attention to see everything
            name: torch.randn(t.shape, generator=random) * 0.2 + float("norm" in name and name.endswith("weight"))
            for name, t in made.get_sd().items()
        }
        missing, beyond = made.load_sd(weights)
        assert not missing and not beyond
    return made
