"""Measure how well colors of a drifted copy come back to the original's pixels, beside what people do without it.

Ways: the plain Lab merge that everybody uses; the same on the copy without drift (the upper bound); a lookup by the
true displacement; transfer_colors with local and with global motion; and what needs no place at all: a statistics
match, and the three methods of ComfyUI's own ColorTransfer node, by their published formulas (baselines.py).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bench.resident import Peak
from comfyui_exemplar.color import color_ghosting, luminance, merge, merge_chroma, merge_luminance, rgb_to_lab
from comfyui_exemplar.files.output import whole
from comfyui_exemplar.pipelines.transfer import TransferSettings, transfer_colors

from .baselines import match_histogram, monge_kantorovich, reinhard, tint
from .drift import sample
from .drift_pairs import A_KIND, DRIFTING, KINDS, MIXED, STILL, DriftPair, Pairs
from .report import rounded

PLAIN, BOUND, OURS, GLOBAL = "plain merge", "plain merge, no drift", "ours", "ours, one global fit"
TRUE = "true displacement"
#: Where the confidence is read as a yes or no.
HALF = 0.5
#: Pairs that a process measures before it tells.
_A_PART = 4
#: Mean step of (a, b), Lab units a pixel, below which a truth counts as having none.
_FEW_STEPS = 0.01


@dataclass(frozen=True)
class Colored:
    """``image`` (1, H, W, 3), and of a registration the ``confidence`` (H, W) and ``displacement`` (H, W, 2)."""

    image: Tensor
    confidence: Tensor | None = None
    displacement: Tensor | None = None
    notes: tuple[str, ...] = ()


Way = Callable[[DriftPair], Colored]


def registered(settings: TransferSettings) -> Way:
    """transfer_colors with some settings."""

    def color(pair: DriftPair) -> Colored:
        found = transfer_colors(pair.original, pair.edited, settings)
        return Colored(found.images, found.confidence[0], found.displacement[0], tuple(found.notes))

    return color


def by_truth(pair: DriftPair) -> Colored:
    """What a perfect registration gives: the edit looked up where it is known to show each pixel, or else nearest."""
    size = torch.tensor([pair.edited.shape[2], pair.edited.shape[1]])
    places = torch.minimum((pair.places * size).clamp_min(0.5), size - 0.5)
    chroma = rgb_to_lab(sample(pair.edited[0], places)[None])[..., 1:]
    return Colored(merge_chroma(chroma, pair.original), displacement=pair.displacement)


WAYS: dict[str, Way] = {
    PLAIN: lambda pair: Colored(merge_luminance(pair.edited, pair.original)),
    BOUND: lambda pair: Colored(merge_luminance(pair.undrifted, pair.original)),
    OURS: registered(TransferSettings()),
    GLOBAL: registered(TransferSettings(motion="global")),
    TRUE: by_truth,
    "statistics match (a tint)": lambda pair: Colored(tint(pair.original, pair.edited)),
    "ColorTransfer reinhard_lab": lambda pair: Colored(reinhard(pair.original, pair.edited)),
    "ColorTransfer mkl_lab": lambda pair: Colored(monge_kantorovich(pair.original, pair.edited)),
    "ColorTransfer histogram": lambda pair: Colored(match_histogram(pair.original, pair.edited)),
}


def measured(pair: DriftPair, made: Colored) -> dict[str, float]:
    """Numbers of one way on one pair; see :func:`summary` for what they are."""
    lab, truth = rgb_to_lab(made.image)[0], rgb_to_lab(pair.truth)[0]
    apart = (lab - truth)[..., 1:].norm(dim=-1)  # as color.ab_error has it, whose mean over different pixels is wanted
    found = {"error": float(apart.mean()), "error where seen": float(apart[pair.seen & ~pair.redrawn].mean())}
    if bool(pair.redrawn.any()):
        found["error where redrawn"] = float(apart[pair.redrawn].mean())
    found["lightness off"] = float((lab[..., 0] - luminance(pair.original)[0]).abs().max())
    found["ghosting"] = float(color_ghosting(made.image, pair.original))
    return found | _displaced(pair, made) | _flagged(pair, made)


def _displaced(pair: DriftPair, made: Colored) -> dict[str, float]:
    """How far the displacement is off, pixels, where the edit shows the same; without any it is what was moved."""
    if made.displacement is None:
        return {}
    keeps = pair.seen & ~pair.redrawn
    off = (made.displacement - pair.displacement).norm(dim=-1)
    at_edges = keeps & (_steps(pair.original) > 4)
    return {
        "displaced": float(off[keeps].mean()),
        "displaced at edges": float(off[at_edges].mean()) if bool(at_edges.any()) else 0.0,
        "displaced, worst 1 %": float(off[keeps].kthvalue(max(1, int(0.99 * int(keeps.sum()))))[0]),
        "moved": float(pair.displacement.norm(dim=-1)[keeps].mean()),
    }


def _flagged(pair: DriftPair, made: Colored) -> dict[str, float]:
    """Pixels that the confidence calls unsure, of those that the edit shows, and shares of those that it should not."""
    if made.confidence is None:
        return {}
    unsure, wrong = made.confidence < HALF, pair.redrawn & pair.seen
    found = {
        "flagged right": float((unsure & wrong).sum()),
        "flagged": float((unsure & pair.seen).sum()),
        "wrong": float(wrong.sum()),
        "unsure where the same": float(unsure[pair.seen & ~pair.redrawn].float().mean()),
    }
    if not bool(pair.seen.all()):
        found["unsure where not seen"] = float(unsure[~pair.seen].float().mean())
    return found


def measure(pair: DriftPair, ways: dict[str, Way] = WAYS) -> tuple[dict, dict[str, Colored]]:
    """(numbers by way, results by way) of a pair."""
    numbers, results = {}, {}
    for name, way in ways.items():
        with Peak() as peak:
            start = time.process_time()
            results[name] = way(pair)
            seconds = time.process_time() - start
        numbers[name] = {**measured(pair, results[name]), "seconds": seconds, "peak MB": peak.grown / 1e6}
    truth = float(color_ghosting(pair.truth, pair.original))
    height, width = pair.original.shape[1:3]
    row = {"kind": pair.kind, "amount": round(pair.amount, 3), "name": pair.name, "height": height, "width": width}
    return {**row, "truth's ghosting": truth, "ways": numbers}, results


def summary(rows: list[dict]) -> dict:
    """Means over pairs, by kind and over all that drift.

    ``error``: mean distance in (a, b) from the truth. ``of plain``, ``of bound``: ours as a part of the plain merge's,
    and of the plain merge's on the copy without drift; ``where seen``: over what the edit shows and did not redraw.
    ``taken away``: of the error that drift adds to the plain merge's, the share that ours does not have.
    ``ghosting``: as a part of the truth's. ``displaced``: distance of the displacement found from the true one, pixels,
    where the edit shows the same. ``precision`` and ``recall`` of what is redrawn, at confidence one half, over all
    pixels of all pairs.
    """
    groups = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    groups = {kind: found for kind, found in groups.items() if found}
    everything = {
        "all that drift": [row for row in rows if row["kind"] in DRIFTING],
        "all without drift": [row for row in rows if row["kind"] in STILL],
    }
    made = {name: _group(found) for name, found in {**groups, **everything}.items() if found}
    return {"pairs": len(rows), "groups": made, "goals": _goals(made)}


def _group(rows: list[dict]) -> dict:
    ways = {way: _means([row["ways"][way] for row in rows]) for way in rows[0]["ways"]}
    truth = sum(row["truth's ghosting"] for row in rows) / len(rows)
    for numbers in ways.values():
        # flat drawings without any steps of color away from edges have nothing to be measured by
        numbers["ghosting"] = numbers["ghosting"] / truth if truth > _FEW_STEPS else None
        if numbers.get("wrong"):
            numbers["precision"] = numbers["flagged right"] / max(numbers["flagged"], 1e-9)
            numbers["recall"] = numbers["flagged right"] / numbers["wrong"]
    found = {"pairs": len(rows), "ways": ways}
    if OURS in ways:
        mine = ways[OURS]["error"]
        found["of plain"] = mine / max(ways[PLAIN]["error"], 1e-9)
        found["of bound"] = mine / max(ways[BOUND]["error"], 1e-9)
        found["of bound where seen"] = ways[OURS]["error where seen"] / max(ways[BOUND]["error where seen"], 1e-9)
        drifts = ways[PLAIN]["error"] - ways[BOUND]["error"]
        found["taken away"] = (ways[PLAIN]["error"] - mine) / drifts if drifts > 0.05 * ways[BOUND]["error"] else None
        found["better than plain"] = sum(
            row["ways"][OURS]["error"] < row["ways"][PLAIN]["error"] for row in rows
        ) / len(rows)
    return found


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    keys = dict.fromkeys(key for row in rows for key in row)
    values = {key: [row[key] for row in rows if key in row] for key in keys}
    highest = ("lightness off", "peak MB")
    return {key: max(found) if key in highest else sum(found) / len(found) for key, found in values.items()}


def _goals(groups: dict) -> list[dict]:
    """What is to be reached, what was, and whether."""
    drifting, calm = groups.get("all that drift"), groups.get("all without drift")
    found: list[tuple[str, float, float, bool]] = []
    if drifting:
        found += [
            ("error, of the plain merge's", drifting["of plain"], 0.4, True),
            ("error, of the same copy's without drift", drifting["of bound"], 1.25, True),
            ("the same, where the edit shows the place", drifting["of bound where seen"], 1.25, True),
            ("color ghosting, of the truth's", drifting["ways"][OURS]["ghosting"], 1.1, True),
        ]
    if calm:
        found += [
            ("nothing drifted: error, of the plain merge's", calm["of plain"], 1.02, True),
        ]
    for kind in ("redrawn", "mixed"):
        ways = groups.get(kind, {"ways": {}})["ways"].get(OURS, {})
        if "precision" in ways:
            found += [(f"{kind}: {each} at one half", ways[each], 0.8, False) for each in ("precision", "recall")]
    if drifting:
        off = max(each["ways"][OURS]["lightness off"] for each in groups.values())
        found.append(("L, furthest from the original's", off, 100 / 255, True))
    return [
        {"what": what, "found": value, "goal": goal, "at most": most, "held": value <= goal if most else value >= goal}
        for what, value, goal, most in found
    ]


def _steps(gray: Tensor) -> Tensor:
    """(1, H, W, 3) -> (H, W), the longest step of L to a neighbor."""
    lightness = rgb_to_lab(gray)[0, ..., 0]
    right = torch.nn.functional.pad(lightness.diff(dim=1).abs(), (0, 1))
    down = torch.nn.functional.pad(lightness.diff(dim=0).abs(), (0, 0, 0, 1))
    return torch.maximum(right, down)


def measured_part(
    packages: Path, split: str, kind: str, numbers: range, count: int, ways: tuple[str, ...]
) -> list[tuple[dict, tuple | None]]:
    """Some pairs of a kind: the row of each, and of those that the sheet shows pair, results and row."""
    from .transfer_report import SHEET

    pairs, found = Pairs(packages, split), []
    for at in numbers:
        pair = pairs.make(kind, at, count)
        row, results = measure(pair, {way: WAYS[way] for way in ways})
        # of most kinds the strongest, by turns a photograph and a drawing; of the others the first ones
        strongest = pair.amount == 1 and at % 2 == KINDS.index(kind) % 2
        shows = at < SHEET[kind] if kind in SHEET else strongest
        kept = {way: results[way] for way in (PLAIN, OURS)}
        row["number"] = at
        found.append((row, (pair, kept, row) if shows else None))
    return found


def _kept_part(file: Path, *part) -> list[tuple[dict, tuple | None]]:
    """:func:`measured_part`, kept in a file."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as beside:
            torch.save(measured_part(*part), beside)
    return torch.load(file, weights_only=False)  # written above, by this code


def _state(ways: tuple[str, ...]) -> str:
    """What the numbers depend on, in a few letters: the code that makes, colors and measures the pairs."""
    root = Path(merge.__file__).parents[1]
    files = [*root.glob("color/*.py"), *root.glob("pipelines/*.py"), *Path(__file__).parent.glob("*.py")]
    digest = hashlib.sha256(repr(ways).encode())
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def evaluate_transfer(
    folder: Path,
    out: Path,
    split: str = "test",
    *,
    kinds: tuple[str, ...] = KINDS,
    a_kind: int = A_KIND,
    mixed: int = MIXED,
    ways: tuple[str, ...] = tuple(WAYS),
    processes: int = 1,
) -> dict:
    """Writes ``transfer.json``, ``transfer.md``, ``transfer.png`` and ``transfer.jpg`` to ``out``.

    What an interrupted run of the same code left in ``out/transfer`` is used again.
    """
    from .transfer_report import plot, sheet, table

    out.mkdir(parents=True, exist_ok=True)
    scratch, parts = out / "transfer" / f"{split}-{a_kind}-{mixed}-{_state(ways)}", []
    for kind in kinds:
        count = mixed if kind == "mixed" else a_kind
        many = -(-count // _A_PART)
        parts += [(at / many, scratch / f"{kind}-{at}.pt", kind, range(at, count, many), count) for at in range(many)]
    parts.sort(key=lambda part: part[0])  # so that some of every kind are there early
    with ProcessPoolExecutor(processes, get_context("spawn")) if processes > 1 else _Here() as pool:
        done = [pool.submit(_kept_part, file, folder / "packages", split, *part, ways) for _, file, *part in parts]
        made = [each for part in tqdm(done, desc="parts", mininterval=10) for each in part.result()]
    made.sort(key=lambda each: (KINDS.index(each[0]["kind"]), each[0]["number"]))
    rows, shown = [row for row, _ in made], [kept for _, kept in made if kept]
    numbers = {"split": split, **summary(rows)}
    text = table(numbers)
    for name, content in (("transfer.json", written(numbers, rows)), ("transfer.md", text)):
        with whole(out / name) as beside:
            beside.write_text(content)
    plot(rows, out / "transfer.png")
    sheet(shown, out / "transfer.jpg")
    print(text)
    return numbers


def written(numbers: dict, rows: list[dict]) -> str:
    """JSON: the summary, and a line for each pair with the errors of all ways."""
    pairs = [{**{key: value for key, value in row.items() if key != "ways"}, "errors": _errors_of(row)} for row in rows]
    lines = ",\n  ".join(json.dumps(rounded(pair)) for pair in pairs)
    return f'{json.dumps(rounded(numbers), indent=1)[:-2]},\n "rows": [\n  {lines}\n ]\n}}\n'


def _errors_of(row: dict) -> dict[str, float]:
    return {way: numbers["error"] for way, numbers in row["ways"].items()}


class _Here(Executor):
    """Does it in this process, when the result is asked for."""

    def submit(self, work, /, *given):
        return _Later(work, given)


class _Later:
    def __init__(self, work, given) -> None:
        self.work, self.given = work, given

    def result(self):
        return self.work(*self.given)
