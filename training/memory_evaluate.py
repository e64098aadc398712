"""Measure color memories on held-out pictures beyond what `evaluate` does: strokes, palettes, two references, and how
much the confidence says."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from comfyui_exemplar.files.output import whole
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.memory_features import ModelFeatures
from comfyui_exemplar.pipelines.memory_settings import MemorySettings, WritingSettings

from . import memory_report as report
from .drawings import Drawings
from .evaluate import PHOTOGRAPHS, SPLITS
from .measure import color_pairs_by_memory, kept
from .memory_measure import Places, against_better, color_apart, colored_with_confidence
from .pages import draw_pages
from .pairs import EvaluationPairs, build, build_apart, photographed
from .palette_measure import PLAIN, measure_palettes
from .report import rounded
from .scenes import Scenes
from .strokes_measure import measure_strokes
from .unet import load_photographs

#: Drawings of one thing and of two, crops of photographs, seed.
STROKES = (26, 18, 16, 20264)
#: Stories, pages of each, seed.
PAGES = (4, 20, 20265)
#: Pairs of two things with a reference of each, seed.
APART = (64, 20266)


#: What is measured.
PARTS = ("strokes", "palettes", "two references", "confidence")


@dataclass
class _Bench:
    """What all parts use."""

    host: DiffusersHost
    folder: Path
    split: str
    pictures: Path
    drawings: Drawings
    strokes: list[dict[str, Tensor]] = field(default_factory=list)
    pages: list[dict] = field(default_factory=list)

    def __post_init__(self) -> None:
        chosen = self.host.model.recommended.get("memory", {})
        self.asking, self.writing = MemorySettings.resolve(chosen), WritingSettings.resolve(chosen)
        self.network = ModelFeatures(self.host, self.asking.features)

    def crops(self, count: int, seed: int) -> EvaluationPairs:
        photographs = load_photographs(self.folder, "test" if self.split == "test" else "train")
        return photographed(Scenes(self.drawings, photographs, seed=seed), count)


def evaluate_memory(folder: Path, model: Path, out: Path, split: str, parts: tuple[str, ...] = PARTS) -> None:
    """Writes ``memory.json``, ``memory.md``, ``memory.png`` and ``memory.jpg`` to ``out``.

    Pictures of the thorough method that an earlier run with the same model left in ``out/pictures`` are used again. On
    the "dev" split photographs are those that training has seen.

    :param parts: of :data:`PARTS`; the numbers of others stay as they are in ``memory.json``, and the sheet as it is.
        Table and plot are written once there are all.
    """
    host = DiffusersHost(load_standalone(model))
    pictures = out / "pictures" / host.fingerprint / split
    bench = _Bench(host, folder, split, pictures, Drawings.load(folder / "drawings.npz"))
    found: dict = {"split": split}
    if set(parts) != set(PARTS) and (out / "memory.json").exists():
        found = json.loads((out / "memory.json").read_text())
    measured = {"strokes": _strokes, "palettes": _palettes, "two references": _apart, "confidence": _confidence}
    for part in parts:
        found[part] = rounded(measured[part](bench))
        print(part, json.dumps(found[part], ensure_ascii=False), flush=True)
    out.mkdir(parents=True, exist_ok=True)
    with whole(out / "memory.json") as beside:
        beside.write_text(json.dumps(found, indent=1) + "\n")
    if all(part in found for part in PARTS):
        with whole(out / "memory.md") as beside:
            beside.write_text(report.table(found))
        report.plot(found, out / "memory.png")
    if bench.strokes and bench.pages:
        report.sheet(bench.strokes, bench.pages, out / "memory.jpg")


def _strokes(bench: _Bench) -> dict:
    one, two, photographs, seed = STROKES
    pictures = {
        "drawings": build(bench.drawings, bench.split, one=one, two=two, seed=seed),
        "photographs": bench.crops(photographs, seed),
    }
    found = {}
    for kind, pairs in pictures.items():
        rows = measure_strokes(bench.network, pairs, bench.asking, bench.writing, seed=seed, shown=bench.strokes)
        found[kind] = {name: numbers.summary() for name, numbers in rows.items()}
    return found


def _palettes(bench: _Bench) -> dict:
    stories = draw_pages(bench.drawings, bench.split, stories=PAGES[0], pages=PAGES[1], seed=PAGES[2])
    found = measure_palettes(bench.network, stories, bench.asking, bench.writing, bench.pages)
    return {name: numbers.summary(found[PLAIN]) for name, numbers in found.items()}


def _apart(bench: _Bench) -> dict:
    pairs, apart, as_large = build_apart(bench.drawings, bench.split, APART[0], seed=APART[1])
    thorough, _ = _thorough(bench, pairs, apart)
    rows = {"color memory": apart, "color memory, things as large as in the picture": as_large}
    found = {
        name: against_better(color_apart(bench.network, pairs, each, bench.asking, bench.writing), pairs)
        for name, each in rows.items()
    }
    # dual attention is given one reference here, both things in one picture; several of them are not measured
    return found | {"dual attention": against_better(thorough | {"both": thorough["one picture of both"]}, pairs)}


def _confidence(bench: _Bench) -> dict:
    one, two, seed = SPLITS[bench.split]
    drawn, taken = (
        Places.of(*color_pairs_by_memory(bench.host, pairs), pairs)
        for pairs in (build(bench.drawings, bench.split, one=one, two=two, seed=seed), bench.crops(*PHOTOGRAPHS))
    )
    pairs, apart, _ = build_apart(bench.drawings, bench.split, APART[0], seed=APART[1])
    thorough, sure = _thorough(bench, pairs, apart)
    attention = Places.of(thorough["one picture of both"], sure, pairs)
    places = {
        "drawings": drawn,
        "inside things": drawn.take(drawn.inside),
        "photographs": taken,
        "dual attention, two things": attention,
        "dual attention, inside things": attention.take(attention.inside),
    }
    return {name: each.summary() for name, each in places.items()}


def _thorough(bench: _Bench, pairs: EvaluationPairs, apart: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Exemplar colorization by each reference alone and by the one picture of both things, and how sure the last is."""
    settings = ColorizeSettings.resolve(bench.host.model.recommended.get("exemplar", {}))
    names = {"first": apart[:, 0], "second": apart[:, 1], "one picture of both": pairs.reference}
    shown = {}
    for name, references in names.items():
        both = replace(pairs, reference=references)

        def make(part: EvaluationPairs = both) -> Tensor:
            pictures, sure = colored_with_confidence(bench.host, part, settings)
            return torch.cat([pictures, sure[..., None]], -1)

        shown[name] = kept(bench.pictures / f"apart-{name.replace(' ', '-')}.npy", make)
    return {name: each[..., :3] for name, each in shown.items()}, shown["one picture of both"][..., 3]
