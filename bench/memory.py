"""What exemplar colorization holds, and needs at its peak, by shapes: nothing is computed and no GPU is needed.

    python -m bench.memory                                      SD 1.5 at 512 and 1024, SDXL at 1024, fp16
    python -m bench.memory --model sdxl --size 768 --batch 4    one row of it
    python -m bench.memory --keep-on cpu                        with features in main memory
    python -m bench.memory --gradients                          learning through the UNet instead

The real UNet of diffusers, the real capture and the real edit run on tensors without values (see bench/shapes.py).
Input, reference and gray reference are inverted in one batch, as the flow does it, and the way back is guided: a
colored and a plain prediction a step. MiB; all but the first column are beside the weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from comfyui_exemplar.attention.capture import Capture, CaptureTarget, StorageSettings
from comfyui_exemplar.attention.dual import DualAttentionColor
from comfyui_exemplar.attention.dual_banks import DualBanks, Role
from comfyui_exemplar.diffusion.schedule import inversion_plan
from comfyui_exemplar.hosts.diffusers.checkpoint import StandaloneModel, alphas_cumprod
from comfyui_exemplar.hosts.diffusers.denoiser import UNetDenoiser
from comfyui_exemplar.hosts.diffusers.gradients import DifferentiableUNet
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.pipelines.exemplar_inversion import capture_spec, color_layers
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings

from .shapes import DEVICE, Bytes, counted

ROLES: tuple[Role, ...] = ("input", "reference", "gray")
MAIN = torch.device("cpu")
MIB = 2**20
SD15 = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),  # diffusers' name for the number of heads
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TOY = {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 32, "attention_head_dim": 8}
MODELS: dict[str, dict[str, Any]] = {"sd15": SD15, "sdxl": SDXL, "toy": TOY}
#: Model, side in pixels, pictures.
TABLE = (("sd15", 512, 1), ("sd15", 512, 8), ("sd15", 1024, 1), ("sd15", 1024, 8), ("sdxl", 1024, 1), ("sdxl", 1024, 8))
COLUMNS = {
    "weights": "weights",
    "plain": "plain guided step",
    "climb": "climb that keeps features",
    "injected": "injected guided step",
    "ratio": "whole peak of the way back / of a plain run",
    "kept": "features kept (= formula)",
    "on the device": "of them on the device after the climb",
    "edit": "held by the edit during the way back",
}
#: The goal that stands beside the ratio.
GOAL = 1.15


@dataclass(frozen=True)
class Shape:
    """What is measured."""

    model: str
    size: int
    batch: int
    dtype: torch.dtype = torch.float16
    depth: int = 5
    keep_on: Any = "with the model"


class Levels(UNetDenoiser):
    """The host's denoiser; it is told its levels as numbers, since no tensor here has a value."""

    levels: tuple[float, ...] = ()
    _at = 0

    def __call__(self, x: Tensor, sigma: Tensor, branches: Sequence[int] = (0,), split_at: int | None = None) -> Tensor:
        level = self.levels[self._at % len(self.levels)]
        self._at += 1
        return super().__call__(x, torch.tensor([level]), branches, split_at)


class _Codec:
    factor, channels = 8, 4


def build(name: str, dtype: torch.dtype, device: torch.device = DEVICE) -> StandaloneModel:
    """A UNet without values, on a device."""
    from diffusers import UNet2DConditionModel

    config = MODELS[name]
    with unset_fake_temporarily(), torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        torch.nn.Module.to(unet, dtype).eval().requires_grad_(False)
    unet.to_empty(device=device)
    pooled = torch.empty(1, 1280, device=device, dtype=dtype) if name == "sdxl" else None
    return StandaloneModel(
        unet=unet,
        vae=_Codec(),  # type: ignore[arg-type]
        alphas_cumprod=alphas_cumprod(),
        prediction="epsilon",
        context=torch.empty(1, 77, config["cross_attention_dim"], device=device, dtype=dtype),
        added=None if pooled is None else {"text_embeds": pooled},
        name="bench",
        fingerprint="bench",
    )


class Flow:
    """A colorization in parts, with what each holds."""

    def __init__(self, shape: Shape, counter: Bytes) -> None:
        self.shape, self.counter = shape, counter
        self.host = DiffusersHost(build(shape.model, shape.dtype))
        self.host.denoiser = self.denoiser = Levels(self.host.model)
        self.settings = ColorizeSettings(depth=shape.depth, storage=StorageSettings(keep_on=shape.keep_on))
        self.plan = inversion_plan(self.host.sigma_table, 50, shape.depth, "consistent")
        self.layers = color_layers(self.host.layers, self.settings.attention.layers)
        self.weights = counter.held()
        self.specs = {role: capture_spec(role, self.layers, self.settings) for role in ROLES}

    def latents(self, pictures: int) -> Tensor:
        """(B, 4, h, w) without values, on the device."""
        side = self.shape.size // 8
        return torch.empty(pictures, 4, side, side, device=DEVICE)

    def plain(self) -> int:
        """Peak of a guided step of the model itself, beside the weights."""
        self.counter.forget()
        x = self.latents(self.shape.batch)
        self.denoiser.levels = self.plan.sigmas[:1]
        self.denoiser.pair(x, x.new_ones(len(x)))
        return self.counter.peak() - self.weights

    def climb(self) -> tuple[DualBanks, dict[str, int]]:
        """The three inversions in one batch: their banks, and (peak, features, where they are)."""
        pictures, main = self.shape.batch, self.counter.held(MAIN)
        self.counter.forget()
        self.denoiser.levels = self.plan.reads
        targets = [
            CaptureTarget(self.specs[role], pictures=range(i * pictures, (i + 1) * pictures))
            for i, role in enumerate(ROLES)
        ]
        capture = Capture(targets, self.plan.kept_sigmas)
        trajectory = self.host.invert(self.latents(3 * pictures), self.plan, capture)
        capture.check(3 * pictures)
        peak = self.counter.peak() - self.weights
        banks = DualBanks(*(target.bank for target in targets))
        del capture, targets
        found = {
            "climb": peak,
            "kept": sum(banks.of(role).nbytes for role in ROLES),
            "on the device": self.counter.held() - self.weights,
            "in main memory": self.counter.held(MAIN) - main,
            "trajectory": trajectory.numel() * trajectory.element_size(),
        }
        return banks, found

    def formula(self) -> int:
        """Bytes of the features: levels x layers x projections x pictures x tokens x channels x bytes of a number."""
        side, infos = self.shape.size // 8, {info.layer: info for info in self.host.layers}
        size = self.shape.dtype.itemsize * self.shape.batch * len(self.plan.kept_sigmas)
        return size * sum(
            len(letters) * infos[layer].tokens((side, side)) * infos[layer].channels
            for spec in self.specs.values()
            for layer, letters in spec.keep.items()
        )

    def way_back(self, banks: list[DualBanks]) -> dict[str, int]:
        """Guided steps with the reference's colors: peak, and what the edit holds.

        :param banks: one, which is taken out: the edit alone holds it from then on.
        """
        edit = DualAttentionColor(self.settings.attention, self.layers, banks.pop())
        self.counter.forget()
        edit.precompute({info.layer: info.heads for info in self.host.layers}, self.host.attend, DEVICE)
        precomputing = self.counter.peak() - self.weights
        self.counter.forget()
        self.denoiser.levels = self.plan.sigmas[:-1]
        x = self.latents(self.shape.batch)
        x = self.host.sample(x, self.plan, edit, tuple(self.layers), 10.0)
        held = self.counter.held() - self.weights - x.numel() * x.element_size()
        return {"injected": self.counter.peak() - self.weights, "precomputing": precomputing, "edit": held}


def measure(shape: Shape) -> dict[str, int]:
    """Bytes of one row of the table."""
    with counted() as counter, torch.inference_mode():
        flow = Flow(shape, counter)
        found = {"weights": flow.weights, "plain": flow.plain(), "formula": flow.formula()}
        banks, climbed = flow.climb()
        held = [banks]
        del banks
        return {**found, **climbed, **flow.way_back(held)}


def measure_gradients(shape: Shape, rows: int) -> dict[str, int]:
    """Bytes of a step of learning through the UNet, forward and back: beside the weights, plain and checkpointed.

    It is one device's matter. The CPU stands in for it, since torch goes back in a thread of its own on any other one,
    where nobody counts.
    """
    with counted() as counter:
        model = build(shape.model, shape.dtype, MAIN)
        weights, side = counter.held(MAIN), shape.size // 8
        found = {"weights": weights}
        for name, checkpointing in (("gradients", False), ("checkpointed", True)):
            counter.forget()
            predict = DifferentiableUNet(model, checkpointing)
            x = torch.empty(rows, 4, side, side)
            context = torch.empty_like(model.context, dtype=torch.float32).requires_grad_(True)
            predict(x, 1.0, context).square().mean().backward()
            found[name] = counter.peak(MAIN) - weights
            del context, x, predict
        return found


def plain_bytes(name: str, size: int, batch: int, dtype: torch.dtype) -> tuple[int, int]:
    """(weights, peak of a plain guided step beside them), for benches of a device that is not there."""
    with counted() as counter, torch.inference_mode():
        flow = Flow(Shape(name, size, batch, dtype), counter)
        return flow.weights, flow.plain()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.memory", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, help="one model (default: the whole table)")
    parser.add_argument("--size", type=int, default=512, help="side of the square pictures in pixels, with --model")
    parser.add_argument("--batch", type=int, default=1, help="number of pictures, with --model")
    parser.add_argument("--depth", type=int, default=5, help="T")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    parser.add_argument("--keep-on", choices=("with the model", "cpu"), default="with the model")
    parser.add_argument("--gradients", action="store_true", help="a step of learning instead, one row")
    options = parser.parse_args()
    rows = [(options.model, options.size, options.batch)] if options.model else list(TABLE)
    if options.gradients:
        _report_gradients(rows, getattr(torch, options.dtype))
    else:
        _report([Shape(*row, getattr(torch, options.dtype), options.depth, options.keep_on) for row in rows])
    return 0


def _report(shapes: list[Shape]) -> None:
    first = shapes[0]
    print(
        f"\nExemplar colorization by shapes, {str(first.dtype).removeprefix('torch.')}, depth {first.depth}, features "
        f"kept on: {first.keep_on}; MiB; diffusers' UNet, nothing computed\n"
    )
    print("| model, side, pictures | " + " | ".join(COLUMNS.values()) + " |\n|" + " --- |" * (1 + len(COLUMNS)))
    for shape in shapes:
        found = measure(shape)
        ratio = (found["weights"] + found["injected"]) / (found["weights"] + found["plain"])
        cells = {name: f"{number / MIB:.0f}" for name, number in found.items()}
        cells["ratio"] = f"{ratio:.2f}x (goal {GOAL}x)"
        if found["kept"] != found["formula"]:
            cells["kept"] += f" (formula {cells['formula']})"
        print(
            f"| {shape.model}, {shape.size}, {shape.batch} | " + " | ".join(cells[name] for name in COLUMNS) + " |",
            flush=True,
        )


def _report_gradients(rows: Sequence[tuple[str, int, int]], dtype: torch.dtype) -> None:
    print(
        f"\nLearning through the UNet by shapes, {str(dtype).removeprefix('torch.')}, one row, MiB beside the weights\n"
    )
    print("| model, side | weights | a step | with gradient checkpointing |\n| --- | --- | --- | --- |")
    for model, size in dict.fromkeys((model, size) for model, size, _ in rows):
        found = measure_gradients(Shape(model, size, 1, dtype), 1)
        cells = " | ".join(f"{number / MIB:.0f}" for number in found.values())
        print(f"| {model}, {size} | {cells} |", flush=True)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        sys.exit(main())
