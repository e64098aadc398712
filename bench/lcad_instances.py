"""What instance-aware sampling costs: the published schedule done naively beside ours, on the same random weights.

    python -m bench.lcad_instances             L-CAD's size (Stable Diffusion 1.x, 512 gray channels), 256 x 256
    python -m bench.lcad_instances --device cuda --dtype float16    on a GPU
    python -m bench.lcad_instances --tiny      a toy, to see that it works

Naive: every branch in a call of its own, every attention map built, the step on the logits by autograd. All sides take
the same steps in turn, in one process. Ratios count, not seconds: machines differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from comfyui_exemplar.attention.instances import Instance, InstanceSettings
from comfyui_exemplar.diffusion.sampling import guide
from comfyui_exemplar.diffusion.schedule import sampling_sigmas
from comfyui_exemplar.hosts.diffusers.checkpoint import StandaloneModel, alphas_cumprod
from comfyui_exemplar.hosts.diffusers.lcad import LCADDenoiser
from comfyui_exemplar.hosts.diffusers.lcad_instances import guided_instances

from . import machine as machines
from .machine import Machine, placed
from .naive_lcad import naive_instances

STEPS, WEIGHT, FACTOR, TOKENS = 50, 5.0, 8, 77
#: "the blue cup, the red cup, the yellow cup", as a CLIP counts it.
PHRASES = ((1, 2, 3), (5, 6, 7), (9, 10, 11))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.lcad_instances", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, default=256, help="side of the square picture in pixels")
    parser.add_argument("--repeat", type=int, default=3, help="steps that every side takes; the fastest counts")
    parser.add_argument("--tiny", action="store_true", help="a toy network and 64 x 64 pixels")
    machines.add_options(parser)
    options = parser.parse_args()
    if options.tiny:
        options.size = 64
    machine = machines.of(options, machines.unet_needs(options))
    denoiser = build(options, machine)
    masks = torch.zeros(len(PHRASES), 1, options.size, options.size)
    for i, mask in enumerate(masks):
        mask[..., i * options.size // len(PHRASES) : (i + 1) * options.size // len(PHRASES)] = 1

    def guided(**settings) -> Callable[[Tensor, Tensor], Tensor]:
        phrases = [
            Instance(f"phrase {i}", places, TOKENS, mask, InstanceSettings(**settings))
            for i, (places, mask) in enumerate(zip(PHRASES, masks, strict=True))
        ]
        return guided_instances(denoiser, WEIGHT, phrases, FACTOR)

    def plain(x: Tensor, sigma: Tensor) -> Tensor:
        return guide(*denoiser(torch.cat([x, x]), sigma.repeat(2), (0, 1)).chunk(2), WEIGHT)

    sides = {
        "naive, published schedule": naive_instances(denoiser, WEIGHT, PHRASES, masks[:, 0], options.size),
        "ours, published schedule": guided(step="official", schedule="official"),
        "ours, one pass (default)": guided(),
        "ours, no masks": plain,
    }
    found = measure(sides, denoiser, options, machine)
    report(found, options, machine)
    return 0


def build(options: argparse.Namespace, machine: Machine) -> LCADDenoiser:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    widths, context, gray = ((32, 64, 64, 64), 32, 32) if options.tiny else ((320, 640, 1280, 1280), 768, 512)
    unet = UNet2DConditionModel(
        in_channels=4 + gray, block_out_channels=widths, cross_attention_dim=context, attention_head_dim=8
    )
    texts = {branch: torch.randn(1, TOKENS, context).to(machine.device) for branch in (0, 1)}
    model = StandaloneModel(
        unet=placed(unet.eval().requires_grad_(False), machine),
        vae=None,
        alphas_cumprod=alphas_cumprod(),
        prediction="epsilon",
        context=texts[0],
        added=None,
        name="bench",
        fingerprint="bench",
    )
    side = options.size // FACTOR
    return LCADDenoiser(model, torch.randn(1, gray, side, side).to(machine.device), texts)


def measure(sides: dict, denoiser: LCADDenoiser, options: argparse.Namespace, machine: Machine) -> dict[str, dict]:
    """For each side: wall and processor seconds of its fastest step, calls and rows a step, and its last prediction."""
    counted = {"calls": 0, "rows": 0}

    def count(_module, inputs: tuple) -> None:
        counted["calls"] += 1
        counted["rows"] += inputs[0].shape[0]

    hook = denoiser.model.unet.conv_in.register_forward_pre_hook(count)
    sigma = sampling_sigmas(denoiser.sigma_table, STEPS)[:1]
    x = torch.randn(1, 4, *denoiser.gray.shape[-2:], generator=torch.Generator().manual_seed(1)) * float(sigma)
    x = x.to(machine.device)
    found: dict[str, dict] = {name: {"wall": [], "processor": []} for name in sides}
    for turn in range(options.repeat + 1):
        for name, side in sides.items():
            counted.update(calls=0, rows=0)
            predicted: list[Tensor] = []
            wall, processor = machine.seconds(lambda side=side, done=predicted: done.append(side(x, sigma)))
            if turn:  # the first one warms up
                found[name]["wall"].append(wall)
                found[name]["processor"].append(processor)
            found[name] |= {**counted, "predicted": predicted[0]}
    hook.remove()
    return found


def report(found: dict[str, dict], options: argparse.Namespace, machine: Machine) -> None:
    first = next(iter(found.values()))
    print(
        f"\nInstance-aware sampling, {options.size} x {options.size}, {machine}; "
        f"{options.repeat} steps a side, in turn\n"
    )
    print(
        "| | calls in 50 steps | rows | seconds a step | processor seconds | naive / this |\n| --- "
        + "| --- " * 5
        + "|"
    )
    for name, side in found.items():
        wall, processor = min(side["wall"]), min(side["processor"])
        print(
            f"| {name} | {STEPS * side['calls']} | {STEPS * side['rows']} | {wall:.2f} | {processor:.2f} | "
            f"{min(first['wall']) / wall:.2f}x, {min(first['processor']) / processor:.2f}x |"
        )
    same = found["ours, published schedule"]["predicted"]
    apart = float((first["predicted"] - same).abs().max() / first["predicted"].abs().max())
    moved = float((same - found["ours, no masks"]["predicted"]).abs().max() / first["predicted"].abs().max())
    print(
        f"\nNaive and ours differ by {apart:.1e} of the largest number; the published step moves it by {moved:.1e}. "
        f"Graphs kept by ours: {int(same.requires_grad)}."
    )


if __name__ == "__main__":
    sys.exit(main())
