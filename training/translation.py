"""Measure the translation on held-out drawings, beside plain image-to-image with the same learned concept.

Two distances, both in the embedded model's own terms, because no weights of an LPIPS network may be shipped:

* *content distance*: as LPIPS (Zhang et al. 2018), features of a network, scaled to unit length at every place, their
  squared difference averaged over places and summed over levels; here the network is the embedded UNet at its lowest
  noise under the empty prompt, and both pictures are made gray first, so that new colors alone cost nothing;
* *concept similarity*: cosine between what a picture and the reference are about, after the mean of all contents is
  taken off: mean and deviation over places of the same features of the colored picture. 1 is the reference itself.

Image-to-image (noise the content, draw it under the concept with the same guidance) runs at several strengths. Both
ways trade content for concept, so they are compared pair by pair at equal content distance, on the line through the
strengths.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from comfyui_exemplar.attention.call import CONDITIONAL, UNCONDITIONAL
from comfyui_exemplar.color import desaturate, to_uint8
from comfyui_exemplar.demo import model_path
from comfyui_exemplar.diffusion.concept_prompt import ConceptPrompt
from comfyui_exemplar.diffusion.sampling import guide, sample_ddim
from comfyui_exemplar.diffusion.schedule import inversion_plan
from comfyui_exemplar.files.output import whole
from comfyui_exemplar.files.saving import save_image
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.vct import DiffusersTranslator
from comfyui_exemplar.hosts.diffusers.vct_control import PairDenoiser
from comfyui_exemplar.hosts.diffusers.vct_text import load_concept_text
from comfyui_exemplar.pipelines.recommended import read_recommended
from comfyui_exemplar.pipelines.vct import TranslateSettings, learn, translate

from .drawings import Drawings
from .measure import kept
from .pairs import build

#: References, and contents for each of them: every one serves both kinds of translation.
REFERENCES, CONTENTS, SEED = 10, 4, 20265
STRENGTHS = (0.5, 0.75, 1.0)
#: What the embedded file recommends, without pivots.
SETTINGS = TranslateSettings.resolve(read_recommended(model_path())["vct"], pivot_iterations=0)
KINDS = {
    "style transfer": replace(SETTINGS, cross_ratio=0.2, self_ratio=0.9),
    "general translation": replace(SETTINGS, cross_ratio=0.2, self_ratio=0.4),
}
#: Iterations a step where pivots are searched for.
PIVOTS = 3


@dataclass(frozen=True)
class Cases:
    """``contents`` (R, C, H, W, 3) for each of ``references`` (R, H, W, 3), and what they show."""

    contents: Tensor
    references: Tensor
    names: list[str]
    of: list[str]


def cases(drawings: Drawings, split: str, references: int = REFERENCES, contents: int = CONTENTS) -> Cases:
    """Different held-out things in all places."""
    pairs = build(drawings, split, one=references * (contents + 1), two=1, seed=SEED)
    pictures = pairs.truth[pairs.count == 1]
    names = [name for name, count in zip(pairs.names, pairs.count.tolist(), strict=True) if count == 1]
    return Cases(
        pictures[references:].unflatten(0, (references, contents)),
        pictures[:references],
        names[references:],
        names[:references],
    )


class Features:
    """What the embedded UNet sees in a picture, level by level."""

    def __init__(self, host: DiffusersTranslator) -> None:
        self.host = host

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """(n, H, W, 3) -> a (n, C, h, w) for each level of the encoder, and the middle."""
        unet, seen = self.host.model.unet, []
        blocks = [*unet.down_blocks, unet.mid_block]
        hooks = [
            block.register_forward_hook(lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out))
            for block in blocks
        ]
        try:
            latent = self.host.encode(pictures)
            sigma = float(self.host.sigma_table[0])
            self.host.denoiser(latent, torch.full((len(latent),), sigma))
        finally:
            for hook in hooks:
                hook.remove()
        return [level.float() for level in seen]


def content_distance(features: Features, one: Tensor, other: Tensor) -> Tensor:
    """(n,) for pictures (n, H, W, 3); see the module's text."""
    levels = zip(*(features(desaturate(pictures)) for pictures in (one, other)), strict=True)
    unit = torch.nn.functional.normalize
    return torch.stack([(unit(a, dim=1) - unit(b, dim=1)).pow(2).sum(1).mean((1, 2)) for a, b in levels]).sum(0)


class ConceptSimilarity:
    """:param usual: (n, H, W, 3), pictures whose mean is taken off."""

    def __init__(self, features: Features, usual: Tensor) -> None:
        self.features = features
        about = self._about(usual)
        self.mean, self.spread = about.mean(0), about.std(0).clamp_min(1e-6)

    def _about(self, pictures: Tensor) -> Tensor:
        return torch.cat([torch.cat([f.mean((2, 3)), f.std((2, 3))], 1) for f in self.features(pictures)], 1)

    def __call__(self, pictures: Tensor, reference: Tensor) -> Tensor:
        """(n,) for pictures (n, H, W, 3) and one reference (1, H, W, 3)."""
        one, other = ((self._about(p) - self.mean) / self.spread for p in (pictures, reference))
        return torch.cosine_similarity(one, other)


@torch.no_grad()
def image_to_image(
    host: DiffusersTranslator, contents: Tensor, concept: ConceptPrompt, settings: TranslateSettings, strength: float
) -> Tensor:
    """Noise the contents and draw them under the concept: the last ``strength`` of the same schedule."""
    plan = inversion_plan(host.sigma_table, settings.steps, max(1, round(strength * settings.steps)))
    denoiser = PairDenoiser(host.model, {UNCONDITIONAL: host.model.context, CONDITIONAL: concept.prompt})

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        plain, steered = denoiser(torch.cat([x, x]), sigma.repeat(2), (UNCONDITIONAL, CONDITIONAL)).chunk(2)
        return guide(steered, plain, settings.cfg)

    latents = host.encode(contents)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(settings.seed))
    start = latents + noise * plan.sigmas[0]
    return host.decode(sample_ddim(guided, start, torch.tensor(plan.sigmas), disable=True))


def _concept(host: DiffusersTranslator, reference: Tensor, path: Path, name: str) -> ConceptPrompt:
    """The reference's concept, learned once and kept at ``path``."""
    if not path.exists():
        updates = SETTINGS.concept.updates
        with tqdm(total=updates, desc=f"concept of {name}", mininterval=20) as bar:
            made = learn(host, reference[None], SETTINGS, lambda *_: bar.update())
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as beside:
            save_file({"emb_params": made.learned[0].contiguous()}, beside)
    return host.of_vectors(load_file(path)["emb_params"])


def evaluate_translation(
    folder: Path,
    model: Path,
    out: Path,
    split: str = "test",
    *,
    references: int = REFERENCES,
    contents: int = CONTENTS,
    pivots: bool = False,
) -> dict:
    """Writes ``translation.json``, ``translation.md`` and ``translation.jpg`` to ``out``.

    Concepts and pictures that an interrupted run with the same model left in ``out/translation`` are used again.
    """
    host = DiffusersTranslator(load_standalone(model), text=load_concept_text(model))
    found = cases(Drawings.load(folder / "drawings.npz"), split, references, contents)
    scratch = out / "translation" / f"{host.fingerprint}-{split}"
    ways: dict[str, list[Tensor]] = {}

    def run(way: str, at: int, make: Callable[[], Tensor]) -> None:
        file = scratch / f"{''.join(c if c.isalnum() else '-' for c in way)}-{at}.npy"
        ways.setdefault(way, []).append(kept(file, make))

    for at in tqdm(range(references), desc="references", mininterval=20):
        these = found.contents[at]
        concept = _concept(host, found.references[at], scratch / f"concept-{at}.safetensors", found.of[at])
        for kind, settings in KINDS.items():
            run(kind, at, lambda s=settings, c=concept, p=these: translate(host, p, c, s).images)
        for strength in STRENGTHS:
            run(
                f"image-to-image {strength:g}",
                at,
                lambda s=strength, c=concept, p=these: image_to_image(host, p, c, SETTINGS, s),
            )
        if pivots:
            settings = replace(KINDS["style transfer"], pivot_iterations=PIVOTS)
            run("style transfer, pivots", at, lambda s=settings, c=concept, p=these: translate(host, p, c, s).images)
    numbers = measure(host, found, {way: torch.stack(rows) for way, rows in ways.items()})
    numbers |= {"split": split, "references": found.of, "contents": found.names}
    out.mkdir(parents=True, exist_ok=True)
    with whole(out / "translation.json") as beside:
        beside.write_text(json.dumps(numbers, indent=1) + "\n")
    table = report(numbers)
    with whole(out / "translation.md") as beside:
        beside.write_text(table)
    contact_sheet(found, ways, out / "translation.jpg")
    print(table)
    return numbers


def measure(host: DiffusersTranslator, found: Cases, ways: dict[str, Tensor]) -> dict:
    """Means of both numbers for every way (R, C, H, W, 3), and each kind against image-to-image."""
    features = Features(host)
    similar = ConceptSimilarity(features, torch.cat([found.contents.flatten(0, 1), found.references]))
    rows: dict[str, tuple[Tensor, Tensor]] = {}
    for way, pictures in ({"the content itself": found.contents} | ways).items():
        distance = [content_distance(features, p, c) for p, c in zip(pictures, found.contents, strict=True)]
        concept = [similar(p, r[None]) for p, r in zip(pictures, found.references, strict=True)]
        rows[way] = (torch.cat(distance), torch.cat(concept))
    against = {}
    curve = [rows[f"image-to-image {strength:g}"] for strength in STRENGTHS]
    curve = [rows["the content itself"], *curve]
    for way in (way for way in ways if not way.startswith("image-to-image")):
        margins = equal_distance_margins(rows[way], curve)
        against[way] = {"margin": float(margins.mean()), "better": float((margins > 0).float().mean())}
    means = {
        way: {"content distance": float(distance.mean()), "concept similarity": float(concept.mean())}
        for way, (distance, concept) in rows.items()
    }
    return {"pairs of a kind": len(rows["the content itself"][0]), "ways": means, "against image-to-image": against}


def equal_distance_margins(ours: tuple[Tensor, Tensor], curve: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(n,) our concept similarity less image-to-image's at our content distance, read off its line through strengths.

    Beyond its largest distance image-to-image counts with that of its strongest run.
    """
    margins = []
    for i, (distance, concept) in enumerate(zip(*ours, strict=True)):
        points = sorted((float(d[i]), float(c[i])) for d, c in curve)
        margins.append(float(concept) - float(np.interp(float(distance), *zip(*points, strict=True))))
    return torch.tensor(margins)


def report(numbers: dict) -> str:
    """Markdown."""
    lines = [
        f"{numbers['pairs of a kind']} pairs of a kind ({numbers['split']} split). Content distance: lower keeps more. "
        "Concept similarity: 1 is the reference. Nearer: than image-to-image at the same content distance.",
        "",
        "| way | content distance | concept similarity | nearer by | nearer in |",
        "| --- | --- | --- | --- | --- |",
    ]
    for way, row in numbers["ways"].items():
        against = numbers["against image-to-image"].get(way)
        more = f"{against['margin']:+.3f} | {against['better']:.0%} of pairs" if against else "- | -"
        lines.append(f"| {way} | {row['content distance']:.3f} | {row['concept similarity']:+.3f} | {more} |")
    return "\n".join(lines) + "\n"


def contact_sheet(found: Cases, ways: dict[str, list[Tensor]], path: Path) -> None:
    """Every pair in a row: content, reference, and what each way made of it."""
    side, gap, head = found.references.shape[1], 4, 16
    names = ["content", "reference", *ways]
    count = found.contents.shape[0] * found.contents.shape[1]
    sheet = Image.new("RGB", (len(names) * (side + gap), head + count * (side + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        draw.text((column * (side + gap) + 2, 2), name, fill="black")
    for row in range(count):
        at, which = divmod(row, found.contents.shape[1])
        shown = [found.contents[at, which], found.references[at], *(ways[way][at][which] for way in ways)]
        for column, picture in enumerate(shown):
            image = Image.fromarray(to_uint8(picture).numpy())
            sheet.paste(image, (column * (side + gap), head + row * (side + gap)))
    save_image(sheet, path, quality=88)
