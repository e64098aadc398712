"""What strokes do on their own picture: whether they fill what they stand for, and leave the rest alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from comfyui_exemplar.color import rgb_to_lab
from comfyui_exemplar.memory.entries import merged
from comfyui_exemplar.memory.features import FeatureSource
from comfyui_exemplar.pipelines.memory import color_by_memory, write_references, write_strokes
from comfyui_exemplar.pipelines.memory_settings import MemorySettings, WritingSettings

from .marks import Marked, Stroke, aimed, mark, shrunk
from .pairs import EvaluationPairs

#: Distance (CIE Lab) up to which a place has the color that was painted.
TAKEN = 5.0
#: Distance that places outside may move, and share of a part that is to be taken: what is aimed at.
MOVED_GOAL, TAKEN_GOAL = 2.0, 0.95


@dataclass(frozen=True)
class StrokeNumbers:
    """Of some strokes: shares of the marks, of their parts, of these without their edges, and of the whole things that
    have the painted color, one each; and of some pictures: how far (CIE Lab) each pixel outside moved."""

    marks: Tensor
    parts: Tensor
    inner: Tensor
    things: Tensor
    outside: tuple[Tensor, ...]

    def summary(self) -> dict[str, float]:
        """Means, shares of strokes that reach what is aimed at, and what moved outside."""
        moved = torch.cat(self.outside)
        means = torch.stack([each.mean() for each in self.outside])
        return {
            "strokes": len(self.marks),
            "pictures": len(self.outside),
            "taken, marks": float(self.marks.mean()),
            "taken, parts": float(self.parts.mean()),
            "taken, parts without edges": float(self.inner.mean()),
            "taken, whole things": float(self.things.mean()),
            "strokes that fill their part": float((self.parts >= TAKEN_GOAL).float().mean()),
            "strokes that fill it without edges": float((self.inner >= TAKEN_GOAL).float().mean()),
            "moved outside, mean": float(moved.mean()),
            "moved outside, 95th percentile": float(_quantile(moved, 0.95)),
            "moved outside, worst picture": float(means.max()),
            "pictures that move less than the goal outside": float((means < MOVED_GOAL).float().mean()),
        }


def measure_strokes(
    network: FeatureSource,
    pairs: EvaluationPairs,
    asking: MemorySettings,
    writing: WritingSettings,
    *,
    seed: int,
    shown: list[dict[str, Tensor]] | None = None,
) -> dict[str, StrokeNumbers]:
    """Mark every picture, with the colors of its parts and with others in turns, and color it by its reference with
    and without the strokes.

    :param shown: gets the pictures of every row.
    :returns: "own color", "another color" and "all".
    """
    random = np.random.default_rng(seed)
    kinds: dict[bool, list] = {True: [], False: []}
    for i in range(len(pairs.names)):
        own = i % 2 == 0
        part = pairs.take(slice(i, i + 1))
        marked = mark(part.truth[0], part.gray[0], part.things[0], random, own=own)
        if marked is None:
            continue
        memory = write_references(network, part.reference, writing)
        strokes = write_strokes(network, part.gray, marked.painted, writing, mask=marked.place)
        before = color_by_memory(network, part.gray, memory, asking)
        after = color_by_memory(network, part.gray, merged([memory, strokes]), asking, features=before.features)
        kinds[own].append(compare(marked, part.gray[0], before.images[0], after.images[0]))
        if shown is not None:
            parts = torch.stack([stroke.part for stroke in marked.strokes]).any(0)
            shown.append(
                {
                    "strokes": marked.painted[0],
                    "their parts": torch.where(parts[..., None], part.gray[0], 1 - 0.25 * (1 - part.gray[0])),
                    "reference": part.reference[0],
                    "without": before.images[0],
                    "with": after.images[0],
                    "truth": part.truth[0],
                }
            )
    rows = {"own color": kinds[True], "another color": kinds[False], "all": kinds[True] + kinds[False]}
    return {name: _joined(found) for name, found in rows.items() if found}


def compare(marked: Marked, gray: Tensor, before: Tensor, after: Tensor) -> tuple[list[tuple], Tensor]:
    """([shares of a stroke's mark, part, part without its edges, and thing that took its color], how far pixels outside
    moved). An edge is one pixel wide: pixels there are mixtures.

    :param gray: (H, W, 3), as are the picture colored without (``before``) and with the strokes.
    """
    lab = rgb_to_lab(torch.stack([before, after]))
    shares = [_taken(stroke, gray, lab[1]) for stroke in marked.strokes]
    return shares, (lab[1] - lab[0]).norm(dim=-1)[marked.outside]


def _taken(stroke: Stroke, gray: Tensor, lab: Tensor) -> tuple[float, ...]:
    near = (lab - rgb_to_lab(aimed(gray, stroke.chroma)[None])[0]).norm(dim=-1) < TAKEN
    places = (stroke.place, stroke.part, shrunk(stroke.part, 1), stroke.thing)
    return tuple(float(near[place].float().mean()) for place in places)


def _joined(found: list[tuple[list[tuple], Tensor]]) -> StrokeNumbers:
    shares = torch.tensor([each for strokes, _ in found for each in strokes])
    return StrokeNumbers(*shares.T, tuple(moved for _, moved in found if len(moved)))


def _quantile(values: Tensor, share: float) -> Tensor:
    # torch.quantile refuses large tensors
    return values.sort().values[int(share * (len(values) - 1))]
