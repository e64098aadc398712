"""What coloring by a color memory costs, beside exemplar colorization at the paper's settings, in one run.

    python -m bench.color_memory                       Stable Diffusion 1.x size (random weights), 512 x 512, fp32
    python -m bench.color_memory --size 128 --whole    both flows from start to end
    python -m bench.color_memory --embedded            the embedded model at 128 x 128
    python -m bench.color_memory --small-vae           a small encoder of TAESD's size on both sides
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
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from comfyui_exemplar.color import desaturate
from comfyui_exemplar.demo import model_path
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.codecs import Codec, codec_of
from comfyui_exemplar.memory.entries import merged
from comfyui_exemplar.memory.features import Features, Space
from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.memory import color_by_memory, write_references
from comfyui_exemplar.pipelines.memory_features import ModelFeatures, ReadBeside
from comfyui_exemplar.pipelines.memory_settings import FeatureSettings, MemorySettings, WritingSettings

from . import machine as machines
from .machine import CPU, MIB, Machine, placed
from .memory import Flow, Shape
from .shapes import Bytes, counted
from .sides import Meter, TimedHost, build, pictures

#: What is to be reached, beside the numbers.
FIRST_GOAL, FURTHER_GOAL, BYTES_GOAL, MANY_GOAL, PEAK_GOAL, OUTSIDE_GOAL = 12.0, 18.0, 12.0, 2.0, 1.1, 0.15
#: Of the embedded model, a first picture and a further one.
EMBEDDED_GOAL = 5.0
#: Side up to which a call's first time is mostly that of starting, so that one goes before.
WARM = 256
#: References of the large memory.
MANY = 100

#: Rows that enter a UNet call and rows that leave it: guided steps share their first blocks, and of a call that ends
#: with the last layer that is read none does.
Kind = tuple[int, int]


class Busy(Machine):
    """A machine whose clock counts processor seconds, since others work on it, too."""

    def __str__(self) -> str:
        return f"{super().__str__()}, processor seconds"

    def now(self) -> float:
        """Processor seconds of this process, of all its threads."""
        return time.process_time()


class Clock(Meter):
    """A meter that knows each call of the UNet by its kind."""

    def reset(self) -> None:
        """Count anew."""
        super().reset()
        self.kinds: Counter[Kind] = Counter()
        self.seconds: dict[Kind, float] = {}
        self.encoded = self.decoded = 0
        self.encoding = self.decoding = 0.0

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
        before = self.meter.vae
        latent = super().encode(image)
        self.meter.encoded += len(image)
        self.meter.encoding += self.meter.vae - before
        return latent

    def decode(self, latent: Tensor) -> Tensor:
        before = self.meter.vae
        picture = super().decode(latent)
        self.meter.decoded += len(latent)
        self.meter.decoding += self.meter.vae - before
        return picture


def small_codec(machine: Machine) -> Codec:
    """diffusers' AutoencoderTiny, which is TAESD, with random weights."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    return codec_of(placed(AutoencoderTiny().eval().requires_grad_(False), machine))


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
        return sum(max(kind) * count for kind, count in self.kinds.items())

    @property
    def calls(self) -> int:
        """Calls of the UNet."""
        return sum(self.kinds.values())


def host_of(options: argparse.Namespace, machine: Machine = CPU) -> ClockedHost:
    """A host with a clock at its networks."""
    model = load_standalone(model_path(), device=machine.device) if options.embedded else build(options, machine)
    if options.small_vae:
        model = replace(model, vae=small_codec(machine))
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
    """A first and a further picture by exemplar colorization at the paper's settings, or the file's own."""
    settings = ColorizeSettings.resolve(host.model.recommended.get("exemplar"), resolution=options.size)
    image, reference = pictures(options)
    first, result = cost(host, lambda: colorize(host, image, reference, settings))
    further, _ = cost(host, lambda: colorize(host, image, reference, settings, prepared=result.reference))
    return first, further


def by_memory(host: ClockedHost, options: argparse.Namespace) -> tuple[Cost, Cost]:
    """A first and a further picture by a color memory."""
    asking = MemorySettings.resolve(host.model.recommended.get("memory"), resolution=options.size)
    features = asking.features
    network = ModelFeatures(host, features)
    image, reference = pictures(options)

    def start():
        both = ReadBeside(network, desaturate(image), asking.batch, host.out_of_memory)
        memory = write_references(both, reference, WritingSettings(features))
        return memory, color_by_memory(network, image, memory, asking, features=both.kept)

    if options.size <= WARM:
        start()
        color_by_memory(network, image, start()[0], asking)
    first, (memory, _) = cost(host, start)
    further, _ = cost(host, lambda: color_by_memory(network, image.flip(2), memory, asking))
    return first, further


def by_parts(host: ClockedHost, options: argparse.Namespace, costs: tuple[Cost, Cost]) -> tuple[float, float]:
    """Seconds of a first and a further picture at the paper's settings: each kind of call, as often as it comes.

    An encode is known from the memory's side, a row alone is run.
    """
    clock = host.meter
    encode = clock.encoding / clock.encoded
    clock.reset()
    side = options.size // host.factor
    host.denoiser(torch.zeros(1, 4, side, side, device=host.device), torch.ones(1))
    alone = clock.seconds[1, 1]
    colorize(host, *pictures(options), ColorizeSettings(resolution=options.size, depth=1, passes=1))
    seconds = {(1, 1): alone, **clock.seconds}
    decode = clock.decoding / clock.decoded
    times = [
        sum(seconds[kind] * count for kind, count in each.kinds.items()) + each.encoded * encode + each.decoded * decode
        for each in costs
    ]
    return times[0], times[1]


@dataclass(frozen=True)
class Numbers:
    """Features of random numbers in the place of a network's: asking takes the same time."""

    spaces: tuple[Space, ...]
    grids: tuple[tuple[int, int], ...]
    fingerprint: str = "numbers"
    name: str = "numbers"

    def features(self, pictures: Tensor) -> Features:
        """(B, H, W, 3) -> features."""
        generator = torch.Generator().manual_seed(1)
        shapes = [(len(pictures), h * w, space.width) for space, (h, w) in zip(self.spaces, self.grids, strict=True)]
        queries, keys = (tuple(torch.randn(shape, generator=generator) for shape in shapes) for _ in "qk")
        return Features(self.fingerprint, self.spaces, queries, keys, self.grids)


def by_shapes(options: argparse.Namespace) -> tuple[Numbers, int, int, int]:
    """What a network gives, and bytes: its weights, and beside them the peak of a call without and with features."""
    side = options.size // 8
    with counted() as counter, torch.inference_mode():
        flow = Flow(Shape("toy" if options.tiny else "sd15", options.size, 1), counter)
        network = ModelFeatures(flow.host, FeatureSettings(resolution=options.size))
        flow.denoiser.levels = (network.spaces[0].level,)
        counter.forget()
        flow.denoiser(flow.latents(1), torch.ones(1))
        plain = counter.peak() - flow.weights
        flow.host.encode = lambda picture: flow.latents(len(picture))
        counter.forget()
        found = network.features(torch.empty(1, options.size, options.size, 3))
        kept = counter.peak() - flow.weights
        assert found.grid == (side, side)
        return Numbers(network.spaces, found.grids), flow.weights, plain, kept


def report_asking(options: argparse.Namespace, machine: Machine) -> tuple[float, float]:
    """What a memory of one reference and of :data:`MANY` holds and takes; seconds in which both are asked."""
    numbers, weights, plain, kept = by_shapes(options)
    settings, (image, reference) = FeatureSettings(resolution=options.size), pictures(options)
    asking, features = MemorySettings(settings), numbers.features(image)
    memory = write_references(numbers, reference, WritingSettings(settings))
    with Bytes(None) as real, torch.inference_mode():  # of all that is made, wherever it is
        color_by_memory(numbers, image, memory, asking, features=features)
    held = sum(t.numel() * 2 for t in (*features.queries, *features.keys))
    asked = held + memory.nbytes + real.peak(torch.device("cpu"))
    print(f"\nA memory of one reference: {memory.nbytes / 1e6:.2f} MB (goal: at most {BYTES_GOAL:g} MB).")
    print(
        f"Peak by shapes, fp16, MiB beside the weights ({weights / MIB:.0f}): a plain call {plain / MIB:.0f}, one that "
        f"keeps features {kept / MIB:.0f}, asking at most {asked / MIB:.0f}; with the weights "
        f"{(weights + max(kept, asked)) / (weights + plain):.2f}x a plain call (goal: at most {PEAK_GOAL:g}x).",
        flush=True,
    )
    found = []
    for each in (memory, merged([memory] * MANY)):
        start = machine.now()
        color_by_memory(numbers, image, each, asking, features=features, device=machine.device)
        found.append(machine.now() - start)
    print(
        f"A memory of {MANY} references: {MANY * memory.nbytes / 1e6:.0f} MB; asking takes {found[1]:.2f} s, of one "
        f"{found[0]:.2f} s.",
        flush=True,
    )
    return found[0], found[1]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.color_memory", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, help="side of the square pictures in pixels")
    parser.add_argument("--whole", action="store_true", help="run the paper's settings too, from start to end")
    parser.add_argument("--asking", action="store_true", help="only what needs no network: bytes and asking")
    parser.add_argument("--busy", action="store_true", help="count processor seconds: others work on the machine, too")
    parser.add_argument(
        "--embedded", action="store_true", help="the embedded model at the settings that it recommends, 128 x 128"
    )
    parser.add_argument("--small-vae", action="store_true", help="an encoder of TAESD's size, random weights")
    parser.add_argument("--tiny", action="store_true", help="a toy network and 64 x 64 pictures")
    machines.add_options(parser)
    options = parser.parse_args()
    if options.tiny:
        options.size = 64
    if options.embedded:
        options.size, options.whole = 128, True
    machine = machines.of(options, machines.unet_needs(options))
    if options.busy:
        machine = Busy(machine.device, machine.dtype)
    with torch.inference_mode():
        times = None if options.embedded else report_asking(options, machine)
        if not options.asking:
            _measure(options, machine, times)
    return 0


def _measure(options: argparse.Namespace, machine: Machine, asking: tuple[float, float] | None) -> None:
    host = host_of(options, machine)
    first, further = by_memory(host, options)
    print(f"\nOne {options.size} x {options.size} picture, {machine}\n")
    print(
        f"By a color memory {first.total:.2f} s, a further picture {further.total:.2f} s, of which "
        f"{further.outside / further.total:.1%} is neither UNet nor VAE (goal: at most {OUTSIDE_GOAL:.0%}).",
        flush=True,
    )
    if asking is not None:
        ratio = 1 + (asking[1] - asking[0]) / further.total
        print(f"With {MANY} references a further picture takes {ratio:.2f}x the time (goal: at most {MANY_GOAL:g}x).")
    if options.whole:
        paper = thorough(host, options)
        times = paper[0].total, paper[1].total
    else:
        toy = argparse.Namespace(**{**vars(options), "tiny": True, "size": 64})
        paper = thorough(host_of(toy), toy)  # calls and rows do not depend on the network's size
        times = by_parts(host, options, paper)
    whose = "the file's settings" if options.embedded else "the paper's settings"
    how = f"{whose}, {'run whole' if options.whole else 'by its calls'}"
    print(f"\n| | exemplar colorization ({how}) | color memory | ratio |\n| --- | --- | --- | --- |")
    for name, theirs, seconds, ours, goal in (
        ("the first picture", paper[0], times[0], first, EMBEDDED_GOAL if options.embedded else FIRST_GOAL),
        ("a further picture", paper[1], times[1], further, EMBEDDED_GOAL if options.embedded else FURTHER_GOAL),
    ):
        print(f"| {name}: UNet rows | {theirs.rows} | {ours.rows} | {theirs.rows / ours.rows:.1f}x |")
        print(f"| UNet calls | {theirs.calls} | {ours.calls} | {theirs.calls / ours.calls:.1f}x |")
        vae = [f"{each.encoded}, {each.decoded}" for each in (theirs, ours)]
        print(f"| pictures encoded, decoded | {vae[0]} | {vae[1]} | |")
        ratio = f"{seconds / ours.total:.1f}x (goal {goal:g}x)"
        print(f"| time | {seconds:.2f} s | {ours.total:.2f} s | {ratio} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
