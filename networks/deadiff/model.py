"""DEADiff's way from a picture to image tokens (Qi et al. 2024, arXiv 2403.06951, section 3.2).

A picture becomes a 3 x 224 x 224 tensor, an image trunk (CLIP's, without its last block and norm) turns that into
vectors, and a Q-Former reads them together with one instruction word. Two branches of one architecture do this:
``style`` and ``content``, which are taught by different pairs of pictures. The trunk and the Q-Former themselves are
the transformers library's and are handed in.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from .weights import DEADiffSizes

#: What CLIP's pictures are normalized with, per channel.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class Projection(nn.Module):
    """The layer after a Q-Former: y = x + dense2(quickgelu(dense1(LN(x)))), quickgelu(u) = u · sigmoid(1.702 u)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)
        self.dense1 = nn.Linear(width, hidden)
        self.dense2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> the same."""
        h = self.dense1(self.LayerNorm(x))
        return x + self.dense2(h * torch.sigmoid(1.702 * h))


class Branch(nn.Module):
    """One Q-Former with what stands before and after it.

    :param qformer: (queries (B, Q, hidden), ids (B, L), text mask (B, L), vectors (B, N, width)) -> (B, Q, hidden).
    :param width: of the trunk's vectors.
    :param hidden: of the Q-Former and the tokens.
    :param queries: number of learned queries, which is that of tokens.
    :param projection: inner width of the layer after the Q-Former.
    """

    def __init__(self, qformer: nn.Module, width: int, hidden: int, queries: int, projection: int) -> None:
        super().__init__()
        self.ln_vision = nn.LayerNorm(width, eps=1e-5)
        self.query_tokens = nn.Parameter(torch.zeros(1, queries, hidden))
        self.qformer = qformer
        self.proj_layer = Projection(hidden, projection)

    def forward(self, vectors: Tensor, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Vectors of the trunk (B, N, width) and an instruction (B, L) -> tokens (B, Q, hidden)."""
        mask = torch.ones_like(ids) if mask is None else mask
        queries = self.query_tokens.expand(len(vectors), -1, -1)
        return self.proj_layer(self.qformer(queries, ids, mask, self.ln_vision(vectors)))


class ImageEncoder(nn.Module):
    """Trunks and branches by name (``style``, ``content``).

    :param trunks: name -> module, (B, 3, S, S) -> (B, N, width). A branch without one shares the first.
    :param side: S, in pixels.
    """

    def __init__(self, trunks: dict[str, nn.Module], branches: dict[str, Branch], side: int) -> None:
        super().__init__()
        self.trunks, self.branches, self.side = nn.ModuleDict(trunks), nn.ModuleDict(branches), side

    def forward(self, pixels: Tensor, words: dict[str, Tensor]) -> dict[str, Tensor]:
        """Normalized pixels (B, 3, S, S) and the instruction (L,) of every branch to run -> tokens (B, Q, hidden) each.

        A trunk that two branches share runs once.
        """
        seen: dict[str, Tensor] = {}
        found = {}
        for name, ids in words.items():
            trunk = name if name in self.trunks else next(iter(self.trunks))
            if trunk not in seen:
                seen[trunk] = self.trunks[trunk](pixels)
            found[name] = self.branches[name](seen[trunk], ids.to(pixels.device).expand(len(pixels), -1))
        return found


def resize_bytes(image: Tensor, side: int) -> Tensor:
    """(H, W, 3) in 0..1 or bytes -> (side, side, 3) bytes, by Pillow's bicubic filter. The aspect ratio is not kept.

    Pillow itself, because it rounds between its two passes: torch's filter differs on a fifth of all values.
    """
    pixels = image if image.dtype == torch.uint8 else (image.float() * 255).round().clamp(0, 255).byte()
    resized = Image.fromarray(pixels.cpu().numpy()).resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized))


def normalize(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) in 0..1 -> what the trunk reads."""
    mean, std = (torch.tensor(numbers).to(pixels)[:, None, None] for numbers in (MEAN, STD))
    return (pixels - mean) / std


def to_pixels(images: Tensor, side: int) -> Tensor:
    """(B, H, W, 3) in 0..1 or bytes -> normalized (B, 3, side, side), float32, as the published program does it."""
    small = torch.stack([resize_bytes(image, side) for image in images])
    return normalize((small.float() / 255).movedim(-1, 1))


def resize_floats(pixels: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) in 0..1 -> (B, 3, side, side): the program's second resize, which training needs.

    A blur that keeps what is shrunk from aliasing, then bicubic interpolation with corners aligned. At inference the
    size is right already, and it does nothing.
    """
    size = pixels.shape[-2:]
    if tuple(size) == (side, side):
        return pixels
    factors = [length / side for length in size]
    if max(factors) > 1:
        sigmas = [max((factor - 1) / 2, 0.001) for factor in factors]
        lengths = [(length := int(max(4 * sigma, 3))) + (length % 2 == 0) for sigma in sigmas]
        kernels = [_gaussian(sigma, length).to(pixels) for sigma, length in zip(sigmas, lengths, strict=True)]
        channels = pixels.shape[1]
        padding = (lengths[1] // 2, lengths[1] // 2, lengths[0] // 2, lengths[0] // 2)
        pixels = F.pad(pixels, padding, mode="reflect")
        pixels = F.conv2d(pixels, kernels[0].view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)
        pixels = F.conv2d(pixels, kernels[1].view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)
    return F.interpolate(pixels, (side, side), mode="bicubic", align_corners=True)


def _gaussian(sigma: float, length: int) -> Tensor:
    places = torch.arange(length, dtype=torch.float32) - length // 2
    weights = (-places.square() / (2 * sigma**2)).exp()
    return weights / weights.sum()


class CLIPTrunk(nn.Module):
    """Transformers' CLIP vision model without its last norm, giving every vector."""

    def __init__(self, sizes: DEADiffSizes) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=sizes.width,
            intermediate_size=sizes.trunk_inner,
            num_hidden_layers=sizes.blocks,
            num_attention_heads=sizes.trunk_heads,
            image_size=sizes.side,
            patch_size=sizes.patch,
            hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
        )
        model = CLIPVisionModel(config)
        self.model = getattr(model, "vision_model", model)  # one class wraps the other in older versions
        self.model.post_layernorm = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1 + patches, width)."""
        return self.model(pixel_values=pixels).last_hidden_state


class QFormer(nn.Module):
    """Transformers' InstructBLIP Q-Former, with cross-attention in every layer."""

    def __init__(self, sizes: DEADiffSizes) -> None:
        from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

        super().__init__()
        config = InstructBlipQFormerConfig(
            vocab_size=sizes.vocabulary,
            hidden_size=sizes.hidden,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            intermediate_size=sizes.inner,
            max_position_embeddings=sizes.positions,
            encoder_hidden_size=sizes.width,
            cross_attention_frequency=1,
            layer_norm_eps=1e-12,
        )
        self.model = InstructBlipQFormerModel(config)

    def forward(self, queries: Tensor, ids: Tensor, mask: Tensor, vectors: Tensor) -> Tensor:
        """Queries (B, Q, hidden), ids and their mask (B, L), vectors (B, N, width) -> (B, Q, hidden)."""
        seen = torch.cat([mask.new_ones(queries.shape[:2]), mask], 1)
        output = self.model(
            input_ids=ids, attention_mask=seen, query_embeds=queries, encoder_hidden_states=vectors
        ).last_hidden_state
        return output[:, : queries.shape[1]]
