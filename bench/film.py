"""What a film costs: memory at two lengths, and a frame's time beside exemplar colorization of each frame, in one run.

    python -m bench.film                        500 and 5,000 frames, then a frame's time at the embedded model's size
    python -m bench.film --frames 100 1000      other lengths
    python -m bench.film --light                memory without the UNet, in a fifth of the time
    python -m bench.film --tiny                 short and small, to see that it works

Rendered clips of three shots (training/clips.py) go through the whole flow: cuts, key frames, lookup, steadiness,
merge, from FFV1 to FFV1. Each length runs in a process of its own, whose resident peak counts, at a small size,
where a frame takes least time: what grows with the number of frames is what is asked. Times are processor seconds of
one thread, since others work on the machine, too. Exemplar colorization has its reference inverted before and is given
as many frames at once as its settings say.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_exemplar.color import desaturate, luminance
from comfyui_exemplar.demo import model_path
from comfyui_exemplar.files.films import FilmFacts, FilmFrame, FilmOutput, open_film
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.memory.features import Features, FeatureSource, Space
from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_references import References
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.film import FilmColors, color_film
from comfyui_exemplar.pipelines.film_memory import KeyFrame
from comfyui_exemplar.pipelines.film_settings import FilmSettings
from comfyui_exemplar.pipelines.film_thorough import ThoroughKeys
from comfyui_exemplar.pipelines.memory import write_references
from comfyui_exemplar.pipelines.memory_features import ModelFeatures
from comfyui_exemplar.pipelines.memory_settings import MemorySettings, WritingSettings
from training.clip_scenes import Stock
from training.clips import Clip

from .machine import MIB

#: What is to be reached: peak at the longer length of that at the shorter one, and how many times faster a frame.
MEMORY_GOAL, SPEED_GOAL = 1.1, 5.0
#: Sides in pixels: of the films whose memory counts, and of those whose time does.
SMALL, EMBEDDED = 64, 128
#: Frames that are timed of a film, and of exemplar colorization.
TIMED, TIMED_EACH = 96, 16
_RATE = Fraction(24)


class Light:
    """In place of a UNet: places are alike where they are as light. What grows with a film is not the network's."""

    fingerprint = name = "light"
    spaces = (Space("light", 0.0, 2, 1, True),)

    def features(self, pictures: Tensor) -> Features:
        """Of squares of 4 x 4 pixels."""
        side = pictures.shape[1] // 4
        angle = F.adaptive_avg_pool2d(luminance(pictures)[:, None], side)[:, 0].flatten(1) / 100 * torch.pi
        tokens = 100 * torch.stack([angle.cos(), angle.sin()], -1)
        return Features(self.fingerprint, self.spaces, (tokens,), (tokens,), ((side, side),))


class Rendered:
    """A clip as a film of gray frames, each rendered when it is asked for."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.facts = FilmFacts(clip.size, clip.size, clip.frame_count, _RATE, 1 / _RATE, 8, "bt709", False)

    def frames(self) -> Iterator[FilmFrame]:
        """All of them."""
        for frame in self.clip.frames():
            yield FilmFrame(frame.number, frame.number, 1, frame.gray)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.film", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--frames", type=int, nargs=2, default=(500, 5000), metavar=("SHORT", "LONG"))
    parser.add_argument("--tiny", action="store_true", help="short and small")
    parser.add_argument("--light", action="store_true", help="memory without the UNet")
    parser.add_argument("--only", choices=("memory", "time"), help="one of the two")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny:
        options.frames = (24, 48)
    torch.set_num_threads(1)
    if options.side:
        print(json.dumps(length(Path(options.side[0]), int(options.side[1]), SMALL, options.light)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if options.only != "time":
            _memory(Path(folder), options.frames, options.light)
        if options.only != "memory":
            frames, each, size = (24, 2, SMALL) if options.tiny else (TIMED, TIMED_EACH, EMBEDDED)
            _time(Path(folder), frames, each, size)
    return 0


def _memory(folder: Path, frames: Sequence[int], light: bool) -> None:
    found = []
    for count in frames:
        print(f"measuring {count} frames ...", file=sys.stderr, flush=True)
        written(folder, count, SMALL)
        done = subprocess.run(
            [sys.executable, "-m", "bench.film", *["--light"] * light, "--side", str(folder), str(count)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"\nA film of {SMALL} x {SMALL} pixels in three shots, from FFV1 to FFV1{', without the UNet' * light}\n")
    print("| frames | peak of the process, MiB | of it above what was there before, MiB | seconds a frame |")
    print("| --- | --- | --- | --- |")
    for count, row in zip(frames, found, strict=True):
        grown = row["peak"] - row["before"]
        print(f"| {count} | {row['peak']:.0f} | {grown:.0f} | {row['seconds'] / count:.3f} |")
    print(f"\nPeak: {found[1]['peak'] / found[0]['peak']:.2f}x (goal: at most {MEMORY_GOAL:g}x).")


def clip_of(count: int, size: int) -> Clip:
    """The clip that is measured."""
    return Clip(Stock.demo(), 1, frames=count, size=size)


def written(folder: Path, count: int, size: int) -> Path:
    """A gray film of so many frames."""
    path = folder / f"gray-{count}-{size}.mkv"
    film = Rendered(clip_of(count, size))
    output = FilmOutput(path, "ffv1", film, {}, overwrite=True)
    output.check()
    output.begin([(0, count)])
    with output.shot(0) as shot:
        for frame in film.frames():
            shot.write(frame, frame.picture)
    return output.finish()


def length(folder: Path, count: int, size: int, light: bool = False) -> dict[str, float]:
    """A film of so many frames, which lies there: its resident peak and what was there before, MiB, and seconds."""
    host = Light() if light else _host()
    # a short film before, so that libraries are loaded and buffers are there
    _colored(host, written(folder, 24, size), clip_of(24, size))
    before, start = _peak(), time.process_time()
    _colored(host, folder / f"gray-{count}-{size}.mkv", clip_of(count, size))
    return {"before": before, "peak": _peak(), "seconds": time.process_time() - start}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB


def _host() -> DiffusersHost:
    return DiffusersHost(load_standalone(model_path()))


def _colored(host: DiffusersHost | Light, path: Path, clip: Clip, references: bool = False) -> None:
    """The whole flow, with a key frame a shot, or with a reference alone."""
    chosen = {} if isinstance(host, Light) else host.model.recommended
    asking = MemorySettings.resolve(chosen.get("memory", {}), resolution=clip.size)
    settings = FilmSettings.resolve(chosen.get("film", {}), asking=asking)
    network: FeatureSource = host if isinstance(host, Light) else ModelFeatures(host, asking.features)
    if references and not isinstance(host, Light):
        writing = WritingSettings.resolve(chosen.get("memory", {}), resolution=clip.size)
        exemplar, reference = ColorizeSettings.resolve(chosen.get("exemplar", {})), clip.reference(0)
        thorough = ThoroughKeys(host, References((reference,)), exemplar)
        colors = FilmColors(write_references(network, reference, writing), (), thorough)
    else:
        keys = [KeyFrame(scene.middle, clip.frame(scene.middle).color[None]) for scene in clip.scenes]
        colors = FilmColors(None, keys)
    film = open_film(path)
    output = FilmOutput(path.with_name(f"{path.stem}-colored.mkv"), "ffv1", film, {}, overwrite=True)
    color_film(film, network, settings, colors, output)


def _time(folder: Path, frames: int, each: int, size: int) -> None:
    host, clip, path = _host(), clip_of(frames, size), written(folder, frames, size)
    settings = ColorizeSettings.resolve(host.model.recommended.get("exemplar", {}))
    prepared = colorize(host, clip.frame(0).gray[None], clip.reference(0), settings).reference

    def thorough() -> None:
        for start in range(0, each, settings.batch):
            stop = min(start + settings.batch, each)
            grays = desaturate(torch.stack([clip.frame(number).gray for number in range(start, stop)]))
            colorize(host, grays, clip.reference(0), settings, prepared=prepared)

    rows = {
        "film, a key frame a shot": _seconds(lambda: _colored(host, path, clip)) / frames,
        "film, a reference": _seconds(lambda: _colored(host, path, clip, references=True)) / frames,
        "exemplar colorization of each frame": _seconds(thorough) / each,
    }
    slow = list(rows.values())[-1]
    print(f"\nThe embedded model at {size} x {size}, one thread, processor seconds; films of {frames} frames\n")
    print("| way | seconds a frame | times faster |\n| --- | --- | --- |")
    for name, seconds in rows.items():
        print(f"| {name} | {seconds:.3f} | {slow / seconds:.1f}x |")
    print(f"\nGoal: at least {SPEED_GOAL:g}x.")


def _seconds(run: Callable[[], None]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


if __name__ == "__main__":
    sys.exit(main())
