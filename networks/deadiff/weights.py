"""DEADiff's published weights: which of them are its own, which sizes they tell, and what must be there.

A checkpoint also holds a whole Stable Diffusion 1.5 and heads that inference never reads. What is ours is read
strictly; what is not is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ...files.ldm import count, listed, part, size
from ...files.numbers import check_numbers

BRANCHES = ("style", "content")

UNET = "model.diffusion_model."
_PROJECTED = re.compile(
    rf"^{re.escape(UNET)}(input_blocks|middle_block|output_blocks)\.(\d+)(?:\.1)?\.transformer_blocks\.(\d+)"
    r"\.attn2\.i_to_([kv])\.weight$"
)
_UNUSED = re.compile(
    r"_blip\.(Qformer\.(cls\.|bert\.embeddings\.position_ids$)|vision_proj\.|text_proj\.|itm_head\.|temp$)"
)
_OURS = re.compile(r"^(style|content)_(blip|proj_layer)\.")
_HEAD_WIDTH = 64  # of CLIP's trunk and of BERT
_WANTED = "expected DEADiff's checkpoint, or an adapter made from it"

#: (block, index, place in the stack) of a transformer.
Place = tuple[str, int, int]


@dataclass(frozen=True)
class DEADiffSizes:
    """Everything that shapes tell; heads, which they don't, are as wide as the published ones unless said otherwise."""

    width: int
    blocks: int
    patch: int
    vectors: int
    trunk_inner: int
    hidden: int
    layers: int
    inner: int
    vocabulary: int
    positions: int
    queries: int
    projection: int
    trunk_heads: int
    heads: int

    @property
    def side(self) -> int:
        """Side in pixels of the square that the trunk reads."""
        return self.patch * round((self.vectors - 1) ** 0.5)


def is_ours(name: str) -> bool:
    """Whether a tensor of a checkpoint is one that only DEADiff has, and that inference reads."""
    return bool(_PROJECTED.match(name) or (_OURS.match(name) and not _UNUSED.search(name)))


def own_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that :func:`is_ours`."""
    return {name: tensor for name, tensor in weights.items() if is_ours(name)}


def read_sizes(weights: Mapping[str, Tensor], trunk_heads: int | None = None, heads: int | None = None) -> DEADiffSizes:
    """Every size of the encoder that these weights belong to, from their shapes.

    :param trunk_heads: attention heads of the trunk, and ``heads`` of the Q-Former; None: as many as are 64 wide.
    :raises ValueError: they are not DEADiff's, or what tells a size is missing.
    """
    if not any(_PROJECTED.match(name) for name in weights):
        example = sorted(weights)[:3]
        found = f"tensors named like {example}" if example else "no tensors"
        raise ValueError(f"these are not DEADiff's weights: found {found}, {_WANTED}; choose such a file.")

    def length(name: str, axis: int = 0, axes: int = 2) -> int:
        try:
            return size(weights, name, axis, axes)
        except ValueError as error:
            raise ValueError(f"DEADiff's weights are incomplete: {str(error)[:-1]}; {_WANTED}.") from error

    trunk, bert = "style_blip.visual_encoder.", "style_blip.Qformer.bert."
    width, hidden = length(f"{trunk}class_embedding", axes=1), length("style_blip.query_tokens", 2, 3)
    return DEADiffSizes(
        width=width,
        blocks=count(weights, f"{trunk}transformer.resblocks."),
        patch=length(f"{trunk}conv1.weight", 2, 4),
        vectors=length(f"{trunk}positional_embedding"),
        trunk_inner=length(f"{trunk}transformer.resblocks.0.mlp.c_fc.weight"),
        hidden=hidden,
        layers=count(weights, f"{bert}encoder.layer."),
        inner=length(f"{bert}encoder.layer.0.intermediate.dense.weight"),
        vocabulary=length(f"{bert}embeddings.word_embeddings.weight"),
        positions=length(f"{bert}embeddings.position_embeddings.weight"),
        queries=length("style_blip.query_tokens", 1, 3),
        projection=length("style_proj_layer.dense1.weight"),
        trunk_heads=trunk_heads or max(1, width // _HEAD_WIDTH),
        heads=heads or max(1, hidden // _HEAD_WIDTH),
    )


def published_shapes(sizes: DEADiffSizes, *, shared_trunk: bool = False) -> dict[str, tuple[int, ...]]:
    """Every tensor of the encoder with its shape, under its published name; projections are not among them.

    :param shared_trunk: the content branch has no trunk of its own.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs), (outputs,)

    def norm(name: str, width: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (width,)

    def trunk(name: str) -> None:
        width = sizes.width
        shapes[f"{name}class_embedding"] = (width,)
        shapes[f"{name}positional_embedding"] = (sizes.vectors, width)
        shapes[f"{name}conv1.weight"] = (width, 3, sizes.patch, sizes.patch)
        norm(f"{name}ln_pre", width)
        for i in range(sizes.blocks):
            block = f"{name}transformer.resblocks.{i}."
            shapes[f"{block}attn.in_proj_weight"], shapes[f"{block}attn.in_proj_bias"] = (
                (3 * width, width),
                (3 * width,),
            )
            linear(f"{block}attn.out_proj", width, width)
            linear(f"{block}mlp.c_fc", sizes.trunk_inner, width)
            linear(f"{block}mlp.c_proj", width, sizes.trunk_inner)
            norm(f"{block}ln_1", width)
            norm(f"{block}ln_2", width)

    def attention(name: str, keys: int) -> None:
        hidden = sizes.hidden
        linear(f"{name}self.query", hidden, hidden)
        linear(f"{name}self.key", hidden, keys)
        linear(f"{name}self.value", hidden, keys)
        linear(f"{name}output.dense", hidden, hidden)
        norm(f"{name}output.LayerNorm", hidden)

    for branch in BRANCHES:
        hidden = sizes.hidden
        if branch == "style" or not shared_trunk:
            trunk(f"{branch}_blip.visual_encoder.")
        norm(f"{branch}_blip.ln_vision", sizes.width)
        shapes[f"{branch}_blip.query_tokens"] = (1, sizes.queries, hidden)
        bert = f"{branch}_blip.Qformer.bert."
        shapes[f"{bert}embeddings.word_embeddings.weight"] = (sizes.vocabulary, hidden)
        shapes[f"{bert}embeddings.position_embeddings.weight"] = (sizes.positions, hidden)
        norm(f"{bert}embeddings.LayerNorm", hidden)
        for i in range(sizes.layers):
            layer = f"{bert}encoder.layer.{i}."
            attention(f"{layer}attention.", hidden)
            attention(f"{layer}crossattention.", sizes.width)
            for kind in ("", "_query"):
                linear(f"{layer}intermediate{kind}.dense", sizes.inner, hidden)
                linear(f"{layer}output{kind}.dense", hidden, sizes.inner)
                norm(f"{layer}output{kind}.LayerNorm", hidden)
        linear(f"{branch}_proj_layer.dense1", sizes.projection, hidden)
        linear(f"{branch}_proj_layer.dense2", hidden, sizes.projection)
        norm(f"{branch}_proj_layer.LayerNorm", hidden)
    return shapes


def check_weights(weights: Mapping[str, Tensor], sizes: DEADiffSizes) -> set[str]:
    """Whether all tensors are there, in the right shapes.

    :returns: names of the others, which are nobody's.
    :raises ValueError: naming missing keys, or shapes that do not fit.
    """
    expected = published_shapes(sizes, shared_trunk=shares_trunk(weights))
    projections = read_projections(weights)
    lone = [f"{place}" for place, pair in projections.items() if set(pair) != {"k", "v"}]
    missing = expected.keys() - weights.keys()
    if missing or lone:
        raise ValueError(
            f"DEADiff's weights are incomplete: missing {listed(missing) if missing else ''}"
            f"{f' a half of the projections of {listed(lone)}' if lone else ''}; {_WANTED}; get it again."
        )
    wrong = {
        f"{name} {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if tuple(weights[name].shape) != shape
    }
    for place, pair in projections.items():
        shapes = {tuple(tensor.shape) for tensor in pair.values()}
        if len(shapes) != 1 or next(iter(shapes))[1:] != (sizes.hidden,):
            wrong.add(f"i_to_k and i_to_v at {place} {sorted(shapes)} instead of two times (channels, {sizes.hidden})")
    if round((sizes.vectors - 1) ** 0.5) ** 2 != sizes.vectors - 1:
        wrong.add(f"{sizes.vectors} positions, which are no square and one more")
    if sizes.width % sizes.trunk_heads or sizes.hidden % sizes.heads:
        wrong.add(f"widths {sizes.width} and {sizes.hidden} for {sizes.trunk_heads} and {sizes.heads} heads")
    if wrong:
        raise ValueError(f"DEADiff's weights do not fit: {listed(wrong)}; {_WANTED}; get it again.")
    check_numbers({name: tensor for name, tensor in weights.items() if name in expected or _PROJECTED.match(name)})
    return {name for name in weights if name not in expected and not _PROJECTED.match(name)}


def shares_trunk(weights: Iterable[str]) -> bool:
    """Whether the content branch has no trunk of its own, as in an adapter whose two trunks were the same."""
    return not any(name.startswith("content_blip.visual_encoder.") for name in weights)


def read_projections(weights: Mapping[str, Tensor]) -> dict[Place, dict[str, Tensor]]:
    """Place of a transformer -> its W_ik and W_iv as ``k`` and ``v``, (channels, hidden), in no particular order."""
    found: dict[Place, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        match = _PROJECTED.match(name)
        if match:
            block = match[1].split("_")[0]
            # the middle block's transformer is its second module, and the block has no other
            place = (block, 0 if block == "middle" else int(match[2]), int(match[3]))
            found.setdefault(place, {})[match[4]] = tensor
    return found


def projection_name(place: Place, letter: str) -> str:
    """The published name of W_ik or W_iv."""
    block, index, depth = place
    inside = "middle_block.1" if block == "middle" else f"{block}_blocks.{index}.1"
    return f"{UNET}{inside}.transformer_blocks.{depth}.attn2.i_to_{letter}.weight"


def trunk_weights(weights: Mapping[str, Tensor], branch: str) -> dict[str, Tensor]:
    """A branch's trunk under transformers' names for CLIP's vision model: packed q, k and v are taken apart."""
    given = part(weights, f"{branch}_blip.visual_encoder.")
    found = {
        "embeddings.class_embedding": given.pop("class_embedding"),
        "embeddings.position_embedding.weight": given.pop("positional_embedding"),
        "embeddings.patch_embedding.weight": given.pop("conv1.weight"),
    }
    renamed = (
        ("ln_pre.", "pre_layrnorm."),
        ("transformer.resblocks.", "encoder.layers."),
        (".attn.out_proj.", ".self_attn.out_proj."),
        (".ln_", ".layer_norm"),
        (".mlp.c_fc.", ".mlp.fc1."),
        (".mlp.c_proj.", ".mlp.fc2."),
    )
    for name, tensor in given.items():
        for theirs, ours in renamed:
            name = name.replace(theirs, ours)
        if ".attn.in_proj_" in name:
            layer, kind = name.split(".attn.in_proj_")
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{layer}.self_attn.{letter}_proj.{kind}"] = third
        else:
            found[name] = tensor
    return found


def qformer_weights(weights: Mapping[str, Tensor], branch: str) -> dict[str, Tensor]:
    """A branch's Q-Former under the names of transformers' InstructBLIP Q-Former."""
    renamed = {}
    for name, tensor in part(weights, f"{branch}_blip.Qformer.bert.").items():
        name = name.replace("embeddings.LayerNorm", "embeddings.layernorm")
        renamed[name.replace("attention.self.", "attention.attention.")] = tensor
    return renamed


def branch_weights(weights: Mapping[str, Tensor], branch: str) -> dict[str, Tensor]:
    """What a :class:`~.deadiff.Branch` has besides its Q-Former."""
    own = {"query_tokens": weights[f"{branch}_blip.query_tokens"]}
    own |= {f"ln_vision.{name}": t for name, t in part(weights, f"{branch}_blip.ln_vision.").items()}
    return own | {f"proj_layer.{name}": t for name, t in part(weights, f"{branch}_proj_layer.").items()}
