"""What coloring by a color memory costs, beside exemplar colorization at the paper's settings, in one run.

    python -m bench.color_memory                       Stable Diffusion 1.x size (random weights), 512 x 512, fp32
    python -m bench.color_memory --size 128 --whole    both flows from start to end
    python -m bench.color_memory --device cuda --dtype float16    on a GPU
    python -m bench.color_memory --tiny                the same on a toy, to see that it works

Rows and calls are counted. Without --whole the paper's settings are not run: each kind of its UNet calls (three
inversions in one, one inversion, a guided step), an encode and a decode are timed, and added as often as they come.
Peak memory is counted by shapes, so no GPU is needed (see bench/shapes.py).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from comfyui_exemplar.memory.entries import ColorMemory, merged
from comfyui_exemplar.memory.features import Features
from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.memory import color_by_memory, write_references
from comfyui_exemplar.pipelines.memory_features import UNetFeatures
from comfyui_exemplar.pipelines.memory_settings import FeatureSettings, MemorySettings, WritingSettings

from . import machine as machines
from .machine import CPU, MIB, Machine
from .memory import Flow, Shape
from .shapes import Bytes, counted
from .sides import Meter, TimedHost, build, pictures

#: What is to be reached, beside the numbers.
FIRST_GOAL, FURTHER_GOAL, BYTES_GOAL, MANY_GOAL, PEAK_GOAL, OUTSIDE_GOAL = 12.0, 18.0, 12.0, 2.0, 1.1, 0.15
#: References of the large memory.
MANY = 100

#: Rows that enter a UNet call and rows that leave it; guided steps share their first blocks.
Kind = tuple[int, int]


class Busy(Machine):
    """A machine whose clock counts processor seconds, since others work on it, too."""

    def __str__(self) -> str:
        return f"{super().__str__()}, processor seconds"

    def now(self) -> float:
        """Processor seconds of this process, of all its threads."""
        return time.process_time()

    def best(self, run: Callable[[], object], repeat: int) -> float:
        """The fewest processor seconds of some runs; one more warms up."""
        return min([self.seconds(run)[1] for _ in range(repeat + 1)][1:])


class Clock(Meter):
    """A meter that knows each call of the UNet by its kind."""

    def reset(self) -> None:
        """Count anew."""
        super().reset()
        self.kinds: Counter[Kind] = Counter()
        self.seconds: dict[Kind, float] = {}
        self.encoded = self.decoded = 0

    def _before(self, *given) -> None:
        self._rows = self.entered, self.rows
        super()._before(*given)

    def _after(self, *given) -> None:
        before = self.unet
        super()._after(*given)
        kind = self.entered - self._rows[0], self.rows - self._rows[1]
        self.kinds[kind] += 1
        self.seconds[kind] = min(self.unet - before, self.seconds.get(kind, float("inf")))


class ClockedHost(TimedHost):
    """The host that counts pictures at the VAE."""

    meter: Clock

    def encode(self, image: Tensor) -> Tensor:
        self.meter.encoded += len(image)
        return super().encode(image)

    def decode(self, latent: Tensor) -> Tensor:
        self.meter.decoded += len(latent)
        return super().decode(latent)


@dataclass(frozen=True)
class Cost:
    """Of one picture: calls of the UNet, pictures through the VAE, and seconds where it was run."""

    kinds: Counter[Kind]
    encoded: int
    decoded: int
    total: float = 0.0
    outside: float = 0.0

    @property
    def rows(self) -> int:
        """Rows through the UNet."""
        return sum(kind[1] * count for kind, count in self.kinds.items())

    @property
    def calls(self) -> int:
        """Calls of the UNet."""
        return sum(self.kinds.values())


def host_of(options: argparse.Namespace, machine: Machine = CPU) -> ClockedHost:
    """A host with a clock at its networks."""
    model = build(options, machine)
    host = ClockedHost(model)
    host.meter = Clock(model, machine)
    return host


def cost(host: ClockedHost, run) -> tuple[Cost, object]:
    """(what a run costs, what it gives)."""
    clock = host.meter
    clock.reset()
    start = clock.machine.now()
    made = run()
    total = clock.machine.now() - start
    return Cost(clock.kinds, clock.encoded, clock.decoded, total, total - clock.unet - clock.vae), made


def thorough(host: ClockedHost, options: argparse.Namespace) -> tuple[Cost, Cost]:
    """A first and a further picture by exemplar colorization at the paper's settings."""
    settings = ColorizeSettings(resolution=options.size)
    image, reference = pictures(options)
    first, result = cost(host, lambda: colorize(host, image, reference, settings))
    further, _ = cost(host, lambda: colorize(host, image, reference, settings, prepared=result.reference))
    return first, further


def by_memory(host: ClockedHost, options: argparse.Namespace) -> tuple[Cost, Cost, ColorMemory, Features]:
    """A first and a further picture by a color memory."""
    features = FeatureSettings(resolution=options.size)
    network, asking = UNetFeatures(host, features), MemorySettings(features)
    image, reference = pictures(options)

    def start():
        memory = write_references(network, reference, WritingSettings(features))
        return memory, color_by_memory(network, image, memory, asking)

    first, (memory, result) = cost(host, start)
    further, _ = cost(host, lambda: color_by_memory(network, image.flip(2), memory, asking))
    return first, further, memory, result.features


def by_parts(host: ClockedHost, options: argparse.Namespace, costs: tuple[Cost, Cost]) -> tuple[float, float]:
    """Seconds of a first and a further picture at the paper's settings: each kind of call, as often as it comes."""
    clock, (image, reference) = host.meter, pictures(options)
    clock.reset()
    settings = ColorizeSettings(resolution=options.size, depth=1, passes=2)  # one call of each kind
    result = colorize(host, image, reference, settings)
    seconds = dict(clock.seconds)
    encode = clock.machine.best(lambda: host.encode(image), 1)
    decode = clock.machine.best(lambda: host.decode(result.latent.to(host.device)), 1)
    times = [
        sum(seconds[kind] * count for kind, count in each.kinds.items()) + each.encoded * encode + each.decoded * decode
        for each in costs
    ]
    return times[0], times[1]


def asking_times(
    host: ClockedHost, options: argparse.Namespace, memory: ColorMemory, features: Features
) -> tuple[float, float]:
    """Seconds in which memories of one and of :data:`MANY` references are asked, the features being there."""
    settings = FeatureSettings(resolution=options.size)
    network, asking, (image, _) = UNetFeatures(host, settings), MemorySettings(settings), pictures(options)
    found = []
    for asked in (memory, merged([memory] * MANY)):
        found.append(
            host.meter.machine.best(
                lambda asked=asked: color_by_memory(network, image, asked, asking, features=features), options.repeat
            )
        )
    return found[0], found[1]


def peaks(options: argparse.Namespace, memory: ColorMemory, host: ClockedHost, features: Features) -> tuple[int, ...]:
    """Bytes: weights, and beside them the peak of a plain call, of one that gives features, and of asking."""
    shape = Shape("toy" if options.tiny else "sd15", options.size, 1)
    with counted() as counter, torch.inference_mode():
        flow = Flow(shape, counter)
        network = UNetFeatures(flow.host, FeatureSettings(resolution=options.size))
        flow.denoiser.levels = (network.spaces[0].level,)
        counter.forget()
        flow.denoiser(flow.latents(1), torch.ones(1))
        plain = counter.peak() - flow.weights
        flow.host.encode = lambda picture: flow.latents(len(picture))
        counter.forget()
        network.features(torch.empty(1, options.size, options.size, 3))
        kept = counter.peak() - flow.weights
    asking, (image, _) = MemorySettings(FeatureSettings(resolution=options.size)), pictures(options)
    source = UNetFeatures(host, asking.features)
    with Bytes(None) as real, torch.inference_mode():  # of all that is made, wherever it is
        color_by_memory(source, image, memory, asking, features=features)
    held = sum(t.numel() * shape.dtype.itemsize for t in (*features.queries, *features.keys))
    return flow.weights, plain, kept, held + memory.nbytes + real.peak(torch.device("cpu"))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.color_memory", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="side of the square pictures in pixels")
    parser.add_argument("--whole", action="store_true", help="run the paper's settings too, from start to end")
    parser.add_argument("--repeat", type=int, default=1, help="how often asking is timed; the best counts")
    parser.add_argument("--busy", action="store_true", help="count processor seconds: others work on the machine, too")
    parser.add_argument("--tiny", action="store_true", help="a toy network and 64 x 64 pictures")
    machines.add_options(parser)
    options = parser.parse_args()
    if options.tiny:
        options.size = 64
    machine = machines.of(options, machines.unet_needs(options))
    if options.busy:
        machine = Busy(machine.device, machine.dtype)
    with torch.inference_mode():
        _measure(options, machine)
    return 0


def _measure(options: argparse.Namespace, machine: Machine) -> None:
    toy = argparse.Namespace(**{**vars(options), "tiny": True, "size": 64})
    paper = thorough(host_of(toy), toy)  # calls and rows do not depend on the network's size
    host = host_of(options, machine)
    first, further, memory, features = by_memory(host, options)
    if options.whole:
        times = tuple(each.total for each in thorough(host, options))
    else:
        times = by_parts(host, options, paper)
    how = "run whole" if options.whole else "by its calls"
    print(f"\nOne {options.size} x {options.size} picture, {machine}\n")
    print(
        f"| | exemplar colorization, the paper's settings ({how}) | color memory | ratio |\n| --- | --- | --- | --- |"
    )
    for name, theirs, seconds, ours, goal in (
        ("the first picture", paper[0], times[0], first, FIRST_GOAL),
        ("a further picture", paper[1], times[1], further, FURTHER_GOAL),
    ):
        print(f"| {name}: UNet rows | {theirs.rows} | {ours.rows} | {theirs.rows / ours.rows:.1f}x |")
        print(f"| UNet calls | {theirs.calls} | {ours.calls} | {theirs.calls / ours.calls:.1f}x |")
        vae = [f"{each.encoded}, {each.decoded}" for each in (theirs, ours)]
        print(f"| pictures encoded, decoded | {vae[0]} | {vae[1]} | |")
        ratio = f"{seconds / ours.total:.1f}x (goal {goal:g}x)"
        print(f"| time | {seconds:.2f} s | {ours.total:.2f} s | {ratio} |", flush=True)
    one, many = asking_times(host, options, memory, features)
    network = further.total - one
    print(
        f"\nOf a further picture {further.outside / further.total:.1%} of the time is neither UNet nor VAE (goal: at "
        f"most {OUTSIDE_GOAL:.0%})."
    )
    print(f"A memory of one reference: {memory.nbytes / 1e6:.2f} MB (goal: at most {BYTES_GOAL:g} MB).")
    print(
        f"A memory of {MANY} references: {MANY * memory.nbytes / 1e6:.0f} MB; asking takes {many:.2f} s, of one "
        f"{one:.2f} s; a picture takes {(network + many) / further.total:.2f}x the time of one (goal: at most "
        f"{MANY_GOAL:g}x)."
    )
    weights, plain, kept, asked = peaks(options, memory, host, features)
    highest = max(kept, asked)
    print(
        f"Peak by shapes, fp16, MiB beside the weights ({weights / MIB:.0f}): a plain call {plain / MIB:.0f}, one that "
        f"keeps features {kept / MIB:.0f}, asking at most {asked / MIB:.0f}; with the weights "
        f"{(weights + highest) / (weights + plain):.2f}x a plain call (goal: at most {PEAK_GOAL:g}x)."
    )


if __name__ == "__main__":
    sys.exit(main())
