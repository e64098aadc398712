"""What was found as a table for people, a picture of it, and JSON for a report."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...color.heat import side_by_side
from ...files.output import whole
from ...files.owned import write_new
from ...files.plain_json import parse
from ..sheet import labeled, scaled
from .checks import UNKNOWN, Result, Verdict

KIND, FORMAT = "exemplar doctor", 1
SUFFIX = ".json"
MIB = 2**20
#: Bytes that no report has.
_TOO_LONG = 16 * MIB

#: What is said below a table.
ABOUT = (
    "good: as expected. look: worth a look, and may be right. failed: please report it. Nothing here or in the JSON "
    f"names folders, people or other packs; files are named without their folders. '{UNKNOWN}': nobody has measured it "
    "on released weights; attach the JSON to a report and the next reader has a number."
)

_INK: Mapping[Verdict, str] = {"good": "#1a7f37", "look": "#9a6700", "failed": "#cf222e", "not run": "#6e7781"}
_HEADS = ("check", "found", "expected", "verdict", "seconds", "peak")


@dataclass(frozen=True)
class Report:
    """All that was found.

    :param environment: what is known of the machine and the host, by name.
    :param results: in order.
    :param quick: whether it was to be quick.
    :param peak_of: whose memory was counted, ``device`` or ``process``.
    """

    environment: Mapping[str, str]
    results: Sequence[Result]
    quick: bool
    peak_of: str

    @property
    def verdicts(self) -> dict[Verdict, int]:
        """How many there are of each."""
        found = [result.finding.verdict for result in self.results]
        kinds: tuple[Verdict, ...] = ("good", "look", "failed", "not run")
        return {kind: found.count(kind) for kind in kinds}

    @property
    def failed(self) -> list[str]:
        """What failed, by group and name."""
        of = [result.check for result in self.results if result.finding.verdict == "failed"]
        return [f"{check.group}: {check.name}" for check in of]

    @property
    def summary(self) -> str:
        """One line."""
        counted = ", ".join(f"{number} {kind}" for kind, number in self.verdicts.items() if number)
        seconds = sum(result.seconds for result in self.results)
        return f"{counted or 'nothing was looked at'}; {seconds:.0f} s"

    def table(self, width: int = 150) -> str:
        """The whole report as text, in columns.

        :param width: characters a line.
        """
        lines = [f"{name}: {value}" for name, value in self.environment.items()]
        texts = [_row(result) for result in self.results]
        first = max([5, *(len(row[0]) for row in texts)])
        each = max(16, (width - first - 34) // 2)
        widths = (first, each, each, 7, 8, 9)
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        lines += ["", *_columns(_HEADS, widths), rule]
        group = ""
        for result, row in zip(self.results, texts, strict=True):
            if result.check.group != group:
                group = result.check.group
                lines.append(f"[{group}]")
            lines += _columns(row, widths)
            if result.finding.note:
                lines += textwrap.wrap(
                    result.finding.note, width, initial_indent="    -> ", subsequent_indent="       "
                )
        lines += [rule, f"{self.summary}; peak memory is the {self.peak_of}'s", *textwrap.wrap(ABOUT, width)]
        return "\n".join(line.rstrip() for line in lines)

    def content(self) -> dict[str, Any]:
        """The same for programs; no folders, no pictures."""
        return {
            "report": KIND,
            "format": FORMAT,
            "quick": self.quick,
            "environment": dict(self.environment),
            "peak_of": self.peak_of,
            "verdicts": {kind.replace(" ", "_"): number for kind, number in self.verdicts.items()},
            "checks": [_entry(result) for result in self.results],
        }

    def json(self) -> str:
        """:meth:`content` as text."""
        return json.dumps(self.content(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def picture(self) -> Tensor:
        """The table as a picture, (1, H, W, 3) in 0..1: one can look at it on a node."""
        import numpy as np
        from PIL import Image, ImageDraw, ImageFont

        font = ImageFont.load_default(15)
        rows: list[tuple[tuple[str, ...], str, str]] = [(("", *_HEADS[1:]), "black", "#eaeef2")]
        group = ""
        for result in self.results:
            if result.check.group != group:
                group = result.check.group
                rows.append(((group,), "black", "#f6f8fa"))
            rows.append((_row(result), _INK[result.finding.verdict], "white"))
            if result.finding.note:
                rows.append((("", result.finding.note), _INK[result.finding.verdict], "white"))
        places, limits, step = (12, 230, 570, 1010, 1085, 1155), (30, 44, 58, 9, 9, 10), 20
        drawn = [[textwrap.wrap(text, limit) or [""] for text, limit in _fitted(row, limits)] for row, _, _ in rows]
        heights = [step * max(map(len, cells)) + 8 for cells in drawn]
        facts = textwrap.wrap("; ".join(f"{k} {v}" for k, v in self.environment.items()), 165)
        image = Image.new("RGB", (1250, sum(heights) + step * (len(facts) + 2) + 24), "white")
        pen, top = ImageDraw.Draw(image), 8
        for line in (f"Doctor: {self.summary}", *facts):
            pen.text((12, top), line, fill="black", font=font)
            top += step
        for cells, height, (_, ink, ground) in zip(drawn, heights, rows, strict=True):
            pen.rectangle([0, top, image.width, top + height], fill=ground)
            for column, (cell, place) in enumerate(zip(cells, places, strict=False)):
                for number, line in enumerate(cell):
                    pen.text(
                        (place, top + 4 + step * number), line, fill=ink if column in (1, 3) else "black", font=font
                    )
            top += height
        return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)[None]

    def sheet(self, height: int = 192, columns: int = 4) -> Tensor:
        """All pictures that checks gave, with captions, (1, H, W, 3) in 0..1, for a person to judge."""
        from ...color import resize

        shown = [each for result in self.results for each in result.finding.pictures]
        if not shown:
            return labeled(torch.full((1, height, 2 * height, 3), 0.95), "no check gave a picture")
        cells = []
        for caption, picture in shown:
            one = scaled(picture.cpu().float().clamp(0, 1), height)
            if one.shape[2] < int(1.4 * height):  # so that captions are whole
                wide = torch.ones(1, height, int(1.4 * height), 3)
                wide[:, :, : one.shape[2]] = one
                one = wide
            cells.append(labeled(one, caption))
        rows = [side_by_side(cells[first : first + columns], gap=6) for first in range(0, len(cells), columns)]
        most = max(row.shape[2] for row in rows)
        padded = [torch.cat([row, torch.ones(1, row.shape[1], most - row.shape[2], 3)], 2) for row in rows]
        made = torch.cat(padded, 1)
        return made if made.shape[2] <= 4096 else resize(made, (round(made.shape[1] * 4096 / most), 4096))


def _fitted(row: Sequence[str], limits: Sequence[int]) -> list[tuple[str, int]]:
    """Cells with how many letters go on a line of theirs; a row of two cells is a note, which goes on to the end."""
    return list(zip(row, (limits[0], 130) if len(row) == 2 else limits, strict=False))


def _row(result: Result) -> tuple[str, ...]:
    finding = result.finding
    seconds = "" if finding.verdict == "not run" else f"{result.seconds:.2f}"
    peak = "" if result.peak is None else f"{result.peak / MIB:.0f} MiB"
    return result.check.name, finding.found, result.check.expected, finding.verdict, seconds, peak


def _columns(texts: Sequence[str], widths: Sequence[int]) -> list[str]:
    """One row of a table, each cell wrapped within its column."""
    cells = [textwrap.wrap(text, width) or [""] for text, width in zip(texts, widths, strict=True)]
    lines = []
    for number in range(max(map(len, cells))):
        parts = [cell[number] if number < len(cell) else "" for cell in cells]
        lines.append("  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)))
    return lines


def _entry(result: Result) -> dict[str, Any]:
    check, finding = result.check, result.finding
    numbers = {name: value if math.isfinite(value) else str(value) for name, value in finding.numbers.items()}
    return {
        "group": check.group,
        "name": check.name,
        "measures": check.measures,
        "expected": check.expected,
        "why": check.why,
        "found": finding.found,
        "verdict": finding.verdict.replace(" ", "_"),
        "note": finding.note,
        "numbers": numbers,
        "seconds": round(result.seconds, 3),
        "peak_mib": None if result.peak is None else round(result.peak / MIB),
    }


def check_place(path: Path) -> None:
    """Whether a report may go to a place: an older report is replaced, nothing else.

    :raises ValueError: there is a file that is none of ours.
    """
    if not path.exists():
        return
    try:
        content = parse(path.read_bytes()) if path.stat().st_size < _TOO_LONG else None
        ours = isinstance(content, dict) and content.get("report") == KIND
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise ValueError(f"{path} is no report of the doctor, and is not replaced; choose another name.")


def save(report: Report, path: Path) -> None:
    """Write a report as JSON, see :func:`check_place`.

    :raises OSError: it cannot be written; an older one is as it was.
    """
    _write(report, path)


def _write(report: Report, path: Path, new: bool = False) -> None:
    with whole(path, new=new) as beside:
        beside.write_text(report.json(), "utf-8")


def save_new(report: Report, folder: Path, stem: str, number: int) -> Path:
    """Write a report under the first free number, ``stem_00001_.json``; nothing is replaced.

    :raises OSError: it cannot be written.
    """
    return write_new(folder, stem, number, partial(_write, report), SUFFIX)
