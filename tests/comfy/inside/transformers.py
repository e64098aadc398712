"""Tiny random MODELs of the transformer families, made of ComfyUI's own classes, with prompts that they read."""

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
import torch.nn.functional as F

_FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 24,
    "context_in_dim": 40,
    "hidden_size": 64,
    "mlp_ratio": 2.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 3,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "txt_ids_dims": [],
}
_LUMINA = {
    "image_model": "lumina2",
    "in_channels": 16,
    "dim": 64,
    "n_layers": 4,
    "n_refiner_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 4,
    "multiple_of": 16,
    "ffn_dim_multiplier": 1.0,
    "qk_norm": True,
    "cap_feat_dim": 40,
    "axes_dims": [4, 6, 6],
    "axes_lens": [300, 512, 512],
    "rope_theta": 256.0,
}
_SD3 = {
    "in_channels": 16,
    "patch_size": 2,
    "depth": 2,  # heads of 64
    "num_blocks": 4,
    "input_size": None,
    "adm_in_channels": 24,
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 40, "out_features": 128}},
    "qk_norm": "rms",
    "pos_embed_max_size": 24,
    "num_patches": 24 * 24,
    "pos_embed_scaling_factor": None,
}

#: Family -> name in comfy.supported_models, and the sizes of its network.
FAMILIES = {
    "Flux.1": ("Flux", {"image_model": "flux", "guidance_embed": True, **_FLUX}),
    "Flux.2": (
        "Flux2",
        {
            "image_model": "flux2",
            **_FLUX,
            "guidance_embed": True,
            "in_channels": 128,
            "out_channels": 128,
            "patch_size": 1,
            "vec_in_dim": None,
            "global_modulation": True,
            "mlp_silu_act": True,
            "ops_bias": False,
            "qkv_bias": False,
            "axes_dim": [4, 4, 4, 4],
            "theta": 2000,
            "txt_ids_dims": [3],
        },
    ),
    "Chroma": (
        "Chroma",
        {
            "image_model": "chroma",
            **_FLUX,
            "in_channels": 64,
            "out_channels": 64,
            "in_dim": 64,
            "out_dim": 64,
            "hidden_dim": 32,
            "n_layers": 1,
        },
    ),
    "Qwen-Image": (
        "QwenImage",
        {
            "image_model": "qwen_image",
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 4,
            "attention_head_dim": 16,
            "num_attention_heads": 4,
            "joint_attention_dim": 40,
            "axes_dims_rope": (4, 6, 6),
        },
    ),
    "Lumina 2": ("Lumina2", _LUMINA),
    "Z-Image": (
        "ZImage",
        {
            **_LUMINA,
            "dim": 256,  # the width of its time embedding
            "axes_dims": [16, 24, 24],
            "z_image_modulation": True,
            "pad_tokens_multiple": 32,
            "time_scale": 1000.0,
        },
    ),
    "Stable Diffusion 3": ("SD3", _SD3),
    "Stable Diffusion 3.5": ("SD3", {**_SD3, "x_block_self_attn_layers": [0, 1]}),
    "Anima": (
        "Anima",
        {
            "image_model": "anima",
            "max_img_h": 64,
            "max_img_w": 64,
            "max_frames": 8,
            "in_channels": 16,
            "out_channels": 16,
            "patch_spatial": 2,
            "patch_temporal": 1,
            "concat_padding_mask": True,
            "model_channels": 72,
            "num_blocks": 4,
            "num_heads": 3,
            "crossattn_emb_channels": 40,
            "pos_emb_cls": "rope3d",
            "use_adaln_lora": True,
            "adaln_lora_dim": 16,
            "rope_enable_fps_modulation": False,
        },
    ),
}

#: Those that read latents with an axis of frames.
FILMS = ("Qwen-Image", "Anima")

#: Tokens of the prompts.
WORDS = 7


@dataclass(frozen=True)
class Tiny:
    """A tiny MODEL and what goes with it."""

    name: str
    model: Any
    channels: int

    def latents(self, count=1, size=(10, 12), seed=0):
        """(count, channels, h, w) in a LATENT's scale, with an axis of frames where the family has one."""
        frames = (1,) if self.name in FILMS else ()
        return torch.randn(count, self.channels, *frames, *size, generator=torch.Generator().manual_seed(seed))

    def prompt(self, seed=1, words=WORDS):
        """A CONDITIONING."""
        generator = torch.Generator().manual_seed(seed)
        context = torch.randn(1, words, 40, generator=generator)
        return [[context, {"pooled_output": torch.randn(1, 24, generator=generator)}]]


def tiny(name, dtype=torch.float32, seed=0):
    """A MODEL of random weights, of the family's layout."""
    kind, sizes = FAMILIES[name]
    config = getattr(comfy.supported_models, kind)(dict(sizes))
    config.set_inference_dtype(dtype, None)
    with torch.inference_mode(False), torch.no_grad():
        base = config.get_model({}, device="cpu").eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        for key, parameter in (*base.diffusion_model.named_parameters(), *base.diffusion_model.named_buffers()):
            spread = 0.3 if parameter.ndim > 1 else 0.1
            made = torch.randn(parameter.shape, generator=generator) * spread
            if parameter.ndim > 1:
                made = made / max(1.0, parameter.shape[-1] ** 0.5 * spread)
            if ("norm" in key or ".ln_" in key) and parameter.ndim == 1:
                made = made + 1
            if key in ("final_layer.linear.weight", "proj_out.weight"):
                made = made * 0.1  # small at its end, so that inversion converges
            if parameter.is_floating_point() and not key.startswith("pos_embedder"):
                parameter.copy_(made.to(parameter))
    device = torch.device("cpu")
    model = comfy.model_patcher.ModelPatcher(base, load_device=device, offload_device=device)
    return Tiny(name, model, base.latent_format.latent_channels)


def tied(made):
    """The same MODEL, its keys made as its queries are: so that what looks alike matches, without any training."""
    network = made.model.model.diffusion_model
    parameters = dict(network.named_parameters())
    pairs = {"to_q.": "to_k.", "q_proj.": "k_proj.", "query_norm": "key_norm", "norm_q": "norm_k"}
    pairs |= {"q_norm": "k_norm", "ln_q": "ln_k"}
    with torch.inference_mode(False), torch.no_grad():
        for name, parameter in parameters.items():
            if ".qkv." in name or "linear1." in name:
                width = made.model.model.diffusion_model.hidden_size if "linear1." in name else len(parameter) // 3
                parameter[width : 2 * width] = parameter[:width]
            for query, key in pairs.items():
                if query in name and "cross_attn" not in name:
                    parameters[name.replace(query, key)].copy_(parameter)
    return made


class TinyVAE:
    """An autoencoder of one linear map of patches, with what ComfyUI's says of itself."""

    first_stage_model = "one linear map"

    def __init__(self, made):
        latents = made.model.model.latent_format
        self.latent_channels, self.latent_dim = latents.latent_channels, latents.latent_dimensions
        self.factor = latents.spacial_downscale_ratio
        generator = torch.Generator().manual_seed(3)
        self.weight = torch.randn(self.latent_channels, 3 * self.factor**2, generator=generator) / self.factor

    def spacial_compression_encode(self):
        return self.factor

    def encode(self, pictures):
        """(B, H, W, 3) -> (B, C, h, w), or as frames of one film, (1, C, B, h, w)."""
        patches = F.unfold(pictures.movedim(-1, 1) * 2 - 1, self.factor, stride=self.factor)
        height, width = (side // self.factor for side in pictures.shape[1:3])
        latents = (self.weight @ patches).unflatten(2, (height, width))
        return latents.movedim(0, 1)[None] if self.latent_dim == 3 else latents
