"""What the measurements of color memories look like: tables, a plot and a sheet."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

from comfyui_exemplar.color import to_uint8
from comfyui_exemplar.files.saving import save_image

from .memory_measure import RIGHT
from .palette_measure import PLAIN
from .report import pyplot, save_plot
from .strokes_measure import MOVED_GOAL, TAKEN, TAKEN_GOAL

#: Rows of strokes of each kind of picture, and pages of a story, on the sheet.
ROWS, SHOWN_PAGES = 8, 10
_HULL = "beyond the hull"


def table(found: dict) -> str:
    """Markdown."""
    lines = [
        f"Strokes ({found['split']} split): taken means within ΔE {TAKEN:g} of the paint, moved is the distance from "
        "the picture without strokes.",
        "",
        f"| | strokes, pictures | marks | their parts | without edges | strokes that fill {TAKEN_GOAL:.0%} of that | "
        f"whole things | moved outside: mean | 95th percentile | worst picture | pictures below {MOVED_GOAL:g} |",
        "|" + " --- |" * 11,
    ]
    for kind, rows in found["strokes"].items():
        for name, row in rows.items():
            lines.append(
                f"| {kind}, {name} | {row['strokes']}, {row['pictures']} | {row['taken, marks']:.1%} | "
                f"{row['taken, parts']:.1%} | {row['taken, parts without edges']:.1%} | "
                f"{row['strokes that fill it without edges']:.0%} | "
                f"{row['taken, whole things']:.0%} | {row['moved outside, mean']:.2f} | "
                f"{row['moved outside, 95th percentile']:.2f} | {row['moved outside, worst picture']:.1f} | "
                f"{row['pictures that move less than the goal outside']:.0%} |"
            )
    lines += [
        "",
        "| pages | spread of things | of that without | spread of places | of that without | error inside | beyond the "
        "hull: max, 99.9th percentile | with gray in it, all pixels |",
        "|" + " --- |" * 8,
    ]
    for name, row in found["palettes"].items():
        hull = (
            f"{row[f'{_HULL}, max']:.2f}, {row[f'{_HULL}, 99.9th percentile']:.2f} | "
            f"{row[f'{_HULL} with gray, all pixels, max']:.2f}, "
            f"{row[f'{_HULL} with gray, all pixels, 99.9th percentile']:.2f}"
            if f"{_HULL}, max" in row
            else " | "
        )
        lines.append(
            f"| {name} | {row['spread of things']:.2f} | {row['spread of things, of that without']:.2f} | "
            f"{row['spread of places']:.2f} | {row['spread of places, of that without']:.2f} | "
            f"{row['error inside']:.1f} | {hull} |"
        )
    lines += [
        "",
        "| two things | pairs | first reference | second | better single one | both in one memory | of the better | "
        "one picture of both | of the better |",
        "|" + " --- |" * 9,
    ]
    for name, row in found["two references"].items():
        both = name.startswith("color memory")
        together = f"{row['both']:.1f}" if both else "-"
        ratio = f"{row['both, of the better']:.2f}" if both else "-"
        lines.append(
            f"| {name} | {row['pairs']} | {row['first']:.1f} | {row['second']:.1f} | "
            f"{row['better single reference']:.1f} | {together} | {ratio} | {row['one picture of both']:.1f} | "
            f"{row['one picture of both, of the better']:.2f} |"
        )
    lines += [
        "",
        f"| confidence | rank correlation of doubt and error | stated and true share within {RIGHT:g} apart by |",
        "| --- | --- | --- |",
    ]
    for name, row in found["confidence"].items():
        lines.append(f"| {name} | {row['rank correlation']:.2f} | {row['off']:.2f} |")
    return "\n".join(lines) + "\n"


def plot(found: dict, path: Path) -> None:
    """Left: confidence against the share of places that are right. Middle: spread between pages. Right: strokes."""
    figure, (left, middle, right) = pyplot().subplots(1, 3, figsize=(16, 5), width_ratios=[1, 1, 1])
    left.plot([0, 1], [0, 1], color="gray", linewidth=0.8)
    for (name, row), color in zip(found["confidence"].items(), _COLORS, strict=False):
        points = row["calibration"]
        label = f"{name}: rank correlation {row['rank correlation']:.2f}"
        style = "--" if name.startswith("dual") else "-"
        left.plot(points["stated"], points["right"], style, marker="o", markersize=4, color=color, label=label)
    left.set(xlabel="stated confidence", ylabel=f"share of places within {RIGHT:g} of the truth", xlim=(0, 1))
    left.set_ylim(0, 1)
    left.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    names = list(found["palettes"])
    for shift, key, color in ((-0.2, "spread of things", _COLORS[0]), (0.2, "spread of places", _COLORS[1])):
        values = [found["palettes"][name][key] for name in names]
        middle.barh([i + shift for i in range(len(names))], values, 0.4, color=color, label=key)
    goal = found["palettes"][PLAIN]["spread of things"] / 2
    middle.axvline(goal, color="gray", linewidth=0.8, linestyle="--", label="half of things' spread")
    middle.set_yticks(range(len(names)), names, fontsize=8)
    middle.invert_yaxis()
    middle.set_xlabel("spread of color between pages of the same things (ΔE)")
    middle.legend(fontsize=7)
    rows = [(f"{kind}, {name}", row) for kind, each in found["strokes"].items() for name, row in each.items()]
    for i, key in enumerate(("marks", "parts", "parts without edges", "whole things")):
        values = [row[f"taken, {key}"] for _, row in rows]
        right.barh([at + 0.2 * (i - 1.5) for at in range(len(rows))], values, 0.2, color=_COLORS[i], label=key)
    right.axvline(TAKEN_GOAL, color="gray", linewidth=0.8, linestyle="--")
    right.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
    right.invert_yaxis()
    right.set_xlabel(f"share within ΔE {TAKEN:g} of the paint")
    right.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.14), ncols=2)
    save_plot(figure, path, 90, bbox_inches="tight")


_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377")


def sheet(strokes: list[dict[str, Tensor]], pages: list[dict], path: Path) -> None:
    """Above: pictures with strokes, first and last ones in two halves. Below: pages, one row a way of coloring."""
    chosen = strokes[:ROWS] + strokes[-ROWS:]
    columns = list(chosen[0])
    side, gap, head = next(iter(chosen[0].values())).shape[0], 4, 14
    half = len(columns) * (side + gap) + 3 * gap
    tall = head + ROWS * (side + gap)
    stories: dict[str, list[dict]] = {}
    for row in pages:
        stories.setdefault(row["story"].name, []).append(row)
    below = [rows for rows in list(stories.values())[:2]]
    height = tall + sum(head + (len(rows) + 1) * (side + head) for rows in below)
    image = Image.new("RGB", (2 * half, height), "white")
    draw = ImageDraw.Draw(image)
    for place, row in enumerate(chosen):
        x, y = place // ROWS * half, head + place % ROWS * (side + gap)
        for i, name in enumerate(columns):
            _paste(image, row[name], x + i * (side + gap), y)
            if place % ROWS == 0:
                draw.text((x + i * (side + gap) + 2, 1), name, fill="black")
    y = tall
    for rows in below:
        story = rows[0]["story"]
        y += head
        lines = [("reference, and pages in true colors", story.pictures)] + [(r["way"], r["pictures"]) for r in rows]
        for name, pictures in lines:
            draw.text((2, y), name, fill="black")
            for i, picture in enumerate([story.reference[0], *pictures[:SHOWN_PAGES]]):
                _paste(image, picture, i * (side + gap), y + head)
            y += side + head
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(image, path, quality=85)


def _paste(image: Image.Image, picture: Tensor, x: int, y: int) -> None:
    image.paste(Image.fromarray(to_uint8(picture).numpy()), (x, y))
