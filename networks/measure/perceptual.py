"""LPIPS 0.1 on AlexNet: how different two pictures are to a network whose channels were weighted by people's judgment.

Zhang, Isola, Efros, Shechtman, Wang, *The Unreasonable Effectiveness of Deep Features as a Perceptual Metric*, CVPR
2018, arXiv 1801.03924, equation 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: AlexNet's convolutions as torchvision numbers them: channels, kernel, stride, padding, and whether one pools before.
_LAYERS = {
    "0": (64, 11, 4, 2, False),
    "3": (192, 5, 1, 2, True),
    "6": (384, 3, 1, 1, True),
    "8": (256, 3, 1, 1, False),
    "10": (256, 3, 1, 1, False),
}
#: What pictures in -1..1 are moved and divided by, by channel.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
#: What keeps lengths of features from being 0.
_EPS = 1e-10
#: Smallest side that leaves something of the last layer.
LEAST = 35


class Perceptual(nn.Module):
    """LPIPS. Weights have the names of the two files: ``features.0.weight`` of AlexNet, ``lin0.model.1.weight``."""

    def __init__(self) -> None:
        super().__init__()
        self.features, width = nn.ModuleDict(), 3
        for number, (name, (channels, kernel, stride, padding, _)) in enumerate(_LAYERS.items()):
            self.features[name] = nn.Conv2d(width, channels, kernel, stride, padding)
            head = nn.Module()
            head.model = nn.ModuleDict({"1": nn.Conv2d(channels, 1, 1, bias=False)})
            self.add_module(f"lin{number}", head)
            width = channels

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """Distances: 0 for equal pictures; released weights make it 0 or more.

        :param one, other: (B, 3, H, W), in -1..1 as the paper means it, at least 35 pixels a side. The program of
            ColorMNet hands over 0..255, which is possible.
        :returns: (B,).
        """
        total = one.new_zeros(len(one))
        for number, (a, b) in enumerate(zip(self._layers(one), self._layers(other), strict=True)):
            weight = self.get_parameter(f"lin{number}.model.1.weight")
            total = total + F.conv2d((a - b).square(), weight).mean((1, 2, 3))
        return total

    def _layers(self, pictures: Tensor) -> list[Tensor]:
        """Features of each layer, of unit length in each place."""
        shift, scale = (pictures.new_tensor(values).view(1, 3, 1, 1) for values in (_SHIFT, _SCALE))
        x, found = (pictures - shift) / scale, []
        for name, (*_, pooled) in _LAYERS.items():
            x = F.max_pool2d(x, 3, 2) if pooled else x
            x = F.relu(self.features[name](x))
            found.append(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + _EPS))
        return found


def working_bytes(height: int, width: int) -> int:
    """What a pair of pictures needs beside the weights, in bytes, at its peak: a rough upper bound."""
    # Both pictures and their scaled copies, and five layers that together have fewer numbers than four of 64 channels
    # at a quarter of the size.
    return 4 * (4 * 3 + 2 * 4 * 64 // 16 + 121 * 3 // 16) * height * width
