"""DDColor's published weights: which keys there are, which sizes they tell, and how they become ours.

The published program keeps spectrally normalized convolutions as ``weight_orig`` with the vectors u and v of their
power iteration, and batch norms beside them. At inference all of these are constants, so they are folded:

* spectral norm: ``weight = weight_orig / sigma`` with ``sigma = u · (M v)``, M the weight as [out, rest]. The stored u
  and v count, not the true largest singular value: they are what the network was trained with.
* batch norm after a convolution: into it. Batch norm of an encoder map: into the affine part of the encoder's norm.
* batch norm after a ReLU: into the 1x1 convolutions that read it.
* layer scale (gamma) of an encoder block: into the linear layer before it.
* mean and deviation of the pictures that it was trained on: into the two layers that read the picture.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...files.ldm import count, listed, size
from ...files.numbers import check_numbers
from .model import DDColorSizes

#: What the two published architectures are called, by their encoder.
NAMES = {
    ((3, 3, 27, 3), (192, 384, 768, 1536)): "ConvNeXt-L",
    ((3, 3, 9, 3), (96, 192, 384, 768)): "ConvNeXt-T",
}

_ENCODER = "encoder.arch."
_COLOR = "decoder.color_decoder."
_BATCH_NORM_EPS = 1e-5
_SCALES = 3
_LAST_FACTOR = 4
_WANTED = "expected one of DDColor's released files (ddcolor_modelscope, paper, artistic or paper_tiny)"


def read_sizes(weights: Mapping[str, Tensor]) -> DDColorSizes:
    """Every size of the network that these weights belong to, from their shapes.

    :raises ValueError: they belong to no DDColor, or what tells a size is missing.
    """
    if not any(name.startswith(_COLOR) for name in weights):
        example = sorted(weights)[:3]
        found = f"tensors named like {example}" if example else "no tensors"
        raise ValueError(f"these are not DDColor's weights: found {found}, {_WANTED}; choose such a file.")

    def rows(name: str, axis: int = 0, axes: int = 4) -> int:
        try:
            return size(weights, name, axis, axes)
        except ValueError as error:
            raise ValueError(f"DDColor's weights are incomplete: {str(error)[:-1]}; {_WANTED}.") from error

    stages = range(_SCALES + 1)
    layers = [f"decoder.layers.{i}." for i in range(_SCALES)]
    return DDColorSizes(
        depths=tuple(count(weights, f"{_ENCODER}stages.{i}.") for i in stages),
        widths=tuple(rows(f"{_ENCODER}norm{i}.weight", axes=1) for i in stages),
        enlarged=tuple(rows(f"{layer}shuf.conv.0.weight_orig") // 4 for layer in layers),
        decoded=tuple(rows(f"{layer}conv.0.weight_orig") for layer in layers),
        last=rows("decoder.last_shuf.conv.0.weight_orig") // _LAST_FACTOR**2,
        hidden=rows(f"{_COLOR}query_feat.weight", 1, 2),
        feedforward=rows(f"{_COLOR}transformer_ffn_layers.0.linear1.weight", axes=2),
        queries=rows(f"{_COLOR}query_feat.weight", axes=2),
        layers=count(weights, f"{_COLOR}transformer_cross_attention_layers."),
        outputs=rows("refine_net.0.0.weight_orig"),
    )


class _Shapes(dict[str, tuple[int, ...]]):
    """Keys with their shapes, filled in layer by layer."""

    def affine(self, name: str, width: int) -> None:
        self[f"{name}.weight"] = self[f"{name}.bias"] = (width,)

    def linear(self, name: str, outputs: int, *inputs: int) -> None:
        self[f"{name}.weight"], self[f"{name}.bias"] = (outputs, *inputs), (outputs,)

    def batch_norm(self, name: str, width: int) -> None:
        self.affine(name, width)
        self[f"{name}.running_mean"] = self[f"{name}.running_var"] = (width,)
        self[f"{name}.num_batches_tracked"] = ()

    def spectral(self, name: str, outputs: int, inputs: int, kernel: int, bias: bool = False) -> None:
        self[f"{name}.weight_orig"] = (outputs, inputs, kernel, kernel)
        self[f"{name}.weight_u"], self[f"{name}.weight_v"] = (outputs,), (inputs * kernel**2,)
        if bias:
            self[f"{name}.bias"] = (outputs,)


def published_shapes(sizes: DDColorSizes) -> dict[str, tuple[int, ...]]:
    """Every key of a published file with its shape."""
    shapes = _Shapes({"mean": (1, 3, 1, 1), "std": (1, 3, 1, 1)})
    _encoder_shapes(shapes, sizes)
    _pixel_decoder_shapes(shapes, sizes)
    _color_decoder_shapes(shapes, sizes)
    shapes.spectral("refine_net.0.0", sizes.outputs, sizes.queries + 3, 1, bias=True)
    return shapes


def _encoder_shapes(shapes: _Shapes, sizes: DDColorSizes) -> None:
    before = 3
    for i, (depth, width) in enumerate(zip(sizes.depths, sizes.widths, strict=True)):
        reduction, kernel = f"{_ENCODER}downsample_layers.{i}.", 4 if i == 0 else 2
        # the stem normalizes what it made, the other reductions what they are given
        shapes.linear(f"{reduction}{0 if i == 0 else 1}", width, before, kernel, kernel)
        shapes.affine(f"{reduction}{1 if i == 0 else 0}", width if i == 0 else before)
        for j in range(depth):
            block = f"{_ENCODER}stages.{i}.{j}."
            shapes[f"{block}gamma"] = (width,)
            shapes.linear(f"{block}dwconv", width, 1, 7, 7)
            shapes.affine(f"{block}norm", width)
            shapes.linear(f"{block}pwconv1", 4 * width, width)
            shapes.linear(f"{block}pwconv2", width, 4 * width)
        shapes.affine(f"{_ENCODER}norm{i}", width)
        before = width
    shapes.affine(f"{_ENCODER}norm", before)


def _pixel_decoder_shapes(shapes: _Shapes, sizes: DDColorSizes) -> None:
    channels = zip(sizes.decoder_inputs, sizes.enlarged, sizes.skips, sizes.decoded, strict=True)
    for i, (inputs, enlarged, skip, decoded) in enumerate(channels):
        layer = f"decoder.layers.{i}."
        shapes.spectral(f"{layer}shuf.conv.0", 4 * enlarged, inputs, 1)
        shapes.batch_norm(f"{layer}shuf.conv.1", 4 * enlarged)
        shapes.batch_norm(f"{layer}bn", skip)
        shapes.spectral(f"{layer}conv.0", decoded, enlarged + skip, 3)
        shapes.batch_norm(f"{layer}conv.2", decoded)
        shapes.linear(f"{_COLOR}input_proj.{i}", sizes.hidden, decoded, 1, 1)
    shapes.spectral("decoder.last_shuf.conv.0", _LAST_FACTOR**2 * sizes.last, sizes.decoded[-1], 1, bias=True)


def _color_decoder_shapes(shapes: _Shapes, sizes: DDColorSizes) -> None:
    hidden = sizes.hidden
    for name, rows in (("query_feat", sizes.queries), ("query_embed", sizes.queries), ("level_embed", _SCALES)):
        shapes[f"{_COLOR}{name}.weight"] = (rows, hidden)
    for k in range(sizes.layers):
        for kind, attention in (("cross", "multihead_attn"), ("self", "self_attn")):
            layer = f"{_COLOR}transformer_{kind}_attention_layers.{k}."
            shapes[f"{layer}{attention}.in_proj_weight"] = (3 * hidden, hidden)
            shapes[f"{layer}{attention}.in_proj_bias"] = (3 * hidden,)
            shapes.linear(f"{layer}{attention}.out_proj", hidden, hidden)
            shapes.affine(f"{layer}norm", hidden)
        layer = f"{_COLOR}transformer_ffn_layers.{k}."
        shapes.linear(f"{layer}linear1", sizes.feedforward, hidden)
        shapes.linear(f"{layer}linear2", hidden, sizes.feedforward)
        shapes.affine(f"{layer}norm", hidden)
    shapes.affine(f"{_COLOR}decoder_norm", hidden)
    for j, outputs in enumerate((hidden, hidden, sizes.last)):
        shapes.linear(f"{_COLOR}color_embed.layers.{j}", outputs, hidden)


def check_weights(weights: Mapping[str, Tensor], sizes: DDColorSizes) -> None:
    """Whether these are all of a published file's tensors and no others.

    :raises ValueError: naming missing and unexpected keys, or the shapes that do not fit.
    """
    expected = published_shapes(sizes)
    # a file that was made smaller may lack the counters of training steps, which nothing reads
    missing = {name for name in expected.keys() - weights.keys() if not name.endswith(".num_batches_tracked")}
    unexpected = weights.keys() - expected.keys()
    if missing or unexpected:
        raise ValueError(
            f"DDColor's weights do not fit: missing {listed(missing)}, unexpected {listed(unexpected)} among "
            f"{len(weights)} tensors where {len(expected)} were expected; {_WANTED}; download it again."
        )
    wrong = {
        f"{name} {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    }
    if sizes.layers % _SCALES or sizes.hidden % 8 or not all(sizes.depths):
        wrong.add(f"{sizes.layers} color decoder layers of width {sizes.hidden}, encoder depths {sizes.depths}")
    if wrong:
        raise ValueError(f"DDColor's weights do not fit: {listed(wrong)}; {_WANTED}; download it again.")
    check_numbers(weights)
    for name, tensor in weights.items():
        negative = name.endswith(".running_var") and bool((tensor < 0).any())
        if negative or (name == "std" and not bool((tensor > 0).all())):
            raise ValueError(f"`{name}` holds {float(tensor.min()):g}, which is no deviation: download the file again.")


def fold(weights: Mapping[str, Tensor], sizes: DDColorSizes) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Published weights with every constant norm folded.

    :param weights: as :func:`check_weights` accepts them.
    :returns: (encoder, rest), float32. The encoder's keep their names without prefix and have lost ``gamma`` and the
        final norm, which nothing reads; the rest has the names of :class:`~.model.DDColor`.
    :raises ValueError: numbers that no norm can be made of.
    """
    given = {name: tensor.float() for name, tensor in weights.items()}
    encoder = {
        name.removeprefix(_ENCODER): tensor
        for name, tensor in given.items()
        if name.startswith(_ENCODER) and not name.startswith(f"{_ENCODER}norm.")
    }
    for block in [name.removesuffix("gamma") for name in encoder if name.endswith(".gamma")]:
        gamma = encoder.pop(f"{block}gamma")
        encoder[f"{block}pwconv2.weight"] = gamma[:, None] * encoder[f"{block}pwconv2.weight"]
        encoder[f"{block}pwconv2.bias"] = gamma * encoder[f"{block}pwconv2.bias"]

    mean, std = given["mean"].flatten(), given["std"].flatten()
    stem = "downsample_layers.0.0."
    encoder[f"{stem}weight"] = encoder[f"{stem}weight"] / std[:, None, None]
    encoder[f"{stem}bias"] = encoder[f"{stem}bias"] - encoder[f"{stem}weight"].sum((2, 3)) @ mean

    rest = {}
    # batch norms of the encoder's maps: norm{2 - i} of the encoder joins layer i
    for i in range(_SCALES):
        scale, shift = _batch_norm(given, f"decoder.layers.{i}.bn")
        norm = f"norm{_SCALES - 1 - i}"
        encoder[f"{norm}.weight"] = scale * encoder[f"{norm}.weight"]
        encoder[f"{norm}.bias"] = scale * encoder[f"{norm}.bias"] + shift

    # what the batch norm after the previous layer's ReLU does, for those who read that layer
    scale, shift = torch.ones(sizes.widths[-1]), torch.zeros(sizes.widths[-1])
    for i in range(_SCALES):
        layer, ours = f"decoder.layers.{i}.", f"pixel_layers.{i}."
        weight, bias = _read_scaled(_spectral(given, f"{layer}shuf.conv.0"), None, scale, shift)
        own_scale, own_shift = _batch_norm(given, f"{layer}shuf.conv.1")
        rest[f"{ours}enlarge.conv.weight"] = own_scale[:, None, None, None] * weight
        rest[f"{ours}enlarge.conv.bias"] = own_scale * bias + own_shift
        rest[f"{ours}conv.weight"] = _spectral(given, f"{layer}conv.0")
        rest[f"{ours}conv.bias"] = torch.zeros(sizes.decoded[i])
        scale, shift = _batch_norm(given, f"{layer}conv.2")
        projection = f"{_COLOR}input_proj.{i}."
        weight, bias = _read_scaled(given[f"{projection}weight"], given[f"{projection}bias"], scale, shift)
        rest[f"color.projections.{i}.weight"] = weight
        rest[f"color.projections.{i}.bias"] = bias + given[f"{_COLOR}level_embed.weight"][i]

    last = "decoder.last_shuf.conv.0"
    weight, bias = _read_scaled(_spectral(given, last), given[f"{last}.bias"], scale, shift)
    # pixel shuffle counts the places of the square fastest; ours come first
    rest["enlarge.linear.weight"] = weight.flatten(1).unflatten(0, (sizes.last, -1)).transpose(0, 1).flatten(0, 1)
    rest["enlarge.linear.bias"] = bias.unflatten(0, (sizes.last, -1)).T.flatten()
    of_queries, of_picture = _spectral(given, "refine_net.0.0").flatten(1).split([sizes.queries, 3], 1)
    of_picture = of_picture / std
    rest["refine.weight"] = torch.cat([of_queries, of_picture], 1)
    rest["refine.bias"] = given["refine_net.0.0.bias"] - of_picture @ mean
    for theirs, ours in color_decoder_names(sizes):
        rest |= {ours + name[len(theirs) :]: t for name, t in given.items() if name.startswith(theirs)}
    return encoder, rest


def color_decoder_names(sizes: DDColorSizes) -> list[tuple[str, str]]:
    """What the color decoder's parts are called in a published file, and by us: beginnings of names, or whole ones.

    It has nothing to fold but in its projections, which are not among them.
    """
    pairs = [(f"{_COLOR}query_feat.weight", "color.query"), (f"{_COLOR}query_embed.weight", "color.place")]
    pairs += [(f"{_COLOR}decoder_norm.", "color.norm.")]
    pairs += [(f"{_COLOR}color_embed.layers.{j}.", f"color.embed.{2 * j}.") for j in range(3)]
    for k in range(sizes.layers):
        ours = f"color.layers.{k}."
        cross, own, forward = (
            f"{_COLOR}transformer_{kind}_layers.{k}." for kind in ("cross_attention", "self_attention", "ffn")
        )
        pairs += [
            (f"{cross}multihead_attn.", f"{ours}cross."),
            (f"{cross}norm.", f"{ours}cross_norm."),
            (f"{own}self_attn.", f"{ours}own."),
            (f"{own}norm.", f"{ours}own_norm."),
            (forward, ours),
        ]
    return pairs


def _spectral(given: Mapping[str, Tensor], name: str) -> Tensor:
    """The weight that a spectrally normalized convolution works with."""
    weight = given[f"{name}.weight_orig"]
    u, v = given[f"{name}.weight_u"].double(), given[f"{name}.weight_v"].double()
    norm = float(u @ (weight.flatten(1).double() @ v))
    if not norm:
        raise ValueError(f"`{name}.weight_orig`, `weight_u` and `weight_v` give a norm of 0: download the file again.")
    return weight / norm


def _batch_norm(given: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """(scale, shift) that a batch norm comes down to."""
    scale = given[f"{name}.weight"] / (given[f"{name}.running_var"] + _BATCH_NORM_EPS).sqrt()
    return scale, given[f"{name}.bias"] - given[f"{name}.running_mean"] * scale


def _read_scaled(weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """A 1x1 convolution that is handed ``x`` and gives what it gave for ``scale * x + shift``."""
    shifted = weight.flatten(1) @ shift
    return weight * scale[:, None, None], shifted if bias is None else shifted + bias
