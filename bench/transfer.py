"""What colors of a drifted copy cost at a photograph's full size, beside the plain merge of the same pair.

    python -m bench.transfer                       1, 3, 12 and 48 megapixels
    python -m bench.transfer --megapixels 100      one that only works in strips
    python -m bench.transfer --motion global       one fit for the whole picture alone
    python -m bench.transfer --tiny                the same on small pictures, to see that it works

The picture has detail at every size; its edit (a megapixel, as edit models give back) is zoomed by 3 %, shifted, bent
and softened. Each size runs in a process of its own, so that memory is that of one run: the most that is resident
beyond the pictures themselves (original, edit and result). Times are those of two threads, or of --threads.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import torch
from torch import Tensor

from comfyui_exemplar.color import ab_error, merge_luminance
from comfyui_exemplar.pipelines.transfer import TransferSettings, transfer_colors

from .resident import Peak

#: What 12 megapixels are to take at most on two cores, and what they may hold beyond the pictures.
SECONDS_GOAL, BYTES_GOAL, GOAL_AT = 10.0, 1.5e9, 12.0
SIZES = (1.0, 3.0, 12.0, 48.0)
EDIT = 1.0


def picture(megapixels: float, seed: int = 7) -> Tensor:
    """(1, H, W, 3) in 0..1, 4 by 3: colored noise of every wavelength, as natural pictures have, and some edges."""
    height = max(32, round((megapixels * 1e6 * 3 / 4) ** 0.5))
    width = max(32, round(height * 4 / 3))
    generator = torch.Generator().manual_seed(seed)
    made = torch.full((3, height, width), 0.5)
    cells, strength = 3, 0.18
    while cells < 2 * height:
        noise = torch.randn(1, 3, min(cells, height), min(cells * 4 // 3, width), generator=generator)
        noise = 0.75 * noise.mean(1, keepdim=True) + 0.4 * noise
        made += strength * torch.nn.functional.interpolate(noise, (height, width), mode="bilinear")[0]
        cells, strength = cells * 3, strength * 0.62
    return made.clamp_(0, 1).movedim(0, -1)[None].contiguous()


def edit_of(truth: Tensor, megapixels: float) -> Tensor:
    """(1, h, w, 3): the truth drifted and at an edit model's size."""
    scale = min(1.0, (megapixels * 1e6 / (truth.shape[1] * truth.shape[2])) ** 0.5)
    size = [max(32, 32 * round(side * scale / 32)) for side in truth.shape[1:3]]
    small = torch.nn.functional.interpolate(truth.movedim(-1, 1), size, mode="bilinear", antialias=True)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in size), indexing="ij")
    places = torch.stack([x / 1.03 + 0.02 + 0.006 * torch.sin(4 * y), y / 1.03 - 0.01 + 0.006 * torch.cos(3 * x)], -1)
    moved = torch.nn.functional.grid_sample(
        small, places[None], mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return moved.clamp(0, 1).movedim(1, -1).contiguous()


def measure(megapixels: float, motion: str) -> dict[str, float]:
    """Seconds, bytes and errors of one size, in this process."""
    truth = picture(megapixels)
    edited = edit_of(truth, EDIT if megapixels >= EDIT else megapixels)
    gray = (truth @ torch.tensor([0.299, 0.587, 0.114]))[..., None].expand(-1, -1, -1, 3).contiguous()
    settings = TransferSettings(motion=motion)
    small = gray[:, :96, :128].contiguous()
    transfer_colors(small, small * torch.tensor([1.0, 0.8, 0.6]), settings)  # what is imported and set up once
    found = {"pixels": float(gray.shape[1] * gray.shape[2])}
    for name, run in (
        ("plain", lambda: merge_luminance(edited, gray)),
        ("ours", lambda: transfer_colors(gray, edited, settings)),
    ):
        with Peak() as peak:
            start, processor = time.perf_counter(), time.process_time()
            made = run()
            found[f"{name} seconds"] = time.perf_counter() - start
            found[f"{name} processor"] = time.process_time() - processor
        image = made if isinstance(made, Tensor) else made.images
        # what is handed back is a picture too, and not what the work needs beside
        found[f"{name} bytes"] = peak.grown - image.numel() * 4
        found[f"{name} error"] = float(ab_error(image[:, ::4, ::4], truth[:, ::4, ::4]))
        if not isinstance(made, Tensor):
            given = (made.confidence, made.aligned, made.displacement)
            found["handed back"] = float(sum(t.numel() * t.element_size() for t in given))
        del made, image
    return found


def apart(megapixels: float, options: argparse.Namespace) -> dict[str, float]:
    """:func:`measure` in a process of its own."""
    command = [sys.executable, "-m", "bench.transfer", "--only", str(megapixels), "--motion", options.motion]
    threads = {name: str(options.threads) for name in ("OMP_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")}
    done = subprocess.run(command, env={**os.environ, **threads}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.transfer", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--megapixels", type=float, nargs="+", default=SIZES, help="sizes of the original")
    parser.add_argument("--motion", choices=("local", "global", "none"), default="local", help="as in the settings")
    parser.add_argument("--threads", type=int, default=2, help="threads of the processor")
    parser.add_argument("--tiny", action="store_true", help="small pictures")
    parser.add_argument("--only", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        try:
            import cv2

            cv2.setNumThreads(torch.get_num_threads())
        except ImportError:
            pass
        print(json.dumps(measure(options.only, options.motion)))
        return 0
    print(f"An edit of {EDIT:g} megapixel, {options.threads} thread(s), {options.motion} motion.")
    print("Memory is beyond the pictures: original, edit, result.\n")
    print(
        "| megapixels | plain merge: seconds (processor), MB | ours: seconds (processor) | processor seconds a "
        "megapixel | MB (of it handed back: confidence, aligned, displacement) | error in (a, b): plain, ours |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for size in (0.05, 0.1) if options.tiny else options.megapixels:
        row = apart(size, options)
        mega, seconds = row["pixels"] / 1e6, row["ours seconds"]
        cells = [
            f"{mega:.2f}" if mega < 1 else f"{mega:.0f}",
            f"{row['plain seconds']:.2f} ({row['plain processor']:.2f}), {row['plain bytes'] / 1e6:.0f}",
            f"{seconds:.2f} ({row['ours processor']:.2f})",
            f"{row['ours processor'] / mega:.2f}",
            f"{row['ours bytes'] / 1e6:.0f} ({row['handed back'] / 1e6:.0f})",
            f"{row['plain error']:.2f}, {row['ours error']:.2f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)
        if abs(size - GOAL_AT) < 0.5:
            print(
                f"\nGoals at {GOAL_AT:g} megapixels: {seconds:.1f} s, of the processor {row['ours processor']:.1f} "
                f"(at most {SECONDS_GOAL:g} on two cores that have nothing else to do), "
                f"{row['ours bytes'] / 1e9:.2f} GB (at most {BYTES_GOAL / 1e9:g}).\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
