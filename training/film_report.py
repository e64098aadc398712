"""What the measurements of films look like: tables and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .film_ways import AUTOMATIC, FILM, KEYS, MEMORY, REFERENCES, THOROUGH
from .report import pyplot, save_plot

_COLORS = {FILM: "#4477aa", MEMORY: "#ee6677", AUTOMATIC: "#ccbb44", THOROUGH: "#228833"}


def table(numbers: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"{numbers['clips']} clips of {numbers['frames']} frames at {numbers['size']} x {numbers['size']} pixels "
        f"({numbers['split']} split). Error: mean distance in (a, b). CDC and warp: own, and of the truth's.",
        "",
        "| way | frames a clip | error | film on the same frames | around frame 10 | at the end | of that | CDC | of "
        "the truth's | warp | of the truth's |",
        "|" + " --- |" * 11,
    ]
    for name, row in numbers["ways"].items():
        film = ", ".join(f"{row[key]:.2f}" for key in row if key.startswith("film, "))
        cdc, warp = row["cdc"], row["warp"]
        lines.append(
            f"| {name} | {row['frames']} | {row['error']:.2f} | {film} | {_number(row['near'])} | "
            f"{_number(row['far'])} | {_number(row['far of near'], 'x')} | {_number(cdc, digits=5)} | "
            f"{_number(cdc and cdc / row['true cdc'], 'x')} | {_number(warp)} | "
            f"{_number(warp and warp / row['true warp'], 'x')} |"
        )
    lines += [
        "",
        "| protocol | shots | clips with the right cuts | score and error: rank correlation over shots, over frames | "
        "error without a further key frame, with the suggested, with a random one | suggested better than a random "
        "one, than random ones' mean | helps |",
        "|" + " --- |" * 7,
    ]
    for protocol, row in numbers["shots"].items():
        tried = (
            f"{_number(row['without'])}, {row['suggested']:.2f}, {row['random']:.2f} | "
            f"{row['better than a random one']:.0%}, {row[_MEAN]:.0%} | {row['helps']:.0%}"
            if row["tried"]
            else "- | - | -"
        )
        lines.append(
            f"| {protocol} | {row['shots']} | {row['cuts right']:.0%} | {_number(row['rank correlation'])}, "
            f"{_number(row['rank correlation, frames'])} | {tried} |"
        )
    lines += ["", "| goal | found | aimed at | |", "| --- | --- | --- | --- |"]
    for goal in numbers["goals"]:
        sign, held = ("at most" if goal["at most"] else "at least"), ("held" if goal["held"] else "missed")
        lines.append(f"| {goal['what']} | {goal['found']:.2f} | {sign} {goal['goal']:g} | {held} |")
    return "\n".join(lines) + "\n"


_MEAN = "better than random ones' mean"


def _number(value: float | None, unit: str = "", digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def plot(numbers: dict[str, Any], path: Path) -> None:
    """Left: error by distance from the shot's middle. Middle: steadiness. Right: score against error, shot by shot."""
    figure, (left, middle, right) = pyplot().subplots(1, 3, figsize=(16, 5))
    names = list(numbers["ways"])
    for name in names:
        way, _, protocol = name.partition(": ")
        points = numbers["ways"][name]["by distance"]
        style = "--" if protocol == REFERENCES else "-"
        left.plot([int(at) for at in points], list(points.values()), style, color=_COLORS[way], label=name)
    left.set(xlabel="frames from the middle of the shot", ylabel="mean error in (a, b)", ylim=(0, None))
    left.legend(fontsize=7)
    known = [name for name in names if numbers["ways"][name]["cdc"] is not None]
    for shift, key, color in ((-0.2, "cdc", "#4477aa"), (0.2, "warp", "#ee6677")):
        values = [numbers["ways"][name][key] / numbers["ways"][name][f"true {key}"] for name in known]
        middle.barh([at + shift for at in range(len(known))], values, 0.4, color=color, label=f"{key}, of the truth's")
    middle.axvline(1, color="gray", linewidth=0.8)
    middle.set_yticks(range(len(known)), known, fontsize=7)
    middle.invert_yaxis()
    middle.legend(fontsize=7)
    for protocol, color in ((KEYS, "#4477aa"), (REFERENCES, "#ee6677")):
        row = numbers["shots"][protocol]
        found = row["score and error"]
        label = f"{protocol}: rank correlation {_number(row['rank correlation'])}"
        right.scatter([each[0] for each in found], [each[1] for each in found], s=14, color=color, label=label)
    right.set(xlabel="score of the shot", ylabel="its mean error in (a, b)", ylim=(0, None))
    right.legend(fontsize=7)
    save_plot(figure, path, 90)
