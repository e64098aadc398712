"""Training pictures, composed as they are needed: pairs of scenes with the same things in other places, and singles.

Everything is drawn by sampling textures through affine maps, so that for every pixel it is known which thing it shows
and where on that thing it lies. That is what attention is taught with (objectives.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .drawings import FLUENT_3D, Drawings, core, shows_people, world
from .recoloring import COLOR_WORDS, color_word, dyed, each, mean_colors, recolor

MOST_THINGS = 3
BACKGROUND = -1
CORE_SHARE, WORLD_SHARE = 0.83, 0.12  # of the drawings shown alone: the best known things, the rest of the world
# A name alone means this hand's drawing; every other hand is named. Most singles are its.
PLAIN_HAND, PLAIN_SHARE = "fluent-emoji-flat", 0.85
_STYLE_WORDS = {FLUENT_3D: "shaded", "fluent-emoji-flat": "flat"}
# Centers of one, two or three things and the range of their sizes, in picture widths.
_LAYOUTS = (
    (((0.5, 0.5),), (0.6, 0.98)),
    (((0.26, 0.5), (0.74, 0.5)), (0.42, 0.6)),
    (((0.27, 0.28), (0.73, 0.3), (0.5, 0.74)), (0.36, 0.5)),
)


@dataclass(frozen=True)
class View:
    """One side of a batch of pairs: ``pictures`` (n, 3, S, S) in 0..1, ``things`` (n, S, S) with the number of the
    thing at each pixel or BACKGROUND, ``places`` (n, 2, S, S) in -1..1, where on that thing (or photograph) it lies."""

    pictures: Tensor
    things: Tensor
    places: Tensor


@dataclass(frozen=True)
class Pairs:
    """``exact`` (n, MOST_THINGS): both sides show the same drawing of that thing, so that places correspond."""

    a: View
    b: View
    exact: Tensor
    captions: list[str]


class Scenes:
    """Composes batches from drawings and photographs.

    :param splits: "train", or "dev" / "test" for looking at what is held out.
    :param photographs: (m, 3, s, s) uint8, or None.
    """

    def __init__(
        self,
        drawings: Drawings,
        photographs: Tensor | None = None,
        *,
        splits: tuple[str, ...] = ("train",),
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        self.device = torch.device(device)
        self.random = np.random.default_rng(seed)
        self.drawings = drawings
        self.photographs = photographs
        self.textures = torch.from_numpy(drawings.pictures).permute(0, 3, 1, 2)
        self.rows = {name: rows for name, rows in drawings.rows_by_name(*splits).items() if len(rows) >= 2}
        self.names = list(self.rows)
        weight = np.array([0.25 if shows_people(name) else 1.0 for name in self.names])
        self.pair_weight = weight / weight.sum()
        best, known = set(core()), set(world())
        kind = [2 if name in best else int(name in known) for name in self.names]
        share = np.array([1 - CORE_SHARE - WORLD_SHARE, WORLD_SHARE, CORE_SHARE])
        self.single_weight = (share / np.bincount(kind, minlength=3).clip(1))[kind]
        self.single_weight /= self.single_weight.sum()
        self.colors = mean_colors(drawings.pictures)

    def pairs(self, count: int, size: int) -> Pairs:
        """``count`` pairs of ``size`` pixels a side; about a tenth are two views of a photograph, if there are any."""
        photographs = 0
        if self.photographs is not None:
            photographs = int(self.random.binomial(count, 0.12))
        parts = []
        if count - photographs:
            parts.append(self._drawn_pairs(count - photographs, size))
        if photographs:
            parts.append(self.photographed_pairs(photographs, size))
        if len(parts) == 1:
            return parts[0]
        views = [
            View(
                *(
                    torch.cat([getattr(getattr(part, side), key) for part in parts])
                    for key in ("pictures", "things", "places")
                )
            )
            for side in ("a", "b")
        ]
        return Pairs(*views, torch.cat([p.exact for p in parts]), [c for p in parts for c in p.captions])

    def singles(self, count: int, size: int) -> tuple[Tensor, list[str]]:
        """One thing each on white, with its words: (count, 3, size, size) in 0..1 and captions."""
        picked = [self.names[i] for i in self.random.choice(len(self.names), count, p=self.single_weight)]
        rows = [self._drawing(name) for name in picked]
        canvas = torch.ones(count, 3, size, size, device=self.device)
        place = self.placements(count, 1, jitter=0.02, scale=(0.9, 0.96), turn=0.0)
        place[..., 4] = 0  # a name alone has one picture, and not its mirror image besides
        picture, _, _ = self.paste(canvas, rows, place[:, 0], size)
        changed = self.random.random(count) < 0.15
        picture = torch.where(each(changed, picture), recolor(picture, self.random), picture)
        captions = []
        for i, (name, row) in enumerate(zip(picked, rows, strict=True)):
            color = color_word(picture[i], self._alpha(row)) if changed[i] or self.random.random() < 0.25 else ""
            captions.append(self.caption(name, row, color, recolored=bool(changed[i])))
        return picture, captions

    def _drawing(self, name: str) -> int:
        rows = self.rows[name]
        plain = [row for row in rows if self.drawings.hands[row] == PLAIN_HAND]
        if plain and self.random.random() < PLAIN_SHARE:
            return int(plain[0])
        return int(self.random.choice(rows))

    def caption(self, name: str, row: int, color: str, *, recolored: bool) -> str:
        hand = self.drawings.hands[row]
        style = "" if hand == PLAIN_HAND and self.random.random() < 0.8 else _STYLE_WORDS.get(hand, hand.split("-")[0])
        words = name.replace("-", " ")
        if recolored:  # a recolored "red apple" is not red any more
            words = " ".join(word for word in words.split() if word not in COLOR_WORDS)
        if color and color not in words.split():
            words = f"{color} {words}"
        return f"{words} {style}".strip()

    def _alpha(self, row: int) -> Tensor:
        return self.textures[row, 3].float() / 255

    def _drawn_pairs(self, count: int, size: int) -> Pairs:
        random = self.random
        things = np.where(random.random(count) < 0.3, 1, np.where(random.random(count) < 0.65, 2, 3))
        rows = np.zeros((2, count, MOST_THINGS), dtype=int)
        exact = np.zeros((count, MOST_THINGS), dtype=bool)
        captions = []
        for i in range(count):
            picked = random.choice(len(self.names), int(things[i]), replace=False, p=self.pair_weight)
            same = random.random() < 0.3
            for j, index in enumerate(picked):
                choices = self.rows[self.names[index]]
                pair = None if same else self._two_hands(choices)
                exact[i, j] = pair is None
                rows[:, i, j] = (random.choice(choices),) * 2 if pair is None else pair
            captions.append(" ".join(self.names[index].replace("-", " ") for index in picked))
        grounds = self._grounds(count)
        views = [self._compose(self._shade(grounds[side], size), rows[side], things) for side in range(2)]
        recolored = random.random(count) < 0.5
        both = recolor(torch.stack([views[0][0], views[1][0]], 1).flatten(0, 1), random, repeat=2)
        both = both.unflatten(0, (count, 2))
        for side, view in enumerate(views):
            view[0] = torch.where(each(recolored, both), both[:, side], view[0])
            toned = random.random(count) < 0.5
            view[0] = torch.where(each(toned, both), self._tone(view[0]), view[0])
        captions = ["" if again else caption for caption, again in zip(captions, recolored, strict=True)]
        return Pairs(View(*views[0]), View(*views[1]), torch.from_numpy(exact).to(self.device), captions)

    def _compose(self, canvas: Tensor, rows: np.ndarray, things: np.ndarray) -> list[Tensor]:
        """Drawings pasted onto grounds: [pictures, things, places] as in :class:`View`.

        :param canvas: (n, 3, S, S), painted over.
        :param rows: (n, MOST_THINGS), of which the first ``things`` (n,) count.
        """
        count, size = len(canvas), canvas.shape[-1]
        ids = torch.full((count, size, size), BACKGROUND, device=self.device)
        places = torch.zeros(count, 2, size, size, device=self.device)
        placement = np.zeros((count, MOST_THINGS, 5))
        for i in range(count):
            order = self.random.permutation(things[i])
            placement[i, : things[i]] = self.placements(1, int(things[i]), jitter=0.04, turn=20.0)[0, order]
        for j in range(MOST_THINGS):
            present = np.flatnonzero(things > j)
            if not len(present):
                continue
            here = torch.from_numpy(present).to(self.device)
            drawn, alpha, place = self.paste(
                canvas[here], [int(r) for r in rows[present, j]], placement[present, j], size
            )
            canvas[here] = drawn
            on_top = alpha > 0.5
            ids[here] = torch.where(on_top, torch.full_like(ids[here], j), ids[here])
            places[here] = torch.where(on_top[:, None], place, places[here])
        return [canvas, ids, places]

    def colored(self, count: int, size: int) -> Tensor:
        """Pictures in their own colors, (count, 3, size, size) in 0..1: one to three drawings on a ground without
        color, and about a tenth photographs, if there are any. For learning which color a thing has."""
        random = self.random
        photographs = 0 if self.photographs is None else int(random.binomial(count, 0.12))
        drawn = count - photographs
        things = random.choice((1, 2, 3), drawn, p=(0.6, 0.2, 0.2))
        names = random.choice(len(self.names), (drawn, MOST_THINGS), p=self.pair_weight)
        rows = np.array([random.choice(self.rows[self.names[i]]) for i in names.flat], dtype=int).reshape(names.shape)
        ground = np.where(random.random((drawn, 1)) < 0.6, 1.0, random.uniform(0.2, 1, (drawn, 1))).repeat(3, 1)
        pictures = self._compose(self._shade(ground, size), rows, things)[0]
        if photographs:
            pictures = torch.cat([pictures, self.photographed_pairs(photographs, size, recolored=0).a.pictures])
        toned = random.random(count) < 0.3
        return torch.where(each(toned, pictures), self._tone(pictures), pictures)

    def vivid(self, count: int, size: int) -> Tensor:
        """:meth:`colored`, half of them recolored, for learning what does not depend on which color a thing has."""
        pictures = self.colored(count, size)
        return torch.where(each(self.random.random(count) < 0.5, pictures), recolor(pictures, self.random), pictures)

    def told(self, count: int, size: int, *, binding: bool = False) -> tuple[Tensor, list[str]]:
        """Pictures of one or two things of the core, each recolored by itself, and captions that say its color:
        (count, 3, size, size) in 0..1, "green apple" or "green apple, red house". For learning color from words.

        A word that names the color a thing had goes out of its name; a fifth of the things stand without any color.

        :param binding: always two things, both recolored and both with their color.
        """
        random = self.random
        things = np.full(count, 2) if binding else random.choice((1, 2), count, p=(0.4, 0.6))
        picture, ids, names = self.core_scenes(things, size)
        phrases: list[list[str]] = [[] for _ in range(count)]
        for j in range(2):
            changed = random.random(count) < (1.0 if binding else 0.75)
            new = torch.where(each(changed, picture), dyed(picture, random), picture)
            here = (ids == j)[:, None]
            picture = torch.where(here, new, picture)
            for i in np.flatnonzero(things > j):
                words = [names[i][j]]
                if (binding or random.random() < 0.8) and bool(here[i].any()):
                    words.insert(0, color_word(picture[i], here[i, 0].float()))
                phrases[i].append(" ".join(filter(None, words)))
        return picture, [", ".join(phrase) for phrase in phrases]

    def core_scenes(self, things: np.ndarray, size: int) -> tuple[Tensor, Tensor, list[list[str]]]:
        """Different things of the core on grounds without color: pictures (n, 3, size, size) in 0..1, the number of the
        thing at each pixel or BACKGROUND (n, size, size), and their names without words of color.

        :param things: (n,), how many in each.
        """
        random, count = self.random, len(things)
        best = [i for i, name in enumerate(self.names) if name in set(core())]
        names = np.array([random.choice(best, MOST_THINGS, replace=False) for _ in range(count)])
        rows = np.array([self._drawing(self.names[i]) for i in names.flat]).reshape(names.shape)
        ground = np.where(random.random((count, 1)) < 0.6, 1.0, random.uniform(0.3, 1, (count, 1))).repeat(3, 1)
        picture, ids, _ = self._compose(self._shade(ground, size), rows, things)
        plain = [[" ".join(w for w in self.names[i].split("-") if w not in COLOR_WORDS) for i in row] for row in names]
        return picture, ids, plain

    def photographed_pairs(self, count: int, size: int, *, recolored: float = 0.3) -> Pairs:
        """Two crops each of random photographs, mirrored and lit differently; a share of them in colors of its own."""
        assert self.photographs is not None
        picked = torch.from_numpy(self.random.choice(len(self.photographs), count))
        textures = self.photographs[picked].to(self.device).float() / 255
        changed = each(self.random.random(count) < recolored, textures)
        textures = torch.where(changed, recolor(textures, self.random), textures)
        views = []
        for _ in range(2):
            width = self.random.uniform(0.5, 0.95, count)
            place = np.zeros((count, 5))
            slack = (1 - width) / 2
            # the crop's center on the photograph, turned into where the photograph's center falls in the crop
            place[:, :2] = 0.5 - self.random.uniform(-1, 1, (count, 2)) * (slack / width)[:, None]
            place[:, 2] = 1 / width
            place[:, 4] = self.random.random(count) < 0.3
            grid = self._grid(place, size)
            picture = F.grid_sample(textures, grid, align_corners=False, padding_mode="border")
            light = torch.from_numpy(self.random.uniform(-0.25, 0.25, (count, 2))).float().to(self.device)
            ramp = torch.linspace(-1, 1, size, device=self.device)
            light = 1 + light[:, 0, None, None] * ramp[None, None, :] + light[:, 1, None, None] * ramp[None, :, None]
            picture = self._tone((picture * light[:, None]).clamp(0, 1))
            ids = torch.zeros(count, size, size, dtype=torch.long, device=self.device)
            views.append(View(picture, ids, grid.permute(0, 3, 1, 2).contiguous()))
        exact = torch.ones(count, MOST_THINGS, dtype=torch.bool, device=self.device)
        return Pairs(views[0], views[1], exact, [""] * count)

    def _two_hands(self, rows: list[int]) -> tuple[int, int] | None:
        """Two drawings with like colors, so that one's colors are true for the other; None if there are none."""
        pairs = [(a, b) for a in rows for b in rows if a != b and np.abs(self.colors[a] - self.colors[b]).max() < 25]
        return pairs[self.random.integers(len(pairs))] if pairs else None

    def placements(
        self, count: int, things: int, *, jitter: float, turn: float, scale: tuple[float, float] | None = None
    ) -> np.ndarray:
        """(count, things, 5): center x and y, size, angle in radians, mirrored; lengths in picture widths."""
        random = self.random
        centers, sizes = _LAYOUTS[things - 1]
        found = np.zeros((count, things, 5))
        found[..., 2] = random.uniform(*(scale or sizes), (count, things))
        free = (1 - found[..., 2]).clip(0) / 2 if things == 1 and scale is None else jitter
        found[..., :2] = np.array(centers) + random.uniform(-1, 1, (count, things, 2)) * np.asarray(free)[..., None]
        if things == 2:
            low = found[..., 2] / 2
            found[..., 1] = low + random.random((count, things)) * (1 - 2 * low)
        turned = random.random((count, things)) < 0.3
        found[..., 3] = np.radians(random.uniform(-turn, turn, (count, things))) * turned
        found[..., 4] = random.random((count, things)) < 0.3
        return found

    def _grid(self, place: np.ndarray, size: int) -> Tensor:
        """Texture coordinates (n, size, size, 2) in -1..1 of every pixel, for placements (n, 5)."""
        p = torch.from_numpy(place).float().to(self.device)
        axis = (torch.arange(size, device=self.device) + 0.5) / size
        x = axis[None, None, :] - p[:, 0, None, None]
        y = axis[None, :, None] - p[:, 1, None, None]
        cos, sin = p[:, 3].cos()[:, None, None], p[:, 3].sin()[:, None, None]
        half = (p[:, 2] / 2)[:, None, None]
        u = (cos * x + sin * y) / half * (1 - 2 * p[:, 4])[:, None, None]
        v = (cos * y - sin * x) / half
        return torch.stack([u, v.expand_as(u)], -1)

    def paste(self, canvas: Tensor, rows: list[int], place: np.ndarray, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """(canvas with the drawings on it, their alpha (n, S, S), their own coordinates (n, 2, S, S))."""
        grid = self._grid(place, size)
        textures = self.textures[rows].to(self.device).float() / 255
        textures = torch.cat([textures[:, :3] * textures[:, 3:], textures[:, 3:]], 1)  # no fringes of hidden colors
        side = textures.shape[-1]
        sampled = torch.empty(len(rows), 4, size, size, device=self.device)
        pixels = place[:, 2] * size
        shrink = np.where(pixels < side / 3, 4, np.where(pixels < side / 1.5, 2, 1))
        for factor in (1, 2, 4):  # a texture not much finer than the screen, or sampling it would alias
            chosen = torch.from_numpy(np.flatnonzero(shrink == factor)).to(self.device)
            if len(chosen):
                small = F.avg_pool2d(textures[chosen], factor) if factor > 1 else textures[chosen]
                sampled[chosen] = F.grid_sample(small, grid[chosen], align_corners=False)
        alpha = sampled[:, 3:]
        return canvas * (1 - alpha) + sampled[:, :3], alpha[:, 0], grid.permute(0, 3, 1, 2)

    def _grounds(self, count: int) -> np.ndarray:
        """(2, count, 3): nearly white, grays of their own, or one color lit differently."""
        random = self.random
        kind = random.random(count)[:, None]
        white = random.uniform(0.9, 1, (count, 1)).repeat(3, 1)
        color = random.random((count, 3))
        sides = []
        for _ in range(2):
            gray = random.uniform(0.2, 0.9, (count, 1)).repeat(3, 1)
            lit = (color * random.uniform(0.8, 1.2, (count, 1))).clip(0, 1)
            sides.append(np.where(kind < 0.5, white, np.where(kind < 0.62, gray, lit)))
        return np.stack(sides)

    def _shade(self, colors: np.ndarray, size: int) -> Tensor:
        """Grounds (n, 3) -> pictures, some with a gradient."""
        count = len(colors)
        ramp = torch.linspace(0, 1, size, device=self.device)
        end = self.random.uniform(0.6, 1.1, count) - 1
        end = torch.from_numpy(end * (self.random.random(count) < 0.4)).float().to(self.device)
        across = torch.from_numpy(self.random.random(count) < 0.5).to(self.device)
        slope = 1 + end[:, None] * ramp
        shade = torch.where(across[:, None, None], slope[:, None, :], slope[:, :, None])
        ground = torch.from_numpy(colors).float().to(self.device)[:, :, None, None]
        return (ground * shade[:, None]).clamp(0, 1).expand(-1, -1, size, size).clone()

    def _tone(self, pictures: Tensor) -> Tensor:
        gamma = np.exp(self.random.uniform(-0.35, 0.35, len(pictures)))
        return pictures.clamp(1e-4, 1) ** torch.from_numpy(gamma).float().to(pictures)[:, None, None, None]
