"""What the adapter's tokens do: does a reference's style arrive, and does the thing stay; and the reverse.

Everything runs through the pack's own code on the exported files. Every way starts from the same noise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from comfyui_exemplar.attention.call import CROSS
from comfyui_exemplar.attention.image_tokens import SEMANTICS, STYLE, ImageTokens, project_tokens, route
from comfyui_exemplar.color import rgb_to_lab
from comfyui_exemplar.diffusion.sampling import sample_ddim
from comfyui_exemplar.files.output import whole
from comfyui_exemplar.files.saving import save_image
from comfyui_exemplar.files.tensors import read_tensors
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.denoiser import UNetDenoiser
from comfyui_exemplar.networks.deadiff.load import DEADiffAdapter, load_deadiff
from comfyui_exemplar.networks.embedded.words import HashedWords
from comfyui_exemplar.pipelines.deadiff import encode

from .drawings import Drawings, core
from .scenes import PLAIN_HAND, Scenes
from .styles import Styles

SIZE, STEPS, GUIDANCE, SEED = 128, 12, 3.0, 5
CASES = 24
#: Of the cases, those on the sheet.
SHOWN = 8
GRID = 16  # cells a side when shapes are compared
#: Of all pixels, those that count as paper, and as many as ink.
SHARE = 0.25
PLAIN, NO_WORDS = "words alone", "no words"
HALF_STYLE = "words and style tokens, weight 0.5"
WITH_STYLE, WITH_SEMANTICS, WITH_BOTH = "words and style tokens", "semantic tokens", "style and semantic tokens"


class Sampler:
    """The embedded model under diffusers, with prompts, tokens and guidance."""

    def __init__(self, model: Path, adapter: DEADiffAdapter) -> None:
        outer = self
        self.model, self.adapter = load_standalone(model), adapter
        words = {n.removeprefix("text."): t for n, t in read_tensors(Path(model)).items() if n.startswith("text.")}
        self.words = HashedWords.from_state_dict(words, tokens=adapter.text_tokens)

        class Denoiser(UNetDenoiser):
            """Rows without words first, then the prompts'."""

            def context(self, branches: Sequence[int], rows: int) -> Tensor:
                return outer.words.encode([""] * (rows - len(outer.prompts)) + outer.prompts)

        self.prompts: list[str] = []
        self.denoiser = Denoiser(self.model)

    @torch.no_grad()
    def __call__(
        self,
        prompts: list[str],
        tokens: Mapping[str, Tensor] | None,
        *,
        size: int = SIZE,
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        seed: int = SEED,
        weight: float = 1.0,
    ) -> Tensor:
        """Pictures (n, 3, size, size) in 0..1; ``tokens`` kind -> (n or 1, queries, hidden)."""
        self.prompts = prompts
        edit = None
        if tokens:
            routing = route(self.denoiser.layers, *self.adapter.split)
            kept = project_tokens(tokens, self.adapter.projections, routing)
            edit = ImageTokens(kept, weight, text_tokens=self.adapter.text_tokens)

        def guided(x: Tensor, sigma: Tensor) -> Tensor:
            plain, told = self.denoiser(torch.cat([x, x]), sigma.repeat(2), (1, 0)).chunk(2)
            return plain + guidance * (told - plain)

        table = self.denoiser.sigma_table
        sigmas = torch.cat([table[torch.linspace(len(table) - 1, 0, steps + 1).round().long()[:-1]], torch.zeros(1)])
        side = size // self.model.vae.factor
        noise = torch.randn(len(prompts), 4, side, side, generator=torch.Generator().manual_seed(seed))
        with self.denoiser.edited(edit, edit.layers if edit else (), (CROSS,)):
            latents = sample_ddim(guided, noise * (1 + sigmas[0] ** 2).sqrt(), sigmas, disable=True)
        return self.model.vae.decode(latents).float().movedim(-1, 1).clamp(0, 1)


@dataclass(frozen=True)
class Cases:
    """References (n, 3, S, S) in 0..1 that show ``shown``, and other things to ask for."""

    references: Tensor
    shown: list[str]
    asked: list[str]


def draw_cases(styles: Styles, count: int, size: int) -> Cases:
    """Core things by one hand each, in a print of their own, and as many other core things as prompts."""
    names = [name for name in core() if name in styles.by_hand]
    order = styles.random.permutation(len(names))[:count]
    shown = [names[i] for i in order]
    asked = [names[(i + 1 + len(names) // 2) % len(names)] for i in order]
    rows = [styles.by_hand[name].get(PLAIN_HAND, next(iter(styles.by_hand[name].values()))) for name in shown]
    prints = [styles.colored_print() for _ in shown]
    return Cases(styles.printed(styles.drawn(rows, size), prints), shown, asked)


def palette(pictures: Tensor) -> Tensor:
    """Mean Lab of the lightest and of the darkest pixels, (n, 6): what paper and ink there are."""
    lab = rgb_to_lab(pictures.movedim(1, -1)).flatten(1, 2)
    order = lab[..., 0].argsort(1)
    count = round(SHARE * lab.shape[1])
    ends = [
        torch.gather(lab, 1, part.unsqueeze(-1).expand(-1, -1, 3)).mean(1)
        for part in (order[:, -count:], order[:, :count])
    ]
    return torch.cat(ends, 1)


def style_distance(pictures: Tensor, references: Tensor) -> Tensor:
    """(n,) mean distance of paper and of ink in Lab, so 0 is the same print."""
    difference = (palette(pictures) - palette(references)).unflatten(1, (2, 3))
    return difference.norm(dim=2).mean(1)


def shapes(pictures: Tensor) -> Tensor:
    """(n, GRID²) luminance on a coarse grid, without mean and contrast: what is shown, in whatever print."""
    gray = rgb_to_lab(F.adaptive_avg_pool2d(pictures, GRID).movedim(1, -1))[..., 0].flatten(1)
    gray = gray - gray.mean(1, keepdim=True)
    return gray / gray.norm(dim=1, keepdim=True).clamp(min=1e-6)


def measure(pictures: Tensor, cases: Cases, drawn: Tensor, names: list[str]) -> dict[str, float]:
    """``style distance`` to the references, and of the things asked for and shown in the reference the likeness
    (correlation with a drawing of it) and the share of pictures to which that thing is the nearest of all, or among the
    five nearest."""
    found = {"style distance": float(style_distance(pictures, cases.references).mean())}
    likeness = shapes(pictures) @ shapes(drawn).T
    for label, wanted in (("asked", cases.asked), ("shown", cases.shown)):
        at = torch.tensor([names.index(name) for name in wanted])
        own = likeness.gather(1, at[:, None])
        place = (likeness > own).sum(1)
        found[f"{label}, likeness"] = float(own.mean())
        found[f"{label}, first"] = float((place == 0).float().mean())
        found[f"{label}, first five"] = float((place < 5).float().mean())
    return found


def run_ways(sampler: Sampler, cases: Cases, **settings) -> dict[str, Tensor]:
    """Pictures by what the model is told."""
    references = cases.references.movedim(1, -1)
    tokens = encode(sampler.adapter, references, {STYLE: "style", SEMANTICS: "content"})
    prompts, nothing = [name.replace("-", " ") for name in cases.asked], [""] * len(cases.asked)
    return {
        PLAIN: sampler(prompts, None, **settings),
        WITH_STYLE: sampler(prompts, {STYLE: tokens[STYLE]}, **settings),
        HALF_STYLE: sampler(prompts, {STYLE: tokens[STYLE]}, weight=0.5, **settings),
        NO_WORDS: sampler(nothing, None, **settings),
        WITH_SEMANTICS: sampler(nothing, {SEMANTICS: tokens[SEMANTICS]}, **settings),
        WITH_BOTH: sampler(nothing, tokens, **settings),
    }


def evaluate_adapter(folder: Path, model: Path, adapter: Path, out: Path) -> dict[str, dict[str, float]]:
    """Numbers for every way. Writes ``adapter.json`` and ``adapter.jpg`` (some references, then each way's
    pictures)."""
    styles = Styles(Scenes(Drawings.load(folder / "drawings.npz"), seed=SEED))
    cases = draw_cases(styles, CASES, SIZE)
    names = [name for name in core() if name in styles.by_hand]
    drawn = styles.drawn(
        [styles.by_hand[n].get(PLAIN_HAND, next(iter(styles.by_hand[n].values()))) for n in names], SIZE
    )
    made = run_ways(Sampler(model, load_deadiff(adapter)), cases, size=SIZE, steps=STEPS)
    numbers = {way: measure(pictures, cases, drawn, names) for way, pictures in made.items()}
    numbers["chance"] = {"first": 1 / len(names), "first five": 5 / len(names)}
    out.mkdir(parents=True, exist_ok=True)
    with whole(out / "adapter.json") as beside:
        beside.write_text(json.dumps(numbers, indent=1) + "\n")
    rows = torch.cat([torch.cat(list(pictures[:SHOWN]), 2) for pictures in (cases.references, *made.values())], 1)
    save_image(Image.fromarray((rows.permute(1, 2, 0) * 255).round().byte().numpy()), out / "adapter.jpg", quality=90)
    print(json.dumps(numbers, indent=1))
    return numbers
