"""CLIPSeg (Lüddecke and Ecker, CVPR 2022, arXiv 2112.10003): where in a picture a text applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class LoadedReferring:
    """A CLIPSeg network with what its folder says about its input.

    :param side: pictures are squeezed into squares of this side, as published.
    """

    name: str
    network: Any
    tokenizer: Any
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def scores(self, images: Tensor, phrases: Sequence[str]) -> Tensor:
        """How much each place is what a phrase says: (B, P, side, side) logits, float32; 0 is as likely as not.

        :param images: (B, H, W, 3) in 0..1 of any size, on the network's device.
        """
        pixels = self._prepare(images)
        tokens = self.tokenizer(list(phrases), padding=True, truncation=True, return_tensors="pt").to(pixels.device)
        with torch.no_grad():
            texts = self.network.get_conditional_embeddings(
                batch_size=len(phrases), input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            )
            found = [
                self.network(
                    pixel_values=picture.expand(len(phrases), -1, -1, -1), conditional_embeddings=texts
                ).logits.reshape(len(phrases), *pixels.shape[-2:])
                for picture in pixels.unsqueeze(1)
            ]
        return torch.stack(found).float()

    def _prepare(self, images: Tensor) -> Tensor:
        square = F.interpolate(
            images.movedim(-1, 1).float(),
            size=(self.side, self.side),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (self.mean, self.std))
        return ((square - mean) / std).to(next(self.network.parameters()).dtype)


def working_bytes(network: Any, side: int, phrases: int) -> int:
    """About how much memory a picture with some phrases takes, beyond the weights."""
    vision = network.config.vision_config
    tokens = (side // vision.patch_size) ** 2 + 1
    per_token = 4 * (2 * vision.intermediate_size + 12 * vision.hidden_size)
    maps = 4 * 3 * tokens**2 * vision.num_attention_heads
    return phrases * (tokens * per_token + maps)
