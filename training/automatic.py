"""Train the embedded DDColor: a small one of the same architecture, taught which colour drawn things have.

It is trained in the form that the pack runs, in which every constant norm is folded (networks/ddcolor_weights.py), and
taken apart into the published form when it is exported (automatic_file.py). So the decoder has no batch norms here.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from comfyui_exemplar.color import luminance_to_rgb, rgb_to_lab
from comfyui_exemplar.hosts.ddcolor import ConvNeXtMaps
from comfyui_exemplar.networks.ddcolor import DDColor, DDColorSizes

from .drawings import Drawings
from .scenes import Scenes
from .unet import load_photographs

SIZES = DDColorSizes(
    depths=(2, 2, 3, 1), widths=(32, 64, 128, 256), enlarged=(64, 64, 32), decoded=(64, 64, 32), last=32, hidden=64,
    feedforward=128, queries=32, layers=3,
)  # fmt: skip
#: Lab units in one unit of what the network gives while it is trained.
UNIT = 40.0
LEARNING_RATE, WARM_UP, LAST_SHARE = 1.5e-3, 100, 0.02
EMA = 0.998
# Of a pixel without colour, and the chroma in Lab units that counts one more. Grounds have no colour and are half of all
# pixels; and the mean distance alone is least for colours paler than the true ones wherever those can't be known.
_WEIGHT_OF_GRAY, _WEIGHT_PER_CHROMA = 0.4, 1 / 40


@dataclass(frozen=True)
class Stage:
    size: int
    steps: int
    pictures: int


# Small pictures teach what has which colour at a quarter of the price; the large ones come last.
STAGES = (Stage(64, 1300, 24), Stage(128, 500, 12))


class Trainer:
    """Everything that a checkpoint holds. The learning rate follows the plan's total number of steps."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        torch.manual_seed(seed)
        self.net = new_network()
        trained = [p for p in self.net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
        self.average = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.step = 0

    def stage(self) -> Stage:
        left = self.step
        for stage in STAGES:
            if left < stage.steps:
                return stage
            left -= stage.steps
        return STAGES[-1]

    def learning_rate(self) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / total_steps()))
        return LEARNING_RATE * min(1, (self.step + 1) / WARM_UP) * (LAST_SHARE + (1 - LAST_SHARE) * cosine)

    def update(self, loss: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        current = self.net.state_dict()
        keep = min(EMA, self.step / (self.step + 100))
        torch._foreach_lerp_([self.average[name] for name in current], list(current.values()), 1 - keep)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "automatic.pt"

    def save(self) -> None:
        """Written beside the old checkpoint first, so that an interruption leaves one of them whole."""
        state = {
            "step": self.step, "net": self.net.state_dict(), "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        scratch = self.checkpoint.with_suffix(".part")
        torch.save(state, scratch)
        scratch.replace(self.checkpoint)

    def resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]


def total_steps() -> int:
    return sum(stage.steps for stage in STAGES)


def new_network() -> DDColor:
    """A network to start from. Biases of the pixel decoder's 3x3 convolutions stay 0: the published form has none."""
    net = DDColor(ConvNeXtMaps(SIZES), SIZES)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and name.startswith("encoder."):
            module.reset_parameters()  # the library's start is for blocks with a layer scale
    for module in [*net.pixel_layers.modules(), net.enlarge.linear]:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    for layer in net.pixel_layers:
        layer.conv.bias.requires_grad_(False)
    for embedding in (net.color.query, net.color.place):
        nn.init.normal_(embedding)
    nn.init.normal_(net.refine.weight, std=0.02)
    nn.init.zeros_(net.refine.bias)
    return net.to(memory_format=torch.channels_last)


def color_loss(net: nn.Module, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """(loss, mean distance in (a, b) without weights) of pictures (n, 3, S, S) in 0..1, from their lightness alone.

    The paper's pixel loss (section 3.4: L1 of a and b), with coloured pixels counting more. Its other losses want networks
    trained on photographs, or another network to play against.
    """
    lab = rgb_to_lab(pictures.movedim(1, -1))
    gray = luminance_to_rgb(lab[..., 0]).movedim(-1, 1)
    truth = lab[..., 1:].movedim(-1, 1)
    difference = net(gray) * UNIT - truth
    chroma = truth.norm(dim=1, keepdim=True)
    weight = _WEIGHT_OF_GRAY + _WEIGHT_PER_CHROMA * chroma
    return (weight * difference.abs()).mean() / UNIT, difference.detach().norm(dim=1).mean()


def train(folder: Path, *, seed: int, threads: int | None = None) -> None:
    """Train to the end of the plan, from the folder's checkpoint if there is one. Writes ``automatic.pt`` and
    ``automatic.jsonl`` (running means)."""
    if threads:
        torch.set_num_threads(threads)
    trainer = Trainer(folder, seed)
    if trainer.checkpoint.exists():
        trainer.resume()
    # The step is part of the seed: a resumed run goes on with pictures that it has not seen in this order before.
    scenes = Scenes(Drawings.load(folder / "drawings.npz"), load_photographs(folder, "train"), seed=seed + trainer.step)
    means: dict[str, float] = {}
    started = time.monotonic()
    with tqdm(total=total_steps(), initial=trainer.step, desc="automatic", mininterval=5) as progress:
        while trainer.step < total_steps():
            stage = trainer.stage()
            loss, error = color_loss(trainer.net, scenes.colored(stage.pictures, stage.size))
            trainer.update(loss)
            for name, value in (("loss", loss.item()), ("error", error.item())):
                means[name] = means.get(name, value) * 0.98 + value * 0.02
            progress.update()
            if trainer.step % 25 == 0:
                row = {"step": trainer.step, "size": stage.size, "seconds": round(time.monotonic() - started)} | {
                    name: round(value, 4) for name, value in means.items()
                }
                with (folder / "automatic.jsonl").open("a") as log:
                    log.write(json.dumps(row) + "\n")
            if trainer.step % 100 == 0 or trainer.step == total_steps():
                trainer.save()
