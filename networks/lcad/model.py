"""L-CAD's gray encoder and enhanced decoder (Chang et al., NeurIPS 2023, "luminance-guided compression").

A latent diffusion model loses fine structure in its autoencoder. L-CAD gives it back from the gray picture: an encoder
reads the luminance and emits a feature map after every residual block; the decoder, otherwise Stable Diffusion's, adds
each of them behind the matching block. The last map also goes into the UNet, beside the noisy latent.

Parameters have the published names, so that a published file loads as it is; every size is read from it. Written from a
description of the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...color import luminance, to_uint8
from ..embedded.autoencoder import LinearAutoencoder

EPS = 1e-6

#: Of the linear autoencoder's latent: mean Y, mean Cb, mean Cr, detail of Y.
COLOR_CHANNELS = (0.0, 1.0, 1.0, 0.0)

#: Side of the square that the published program squeezes every picture into.
OFFICIAL_SIDE = 256


@dataclass(frozen=True)
class LCADSizes:
    """All sizes of a gray encoder and its decoder.

    :param widths: channels of each level, fine to coarse; each level halves the size of the one before.
    :param blocks: residual blocks a level in the gray encoder, which emits a map after each; the decoder has one more.
    :param latent: channels of the latent.
    :param pictures: channels that come out, 3.
    :param groups: of every group norm, 32 in published files, and no shape tells; 0 is no norms at all, with which a
        small network keeps the level of flat places.
    """

    widths: tuple[int, ...]
    blocks: int
    latent: int = 4
    pictures: int = 3
    groups: int = 32

    @property
    def factor(self) -> int:
        """Pixels a latent covers."""
        return 2 ** (len(self.widths) - 1)

    @property
    def features(self) -> int:
        """Channels of the map that goes into the UNet."""
        return self.widths[-1]

    @property
    def maps(self) -> int:
        """How many maps the encoder emits."""
        return self.blocks * len(self.widths) + 2


def working_bytes(sizes: LCADSizes, height: int, width: int, number_bytes: int) -> int:
    """Memory that one picture needs on its way through encoder or decoder, without the weights.

    The peak is at full size: the maps that wait there, and input, norm and result of a convolution in a residual block;
    half as much again is left to the convolutions' own work space.
    """
    return int(1.5 * (sizes.blocks + 5) * sizes.widths[0] * height * width * number_bytes)


def luminance_input(image: Tensor) -> Tensor:
    """What the gray encoder reads: CIE L / 127.5 − 1 in three equal channels.

    L runs to 100, so white is −0.216, not 1. The published weights were trained that way.

    :param image: (B, H, W, 3) sRGB in 0..1; of a colored one only L counts.
    :returns: (B, 3, H, W) float32.
    """
    scaled = luminance(image.float()) / 127.5 - 1
    return scaled[:, None].expand(-1, 3, -1, -1).contiguous()


def official_square(image: Tensor, side: int = OFFICIAL_SIDE) -> Tensor:
    """The published program's input: 8 bits, squeezed into a square with Pillow's bilinear filter (aspect is lost).

    :param image: (B, H, W, 3) in 0..1.
    :returns: (B, side, side, 3) float32, multiples of 1/255, on the CPU.
    """
    import numpy as np
    from PIL import Image

    squeezed = [
        np.asarray(Image.fromarray(frame.numpy()).resize((side, side), Image.Resampling.BILINEAR))
        for frame in to_uint8(image).cpu()
    ]
    return torch.from_numpy(np.stack(squeezed)).float() / 255


def _norm(channels: int, groups: int) -> nn.Module:
    return nn.GroupNorm(groups, channels, EPS) if groups else nn.Identity()


class ResidualBlock(nn.Module):
    """norm, SiLU, 3x3 convolution, twice; added to the input."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(inputs, groups)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = _norm(outputs, groups)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttentionBlock(nn.Module):
    """Self-attention with one head over all places; added to the input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> the same shape."""
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).mT[:, None] for layer in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v)[:, 0].mT.reshape(x.shape)
        return x + self.proj_out(seen)


class _Middle(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, groups)
        self.attn_1 = AttentionBlock(channels, groups)
        self.block_2 = ResidualBlock(channels, channels, groups)


class _Resample(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1 if stride == 1 else 0)


class GrayEncoder(nn.Module):
    """Luminance to feature maps, one after every residual block.

    Each map goes through a 1x1 convolution that started at zero in training; it does not come back into the encoder.
    """

    def __init__(self, sizes: LCADSizes) -> None:
        super().__init__()
        self.sizes = sizes
        widths = sizes.widths
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        inputs = widths[0]
        for number, width in enumerate(widths):
            level = nn.Module()
            level.block = nn.ModuleList(
                ResidualBlock(inputs if b == 0 else width, width, sizes.groups) for b in range(sizes.blocks)
            )
            level.zero_conv = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(sizes.blocks))
            if number < len(widths) - 1:
                level.downsample = _Resample(width, 2)
            self.down.append(level)
            inputs = width
        self.mid = _Middle(inputs, sizes.groups)
        self.zero_conv_mid1 = nn.Conv2d(inputs, inputs, 1)
        self.zero_conv_mid2 = nn.Conv2d(inputs, inputs, 1)

    def forward(self, gray: Tensor) -> tuple[Tensor, ...]:
        """Encode luminance.

        :param gray: (B, 3, H, W) as :func:`luminance_input` gives it; H and W multiples of ``sizes.factor``.
        :returns: ``sizes.maps`` maps, fine to coarse; the last one, (B, ``sizes.features``, H/f, W/f), is the UNet's.
        :raises ValueError: sides that are no such multiples.
        """
        factor = self.sizes.factor
        if any(side % factor or not side for side in gray.shape[-2:]):
            raise ValueError(
                f"The gray encoder was given {gray.shape[-1]} x {gray.shape[-2]} pixels; both sides must be multiples "
                f"of {factor}: choose such a size."
            )
        h = self.conv_in(gray.to(self.conv_in.weight.dtype))
        maps = []
        for level in self.down:
            for block, emit in zip(level.block, level.zero_conv, strict=True):
                h = block(h)
                maps.append(emit(h))
            if hasattr(level, "downsample"):
                h = level.downsample.conv(F.pad(h, (0, 1, 0, 1)))
        h = self.mid.block_1(h)
        maps.append(self.zero_conv_mid1(h))
        h = self.mid.block_2(self.mid.attn_1(h))
        maps.append(self.zero_conv_mid2(h))
        return tuple(maps)


class GuidedDecoder(nn.Module):
    """Stable Diffusion's decoder with the gray encoder's maps added behind its blocks, the last map first."""

    def __init__(self, sizes: LCADSizes) -> None:
        super().__init__()
        self.sizes = sizes
        widths = sizes.widths
        self.post_quant_conv = nn.Conv2d(sizes.latent, sizes.latent, 1)
        self.conv_in = nn.Conv2d(sizes.latent, widths[-1], 3, padding=1)
        self.mid = _Middle(widths[-1], sizes.groups)
        levels = []
        inputs = widths[-1]
        for number in reversed(range(len(widths))):
            level = nn.Module()
            level.block = nn.ModuleList(
                ResidualBlock(inputs if b == 0 else widths[number], widths[number], sizes.groups)
                for b in range(sizes.blocks + 1)
            )
            if number > 0:
                level.upsample = _Resample(widths[number], 1)
            levels.append(level)
            inputs = widths[number]
        self.up = nn.ModuleList(reversed(levels))  # stored fine to coarse, run coarse to fine
        self.norm_out = _norm(inputs, sizes.groups)
        self.conv_out = nn.Conv2d(inputs, sizes.pictures, 3, padding=1)

    def forward(self, latent: Tensor, maps: Sequence[Tensor] | None) -> Tensor:
        """Decode.

        :param latent: (B, C, h, w), not scaled (Stable Diffusion's latent / 0.18215).
        :param maps: what the gray encoder gave for (B or 1) pictures of h·f x w·f pixels; None decodes without them.
        :returns: (B, 3, h·f, w·f), about −1..1, not clamped.
        :raises ValueError: maps that belong to another encoder or another size.
        """
        if maps is None:
            rest = [0] * self.sizes.maps
        else:
            self._check(latent, maps)
            rest = list(maps)  # of its own: the caller's stays as it is
        h = self.conv_in(self.post_quant_conv(latent.to(self.conv_in.weight.dtype)))
        h = self.mid.block_1(h) + rest.pop()
        h = self.mid.block_2(self.mid.attn_1(h)) + rest.pop()
        for level in reversed(self.up):
            for index, block in enumerate(level.block):
                h = block(h)
                if index < self.sizes.blocks:  # the last block of a level gets nothing
                    h = h + rest.pop()
            if hasattr(level, "upsample"):
                h = level.upsample.conv(F.interpolate(h, scale_factor=2, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(h)))

    def _check(self, latent: Tensor, maps: Sequence[Tensor]) -> None:
        expected = (self.sizes.features, *latent.shape[-2:])
        if len(maps) != self.sizes.maps or tuple(maps[-1].shape[1:]) != expected:
            found = tuple(maps[-1].shape[1:]) if maps else ()
            raise ValueError(
                f"The decoder was given {len(maps)} gray maps, the last one {found}; for this latent it needs "
                f"{self.sizes.maps}, the last one {expected}: encode the gray picture at the latent's size."
            )


class LCADAutoencoder(nn.Module):
    """Gray encoder and decoder together, between pictures and latents.

    :param base: a linear autoencoder, from whose latent lightness can be told apart; it then gives the colors, and the
        decoder adds the rest. None for published files, whose decoder gives the whole picture.
    """

    def __init__(self, encoder: GrayEncoder, decoder: GuidedDecoder, base: LinearAutoencoder | None = None) -> None:
        super().__init__()
        self.encoder, self.decoder, self.base = encoder, decoder, base

    @property
    def sizes(self) -> LCADSizes:
        """The widths and depths of both halves."""
        return self.encoder.sizes

    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, H, W, 3) in 0..1, sides multiples of ``sizes.factor`` -> the gray maps; the last one is the UNet's."""
        return self.encoder(luminance_input(image).to(self.encoder.conv_in.weight.device))

    def forward(self, latent: Tensor, maps: Sequence[Tensor] | None) -> Tensor:
        """Latent (B, C, h, w), not scaled, and maps -> (B, 3, H, W), about −1..1, not clamped."""
        picture = self.decoder(latent, maps)
        if self.base is None:
            return picture
        colors = latent.to(picture.dtype) * torch.tensor(COLOR_CHANNELS, device=latent.device).view(1, -1, 1, 1)
        return picture + self.base.decode(colors)

    def decode(self, latent: Tensor, maps: Sequence[Tensor] | None) -> Tensor:
        """Latent (B, C, h, w), not scaled, and maps -> (B, H, W, 3) float32 in 0..1."""
        return (self(latent, maps).float() / 2 + 0.5).clamp(0, 1).movedim(1, -1)
