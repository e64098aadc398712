"""The measures' recorded set: what the published programs printed for pictures and weights of a recipe.

Recorded by the programs themselves, on a CPU, twice: with numpy 1.26 and with numpy 2.4.

* ``exemplar``: ``evaluation/compute_his.py``, ``compute_lpips.py``, ``SIFID/compute_sifid.py`` of Kosugi's program, and
  pytorch-fid 0.3.0 on both folders. The last digit of HIS and of FID is what was printed; SI-FID is whole. With numpy
  2.2 and later the program has no SI-FID: it stops at a matrix of NaN.
* ``colormnet``: PSNR, SSIM, LPIPS and colorfulness of ``evaluation_matrics/evaluation.py``, CDC of ``cdc.py``.
* ``ddcolor``: colorfulness of ``basicsr/metrics/colorfulness.py``, FID of ``custom_fid.py``, called as by
  ``color_model.py``.
* ``features.safetensors``: what pytorch-fid's Inception and DDColor's see of the first two outputs.

Networks have weights of random numbers under the published names; AlexNet is torchvision's, the channels' weights are
lpips 0.1.4's structure.
"""

import json
import zlib
from functools import cached_property
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file


class MeasureSet:
    """One folder; counts, salt and keys come from its ``meta.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def meta(self) -> dict:
        return json.loads((self.folder / "meta.json").read_text("utf-8"))

    @cached_property
    def features(self) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "features.safetensors")

    def recorded(self, numpy: str) -> dict:
        return self.meta["recorded"][numpy]

    def weights(self, network: str) -> dict[str, torch.Tensor]:
        """``fid``, ``torchvision``, ``alexnet`` or ``heads``."""
        return {
            name: torch.from_numpy(_value(f"{network}:{name}", tuple(shape), self.meta["salt"]))
            for name, shape in self.meta["keys"][network].items()
        }

    def pictures(self, kind: str) -> list[np.ndarray]:
        """(H, W, 3) uint8 each: ``output``, ``reference`` or ``truth``."""
        return [picture(self.meta["salt"], kind, number, self.meta["side"]) for number in range(self.meta["pairs"])]


def _random(text: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(text.encode()))


def _value(name: str, shape: tuple[int, ...], salt: str) -> np.ndarray:
    """Uniform numbers, scaled so that nothing explodes or dies."""
    z = (2 * _random(f"{salt}:{name}").random_sample(prod(shape)) - 1).reshape(shape)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        z = 1 + 0.5 * z
    elif name.endswith("running_mean"):
        z = 0.1 * z
    elif len(shape) == 1 and name.endswith("weight"):
        z = 1 + 0.2 * z
    elif len(shape) == 1:
        z = 0.2 * z
    elif name.startswith("heads:"):
        z = abs(z)
    else:
        z = z * np.sqrt(6 / prod(shape[1:]))
    return z.astype(np.float32)


def picture(salt: str, kind: str, number: int, side: int) -> np.ndarray:
    """Fields of color that run into each other, with noise; an output is its truth in other colors."""
    source = "truth" if kind == "output" else kind
    random = _random(f"{salt}:{source}:{number}")
    cells = 6 + number
    made = _enlarged(random.random_sample((cells, cells, 3)), side)
    made = made + 0.04 * (random.random_sample((side, side, 3)) - 0.5)
    if kind == "output":
        gray = made.mean(-1, keepdims=True)
        made = gray + (made - gray) * (0.5 + 0.08 * number)
    return np.rint(255 * np.clip(made, 0, 1)).astype(np.uint8)


def _enlarged(cells: np.ndarray, side: int) -> np.ndarray:
    """Bilinear, corners on corners."""
    for axis in (0, 1):
        places = np.linspace(0, cells.shape[axis] - 1, side)
        low = np.minimum(places.astype(int), cells.shape[axis] - 2)
        shape = [-1 if at == axis else 1 for at in range(3)]
        weight = (places - low).reshape(shape)
        cells = (1 - weight) * cells.take(low, axis) + weight * cells.take(low + 1, axis)
    return cells
