"""A page to look at an archive where it matters: failed files first, then results by confidence, the least sure first.

One HTML file without scripts that loads nothing; thumbnails are in it, pictures and results are links beside it. Names
and errors come from anyone's files and are escaped.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TextIO

from ..output import whole
from .journal import Journal, Row

NAME = "report.html"
#: What the page begins with, by which an older one is known as ours.
_MARK = "<!doctype html><!-- exemplar.archive report -->"
_STYLE = """
:root { color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif; }
body { margin: 0 auto; padding: 1rem; max-width: 90rem; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; } h2 { font-size: 1.1rem; margin: 1.5rem 0 .5rem; }
nav a { margin-right: 1rem; } table { border-collapse: collapse; } th { text-align: left; padding-right: 1rem; }
td { overflow-wrap: anywhere; } .error { color: #c00; } @media (prefers-color-scheme: dark) { .error { color: #f77; } }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: .8rem; padding: 0; margin: 0; }
li { list-style: none; content-visibility: auto; contain-intrinsic-size: 17rem 12rem; overflow-wrap: anywhere; }
img { display: block; max-width: 100%; height: 120px; object-fit: contain; object-position: left; background: #8884; }
.sure { font-weight: 600; } small { opacity: .75; } ul { padding: 0; } ul li { padding: .3rem 0; }
"""
_HEADINGS = {
    "failed": "Failed",
    "sure": "Done, the least sure first",
    "unknown": "Done, by a method that does not say how sure it is",
    "left": "Not done yet",
}


def check_report(path: Path) -> None:
    """Whether a report can be written there without replacing anything else.

    :raises ValueError: there is a file that is none.
    """
    if os.path.lexists(path):
        with path.open("rb") as file:
            if file.read(len(_MARK)) != _MARK.encode():
                raise ValueError(f"{path} is there already and is no report of an archive; move it away.")


def write_report(path: Path, journal: Journal, source: Path, output: Path, facts: Mapping[str, str]) -> None:
    """Write the page, row by row.

    :param path: in the folder of results. ``source``: folder of the pictures, ``output`` of the results.
    :param facts: what stands at its top: name and value.
    :raises ValueError: a file of the name that is no report.
    :raises OSError: it cannot be written.
    """
    check_report(path)
    counts = _counts(journal)
    with whole(path) as beside, beside.open("w", encoding="utf-8", errors="xmlcharrefreplace") as file:
        file.write(
            f'{_MARK}<html lang="en"><head><meta charset="utf-8">'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
            "style-src 'unsafe-inline'\">"
            f'<meta name="viewport" content="width=device-width"><title>Archive: {_text(source.name)}</title>'
            f"<style>{_STYLE}</style></head><body><h1>Archive: {_text(source.name)}</h1><nav>"
        )
        file.write("".join(f'<a href="#{name}">{_HEADINGS[name]}: {n}</a>' for name, n in counts.items() if n))
        file.write("</nav><table>")
        file.write("".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts.items()))
        file.write("</table>")
        _write_rows(file, journal, _Links(path.parent, source, output), counts)
        file.write("</body></html>\n")


class _Links:
    """Addresses from the page to files."""

    def __init__(self, page: Path, source: Path, output: Path) -> None:
        self._page, self._source, self._output = page.absolute(), source.absolute(), output.absolute()

    def source(self, row: Row) -> str:
        return self._to(self._source / row.path)

    def result(self, row: Row) -> str:
        return self._to(self._output / row.place)

    def _to(self, path: Path) -> str:
        try:
            relative = os.path.relpath(path, self._page)
        except ValueError:  # another drive
            return path.as_uri()
        # percent signs for all but what every address may have, so that no name is taken for a scheme or a query
        address = "".join(
            chr(byte) if re.match(r"[A-Za-z0-9/._~-]", chr(byte)) else f"%{byte:02X}"
            for byte in os.fsencode(relative.replace(os.sep, "/"))
        )
        return f"./{address}"


def _counts(journal: Journal) -> dict[str, int]:
    counts = dict.fromkeys(_HEADINGS, 0)
    for row in journal.sorted_rows():
        counts[_part(row)] += 1
    return counts


def _part(row: Row) -> str:
    if row.state == "failed":
        return "failed"
    if row.state != "done":
        return "left"
    return "unknown" if row.confidence is None else "sure"


def _write_rows(file: TextIO, journal: Journal, links: _Links, counts: Mapping[str, int]) -> None:
    for part, heading in _HEADINGS.items():
        if not counts[part]:
            continue
        tag = "ul" if part in ("failed", "left") else "ol"
        file.write(f'<h2 id="{part}">{heading}: {counts[part]}</h2><{tag}>')
        for row in journal.sorted_rows():
            if _part(row) == part:
                file.write(_row(row, part, links))
        file.write(f"</{tag}>")


def _row(row: Row, part: str, links: _Links) -> str:
    name, source = _text(row.path), f'<a href="{links.source(row)}">picture</a>'
    if part == "failed":
        return f'<li>{name} <span class="error">{_text(row.error)}</span> <small>{source}</small></li>'
    if part == "left":
        return f"<li>{name} <small>{source}</small></li>"
    result, sure = links.result(row), ""
    if row.confidence is not None:
        sure = f'<span class="sure">{row.confidence:.2f}</span> '
    small = "no thumbnail"
    if row.thumbnail:
        data = base64.b64encode(row.thumbnail).decode()
        small = f'<img alt="before and after: {name}" src="data:image/jpeg;base64,{data}">'
    copy = " copy" if row.first else ""
    return f'<li><a href="{result}">{small}</a>{sure}{name} <small>{source} {row.seconds or 0:.2f} s{copy}</small></li>'


def _text(text: str) -> str:
    """Anything as text of a page; characters that cannot be seen are named, so that none turns a line around."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return escape(shown)
