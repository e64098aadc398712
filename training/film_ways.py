"""Ways of coloring a rendered clip, measured frame by frame: as a film, and each frame by itself.

Two protocols. *A key frame a shot*: the middle frame of each shot is given in its true colors, as a person would color
it. *References alone*: another rendering of each scene is given (the same things, moved and lit otherwise), all of them
in one memory, and no key frame, as is the default (``key_method``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from comfyui_exemplar.demo import ddcolor_path
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.memory.entries import ColorMemory, merged
from comfyui_exemplar.networks.ddcolor.load import load_ddcolor
from comfyui_exemplar.pipelines.ddcolor import AutoColorSettings, auto_color_in_turn
from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_references import References
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.film import FilmColors, FilmReport, color_film
from comfyui_exemplar.pipelines.film_memory import KeyFrame
from comfyui_exemplar.pipelines.film_settings import FilmSettings
from comfyui_exemplar.pipelines.memory import color_by_memory, write_references
from comfyui_exemplar.pipelines.memory_features import ModelFeatures
from comfyui_exemplar.pipelines.memory_settings import MemorySettings, WritingSettings
from comfyui_exemplar.pipelines.recommended import SYSTEMS
from comfyui_exemplar.pipelines.shots import Shot

from .film_clips import ClipFilm, KnownFeatures, Measured, MeasuringSink, Truth

KEYS, REFERENCES = "a key frame a shot", "references alone"
FILM, MEMORY = "film", "color memory, each frame"
AUTOMATIC, THOROUGH = "DDColor, steady", "thorough method, each frame"
#: Ways and protocols; DDColor takes no colors from anywhere.
JOBS = (
    (FILM, KEYS),
    (FILM, REFERENCES),
    (MEMORY, KEYS),
    (MEMORY, REFERENCES),
    (AUTOMATIC, ""),
    (THOROUGH, KEYS),
    (THOROUGH, REFERENCES),
)
#: Frames before and after that smooth DDColor's: what its node advises for video is 2 to 4.
STEADY = 3
#: Of so many frames of a shot, so many that follow each other are measured of ways that color each frame by itself.
BLOCK, EVERY = 8, 40
#: Every so many frames are colored by the thorough method, which is slow.
THOROUGH_EVERY = 25
#: Frames of the windows around frame 10 and at the end, whose errors are compared.
WINDOW = 11
#: Key frames at random that are tried beside the suggested one, each by coloring the whole shot.
RANDOM = 3


@dataclass
class Bench:
    """What all ways use. Lifetime: one clip, but for the networks."""

    host: DiffusersHost
    truth: Truth

    def __post_init__(self) -> None:
        chosen = self.host.model.recommended
        self.asking = MemorySettings.resolve(chosen.get("memory", {}))
        self.writing = WritingSettings.resolve(chosen.get("memory", {}))
        self.thorough = ColorizeSettings.resolve(chosen.get("exemplar", {}))
        self.film = FilmSettings.resolve(chosen.get("film", {}), asking=self.asking)
        self.network = KnownFeatures(ModelFeatures(self.host, self.asking.features))
        clip = self.truth.clip
        self.references = [clip.reference(shot) for shot in range(len(clip.scenes))]
        self._memory: ColorMemory | None = None

    def memory(self) -> ColorMemory:
        """Of all references."""
        if self._memory is None:
            self._memory = merged([write_references(self.network, each, self.writing) for each in self.references])
        return self._memory

    def key(self, number: int) -> KeyFrame:
        """A frame in its true colors."""
        return KeyFrame(number, self.truth.key(number))


def open_bench(model: Path, truth: Truth) -> Bench:
    """A bench with the model of a file."""
    return Bench(DiffusersHost(load_standalone(model)), truth)


def measure(bench: Bench, way: str, protocol: str) -> dict[str, Any]:
    """What :class:`Measured` writes of one way, and of the film what it says of its shots."""
    measured = Measured(bench.truth)
    if way == FILM:
        return as_film(bench, protocol, measured)
    for number, picture in EACH[way](bench, protocol):
        measured.add(number, picture)
    return measured.written()


def as_film(bench: Bench, protocol: str, measured: Measured) -> dict[str, Any]:
    """The whole flow; cuts are looked for, too."""
    truth = bench.truth
    sink, film = MeasuringSink(measured), ClipFilm(truth)
    if protocol == KEYS:
        colors = FilmColors(None, tuple(bench.key(number) for number in truth.middles))
    else:
        colors = FilmColors(bench.memory(), (), _by_references(bench))
    report = color_film(film, bench.network, bench.film, colors, sink)
    return measured.written() | {"shots": _shots(bench, protocol, report, measured)}


def _shots(bench: Bench, protocol: str, report: FilmReport, measured: Measured) -> list[dict[str, Any]]:
    found = []
    for shot in report.shots:
        errors = [measured.error[number] for number in range(shot.start, shot.stop)]
        row = {
            "start": shot.start,
            "stop": shot.stop,
            "kind": bench.truth.clip.scenes[bench.truth.shots[(shot.start + shot.stop) // 2]].kind,
            "score": shot.score,
            "match": [round(each, 4) for each in shot.match],
            "error": float(np.mean(errors)),
            "keys": list(shot.key_frames),
            "suggestion": shot.suggestion,
        }
        if shot.suggestion is not None:
            row["tried"] = try_suggestion(bench, protocol, shot, row["error"])
        found.append(row)
    return found


def try_suggestion(bench: Bench, protocol: str, shot: Any, without: float) -> dict[str, Any]:
    """The shot's error as a film, with no further key frame, with the suggested one, and with random ones.

    :param without: the first of them, which has been measured.
    """
    middles, numbers = bench.truth.middles, range(shot.start, shot.stop)
    given = [each for each in middles if each in numbers] if protocol == KEYS else []
    random = np.random.default_rng((5, bench.truth.clip.seed, shot.start))
    others = [each for each in numbers if each not in given]
    drawn = random.choice(others, min(RANDOM, len(others)), replace=False).tolist()

    def error(further: int) -> float:
        return _shot_error(bench, protocol, sorted({*given, further}), numbers)

    return {"without": without, "suggested": error(shot.suggestion), "random": [error(each) for each in drawn]}


def _shot_error(bench: Bench, protocol: str, keys: Sequence[int], numbers: range) -> float:
    """Mean error of one shot's frames with these key frames."""
    given = tuple(replace(bench.key(key), number=key - numbers.start) for key in keys)
    colors = FilmColors(None if protocol == KEYS else bench.memory(), given)
    measured = Measured(bench.truth)
    sink, shots = MeasuringSink(measured, numbers), [Shot(0, len(numbers), False)]
    color_film(ClipFilm(bench.truth, numbers), bench.network, bench.film, colors, sink, shots=shots)
    return float(np.mean([measured.error[number] for number in numbers]))


def _by_references(bench: Bench) -> Callable[[Tensor], Tensor]:
    """The thorough method with all references, which are inverted once."""
    prepared = None

    def color(gray: Tensor) -> Tensor:
        nonlocal prepared
        references = References(tuple(bench.references))
        made = colorize(bench.host, gray, references, bench.thorough, prepared=prepared)
        prepared = made.reference
        return made.images

    return color


def _memory_each(bench: Bench, protocol: str) -> Iterator[tuple[int, Tensor]]:
    truth, memories = bench.truth, {}
    for number in sampled(truth):
        shot = truth.shots[number] if protocol == KEYS else None
        if shot not in memories:
            memories[shot] = (
                bench.memory()
                if shot is None
                else write_references(bench.network, truth.key(truth.middles[shot]), bench.writing)
            )
        gray = truth.gray(number)[None]
        features = bench.network.features(gray)
        yield number, color_by_memory(bench.network, gray, memories[shot], bench.asking, features=features).images[0]


def _automatic(bench: Bench, protocol: str) -> Iterator[tuple[int, Tensor]]:
    network = load_ddcolor(ddcolor_path(), systems=SYSTEMS)
    settings = AutoColorSettings.resolve(network.recommended, steady=STEADY)
    truth, wanted = bench.truth, sampled(bench.truth)
    for run in _runs(wanted):
        around = range(max(0, run[0] - STEADY), min(truth.count, run[-1] + STEADY + 1))
        grays = (truth.gray(number)[None] for number in around)
        for number, picture in zip(
            around, auto_color_in_turn(network, grays, settings, count=len(around)), strict=True
        ):
            if run[0] <= number <= run[-1]:
                yield number, picture[0]


def _thorough(bench: Bench, protocol: str) -> Iterator[tuple[int, Tensor]]:
    truth, prepared = bench.truth, {}
    together = _by_references(bench)
    for number in range(THOROUGH_EVERY // 2, truth.count, THOROUGH_EVERY):
        gray = truth.gray(number)[None]
        if protocol == REFERENCES:
            yield number, together(gray)[0]
            continue
        shot = truth.shots[number]
        made = colorize(bench.host, gray, truth.key(truth.middles[shot]), bench.thorough, prepared=prepared.get(shot))
        prepared[shot] = made.reference
        yield number, made.images[0]


EACH = {MEMORY: _memory_each, AUTOMATIC: _automatic, THOROUGH: _thorough}


def windows(count: int) -> tuple[range, range]:
    """Frames around frame 10, and the last ones."""
    first = min(10 - WINDOW // 2, max(0, count - WINDOW))
    return range(first, min(first + WINDOW, count)), range(max(0, count - WINDOW), count)


def sampled(truth: Truth) -> list[int]:
    """Frames that are measured of ways that color each frame by itself."""
    chosen = {number for window in windows(truth.count) for number in window}
    for scene in truth.clip.scenes:
        for start in range(scene.start, scene.stop, EVERY):
            chosen.update(range(start, min(start + BLOCK, scene.stop)))
    return sorted(chosen)


def _runs(numbers: Sequence[int]) -> list[list[int]]:
    """Numbers in runs without gaps."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs
