"""Color a film."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import names, sources
from . import options as common
from .film_sources import key_picture, memory_of, read_keys, together
from .looking import add_looking, look, networks, placement
from .terminal import note, say

if TYPE_CHECKING:
    from ..files.films import Film
    from ..pipelines.film import FilmReport
    from ..pipelines.film_settings import FilmSettings
    from .looking import Looking

log = logging.getLogger(__name__)

NAME = "film"
HELP = "color a film by references and key frames"
DESCRIPTION = (
    "Colors a film by references and key frames: finds its shots, colors each by a color memory, and keeps the colors "
    "steady along the motion. It is written shot by shot; after an interruption the same command goes on where it was."
)

#: Rows in a model call, of which a processor has little use for more.
DEFAULTS = {"batch": 4}
#: Codec of an output that has no name: what plays everywhere.
UNNAMED = "h264"
#: Settings of color memories that a film has no use for.
NOT_ASKED = ("reach", "fallback_below")


def add_options(command: argparse.ArgumentParser) -> None:
    from ..files.films.codecs import CODECS, USUAL
    from ..pipelines.film_settings import FilmSettings

    command.set_defaults(usage=command.error)
    group = command.add_argument_group("input and output")
    group.add_argument("input", type=common.path, metavar="INPUT", help="the film; sound and times are passed through")
    group.add_argument(
        "--output",
        type=common.place,
        metavar="PLACE",
        help="file, or folder for numbered pictures. What is written of it already is gone on with (default: beside "
        "the input)",
    )
    listed = "; ".join(f"{name}: {codec.help}" for name, codec in CODECS.items())
    usual = ", ".join(f"{name} for {suffix or 'a folder'}" for suffix, name in USUAL.items())
    group.add_argument(
        "--codec",
        choices=tuple(CODECS),
        help=f"{listed} (default: by the output's name, {usual}; {UNNAMED} without --output)",
    )
    group.add_argument(
        "--reference",
        action="append",
        type=sources.reference,
        metavar="A[@MASK][*WEIGHT]",
        default=[],
        help="color picture with the same kinds of things, for all shots. Of a mask what is white counts; a weight "
        "says how much it counts beside others; may be given several times (this, --key-frame or --memory is required)",
    )
    group.add_argument(
        "--key-frame",
        action="append",
        type=key_picture,
        metavar="N=PICTURE[@MASK]",
        default=[],
        help="frame of the film in color; frames count from 0. Its shot takes its colors; where the mask is black they "
        "are still to be found. May be given several times (default: none)",
    )
    add_looking(
        group,
        "color memory of this model that colorize --save-memory wrote; may be given several times (default: none)",
    )
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an older film of the output's name (default: it is refused)",
    )
    group.add_argument(
        "--deinterlace",
        action="store_true",
        help="make whole frames of an interlaced film (default: it is refused)",
    )
    group.add_argument("--no-sound", action="store_true", help="leave sound and subtitles out (default: they stay)")
    group.add_argument(
        "--shots-only",
        action="store_true",
        help="find the shots, say where they begin and end, and color nothing (default: the film is colored)",
    )
    group.add_argument(
        "--json",
        type=common.path,
        metavar="FILE",
        help="write shots, scores and suggested key frames there (default: nowhere)",
    )
    group.add_argument(
        "--strip",
        type=common.path,
        metavar="FILE",
        help="write a picture of the shots there, with scores, key frames and suggested ones (default: none)",
    )
    common.add_checkpoint(command)
    for advanced in (False, True):
        common.add_settings(command, FilmSettings, NOT_ASKED, defaults=DEFAULTS, advanced=advanced)


def run(options: argparse.Namespace) -> int:
    from ..files.films import open_film
    from ..pipelines.film_settings import FilmSettings

    if not (options.reference or options.key_frame or options.memory or options.shots_only):
        options.usage("the following arguments are required: --reference (or --key-frame, --memory or --shots-only)")
    chosen = {**DEFAULTS, **common.chosen(options, FilmSettings)}
    settings = FilmSettings.resolve(**chosen)  # what is out of range is refused before anything is read
    try:
        _ = settings.shots.listed
    except ValueError as error:
        raise ValueError(f"--{error}") from None
    placed = None if options.shots_only else placement(options, chosen)
    names.check_read("INPUT", options.input)
    result, codec = _check_places(options)
    film = open_film(options.input, deinterlace=options.deinterlace)
    for sentence in film.facts.assumed:
        note(sentence)
    if options.shots_only:
        return _shots_only(options, film, settings)
    assert placed is not None
    _color(options, film, (result, codec), placed, chosen)
    return 0


def _check_places(options: argparse.Namespace) -> tuple[Path, str]:
    """Where the film goes, and its codec, once nothing stands against what is read and written beside it."""
    from ..files.output import check_destination
    from ..files.pictures import WRITTEN, picture_size

    pictures = sources.pictures(options.reference)
    for key in options.key_frame:
        called = f"--key-frame {key.number}"
        pictures |= {called: key.source.path, f"the mask of {called}": key.source.mask}
    for path in pictures.values():
        if path is not None:
            picture_size(path)
    files: dict[str, Path] = {f"--memory {file}": file for file in options.memory}
    if not options.shots_only:
        files |= networks(options)
    for option, path in files.items():
        names.check_read(option, path, folders=option in ("--model", "--encoder", "--vae"))
    result, codec = _place(options)
    writes = [] if options.shots_only else [("the film", result)]
    if options.json is not None:
        writes.append(("--json", check_destination(options.json, (".json",))))
    if options.strip is not None:
        writes.append(("--strip", check_destination(options.strip, WRITTEN)))
    reads = [(name, path) for name, path in {**pictures, **files}.items() if path is not None]
    names.check_collisions([options.input], reads, writes)
    return result, codec


def _place(options: argparse.Namespace) -> tuple[Path, str]:
    """Where the film goes, beside the input, into a folder, or to the name that is given; and the codec's name.

    :raises ValueError: a codec that does not fit the name.
    """
    from ..files.films.codecs import CODECS, USUAL, codec_of, usual_codec

    output, codec = options.output, options.codec
    place = None if output is None else Path(output)
    is_folder = place is not None and (str(output).endswith(("/", os.sep)) or place.is_dir())
    if codec is None:
        codec = UNNAMED if place is None else USUAL[""] if is_folder else usual_codec(place)
    name = f"{options.input.stem}_colored{CODECS[codec].suffixes[0]}"
    if place is None:
        return options.input.with_name(name), codec
    if is_folder and not CODECS[codec].is_folder:
        return place / name, codec
    codec_of(codec, place)
    return place, codec


def _color(
    options: argparse.Namespace,
    film: Film,
    place: tuple[Path, str],
    placed: dict[str, Any],
    chosen: dict[str, Any],
) -> None:
    from ..files.films.output import FilmOutput
    from ..files.memories import load_memory
    from ..pipelines.film import FilmColors, color_film
    from ..pipelines.film_identity import file_identity, identity
    from ..pipelines.film_settings import FilmSettings
    from ..pipelines.memory_settings import MemorySettings
    from ..pipelines.steady import notes
    from ..settings import entries

    keys = read_keys(options.key_frame)
    known = [load_memory(file) for file in options.memory]
    asked = {name: value for name, value in chosen.items() if name in entries(MemorySettings)}
    looking = look(options, placed, asked, known)
    for file, memory in zip(options.memory, known, strict=True):
        if memory.made is not None:
            memory.made.check(looking.made, f"--memory {file}")
    rest = {name: value for name, value in chosen.items() if name not in asked}
    settings = FilmSettings.resolve(asking=looking.asking, **rest)
    memory = memory_of(options.reference, known, looking)
    thorough = _thorough(options, looking, settings)
    made = {
        **identity(file_identity(options.input), looking.network, settings, memory, keys),
        "deinterlaced": str(options.deinterlace),
        "device": f"{options.device} {options.dtype}",
        "thorough key frames": "no" if thorough is None else str(thorough.settings),
    }
    for sentence in notes():
        note(sentence)
    sink = FilmOutput(*place, film, made, overwrite=options.overwrite, sound=not options.no_sound)
    with _bars(film, place[0]) as (on_look, on_step, on_frame):
        report = color_film(
            film,
            looking.network,
            settings,
            FilmColors(memory, keys, thorough),
            sink,
            device=placed["device"],
            out_of_memory=looking.out_of_memory,
            on_look=on_look,
            on_step=on_step,
            on_frame=on_frame,
        )
    for sentence in film.notes:
        log.warning("%s", sentence)
    for sentence in sink.notes:
        note(sentence)
    say(report.result)
    _tell(options, report)


def _thorough(options: argparse.Namespace, looking: Looking, settings: FilmSettings) -> Any:
    """What colors a shot's surest frame; None where there is nothing to color it by."""
    if settings.key_method != "thorough" or options.encoder or not options.reference:
        return None
    from ..pipelines.exemplar_settings import ColorizeSettings
    from ..pipelines.film_thorough import ThoroughKeys
    from ..pipelines.memory_features import ModelFeatures

    network = looking.network
    assert isinstance(network, ModelFeatures)
    host: Any = network.host
    return ThoroughKeys(
        host,
        together(options.reference),
        ColorizeSettings.resolve(host.model.recommended.get("exemplar", {})),
    )


@contextmanager
def _bars(film: Film, result: Path | None) -> Iterator[tuple[Any, Any, Any]]:
    """Progress by frames: of looking for cuts, then of coloring, and what is done before a shot's first frame.

    A user who stops is told how to go on.
    """
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def show(called: str, done: int, total: int | None) -> None:
        if called not in bars:
            _closed(bars)
            bars[called] = tqdm(desc=called, total=total, unit="frame")
        bars[called].total = total or bars[called].total
        bars[called].update(done - bars[called].n)

    def on_look(number: int) -> None:
        show("shots", number + 1, film.facts.frames)

    def on_step(number: int, shots: int, what: str) -> None:
        show("frames", bars["frames"].n if "frames" in bars else 0, film.facts.frames)
        bars["frames"].set_postfix_str(f"shot {number + 1} of {shots}{what and ': '}{what}")

    def on_frame(done: int, total: int, _: Any) -> None:
        show("frames", done, total)

    try:
        yield on_look, on_step, on_frame
    except (KeyboardInterrupt, OSError):  # stopped, or no room on the disk
        if result is not None and "frames" in bars:
            note(f"whole shots of {result} are kept; the same command goes on with the rest.")
        raise
    finally:
        _closed(bars)


def _closed(bars: dict[str, Any]) -> None:
    for each in bars.values():
        each.close()


def _shots_only(options: argparse.Namespace, film: Film, settings: FilmSettings) -> int:
    from ..pipelines.film import report_of_shots, shots_of

    with _bars(film, None) as (on_look, *_):
        shots = shots_of(film, settings.shots, on_look)
    for shot in shots:
        say(f"{shot.start}-{shot.stop - 1}{' in color' if shot.colored else ''}")
    _tell(options, report_of_shots(film, shots, thumbnails=options.strip is not None))
    return 0


def _tell(options: argparse.Namespace, report: FilmReport) -> None:
    """Scores and the strip, where they are wanted."""
    if options.json is not None:
        from ..files.output import whole

        with whole(options.json) as beside:
            beside.write_text(json.dumps(report.listed(), indent=1) + "\n", "utf-8")
        say(options.json)
    if options.strip is not None:
        from ..files.pictures import save_picture

        save_picture(report.strip(), options.strip)
        say(options.strip)
    if report.suggestion is not None:
        note(f"frame {report.suggestion} would help most as the next key frame.")
