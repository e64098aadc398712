"""Measure color memories on held-out pictures beyond what `evaluate` does: strokes, palettes, two references, and how
much the confidence says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from comfyui_exemplar.files.output import whole
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.memory_features import UNetFeatures
from comfyui_exemplar.pipelines.memory_settings import MemorySettings, WritingSettings

from . import memory_report as report
from .drawings import Drawings
from .evaluate import PHOTOGRAPHS, SPLITS
from .measure import color_pairs_by_memory, kept
from .memory_measure import Places, against_better, color_apart, colored_with_confidence
from .pages import draw_pages
from .pairs import EvaluationPairs, build, build_apart, photographed
from .palette_measure import PLAIN, measure_palettes
from .scenes import Scenes
from .strokes_measure import measure_strokes
from .unet import load_photographs

#: Drawings of one thing and of two, crops of photographs, seed.
STROKES = (26, 18, 16, 20264)
#: Stories, pages of each, seed.
PAGES = (4, 20, 20265)
#: Pairs of two things with a reference of each, seed.
APART = (64, 20266)


def evaluate_memory(folder: Path, model: Path, out: Path, split: str) -> None:
    """Writes ``memory.json``, ``memory.md``, ``memory.png`` and ``memory.jpg`` to ``out``.

    Pictures of the thorough method that an earlier run with the same model left in ``out/pictures`` are used again. On
    the "dev" split photographs are those that training has seen.
    """
    host = DiffusersHost(load_standalone(model))
    chosen = host.model.recommended.get("memory", {})
    asking, writing = MemorySettings.resolve(chosen), WritingSettings.resolve(chosen)
    network = UNetFeatures(host, asking.features)
    drawings = Drawings.load(folder / "drawings.npz")
    photographs = load_photographs(folder, "test" if split == "test" else "train")

    def crops(count: int, seed: int) -> EvaluationPairs:
        return photographed(Scenes(drawings, photographs, seed=seed), count)

    found: dict = {"split": split}
    one, two, photographed_too, seed = STROKES
    shown: list[dict[str, Tensor]] = []
    pictures = {
        "drawings": build(drawings, split, one=one, two=two, seed=seed),
        "photographs": crops(photographed_too, seed),
    }
    found["strokes"] = {
        kind: {
            name: numbers.summary()
            for name, numbers in measure_strokes(network, pairs, asking, writing, seed=seed, shown=shown).items()
        }
        for kind, pairs in pictures.items()
    }
    report.say("strokes", found["strokes"])

    stories = draw_pages(drawings, split, stories=PAGES[0], pages=PAGES[1], seed=PAGES[2])
    pages: list[dict] = []
    palettes = measure_palettes(network, stories, asking, writing, pages)
    found["palettes"] = {name: numbers.summary(palettes[PLAIN]) for name, numbers in palettes.items()}
    report.say("palettes", found["palettes"])

    pairs, apart, as_large = build_apart(drawings, split, APART[0], seed=APART[1])
    full = ColorizeSettings.resolve(host.model.recommended.get("exemplar", {}))
    thorough, sure = _thorough(host, pairs, apart, full, out / "pictures" / host.fingerprint / split)
    found["two references"] = {
        "color memory": against_better(color_apart(network, pairs, apart, asking, writing), pairs),
        "color memory, things as large as in the picture": against_better(
            color_apart(network, pairs, as_large, asking, writing), pairs
        ),
        "dual attention": against_better(thorough | {"both": thorough["one picture of both"]}, pairs),
    }
    report.say("two references", found["two references"])

    one, two, seed = SPLITS[split]
    every = build(drawings, split, one=one, two=two, seed=seed)
    drawn, taken = (
        Places.of(*color_pairs_by_memory(host, some), some) for some in (every, crops(PHOTOGRAPHS[0], PHOTOGRAPHS[1]))
    )
    attention = Places.of(thorough["one picture of both"], sure, pairs)
    places = {
        "drawings": drawn,
        "inside things": drawn.take(drawn.inside),
        "photographs": taken,
        "dual attention, two things": attention,
        "dual attention, inside things": attention.take(attention.inside),
    }
    found["confidence"] = {name: each.summary() for name, each in places.items()}
    report.say("confidence", {name: row["rank correlation"] for name, row in found["confidence"].items()})

    out.mkdir(parents=True, exist_ok=True)
    with whole(out / "memory.json") as beside:
        beside.write_text(json.dumps(report.rounded(found), indent=1) + "\n")
    with whole(out / "memory.md") as beside:
        beside.write_text(report.table(found))
    report.plot(found, out / "memory.png")
    report.sheet(shown, pages, out / "memory.jpg")


def _thorough(
    host: DiffusersHost, pairs: EvaluationPairs, apart: Tensor, settings: ColorizeSettings, folder: Path
) -> tuple[dict[str, Tensor], Tensor]:
    """Exemplar colorization by each reference alone and by the one picture of both things, and how sure the last is."""
    names = {"first": apart[:, 0], "second": apart[:, 1], "one picture of both": pairs.reference}
    shown = {}
    for name, references in names.items():
        file = folder / f"apart-{name.replace(' ', '-')}.npy"
        both = replace(pairs, reference=references)

        def make(part: EvaluationPairs = both) -> Tensor:
            pictures, sure = colored_with_confidence(host, part, settings)
            return torch.cat([pictures, sure[..., None]], -1)

        shown[name] = kept(file, make)
    return {name: each[..., :3] for name, each in shown.items()}, shown["one picture of both"][..., 3]
