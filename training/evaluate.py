"""Measure the embedded model on held-out pairs, beside simple ways to color; numbers, a plot, a contact sheet."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from comfyui_exemplar.color import rgb_to_lab
from comfyui_exemplar.files.output import whole
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings

from . import report
from .baselines import match_luminance, tint
from .drawings import Drawings
from .measure import (
    Outcome,
    color_pairs,
    color_pairs_by_memory,
    kept,
    matching,
    prepare_references,
    rank_correlation,
)
from .pairs import EvaluationPairs, build, photographed
from .scenes import Scenes
from .unet import load_photographs
from .words import evaluate_words

#: (pairs of one thing, pairs of two, seed)
SPLITS = {"dev": (40, 24, 20261), "test": (120, 80, 20262)}
#: (pairs of crops, seed)
PHOTOGRAPHS = (16, 20263)
FULL = "dual attention (full)"
MEMORY = "color memory (one forward pass)"
TINT, WELSH = "statistics transfer (a tint)", "luminance and texture (Welsh)"


def variants(full: ColorizeSettings) -> dict[str, ColorizeSettings]:
    """The full method at the model's own settings, and one thing changed at a time."""

    def gamma(value: float) -> ColorizeSettings:
        changed = {"gamma_shallow": value, "gamma_deep": value}
        return replace(full, attention=replace(full.attention, **changed))

    return {
        FULL: full,
        "color-only attention (γ = 0)": gamma(0.0),
        "gray-only attention (γ = 1)": gamma(1.0),
        **{f"w = {w:g}": replace(full, guidance=float(w)) for w in (1, 3, 10)},
        **{f"N = {n}": replace(full, passes=n) for n in (1, 2, 3)},
        "AdaIN off": replace(full, match_latents=0.0),
        "AdaIN on": replace(full, match_latents=1.0),
        "chroma match on": replace(full, match_chroma=1.0),
    }


def evaluate(folder: Path, model: Path, out: Path, split: str) -> None:
    """Writes ``numbers.json``, ``numbers.md``, ``plot.png``, ``pairs.jpg``, ``photographs.jpg`` and
    ``words.jpg`` to ``out``.

    Pictures that an interrupted run with the same model left in ``out/pictures`` are used again.
    """
    host = DiffusersHost(load_standalone(model))
    full = ColorizeSettings.resolve(host.model.recommended.get("exemplar", {}))
    one, two, seed = SPLITS[split]
    drawings = Drawings.load(folder / "drawings.npz")
    pairs = build(drawings, split, one=one, two=two, seed=seed)
    pictures = out / "pictures" / host.fingerprint
    outcomes: dict[str, Outcome] = {}
    shown: dict[str, Tensor] = {}
    for name, make in _simple_ways(pairs).items():
        shown[name] = make()
        outcomes[name] = Outcome.of(shown[name], pairs)
    references = prepare_references(host, pairs, full)
    done: dict[ColorizeSettings, Tensor] = {}
    for name, settings in variants(full).items():
        if settings not in done:  # "w = 3" may be the full method itself
            file = pictures / f"{split}-{_slug(name)}.npy"
            done[settings] = kept(file, lambda s=settings, n=name: color_pairs(host, pairs, s, references, n))
        outcomes[name] = Outcome.of(done[settings], pairs)
    shown[FULL] = done[full]
    shown[MEMORY], sure = color_pairs_by_memory(host, pairs)
    outcomes[MEMORY] = Outcome.of(shown[MEMORY], pairs)
    error = (rgb_to_lab(shown[MEMORY]) - rgb_to_lab(pairs.truth))[..., 1:].norm(dim=-1)
    matches = matching(host, pairs, full)
    photographs = _photographs(host, drawings, folder, full, out)
    out.mkdir(parents=True, exist_ok=True)
    numbers = report.summary(outcomes, pairs.count, against=(TINT, WELSH)) | {"matching": matches, "split": split}
    numbers["photographs"] = photographs
    numbers["memory's doubt and error, rank correlation"] = rank_correlation(-sure[:, ::4, ::4], error[:, ::4, ::4])
    numbers["words"] = evaluate_words(model, drawings, out / "words.jpg")
    with whole(out / "numbers.json") as beside:
        beside.write_text(json.dumps(numbers, indent=1) + "\n")
    table = report.table(numbers)
    with whole(out / "numbers.md") as beside:
        beside.write_text(table)
    report.plot(outcomes, pairs.count, FULL, (TINT, WELSH), out / "plot.png")
    report.contact_sheet(pairs, shown, out / "pairs.jpg")
    print(table)


def _photographs(
    host: DiffusersHost, drawings: Drawings, folder: Path, full: ColorizeSettings, out: Path
) -> dict[str, float]:
    """Mean error on pairs of crops of the held-out photographs, and a sheet of them (``photographs.jpg``)."""
    pairs = photographed(Scenes(drawings, load_photographs(folder, "test"), seed=PHOTOGRAPHS[1]), PHOTOGRAPHS[0])
    shown = {name: make() for name, make in _simple_ways(pairs).items()}
    references = prepare_references(host, pairs, full)
    shown[FULL] = color_pairs(host, pairs, full, references, "photographs")
    shown[MEMORY], _ = color_pairs_by_memory(host, pairs)
    out.mkdir(parents=True, exist_ok=True)
    report.contact_sheet(pairs, shown, out / "photographs.jpg")
    return {name: float(Outcome.of(pictures, pairs).inside.mean()) for name, pictures in shown.items()}


def _simple_ways(pairs: EvaluationPairs) -> dict[str, Callable[[], Tensor]]:
    return {
        "gray": lambda: pairs.gray,
        TINT: lambda: tint(pairs.gray, pairs.reference),
        WELSH: lambda: match_luminance(pairs.gray, pairs.reference),
    }


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower().replace("γ", "gamma")).strip("-")
