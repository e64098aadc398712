"""Methods that an archive can go through, each with the options of the command that colors single pictures."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import options as common
from . import sources

if TYPE_CHECKING:
    from torch import Tensor

    from ..files.archive.folders import FolderSettings
    from ..memory.entries import ColorMemory
    from ..pipelines.archive import Method

#: Method -> the command whose options it has.
COMMANDS = {"auto": "auto", "memory": "colorize", "describe": "describe"}
#: Method -> what a folder's file may say for it.
TAKES = {"auto": (), "memory": ("reference", "memory"), "describe": ("prompt", "negative", "regions")}
#: Options that an archive gives itself, or that are of single pictures.
_NOT_TAKEN = {
    *("output", "bits", "strokes", "palette", "save_memory", "save_inversion", "inversion", "no_sheet", "method"),
    "steady",
}
_INPUT = "picture.png"
#: Memories of folders that are kept.
_KEPT = 4


@dataclass(frozen=True)
class Recipe:
    """A method and its options, as they go to workers."""

    method: str
    arguments: tuple[str, ...]

    @property
    def options(self) -> argparse.Namespace:
        """As the method's own command understands them.

        :raises ValueError: it does not, or an archive has no use for one.
        """
        from . import parser

        command, said = COMMANDS[self.method], io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                options = parser([command]).parse_args([command, _INPUT, *self.arguments])
        except SystemExit:
            told = said.getvalue().strip().removeprefix("error: ").split("; usage:")[0] or "it asks for help"
            raise ValueError(f"--with: {told}; give options of {command}, as {command} --help says.") from None
        if options.inputs != [Path(_INPUT)]:
            raise ValueError(f"--with: found {str(options.inputs[-1])[:160]!r}, expected options of {command} alone.")
        for name, value in self._named(options).items():
            if name in _NOT_TAKEN and value:
                raise ValueError(f"--with: {common.flag_of(name)} is not for an archive; leave it out.")
        return options

    def _named(self, options: argparse.Namespace) -> dict[str, Any]:
        """What differs from the defaults."""
        from . import parser

        command = COMMANDS[self.method]
        plain = vars(parser([command]).parse_args([command, _INPUT]))
        return {name: value for name, value in vars(options).items() if value != plain.get(name)}

    def identity(self) -> dict[str, str]:
        """What results depend on, by what a message calls it.

        :raises ValueError: a file that is named is not there, or a setting is out of range.
        """
        import torch

        from ..pipelines.doctor.machine import pack_version

        options = self.options
        _check(self.method, options)
        named = {
            name: str(value) for name, value in sorted(self._named(options).items()) if name not in ("run", "usage")
        }
        files = {"model": place_identity(_model(self.method, options))}
        for name in ("vae", "encoder"):
            if getattr(options, name, None):
                files[name] = place_identity(getattr(options, name))
        listed = [source.path for source in getattr(options, "reference", ())] + list(getattr(options, "memory", ()))
        for number, path in enumerate(listed, 1):
            files[f"color source {number}"] = place_identity(path)
        return {
            "method": self.method,
            **{f"--{name.replace('_', '-')}": value for name, value in named.items()},
            **files,
            "torch": torch.__version__,  # of another version the last bits may differ
            "exemplar": pack_version(),
        }


def recipe(method: str, text: str) -> Recipe:
    """A method and the options that are written as one text.

    :raises ValueError: quotes that do not end.
    """
    try:
        return Recipe(method, tuple(shlex.split(text)))
    except ValueError as error:
        raise ValueError(f"--with: {error}; write options as on a command line.") from error


def place_identity(path: Path) -> str:
    """A file by its size and both its ends, a folder by those of its files.

    :raises FileNotFoundError: there is none.
    """
    from ..pipelines.film_identity import digest, file_identity

    if path.is_file():
        return file_identity(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist; look at what is named after --with.")
    import torch

    listed = [f"{each.relative_to(path)} {file_identity(each)}" for each in sorted(path.rglob("*")) if each.is_file()]
    return digest([torch.tensor(list(os.fsencode("\n".join(listed))), dtype=torch.uint8)])


def build(made: Recipe) -> Method:
    """The method with its model loaded."""
    return {"auto": _Auto, "memory": _Memory, "describe": _Describe}[made.method](made.options)


def _model(method: str, options: argparse.Namespace) -> Path:
    from .. import demo

    if getattr(options, "encoder", None):
        return options.encoder
    places = {"auto": demo.ddcolor_path, "memory": demo.model_path, "describe": demo.lcad_path}
    return options.model or places[method]()


def _check(method: str, options: argparse.Namespace) -> None:
    """Refuse what is out of range, before anything is loaded."""
    if method == "auto":
        from ..pipelines.ddcolor import AutoColorSettings as Settings
    elif method == "memory":
        from ..pipelines.memory_settings import MemorySettings as Settings
    else:
        from ..pipelines.lcad import LCADSettings as Settings
    chosen = common.chosen(options, Settings)
    Settings.resolve(**chosen)
    if method == "memory":
        from .looking import placement

        placement(options, chosen)
    else:
        common.placement(options)


class _Auto:
    """``auto``: no reference, and nothing that says how sure it is."""

    def __init__(self, options: argparse.Namespace) -> None:
        from ..networks.ddcolor.load import load_ddcolor
        from ..pipelines.ddcolor import AutoColorSettings
        from ..pipelines.recommended import SYSTEMS

        self.network = load_ddcolor(_model("auto", options), systems=SYSTEMS, **common.placement(options))
        self.settings = AutoColorSettings.resolve(self.network.recommended, **common.chosen(options, AutoColorSettings))
        self.at_once = 1 if self.network.device.type == "cpu" else 8

    def __call__(self, pictures: Tensor, folder: FolderSettings) -> tuple[Tensor, list[float | None]]:
        from ..pipelines.ddcolor import auto_color

        return auto_color(self.network, pictures, self.settings), [None] * len(pictures)

    def out_of_memory(self, error: Exception) -> bool:
        return self.network.out_of_memory(error)


class _Memory:
    """``colorize --method memory``: references and memories of the folder, else those of the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        from ..files.memories import load_memory
        from ..pipelines.memory_settings import MemorySettings, WritingSettings
        from .colorize import WRITING, chosen_of
        from .looking import look, placement

        chosen = chosen_of(options, MemorySettings)
        self.options = options
        self.looking = look(options, placement(options, chosen), chosen, [load_memory(file) for file in options.memory])
        self.writing = WritingSettings.resolve(
            self.looking.recommended,
            features=self.looking.asking.features,
            **common.chosen(options, WritingSettings, WRITING),
        )
        self.at_once = self.looking.asking.batch
        self._known: OrderedDict[str, ColorMemory] = OrderedDict()

    def __call__(self, pictures: Tensor, folder: FolderSettings) -> tuple[Tensor, list[float | None]]:
        from ..pipelines.memory import color_by_memory

        result = color_by_memory(self.looking.network, pictures, self._memory(folder), self.looking.asking)
        return result.images, [float(each) for each in result.confidence.flatten(1).mean(1)]

    def _memory(self, folder: FolderSettings) -> ColorMemory:
        if folder.digest not in self._known:
            self._known[folder.digest] = self._written(folder)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(folder.digest)
        return self._known[folder.digest]

    def _written(self, folder: FolderSettings) -> ColorMemory:
        from ..files.memories import load_memory
        from ..files.pictures import load_picture
        from ..memory.entries import merged
        from ..pipelines.memory import write_references

        has_own = bool(folder.reference or folder.memory)
        references = [sources.reference(text) for text in folder.reference] if has_own else self.options.reference
        files = [Path(text) for text in folder.memory] if has_own else self.options.memory
        if not (references or files):
            raise ValueError(
                'nothing says what the colors are: name "reference" in exemplar.json beside the pictures, or '
                "--reference in --with"
            )
        memories = []
        for file in files:
            memory = load_memory(file)
            if memory.made is not None:
                memory.made.check(self.looking.made, str(file))
            memories.append(memory)
        for each in references:
            memories.append(
                write_references(
                    self.looking.network,
                    load_picture(each.path),
                    self.writing,
                    masks=sources.read_mask("reference", each),
                    weights=(each.weight or 1.0,),
                    names=(each.path.name,),
                    maker=self.looking.name,
                    beside_others=len(references) + len(files) > 1,
                )
            )
        return merged(memories)

    def out_of_memory(self, error: Exception) -> bool:
        return self.looking.out_of_memory(error)


class _Describe:
    """``describe``: words and regions of the folder, else those of the command line."""

    at_once = 1

    def __init__(self, options: argparse.Namespace) -> None:
        from ..attention.instances import InstanceSettings
        from ..hosts.diffusers.lcad import load_lcad
        from ..pipelines.lcad import LCADSettings
        from .describe import _REGION, _region

        self.options = options
        self.host = load_lcad(_model("describe", options), tokenizer=options.tokenizer, **common.placement(options))
        self.settings = LCADSettings.resolve(self.host.recommended, **common.chosen(options, LCADSettings))
        self.drawing = InstanceSettings.resolve(**common.chosen(options, InstanceSettings, _REGION))
        self.regions = [_region(text) for text in options.region]

    def __call__(self, pictures: Tensor, folder: FolderSettings) -> tuple[Tensor, list[float | None]]:
        from ..files.masks import load_mask
        from ..pipelines.lcad import describe

        words = bool(folder.prompt or folder.regions)
        regions = [(phrase, Path(mask)) for phrase, mask in folder.regions] if words else self.regions
        colored = describe(
            self.host,
            pictures,
            folder.prompt or self.options.prompt,
            self.settings,
            negative=folder.negative or self.options.negative,
            regions=[(phrase, load_mask(mask)) for phrase, mask in regions],
            drawing=self.drawing,
        )
        return colored, [None] * len(pictures)

    def out_of_memory(self, error: Exception) -> bool:
        from ..color.batches import freed

        return freed(error)
