"""Inception v3 up to its last pooling, described by a table of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...color.pictures import check_picture

#: Whose weights: ``fid`` are those that TensorFlow's Inception of 2015-12-05 has, which FID is defined by (Heusel et
#: al. 2017); ``torchvision`` are that library's own, which the program of DDColor measures with.
Kind = Literal["fid", "torchvision"]
#: What pictures are brought to.
SIDE = 299
_BATCH_NORM_EPS = 1e-3
#: torchvision's means and deviations of ImageNet, by channel.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: A convolution: its name in the published files, channels, kernel, stride. Kernels of stride 1 keep the size.
_Conv = tuple[str, int, tuple[int, int], int]
#: A branch of a block: convolutions one after another, a pooling (``average``, ``maximum``, or ``half``, which is a
#: maximum of stride 2), and at its end perhaps two that stand side by side.
_Branch = list["_Conv | str | list[_Conv]"]


def _conv(name: str, channels: int, kernel: int | tuple[int, int] = 1, stride: int = 1) -> _Conv:
    return name, channels, (kernel, kernel) if isinstance(kernel, int) else kernel, stride


def _block_a(pooled: int) -> list[_Branch]:
    return [
        [_conv("branch1x1", 64)],
        [_conv("branch5x5_1", 48), _conv("branch5x5_2", 64, 5)],
        [_conv("branch3x3dbl_1", 64), _conv("branch3x3dbl_2", 96, 3), _conv("branch3x3dbl_3", 96, 3)],
        ["average", _conv("branch_pool", pooled)],
    ]


def _block_b() -> list[_Branch]:
    return [
        [_conv("branch3x3", 384, 3, 2)],
        [_conv("branch3x3dbl_1", 64), _conv("branch3x3dbl_2", 96, 3), _conv("branch3x3dbl_3", 96, 3, 2)],
        ["half"],
    ]


def _block_c(width: int) -> list[_Branch]:
    long, tall = (1, 7), (7, 1)
    return [
        [_conv("branch1x1", 192)],
        [_conv("branch7x7_1", width), _conv("branch7x7_2", width, long), _conv("branch7x7_3", 192, tall)],
        [
            _conv("branch7x7dbl_1", width),
            _conv("branch7x7dbl_2", width, tall),
            _conv("branch7x7dbl_3", width, long),
            _conv("branch7x7dbl_4", width, tall),
            _conv("branch7x7dbl_5", 192, long),
        ],
        ["average", _conv("branch_pool", 192)],
    ]


def _block_d() -> list[_Branch]:
    return [
        [_conv("branch3x3_1", 192), _conv("branch3x3_2", 320, 3, 2)],
        [
            _conv("branch7x7x3_1", 192),
            _conv("branch7x7x3_2", 192, (1, 7)),
            _conv("branch7x7x3_3", 192, (7, 1)),
            _conv("branch7x7x3_4", 192, 3, 2),
        ],
        ["half"],
    ]


def _block_e(pooling: str) -> list[_Branch]:
    long, tall = (1, 3), (3, 1)
    return [
        [_conv("branch1x1", 320)],
        [_conv("branch3x3_1", 384), [_conv("branch3x3_2a", 384, long), _conv("branch3x3_2b", 384, tall)]],
        [
            _conv("branch3x3dbl_1", 448),
            _conv("branch3x3dbl_2", 384, 3),
            [_conv("branch3x3dbl_3a", 384, long), _conv("branch3x3dbl_3b", 384, tall)],
        ],
        [pooling, _conv("branch_pool", 192)],
    ]


class _Convolution(nn.Module):
    """Convolution, batch norm, ReLU: (B, C, H, W) -> (B, C', H', W')."""

    def __init__(self, channels_in: int, layer: _Conv, padded: bool = True) -> None:
        super().__init__()
        _, channels, kernel, stride = layer
        padding = (kernel[0] // 2, kernel[1] // 2) if padded and stride == 1 else (0, 0)
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Block(nn.Module):
    """Branches side by side, their channels one after another: (B, C, H, W) -> (B, C', H', W')."""

    def __init__(self, channels_in: int, branches: list[_Branch], counts_padding: bool) -> None:
        super().__init__()
        self._branches, self._counts_padding = branches, counts_padding
        self.channels = 0
        for branch in branches:
            width = channels_in
            for step in branch:
                if isinstance(step, str):
                    continue
                layers = step if isinstance(step, list) else [step]
                for layer in layers:
                    self.add_module(layer[0], _Convolution(width, layer))
                width = sum(layer[1] for layer in layers)
            self.channels += width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._along(x, branch) for branch in self._branches], 1)

    def _along(self, x: Tensor, branch: _Branch) -> Tensor:
        for step in branch:
            if isinstance(step, list):
                x = torch.cat([self.get_submodule(layer[0])(x) for layer in step], 1)
            elif not isinstance(step, str):
                x = self.get_submodule(step[0])(x)
            elif step == "average":
                x = F.avg_pool2d(x, 3, 1, 1, count_include_pad=self._counts_padding)
            else:
                x = F.max_pool2d(x, 3, *((2, 0) if step == "half" else (1, 1)))
        return x


@dataclass(frozen=True)
class Seen:
    """What the network sees of some pictures, at the layers that measures ask for.

    :param first: (B, 64, h, w), after the first pooling: pytorch-fid's block 0.
    :param second: (B, 192, h, w), before the second pooling.
    :param last: (B, 2048), the mean over places of the last block; None where it was not asked for.
    """

    first: Tensor
    second: Tensor
    last: Tensor | None


class Inception(nn.Module):
    """Inception v3 with the names of the published files.

    The two kinds differ in three places: at borders ``fid`` averages over what is inside alone, and its last block
    takes a maximum where ``torchvision`` averages; and pictures are scaled otherwise, see :meth:`look`.

    :param kind: whose weights it gets.
    """

    def __init__(self, kind: Kind = "fid") -> None:
        super().__init__()
        self.kind: Kind = kind
        stem = (_conv("Conv2d_1a_3x3", 32, 3, 2), _conv("Conv2d_2a_3x3", 32, 3), _conv("Conv2d_2b_3x3", 64, 3))
        width = 3
        for layer in (*stem, _conv("Conv2d_3b_1x1", 80), _conv("Conv2d_4a_3x3", 192, 3)):
            self.add_module(layer[0], _Convolution(width, layer, padded=layer[0] == "Conv2d_2b_3x3"))
            width = layer[1]
        blocks = {
            **{f"Mixed_5{name}": _block_a(pooled) for name, pooled in zip("bcd", (32, 64, 64), strict=True)},
            "Mixed_6a": _block_b(),
            **{f"Mixed_6{name}": _block_c(each) for name, each in zip("bcde", (128, 160, 160, 192), strict=True)},
            "Mixed_7a": _block_d(),
            "Mixed_7b": _block_e("average"),
            "Mixed_7c": _block_e("maximum" if kind == "fid" else "average"),
        }
        for name, branches in blocks.items():
            block = _Block(width, branches, counts_padding=kind == "torchvision")
            self.add_module(name, block)
            width = block.channels
        self._blocks = tuple(blocks)

    def look(self, pictures: Tensor, *, resize: bool = True, whole: bool = True) -> Seen:
        """What the network sees of pictures, as the programs show it them.

        ``fid``: 0..1 to -1..1, as pytorch-fid does. ``torchvision``: DDColor's program halves 0..1 to 0.5..1 before it
        changes ImageNet's scale to the network's; that is kept.

        :param pictures: (B, H, W, 3), sRGB in 0..1; on any device and in any dtype.
        :param resize: to 299 x 299 first, bilinear without antialiasing; else at their own size, at least 75 a side.
        :param whole: whether ``last`` is wanted.
        :raises ValueError: no pictures.
        """
        check_picture(pictures, "pictures")
        weight = self.get_submodule("Conv2d_1a_3x3.conv").weight
        assert isinstance(weight, Tensor)
        x = pictures.to(weight).movedim(-1, 1)
        if resize:
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False)
        x = self._scaled(x)
        first = F.max_pool2d(self._through(x, ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")), 3, 2)
        second = self._through(first, ("Conv2d_3b_1x1", "Conv2d_4a_3x3"))
        last = self._through(F.max_pool2d(second, 3, 2), self._blocks).mean((2, 3)) if whole else None
        return Seen(first, second, last)

    def _scaled(self, x: Tensor) -> Tensor:
        if self.kind == "fid":
            return 2 * x - 1
        mean, std = (x.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        return (x * 0.5 + 0.5) * (std / 0.5) + (mean - 0.5) / 0.5

    def _through(self, x: Tensor, names: Sequence[str]) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


def working_bytes(height: int, width: int, *, resize: bool = True) -> int:
    """What :meth:`Inception.look` of a picture needs beside the weights, in bytes, at its peak: a rough upper bound."""
    # Three maps of the stem's 64 channels at half the size, and what a convolution lays out beside them.
    return 4 * (3 * 64 // 4 + 9 * 64 // 4) * (SIDE * SIDE if resize else height * width)
