"""A paper's table made again: which results belong to which run, and our numbers beside the paper's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files.output import whole
from ..files.plain_json import parse, short
from .measure_report import number
from .measure_table import Measured

#: Kosugi 2025 (arXiv 2505.15812): FID and SI-FID of its method on its 335 pairs.
PAPER: Mapping[str, float] = {"fid_reference": 95.27, "si_fid": 5.51}
PAIRS, SIDE = 335, 512

#: In a folder of results: what made them.
MADE = "reproduce.json"
_KIND, _TOO_LONG = "exemplar reproduce", 2**20


def begin(folder: Path, made: Mapping[str, Any], pictures: Sequence[Path]) -> None:
    """Whether a folder's results are of this run, or there are none; then what makes them is noted there.

    :param made: what the results depend on, by name, as JSON can hold it.
    :param pictures: where results are to be.
    :raises ValueError: results of another run, or pictures that nobody knows the maker of; the differences are named.
    :raises OSError: the folder can't be written to.
    """
    path = folder / MADE
    if path.exists():
        found, wanted = dict(_flat(_read(path))), dict(_flat(json.loads(json.dumps(made))))
        other = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
        if other:
            said = "; ".join(f"{name} is {_said(found.get(name))}, now {_said(wanted.get(name))}" for name in other[:4])
            raise ValueError(
                f"{folder} holds results of another run ({said}); name another folder with --output, or do it the same "
                "way."
            )
        return
    there = next((picture for picture in pictures if picture.exists()), None)
    if there is not None:
        raise ValueError(
            f"{there} is there already, and nothing says what made it; name another folder with --output, which is "
            "empty."
        )
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"report": _KIND, "made": made}, indent=1, ensure_ascii=False) + "\n"
    with whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def _flat(made: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """What stands in mappings within mappings, under names with dots."""
    for name, value in made.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _read(path: Path) -> dict[str, Any]:
    """What a folder's results depend on.

    :raises ValueError: the file is none of ours.
    """
    try:
        content = parse(path.read_bytes()) if path.stat().st_size < _TOO_LONG else None
    except ValueError:
        content = None
    made = content.get("made") if isinstance(content, dict) and content.get("report") == _KIND else None
    if not isinstance(made, dict):
        raise ValueError(f"{path} is no note of this command; take it away, or name another folder with --output.")
    return made


def _said(value: Any) -> str:
    return "not said" if value is None else short(json.dumps(value), 80)


def beside_paper(measured: Mapping[str, Measured]) -> str:
    """Our published numbers of each method beside the paper's, as text.

    :param measured: method -> what was found; at least one.
    """
    rows = {row.metric.key: row.metric for each in measured.values() for row in each.rows if row.metric.published_by}
    lines = [("as published", "the paper", *measured)]
    for key, metric in rows.items():
        found = (each.row(key) for each in measured.values())
        ours = (number(row.published if row else None) for row in found)
        lines.append((metric.name, f"{PAPER[key]:.2f}" if key in PAPER else "-", *ours))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [_line(line, widths) for line in lines]
    count = len(next(iter(measured.values())).names)
    text.append(f"The paper's are of {PAIRS} pairs, ours of {count}.")
    if count != PAIRS:
        text.append("FID falls with the number of pictures: of another number it does not compare.")
    return "\n".join(text)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    (first, *others), (wide, *more) = cells, widths
    return "  ".join([first.ljust(wide), *(cell.rjust(each) for cell, each in zip(others, more, strict=True))])
