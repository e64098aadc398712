"""Train the small transformer: flow matching of pictures and of words, and where to look across a pair."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from comfyui_exemplar.networks.embedded.autoencoder import LinearAutoencoder
from comfyui_exemplar.networks.embedded.words import HashedWords

from .dit import MATCHING, DiT, Seen
from .drawings import Drawings
from .model import TEXT, UNET, quick_precision
from .objectives import MATCH_WEIGHT, WARP_WEIGHT, Losses, encoded, matching_loss
from .resumable import Resumable, learning_rate, stage_at
from .scenes import Pairs, Scenes
from .unet import Stage, load_photographs

LEARNING_RATE, WARM_UP, LAST_SHARE = 1e-3, 200, 0.03
EMA = 0.998
#: Small pictures teach shapes and matching at a fraction of the price.
STAGES = (
    Stage(64, 6000, 6, 6),
    Stage(96, 1500, 4, 4),
    Stage(128, 1500, 3, 3),
)


class Trainer(Resumable):
    """Everything that a checkpoint holds; the autoencoder and the words are the embedded model's, and stay."""

    def __init__(self, folder: Path, embedded: Path, seed: int) -> None:
        self.checkpoint = folder / "dit.pt"
        torch.manual_seed(seed)
        tensors = load_file(embedded)
        self.autoencoder = LinearAutoencoder.from_state_dict(part(tensors, "vae."))
        self.text = HashedWords(TEXT["vocab"], UNET["cross_attention_dim"], TEXT["tokens"])
        self.text.load_state_dict({name: t.float() for name, t in part(tensors, "text.").items()})
        self.text.requires_grad_(False)
        self.net = DiT()
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-2, fused=True
        )
        self.average = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.step, self.precision = 0, quick_precision(torch.device("cpu"))

    @property
    def total(self) -> int:
        return sum(stage.steps for stage in STAGES)

    def predict(self, latents: Tensor, times: Tensor, captions: list[str], seen: Seen | None = None) -> Tensor:
        """Velocities, in the precision of training."""
        with torch.autocast("cpu", self.precision, enabled=self.precision != torch.float32):
            return self.net(latents, times, self.text.encode(captions), seen).float()

    def update(self, loss: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(STAGES, self.step, LEARNING_RATE, WARM_UP, LAST_SHARE)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        keep, current = min(EMA, self.step / (self.step + 100)), self.net.state_dict()
        torch._foreach_lerp_(list(self.average.values()), [current[name] for name in self.average], 1 - keep)


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of a file below a name."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def losses_of(trainer: Trainer, pairs: Pairs, singles: tuple[Tensor, list[str]], generator: torch.Generator) -> Losses:
    """One step's: gray A, gray B and B in color at one time a pair, mostly a low one, where memories look; single
    drawings under their words, mostly at high ones, where words decide; and where gray A looks in gray B."""
    autoencoder, n = trainer.autoencoder, len(pairs.captions)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    color_a, gray_a = encoded(autoencoder, pairs.a.pictures)
    color_b, gray_b = encoded(autoencoder, pairs.b.pictures)
    clean = torch.cat([gray_a, gray_b, color_b, autoencoder.encode(singles[0] * 2 - 1)])
    low = torch.where(uniform(n) < 0.85, uniform(n) * 0.3, uniform(n))
    m = len(singles[1])
    high = torch.where(uniform(m) < 0.8, 0.5 + 0.5 * uniform(m), uniform(m))
    times = torch.cat([low.repeat(3), high])
    noise = torch.randn(clean.shape, generator=generator)
    t = times[:, None, None, None]
    noised = (1 - t) * clean + t * noise
    # memories look at pictures that have no noise at all
    bare = (uniform(n) < 0.4).repeat(3)[:, None, None, None]
    noised[: 3 * n] = torch.where(bare, ((1 - t) * clean)[: 3 * n], noised[: 3 * n])
    captions = [caption if float(uniform(1)) < 0.3 else "" for caption in pairs.captions] * 3
    captions += [caption if float(uniform(1)) > 0.12 else "" for caption in singles[1]]
    seen = Seen()
    predicted = trainer.predict(noised, times, captions, seen)
    error = (predicted - (noise - clean)).square().mean((1, 2, 3))
    counted = torch.cat([(~bare[:, 0, 0, 0]).float(), torch.ones(m)])  # nothing says what noise was left out
    flow = (error * counted).sum() / counted.sum()
    maps = []
    for number in MATCHING:
        q, k = seen.queries[number][:n].float(), seen.keys[number][n : 2 * n].float()
        maps.append((q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1))
    warp, match = matching_loss(maps, pairs, color_a[:, 1:3], color_b[:, 1:3], gray_a.shape[-1])
    total = flow + WARP_WEIGHT * warp + MATCH_WEIGHT * match
    parts = {"flow": flow, "single": error[3 * n :].mean(), "warp": warp, "match": match}
    return Losses(total, {name: value.item() for name, value in parts.items()})


def train(folder: Path, embedded: Path, *, seed: int, threads: int | None = None, minutes: float = 0.0) -> None:
    """Train to the end of the plan, from the folder's checkpoint if there is one. Writes ``dit.pt`` and ``dit.jsonl``.

    :param embedded: the embedded model's file, whose autoencoder and words are taken.
    :param minutes: after which to stop, so that a later run goes on; 0 for never.
    """
    if threads:
        torch.set_num_threads(threads)
    trainer = Trainer(folder, embedded, seed)
    if trainer.checkpoint.exists():
        trainer.resume()
    scenes = Scenes(Drawings.load(folder / "drawings.npz"), load_photographs(folder, "train"), seed=seed + trainer.step)
    generator = torch.Generator().manual_seed(seed + trainer.step)
    means: dict[str, float] = {}
    started = time.monotonic()
    with tqdm(total=trainer.total, initial=trainer.step, desc="dit", mininterval=5) as progress:
        while trainer.step < trainer.total and not (minutes and time.monotonic() - started > 60 * minutes):
            stage = stage_at(STAGES, trainer.step)
            pairs, singles = scenes.pairs(stage.pairs, stage.size), scenes.singles(stage.singles, stage.size)
            losses = losses_of(trainer, pairs, singles, generator)
            trainer.update(losses.total)
            for name, value in losses.parts.items():
                means[name] = means.get(name, value) * 0.99 + value * 0.01
            progress.update()
            if trainer.step % 50 == 0:
                row = {"step": trainer.step, "size": stage.size, "seconds": round(time.monotonic() - started)}
                with (folder / "dit.jsonl").open("a") as log:
                    log.write(json.dumps(row | {name: round(value, 4) for name, value in means.items()}) + "\n")
            if trainer.step % 100 == 0 or trainer.step == trainer.total:
                trainer.save()
    trainer.save()


def averaged(folder: Path, embedded: Path) -> Trainer:
    """A trainer whose network has the averaged weights of the folder's checkpoint."""
    trainer = Trainer(folder, embedded, 0)
    trainer.resume()
    trainer.net.load_state_dict(trainer.average)
    trainer.net.eval()
    return trainer
