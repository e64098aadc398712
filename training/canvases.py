"""Color pictures larger than what is shown of them, of held-out photographs and drawings, and what stands on them.

A view of a place is cut from its cube map at any angle, so one place gives many photographs; single photographs are
enlarged. A scene is drawn anew from vectors, sharp at any size, on plain, graded, mottled or photographed ground.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from comfyui_exemplar.color import fitted_rgb, lab_to_rgb, luminance, rgb_to_lab

from .drawings import NAMED_BY_CODE_POINT, is_glyph, read_sets, render_svg, shows_people, split_of
from .drift import blurred, resized, sample
from .photographs import CUBE_MAPS, PLACES, SINGLE

#: Frames that are shown, (height, width).
FRAMES = ((512, 512), (512, 680), (600, 448), (576, 768))
#: Photographs that no training has seen, besides those of photographs.py: NASA's portrait, in the public domain.
FURTHER = (("scikit-image", "skimage/data/astronaut.png", "test"),)
#: Hands whose drawings are rendered, and those that nobody should look at: text, people, near-duplicates.
HANDS = (*NAMED_BY_CODE_POINT, "emojione")
MOST_THINGS = 7

Random = np.random.Generator


@dataclass(frozen=True)
class Canvas:
    """``picture`` (H, W, 3) in 0..1 with a margin of ``margin`` pixels around what is shown; ``name`` says what it is.

    ``changed(random)`` gives it with one thing drawn anew and where, (H, W) bool; ``spot(random)`` gives how much each
    pixel belongs to one thing, or to one color, (H, W) in 0..1.
    """

    picture: Tensor
    margin: int
    name: str
    changed: Callable[[Random], tuple[Tensor, Tensor]]
    spot: Callable[[Random], Tensor]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of what is shown."""
        height, width = self.picture.shape[:2]
        return height - 2 * self.margin, width - 2 * self.margin


class Photographs:
    """Held-out photographs.

    :param packages: folder of the fetched packages.
    :param split: "test", or "dev": those that the models were trained with, which a registration has not seen.
    """

    def __init__(self, packages: Path, split: str) -> None:
        of = "train" if split == "dev" else "test"
        self.places = [packages / CUBE_MAPS / "website" / "assets" / "envmaps" / place for place in PLACES[of]]
        singles = [packages / package / file for package, file, which in (*SINGLE, *FURTHER) if which == of]
        self.singles = [path for path in singles if path.exists()]
        self._kept: dict[Path, Tensor] = {}

    def cut(self, size: tuple[int, int], random: Random, *, single: bool | None = None) -> tuple[Tensor, str]:
        """One photograph of a size, (H, W, 3) in 0..1, and its name: of a place, or a single one."""
        if single is None:
            single = random.random() < 0.4
        if single:
            path = self.singles[int(random.integers(len(self.singles)))]
            return _cut(self._read(path), size, random), path.stem
        place = self.places[int(random.integers(len(self.places)))]
        walls = torch.stack([self._read(place / f"{side}.jpg") for side in _SIDES])
        yaw, pitch = random.uniform(0, 2 * np.pi), random.uniform(-0.25, 0.35)
        return view(walls, size, float(yaw), float(pitch)), place.name

    def canvas(self, frame: tuple[int, int], margin: int, random: Random, *, single: bool) -> Canvas:
        """A photograph to show."""
        size = (frame[0] + 2 * margin, frame[1] + 2 * margin)
        picture, name = self.cut(size, random, single=single)

        def changed(random: Random) -> tuple[Tensor, Tensor]:
            # what replaces the busiest of some spots is the busiest of some pieces of photographs
            blobs = [blob(size, margin, random) for _ in range(6)]
            busy = _busy(picture)
            soft = max(blobs, key=lambda each: float((busy * each).sum() / each.sum()))
            pieces = [self.cut(size, random)[0] for _ in range(3)]
            piece = max(pieces, key=lambda each: float((_busy(each) * soft).sum()))
            return torch.lerp(picture, piece, soft[..., None]), soft > 0.5

        return Canvas(picture, margin, name, changed, lambda random: common_hue(picture))

    def _read(self, path: Path) -> Tensor:
        if path not in self._kept:
            with Image.open(path) as opened:
                self._kept[path] = torch.from_numpy(np.asarray(opened.convert("RGB")).copy())
        return self._kept[path].float() / 255


class Vectors:
    """Held-out drawings that can be rendered at any size: ``names`` of things drawn by two hands or more."""

    def __init__(self, packages: Path, split: str) -> None:
        self.sets, _ = read_sets(packages)
        hands: dict[str, list[str]] = {}
        for hand in HANDS:
            for name in self.sets[hand]["icons"]:
                if len(name) > 1 and split_of(name) == split and not (is_glyph(name) or shows_people(name)):
                    hands.setdefault(name, []).append(hand)
        self.hands = {name: hands[name] for name in sorted(hands) if len(hands[name]) >= 2}
        self.names = list(self.hands)

    def render(self, name: str, hand: str, side: int) -> Tensor:
        """(side, side, 4) in 0..1, straight alpha."""
        return torch.from_numpy(render_svg(self.sets[hand]["icons"][name], self.sets[hand], side).copy()).float() / 255

    def canvas(self, frame: tuple[int, int], margin: int, random: Random, photographs: Photographs) -> Canvas:
        """A scene to show: some things in places of their own."""
        size = (frame[0] + 2 * margin, frame[1] + 2 * margin)
        ground, kind = _ground(size, random, photographs)
        things = [
            (name, str(random.choice(self.hands[name])), *place)
            for name, place in zip(
                random.choice(self.names, MOST_THINGS, replace=False), _places(size, margin, random), strict=False
            )
        ]

        def drawn(things: list) -> tuple[Tensor, list[Tensor]]:
            picture, alphas = ground, []
            for name, hand, x, y, side in things:
                drawing = torch.zeros(*size, 4)
                drawing[y : y + side, x : x + side] = self.render(name, hand, side)[: size[0] - y, : size[1] - x]
                alphas = [each * (1 - drawing[..., 3]) for each in alphas] + [drawing[..., 3]]
                picture = torch.lerp(picture, drawing[..., :3], drawing[..., 3:])
            return picture, alphas

        picture, alphas = drawn(things)

        def thing(random: Random) -> int:
            inside = [float(_inner(each, margin).mean()) for each in alphas]
            return int(random.choice(np.argsort(inside)[-3:]))

        def changed(random: Random) -> tuple[Tensor, Tensor]:
            at = thing(random)
            name, hand, *place = things[at]
            if random.random() < 0.5:  # the same thing by another hand, or another thing
                other = (name, str(random.choice([each for each in self.hands[name] if each != hand])))
            else:
                new = str(random.choice([each for each in self.names if each != name]))
                other = (new, str(random.choice(self.hands[new])))
            made, other_alphas = drawn([*things[:at], (*other, *place), *things[at + 1 :]])
            return made, torch.maximum(alphas[at], other_alphas[at]) > 0.5

        return Canvas(picture, margin, f"{len(things)} things on {kind}", changed, lambda r: alphas[thing(r)])

    def pattern(self, frame: tuple[int, int], margin: int, random: Random) -> Canvas:
        """One small thing again and again, alike but for its colors: who takes it for its neighbor errs."""
        size = (frame[0] + 2 * margin, frame[1] + 2 * margin)
        name = str(random.choice(self.names))
        side = int(random.integers(44, 76))
        drawing = self.render(name, str(random.choice(self.hands[name])), side)
        lab = rgb_to_lab(drawing[None, ..., :3])[0]
        picture = lab_to_rgb(torch.tensor([85.0, *random.uniform(-12, 12, 2)]).float().expand(1, *size, 3))[0].clone()
        pitch = side + int(random.integers(4, 16))
        for y in range(0, size[0] - side, pitch):
            for x in range(0, size[1] - side, pitch):
                color = torch.from_numpy(random.uniform(-50, 50, 2)).float()
                cell = fitted_rgb(torch.cat([lab[..., :1], 0.3 * lab[..., 1:] + color], -1)[None])[0]
                place = picture[y : y + side, x : x + side]
                place.copy_(torch.lerp(place, cell, drawing[..., 3:]))
        nothing = torch.zeros(size, dtype=torch.bool)
        return Canvas(picture, margin, f"a pattern of {name}", lambda r: (picture, nothing), lambda r: nothing.float())


def view(walls: Tensor, size: tuple[int, int], yaw: float, pitch: float, width: float = 1.75) -> Tensor:
    """What a camera at the middle of a cube map sees.

    :param walls: (6, S, S, 3) in 0..1 of +x, -x, +y, -y, +z, -z, as OpenGL lays them out.
    :param size: (height, width) in pixels.
    :param yaw, pitch: where it looks, radians.
    :param width: of what it sees, at distance 1; 2 is a right angle.
    :returns: (height, width, 3) in 0..1.
    """
    height, across = size
    y, x = torch.meshgrid(
        ((torch.arange(height) + 0.5) / height - 0.5) * width * height / across,
        ((torch.arange(across) + 0.5) / across - 0.5) * width,
        indexing="ij",
    )
    up, ahead = -y * np.cos(pitch) + np.sin(pitch), np.cos(pitch) + y * np.sin(pitch)
    ray = torch.stack([x * np.cos(yaw) + ahead * np.sin(yaw), up, ahead * np.cos(yaw) - x * np.sin(yaw)], -1)
    axis = ray.abs().argmax(-1)
    wall = axis * 2 + (ray.gather(-1, axis[..., None])[..., 0] < 0)
    px, py, pz = ray.unbind(-1)
    # OpenGL's table: s and t of each wall before the division by the largest axis
    s = torch.stack([-pz, pz, px, px, px, -px])
    t = torch.stack([-py, -py, pz, -pz, -py, -py])
    side = walls.shape[1]
    found = torch.zeros(height, across, 3)
    largest = ray.abs().amax(-1)
    for each in range(6):
        where = wall == each
        if bool(where.any()):
            places = torch.stack([s[each] / largest, t[each] / largest], -1)[where]
            found[where] = sample(walls[each], (places[None] + 1) / 2 * side)[0]
    return found


def blob(size: tuple[int, int], margin: int, random: Random) -> Tensor:
    """(H, W) in 0..1: a round spot with an uneven border, 2 to 9 % of what is shown and wholly within it."""
    height, width = size[0] - 2 * margin, size[1] - 2 * margin
    radius = np.sqrt(random.uniform(0.02, 0.09) * height * width / np.pi)
    reach = 1.4 * radius
    x, y = (margin + random.uniform(reach, side - reach) for side in (width, height))
    down, right = torch.meshgrid(torch.arange(size[0]) - y, torch.arange(size[1]) - x, indexing="ij")
    angle = torch.atan2(down, right)
    rim = 1 + sum(0.09 * torch.cos(k * angle + random.uniform(0, 6.3)) for k in (2, 3, 5))
    return ((radius * rim - torch.hypot(down, right)) / 4 + 0.5).clamp(0, 1)


def common_hue(picture: Tensor) -> Tensor:
    """(H, W) in 0..1: how much each pixel has the picture's most common hue."""
    a, b = rgb_to_lab(picture[None])[0, ..., 1:].unbind(-1)
    chroma, hue = torch.hypot(a, b), torch.atan2(b, a)
    counts = torch.histc(hue[chroma > 8], 24, -np.pi, np.pi)
    middle = (int(counts.argmax()) + 0.5) / 24 * 2 * np.pi - np.pi
    near = 1 - (torch.remainder(hue - middle + np.pi, 2 * np.pi) - np.pi).abs() / 1.2
    return (near * 2).clamp(0, 1) * (chroma / 8 - 0.5).clamp(0, 1)


_SIDES = ("posx", "negx", "posy", "negy", "posz", "negz")


def _cut(photograph: Tensor, size: tuple[int, int], random: Random) -> Tensor:
    """A piece as large as fits, mirrored or not, brought to a size."""
    height, width = photograph.shape[:2]
    scale = min(height / size[0], width / size[1]) * random.uniform(0.9, 1.0)
    high, wide = int(size[0] * scale), int(size[1] * scale)
    y, x = int(random.integers(height - high + 1)), int(random.integers(width - wide + 1))
    piece = photograph[y : y + high, x : x + wide]
    return resized(piece.flip(1) if random.random() < 0.5 else piece, size)


def _busy(picture: Tensor) -> Tensor:
    """(H, W): how much L changes around each pixel."""
    lightness = luminance(picture[None])[0]
    steps = torch.zeros_like(lightness)
    steps[:-1, :-1] = torch.hypot(lightness.diff(dim=1)[:-1], lightness.diff(dim=0)[:, :-1])
    return blurred(steps.clamp_max(20)[..., None], 4.0)[..., 0]


def _inner(values: Tensor, margin: int) -> Tensor:
    return values[margin : values.shape[0] - margin, margin : values.shape[1] - margin]


def _places(size: tuple[int, int], margin: int, random: Random) -> list[tuple[int, int, int]]:
    """(x, y, side) of up to MOST_THINGS things that hardly touch; the first ones lie wholly within what is shown."""
    found: list[tuple[int, int, int]] = []
    for _ in range(60):
        side = int(min(size) * random.uniform(0.2, 0.42))
        least = margin if len(found) < 3 else margin // 4
        x, y = (int(random.integers(least, max(least + 1, extent - least - side))) for extent in (size[1], size[0]))
        apart = (max(abs(x - a + (side - c) / 2), abs(y - b + (side - c) / 2)) / (side + c) * 2 for a, b, c in found)
        if all(distance > 0.9 for distance in apart):
            found.append((x, y, side))
        if len(found) == MOST_THINGS:
            break
    return found


def _ground(size: tuple[int, int], random: Random, photographs: Photographs) -> tuple[Tensor, str]:
    """Flat, graded, mottled or photographed."""
    kind = int(random.integers(4))
    if kind == 3:
        return photographs.cut(size, random)[0], "a photograph"
    corners = torch.from_numpy(random.uniform((50, -25, -25), (95, 25, 25), (2, 2, 3))).float()
    if kind == 0:
        corners = corners[:1, :1].expand(2, 2, 3)
    lab = torch.nn.functional.interpolate(corners.movedim(-1, 0)[None], size, mode="bilinear", align_corners=True)
    lab = lab[0].movedim(0, -1).clone()
    if kind == 2:
        for cells, strength in ((6, 8.0), (24, 6.0), (90, 4.0)):
            noise = torch.from_numpy(random.standard_normal((cells, cells, 3))).float()
            lab += strength * resized(noise / 6 + 0.5, size).sub(0.5).mul(6) * torch.tensor([1.0, 0.5, 0.5])
    return lab_to_rgb(lab[None])[0], ("a flat ground", "a graded ground", "a mottled ground")[kind]
