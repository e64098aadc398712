"""DDColor (Kang et al., ICCV 2023, arXiv 2212.11613): a gray picture in, a and b of CIE Lab out, in one forward pass.

An encoder's four maps go through a pixel decoder, which climbs back to the picture's size; a color decoder lets a set
of learned queries look at three scales of it; every query weights the pixel decoder's channels, and a last layer adds
the queries' maps up to a and b. The encoder (ConvNeXt) is handed in: libraries have it.

What is the same for every picture is worked out once, when weights are read (:mod:`.weights`): spectral and
batch norms are folded into their neighbors. The order of the last steps is ours, the result is not changed by it:
whatever follows the last ReLU is linear, so the queries' weights are summed up to two sets first, and two maps at full
size are made instead of 256 channels and 100 query maps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Sides of a picture must be multiples of this: the encoder halves five times.
MULTIPLE = 32

#: Heads of every attention layer. No shape in a file tells; all released variants have these.
HEADS = 8

#: Base of the position code's wavelengths.
TEMPERATURE = 10000

#: Numbers that the last unit holds at once. It works in slices, because the whole is 256 numbers a pixel: on a CPU in
#: ones that its caches hold.
SLICE = 2**25
CPU_SLICE = 2**22


@dataclass(frozen=True)
class DDColorSizes:
    """All sizes of a network.

    :param depths: blocks of each of the encoder's four stages.
    :param widths: channels of each stage.
    :param enlarged: channels that each of the three pixel decoder layers enlarges to, before the skip joins.
    :param decoded: channels that each of them gives.
    :param last: channels at the picture's size, and length of a query's answer.
    :param hidden: width of the color decoder.
    :param feedforward: width inside its feed-forward layers.
    :param queries: number of color queries.
    :param layers: number of color decoder layers, a multiple of three.
    :param outputs: channels that come out, two (a and b).
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    enlarged: tuple[int, ...]
    decoded: tuple[int, ...]
    last: int
    hidden: int
    feedforward: int
    queries: int
    layers: int
    outputs: int = 2

    @property
    def skips(self) -> tuple[int, ...]:
        """Channels of the encoder maps that join the pixel decoder, coarse to fine."""
        return tuple(reversed(self.widths[:-1]))

    @property
    def decoder_inputs(self) -> tuple[int, ...]:
        """Channels that enter each pixel decoder layer."""
        return (self.widths[-1], *self.decoded[:-1])


def working_bytes(sizes: DDColorSizes, frames: int, height: int, width: int, number_bytes: int) -> int:
    """Memory that pictures need on their way through the network together, without the weights.

    A picture needs the larger of two peaks, both at stride 4: inside an encoder block (input, depthwise result, norm,
    and twice the four times wider inner layer) and where the last pixel decoder layer meets its skip. Half as much
    again is left to the convolutions' own work space. One slice of the last unit comes on top, in both precisions.
    """
    fine, enlarged = sizes.widths[0], sizes.enlarged[-1]
    block = 11 * fine
    decoder = 4 * enlarged + 4 * fine + 2 * sizes.decoded[-1] + 3 * sizes.hidden
    each = 1.5 * max(block, decoder) * (height * width / 16) * number_bytes
    return int(frames * each) + SLICE * (4 + number_bytes)


def blur(x: Tensor) -> Tensor:
    """Mean of every 2 x 2 places; edges are repeated above and to the left, so the size stays. (B, C, H, W)."""
    return F.avg_pool2d(F.pad(x, (1, 0, 1, 0), mode="replicate"), 2, stride=1)


def sine_position(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """The position code of the detection transformers (DETR, arXiv 2005.12872), for one map.

    The first half of the channels tells the row, the second the column; in each, sine and cosine alternate.

    :param channels: a multiple of 4.
    :param like: device and dtype of the result.
    :returns: (1, channels, height, width).
    """
    half = channels // 2
    index = torch.arange(half, device=like.device)
    wavelength = TEMPERATURE ** (2 * (index // 2) / half)

    def code(length: int) -> Tensor:
        place = torch.arange(1, length + 1, device=like.device, dtype=torch.float32) / (length + 1e-6) * 2 * math.pi
        angle = place[:, None] / wavelength
        return torch.where(index % 2 == 0, angle.sin(), angle.cos()).T  # (half, length)

    rows = code(height)[:, :, None].expand(-1, -1, width)
    columns = code(width)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])[None].to(like)


class Enlarge(nn.Module):
    """Twice the size: 1x1 convolution, ReLU, pixel shuffle, and a blur against the shuffle's checkerboard."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs * 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, 2h, 2w), nothing below 0."""
        return blur(F.pixel_shuffle(F.relu(self.conv(x), inplace=True), 2))


class PixelLayer(nn.Module):
    """One step up: the coarse map enlarged, joined by the encoder's map of that size, mixed by a 3x3 convolution."""

    def __init__(self, inputs: int, enlarged: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.enlarge = Enlarge(inputs, enlarged)
        self.conv = nn.Conv2d(enlarged + skip, outputs, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, inputs, h, w) and (B, skip, 2h, 2w) -> (B, outputs, 2h, 2w), before the batch norm that follows."""
        # what was enlarged needs no second ReLU: means of numbers that are not negative
        return F.relu(self.conv(torch.cat([self.enlarge(x), F.relu(skip)], 1)), inplace=True)


class WeightedEnlarge(nn.Module):
    """The last unit, four times the size, with its channels summed up by given weights before they are spread out.

    ``linear`` gives 16 x ``channels`` numbers a place, sorted by the place inside the 4 x 4 square first.
    """

    FACTOR = 4

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(inputs, channels * self.FACTOR**2)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums of the unit's channels; with the identity as weights, the channels themselves.

        :param x: (B, inputs, h, w).
        :param weights: (B, K, channels), float32.
        :returns: (B, K, 4h, 4w), float32.
        """
        batch, _, height, width = x.shape
        tokens = x.movedim(1, -1).flatten(1, 2)
        spread = weights.transpose(1, 2)
        most = CPU_SLICE if x.device.type == "cpu" else SLICE
        length = max(1, most // (batch * self.linear.out_features))
        parts = []
        for part in tokens.split(length, dim=1):
            features = F.relu(self.linear(part), inplace=True).view(batch, -1, self.channels)
            # in float32 also where the network is not: the sum cancels, and a and b are wanted to a fraction of a unit
            parts.append(features.float() @ spread)
        summed = torch.cat(parts, 1).view(batch, height, width, self.FACTOR, self.FACTOR, -1)
        return blur(summed.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, height * self.FACTOR, width * self.FACTOR))


class ColorLayer(nn.Module):
    """One color decoder layer: the queries look at a map, then at each other; norms come after each step."""

    def __init__(self, hidden: int, feedforward: int) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(hidden, HEADS, batch_first=True)
        self.cross_norm = nn.LayerNorm(hidden)
        self.own = nn.MultiheadAttention(hidden, HEADS, batch_first=True)
        self.own_norm = nn.LayerNorm(hidden)
        self.linear1 = nn.Linear(hidden, feedforward)
        self.linear2 = nn.Linear(feedforward, hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, queries: Tensor, place: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(B, Q, hidden) -> the same shape.

        :param place: (B, Q, hidden), the queries' own position code.
        :param keys: (B, N, hidden), the map with its position code; ``values`` the map without.
        """
        # without weights to hand out, torch's fused attention runs and no map is built
        seen = self.cross(queries + place, keys, values, need_weights=False)[0]
        queries = self.cross_norm(queries + seen)
        placed = queries + place
        queries = self.own_norm(queries + self.own(placed, placed, queries, need_weights=False)[0])
        return self.norm(queries + self.linear2(F.relu(self.linear1(queries))))


class ColorDecoder(nn.Module):
    """Color queries that look at three scales of the pixel decoder in turn, coarse to fine, again and again."""

    def __init__(self, sizes: DDColorSizes) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(channels, sizes.hidden, 1) for channels in sizes.decoded)
        self.query = nn.Parameter(torch.zeros(sizes.queries, sizes.hidden))
        self.place = nn.Parameter(torch.zeros(sizes.queries, sizes.hidden))
        self.layers = nn.ModuleList(ColorLayer(sizes.hidden, sizes.feedforward) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.hidden)
        self.embed = nn.Sequential(
            nn.Linear(sizes.hidden, sizes.hidden),
            nn.ReLU(),
            nn.Linear(sizes.hidden, sizes.hidden),
            nn.ReLU(),
            nn.Linear(sizes.hidden, sizes.last),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Three maps (B, channels, h, w), coarse to fine -> (B, Q, last): how each query weights the last channels."""
        values, keys = [], []
        for x, project in zip(maps, self.projections, strict=True):
            projected = project(x)
            position = sine_position(*projected.shape[2:], projected.shape[1], projected)
            values.append(projected.movedim(1, -1).flatten(1, 2))
            keys.append((projected + position).movedim(1, -1).flatten(1, 2))
        queries, place = (t.expand(len(values[0]), -1, -1) for t in (self.query, self.place))
        for number, layer in enumerate(self.layers):
            scale = number % len(values)
            queries = layer(queries, place, keys[scale], values[scale])
        return self.embed(self.norm(queries))


class DDColor(nn.Module):
    """The whole network.

    :param encoder: (B, 3, H, W) in 0..1 -> maps at strides 4, 8, 16 and 32 of ``sizes.widths`` channels.
    """

    def __init__(self, encoder: nn.Module, sizes: DDColorSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.encoder = encoder
        self.pixel_layers = nn.ModuleList(
            PixelLayer(*channels)
            for channels in zip(sizes.decoder_inputs, sizes.enlarged, sizes.skips, sizes.decoded, strict=True)
        )
        self.enlarge = WeightedEnlarge(sizes.decoded[-1], sizes.last)
        self.color = ColorDecoder(sizes)
        self.refine = nn.Linear(sizes.queries + 3, sizes.outputs)

    def forward(self, gray: Tensor) -> Tensor:
        """Color gray pictures.

        :param gray: (B, 3, H, W) in 0..1 with equal channels; H and W multiples of 32. Any dtype.
        :returns: (B, 2, H, W) float32, a and b in units of CIE Lab.
        :raises ValueError: sides that are no multiples of 32.
        """
        if any(side % MULTIPLE or not side for side in gray.shape[-2:]):
            raise ValueError(
                f"DDColor was given {gray.shape[-1]} x {gray.shape[-2]} pixels; both sides must be multiples of "
                f"{MULTIPLE}: choose such a size."
            )
        maps = self.decode(self.encoder(gray.to(self.color.query.dtype)))
        weights = self.color(maps).float()
        of_queries, of_picture = self.refine.weight.float().split([self.sizes.queries, 3], 1)
        chroma = self.enlarge(maps[-1], of_queries @ weights)
        return chroma + F.conv2d(gray.float(), of_picture[:, :, None, None], self.refine.bias.float())

    def decode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The pixel decoder: four encoder maps, fine to coarse -> three maps at strides 16, 8 and 4."""
        *skips, x = maps
        decoded = []
        for layer, skip in zip(self.pixel_layers, reversed(skips), strict=True):
            x = layer(x, skip)
            decoded.append(x)
        return decoded


class ConvNeXtMaps(nn.Module):
    """Transformers' ConvNeXt, giving the normed map of each stage; the un-normed one goes on to the next stage."""

    def __init__(self, sizes: DDColorSizes) -> None:
        from transformers import ConvNextBackbone, ConvNextConfig

        super().__init__()
        config = ConvNextConfig(
            depths=list(sizes.depths),
            hidden_sizes=list(sizes.widths),
            out_features=[f"stage{i + 1}" for i in range(len(sizes.depths))],
            layer_scale_init_value=0.0,  # none: it is folded
        )
        backbone = ConvNextBackbone(config)
        self.embeddings = backbone.embeddings
        self.stages = backbone.encoder.stages
        self.norms = nn.ModuleList(backbone.hidden_states_norms.values())

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> four maps at strides 4, 8, 16 and 32."""
        x = self.embeddings(x)
        maps = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            maps.append(norm(x))
        return maps
