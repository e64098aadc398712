"""Pairs of pictures that share a style, or what they show, and never both: what DEADiff's branches are taught with.

A style is one hand's way to draw, printed with one ink on one paper, more or less of the drawing's own colors kept.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .autoencoder import YCBCR
from .drawings import world
from .recoloring import each
from .scenes import PLAIN_HAND, Scenes

#: Of all prints, those in the drawing's own colors on white.
_OWN_COLORS = 0.2


@dataclass(frozen=True)
class Print:
    """Paper and ink (3,) in 0..1, the paper lighter; ``strength`` 0 keeps the drawing's own colors, 1 none of them."""

    paper: np.ndarray
    ink: np.ndarray
    strength: float


PLAIN = Print(np.ones(3), np.zeros(3), 0.0)


@dataclass(frozen=True)
class StylePairs:
    """References (n, 3, S, S) for each kind with whether a row has one, targets (n, 3, S, S) in 0..1, their captions,
    and what the semantic references show ("" where there is none)."""

    style: Tensor
    has_style: Tensor
    semantics: Tensor
    has_semantics: Tensor
    targets: Tensor
    captions: list[str]
    shown: list[str]


class Styles:
    """Composes pairs from the drawings of ``scenes``."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes, self.random = scenes, scenes.random
        hands = scenes.drawings.hands
        self.by_hand = {name: {hands[row]: row for row in rows} for name, rows in scenes.rows.items()}
        self.names_of: dict[str, list[str]] = {}
        for name, rows in self.by_hand.items():
            for hand in rows:
                self.names_of.setdefault(hand, []).append(name)

    def pairs(self, style: int, semantics: int, both: int, size: int) -> StylePairs:
        """``style`` rows whose reference is another thing by the target's hand in its print; ``semantics`` rows whose
        reference is the same thing by another hand in a print, and whose target is in none; ``both`` rows with one of
        each."""
        count = style + semantics + both
        rows = np.zeros((3, count), dtype=int)  # style reference, semantic reference, target
        prints = [[self.print() for _ in range(count)] for _ in range(3)]
        captions, shown = [], []
        for i in range(count):
            name = self._thing()
            target_hand = self._hand(name)
            rows[2, i] = self.by_hand[name][target_hand]
            others = [hand for hand in self.by_hand[name] if hand != target_hand]
            rows[1, i] = self.by_hand[name][str(self.random.choice(others))]
            rows[0, i] = self._other_thing(name, target_hand)
            prints[0][i] = prints[2][i]
            if style <= i < style + semantics:
                prints[2][i] = PLAIN  # no print can be told from such a reference, so none is asked for
            if i < style:
                captions.append(name.replace("-", " "))
            elif i < style + semantics:
                captions.append(self.scenes.caption("", rows[2, i], "", recolored=False))
            else:
                captions.append("")
            shown.append("" if i < style else name.replace("-", " "))
        pictures = [self.printed(self.drawn(rows[k].tolist(), size), prints[k]) for k in range(3)]
        index = torch.arange(count)
        return StylePairs(
            pictures[0],
            (index < style) | (index >= style + semantics),
            pictures[1],
            index >= style,
            pictures[2],
            captions,
            shown,
        )

    def named(self, count: int, size: int) -> tuple[Tensor, list[str]]:
        """Things of the world by any hand, half of them printed: (count, 3, size, size) in 0..1, and their names."""
        known = [name for name in self.by_hand if name in world()]
        names = [str(self.random.choice(known)) for _ in range(count)]
        rows = [int(self.random.choice(list(self.by_hand[name].values()))) for name in names]
        prints = [self.print() if self.random.random() < 0.5 else PLAIN for _ in range(count)]
        return self.printed(self.drawn(rows, size), prints), [name.replace("-", " ") for name in names]

    def _thing(self) -> str:
        weight = self.scenes.single_weight if self.random.random() < 0.75 else self.scenes.pair_weight
        return self.scenes.names[self.random.choice(len(self.scenes.names), p=weight)]

    def _hand(self, name: str) -> str:
        hands = list(self.by_hand[name])
        if PLAIN_HAND in hands and self.random.random() < 0.3:
            return PLAIN_HAND
        return str(self.random.choice(hands))

    def _other_thing(self, name: str, hand: str) -> int:
        others = self.names_of[hand]
        for _ in range(20):
            other = others[self.random.integers(len(others))]
            if other != name:
                return self.by_hand[other][hand]
        raise ValueError(f"{hand} has drawn nothing but {name}; a pair needs two things by one hand.")

    def drawn(self, rows: list[int], size: int) -> Tensor:
        """Drawings alone on white, (n, 3, size, size) in 0..1."""
        scenes = self.scenes
        canvas = torch.ones(len(rows), 3, size, size, device=scenes.device)
        place = scenes.placements(len(rows), 1, jitter=0.02, scale=(0.9, 0.96), turn=0.0)
        place[..., 4] = 0
        return scenes.paste(canvas, rows, place[:, 0], size)[0]

    def print(self) -> Print:
        """A random one."""
        return PLAIN if self.random.random() < _OWN_COLORS else self.colored_print()

    def colored_print(self) -> Print:
        """A random one with little or nothing of the drawing's colors."""
        random = self.random
        paper = np.array(colorsys.hsv_to_rgb(random.random(), random.uniform(0.1, 0.7), random.uniform(0.7, 1)))
        ink = np.array(colorsys.hsv_to_rgb(random.random(), random.uniform(0.3, 1), random.uniform(0.05, 0.45)))
        return Print(paper, ink, float(random.choice([1.0, random.uniform(0.6, 1)])))

    def printed(self, pictures: Tensor, prints: list[Print]) -> Tensor:
        """Pictures (n, 3, S, S) in 0..1 in some prints: gray turns into ink and paper, what is left of the colors stays
        on that paper."""
        paper, ink = (
            torch.from_numpy(np.stack([getattr(p, part) for p in prints])).float().to(pictures)[..., None, None]
            for part in ("paper", "ink")
        )
        strength = each(np.array([p.strength for p in prints], dtype=np.float32), pictures)
        gray = torch.einsum("c,nchw->nhw", torch.tensor(YCBCR[0]).to(pictures), pictures)[:, None]
        on_paper = pictures * torch.where(strength > 0, paper, 1.0)
        return torch.lerp(on_paper, torch.lerp(ink, paper, gray), strength).clamp(0, 1)
