"""The networks of measures from well-known files, which lie in a folder of the user's. Nothing is fetched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...files.ldm import build
from ...files.numbers import check_numbers
from ...files.tensors import read_tensors, reading
from .inception import Inception, Kind
from .perceptual import Perceptual

_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
#: Parts of the published files that no measure asks.
_UNUSED = re.compile(r"(^|\.)(num_batches_tracked)$|^(AuxLogits|fc|classifier)\.")


@dataclass(frozen=True)
class WeightFile:
    """A well-known file of weights.

    :param names: what its stem is, as a regular expression.
    :param published: its name where it is published.
    :param source: who publishes it, for the line that says what is missing.
    """

    names: str
    published: str
    source: str

    def find(self, folder: Path | None) -> Path | None:
        """Where a folder has it, the first by name; None where it does not."""
        if folder is None:
            return None
        found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES and path.is_file()]
        return next((path for path in found if re.fullmatch(self.names, path.stem, re.IGNORECASE)), None)

    @property
    def advice(self) -> str:
        """What to get, as part of a sentence."""
        return f"{self.published} ({self.source})"


FID = WeightFile(
    r"pt_inception-2015-12-05.*", "pt_inception-2015-12-05-6726825d.pth", "of the releases of mseitzer/pytorch-fid"
)
TORCHVISION = WeightFile(r"inception_v3_google.*", "inception_v3_google-1a9a5a14.pth", "torchvision's, older than 0.10")
ALEXNET = WeightFile(r"alexnet.*", "alexnet-owt-7be5be79.pth", "torchvision's")
HEADS = WeightFile(r"alex|lpips_alex.*", "alex.pth", "lpips/weights/v0.1 in the package lpips")


def load_inception(path: Path, kind: Kind = "fid", *, device: str | torch.device = "cpu") -> Inception:
    """Inception from ``pt_inception-2015-12-05-*.pth`` or torchvision's file, as plain tensors, read strictly.

    :raises FileNotFoundError: no such file.
    :raises ValueError: another file, or a damaged one.
    """
    with reading(path, f"get {(FID if kind == 'fid' else TORCHVISION).advice}"):
        weights = _tensors(path)
        # How many batches a norm has counted says nothing; older files do not, newer ones do.
        norms = [name.removesuffix("running_mean") for name in weights if name.endswith("running_mean")]
        weights |= {f"{name}num_batches_tracked": torch.zeros((), dtype=torch.long) for name in norms}
        return build(lambda: Inception(kind), weights, str(path)).to(device)


def load_perceptual(alexnet: Path, heads: Path, *, device: str | torch.device = "cpu") -> Perceptual:
    """LPIPS from torchvision's AlexNet and LPIPS's own weights of its channels, as plain tensors, read strictly.

    :raises FileNotFoundError: no such file.
    :raises ValueError: another file, or a damaged one.
    """
    with reading(alexnet, f"get {ALEXNET.advice}"):
        features = {name: tensor for name, tensor in _tensors(alexnet).items() if not name.startswith("lin")}
    with reading(heads, f"get {HEADS.advice}"):
        weights = features | {name: tensor for name, tensor in _tensors(heads).items() if name.startswith("lin")}
        return build(Perceptual, weights, f"{alexnet} and {heads}").to(device)


def _tensors(path: Path) -> dict[str, Tensor]:
    tensors = {name: tensor for name, tensor in read_tensors(path).items() if not _UNUSED.search(name)}
    check_numbers(tensors)
    return {name: tensor.float() for name, tensor in tensors.items()}


@dataclass(frozen=True)
class MeasureNetworks:
    """What a folder of weights gives measures to look through; None for what it lacks.

    :param missing: by a network's name here, which measures have to be left out, and which file to get.
    """

    inception: Inception | None = None
    torchvision: Inception | None = None
    perceptual: Perceptual | None = None
    missing: Mapping[str, str] = field(default_factory=dict)


def load_networks(
    folder: Path | None, *, device: str | torch.device = "cpu", called: str | None = None
) -> MeasureNetworks:
    """All networks whose files a folder has.

    :param folder: None for none of them.
    :param called: what the user calls the folder, where that is not its path.
    :raises FileNotFoundError: no such folder.
    :raises ValueError: no folder, or a file that is damaged or another one.
    """
    if folder is not None and not folder.is_dir():
        if folder.exists():
            raise ValueError(f"{folder} is a file, expected a folder with files of weights; name the folder it is in.")
        raise FileNotFoundError(f"{folder} does not exist; name a folder with files of weights.")
    fid, torchvision, alexnet, heads = (each.find(folder) for each in (FID, TORCHVISION, ALEXNET, HEADS))
    where = f"{called or folder} lacks a file" if called or folder else "no folder of weights is named"
    missing = {}
    if fid is None:
        missing["inception"] = f"FID and SI-FID are left out: {where}; get {FID.advice}."
    if torchvision is None:
        missing["torchvision"] = f"FID as DDColor publishes it is left out: {where}; get {TORCHVISION.advice}."
    if lacking := [file.advice for file, path in ((ALEXNET, alexnet), (HEADS, heads)) if path is None]:
        missing["perceptual"] = f"LPIPS is left out: {where}; get {' and '.join(lacking)}."
    return MeasureNetworks(
        None if fid is None else load_inception(fid, device=device),
        None if torchvision is None else load_inception(torchvision, "torchvision", device=device),
        None if alexnet is None or heads is None else load_perceptual(alexnet, heads, device=device),
        missing,
    )
