"""Referring segmentation: where in a picture a text applies, by transformers' CLIPSeg from a local folder.

Source: Lüddecke and Ecker, CVPR 2022, arXiv 2112.10003. Everything else in the pack works without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .ldm_config import listed
from .weight_files import read_component, read_json

#: The folder on the hub, and the files of it that are needed.
HUB_NAME = "CIDAS/clipseg-rd64-refined"
HUB_FILES = ("*.json", "merges.txt", "vocab.json", "model.safetensors")

#: What a folder without its own preprocessing is read with: the published side, and ImageNet's statistics.
_SIDE, _MEAN, _STD = 352, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
            images.movedim(-1, 1).float(), size=(self.side, self.side), mode="bilinear", align_corners=False, antialias=True
        )
        mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (self.mean, self.std))
        return ((square - mean) / std).to(next(self.network.parameters()).dtype)


def load_referring(folder: Path) -> LoadedReferring:
    """A folder as transformers writes it: config.json, weights, tokenizer and preprocessing. Float32, on the CPU.

    :raises ValueError: not CLIPSeg, incomplete, or damaged; the message says what is missing.
    """
    from transformers import AutoTokenizer, CLIPSegConfig, CLIPSegForImageSegmentation

    check_files(folder)
    tensors = read_component(folder)
    try:
        network, report = CLIPSegForImageSegmentation.from_pretrained(
            None, config=CLIPSegConfig.from_pretrained(folder, local_files_only=True), state_dict=tensors,
            output_loading_info=True,
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder} could not be read as CLIPSeg ({said}): download the folder again.") from error
    # a table of positions that older files hold and newer networks compute
    unexpected = [key for key in report["unexpected_keys"] if not key.endswith("position_ids")]
    missing, reshaped = report["missing_keys"], [str(key) for key in report["mismatched_keys"]]
    if missing or unexpected or reshaped:
        raise ValueError(
            f"{folder}: missing {listed(missing)}, unexpected {listed(unexpected)}, of another shape {listed(reshaped)}: "
            "the weights are not this configuration's; download the folder again."
        )
    patch = network.config.vision_config.patch_size
    prepared = read_json(folder / "preprocessor_config.json") if (folder / "preprocessor_config.json").is_file() else {}
    side = prepared.get("size", _SIDE)
    side = side.get("height", side.get("shortest_edge", _SIDE)) if isinstance(side, dict) else side
    if side % patch:
        raise ValueError(f"{folder}: pictures of side {side} are no whole number of patches of {patch}.")
    return LoadedReferring(
        folder.name, network.float().eval().requires_grad_(False), tokenizer, side,
        tuple(prepared.get("image_mean", _MEAN)), tuple(prepared.get("image_std", _STD)),
    )  # fmt: skip


def check_files(folder: Path) -> None:
    """:raises ValueError: the folder lacks its configuration or words, or is another kind of model's."""
    path = folder / "config.json"
    kind = read_json(path).get("model_type") if path.is_file() else None
    if kind != "clipseg":
        found = f"a model of the type {kind}" if kind else "no config.json"
        raise ValueError(f"{folder} holds {found}, expected a CLIPSeg folder: put one such as {HUB_NAME} there.")
    # without its words transformers makes up a tokenizer that knows none
    words = "tokenizer.json" if (folder / "tokenizer.json").is_file() else "vocab.json"
    if not (folder / words).is_file() or (words == "vocab.json" and not (folder / "merges.txt").is_file()):
        raise ValueError(f"{folder} lacks vocab.json or merges.txt, the tokenizer's words: download the folder again.")
    read_json(folder / words)


def working_bytes(network: Any, side: int, phrases: int) -> int:
    """About how much memory a picture with some phrases takes, beyond the weights."""
    vision = network.config.vision_config
    tokens = (side // vision.patch_size) ** 2 + 1
    per_token = 4 * (2 * vision.intermediate_size + 12 * vision.hidden_size)
    maps = 4 * 3 * tokens**2 * vision.num_attention_heads
    return phrases * (tokens * per_token + maps)
