"""A small transformer of flow matching to train, in the layout of Flux's blocks that prompt and picture share.

Its weights have ComfyUI's names for Flux, so that ComfyUI's own class runs them: queries and keys are normalized and
turned by place (RoPE), time enters by modulation. Written from the papers: Flux.1 (Black Forest Labs) has none of
its own; its blocks are those of Dehghani et al. 2023 (arXiv 2302.05442) with modulation (Peebles and Xie 2023, arXiv
2212.09748), positions by Su et al. 2021 (arXiv 2104.09864), training by Liu et al. 2023 (arXiv 2209.03003).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Sizes, by the names of ComfyUI's class.
SIZES = {
    "in_channels": 4,
    "out_channels": 4,
    "context_in_dim": 128,
    "hidden_size": 192,
    "num_heads": 6,
    "mlp_ratio": 3.0,
    "depth_single_blocks": 8,
    "axes_dim": [8, 12, 12],
    "theta": 256,
    "patch_size": 2,
}
#: Blocks that are taught to match.
MATCHING = (3, 4, 5)


@dataclass
class Seen:
    """What the matching blocks of one call saw: queries and keys of the picture's tokens before they were turned,
    (B, heads, N, d), by block."""

    queries: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)


class Embedder(nn.Module):
    """Two layers with SiLU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.in_layer, self.out_layer = nn.Linear(width, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, hidden)."""
        return self.out_layer(F.silu(self.in_layer(x)))


class Norms(nn.Module):
    """Root mean square norms of queries and keys, head by head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_norm, self.key_norm = nn.RMSNorm(width), nn.RMSNorm(width)


class Modulation(nn.Module):
    """Shift, scale and gate of a block by time."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lin = nn.Linear(hidden, 3 * hidden)


class Block(nn.Module):
    """Attention and a feed-forward part side by side, for the prompt's and the picture's tokens alike."""

    def __init__(self, hidden: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.hidden, self.heads, self.wide = hidden, heads, int(hidden * ratio)
        self.modulation = Modulation(hidden)
        self.linear1 = nn.Linear(hidden, 3 * hidden + self.wide)
        self.linear2 = nn.Linear(hidden + self.wide, hidden)
        self.norm = Norms(hidden // heads)

    def forward(self, x: Tensor, time: Tensor, turns: Tensor, seen: tuple[Seen, int, int] | None) -> Tensor:
        """(B, T + N, C) -> the same.

        :param time: (B, C).
        :param turns: (T + N, d / 2, 2, 2).
        :param seen: where to keep queries and keys, under which number, behind how many tokens of the prompt.
        """
        shift, scale, gate = self.modulation.lin(F.silu(time))[:, None].chunk(3, -1)
        normed = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        made, wide = self.linear1(normed).split([3 * self.hidden, self.wide], -1)
        q, k, v = made.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.norm.query_norm(q), self.norm.key_norm(k)
        if seen is not None:
            kept, number, words = seen
            kept.queries[number], kept.keys[number] = q[:, :, words:], k[:, :, words:]
        out = F.scaled_dot_product_attention(turned(q, turns), turned(k, turns), v).transpose(1, 2).flatten(2)
        return x + gate * self.linear2(torch.cat([out, F.gelu(wide, approximate="tanh")], -1))


class Last(nn.Module):
    """From tokens to the velocity of their patches."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden, width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, N, C) and (B, C) -> (B, N, width)."""
        shift, scale = self.adaLN_modulation(time)[:, None].chunk(2, -1)
        return self.linear(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)


class DiT(nn.Module):
    """The network: noised latents, times and prompts -> velocities."""

    def __init__(self) -> None:
        super().__init__()
        hidden, self.patch = SIZES["hidden_size"], SIZES["patch_size"]
        width = SIZES["in_channels"] * self.patch**2
        self.img_in, self.txt_in = nn.Linear(width, hidden), nn.Linear(SIZES["context_in_dim"], hidden)
        self.time_in = Embedder(256, hidden)
        self.single_blocks = nn.ModuleList(
            Block(hidden, SIZES["num_heads"], SIZES["mlp_ratio"]) for _ in range(SIZES["depth_single_blocks"])
        )
        self.final_layer = Last(hidden, width)
        for layer in (*(block.modulation.lin for block in self.single_blocks), self.final_layer.adaLN_modulation[1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        for block in self.single_blocks:  # gates that begin a little open, so that all blocks learn from the start
            nn.init.constant_(block.modulation.lin.bias[2 * hidden :], 0.5)
        for value in self.final_layer.linear.parameters():
            nn.init.zeros_(value)

    def forward(self, latents: Tensor, times: Tensor, context: Tensor, seen: Seen | None = None) -> Tensor:
        """Velocities noise - clean, (B, 4, h, w).

        :param latents: (B, 4, h, w), sides multiples of the patch; ``times`` (B,) in 0..1; ``context`` (B, T, 128).
        :param seen: where the matching blocks leave their queries and keys.
        """
        height, width = (side // self.patch for side in latents.shape[-2:])
        picture = F.pixel_unshuffle(latents, self.patch).flatten(2).transpose(1, 2)
        time = self.time_in(time_features(times))
        x = torch.cat([self.txt_in(context), self.img_in(picture)], 1)
        words = context.shape[1]
        turns = places(words, height, width, x.device)
        for number, block in enumerate(self.single_blocks):
            kept = (seen, number, words) if seen is not None and number in MATCHING else None
            x = block(x, time, turns, kept)
        out = self.final_layer(x[:, words:], time)
        return F.pixel_shuffle(out.transpose(1, 2).unflatten(2, (height, width)), self.patch)


def time_features(times: Tensor) -> Tensor:
    """(B,) in 0..1 -> (B, 256): cosines, then sines, of 128 frequencies from 1000 down."""
    rates = torch.exp(-math.log(10_000) * torch.arange(128, device=times.device) / 128)
    angles = 1000 * times[:, None].float() * rates
    return torch.cat([angles.cos(), angles.sin()], -1)


def places(words: int, height: int, width: int, device: torch.device) -> Tensor:
    """How tokens are turned, (T + N, d / 2, 2, 2): the prompt's not at all, the picture's by row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    picture = torch.stack([torch.zeros(height * width), rows.flatten(), columns.flatten()], -1)
    ids = torch.cat([torch.zeros(words, 3), picture]).double()
    angles = []
    for axis, size in enumerate(SIZES["axes_dim"]):
        rates = SIZES["theta"] ** -(torch.arange(0, size, 2).double() / size)
        angles.append(ids[:, axis, None] * rates)
    angle = torch.cat(angles, -1)
    turns = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).unflatten(-1, (2, 2))
    return turns.float().to(device)


def turned(tokens: Tensor, turns: Tensor) -> Tensor:
    """(B, heads, N, d), every two neighboring channels turned by their token's place."""
    return torch.einsum("npij,bhnpj->bhnpi", turns.to(tokens), tokens.unflatten(-1, (-1, 2))).flatten(-2)
