"""DEADiff from a file: read strictly, sizes from the shapes, on transformers' CLIP vision model and Q-Former."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...attention.image_tokens import PUBLISHED_SPLIT, route
from ...attention.layers import BLOCKS, Layer, LayerInfo
from ...files import headers
from ...files.fields import array, check_fields, integer, optional, string
from ...files.ldm import load_strictly
from ...files.output import whole
from ...files.owned import OwnPlace
from ...files.tensors import is_safetensors_inside, read_tensors, reading
from . import weights as published
from .model import Branch, CLIPTrunk, ImageEncoder, QFormer
from .weights import DEADiffSizes

log = logging.getLogger(__name__)

_ADVICE = "give DEADiff's checkpoint, or an adapter made from it"

#: Key of an adapter's header, for what shapes don't tell.
ABOUT_KEY = "exemplar.deadiff"

#: What a header may say beside its words, and what to do where it says something else.
_ABOUT = {
    "text_tokens": optional(integer(1, 4096)),
    "trunk_heads": optional(integer(1, 256)),
    "heads": optional(integer(1, 256)),
    "split": optional(array(string(), 2, 2)),
}
_ANEW = "Get the file again, or extract it anew."
_MOST_WORDS = 1000

#: Words of the BERT uncased vocabulary as ids, between its [CLS] and [SEP].
WORDS = {"style": (101, 2806, 102), "content": (101, 4180, 102), "painting": (101, 4169, 102)}


@dataclass(frozen=True)
class DEADiffAdapter:
    """What a file holds, on the CPU or wherever its encoder was moved.

    :param encoder: picture to tokens.
    :param projections: layer -> W_ik and W_iv, (channels, hidden).
    :param words: instruction word -> token ids.
    :param text_tokens: length of one stretch of prompt in the model that it belongs to.
    :param split: which layers it was taught to speak to, as expressions for semantic and for style tokens.
    :param name: the file's name.
    """

    encoder: ImageEncoder
    projections: Mapping[Layer, tuple[Tensor, Tensor]]
    sizes: DEADiffSizes
    words: Mapping[str, tuple[int, ...]]
    text_tokens: int
    split: tuple[str, str]
    name: str

    def instruction(self, word: str) -> Tensor:
        """Token ids of a word, (L,).

        :raises ValueError: a word without known ids.
        """
        if word not in self.words:
            raise ValueError(f"The instruction is '{word}'; this file knows {', '.join(self.words)}.")
        ids = torch.tensor(self.words[word])
        if int(ids.max()) >= self.sizes.vocabulary:
            raise ValueError(
                f"{self.name} has a vocabulary of {self.sizes.vocabulary} and doesn't say its words' numbers."
            )
        return ids


def load_deadiff(
    path: str | Path, *, dtype: torch.dtype = torch.float32, trunk_heads: int | None = None, heads: int | None = None
) -> DEADiffAdapter:
    """Read the official checkpoint or an adapter made from it, on the CPU.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: it cannot be read as plain weights, or they are not DEADiff's; the file is named.
    """
    path = Path(path)
    with reading(path, _ADVICE):
        weights, about = read_own(path)
        sizes, weights = _checked(path, weights, about, trunk_heads, heads)
        projections = {
            Layer(*place): (pair["k"].to(dtype), pair["v"].to(dtype))
            for place, pair in published.read_projections(weights).items()
        }
        words = _words(about, sizes.vocabulary)
        split = _split(about, projections)
        with torch.device("meta"):
            encoder = new_encoder(sizes, shared_trunk=published.shares_trunk(weights))
        fill_encoder(encoder, weights)
    encoder.to(dtype)
    return DEADiffAdapter(encoder, projections, sizes, words, about.get("text_tokens", 77), split, path.name)


def _words(about: Mapping[str, Any], vocabulary: int) -> dict[str, tuple[int, ...]]:
    """The words of a header with their token ids, or those of the published file."""
    said = about.get("words", {})
    if not isinstance(said, dict) or len(said) > _MOST_WORDS:
        raise ValueError(f"`{ABOUT_KEY}` in the header: words is no object of up to {_MOST_WORDS} words. {_ANEW}")
    ids = dict.fromkeys(said, array(integer(0, vocabulary - 1), 1, 64))
    return check_fields(said, ids, f"`{ABOUT_KEY}` in the header: words", _ANEW) or dict(WORDS)


def _split(about: Mapping[str, Any], projections: Mapping[Layer, tuple[Tensor, Tensor]]) -> tuple[str, str]:
    """The layers that a header names for semantics and for style, which must be some of the file's own."""
    semantic, style = about.get("split", PUBLISHED_SPLIT)
    widths = {layer: len(pair[0]) for layer, pair in projections.items()}
    coarse = sorted(set(widths.values()))  # the wider, the coarser: near enough to tell names of layers from others
    order = sorted(widths, key=lambda layer: (BLOCKS.index(layer.block), layer.index, layer.depth))
    infos = [LayerInfo(layer, widths[layer], 1, 2 ** coarse.index(widths[layer])) for layer in order]
    try:
        route(infos, semantic, style)
    except ValueError as error:
        raise ValueError(f"`{ABOUT_KEY}` in the header: split: {error} {_ANEW}") from error
    return semantic, style


def read_own(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file that are DEADiff's own, as stored, and what its header says beside them.

    :raises ValueError: the file can't be read, or none of its tensors is DEADiff's.
    """
    about = headers.read_object(path, ABOUT_KEY) if is_safetensors_inside(path) else {}
    checked = check_fields(about, _ABOUT, f"`{ABOUT_KEY}` in the header", _ANEW)
    about = {key: value for key, value in about.items() if key not in _ABOUT} | checked
    names: list[str] = []

    def is_ours(name: str) -> bool:
        names.append(name)
        return published.is_ours(name)

    weights = read_tensors(path, is_ours)
    if not weights:
        found = f"tensors named like {sorted(names)[:3]}" if names else "no tensors"
        raise ValueError(
            f"these are not DEADiff's weights: found {found}; choose DEADiff's checkpoint or an adapter made from it."
        )
    log.info("%s: %d tensors are DEADiff's own, %d are left out.", path.name, len(weights), len(names) - len(weights))
    return weights, about


def _checked(
    path: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any], trunk_heads: int | None, heads: int | None
) -> tuple[DEADiffSizes, dict[str, Tensor]]:
    """Sizes, and the weights without what nobody asks for."""
    sizes = published.read_sizes(weights, trunk_heads or about.get("trunk_heads"), heads or about.get("heads"))
    unknown = published.check_weights(weights, sizes)
    if unknown:
        log.info("%s: %d more tensors belong to nothing known, such as %s.", path.name, len(unknown), min(unknown))
    return sizes, {name: tensor for name, tensor in weights.items() if name not in unknown}


def new_encoder(sizes: DEADiffSizes, *, shared_trunk: bool) -> ImageEncoder:
    """An encoder of some sizes, its weights as the libraries start them."""
    branches = {
        name: Branch(QFormer(sizes), sizes.width, sizes.hidden, sizes.queries, sizes.projection)
        for name in published.BRANCHES
    }
    trunks = {name: CLIPTrunk(sizes) for name in published.BRANCHES[: 1 if shared_trunk else None]}
    return ImageEncoder(trunks, branches, sizes.side)


def fill_encoder(encoder: ImageEncoder, weights: Mapping[str, Tensor]) -> None:
    """Put published weights into an encoder that was built on the meta device."""
    for name in published.BRANCHES:
        branch = encoder.branches[name]
        if name in encoder.trunks:
            load_strictly(encoder.trunks[name].model, published.trunk_weights(weights, name), f"{name} trunk")
        load_strictly(branch.qformer.model, published.qformer_weights(weights, name), f"{name} Q-Former")
        rest = {f"qformer.model.{key}": tensor for key, tensor in branch.qformer.model.state_dict().items()}
        load_strictly(branch, published.branch_weights(weights, name) | rest, f"{name} branch")
    for module in encoder.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:  # 0, 1, 2 ...: the only buffers that there are, and no file holds them
                module.register_buffer(name, torch.arange(buffer.shape[-1]).expand(1, -1), persistent=False)
    encoder.eval().requires_grad_(False)


def extract(source: Path, output: Path, dtype: torch.dtype = torch.float16) -> dict[str, Any]:
    """Write what is new in DEADiff's checkpoint as a safetensors adapter; trunks that are the same are kept once.

    :returns: what was done: ``tensors``, ``bytes``, ``shared_trunk``.
    :raises ValueError: as :func:`load_deadiff`, or an output that cannot be written, or that somebody else made.
    :raises OSError: the disk is full.
    """
    from safetensors.torch import save_file

    place = OwnPlace(output, ABOUT_KEY, "extract-deadiff")
    with reading(source, _ADVICE):
        weights, about = read_own(source)
        _, weights = _checked(source, weights, about, None, None)
    shared = published.shares_trunk(weights) or _same_trunks(weights)
    if shared:
        weights = {n: t for n, t in weights.items() if not n.startswith("content_blip.visual_encoder.")}
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}

    def save(path: Path, new: bool) -> None:
        with whole(path, new=new) as beside:
            save_file(weights, beside, metadata={"format": "pt", ABOUT_KEY: json.dumps(about)})

    place.write(save)
    return {"tensors": len(weights), "bytes": output.stat().st_size, "shared_trunk": shared}


def _same_trunks(weights: Mapping[str, Tensor]) -> bool:
    trunks = [published.trunk_weights(weights, branch) for branch in published.BRANCHES]
    return trunks[0].keys() == trunks[1].keys() and all(
        torch.equal(tensor, trunks[1][name]) for name, tensor in trunks[0].items()
    )
