"""What the measurement of transferred colors looks like: a table, plots of error against drift, a contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from comfyui_exemplar.color import to_uint8
from comfyui_exemplar.files.saving import save_image

from .drift_pairs import KINDS, STILL
from .marks import grown
from .report import pyplot, save_plot
from .transfer import BOUND, GLOBAL, OURS, PLAIN, TRUE, Colored

#: How many examples the sheet shows of kinds of which one would be too few.
SHEET = {"redrawn": 2, "mixed": 6}
#: What one step of a kind's amount is, for the plots.
UNITS = {
    "zoom": (5.0, "zoom, %"),
    "shift": (32.0, "shift, pixels"),
    "zoom and shift": (5.0, "zoom, % (and shift, x 6.4 pixels)"),
    "pattern": (5.0, "zoom, % (and shift, x 6.4 pixels)"),
    "turn": (2.0, "turn, degrees"),
    "perspective": (2.0, "perspective, % of the sides"),
    "warp": (8.0, "warp, pixels"),
    "tone": (1.0, "tone curve, share of the strongest"),
    "low resolution": (1.0, "loss of resolution, 1: a quarter a side"),
    "soft": (1.0, "blur and JPEG, share of the strongest"),
    "texture": (1.0, "invented texture, share of the strongest"),
    "grain": (12.0, "grain, levels of 255"),
    "crop": (40.0, "crop, % of the sides at the most"),
}
_COLORS = {PLAIN: "#999999", BOUND: "#228833", OURS: "#4477aa", GLOBAL: "#ccbb44"}
_SIDE = 150


def table(numbers: dict) -> str:
    """Markdown: errors, what else there is to say of ours, ways, goals."""
    groups = numbers["groups"]
    lines = [
        f"{numbers['pairs']} pairs ({numbers['split']} split). Error: mean distance in (a, b) from the truth.",
        "",
        *_errors(groups),
        "",
        *_ours(groups),
        "",
        *_ways({name: groups[name] for name in ("all that drift", "all without drift") if name in groups}),
        "",
        "| goal | found | wanted | held |",
        "| --- | --- | --- | --- |",
    ]
    for goal in numbers["goals"]:
        bound = f"at {'most' if goal['at most'] else 'least'} {goal['goal']:.3g}"
        lines.append(f"| {goal['what']} | {goal['found']:.3f} | {bound} | {'yes' if goal['held'] else 'no'} |")
    return "\n".join(lines) + "\n"


def _errors(groups: dict) -> list[str]:
    shown = [way for way in (PLAIN, BOUND, TRUE, OURS, GLOBAL) if way in next(iter(groups.values()))["ways"]]
    ratios = ("of plain", "of bound", "of bound where seen")
    names = {"of bound": "of no drift", "of bound where seen": "of no drift, where seen"}
    heads = ["drift", "pairs", *shown, *(f"ours, {names.get(ratio, ratio)}" for ratio in ratios)]
    heads.append("of drift's error taken away")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, group in groups.items():
        cells = [name, str(group["pairs"]), *(_number(group["ways"][way]["error"]) for way in shown)]
        cells += [f"{group[ratio]:.2f}x" for ratio in ratios]
        cells.append("-" if group["taken away"] is None else f"{group['taken away']:.0%}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ours(groups: dict) -> list[str]:
    heads = [
        "drift",
        "ghosting, of the truth's: plain",
        "no drift",
        "ours",
        "moved, pixels",
        "displacement off",
        "at edges",
        "unsure where the same",
        "redrawn: precision",
        "recall",
    ]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for name, group in groups.items():
        mine = group["ways"][OURS]
        cells = [name, *(_number(group["ways"][way]["ghosting"]) for way in (PLAIN, BOUND, OURS))]
        cells += [_number(mine.get(key)) for key in ("moved", "displaced", "displaced at edges")]
        cells.append(f"{mine['unsure where the same']:.0%}" if "unsure where the same" in mine else "-")
        cells += [_number(mine.get(key)) for key in ("precision", "recall")]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _ways(groups: dict) -> list[str]:
    heads = ["way", *(f"error, {name}" for name in groups), "processor seconds", "peak beyond the pictures, MB"]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for way, row in next(iter(groups.values()))["ways"].items():
        errors = [_number(group["ways"][way]["error"]) for group in groups.values()]
        cells = [way, *errors, f"{row['seconds']:.2f}", f"{row['peak MB']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def plot(rows: list[dict], path: Path) -> None:
    """Error against how much there is of each kind of drift, of the plain merge, without drift, and ours."""
    kinds = [kind for kind in KINDS if kind in UNITS and any(row["kind"] == kind for row in rows)]
    if not kinds:
        return
    columns = min(4, len(kinds))
    high = -(-len(kinds) // columns)
    figure, grid = pyplot().subplots(high, columns, figsize=(3.7 * columns, 2.9 * high), squeeze=False)
    for axes, kind in zip(grid.flat, kinds, strict=False):
        of = [row for row in rows if row["kind"] == kind]
        amounts = sorted({row["amount"] for row in of})
        most, label = UNITS[kind]
        for way, color in _COLORS.items():
            if way not in of[0]["ways"]:
                continue
            means = [np.mean([row["ways"][way]["error"] for row in of if row["amount"] == at]) for at in amounts]
            axes.plot([at * most for at in amounts], means, "o-", markersize=3, color=color, label=way)
            points = [(row["amount"] * most, row["ways"][way]["error"]) for row in of]
            axes.scatter(*zip(*points, strict=True), s=5, color=color, alpha=0.35)
        axes.set(xlabel=label, ylim=(0, None))
        axes.set_title(f"{kind}{' (nothing moves)' if kind in STILL else ''}", fontsize=9)
    for axes in list(grid.flat)[len(kinds) :]:
        axes.axis("off")
    grid[0, 0].legend(fontsize=7)
    for row in grid:
        row[0].set_ylabel("mean error in (a, b)")
    save_plot(figure, path)


def sheet(shown: list[tuple], path: Path) -> None:
    """Two columns of pairs: original, edit, plain merge, ours, truth, confidence, how far the displacement is off."""
    if not shown:
        return
    names = ["original", "edit", PLAIN, OURS, "truth", "confidence (red: redrawn)", "displacement off, 0 to 8"]
    gap, head, words = 4, 16, 14
    cell = _SIDE + gap
    block, high = len(names) * cell + 3 * gap, cell + words
    made = Image.new("RGB", (2 * block, head + -(-len(shown) // 2) * high), "white")
    draw = ImageDraw.Draw(made)
    for half in range(2):
        for column, name in enumerate(names):
            draw.text((half * block + column * cell + 2, 2), name, fill="black")
    for at, (pair, results, row) in enumerate(shown):
        left, top = at % 2 * block, head + at // 2 * high
        errors = {way: row["ways"][way]["error"] for way in (PLAIN, OURS, BOUND)}
        text = ", ".join(f"{error:.1f} {way}" for way, error in errors.items())
        draw.text((left + 2, top), f"{pair.kind}, {pair.name}: {text}", fill="black")
        pictures = [pair.original, pair.edited, results[PLAIN].image, results[OURS].image, pair.truth]
        for column, image in enumerate([_picture(each[0]) for each in pictures] + _maps(pair, results[OURS])):
            made.paste(image, (left + column * cell, top + words))
    save_image(made, path, quality=86)


def _maps(pair, mine: Colored) -> list[Image.Image]:
    if mine.confidence is None or mine.displacement is None:
        return []
    sure = mine.confidence[..., None].float().expand(-1, -1, 3).clone()
    sure[grown(pair.redrawn, 2) & ~pair.redrawn] = sure.new_tensor([1.0, 0.1, 0.1])
    off = (mine.displacement - pair.displacement).norm(dim=-1).div(8).clamp(0, 1).masked_fill(~pair.seen, 0)
    return [_picture(sure), _picture(off[..., None].float().expand(-1, -1, 3))]


def _picture(picture: Tensor) -> Image.Image:
    """(H, W, 3) in 0..1, as large as a cell."""
    image = Image.fromarray(to_uint8(picture).numpy())
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return image


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
