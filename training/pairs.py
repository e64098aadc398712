"""Evaluation pairs from held-out things: one thing by two hands, or two things that have swapped places.

Pairs are drawn by chance from those in which the other hand's colors are a fair truth: the two drawings' color
histograms overlap, and both are colored at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from comfyui_exemplar.color import desaturate, rgb_to_lab

from .drawings import FLUENT_3D, Drawings, shows_people
from .scenes import Scenes

SIZE = 128
_OVERLAP, _CHROMA, _APART = 0.45, 15.0, 0.12
_BINS = 14
_FLUENT = {FLUENT_3D, "fluent-emoji-flat"}


@dataclass(frozen=True)
class EvaluationPairs:
    """Pictures (n, SIZE, SIZE, 3) in 0..1: ``truth`` in color, ``reference``; ``things`` and ``reference_things``
    (n, SIZE, SIZE) with 0, 1 for the thing at each pixel and -1 for ground; ``count`` (n,) things a picture."""

    truth: Tensor
    reference: Tensor
    things: Tensor
    reference_things: Tensor
    count: Tensor
    names: list[str]

    @property
    def gray(self) -> Tensor:
        """What is to be colored: 8-bit ITU-R 601 luma of the truth."""
        return desaturate(self.truth, "rec601_8bit")

    @property
    def mask(self) -> Tensor:
        """(n, SIZE, SIZE) bool, inside the things."""
        return self.things >= 0

    def take(self, rows: slice | Tensor) -> EvaluationPairs:
        names = np.array(self.names)[rows if isinstance(rows, slice) else rows.numpy()].tolist()
        return EvaluationPairs(
            *(getattr(self, key)[rows] for key in ("truth", "reference", "things", "reference_things", "count")), names
        )


def build(drawings: Drawings, split: str, *, one: int, two: int, seed: int) -> EvaluationPairs:
    """``one`` pairs of one thing and ``two`` of two things in swapped places, from the split "dev" or "test".

    Raises ValueError if the split has too few fitting drawings.
    """
    random = np.random.default_rng(seed)
    fitting, looks = fitting_pairs(drawings, split, random)
    singles = _round_robin(fitting, one)
    twos = doubles(fitting, looks, two, random)
    made = []
    for name, (a, b) in singles:
        ground = _ground(random)
        made.append(
            (_compose(drawings, [(a, 0, 1)], ground, random), _compose(drawings, [(b, 0, 1)], ground, random), 1, name)
        )
    for (name, (a, b)), (other, (c, d)) in twos:
        ground = _ground(random)
        made.append(
            (
                _compose(drawings, [(a, 0, 2), (c, 1, 2)], ground, random),
                _compose(drawings, [(b, 1, 2), (d, 0, 2)], ground, random),
                2,
                f"{name}+{other}",
            )
        )
    return _paired(made)


def build_apart(drawings: Drawings, split: str, count: int, *, seed: int) -> tuple[EvaluationPairs, Tensor, Tensor]:
    """``count`` pairs of two things whose reference shows both, and the same two things as references of their own.

    Raises ValueError if the split has too few fitting drawings.

    :returns: pairs, and twice (count, 2, SIZE, SIZE, 3), a reference of each thing alone by the same hands: first as
        large as the picture, about twice as large as in the pair, then as large as there.
    """
    random, other_random = np.random.default_rng(seed), np.random.default_rng((seed, 1))
    fitting, looks = fitting_pairs(drawings, split, random)
    made, apart, small = [], [], []
    for (name, (a, b)), (other, (c, d)) in doubles(fitting, looks, count, random):
        ground = _ground(random)
        picture, both = (
            _compose(drawings, items, ground, random) for items in ([(a, 0, 2), (c, 1, 2)], [(b, 1, 2), (d, 0, 2)])
        )
        made.append((picture, both, 2, f"{name}+{other}"))
        apart.append(torch.stack([_compose(drawings, [(row, 0, 1)], ground, random)[0] for row in (b, d)]))
        alike = [_compose(drawings, [(row, slot, 2)], ground, other_random)[0] for slot, row in ((1, b), (0, d))]
        small.append(torch.stack(alike))
    return _paired(made), torch.stack(apart), torch.stack(small)


def fitting_pairs(drawings: Drawings, split: str, random: np.random.Generator) -> tuple[dict, dict]:
    """Of every thing of a split the pairs of drawings of like colors, and how every drawing looks."""
    rows = {name: rows for name, rows in drawings.rows_by_name(split).items() if not shows_people(name)}
    looks = {row: _look(drawings.pictures[row]) for found in rows.values() for row in found}
    fitting = {name: pairs for name, found in rows.items() if (pairs := _fitting(found, looks, drawings.hands, random))}
    return fitting, looks


def _paired(made: list[tuple]) -> EvaluationPairs:
    """Of ((picture, things), (reference, its things), how many things, name)."""
    pictures, references = [m[0] for m in made], [m[1] for m in made]
    return EvaluationPairs(
        *(torch.stack([side[0] for side in sides]) for sides in (pictures, references)),
        *(torch.stack([side[1] for side in sides]) for sides in (pictures, references)),
        torch.tensor([m[2] for m in made]),
        [m[3] for m in made],
    )


def photographed(scenes: Scenes, count: int) -> EvaluationPairs:
    """Two crops each of held-out photographs; the whole picture counts as the thing."""
    made = scenes.photographed_pairs(count, SIZE, recolored=0.0)
    pictures = [side.pictures.permute(0, 2, 3, 1).mul(255).round().div(255) for side in (made.a, made.b)]
    return EvaluationPairs(
        *pictures, made.a.things, made.b.things, torch.ones(count, dtype=torch.long), ["photograph"] * count
    )


def _look(picture: np.ndarray) -> tuple[np.ndarray, float]:
    """(blurred histogram of (a, b), mean chroma) of a drawing's opaque pixels."""
    rgb = torch.from_numpy(picture[None, ..., :3].copy()).float() / 255
    ab = rgb_to_lab(rgb)[0, ..., 1:][torch.from_numpy(picture[..., 3] > 128)].numpy()
    histogram, _, _ = np.histogram2d(ab[:, 0], ab[:, 1], bins=_BINS, range=[[-80, 80], [-80, 80]])
    blurred = sum(np.roll(histogram, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1))
    return blurred / max(blurred.sum(), 1), float(np.linalg.norm(ab, axis=1).mean()) if len(ab) else 0.0


def _overlap(a: tuple[np.ndarray, float], b: tuple[np.ndarray, float]) -> float:
    return float(np.minimum(a[0], b[0]).sum())


def _fitting(rows: list[int], looks: dict, hands: list[str], random: np.random.Generator) -> list[tuple[int, int]]:
    """Ordered pairs of drawings of one thing with like colors, in random order."""
    found = [
        (a, b)
        for a in rows
        for b in rows
        if a != b and min(looks[a][1], looks[b][1]) > _CHROMA and _overlap(looks[a], looks[b]) > _OVERLAP
    ]
    found = [found[i] for i in random.permutation(len(found))]
    # the two Fluent styles share their outlines, which makes them too easy: they come last
    return sorted(found, key=lambda pair: {hands[pair[0]], hands[pair[1]]} == _FLUENT)


def _round_robin(fitting: dict[str, list[tuple[int, int]]], count: int) -> list[tuple[str, tuple[int, int]]]:
    """First one pair of every thing, then a second one, and so on."""
    most = max(map(len, fitting.values()), default=0)
    order = [(name, pairs[k]) for k in range(most) for name, pairs in fitting.items() if k < len(pairs)]
    if len(order) < count:
        raise ValueError(f"{count} pairs of one thing are wanted, and the held-out drawings give {len(order)}.")
    return order[:count]


def doubles(fitting: dict, looks: dict, count: int, random: np.random.Generator) -> list:
    """Pairs of differently colored things, no two things twice together and none much more often than the others."""
    names, seen, used, found = list(fitting), set(), dict.fromkeys(fitting, 0), []
    most = -(-2 * count // len(names)) + 1
    for _ in range(200 * count):
        if len(found) == count:
            return found
        one, other = (names[i] for i in random.choice(len(names), 2, replace=False))
        if frozenset((one, other)) in seen or max(used[one], used[other]) >= most:
            continue
        pair, second = (fitting[name][random.integers(len(fitting[name]))] for name in (one, other))
        if all(_overlap(looks[pair[side]], looks[second[side]]) < _APART for side in (0, 1)):
            found.append(((one, pair), (other, second)))
            seen.add(frozenset((one, other)))
            used[one] += 1
            used[other] += 1
    raise ValueError(f"{count} pairs of two things are wanted, and the held-out drawings give {len(found)}.")


def _ground(random: np.random.Generator) -> int:
    return 255 if random.random() < 0.6 else int(random.integers(228, 253))


def _compose(drawings: Drawings, items: list[tuple[int, int, int]], ground: int, random) -> tuple[Tensor, Tensor]:
    """items: (row, slot, number of slots); slots stand side by side. Returns (picture, things)."""
    canvas = Image.new("RGB", (SIZE, SIZE), (ground,) * 3)
    things = np.full((SIZE, SIZE), -1)
    for number, (row, slot, slots) in enumerate(items):
        room = SIZE // slots
        side = (
            int(random.integers(int(room * 0.73), int(room * 0.97) + 1))
            if slots == 1
            else int(random.integers(int(room * 0.8), room + 1))
        )
        x = slot * room + int(random.integers(0, room - side + 1))
        y = int(random.integers(0, SIZE - side + 1))
        drawing = Image.fromarray(drawings.pictures[row]).resize((side, side), Image.Resampling.LANCZOS)
        canvas.paste(drawing, (x, y), drawing)
        inside = np.asarray(drawing.getchannel("A")) > 128
        things[y : y + side, x : x + side][inside] = number
    return torch.from_numpy(np.asarray(canvas).copy()).float() / 255, torch.from_numpy(things)
