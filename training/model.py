"""The network to train: diffusers' UNet in Stable Diffusion 1.x's topology and a table of hashed words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comfyui_exemplar.color.devices import is_bfloat16_fast
from comfyui_exemplar.hosts.diffusers.checkpoint import alphas_cumprod
from comfyui_exemplar.networks.embedded.words import HashedWords

UNET = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3,
    "up_block_types": ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [64, 128, 256],
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    # diffusers' name for the NUMBER of heads; every head is 64 wide, as in Stable Diffusion 2
    "attention_head_dim": [1, 2, 4],
    "norm_num_groups": 32,
}
TEXT = {"type": "bag of hashed words", "vocab": 8192, "tokens": 8}
SCHEDULE = {
    "type": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "steps": 1000,
    "prediction": "v_prediction",
}


def signal_levels() -> Tensor:
    """ᾱ of every timestep, (steps,)."""
    return alphas_cumprod(SCHEDULE["type"], SCHEDULE["beta_start"], SCHEDULE["beta_end"], SCHEDULE["steps"])


class Lesson:
    """What one training step tells the attention layers, and the attention maps that they give back.

    The batch is [I, G, R, X, others]: ``pairs`` rows each of gray input, gray reference, color reference and the
    picture being colored, then any number of ordinary rows. With ``pairs`` 0 every row is ordinary.
    """

    def __init__(self) -> None:
        self.pairs = 0
        self.gamma: dict[str, float] = {}
        self.maps: list[Tensor] = []


class LessonAttention:
    """Ordinary attention, but for the X rows of the layers that the method injects into.

    There it is softmax(γ Q_I K_Gᵀ + (1 - γ) Q_X K_Rᵀ) V_R (Kosugi 2025, eq. 9 without its residual term), and the map
    is kept for the matching loss.
    """

    def __init__(self, lesson: Lesson, level: str | None) -> None:
        self.lesson = lesson
        self.level = level

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        n = self.lesson.pairs
        if n and self.level and encoder_hidden_states is None:
            out = torch.cat(
                [
                    F.scaled_dot_product_attention(query[: 3 * n], key[: 3 * n], value[: 3 * n]),
                    self._dual(query, key, value, n),
                    F.scaled_dot_product_attention(query[4 * n :], key[4 * n :], value[4 * n :]),
                ]
            )
        else:
            out = F.scaled_dot_product_attention(query, key, value)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))

    def _dual(self, query: Tensor, key: Tensor, value: Tensor, n: int) -> Tensor:
        scale, gamma = query.shape[-1] ** -0.5, self.lesson.gamma[self.level]
        query_i, query_x = query[:n], query[3 * n : 4 * n]
        key_g, key_r, value_r = key[n : 2 * n], key[2 * n : 3 * n], value[2 * n : 3 * n]
        gray = query_i @ key_g.transpose(-1, -2)
        color = query_x @ key_r.transpose(-1, -2)
        weights = ((gamma * gray + (1 - gamma) * color).float() * scale).softmax(-1)
        self.lesson.maps.append(weights)
        return weights.to(value_r.dtype) @ value_r


class Net(nn.Module):
    """UNet and words; ``lesson`` is shared by the attention layers of the two finest decoder levels, and ``precision``
    is what the layers compute in."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.unet = UNet2DConditionModel(**UNET)
        self.text = HashedWords(TEXT["vocab"], UNET["cross_attention_dim"], TEXT["tokens"])
        nn.init.normal_(self.text.emb.weight, std=0.3)
        self.lesson = Lesson()
        self.precision = torch.float32
        self.unet.set_attn_processor(
            {name: LessonAttention(self.lesson, _level(name)) for name in self.unet.attn_processors}
        )

    def forward(self, latents: Tensor, timesteps: Tensor, captions: list[str]) -> Tensor:
        """(B, 4, h, w), (B,) and B captions ("" is no words) -> predicted v (B, 4, h, w)."""
        with torch.autocast(latents.device.type, self.precision, enabled=self.precision != torch.float32):
            context = self.text.encode(captions)
            return self.unet(latents, timesteps, encoder_hidden_states=context, return_dict=False)[0].float()


def _level(name: str) -> str | None:
    if "attn1" not in name or not name.startswith(("up_blocks.1.", "up_blocks.2.")):
        return None
    return "fine" if name.startswith("up_blocks.2.") else "coarse"


def quick_precision(device: torch.device) -> torch.dtype:
    """What training computes in: bfloat16 where the hardware has it, as the weights stay float32."""
    return torch.bfloat16 if is_bfloat16_fast(device) else torch.float32
