"""What exemplar colorization costs, beside the naive way, in one run.

    python -m bench                     Stable Diffusion 1.x size (random weights), 512 x 512, fp32, one pass
    python -m bench --passes 3          the paper's N
    python -m bench --device cuda --dtype float16    on a GPU; peak memory is the device's own count there
    python -m bench --tiny              the same on a toy, to see that it works

Each side runs in a process of its own, so that peak memory is its own. Ratios count, not seconds: machines differ.
A device that is not there ends it with code 2 and what it would need.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from . import machine as machines
from . import sides


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the square pictures in pixels")
    parser.add_argument("--passes", type=int, default=1, help="N")
    parser.add_argument("--depth", type=int, default=5, help="T")
    parser.add_argument("--repeat", type=int, default=2, help="how often single calls are timed; the best counts")
    parser.add_argument("--tiny", action="store_true", help="a toy network and 64 x 64 pictures")
    machines.add_options(parser)
    parser.add_argument("--side", choices=sides.SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny:
        options.size = 64
    machine = machines.of(options, machines.unet_needs(options))
    if options.side:
        print(json.dumps(sides.SIDES[options.side](options, machine)))
        return 0
    found = {side: _measure(side) for side in sides.SIDES}
    _report(found["naive"], found["ours"], options, machine)
    return 0


def _measure(side: str) -> dict:
    print(f"measuring {side} ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "bench", *sys.argv[1:], "--side", side], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _report(naive: dict, ours: dict, options: argparse.Namespace, machine: machines.Machine) -> None:
    def row(name: str, key: str, unit: str, digits: int = 2, goal: str = "") -> None:
        a, b = naive[key], ours[key]
        ratio = f"{a / b:.2f}x" if b else "-"
        print(f"| {name} | {a:.{digits}f} {unit} | {b:.{digits}f} {unit} | {ratio}{goal} |")

    print(
        f"\nExemplar colorization, {options.size} x {options.size}, depth {options.depth}, {options.passes} pass(es), "
        f"{machine}\n"
    )
    print("| | naive: maps built, one row a call | ours | naive / ours |\n| --- | --- | --- | --- |")
    row("plain call, one row", "plain", "s")
    row("guided step (colored and plain prediction)", "guided", "s")
    row("whole flow", "total", "s", 1, f" (goal on a GPU: {machines.SPEED_GOAL:g}x)")
    row("UNet calls", "calls", "", 0)
    row("UNet rows", "rows", "", 0)
    row(f"peak memory of the {'process' if machine.device.type == 'cpu' else 'device'}", "peak", "GiB")
    row("kept features", "kept", "GB in fp16", 3)
    pair = ours["plain_pair"]
    print(
        f"\nPeak of our flow: {ours['peak'] / ours['plain_peak']:.2f}x that of a plain run, guided steps and the "
        f"picture, {ours['plain_peak']:.2f} GiB (goal on a GPU: at most {machines.PEAK_GOAL:g}x)."
    )
    print(
        f"\nOurs: a plain call of two rows takes {pair:.2f} s, so a row {pair / 2:.2f} s; a guided step takes "
        f"{ours['guided']:.2f} s.\nAn injected row beside a plain one costs {ours['guided'] - pair / 2:.2f} s, "
        f"{(ours['guided'] - pair / 2) / (pair / 2):.2f} of a plain row; alone (guidance 1) {ours['injected']:.2f} s, "
        f"{ours['injected'] / ours['plain']:.2f} of a plain call of one row."
    )
    outside = ours["total"] - ours["unet"] - ours["vae"]
    print(
        f"Outside the UNet and the VAE: {outside:.2f} s of {ours['total']:.1f} s, {outside / ours['total']:.1%} (UNet "
        f"{ours['unet']:.1f} s, VAE {ours['vae']:.1f} s)."
    )
    print(
        f"Rows that entered the UNet (both branches enter as one): {ours['entered']}. At the paper's N = 3: "
        f"{ours['paper_calls']} calls, {ours['paper_rows']} rows; a further input {ours['further_rows']} rows."
    )


if __name__ == "__main__":
    sys.exit(main())
