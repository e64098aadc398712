"""A paper's table, made again from its pairs."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import options as common
from . import pairs
from .terminal import note, say

if TYPE_CHECKING:
    from torch import Tensor

    from ..hosts.diffusers.host import DiffusersHost
    from ..pipelines.measure_table import Measured

NAME = "reproduce"
HELP = "make a paper's table again, and print it beside the paper's own"
DESCRIPTION = (
    "Colors a paper's pairs, measures them as the paper does and prints the table beside the paper's own. A run that "
    "is stopped goes on where it was. exemplar: Kosugi 2025, arXiv 2505.15812."
)

METHODS = ("attention", "memory")
#: Folders of the pairs.
_INPUT, _REFERENCE, _OUTPUT = "input", "reference", "output"
#: Colors one picture and its reference: (1, H, W, 3) each.
_Work = Callable[["Tensor", "Tensor"], "Tensor"]


def add_options(command: argparse.ArgumentParser) -> None:
    from ..pipelines.exemplar_settings import ColorizeSettings
    from .colorize import WITHOUT_OPTION

    group = command.add_argument_group("input and output")
    group.add_argument("paper", choices=("exemplar",), help="whose table")
    group.add_argument(
        "--data",
        type=common.path,
        required=True,
        metavar="FOLDER",
        help=f"folder with the pairs: {_INPUT}/001.png and {_REFERENCE}/001.png and so on, 512 x 512 (required)",
    )
    group.add_argument(
        "--output",
        type=common.path,
        metavar="FOLDER",
        help=f"where results go; those of the second method into the folder beside it whose name ends in -memory "
        f"(default: {_OUTPUT} in the folder of the pairs)",
    )
    group.add_argument(
        "--method",
        choices=(*METHODS, "both"),
        default="both",
        help="attention is the paper's; memory is our fast one, of one model call a picture (default: both)",
    )
    group.add_argument(
        "--weights",
        type=common.path,
        metavar="FOLDER",
        help="folder with the files of Inception and LPIPS, as measure takes it (default: FID, SI-FID and LPIPS are "
        "left out)",
    )
    common.add_checkpoint(command)
    for advanced in (False, True):
        common.add_settings(
            command,
            ColorizeSettings,
            WITHOUT_OPTION,
            defaults=_published(),
            about="of --method attention; the defaults are the published program's",
            advanced=advanced,
        )


def _published() -> dict[str, Any]:
    """What the published program does where our default is another one, its size, and one picture a call."""
    from ..pipelines.exemplar_settings import ColorizeSettings
    from ..pipelines.reproduce import SIDE
    from ..settings import entries

    known = entries(ColorizeSettings).items()
    published = {name: entry.about.published for name, entry in known if entry.about.published is not None}
    return {**published, "resolution": SIDE, "batch": 1}


def run(options: argparse.Namespace) -> int:
    from ..demo import model_path
    from ..hosts.diffusers.checkpoint import load_standalone
    from ..hosts.diffusers.host import DiffusersHost
    from ..networks.measure.files import load_networks
    from ..pipelines.exemplar_settings import ColorizeSettings
    from ..pipelines.reproduce import beside_paper
    from . import names

    chosen = {**_published(), **common.chosen(options, ColorizeSettings)}
    ColorizeSettings.resolve(**chosen)  # what is out of range is refused before anything is read
    placed = common.checkpoint(options)
    inputs = pairs.pictures_of("--data", [options.data / _INPUT])
    pairs.check_stems(inputs)
    references = pairs.paired("--data", inputs, [options.data / _REFERENCE])
    names.check_read("--model", options.model or model_path(), folders=True)
    networks = load_networks(options.weights, device=placed["device"])
    model = load_standalone(options.model or model_path(), **placed)
    host = DiffusersHost(model)
    settings = ColorizeSettings.resolve(model.recommended.get("exemplar", {}), **chosen)
    found: dict[str, Measured] = {}
    for method in METHODS if options.method == "both" else (options.method,):
        work, made = _attention(host, settings) if method == "attention" else _memory(host, model.recommended)
        made = {"method": method, "model": model.fingerprint, "dtype": options.dtype, **made}
        outputs = _color(method, _folder(options, method), inputs, references, made, work)
        found[method] = _measure(method, outputs, references, networks, placed["device"])
    for line in beside_paper(found).splitlines():
        say(line)
    return 0


def _folder(options: argparse.Namespace, method: str) -> Path:
    """Where a method's results go."""
    folder = options.output or options.data / _OUTPUT
    return folder.with_name(f"{folder.name}-memory") if method == "memory" else folder


def _attention(host: DiffusersHost, settings: Any) -> tuple[_Work, dict[str, Any]]:
    """The paper's method, and what its results depend on."""
    from ..pipelines.exemplar_batches import colorize_in_batches

    def work(image: Tensor, reference: Tensor) -> Tensor:
        (result,) = colorize_in_batches(host, image, reference, settings)
        return result.images

    return work, {"settings": dataclasses.asdict(settings)}


def _memory(host: DiffusersHost, recommended: Mapping[str, Mapping[str, Any]]) -> tuple[_Work, dict[str, Any]]:
    """A color memory of the one reference, and what its results depend on."""
    from ..pipelines.memory import color_in_batches, write_references
    from ..pipelines.memory_features import ModelFeatures
    from ..pipelines.memory_settings import MemorySettings, WritingSettings

    asking = MemorySettings.resolve(recommended.get("memory", {}), batch=1)
    writing = WritingSettings.resolve(recommended.get("memory", {}), features=asking.features)
    network = ModelFeatures(host, asking.features)

    def work(image: Tensor, reference: Tensor) -> Tensor:
        memory = write_references(network, reference, writing)
        (result,) = color_in_batches(network, image, memory, asking, host.out_of_memory)
        return result.images

    return work, {"settings": dataclasses.asdict(asking), "writing": dataclasses.asdict(writing)}


def _color(
    method: str,
    folder: Path,
    inputs: list[Path],
    references: Mapping[Path, Path],
    made: Mapping[str, Any],
    work: _Work,
) -> dict[Path, Path]:
    """Color what is not colored yet.

    :returns: result -> its input.
    :raises ValueError: results of another run are there, or a pair that cannot be read or colored.
    """
    from tqdm import tqdm

    from ..files.pictures import load_picture, save_picture
    from ..pipelines.reproduce import begin

    results = {folder / f"{path.stem}.png": path for path in inputs}
    begin(folder, made, list(results))
    to_do = {result: path for result, path in results.items() if not result.exists()}
    if len(to_do) < len(results):
        note(f"{method}: {len(results) - len(to_do)} of {len(results)} are there already.")
    for result, path in tqdm(to_do.items(), desc=method, unit="pair"):
        try:
            save_picture(work(load_picture(path), load_picture(references[path])), result)
        except ValueError as error:
            raise ValueError(f"{path.name} with {references[path]}: {error}") from error
    return results


def _measure(
    method: str, outputs: Mapping[Path, Path], references: Mapping[Path, Path], networks: Any, device: Any
) -> Measured:
    """The measures of a method's results."""
    from tqdm import tqdm

    from ..files.pictures import load_picture
    from ..pipelines.measure import Measuring, Pair
    from ..pipelines.measure_report import table

    measuring = Measuring(networks=networks, device=device)
    for output, path in tqdm(outputs.items(), desc=f"{method}: measures", unit="picture"):
        made, gray = load_picture(output), load_picture(path)
        # At another working size the published program's results have that size.
        same = made.shape == gray.shape
        measuring.add(Pair(path.name, made, load_picture(references[path]), gray=gray if same else None))
    measured = measuring.result()
    for line in (f"{method}:", *table(measured).splitlines(), ""):
        say(line)
    return measured
