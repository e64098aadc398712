"""How well the small transformer matches, and what its memories color like, beside the embedded UNet's.

Queries and keys can be had with and without places, and as they are or alike in scale: what helps is measured here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from comfyui_exemplar.color import desaturate
from comfyui_exemplar.files.output import whole
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.memory.features import Features, FeatureSource, Space
from comfyui_exemplar.pipelines.memory import color_by_memory, write_references
from comfyui_exemplar.pipelines.memory_settings import FeatureSettings, MemorySettings, WritingSettings

from .dit import MATCHING, Seen, places, turned
from .dit_train import Trainer, averaged
from .drawings import Drawings
from .measure import BATCH, Outcome, color_pairs_by_memory, right_shares, things_at
from .pairs import EvaluationPairs, build

#: Pairs of one thing, of two, seed.
PAIRS = (60, 60, 20267)
TIMES = (0.002, 0.05, 0.15)


@dataclass(frozen=True)
class Look:
    """Where the transformer is looked into, and how.

    :param blocks: whose queries and keys.
    :param time: of flow matching, at which clean latents are put without noise.
    :param positions: they are turned by place.
    :param alike: the mean over a picture's tokens is taken off, and each has unit length (times √d).
    """

    blocks: tuple[int, ...] = MATCHING
    time: float = 0.002
    positions: bool = False
    alike: bool = False

    def __str__(self) -> str:
        blocks = ", ".join(map(str, self.blocks))
        return f"blocks {blocks}, time {self.time:g}{', places' * self.positions}{', alike' * self.alike}"


@dataclass(frozen=True)
class DiTFeatures:
    """What the transformer gives of pictures (see ``memory.features.FeatureSource``)."""

    trainer: Trainer
    look: Look
    fingerprint: str = "dit"
    name: str = "dit"

    @property
    def spaces(self) -> tuple[Space, ...]:
        block = self.trainer.net.single_blocks[0]
        return tuple(
            Space(f"single.{number}", self.look.time, block.hidden, block.heads, False, self.look.positions)
            for number in self.look.blocks
        )

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Features:
        """(B, H, W, 3) in 0..1, without color, sides multiples of a token's -> features, in one call."""
        trainer, look = self.trainer, self.look
        latents = trainer.autoencoder.encode(pictures.movedim(-1, 1) * 2 - 1) * (1 - look.time)
        seen = Seen()
        trainer.predict(latents, torch.full([len(latents)], look.time), [""] * len(latents), seen)
        grid = tuple(side // trainer.net.patch for side in latents.shape[-2:])
        turns = places(0, *grid, latents.device)

        def flat(tokens: Tensor) -> Tensor:
            tokens = tokens.float()
            tokens = turned(tokens, turns) if look.positions else tokens
            if look.alike:
                tokens = F.normalize(tokens - tokens.mean(2, keepdim=True), dim=-1) * tokens.shape[-1] ** 0.5
            return tokens.transpose(1, 2).flatten(2)

        queries, keys = (tuple(flat(kept[number]) for number in look.blocks) for kept in (seen.queries, seen.keys))
        return Features(self.fingerprint, self.spaces, queries, keys, (grid,) * len(look.blocks))


def matched(source: FeatureSource, pairs: EvaluationPairs) -> float:
    """Share of tokens inside things whose best match lies in the same thing; pairs of two things only."""
    two, found = pairs.take(pairs.count == 2), []
    for start in range(0, len(two.names), BATCH):
        part = two.take(slice(start, start + BATCH))
        asked, given = source.features(part.gray), source.features(desaturate(part.reference))
        logits = torch.zeros(())
        for q, k, space in zip(asked.queries, given.keys, source.spaces, strict=True):
            q, k = (t.unflatten(-1, (space.heads, -1)).transpose(1, 2) for t in (q, k))
            logits = logits + (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(1)
        here, there = (things_at(things, asked.grid) for things in (part.things, part.reference_things))
        best = logits.masked_fill((there < 0)[:, None], -1).argmax(-1)
        found += right_shares(torch.gather(there, 1, best) == here, here)
    return sum(found) / len(found)


def memory_error(source: FeatureSource, pairs: EvaluationPairs, asking: MemorySettings) -> float:
    """Mean error in (a, b) inside things, each reference a memory."""
    errors = []
    for i in range(len(pairs.names)):
        one = pairs.take(slice(i, i + 1))
        memory = write_references(source, one.reference, WritingSettings(asking.features))
        errors.append(float(Outcome.of(color_by_memory(source, one.gray, memory, asking).images, one).inside))
    return sum(errors) / len(errors)


def evaluate_dit(folder: Path, embedded: Path, output: Path, split: str) -> None:
    """A table of all ways to look, on pairs of a split, beside the embedded UNet's memory; ``dit.json`` in a folder."""
    trainer = averaged(folder, embedded)
    one, two, seed = PAIRS
    pairs = build(Drawings.load(folder / "drawings.npz"), split, one=one, two=two, seed=seed)
    host = DiffusersHost(load_standalone(str(embedded)))
    colored, _ = color_pairs_by_memory(host, pairs)
    rows = [{"way": "the embedded UNet", "error": float(Outcome.of(colored, pairs).inside.mean())}]
    ways = [Look(positions=p, alike=a, time=t) for p, a, t in product((False, True), (False, True), TIMES)]
    ways += [replace(Look(), blocks=(number,)) for number in MATCHING]
    best: tuple[float, Look] | None = None
    for look in tqdm(ways, desc="ways to look"):
        share = matched(DiTFeatures(trainer, look), pairs)
        rows.append({"way": str(look), "same thing": share})
        best = max(best or (0.0, look), (share, look), key=lambda found: found[0])
    assert best is not None
    features = FeatureSettings(layers="all", timestep=0, context=0.5, resolution=0)
    error = partial(memory_error, DiTFeatures(trainer, best[1]), pairs)
    for temperature in (0.3, 0.5, 1.0):
        asking = MemorySettings(features, temperature_coarse=temperature, temperature_fine=temperature)
        rows.append({"way": f"{best[1]}, temperature {temperature:g}", "error": error(asking)})
    output.mkdir(parents=True, exist_ok=True)
    with whole(output / "dit.json") as beside:
        beside.write_text(json.dumps({"split": split, "step": trainer.step, "rows": rows}, indent=1))
    for row in rows:
        print(" | ".join(f"{name} {value:.3f}" if name != "way" else str(value) for name, value in row.items()))
