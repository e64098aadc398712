"""Measure films on rendered clips with known color, beside ways that color each frame by itself, in one run.

Error is the mean distance in (a, b) of CIE Lab from the frame without grain. Divergence of color distributions (CDC)
and change of chroma along the motion are told beside those of the true frames, over the same pairs of frames, which lie
within one shot each: a pair over a cut would be alike for all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from comfyui_exemplar.color import merge
from comfyui_exemplar.files.output import whole

from .clip_scenes import Stock
from .clips import DEVELOPMENT, EVALUATION, Clip
from .film_clips import Truth
from .film_ways import AUTOMATIC, FILM, JOBS, KEYS, MEMORY, REFERENCES, THOROUGH, measure, open_bench, windows
from .measure import rank_correlation
from .report import rounded

CLIPS, FRAMES, SIZE = 10, 500, 128
#: Frames a bin of the distance from the key frame.
DISTANCE = 10
#: What each way's numbers depend on, below the pack's root; and what all depend on.
_FILM = ("pipelines/film", "pipelines/shots", "color/steady", "color/frame_flow", "color/flow")
_MEMORY = ("pipelines/memory", "memory/", "attention/")
_OF_WAY = {
    FILM: (*_FILM, *_MEMORY),
    MEMORY: _MEMORY,
    AUTOMATIC: ("pipelines/ddcolor", "networks/ddcolor/", "color/temporal"),
    THOROUGH: ("pipelines/exemplar", "attention/", "diffusion/"),
}
_ALL = tuple(f"color/{name}" for name in ("lab", "gray", "guided", "merge", "film_metrics"))

Row = dict[str, Any]


def evaluate_film(
    folder: Path,
    model: Path,
    out: Path,
    split: str = "test",
    *,
    clips: int = CLIPS,
    frames: int = FRAMES,
    processes: int = 1,
    ways: Sequence[str] = (FILM, MEMORY, AUTOMATIC, THOROUGH),
) -> dict[str, Any]:
    """Writes ``film.json``, ``film.md`` and ``film.png`` to ``out``.

    What an interrupted run of the same code left in ``out/film`` is used again, each way of each clip by itself.

    :param split: "test", or "dev" for choosing settings: other things, photographs, and seeds (see ``clips.py``).
    :param ways: which of them; the film is always measured.
    """
    from .film_report import plot, table

    jobs = tuple(job for job in JOBS if job[0] == FILM or job[0] in ways)
    seeds = (EVALUATION if split == "test" else DEVELOPMENT)[:clips]
    scratch = out / "film" / f"{split}-{frames}"
    states = {way: state(way, model) for way, _ in jobs}
    given = [(folder, model, scratch, split, seed, frames, jobs, states) for seed in seeds]
    bar: Iterable[Row]
    if processes > 1:
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            made = [each.result() for each in tqdm([pool.submit(measured_clip, *each) for each in given], desc="clips")]
    else:
        bar = (measured_clip(*each) for each in tqdm(given, desc="clips"))
        made = list(bar)
    numbers = {"split": split, "clips": len(made), "frames": frames, "size": SIZE, **summary(made, frames)}
    text = table(numbers)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in (("film.json", json.dumps(rounded(numbers), indent=1) + "\n"), ("film.md", text)):
        with whole(out / name) as beside:
            beside.write_text(content)
    plot(numbers, out / "film.png")
    print(text)
    return numbers


def measured_clip(
    folder: Path,
    model: Path,
    scratch: Path,
    split: str,
    seed: int,
    frames: int,
    jobs: Sequence[tuple[str, str]],
    states: dict[str, str],
) -> Row:
    """One clip in all ways: what ``measure`` gives by "way, protocol"; kept in files as soon as each is there."""
    files = {
        job: scratch / f"{seed}-{'-'.join(filter(None, job)).replace(', ', '-').replace(' ', '-')}.json" for job in jobs
    }
    found, bench = {}, None
    for job, file in files.items():
        kept = json.loads(file.read_text()) if file.exists() else {}
        if kept.get("state") != states[job[0]]:
            if bench is None:
                bench = open_bench(model, Truth(Clip(Stock.load(folder, split), seed, frames=frames, size=SIZE)))
            with torch.no_grad():
                kept = {"state": states[job[0]], **measure(bench, *job), "middles": bench.truth.middles}
            file.parent.mkdir(parents=True, exist_ok=True)
            with whole(file) as beside:
                beside.write_text(json.dumps(kept) + "\n")
        found[called(*job)] = kept
    return found


def called(way: str, protocol: str) -> str:
    """A way and its protocol in one."""
    return f"{way}: {protocol}" if protocol else way


def summary(clips: Sequence[Row], frames: int) -> dict[str, Any]:
    """Means over clips.

    ``error``: over the frames that were measured; ``of film``: the film's own on those same frames, as a part of it.
    ``near`` and ``far``: around frame 10 and of the last frames. ``cdc`` and ``warp``: own, the truth's.
    """
    rows: dict[str, Row] = {}
    for way, protocol in JOBS:
        name = called(way, protocol)
        found = [clip[name] for clip in clips if name in clip]
        if not found:
            continue
        films = {each: [clip[called(FILM, each)]["error"] for clip in clips] for each in (KEYS, REFERENCES)}
        near, far = (_over([each["error"] for each in found], window) for window in windows(frames))
        row: Row = {"frames": sum(len(each["error"]) for each in found) // len(found)}
        row["error"] = float(np.mean([np.mean(list(each["error"].values())) for each in found]))
        row |= {"near": near, "far": far, "far of near": far / near if near and far else None}
        for each in (KEYS, REFERENCES) if not protocol else (protocol,):
            same = [_over([film], each_way["error"]) for film, each_way in zip(films[each], found, strict=True)]
            row[f"film, {each}"] = float(np.mean(same))
        row["warp"], row["true warp"] = _ratio([each["warp"] for each in found])
        row["cdc"], row["true cdc"] = _ratio([each["divergence"] for each in found])
        row["by distance"] = _by_distance(found)
        rows[name] = row
    shots = {protocol: _of_shots([clip[called(FILM, protocol)] for clip in clips]) for protocol in (KEYS, REFERENCES)}
    return {"ways": rows, "shots": shots, "goals": _goals(rows, shots)}


def _over(errors: Sequence[dict[str, float]], numbers: Iterable[Any]) -> float | None:
    """Mean of some frames' errors, each clip alike."""
    wanted = {str(number) for number in numbers}
    means = [np.mean(known) for each in errors if (known := [each[number] for number in wanted & each.keys()])]
    return float(np.mean(means)) if means else None


def _ratio(sums: Sequence[Sequence[float]]) -> tuple[float | None, float | None]:
    """(its own, the truth's), mean over clips that have pairs."""
    known = [each for each in sums if each[2]]
    if not known:
        return None, None
    return tuple(float(np.mean([each[i] / each[2] for each in known])) for i in (0, 1))  # type: ignore[return-value]


def _by_distance(found: Sequence[Row]) -> dict[str, float]:
    """Mean error by frames away from the middle of the shot, in bins."""
    bins: dict[int, list[float]] = {}
    for each in found:
        for number, error in each["error"].items():
            away = min(abs(int(number) - middle) for middle in each["middles"])
            bins.setdefault(away // DISTANCE, []).append(error)
    return {str(place * DISTANCE): float(np.mean(bins[place])) for place in sorted(bins)}


def _of_shots(clips: Sequence[Row]) -> Row:
    """What the film says of its shots beside what is true."""
    shots = [shot for clip in clips for shot in clip["shots"] if shot["score"] is not None]
    found: Row = {"shots": len(shots), "cuts right": float(np.mean([_cuts_right(clip) for clip in clips]))}
    score, error = (torch.tensor([shot[key] for shot in shots]) for key in ("score", "error"))
    found["score and error"] = [[float(a), float(b)] for a, b in zip(score, error, strict=True)]
    found["rank correlation"] = -rank_correlation(score, error) if len(shots) > 2 else None
    frames = [
        (match, clip["error"][str(number)])
        for clip in clips
        for shot in clip["shots"]
        for number, match in enumerate(shot["match"], shot["start"])
    ]
    match, error = torch.tensor(frames).unbind(-1)
    found["rank correlation, frames"] = -rank_correlation(match, error)
    tried = [shot["tried"] for shot in shots if "tried" in shot]
    found["tried"] = len(tried)
    if tried:
        found["without"] = float(np.mean([each["without"] for each in tried]))
        found["suggested"] = float(np.mean([each["suggested"] for each in tried]))
        found["random"] = float(np.mean([np.mean(each["random"]) for each in tried]))
        better = [[each["suggested"] < other for other in each["random"]] for each in tried]
        found["better than a random one"] = float(np.mean([np.mean(each) for each in better]))
        mean = [each["suggested"] < np.mean(each["random"]) for each in tried]
        found["better than random ones' mean"] = float(np.mean(mean))
        found["helps"] = float(np.mean([each["suggested"] < each["without"] for each in tried]))
    return found


def _cuts_right(clip: Row) -> bool:
    """Whether each found shot has exactly one true shot's middle, and there are as many."""
    inside = [sum(shot["start"] <= middle < shot["stop"] for middle in clip["middles"]) for shot in clip["shots"]]
    return len(inside) == len(clip["middles"]) and set(inside) == {1}


def _goals(rows: dict[str, Row], shots: dict[str, Row]) -> list[Row]:
    """What is to be reached, what was, and whether."""
    found: list[tuple[str, float | None, float, bool]] = []
    for protocol in (KEYS, REFERENCES):
        film = rows[called(FILM, protocol)]
        found.append((f"{protocol}: error at the end, of that at frame 10", film["far of near"], 1.1, True))
        for way, goal in ((AUTOMATIC, 0.5), (MEMORY, 0.9)):
            other = rows.get(called(way, protocol if way != AUTOMATIC else ""))
            if other:
                share = other[f"film, {protocol}"] / other["error"]
                found.append((f"{protocol}: error, of {way}", share, goal, True))
        if film["cdc"] is not None:
            found.append((f"{protocol}: CDC, of the truth's", film["cdc"] / film["true cdc"], 1.1, True))
        if film["warp"] is not None:
            found.append(
                (f"{protocol}: flow-warp error of chroma, of the truth's", film["warp"] / film["true warp"], 1.2, True)
            )
        of = shots[protocol]
        found.append((f"{protocol}: score and error, rank correlation over shots", of["rank correlation"], 0.8, False))
        if of["tried"]:
            share = of["better than a random one"]
            found.append((f"{protocol}: suggested key frame better than a random one", share, 0.8, False))
    return [
        {"what": what, "found": value, "goal": goal, "at most": most, "held": value <= goal if most else value >= goal}
        for what, value, goal, most in found
        if value is not None
    ]


def state(way: str, model: Path) -> str:
    """What a way's numbers depend on, in a few letters: the model, and the code that makes, colors and measures."""
    root, here = Path(merge.__file__).parents[1], Path(__file__).parent
    digest = hashlib.sha256(model.read_bytes())
    for room in sorted({name.partition("/")[0] for name in (*_OF_WAY[way], *_ALL)}):
        for file in sorted((root / room).rglob("*.py")):
            if file.relative_to(root).as_posix().startswith((*_OF_WAY[way], *_ALL)):
                digest.update(file.read_bytes())
    for name in ("clips", "clip_scenes", "film_clips", "film_ways"):
        digest.update((here / f"{name}.py").read_bytes())
    return digest.hexdigest()[:12]
