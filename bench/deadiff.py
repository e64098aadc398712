"""What image tokens cost while sampling: guided steps of the plain model, with tokens, and with tokens projected anew
in every step, as the published program does.

    python -m bench.deadiff               Stable Diffusion 1.x, 512 x 512, fp32, random weights
    python -m bench.deadiff --device cuda --dtype float16    on a GPU
    python -m bench.deadiff --size 64 --tiny    a toy, to see that it works

The sides take turns, and the best of each counts. Ratios count, not seconds: machines differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from comfyui_exemplar.attention.call import CONDITIONAL, CROSS, AttentionCall
from comfyui_exemplar.attention.image_tokens import STYLE, ImageTokens, project_tokens, route
from comfyui_exemplar.attention.layers import Layer
from comfyui_exemplar.hosts.diffusers.denoiser import UNetDenoiser

from . import machine as machines
from .machine import Machine
from .sides import build

TOKENS = 16
PLAIN, OURS, NAIVE = "plain", "tokens, projected once", "tokens, projected in every step"


class EveryStep:
    """The edit without its memory: keys and values of the image are made in every call."""

    def __init__(self, tokens: dict[str, Tensor], projections: dict, routing: dict[Layer, str]) -> None:
        self.tokens, self.projections, self.routing = tokens, projections, routing

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        at = {call.layer: self.routing[call.layer]}
        return ImageTokens(project_tokens(self.tokens, self.projections, at))(call, earlier)


def measure(options: argparse.Namespace, machine: Machine) -> dict[str, tuple[float, float, float]]:
    """Seconds and processor seconds of one guided step, and the peak that the device counts in GiB, by side."""
    model = build(options, machine)
    denoiser = UNetDenoiser(model)
    width = model.context.shape[-1]
    generator = torch.Generator().manual_seed(1)
    projections = {
        info.layer: tuple(
            (torch.randn(info.channels, width, generator=generator) / width**0.5).to(model.context) for _ in range(2)
        )
        for info in denoiser.layers
    }
    tokens = {STYLE: torch.randn(1, TOKENS, width, generator=generator).to(model.context)}
    routing = route(denoiser.layers)
    edits = {
        PLAIN: None,
        OURS: ImageTokens(project_tokens(tokens, projections, routing)),
        NAIVE: EveryStep(tokens, projections, routing),
    }
    x = torch.randn(2, 4, options.size // 8, options.size // 8, generator=generator).to(machine.device)
    best: dict[str, tuple[float, float, float]] = {}
    for _ in range(options.repeat + 1):  # the first turn warms up
        for side, edit in edits.items():
            with denoiser.edited(edit, list(routing), (CROSS,)):
                machine.forget_peak()
                took = *machine.seconds(lambda: denoiser(x, torch.tensor([2.0]), (1, CONDITIONAL))), machine.peak()
            best[side] = tuple(map(min, best[side], took)) if side in best else (float("inf"),) * 3
    return best


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.deadiff", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="side of the picture in pixels")
    parser.add_argument("--tiny", action="store_true", help="a toy UNet")
    parser.add_argument("--repeat", type=int, default=3, help="how often each side is timed")
    machines.add_options(parser)
    options = parser.parse_args()
    machine = machines.of(options, machines.unet_needs(options))
    with torch.inference_mode():
        found = measure(options, machine)
    kind = "toy" if options.tiny else "Stable Diffusion 1.x size"
    print(f"{kind}, {options.size} x {options.size}, {machine}, one guided step")
    print(f"{'':34}{'seconds':>10}{'over plain':>12}{'processor':>11}{'over plain':>12}")
    for side, took in found.items():
        over = [f"{100 * (mine / plain - 1):+.1f} %" for mine, plain in zip(took, found[PLAIN], strict=True)]
        print(f"{side:34}{took[0]:10.3f}{over[0]:>12}{took[1]:11.3f}{over[1]:>12}")
    if machine.device.type != "cpu":
        peak = found[OURS][2] / found[PLAIN][2]
        print(f"peak with tokens {found[OURS][2]:.2f} GiB, {peak:.2f}x the plain one (goal: {machines.PEAK_GOAL:g}x)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
