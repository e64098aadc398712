"""What automatic color costs: the published per-picture pipeline beside ours, on the same random weights.

    python -m bench.ddcolor                           ConvNeXt-T, 16 pictures of 512 x 512, fp32
    python -m bench.ddcolor --variant large --device cuda
    python -m bench.ddcolor --batch 2 --size 64 --tiny    a toy, to see that it works

Ratios count, not seconds: machines differ.
"""

from __future__ import annotations

import argparse
import sys

import torch

from comfyui_exemplar.networks.ddcolor.load import LoadedDDColor, build
from comfyui_exemplar.networks.ddcolor.model import DDColorSizes, working_bytes
from comfyui_exemplar.networks.ddcolor.weights import published_shapes
from comfyui_exemplar.pipelines.ddcolor import AutoColorSettings, auto_color, run_in_chunks

from . import machine as machines
from .machine import Machine
from .naive_ddcolor import NaiveDDColor, published_pipeline

DECODERS = {
    "enlarged": (512, 512, 256),
    "decoded": (512, 512, 256),
    "last": 256,
    "hidden": 256,
    "feedforward": 2048,
    "queries": 100,
    "layers": 9,
}
VARIANTS = {
    "tiny": DDColorSizes((3, 3, 9, 3), (96, 192, 384, 768), **DECODERS),
    "large": DDColorSizes((3, 3, 27, 3), (192, 384, 768, 1536), **DECODERS),
    "toy": DDColorSizes((1, 1, 1, 1), (16, 16, 32, 32), (32, 32, 16), (32, 32, 16), 16, 32, 64, 10, 3),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.ddcolor", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--variant", choices=VARIANTS, default="tiny")
    parser.add_argument("--tiny", action="store_true", help="a toy network")
    parser.add_argument("--batch", type=int, default=16, help="number of pictures")
    parser.add_argument("--size", type=int, default=512, help="side of pictures and network input in pixels")
    parser.add_argument("--repeat", type=int, default=2, help="how often each side is timed; the best counts")
    machines.add_options(parser)
    options = parser.parse_args()
    machine = machines.of(options, lambda dtype: _needs(options, dtype))
    with torch.inference_mode():
        _report(options, _measure(options, machine), machine)
    return 0


def _needs(options: argparse.Namespace, dtype: torch.dtype) -> tuple[int, int]:
    """(weights, what a picture needs beside them) in bytes."""
    sizes = VARIANTS["toy" if options.tiny else options.variant]
    numbers = sum(shape.numel() for shape in map(torch.Size, published_shapes(sizes).values()))
    return numbers * dtype.itemsize, working_bytes(sizes, 1, options.size, options.size, dtype.itemsize)


def random_weights(sizes: DDColorSizes) -> dict[str, torch.Tensor]:
    """Weights in published names that keep numbers in range; what they color is noise."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, shape in published_shapes(sizes).items():
        if name.endswith("num_batches_tracked"):
            made[name] = torch.tensor(0)
        elif name in ("mean", "std") or name.endswith("running_var"):
            made[name] = torch.full(shape, 0.45 if name == "mean" else 0.23 if name == "std" else 1.0)
        elif name.endswith("running_mean") or (len(shape) == 1 and name.endswith("bias")):
            made[name] = torch.zeros(shape)
        elif len(shape) == 1 and name.endswith(("weight", "gamma")):
            made[name] = torch.ones(shape)
        else:
            fan = shape[0] if len(shape) == 1 else max(1, torch.Size(shape[1:]).numel())
            made[name] = torch.randn(shape, generator=generator) / fan**0.5
    for name in [name for name in made if name.endswith("weight_v")]:  # as training leaves it: sigma near 1
        layer = name.removesuffix("weight_v")
        v = made[f"{layer}weight_orig"].flatten(1).T @ made[f"{layer}weight_u"]
        made[name] = v / v.norm() ** 2
    return made


class Replay:
    """A network that knows its answer, to time what is around it.

    :param chroma: (1, 2, h, w).
    """

    def __init__(self, chroma: torch.Tensor) -> None:
        self.chroma = chroma

    def __call__(self, gray: torch.Tensor) -> torch.Tensor:
        return self.chroma.expand(len(gray), -1, -1, -1)

    def frames_at_once(self, frames: int, height: int, width: int) -> int:
        return 1

    def out_of_memory(self, error: Exception) -> bool:
        return False


def _measure(options: argparse.Namespace, machine: Machine) -> dict[str, float]:
    sizes = VARIANTS["toy" if options.tiny else options.variant]
    weights = random_weights(sizes)
    network, _ = build(weights)
    network = network.to(machine.device, machine.dtype, memory_format=torch.channels_last)
    ours = LoadedDDColor(network, options.variant, "bench")
    # the published program has no half precision
    naive = NaiveDDColor({name: t.to(machine.device) for name, t in weights.items()}, sizes)
    generator = torch.Generator().manual_seed(1)
    gray = torch.rand(options.batch, options.size, options.size, 1, generator=generator)
    image = gray.expand(-1, -1, -1, 3).contiguous()
    pictures = (image * 255).round().byte().numpy()
    size = (options.size, options.size)
    ready = image.movedim(-1, 1).contiguous()
    settings = AutoColorSettings(resolution=options.size)

    def published() -> None:
        for picture in pictures:
            published_pipeline(naive, picture, options.size)

    replay = Replay(ours(ready[:1]))
    sides = {
        "published": published,
        "ours": lambda: auto_color(ours, image, settings),
        "bare": lambda: run_in_chunks(ours, ready, size, lambda frames: frames),
        "around": lambda: auto_color(replay, image, settings),
    }
    found = {"at once": float(ours.frames_at_once(options.batch, *size))}
    for attempt in range(options.repeat + 1):  # in turn, so that a busy hour of the machine meets all sides
        for side, run in sides.items():
            seconds, worked = machine.seconds(run)
            took = {side: seconds, f"{side}, processor": worked}
            if attempt:  # the first one warms up
                found |= {name: min(seconds, found.get(name, seconds)) for name, seconds in took.items()}
    return found


def _report(options: argparse.Namespace, found: dict[str, float], machine: Machine) -> None:
    variant = "a toy" if options.tiny else {"tiny": "ConvNeXt-T", "large": "ConvNeXt-L"}[options.variant]
    print(f"\nDDColor ({variant}), {options.batch} pictures of {options.size} x {options.size}, {machine}\n")
    print("| | published pipeline, one by one | ours | ratio |\n| --- | --- | --- | --- |")
    speeds = [options.batch / found[side] for side in ("published", "ours")]
    print(f"| pictures a second | {speeds[0]:.3f} | {speeds[1]:.3f} | {speeds[1] / speeds[0]:.2f}x |")
    print(
        f"\nOurs, {found['at once']:.0f} picture(s) a call: {found['ours']:.2f} s. The bare forward passes take "
        f"{found['bare']:.2f} s; everything around them, timed by itself, {found['around']:.2f} s, "
        f"{found['around'] / found['bare']:.1%} of that."
    )
    if machine.device.type == "cpu":
        worked = {side: found[f"{side}, processor"] for side in ("published", "ours", "bare", "around")}
        print(
            f"In processor seconds, which other programs on the machine disturb less: {worked['published']:.2f} "
            f"against {worked['ours']:.2f}, {worked['published'] / worked['ours']:.2f}x; bare {worked['bare']:.2f}, "
            f"around them {worked['around']:.2f}, {worked['around'] / worked['bare']:.1%}."
        )


if __name__ == "__main__":
    sys.exit(main())
