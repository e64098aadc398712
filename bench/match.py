"""A batch of pictures in a reference's colors: ours, color-matcher (ColorMatch of KJNodes) and ComfyUI's own node.

    python -m bench.match                        16 pictures of 512 x 512, one thread
    python -m bench.match --threads 0            the same with as many threads as torch takes by itself
    python -m bench.match --tiny                 small pictures, to see that it works

color-matcher is run as ColorMatch does, a picture a thread of a pool. It is a package of its own (pip install
color-matcher); without it, or without ComfyUI's place in COMFYUI_PATH and its Python as the one that runs this, their
columns are empty. All run in turns, a round after another; the fastest round counts, in seconds of the processor and
by the clock. Then what each makes of what is hard: frames that are nearly white, constant, or still with grain.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from comfyui_exemplar.color import luminance
from comfyui_exemplar.color.devices import best_device
from comfyui_exemplar.pipelines.match import MatchSettings, match_colors

Run = Callable[[Tensor, Tensor], Tensor]

#: Ours, and what color-matcher and ComfyUI's node call the same.
ROWS: tuple[tuple[dict[str, str], str, str], ...] = (
    ({"method": "mean and spread"}, "", "reinhard_lab"),
    ({"method": "covariance"}, "", "mkl_lab"),
    ({"method": "covariance", "space": "RGB"}, "mkl", ""),
    ({"method": "mean and spread", "space": "l-alpha-beta"}, "reinhard", ""),
    ({"method": "histogram", "space": "RGB"}, "hm", "histogram"),
    ({"method": "histogram and covariance", "space": "RGB"}, "hm-mkl-hm", ""),
    ({"method": "sliced transport"}, "", ""),
)


def pictures(count: int, size: int, seed: int) -> Tensor:
    """(count, size, size, 3) in 0..1: blobs of color with grain, off the ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 12, 12, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp_(0, 1)
    grain = 0.02 * torch.randn(count, 1, size, size, generator=generator)
    return (0.2 + 0.6 * smooth + grain).clamp_(0, 1).movedim(1, -1).contiguous()


def ours(values: dict[str, str], **more: str) -> Run:
    """Our flow with some settings."""
    settings = MatchSettings(**{**values, **more})
    return lambda image, reference: match_colors(image, reference, settings)


def color_matcher(method: str) -> Run | None:
    """What ColorMatch does with a batch and one reference; None without the package."""
    try:
        from color_matcher import ColorMatcher
    except ImportError:
        return None

    def run(image: Tensor, reference: Tensor) -> Tensor:
        frames, there = [frame.numpy() for frame in image], reference[0].numpy()
        with ThreadPoolExecutor(min(os.cpu_count() or 1, len(frames))) as pool:
            made = list(pool.map(lambda frame: ColorMatcher().transfer(src=frame, ref=there, method=method), frames))
        return torch.stack([torch.from_numpy(each) for each in made]).float().clamp_(0, 1)

    return run


def core(method: str, statistics: str = "per_frame") -> Run | None:
    """ComfyUI's Transfer Color; None where ComfyUI is not at hand."""
    place = os.environ.get("COMFYUI_PATH")
    if not place:
        return None
    if place not in sys.path:
        sys.path.insert(0, place)
    try:
        for module in filter(None, os.environ.get("COMFYUI_STUB", "").split(",")):
            __import__(module)
        import comfy.options  # noqa: F401  (reads no arguments unless told to)
        from comfy.cli_args import args

        args.cpu = best_device().type == "cpu"
        from comfy_extras.nodes_post_processing import ColorTransfer
    except ImportError:
        return None
    chosen = {"source_stats": statistics, "target_index": 0}
    return lambda image, reference: ColorTransfer.execute(image, reference, method, chosen).result[0]


def rounds(runs: list[Run | None], image: Tensor, reference: Tensor, repeat: int) -> list[tuple[float, float]]:
    """(processor seconds, seconds) of each one's fastest round; NaN for what is not there."""
    best = [(float("nan"), float("nan")) if run is None else (float("inf"),) * 2 for run in runs]
    for number in range(repeat + 1):
        for at, run in enumerate(runs):
            if run is None:
                continue
            given = image.clone(), reference.clone()  # color-matcher writes to what it is given
            start, worked = time.perf_counter(), time.process_time()
            run(*given)
            worked, start = time.process_time() - worked, time.perf_counter() - start
            if number:  # the first one warms up
                best[at] = min(best[at][0], worked), min(best[at][1], start)
    return best


def hard(size: int) -> None:
    """What becomes of hard frames, in numbers."""
    reference, generator = pictures(1, size, 9), torch.Generator().manual_seed(1)
    white = 0.985 + 0.004 * torch.rand(1, size, size, 3, generator=generator)
    gray = pictures(1, size, 3).mean(-1, keepdim=True).repeat(1, 1, 1, 3)
    constant = torch.full((1, size, size, 3), 0.5)
    still = pictures(1, size, 4) + 0.01 * torch.randn(8, size, size, 3, generator=generator)
    still[::2, :, : size // 4] = 0.97  # something white passes by
    ways = {
        "ours, covariance, lightness kept": ours({"method": "covariance", "keep_lightness": True}),
        "ours, covariance, RGB": ours({"method": "covariance", "space": "RGB"}),
        "ours, covariance, whole batch": ours({"method": "covariance", "statistics": "whole batch"}),
        "color-matcher mkl": color_matcher("mkl"),
        "color-matcher reinhard": color_matcher("reinhard"),
        "ComfyUI mkl_lab": core("mkl_lab"),
        "ComfyUI mkl_lab, uniform": core("mkl_lab", "uniform"),
    }
    heads = (
        "",
        "near white: L changes by",
        "gray: grain of the colors (std)",
        "constant: spread, or NaN",
        "still with grain: a frame's mean moves by",
    )
    print(f"\n| {' | '.join(heads)} |\n|{' --- |' * len(heads)}")
    for name, run in ways.items():
        if run is None:
            continue
        lifted = float((luminance(run(white.clone(), reference.clone())) - luminance(white)).abs().mean())
        colors = run(gray.clone(), reference.clone())
        noise = float((colors - colors.mean(-1, keepdim=True)).std((1, 2)).max())
        flat = float(run(constant.clone(), reference.clone()).std((1, 2)).max())
        moved = run(still.clamp(0, 1), reference.clone())[:, :, size // 4 :].mean((1, 2))
        flicker = float((moved[1:] - moved[:-1]).abs().mean()) * 255
        print(f"| {name} | {lifted:.2f} | {noise:.4f} | {flat:.5f} | {flicker:.2f} levels |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.match", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16, help="pictures")
    parser.add_argument("--size", type=int, default=512, help="their sides")
    parser.add_argument("--threads", type=int, default=1, help="of torch; 0 for as many as it takes by itself")
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--tiny", action="store_true", help="small pictures")
    options = parser.parse_args()
    if options.tiny:
        options.batch, options.size, options.repeat = 2, 48, 1
    if options.threads:
        torch.set_num_threads(options.threads)
    image, reference = pictures(options.batch, options.size, 0), pictures(1, options.size, 1)
    print(
        f"{options.batch} pictures of {options.size} x {options.size}, {torch.get_num_threads()} thread(s) of torch, "
        f"torch {torch.__version__}. Milliseconds a picture: of the processor (by the clock).\n"
    )
    sides = ("ours, clip", "ours, fit", "color-matcher", "ComfyUI", "color-matcher beside ours", "ComfyUI beside ours")
    print(f"| method | {' | '.join(sides)} |\n|{' --- |' * (1 + len(sides))}")
    for values, theirs, other in ROWS:
        runs = [ours(values, gamut="clip"), ours(values), color_matcher(theirs) if theirs else None]
        found = rounds([*runs, core(other) if other else None], image, reference, options.repeat)
        cells = [
            "" if worked != worked else f"{worked / options.batch * 1e3:.1f} ({clock / options.batch * 1e3:.1f})"
            for worked, clock in found
        ]
        ratios = [
            "" if each[0] != each[0] else f"{each[0] / found[0][0]:.1f}x ({each[1] / found[0][1]:.1f}x)"
            for each in found[2:]
        ]
        called = ", ".join([*values.values(), *(name for name in (theirs, other) if name)])
        print(f"| {' | '.join([called, *cells, *ratios])} |", flush=True)
    hard(options.size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
