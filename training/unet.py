"""Train the UNet and the words, from small pictures to large ones; stops and resumes anywhere."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from comfyui_exemplar.files.output import whole
from comfyui_exemplar.networks.embedded.autoencoder import LinearAutoencoder

from .drawings import Drawings
from .model import Net, quick_precision, signal_levels
from .objectives import Losses, training_loss, words_loss
from .resumable import Resumable, learning_rate, stage_at
from .scenes import Scenes
from .sheets import words_sheet

LEARNING_RATE, WARM_UP, LAST_SHARE = 8e-4, 100, 0.03
WORDS_SCALE = 5  # a word is met once in hundreds of steps
# Where attention looks is learned from pairs; steps of words alone leave it as it is.
_LOOKING = re.compile(r"unet\.up_blocks\.[12]\..*attn1\.to_[qk]\.weight")
EMA = 0.996


@dataclass(frozen=True)
class Stage:
    """``pairs`` go through the network as four streams each, ``singles`` as one. With a ``rate`` the learning rate
    starts anew from there and falls until the next stage that has one, or the end. In ``turns`` every second step is
    pairs alone and every second one singles alone."""

    size: int
    steps: int
    pairs: int
    singles: int
    rate: float = 0.0
    turns: bool = False


# Small pictures teach shapes, words and matching at a third of the price; the large ones come last.
STAGES = {
    "cpu": (
        Stage(64, 1500, 4, 10),
        Stage(64, 1750, 2, 24),
        Stage(64, 1000, 1, 40),
        Stage(96, 250, 3, 12),
        Stage(96, 900, 1, 24),
        Stage(128, 800, 1, 16),
        Stage(128, 600, 2, 10),
        Stage(128, 1600, 4, 28, rate=5e-4, turns=True),
    ),
    "gpu": (Stage(64, 20_000, 24, 64), Stage(96, 20_000, 24, 48), Stage(128, 20_000, 24, 32)),
}


class Trainer(Resumable):
    """Everything that a checkpoint holds."""

    def __init__(self, folder: Path, plan: str, device: str, seed: int) -> None:
        self.stages, self.device = STAGES[plan], torch.device(device)
        self.checkpoint = folder / "unet.pt"
        torch.manual_seed(seed)
        self.net = Net().to(self.device)
        groups = [{"params": list(self.net.unet.parameters())}, {"params": list(self.net.text.parameters())}]
        adam = partial(torch.optim.AdamW, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
        # Losses of pairs vary so much more than those of words that with shared moments words would take small steps.
        self.optimizer, self.words_optimizer = adam(groups), adam([dict(group) for group in groups])
        self.average = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.looking = [weight for name, weight in self.net.named_parameters() if _LOOKING.fullmatch(name)]
        self.step = 0
        self.levels = signal_levels().to(self.device)
        self.net.precision = quick_precision(self.device)

    def begin_from(self, exported: Path, step: int) -> None:
        """Go on from an exported file, which was that of ``step``, where its checkpoint is lost: the averaged weights
        with Adam's moments anew."""
        tensors = load_file(exported)
        self.net.load_state_dict({name: t.float() for name, t in tensors.items() if not name.startswith("vae.")})
        self.average = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.step = step

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return super().optimizers() | {"words_optimizer": self.words_optimizer}

    @property
    def total(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage(self) -> Stage:
        return stage_at(self.stages, self.step)

    def batch(self) -> tuple[int, int]:
        """Pairs and singles of the step to come."""
        stage = self.stage()
        if not stage.turns:
            return stage.pairs, stage.singles
        return (0, stage.singles) if self.step % 2 else (stage.pairs, 0)

    def learning_rate(self) -> float:
        return learning_rate(self.stages, self.step, LEARNING_RATE, WARM_UP, LAST_SHARE)

    def update(self, losses: Losses) -> None:
        words_alone = not self.batch()[0]
        optimizer = self.words_optimizer if words_alone else self.optimizer
        for group, scale in zip(optimizer.param_groups, (1, WORDS_SCALE), strict=True):
            group["lr"] = scale * self.learning_rate()
        optimizer.zero_grad()
        losses.total.backward()
        if words_alone:
            for weight in self.looking:
                weight.grad = None
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        optimizer.step()
        self.step += 1
        if self.step % 4 == 0:
            keep = min(EMA, self.step / (self.step + 100)) ** 4
            current = self.net.state_dict()
            floating = [name for name, value in current.items() if value.is_floating_point()]
            torch._foreach_lerp_([self.average[n] for n in floating], [current[n] for n in floating], 1 - keep)


def train(
    folder: Path,
    *,
    plan: str,
    device: str,
    seed: int,
    threads: int | None = None,
    start: tuple[Path, int] | None = None,
) -> None:
    """Train to the end of the plan, from the folder's checkpoint if there is one, else from ``start``: an exported file
    and the step that it is of. Writes ``unet.pt``, ``unet.jsonl`` (running means of the losses) and
    ``sheets/words-*.png`` (what prompts give on the way)."""
    if threads:
        torch.set_num_threads(threads)
    trainer = Trainer(folder, plan, device, seed)
    if start is not None and not trainer.checkpoint.exists():
        _keep_autoencoder(start[0], folder)
    autoencoder = load_autoencoder(folder).to(device)
    if trainer.checkpoint.exists():
        trainer.resume()
    elif start is not None:
        trainer.begin_from(*start)
    photographs = load_photographs(folder, "train")
    # The step is part of the seed: a resumed run goes on with pictures that it has not seen in this order before.
    scenes = Scenes(Drawings.load(folder / "drawings.npz"), photographs, device=device, seed=seed + trainer.step)
    generator = torch.Generator().manual_seed(seed + trainer.step)
    means: dict[str, float] = {}
    started = time.monotonic()
    with tqdm(total=trainer.total, initial=trainer.step, desc="unet", mininterval=5) as progress:
        while trainer.step < trainer.total:
            stage = trainer.stage()
            pairs, singles = trainer.batch()
            drawn = scenes.singles(singles, stage.size) if singles else None
            if pairs:
                shown = scenes.pairs(pairs, stage.size)
                losses = training_loss(trainer.net, autoencoder, trainer.levels, shown, drawn, generator)
            else:
                losses = words_loss(trainer.net, autoencoder, trainer.levels, drawn, generator)
            trainer.update(losses)
            for name, value in losses.parts.items():
                means[name] = means.get(name, value) * 0.98 + value * 0.02
            progress.update()
            if trainer.step % 25 == 0:
                _log(folder, trainer, stage, means, time.monotonic() - started)
                progress.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
            if trainer.step % 100 == 0 or trainer.step == trainer.total:
                trainer.save()
            if trainer.step % 600 == 0 or trainer.step == trainer.total:
                words_sheet(
                    averaged(trainer), autoencoder, folder / "sheets" / f"words-{trainer.step:06d}.png", stage.size
                )


def averaged(trainer: Trainer) -> Net:
    """A copy of the network with the averaged weights, which is what is exported."""
    net = Net().to(trainer.device)
    net.load_state_dict(trainer.average)
    return net.eval()


def load_autoencoder(folder: Path) -> LinearAutoencoder:
    path = folder / "autoencoder.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: run `python -m training autoencoder` first.")
    return LinearAutoencoder.from_state_dict(load_file(path))


def _keep_autoencoder(exported: Path, folder: Path) -> None:
    """The folder's autoencoder becomes the exported file's: a fit to other pictures is another latent space, in which
    the weights are worth nothing."""
    tensors = {n.removeprefix("vae."): t for n, t in load_file(exported).items() if n.startswith("vae.")}
    with whole(folder / "autoencoder.safetensors") as beside:
        save_file(tensors, beside)


def load_photographs(folder: Path, split: str) -> Tensor:
    """(m, 3, s, s) uint8 as ``prepare`` left them."""
    import numpy as np

    return torch.from_numpy(np.load(folder / f"photographs-{split}.npy")).permute(0, 3, 1, 2)


def _log(folder: Path, trainer: Trainer, stage: Stage, means: dict[str, float], seconds: float) -> None:
    row = {"step": trainer.step, "size": stage.size, "seconds": round(seconds), "rate": trainer.learning_rate()}
    row |= {name: round(value, 4) for name, value in means.items()}
    with (folder / "unet.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")
