"""What color memories do on held-out pairs: two references in one memory, and how much their confidence says."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from comfyui_exemplar.color import ab_error, rgb_to_lab
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.memory.entries import merged
from comfyui_exemplar.memory.features import FeatureSource
from comfyui_exemplar.pipelines.confidence import full_size, match_confidence
from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.memory import color_by_memory, write_references
from comfyui_exemplar.pipelines.memory_settings import MemorySettings, WritingSettings

from .measure import rank_correlation
from .pairs import EvaluationPairs

#: Distance in (a, b) within which a color counts as right, and pixels from one place to the next.
RIGHT, EVERY = 15.0, 4
BINS = 10


@dataclass(frozen=True)
class Places:
    """Places of pictures, EVERY pixels apart: how ``sure`` a method is (0..1), its ``error`` (distance in (a, b)), and
    whether they lie ``inside`` things; (n,) each."""

    sure: Tensor
    error: Tensor
    inside: Tensor

    @classmethod
    def of(cls, pictures: Tensor, sure: Tensor, pairs: EvaluationPairs) -> Places:
        """Of colored pictures (n, H, W, 3) and how sure each place is, (n, H, W)."""
        error = (rgb_to_lab(pictures) - rgb_to_lab(pairs.truth))[..., 1:].norm(dim=-1)
        return cls(*(each[:, ::EVERY, ::EVERY].flatten() for each in (sure, error, pairs.mask)))

    def take(self, rows: Tensor) -> Places:
        return Places(self.sure[rows], self.error[rows], self.inside[rows])

    @property
    def correlation(self) -> float:
        """Rank correlation of doubt and error."""
        return rank_correlation(-self.sure, self.error)

    def calibration(self) -> dict[str, list[float]]:
        """By tenths of stated confidence: its mean, the share of places that are right, and the share of all."""
        bins = (self.sure * BINS).long().clamp(0, BINS - 1)
        rows = [bins == number for number in range(BINS)]
        rows = [row for row in rows if int(row.sum()) >= 20]
        return {
            "stated": [float(self.sure[row].mean()) for row in rows],
            "right": [float((self.error[row] < RIGHT).float().mean()) for row in rows],
            "share": [float(row.float().mean()) for row in rows],
        }

    def summary(self) -> dict:
        """Rank correlation, calibration, and how far stated and true shares are apart on average."""
        found = self.calibration()
        apart = [abs(a - b) * c for a, b, c in zip(found["stated"], found["right"], found["share"], strict=True)]
        return {"rank correlation": self.correlation, "off": sum(apart) / sum(found["share"]), "calibration": found}


def color_apart(
    network: FeatureSource, pairs: EvaluationPairs, apart: Tensor, asking: MemorySettings, writing: WritingSettings
) -> dict[str, Tensor]:
    """Pairs colored by a memory of each thing's own reference, and by both together.

    :param apart: (n, 2, H, W, 3), references of one thing each.
    :returns: "first", "second", "both", and "one picture of both" for a memory of the pair's own reference.
    """
    shown: dict[str, list[Tensor]] = {}
    for i in tqdm(range(len(pairs.names)), desc="two references", leave=False):
        part = pairs.take(slice(i, i + 1))
        first, second = (write_references(network, each[None], writing) for each in apart[i])
        memories = {"first": first, "second": second, "both": merged([first, second])}
        memories["one picture of both"] = write_references(network, part.reference, writing)
        features = network.features(part.gray)
        for name, memory in memories.items():
            result = color_by_memory(network, part.gray, memory, asking, features=features)
            shown.setdefault(name, []).append(result.images)
    return {name: torch.cat(pictures) for name, pictures in shown.items()}


def against_better(shown: dict[str, Tensor], pairs: EvaluationPairs) -> dict[str, float]:
    """Mean errors inside the things of "first", "second" and "both" pictures, and of both beside the better single one.

    The better one is chosen pair by pair, by the truth, which nobody has: an oracle to compare with.
    """
    errors = {name: ab_error(pictures, pairs.truth, pairs.mask) for name, pictures in shown.items()}
    better = torch.minimum(errors["first"], errors["second"])
    return {
        "pairs": len(better),
        "better single reference": float(better.mean()),
        **{name: float(error.mean()) for name, error in errors.items()},
        **{f"{name}, of the better": float(errors[name].mean() / better.mean()) for name in _TOGETHER},
        "both better than the better single one": float((errors["both"] < better).float().mean()),
    }


_TOGETHER = ("both", "one picture of both")


def colored_with_confidence(
    host: DiffusersHost, pairs: EvaluationPairs, settings: ColorizeSettings
) -> tuple[Tensor, Tensor]:
    """Exemplar colorization of every pair (n, H, W, 3), and how sure its attention is (n, H, W)."""
    pictures, sure = [], []
    for i in tqdm(range(0, len(pairs.names), 4), desc="the thorough method", leave=False):
        part = pairs.take(slice(i, i + 4))
        result = colorize(host, part.gray, part.reference, settings)
        target = result.reference.gray if result.reference.gray.bank.pictures else result.reference.color
        pictures.append(result.images)
        sure.append(full_size(match_confidence(result.source, target), tuple(pairs.truth.shape[1:3])))
    return torch.cat(pictures), torch.cat(sure)
