"""What was measured as a table for people, a picture of it with every picture's numbers, and JSON."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.output import whole
from ..files.plain_json import parse
from .measure_table import Measured, Row, Two

KIND, FORMAT = "exemplar measure", 1
SUFFIX = ".json"
#: Bytes that no such file has.
_TOO_LONG = 2**28

#: What is said below a table.
ABOUT = (
    "as published: the published program's own arithmetic, to stand beside its paper's table. as defined: what the "
    "measure's own paper says. '-': there is none."
)
#: Columns of the table.
HEADS = ("measure", "as published", "as defined", "better", "published by")
_PUBLISHED, _DEFINED = (213, 94, 0), (0, 90, 181)  # told apart by color-blind eyes
_PANEL, _COLUMNS, _STEP = (300, 150), 3, 20


def number(value: float | None) -> str:
    """Four digits that count."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "infinite" if value > 0 else "none"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.1f}"


def table(measured: Measured, width: int = 100) -> str:
    """Everything as text, in columns.

    :param width: characters a line of the notes.
    """
    cells = [HEADS, *map(_cells, measured.rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(HEADS))]
    lines = [_line(row, widths) for row in cells]
    rule = "-" * len(lines[0])
    count = len(measured.names)
    told = [f"{row.metric.name}: {row.metric.note}." for row in measured.rows if row.metric.note]
    notes = [line for note in (*told, *measured.notes, ABOUT) for line in _wrapped(note, width)]
    return "\n".join([f"{count} picture{'s' * (count > 1)}", lines[0], rule, *lines[1:], rule, *notes])


def _cells(row: Row) -> tuple[str, ...]:
    metric = row.metric
    better = "" if metric.better == "neither" else metric.better
    return metric.name, number(row.published), number(row.defined), better, metric.published_by


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (
        cell.rjust(wide) if at in (1, 2) else cell.ljust(wide)
        for at, (cell, wide) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join(cells).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def content(measured: Measured) -> dict[str, Any]:
    """The same for programs, with every picture's numbers; infinite ones are the text ``infinite``."""
    rows = {
        row.metric.key: {
            "name": row.metric.name,
            "published": _plain(row.published),
            "published_by": row.metric.published_by or None,
            "defined": _plain(row.defined),
            "better": row.metric.better,
            "note": row.metric.note or None,
        }
        for row in measured.rows
    }
    pictures = {
        name: {row.metric.key: [_plain(value) for value in row.each[at]] for row in measured.rows if row.each}
        for at, name in enumerate(measured.names)
    }
    return {
        "report": KIND,
        "format": FORMAT,
        "count": len(measured.names),
        "measures": rows,
        "notes": list(measured.notes),
        "pictures": pictures,
    }


def _plain(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else number(value)


def as_json(measured: Measured) -> str:
    """:func:`content` as text."""
    return json.dumps(content(measured), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def check_place(path: Path) -> None:
    """Whether numbers may go to a place: older ones of this kind are replaced, nothing else.

    :raises ValueError: there is a file that is none of ours.
    """
    if not path.exists():
        return
    try:
        found = parse(path.read_bytes(), depth=8) if path.stat().st_size < _TOO_LONG else None
        ours = isinstance(found, dict) and found.get("report") == KIND
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise ValueError(f"{path} holds no measures of ours, and is not replaced; choose another name.")


def save(measured: Measured, path: Path) -> None:
    """Write :func:`content` as JSON, see :func:`check_place`.

    :raises OSError: it cannot be written; an older file is as it was.
    """
    with whole(path) as beside:
        beside.write_text(as_json(measured), encoding="utf-8")


def picture(measured: Measured) -> Tensor:
    """The table as a picture, and below it a plot for each measure of single pictures: (1, H, W, 3) in 0..1.

    A plot has the pictures from left to right, the published numbers orange, the defined ones blue.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    font, small = ImageFont.load_default(14), ImageFont.load_default(12)
    plots = [row for row in measured.rows if row.each]
    width, high = _PANEL[0] * _COLUMNS, _PANEL[1]
    notes = [line for note in measured.notes for line in _wrapped(note, 125)]
    top = _STEP * (len(measured.rows) + 2) + 22
    below = top + 15 * len(notes) + 8
    image = Image.new("RGB", (width, below + high * math.ceil(len(plots) / _COLUMNS)), "white")
    pen = ImageDraw.Draw(image)
    places = (10, 250, 400, 540, 680)
    pen.rectangle([0, 0, width, _STEP + 6], fill="#eaeef2")
    inks = ("black", _PUBLISHED, _DEFINED, "black", "black")
    for line, cells in enumerate((HEADS, *map(_cells, measured.rows))):
        for cell, place, ink in zip(cells, places, inks, strict=True):
            pen.text((place, 5 + line * _STEP + 5 * (line > 0)), cell, fill=ink, font=font)
    pen.text((10, top - _STEP), "below: all pictures from left to right", fill="gray", font=small)
    for line, note in enumerate(notes):
        pen.text((10, top + 15 * line), note, fill="gray", font=small)
    for at, row in enumerate(plots):
        _plot(pen, row, _PANEL[0] * (at % _COLUMNS), below + high * (at // _COLUMNS), small)
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)[None]


def _plot(pen: Any, row: Row, left: int, top: int, font: Any) -> None:
    """One measure's numbers, a picture each."""
    width, height = _PANEL
    box = (left + 52, top + 24, left + width - 12, top + height - 10)
    pen.text((left + 10, top + 5), row.metric.name, fill="black", font=font)
    pen.rectangle(box, outline=(190, 190, 190))
    finite = [value for two in row.each for value in two if value is not None and math.isfinite(value)]
    if not finite:
        return
    low, high = min(finite), max(finite)
    if high == low:
        marks = [(low, (box[1] + box[3]) / 2 - 7)]
        low, high = low - 0.5, high + 0.5
    else:
        marks = [(high, box[1]), (low, box[3] - 14)]
    for value, y in marks:
        pen.text((left + 4, y), f"{value:.3g}", fill="gray", font=font)

    def at(index: int, value: float) -> tuple[float, float]:
        x = box[0] + (box[2] - box[0]) * (index + 0.5) / len(row.each)
        return x, box[3] - 4 - (box[3] - box[1] - 8) * (value - low) / (high - low)

    for column, ink in ((0, _PUBLISHED), (1, _DEFINED)):
        points = [at(index, value) for index, value in enumerate(_column(row.each, column)) if value is not None]
        if len(points) > 1:
            pen.line(points, fill=ink, width=2)
        for x, y in points if len(points) < 60 else ():
            pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=ink)


def _column(each: Sequence[Two], column: int) -> list[float | None]:
    """Finite numbers; None in the place of others."""
    values = [two[column] for two in each]
    return [value if value is not None and math.isfinite(value) else None for value in values]
