"""DEADiff from a file: read strictly, sizes from the shapes, on transformers' CLIP vision model and Q-Former."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import demo
from ..attention.image_tokens import PUBLISHED_SPLIT, SEMANTICS, STYLE
from ..attention.layers import Layer
from ..networks import deadiff_weights as published
from ..networks.deadiff import Branch, ImageEncoder, to_pixels
from ..networks.deadiff_weights import DEADiffSizes
from .ldm_config import load_strictly
from .weight_files import read_tensors

log = logging.getLogger(__name__)

#: Key of an adapter's header, for what shapes don't tell.
ABOUT_KEY = "exemplar.deadiff"

#: Our names of the kinds, and the program's for branches and their usual instruction words.
BRANCH_OF = {STYLE: "style", SEMANTICS: "content"}

#: Words of the BERT uncased vocabulary as ids, between its [CLS] and [SEP].
WORDS = {"style": (101, 2806, 102), "content": (101, 4180, 102), "painting": (101, 4169, 102)}

#: How references become tokens: their weighted mean; all of them side by side; or the tokens of reference i for picture i of
#: a latent batch.
COMBINATIONS = ("average", "together", "one each")

#: References that go through the encoder at once.
CHUNK = 8


class CLIPTrunk(nn.Module):
    """Transformers' CLIP vision model without its last norm, giving every vector."""

    def __init__(self, sizes: DEADiffSizes) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        config = CLIPVisionConfig(
            hidden_size=sizes.width, intermediate_size=sizes.trunk_inner, num_hidden_layers=sizes.blocks,
            num_attention_heads=sizes.trunk_heads, image_size=sizes.side, patch_size=sizes.patch, hidden_act="quick_gelu",
            layer_norm_eps=1e-5,
        )  # fmt: skip
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
            vocab_size=sizes.vocabulary, hidden_size=sizes.hidden, num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads, intermediate_size=sizes.inner, max_position_embeddings=sizes.positions,
            encoder_hidden_size=sizes.width, cross_attention_frequency=1, layer_norm_eps=1e-12,
        )  # fmt: skip
        self.model = InstructBlipQFormerModel(config)

    def forward(self, queries: Tensor, ids: Tensor, mask: Tensor, vectors: Tensor) -> Tensor:
        """Queries (B, Q, hidden), ids and their mask (B, L), vectors (B, N, width) -> (B, Q, hidden)."""
        seen = torch.cat([mask.new_ones(queries.shape[:2]), mask], 1)
        output = self.model(
            input_ids=ids, attention_mask=seen, query_embeds=queries, encoder_hidden_states=vectors
        ).last_hidden_state
        return output[:, : queries.shape[1]]


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
            raise ValueError(f"{self.name} has a vocabulary of {self.sizes.vocabulary} and doesn't say its words' numbers.")
        return ids


def load_deadiff(
    path: str | Path, *, dtype: torch.dtype = torch.float32, trunk_heads: int | None = None, heads: int | None = None
) -> DEADiffAdapter:
    """Read the official checkpoint or an adapter made from it, on the CPU.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: it cannot be read as plain weights, or they are not DEADiff's; the file is named.
    """
    path = Path(path)
    weights, about = read_own(path)
    sizes, weights = _checked(path, weights, about, trunk_heads, heads)
    with torch.device("meta"):
        encoder = new_encoder(sizes, shared_trunk=published.shares_trunk(weights))
    fill_encoder(encoder, weights)
    encoder.to(dtype)
    projections = {
        Layer(*place): (pair["k"].to(dtype), pair["v"].to(dtype))
        for place, pair in published.read_projections(weights).items()
    }
    words = {word: tuple(ids) for word, ids in about.get("words", WORDS).items()}
    split = tuple(about.get("split", PUBLISHED_SPLIT))
    return DEADiffAdapter(encoder, projections, sizes, words, int(about.get("text_tokens", 77)), split, path.name)


def read_own(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file that are DEADiff's own, as stored, and what its header says beside them."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give DEADiff's checkpoint, or an adapter made from it.")
    about = {}
    if path.suffix.lower() in (".safetensors", ".sft"):
        about = json.loads(demo.read_metadata(path).get(ABOUT_KEY, "{}"))
    seen: list[str] = []

    def wanted(name: str) -> bool:
        seen.append(name)
        return published.is_ours(name)

    weights = read_tensors(path, wanted)
    if not weights:
        found = f"tensors named like {sorted(seen)[:3]}" if seen else "no tensors"
        raise ValueError(
            f"{path}: these are not DEADiff's weights: found {found}; choose DEADiff's checkpoint or an adapter "
            "made from it."
        )
    log.info("%s: %d tensors are DEADiff's own, %d are left out.", path.name, len(weights), len(seen) - len(weights))
    return weights, about


def _checked(
    path: Path, weights: Mapping[str, Tensor], about: Mapping[str, Any], trunk_heads: int | None, heads: int | None
) -> tuple[DEADiffSizes, dict[str, Tensor]]:
    """Sizes, and the weights without what nobody asks for."""
    try:
        sizes = published.read_sizes(weights, trunk_heads or about.get("trunk_heads"), heads or about.get("heads"))
        strangers = published.check_weights(weights, sizes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if strangers:
        log.info("%s: %d more tensors belong to nothing known, such as %s.", path.name, len(strangers), min(strangers))
    return sizes, {name: tensor for name, tensor in weights.items() if name not in strangers}


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


def parse_weights(text: str, references: int) -> list[float]:
    """Weights of some references from a list such as ``1, 0.5``; a single one is everybody's.

    :raises ValueError: not numbers, not as many as references, or nothing above 0.
    """
    try:
        weights = [float(word) for word in text.replace(";", ",").split(",") if word.strip()]
    except ValueError:
        raise ValueError(f"The weights are '{text}'; expected numbers, such as '1' or '1, 0.5'.") from None
    if len(weights) == 1:
        weights *= references
    if len(weights) != references:
        raise ValueError(
            f"There are {references} references and {len(weights)} weights ('{text}'); give one weight for all, or one each."
        )
    if min(weights) < 0 or max(weights) == 0:
        raise ValueError(f"The weights are '{text}'; they must be 0 or more, and one of them above 0.")
    return weights


def combine(tokens: Tensor, weights: Sequence[float], how: str) -> Tensor:
    """Tokens of several references (n, Q, hidden) -> (pictures, tokens, hidden), see ``COMBINATIONS``.

    Keys and values have no bias, so a token times its weight is what the program's img_weight makes of it.
    """
    scale = torch.tensor(weights).to(tokens)[:, None, None]
    if how == "average":
        return (tokens * scale).sum(0, keepdim=True) / scale.sum()
    if how == "together":
        return (tokens * scale).flatten(0, 1)[None]
    if how == "one each":
        return tokens * scale
    raise ValueError(f"References are to be combined as '{how}'; expected one of {', '.join(COMBINATIONS)}.")


@torch.no_grad()
def encode(
    adapter: DEADiffAdapter,
    images: Tensor,
    words: Mapping[str, str],
    on_chunk: Callable[[int], None] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """References (n, H, W, 3) in 0..1 -> kind -> tokens (n, Q, hidden), float32 on the CPU.

    :param words: kind -> its instruction word, for the kinds that are wanted.
    :param on_chunk: called with how many references are done.
    :param device: where the encoder is.
    """
    ids = {BRANCH_OF[kind]: adapter.instruction(word) for kind, word in words.items()}
    dtype = adapter.encoder.branches[published.BRANCHES[0]].query_tokens.dtype
    found: dict[str, list[Tensor]] = {kind: [] for kind in words}
    for start in range(0, len(images), CHUNK):
        pixels = to_pixels(images[start : start + CHUNK], adapter.encoder.side).to(device, dtype)
        made = adapter.encoder(pixels, ids)
        for kind in words:
            found[kind].append(made[BRANCH_OF[kind]].float().cpu())
        if on_chunk is not None:
            on_chunk(min(start + CHUNK, len(images)))
    return {kind: torch.cat(parts) for kind, parts in found.items()}


def extract(source: Path, output: Path, dtype: torch.dtype = torch.float16) -> dict[str, Any]:
    """Write what is new in DEADiff's checkpoint as a safetensors adapter; trunks that are the same are kept once.

    :returns: what was done: ``tensors``, ``bytes``, ``shared_trunk``.
    :raises ValueError: as :func:`load_deadiff`, or an output that is no .safetensors file.
    """
    from safetensors.torch import save_file

    if output.suffix.lower() != ".safetensors":
        raise ValueError(f"The adapter is to be {output}; its name must end in .safetensors.")
    weights, about = read_own(source)
    _, weights = _checked(source, weights, about, None, None)
    shared = published.shares_trunk(weights) or _same_trunks(weights)
    if shared:
        weights = {n: t for n, t in weights.items() if not n.startswith("content_blip.visual_encoder.")}
    weights = {name: tensor.to(dtype).contiguous() for name, tensor in weights.items()}
    output.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, output, metadata={"format": "pt", ABOUT_KEY: json.dumps(about)})
    return {"tensors": len(weights), "bytes": output.stat().st_size, "shared_trunk": shared}


def _same_trunks(weights: Mapping[str, Tensor]) -> bool:
    trunks = [published.trunk_weights(weights, branch) for branch in published.BRANCHES]
    return trunks[0].keys() == trunks[1].keys() and all(
        torch.equal(tensor, trunks[1][name]) for name, tensor in trunks[0].items()
    )
