"""Train a tiny L-CAD: the embedded model's UNet with gray features beside the latent, taught colors by their names.

It starts from the embedded model. The first convolution gets input channels for the gray encoder's last map
(guided.py), at first zero; text becomes a table whose words hear their neighbors. Training adds the two things that
coloring by words needs: structure from the gray picture, and which color belongs to which thing.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from comfyui_exemplar.networks.embedded.words import HashedWords
from comfyui_exemplar.networks.lcad.model import LCADAutoencoder

from .drawings import Drawings
from .guided import SIZES, averaged, keep_exported
from .model import TEXT, UNET, quick_precision, signal_levels
from .recoloring import COLOR_WORDS
from .resumable import Resumable, learning_rate, stage_at
from .scenes import Scenes
from .words import load_exported

LEARNING_RATE, WARM_UP, LAST_SHARE, EMA = 4e-4, 40, 0.03, 0.99
#: What is new learns faster than what is there.
NEW_SCALE = 4
#: Chroma is what is asked for; the lightness of the latent is given.
CHANNEL_WEIGHT = (0.25, 1.0, 1.0, 0.25)
DROPPED = 0.12


@dataclass(frozen=True)
class Stage:
    """With ``binding`` all scenes have two things, both recolored and both described, at high noise: only who has which
    color is left to learn. With a ``rate`` the learning rate starts anew from there, and falls until the next stage
    that has one."""

    size: int
    steps: int
    pictures: int
    binding: bool = False
    rate: float = 0.0


# Small pictures teach which color goes where at a fifth of the price.
STAGES = (
    Stage(64, 400, 16),
    Stage(96, 130, 8),
    Stage(128, 70, 6),
    Stage(64, 270, 16, binding=True, rate=6e-4),
    Stage(128, 25, 6),
    # which thing has which color is what takes long
    Stage(64, 1250, 24, binding=True, rate=6e-4),
    Stage(96, 200, 14, binding=True),
    Stage(128, 80, 10),
)


class LCADNet(nn.Module):
    """UNet with 4 + G input channels and bound words."""

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.unet = UNet2DConditionModel(**{**UNET, "in_channels": SIZES.latent + SIZES.features})
        self.text = HashedWords(TEXT["vocab"], UNET["cross_attention_dim"], TEXT["tokens"], bound=True)
        self.precision = torch.float32

    def begin_from(self, model: Path) -> None:
        """Take over an embedded model; what it lacks starts at zero."""
        net, _ = load_exported(model)
        weights = {name: value for name, value in net.state_dict().items()}
        first = weights["unet.conv_in.weight"]
        weights["unet.conv_in.weight"] = torch.cat([first, first.new_zeros(len(first), SIZES.features, 3, 3)], 1)
        weights |= {f"text.{name}.weight": value for name, value in hearing(net.text).items()}
        self.load_state_dict(weights)

    def forward(self, latents: Tensor, gray: Tensor, timesteps: Tensor, captions: list[str]) -> Tensor:
        """(B, 4, h, w), gray features (B, G, h, w), (B,) and B captions -> predicted v (B, 4, h, w)."""
        joined = torch.cat([latents, gray], 1)
        with torch.autocast(joined.device.type, self.precision, enabled=self.precision != torch.float32):
            context = self.text.encode(captions)
            return self.unet(joined, timesteps, encoder_hidden_states=context, return_dict=False)[0].float()


def hearing(text: HashedWords) -> dict[str, Tensor]:
    """What words hear of their neighbors at first: a thing the color before it, a color the thing after it.

    ``left`` passes what lies in the span of the colors' vectors, ``right`` the rest, so that neither "apple, red
    umbrella" makes a red apple nor a color hears the thing before it.
    """
    colors = text.encode(list(COLOR_WORDS))[:, 0]
    span = torch.linalg.qr(colors.T)[0]
    left = span @ span.T
    return {"left": left, "right": torch.eye(len(left)) - left}


class Trainer(Resumable):
    """Everything that a checkpoint holds."""

    def __init__(self, folder: Path, model: Path, seed: int) -> None:
        self.checkpoint = folder / "lcad.pt"
        torch.manual_seed(seed)
        self.net = LCADNet()
        self.net.begin_from(model)
        self.net.precision = quick_precision(torch.device("cpu"))
        text = self.net.text
        new = [self.net.unet.conv_in.weight, text.left.weight, text.right.weight, text.emb.weight]
        rest = [p for p in self.net.parameters() if all(p is not each for each in new)]
        self.optimizer = torch.optim.AdamW(
            [{"params": rest}, {"params": new}], LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True
        )
        self.average = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.step = 0

    def go_on_from(self, exported: Path, step: int) -> None:
        """From an exported L-CAD, which was that of ``step``, where its checkpoint is lost: Adam's moments begin
        anew."""
        ours = {n: t.float() for n, t in load_file(exported).items() if n.startswith(("unet.", "text."))}
        self.net.load_state_dict(ours)
        self.average = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.step = step

    def learning_rate(self) -> float:
        return learning_rate(STAGES, self.step, LEARNING_RATE, WARM_UP, LAST_SHARE)

    def update(self, loss: Tensor) -> None:
        rate = self.learning_rate()
        for group, scale in zip(self.optimizer.param_groups, (1, NEW_SCALE), strict=True):
            group["lr"] = scale * rate
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        if self.step % 4 == 0:
            keep = min(EMA, self.step / (self.step + 40)) ** 4
            current = self.net.state_dict()
            torch._foreach_lerp_([self.average[name] for name in current], list(current.values()), 1 - keep)


def total_steps() -> int:
    return sum(stage.steps for stage in STAGES)


def told_loss(
    net: LCADNet,
    guided: LCADAutoencoder,
    levels: Tensor,
    told: tuple[Tensor, list[str]],
    generator: torch.Generator,
    binding: bool = False,
) -> tuple[Tensor, dict[str, float]]:
    """One step's loss: predicted v of colored pictures, mostly at high noise, where colors are decided.

    :param binding: at high noise only.
    """
    pictures, captions = told
    with torch.no_grad():
        latents = guided.base.encode(pictures * 2 - 1)
        gray = guided.encode(pictures.movedim(1, -1))[-1]
    count = len(pictures)

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator)

    high = uniform() < (1.0 if binding else 0.75)
    timesteps = torch.where(high, 450 + uniform() * 550, uniform() * 1000).long()
    a = levels[timesteps][:, None, None, None]
    noise = torch.randn(latents.shape, generator=generator)
    target = a.sqrt() * noise - (1 - a).sqrt() * latents
    captions = ["" if float(drop) < DROPPED else caption for drop, caption in zip(uniform(), captions, strict=True)]
    found = net(a.sqrt() * latents + (1 - a).sqrt() * noise, gray, timesteps, captions)
    by_channel = (found - target).square().mean((0, 2, 3))
    loss = (by_channel * torch.tensor(CHANNEL_WEIGHT)).sum() / sum(CHANNEL_WEIGHT)
    return loss, {"chroma": by_channel[1:3].mean().item(), "lightness": by_channel[::3].mean().item()}


def train(
    folder: Path, model: Path, *, seed: int, threads: int | None = None, start: tuple[Path, int] | None = None
) -> None:
    """Train to the end of the plan, from the folder's checkpoint if there is one, else from ``start``: an exported
    L-CAD, whose gray encoder and decoder are kept, and the step that it is of. Writes ``lcad.pt`` and ``lcad.jsonl``.

    :param model: the embedded model to start from; its autoencoder must be the one that ``guided`` was trained with.
    """
    if threads:
        torch.set_num_threads(threads)
    trainer = Trainer(folder, model, seed)
    if trainer.checkpoint.exists():
        trainer.resume()
    elif start is not None:
        keep_exported(start[0], folder)
        trainer.go_on_from(*start)
    guided = averaged(folder)
    levels = signal_levels()
    scenes = Scenes(Drawings.load(folder / "drawings.npz"), seed=seed + trainer.step)
    generator = torch.Generator().manual_seed(seed + trainer.step)
    means: dict[str, float] = {}
    started = time.monotonic()
    with tqdm(total=total_steps(), initial=trainer.step, desc="lcad", mininterval=5) as progress:
        while trainer.step < total_steps():
            stage = stage_at(STAGES, trainer.step)
            told = scenes.told(stage.pictures, stage.size, binding=stage.binding)
            loss, parts = told_loss(trainer.net, guided, levels, told, generator, stage.binding)
            trainer.update(loss)
            for name, value in parts.items():
                means[name] = means.get(name, value) * 0.98 + value * 0.02
            progress.update()
            if trainer.step % 25 == 0:
                row = {"step": trainer.step, "size": stage.size, "seconds": round(time.monotonic() - started)}
                row |= {name: round(value, 4) for name, value in means.items()}
                with (folder / "lcad.jsonl").open("a") as log:
                    log.write(json.dumps(row) + "\n")
            if trainer.step % 50 == 0 or trainer.step == total_steps():
                trainer.save()
