"""Train the embedded DDColor: a small one of the same architecture, taught which color drawn things have.

The pack runs DDColor with its constant norms folded (networks/ddcolor/weights.py). Training needs the batch norms of
the pixel decoder, so they are put back here; automatic_file.py writes all of it in the published form.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from comfyui_exemplar.color import luminance_to_rgb, rgb_to_lab
from comfyui_exemplar.networks.ddcolor.model import ConvNeXtMaps, DDColor, DDColorSizes, blur

from .drawings import Drawings
from .resumable import Resumable, stage_at
from .scenes import Scenes
from .unet import load_photographs

SIZES = DDColorSizes(
    depths=(2, 2, 3, 1),
    widths=(32, 64, 128, 256),
    enlarged=(64, 64, 32),
    decoded=(64, 64, 32),
    last=32,
    hidden=64,
    feedforward=128,
    queries=32,
    layers=3,
)
#: Lab units in one unit of what the network gives while it is trained, and what its pictures are normalized with.
UNIT = 40.0
MEAN, STD = 0.6, 0.3
LEARNING_RATE, WARM_UP, LAST_SHARE = 1.5e-3, 60, 0.02
EMA = 0.99
# Of a pixel without color, and the chroma in Lab units that counts one more. Grounds have no color and are half of all
# pixels; and the mean distance alone is least for colors paler than the true ones wherever those can't be known.
_WEIGHT_OF_GRAY, _WEIGHT_PER_CHROMA = 0.4, 1 / 40


@dataclass(frozen=True)
class Stage:
    size: int
    steps: int
    pictures: int


# Small pictures teach what has which color at a quarter of the price; the large ones come last.
STAGES = (Stage(64, 750, 24), Stage(128, 220, 12))


class Trainer(Resumable):
    """Everything that a checkpoint holds. The learning rate follows the plan's total number of steps."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.checkpoint = folder / "automatic.pt"
        torch.manual_seed(seed)
        self.net = new_network()
        trained = [p for p in self.net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-2, fused=True)
        self.average = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.step = 0

    def stage(self) -> Stage:
        return stage_at(STAGES, self.step)

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
        current = {name: t for name, t in self.net.state_dict().items() if t.is_floating_point()}
        keep = min(EMA, self.step / (self.step + 20))
        torch._foreach_lerp_([self.average[name] for name in current], list(current.values()), 1 - keep)


def total_steps() -> int:
    return sum(stage.steps for stage in STAGES)


class TrainedEnlarge(nn.Module):
    """``networks.ddcolor.model.Enlarge`` with the batch norm that is folded there."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs * 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs * 4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, 2h, 2w)."""
        return blur(F.pixel_shuffle(F.relu(self.norm(self.conv(x))), 2))


class TrainedPixelLayer(nn.Module):
    """``networks.ddcolor.model.PixelLayer`` with the batch norms that are folded there, into what comes before and
    after."""

    def __init__(self, inputs: int, enlarged: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.enlarge = TrainedEnlarge(inputs, enlarged)
        self.skip_norm = nn.BatchNorm2d(skip)
        self.conv = nn.Conv2d(enlarged + skip, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, inputs, h, w) and (B, skip, 2h, 2w) -> (B, outputs, 2h, 2w)."""
        joined = torch.cat([self.enlarge(x), F.relu(self.skip_norm(skip))], 1)
        return self.norm(F.relu(self.conv(joined)))


def new_network() -> DDColor:
    """A network to start from."""
    net = DDColor(ConvNeXtMaps(SIZES), SIZES)
    channels = zip(SIZES.decoder_inputs, SIZES.enlarged, SIZES.skips, SIZES.decoded, strict=True)
    net.pixel_layers = nn.ModuleList(TrainedPixelLayer(*each) for each in channels)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and name.startswith("encoder."):
            # as large after it as before: the library's start is for blocks with a layer scale
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
    # the stem's norm divides by how bright a flat place is; beside a bias, brightness is still seen
    nn.init.normal_(net.encoder.embeddings.patch_embeddings.bias)
    for embedding in (net.color.query, net.color.place):
        nn.init.normal_(embedding)
    nn.init.kaiming_normal_(net.enlarge.linear.weight, nonlinearity="relu")
    nn.init.zeros_(net.enlarge.linear.bias)
    nn.init.normal_(net.refine.weight, std=0.05)
    nn.init.zeros_(net.refine.bias)
    return net.to(memory_format=torch.channels_last)


def color_loss(net: nn.Module, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """(loss, mean distance in (a, b) without weights) of pictures (n, 3, S, S) in 0..1, from their lightness alone.

    The paper's pixel loss (section 3.4: L1 of a and b), with colored pixels counting more. Its other losses want
    networks trained on photographs, or another network to play against.
    """
    lab = rgb_to_lab(pictures.movedim(1, -1))
    gray = luminance_to_rgb(lab[..., 0]).movedim(-1, 1)
    truth = lab[..., 1:].movedim(-1, 1)
    difference = net((gray - MEAN) / STD) * UNIT - truth
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
