"""Choose the model's recommended settings on the development split, one group of settings after another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.files.output import whole
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings

from .drawings import Drawings
from .evaluate import SPLITS
from .measure import Outcome, color_pairs, prepare_references
from .pairs import build

START = ColorizeSettings(
    steps=20,
    depth=4,
    guidance=1.0,
    passes=1,
    match_latents=0.0,
    match_chroma=0.0,
    resolution=128,
    attention=DualAttentionSettings(0.5, 0.5, 0.0, 0.0),
)
#: Groups in the order in which they are settled; the best of one is kept for the next.
GROUPS: tuple[tuple[dict, ...], ...] = (
    tuple({"depth": depth} for depth in (4, 3)),
    tuple(
        {"gamma_shallow": a, "gamma_deep": b}
        for a, b in ((0.5, 0.5), (0.5, 1.0), (1.0, 0.5), (0.75, 0.75), (0.25, 0.5))
    ),
    tuple({"guidance": w} for w in (1.0, 1.5, 2.0)),
    tuple({"match_latents": strength} for strength in (0.0, 1.0)),
    tuple({"beta_shallow": beta} for beta in (0.0, 0.25)),
    tuple({"passes": n} for n in (1, 2)),
)


def tune(folder: Path, model: Path, out: Path) -> None:
    """Prints and writes (``tuning.json``) the error in (a, b) inside the things for every setting tried."""
    host = DiffusersHost(load_standalone(model))
    one, two, seed = SPLITS["dev"]
    pairs = build(Drawings.load(folder / "drawings.npz"), "dev", one=one, two=two, seed=seed)
    best, tried, rows = START, {}, []
    references, known = [], None  # of the way up that was tried last: everything else is settled after it
    for group in GROUPS:
        for changes in group:
            settings = _changed(best, changes)
            if settings not in tried:
                if known != (settings.steps, settings.depth):
                    references = prepare_references(host, pairs, settings)
                    known = (settings.steps, settings.depth)
                outcome = Outcome.of(color_pairs(host, pairs, settings, references, str(changes)), pairs)
                tried[settings] = float(outcome.inside.mean())
                rows.append({"changed": changes, "inside": tried[settings], "psnr": float(outcome.psnr.mean())})
                rows[-1] |= {f"inside_{n}": float(outcome.inside[pairs.count == n].mean()) for n in (1, 2)}
                print(json.dumps(rows[-1]), flush=True)
        best = min(tried, key=tried.__getitem__)
    out.mkdir(parents=True, exist_ok=True)
    with whole(out / "tuning.json") as beside:
        beside.write_text(json.dumps(rows, indent=1) + "\n")
    print("best:", best)


def _changed(settings: ColorizeSettings, changes: dict) -> ColorizeSettings:
    shares = {key: value for key, value in changes.items() if key.startswith(("gamma", "beta"))}
    others = {key: value for key, value in changes.items() if key not in shares}
    return replace(settings, attention=replace(settings.attention, **shares), **others)
