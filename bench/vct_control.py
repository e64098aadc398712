"""What content-concept fusion (VCT) costs, beside the published way, in one run.

    python -m bench.vct_control             Stable Diffusion 1.x size (random weights), 512 x 512, two steps of fifty
    python -m bench.vct_control --device cuda --dtype float16    on a GPU
    python -m bench.vct_control --tiny      the same on a toy, to see that it works

The published way denoises source and target under both prompts (4 rows a step) and builds every attention map. Ours
replays the source (3 rows) and builds the cross-attention maps of two rows while they are edited. Both walk the same
steps, and what they end with is compared.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from comfyui_exemplar.attention.alignment import concept_control
from comfyui_exemplar.attention.call import CROSS, SELF, UNCONDITIONAL, AttentionCall
from comfyui_exemplar.attention.control import SOURCE, SOURCE_UNCONDITIONAL, TARGET, PromptControl
from comfyui_exemplar.attention.map_edits import attention_map
from comfyui_exemplar.diffusion.replay import Replay
from comfyui_exemplar.diffusion.sampling import guide, sample_ddim
from comfyui_exemplar.diffusion.schedule import inversion_plan
from comfyui_exemplar.hosts.diffusers.vct_control import PairDenoiser, sample_pair
from comfyui_exemplar.pipelines.vct_pair import ControlledRun, Fusion

from . import machine as machines
from .sides import build

GUIDANCE = 7.5


class MapsOfEverything:
    """The published controller: every map of every row is built, the target's ones are then changed."""

    def __init__(self, control: PromptControl, sigmas: tuple[float, ...], total: int) -> None:
        self.control, self.sigmas, self.total = control, sigmas, total

    def __call__(self, call: AttentionCall, _earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        step = min(range(len(self.sigmas)), key=lambda i: abs(self.sigmas[i] - call.sigma))
        maps = attention_map(call.q, call.k, call.heads)
        target, source = call.rows_of(TARGET), call.rows_of(SOURCE)
        if call.kind == CROSS:
            maps[target] = self.control.edit_map(maps[source], maps[target], step, self.total)
        elif self.control.edits_self(step, self.total, call.layer, call.q.shape[1]):
            maps[target] = maps[source]
        values = call.v.unflatten(-1, (call.heads, -1)).transpose(1, 2)
        return (maps.to(values) @ values).transpose(1, 2).flatten(2)


def published(denoiser: PairDenoiser, control: PromptControl, sigmas: tuple[float, ...], total: int, start: Tensor):
    """Both streams at every level, (levels, 2, C, h, w): the source first."""
    layers, passed = [info.layer for info in denoiser.layers], []
    branches = (SOURCE_UNCONDITIONAL, UNCONDITIONAL, SOURCE, TARGET)

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        plain, steered = denoiser(torch.cat([x, x]), sigma.repeat(2), branches).chunk(2)
        return guide(steered, plain, GUIDANCE)

    with denoiser.edited(MapsOfEverything(control, sigmas, total), layers, (SELF, CROSS)):
        last = sample_ddim(
            guided,
            torch.cat([start, start]),
            torch.tensor(sigmas),
            callback=lambda step: passed.append(step["x"]),
            disable=True,
        )
    return torch.stack([*passed, last])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.vct_control", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="side of the square picture in pixels")
    parser.add_argument("--steps", type=int, default=2, help="how many of fifty steps are walked")
    parser.add_argument("--tiny", action="store_true", help="a toy network and a 64 x 64 picture")
    machines.add_options(parser)
    options = parser.parse_args()
    if options.tiny:
        options.size = 64
    machine = machines.of(options, machines.unet_needs(options))
    model = build(options, machine)
    control = concept_control((77, 77), 3, 1, weight_place="official", cross_window=1.0, self_window=1.0)
    plan = inversion_plan(torch.linspace(0.03, 14, 1000), 50, 50)
    sigmas, total = plan.sigmas[: options.steps + 1], 50
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(1, 4, options.size // 8, options.size // 8, generator=generator).to(machine.device) * sigmas[0]
    concept = torch.randn(1, 77, model.context.shape[-1], generator=generator).to(model.context)
    denoiser = PairDenoiser(
        model,
        {UNCONDITIONAL: model.context, SOURCE_UNCONDITIONAL: model.context, SOURCE: model.context, TARGET: concept},
    )
    rows: list[int] = []
    model.unet.conv_in.register_forward_pre_hook(lambda _, x: rows.append(len(x[0])))

    denoiser(start, torch.full((1,), sigmas[0]), (SOURCE,))  # warms up
    rows.clear()
    done: dict[str, Tensor] = {}

    def walked(side: str, walk: Callable[[], Tensor]) -> tuple[float, float, int, float]:
        """(seconds, processor seconds, rows, peak) of a side."""
        rows.clear()
        machine.forget_peak()
        took = machine.seconds(lambda: done.update({side: walk()}))
        return *took, sum(rows), machine.peak()

    theirs = walked("published", lambda: published(denoiser, control, sigmas, total, start))
    way = done["published"]
    run = ControlledRun(Fusion(control, GUIDANCE, Replay(sigmas, way[:, :1])), sigmas, denoiser.layers)
    ours = walked("ours", lambda: sample_pair(denoiser, run, start))
    last = done["ours"]

    apart = float((last - way[-1, 1:]).abs().max() / way[-1, 1:].std())
    n = options.steps
    print(f"\nContent-concept fusion, {options.size} x {options.size}, {n} step(s), {machine}\n")
    print("| a step | published: 4 rows, all maps built | ours: source replayed | published / ours |")
    print("| --- | --- | --- | --- |")
    print(f"| time | {theirs[0] / n:.2f} s | {ours[0] / n:.2f} s | {theirs[0] / ours[0]:.2f}x |")
    print(f"| processor time | {theirs[1] / n:.2f} s | {ours[1] / n:.2f} s | {theirs[1] / ours[1]:.2f}x |")
    print(f"| UNet rows | {theirs[2] / n:g} | {ours[2] / n:g} | {theirs[2] / ours[2]:.2f}x |")
    if machine.device.type != "cpu":  # of one process, which the first side filled
        print(f"| peak memory | {theirs[3]:.2f} GiB | {ours[3]:.2f} GiB | {theirs[3] / ours[3]:.2f}x |")
    print(f"\nLargest difference of the target's latent, relative to its spread: {apart:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
