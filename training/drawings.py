"""The training drawings: emoji of several vendors, rendered once, and which things are held out.

A *thing* is an emoji name ("red-apple"); a *hand* is a vendor's style. Things drawn by at least two hands are used, so
that every picture has another one whose colors are true for it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

SIDE = 128
FLUENT_3D = "fluent-3d"
# Hands that come as SVG, by the folder that fetch.py unpacks their package into
SVG_SETS = ("noto", "noto-v1", "twemoji", "fluent-emoji-flat", "fxemoji", "emojione")
NAMED_BY_CODE_POINT = ("noto", "twemoji", "fluent-emoji-flat")
_GLYPHS = ("skin", "flag", "keycap", "oclock", "-thirty", "button", "letter", "japanese")  # near-duplicates and text
_PEOPLE = frozenset(
    ("person", "man", "woman", "people", "family", "couple", "kiss", "men", "women", "mx", "boy", "girl", "hand")
)
HELD_OUT_EVERY = 12


@functools.cache
def world() -> tuple[str, ...]:
    """The names in world.txt."""
    return _names("world.txt")


def core() -> tuple[str, ...]:
    """The names in core.txt, a part of the world."""
    return _names("core.txt")


def _names(file: str) -> tuple[str, ...]:
    lines = (Path(__file__).parent / file).read_text().splitlines()
    return tuple(name for line in lines for name in line.split("#")[0].split())


def split_of(name: str) -> str:
    """One of "train", "dev" and "test": by thing, for all hands at once, from the md5 of the name.

    One in twelve is held out. Things of world.txt are always trained: it is the world that prompts can ask for.
    """
    number = int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16)
    if number % HELD_OUT_EVERY or name in world():
        return "train"
    return "test" if number // HELD_OUT_EVERY % 2 else "dev"


def is_glyph(name: str) -> bool:
    """Whether it is text, or one of many that are nearly alike."""
    return any(part in name for part in _GLYPHS)


def shows_people(name: str) -> bool:
    return not _PEOPLE.isdisjoint(name.split("-"))


@dataclass(frozen=True)
class Drawings:
    """``pictures`` (n, SIDE, SIDE, 4) uint8, straight alpha; ``names`` and ``hands`` say what and whose they are."""

    pictures: np.ndarray
    names: list[str]
    hands: list[str]

    @classmethod
    def load(cls, path: Path) -> Drawings:
        """Raises FileNotFoundError if ``prepare`` has not been run."""
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: run `python -m training prepare` first.")
        with np.load(path) as stored:
            return cls(stored["pictures"], stored["names"].tolist(), stored["hands"].tolist())

    def rows_by_name(self, *splits: str) -> dict[str, list[int]]:
        """Rows of every thing in the given splits, things and rows in a fixed order."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(self.names):
            rows.setdefault(name, []).append(row)
        return {name: rows[name] for name in sorted(rows) if split_of(name) in splits}


def render(packages: Path) -> Drawings:
    """Render every usable drawing of the fetched packages.

    :param packages: folder with one unpacked folder a package, as ``fetch`` leaves it.
    """
    icons, code_points = read_sets(packages)
    solid = {
        code_points[code]: path
        for path in sorted((packages / "fluent-emoji-3d" / "assets").glob("*.webp"))
        if (code := path.stem.replace("-fe0f", "")) in code_points
    }
    counts: dict[str, int] = {}
    for names in [*(icons[hand]["icons"] for hand in SVG_SETS if hand != "fxemoji"), solid]:
        for name in names:
            if len(name) > 1 and not is_glyph(name):
                counts[name] = counts.get(name, 0) + 1
    usable = sorted(name for name, count in counts.items() if count >= 2)
    without_hyphens = {name.replace("-", ""): name for name in usable}  # fxemoji writes "redapple"

    found: list[tuple[str, str, np.ndarray]] = []
    for name in tqdm(usable, desc=FLUENT_3D):
        if name in solid:
            found.append((name, FLUENT_3D, _shrink(Image.open(solid[name]).convert("RGBA"))))
    for hand in SVG_SETS:
        for key, icon in tqdm(icons[hand]["icons"].items(), desc=hand):
            name = without_hyphens.get(key) if hand == "fxemoji" else key
            if name in counts and counts[name] >= 2:
                found.append((name, hand, render_svg(icon, icons[hand])))
    return Drawings(np.stack([f[2] for f in found]), [f[0] for f in found], [f[1] for f in found])


def read_sets(packages: Path) -> tuple[dict[str, dict], dict[str, str]]:
    """(the icon set of every hand of :data:`SVG_SETS`, thing by code point)."""
    icons, code_points = {}, {}
    for hand in SVG_SETS:
        icons[hand] = json.loads((packages / hand / "icons.json").read_text())
        if hand in NAMED_BY_CODE_POINT:
            for code, name in json.loads((packages / hand / "chars.json").read_text()).items():
                code_points.setdefault(code.replace("-fe0f", ""), name)
    return icons, code_points


def render_svg(icon: dict, icon_set: dict, side: int = SIDE) -> np.ndarray:
    """(side, side, 4) uint8, straight alpha."""
    import resvg_py

    width, height = (icon.get(key, icon_set.get(key, 16)) for key in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{width}" height="{height}" viewBox="{box}">{icon["body"]}</svg>'
    )
    data = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side))
    return _shrink(Image.open(io.BytesIO(data)).convert("RGBA"), side)


def _shrink(picture: Image.Image, side: int = SIDE) -> np.ndarray:
    if picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)
