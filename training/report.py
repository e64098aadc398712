"""What the measurements look like: a table, a plot and a contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from comfyui_exemplar.files.output import whole
from comfyui_exemplar.files.saving import save_image

from .measure import Outcome
from .pairs import EvaluationPairs

ROWS = 24


def rounded(value):
    """What is written as JSON, with numbers of four digits behind the point."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 4) if isinstance(value, float) else value


def summary(outcomes: dict[str, Outcome], count: Tensor, against: tuple[str, ...]) -> dict:
    """Means over pairs, by number of things, and against each of the simple ways."""
    methods = {}
    for name, outcome in outcomes.items():
        row: dict[str, float] = {"psnr": float(outcome.psnr.mean())}
        for label, rows in (("all", count > 0), ("one", count == 1), ("two", count == 2)):
            row[f"inside_{label}"] = float(outcome.inside[rows].mean())
            for i, other in enumerate(against):
                theirs = outcomes[other].inside[rows]
                row[f"lower_{label}_{i}"] = 1 - row[f"inside_{label}"] / float(theirs.mean())
                row[f"better_{label}_{i}"] = float((outcome.inside[rows] < theirs).float().mean())
        row["whole"] = float(outcome.whole.mean())
        methods[name] = row
    return {
        "pairs": {"one": int((count == 1).sum()), "two": int((count == 2).sum())},
        "against": list(against),
        "methods": methods,
    }


def table(numbers: dict) -> str:
    """Markdown."""
    pairs, against = numbers["pairs"], numbers["against"]
    lines = [
        f"{pairs['one']} pairs of one thing, {pairs['two']} of two things in swapped places ({numbers['split']} "
        "split). Error: mean distance in (a, b) inside the things.",
        "",
        "| method | error | one thing | two things | PSNR (dB) | "
        + " | ".join(f"better than {name}" for name in against)
        + " |",
        "| --- | --- | --- | --- | --- |" + " --- |" * len(against),
    ]
    for name, row in numbers["methods"].items():
        better = " | ".join(
            "-" if name == other else f"{row[f'better_all_{i}']:.0%} of pairs, error {row[f'lower_all_{i}']:+.0%} lower"
            for i, other in enumerate(against)
        ).replace("+", "")
        lines.append(
            f"| {name} | {row['inside_all']:.1f} | {row['inside_one']:.1f} | {row['inside_two']:.1f} | "
            f"{row['psnr']:.2f} | {better} |"
        )
    lines += ["", "| best match lies in the same thing (two things) | share |", "| --- | --- |"]
    lines += [f"| {name} | {share:.3f} |" for name, share in numbers["matching"].items()]
    if "photographs" in numbers:
        lines += ["", "| two crops of a held-out photograph | error |", "| --- | --- |"]
        lines += [f"| {name} | {error:.1f} |" for name, error in numbers["photographs"].items()]
    if "words" in numbers:
        lines += ["", "| the drawing from a name is nearest to the thing's own | share of names |", "| --- | --- |"]
        errors = {name: value for name, value in numbers["words"].items() if name.startswith("error")}
        lines += [f"| {name} | {share:.2f} |" for name, share in numbers["words"].items() if name not in errors]
        lines += ["", "| a name under noise, at timestep | squared error of the latent |", "| --- | --- |"]
        lines += [f"| {name.removeprefix('error at ')} | {value:.3f} |" for name, value in errors.items()]
    return "\n".join(lines) + "\n"


def pyplot():
    """matplotlib's, for files alone."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_plot(figure, path: Path, dpi: int = 110, **more) -> None:
    """A figure as a PNG, and closed.

    :param more: for ``Figure.savefig``.
    """
    figure.tight_layout()
    with whole(path) as beside:
        figure.savefig(beside, dpi=dpi, **more)
    pyplot().close(figure)


def plot(outcomes: dict[str, Outcome], count: Tensor, full: str, against: tuple[str, ...], path: Path) -> None:
    """Left: error of every method, one and two things. Right: the full method against others, pair by pair."""
    figure, (bars, *clouds) = pyplot().subplots(
        1, 1 + len(against), figsize=(5.5 + 3.6 * len(against), 4.6), width_ratios=[1.5] + [1] * len(against)
    )
    names = list(outcomes)
    at = np.arange(len(names))
    for shift, number, color, label in ((-0.2, 1, "#4477aa", "one thing"), (0.2, 2, "#ee6677", "two things, swapped")):
        values = [float(outcomes[name].inside[count == number].mean()) for name in names]
        bars.barh(at + shift, values, 0.4, color=color, label=label)
    bars.set_yticks(at, names)
    bars.invert_yaxis()
    bars.set_xlabel("mean error in (a, b) inside the things")
    bars.legend(loc="lower right", fontsize=8)
    for axes, other in zip(clouds, against, strict=True):
        for number, color in ((1, "#4477aa"), (2, "#ee6677")):
            rows = count == number
            axes.scatter(outcomes[other].inside[rows], outcomes[full].inside[rows], s=9, color=color, alpha=0.7)
        top = max(float(outcomes[other].inside.max()), float(outcomes[full].inside.max()))
        axes.plot([0, top], [0, top], color="gray", linewidth=0.8)
        axes.set(xlabel=f"error: {other}", ylabel="error: full method", xlim=(0, None), ylim=(0, None))
        better = float((outcomes[full].inside < outcomes[other].inside).float().mean())
        axes.set_title(f"below the line: better ({better:.0%} of pairs)", fontsize=9)
    save_plot(figure, path)


def contact_sheet(pairs: EvaluationPairs, shown: dict[str, Tensor], path: Path, seed: int = 0) -> None:
    """ROWS random pairs in two columns: gray, reference, every way shown, truth."""
    columns = {"gray": pairs.gray, "reference": pairs.reference}
    columns |= {name: pictures for name, pictures in shown.items() if name != "gray"} | {"truth": pairs.truth}
    chosen = np.random.default_rng(seed).choice(len(pairs.names), min(ROWS, len(pairs.names)), replace=False)
    side, gap, head = pairs.truth.shape[1], 6, 16
    block = len(columns) * (side + gap) + 3 * gap
    sheet = Image.new("RGB", (2 * block, head + -(-len(chosen) // 2) * (side + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for half in range(2):
        for i, name in enumerate(columns):
            draw.text((half * block + i * (side + gap) + 2, 2), name.split(" (")[0], fill="black")
    for place, row in enumerate(chosen):
        x, y = place % 2 * block, head + place // 2 * (side + gap)
        for i, pictures in enumerate(columns.values()):
            pixels = (pictures[row] * 255).round().byte().numpy()
            sheet.paste(Image.fromarray(pixels), (x + i * (side + gap), y))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(sheet, path, quality=90)
