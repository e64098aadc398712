"""DDColor as its description has it: norms beside their layers, every map at full size, one picture a call.

Written from the description in plain functions over the published names. It is what ``bench.ddcolor`` compares with,
and tests hold our own network against it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_exemplar.networks.ddcolor.model import HEADS, DDColorSizes

ENCODER = "encoder.arch."
COLOR = "decoder.color_decoder."


class NaiveDDColor:
    """(1, 3, H, W) in 0..1 -> (1, 2, H, W), a and b."""

    def __init__(self, weights: dict[str, Tensor], sizes: DDColorSizes) -> None:
        self.w, self.sizes = weights, sizes
        self.attention = {}
        for k in range(sizes.layers):
            for kind, name in (("cross", "multihead_attn"), ("self", "self_attn")):
                prefix = f"{COLOR}transformer_{kind}_attention_layers.{k}.{name}."
                module = torch.nn.MultiheadAttention(sizes.hidden, HEADS, batch_first=True)
                module.load_state_dict({n[len(prefix) :]: t for n, t in weights.items() if n.startswith(prefix)})
                self.attention[kind, k] = module.eval().requires_grad_(False).to(weights["mean"].device)

    def __call__(self, gray: Tensor) -> Tensor:
        w = self.w
        x = (gray - w["mean"]) / w["std"]
        queries, enlarged = self.decode(self.encode(x))
        maps = torch.einsum("bqc,bchw->bqhw", queries, enlarged)
        return self.spectral("refine_net.0.0", torch.cat([maps, x], 1))

    def encode(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i, depth in enumerate(self.sizes.depths):
            reduce = f"{ENCODER}downsample_layers.{i}."
            if i == 0:
                x = self.norm_first(f"{reduce}1", self.conv(f"{reduce}0", x, stride=4))
            else:
                x = self.conv(f"{reduce}1", self.norm_first(f"{reduce}0", x), stride=2)
            for j in range(depth):
                x = x + self.block(f"{ENCODER}stages.{i}.{j}.", x)
            maps.append(self.norm_first(f"{ENCODER}norm{i}", x))
        return maps

    def block(self, name: str, x: Tensor) -> Tensor:
        w = self.w
        y = self.conv(f"{name}dwconv", x, padding=3, groups=x.shape[1]).permute(0, 2, 3, 1)
        y = F.layer_norm(y, y.shape[-1:], w[f"{name}norm.weight"], w[f"{name}norm.bias"], 1e-6)
        y = self.linear(f"{name}pwconv2", F.gelu(self.linear(f"{name}pwconv1", y)))
        return (w[f"{name}gamma"] * y).permute(0, 3, 1, 2)

    def decode(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        x, decoded = maps[-1], []
        for i in range(3):
            layer = f"decoder.layers.{i}."
            skip = self.batch_norm(f"{layer}bn", maps[2 - i])
            joined = F.relu(torch.cat([self.up(f"{layer}shuf.conv", x, 2), skip], 1))
            x = self.batch_norm(f"{layer}conv.2", F.relu(self.spectral(f"{layer}conv.0", joined, padding=1)))
            decoded.append(x)
        return self.color(decoded), self.up("decoder.last_shuf.conv", x, 4)

    def color(self, maps: list[Tensor]) -> Tensor:
        w = self.w
        query = w[f"{COLOR}query_feat.weight"][None].expand(len(maps[0]), -1, -1)
        place = w[f"{COLOR}query_embed.weight"][None]
        for k in range(self.sizes.layers):
            i = k % 3
            memory = self.conv(f"{COLOR}input_proj.{i}", maps[i]) + w[f"{COLOR}level_embed.weight"][i][:, None, None]
            position = naive_position(*memory.shape[-2:], self.sizes.hidden).to(memory)
            memory, position = (t.flatten(2).transpose(1, 2) for t in (memory, position))
            cross, own, forward = (
                f"{COLOR}transformer_{kind}_layers.{k}." for kind in ("cross_attention", "self_attention", "ffn")
            )
            query = self.norm(
                f"{cross}norm", query + self.attention["cross", k](query + place, memory + position, memory)[0]
            )
            query = self.norm(f"{own}norm", query + self.attention["self", k](query + place, query + place, query)[0])
            inner = F.relu(self.linear(f"{forward}linear1", query))
            query = self.norm(f"{forward}norm", query + self.linear(f"{forward}linear2", inner))
        query = self.norm(f"{COLOR}decoder_norm", query)
        for j in range(3):
            query = self.linear(f"{COLOR}color_embed.layers.{j}", query if j == 0 else F.relu(query))
        return query

    def up(self, name: str, x: Tensor, factor: int) -> Tensor:
        x = self.spectral(f"{name}.0", x)
        if f"{name}.1.weight" in self.w:
            x = self.batch_norm(f"{name}.1", x)
        x = F.pixel_shuffle(F.relu(x), factor)
        return F.avg_pool2d(F.pad(x, (1, 0, 1, 0), mode="replicate"), 2, stride=1)

    def spectral(self, name: str, x: Tensor, padding: int = 0) -> Tensor:
        weight = self.w[f"{name}.weight_orig"]
        sigma = torch.dot(self.w[f"{name}.weight_u"], weight.flatten(1) @ self.w[f"{name}.weight_v"])
        return F.conv2d(x, weight / sigma, self.w.get(f"{name}.bias"), padding=padding)

    def conv(self, name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], **options)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def norm_first(self, name: str, x: Tensor) -> Tensor:
        """Layer norm over the channels of (B, C, H, W)."""
        mean = x.mean(1, keepdim=True)
        x = (x - mean) / ((x - mean).pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
        return self.w[f"{name}.weight"][:, None, None] * x + self.w[f"{name}.bias"][:, None, None]

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        parts = [self.w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *parts)


def naive_position(height: int, width: int, channels: int) -> Tensor:
    """The sine position code, worked out at every place of the map: (1, channels, height, width)."""
    half = channels // 2
    index = torch.arange(half)
    divisor = 10000 ** (2 * (index // 2) / half)
    codes = []
    for axis, length in ((0, height), (1, width)):
        place = torch.ones(height, width).cumsum(axis) / (length + 1e-6) * 2 * math.pi
        angle = place[..., None] / divisor
        codes.append(torch.stack([angle[..., 0::2].sin(), angle[..., 1::2].cos()], -1).flatten(-2))
    return torch.cat(codes, -1).permute(2, 0, 1)[None]


def published_pipeline(network: NaiveDDColor, picture: np.ndarray, size: int) -> np.ndarray:
    """One picture, BGR uint8 (H, W, 3), through the published steps, with OpenCV."""
    import cv2

    device = network.w["mean"].device
    height, width = picture.shape[:2]
    image = (picture / 255).astype(np.float32)
    lightness = cv2.cvtColor(image, cv2.COLOR_BGR2Lab)[:, :, :1]
    small = cv2.cvtColor(cv2.resize(image, (size, size)), cv2.COLOR_BGR2Lab)[:, :, :1]
    gray = cv2.cvtColor(np.concatenate([small, np.zeros_like(small), np.zeros_like(small)], -1), cv2.COLOR_LAB2RGB)
    chroma = network(torch.from_numpy(gray.transpose(2, 0, 1)).float()[None].to(device)).cpu()
    chroma = F.interpolate(chroma, (height, width))[0].numpy().transpose(1, 2, 0)
    bgr = cv2.cvtColor(np.concatenate([lightness, chroma], -1), cv2.COLOR_LAB2BGR)
    return (bgr * 255).round().astype(np.uint8)
