"""Where ComfyUI keeps a system's weight files: a folder of the system's own, then one that all checkpoints share.

The lists that loader widgets show are made here, from nothing but ComfyUI's ``folder_paths``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import folder_paths

from ...networks.clipseg.load import HUB_FILES, HUB_NAME, HUB_REVISION, is_complete
from ...settings import shown

#: What the small file of a system is called that comes with the pack.
EMBEDDED = "embedded"


def register(name: str) -> None:
    """Make a folder of ``models`` known to ComfyUI, beside those that its user may have added under that name."""
    path = str(Path(folder_paths.models_dir) / name)
    if path not in folder_paths.folder_names_and_paths.get(name, ((), ()))[0]:
        folder_paths.add_model_folder_path(name, path)


@dataclass(frozen=True)
class WeightFolders:
    """The folders of ``models`` that may hold a system's files.

    :param names: the system's own folder first; where two have a file of one name, the first one's counts.
    :param advice: what to download, and from where, for the message about a missing file.
    :param comes_with_one: whether a small file of the system comes with the pack.
    """

    names: tuple[str, ...]
    advice: str
    comes_with_one: bool = True

    def register(self) -> None:
        """Make the system's own folder known to ComfyUI, and what weights are called there."""
        own = self.names[0]
        register(own)
        paths, suffixes = folder_paths.folder_names_and_paths[own]
        folder_paths.folder_names_and_paths[own] = (paths, set(suffixes) | folder_paths.supported_pt_extensions)

    def files(self) -> list[str]:
        """Names of the files of the first folder, then of those that only the next ones have."""
        self.register()
        return list(dict.fromkeys(name for folder in self.names for name in folder_paths.get_filename_list(folder)))

    def choices(self) -> list[str]:
        """What a loader offers: the embedded file where there is one, then all others."""
        return [*([EMBEDDED] if self.comes_with_one else []), *self.files()]

    def check(self, name: str | None) -> bool | str:
        """ComfyUI's verdict on a choice before anything runs; a linked one is not known yet and comes as None."""
        return True if name is None or name in self.choices() else self.missing(name)

    def path(self, name: str, embedded: Path | None = None) -> Path:
        """Where a chosen file is: one of the list, also where the name came through a link, which nobody checked.

        :param embedded: the file that comes with the pack, if one does.
        :raises FileNotFoundError: no folder has it.
        """
        if name == EMBEDDED and embedded is not None:
            return embedded
        found = name in self.files() and (folder_paths.get_full_path(folder, name) for folder in self.names)
        path = next(filter(None, found or ()), None)
        if path is None:
            raise FileNotFoundError(self.missing(name))
        return Path(path)

    def missing(self, name: str) -> str:
        """What to say about a file that is in none of the folders."""
        files = self.files()
        listed = f"there are {', '.join(files[:5])}{' ...' if len(files) > 5 else ''}" if files else "they are empty"
        own, instead = self.names[0], f"; or choose '{EMBEDDED}'" if self.comes_with_one else ""
        return (
            f"There is no {shown(name, 200)} in models/{' or models/'.join(self.names)} ({listed}). {self.advice}, put "
            f"it into models/{own} and reload the page{instead}."
        )


class SavedFolders(WeightFolders):
    """Where files are that nodes save: a folder of ``models``, and the one of the same name in the output folder.

    What is in the output folder has ``[output]`` behind its name, as ComfyUI's own lists have it.
    """

    _OUTPUT, _KIND = " [output]", ".safetensors"

    def register(self) -> None:
        """Make the folder known to ComfyUI, with the one kind of file that these are."""
        register(self.names[0])
        paths, _ = folder_paths.folder_names_and_paths[self.names[0]]
        folder_paths.folder_names_and_paths[self.names[0]] = (paths, {self._KIND})

    def files(self) -> list[str]:
        """Names of the files of models, then of those that were saved; links lead nowhere there."""
        base = self._saved()
        saved = sorted(base.rglob(f"*{self._KIND}")) if base.is_dir() else []
        inside = [path for path in saved if path.is_file() and path.resolve().is_relative_to(base)]
        return [*super().files(), *(path.relative_to(base).as_posix() + self._OUTPUT for path in inside)]

    def path(self, name: str, embedded: Path | None = None) -> Path:
        """Where a chosen file is, see :meth:`WeightFolders.path`.

        :raises FileNotFoundError: no folder has it.
        """
        if name in super().files() or name not in self.files():
            return super().path(name, embedded)
        return self._saved() / name.removesuffix(self._OUTPUT)

    def _saved(self) -> Path:
        return Path(folder_paths.get_output_directory()).resolve() / self.names[0]


@dataclass(frozen=True)
class HubFolder:
    """A folder of ``models`` whose models are folders too, as transformers writes them.

    :param name: of the folder.
    :param hub: the published model, by its name on the hub.
    :param revision: the state of it that is fetched, which nobody can change later.
    :param files: those of its files that are needed.
    :param is_complete: whether a folder has all that a model needs.
    """

    #: The file that makes a folder a model's.
    MARK: ClassVar[str] = "config.json"

    name: str
    hub: str
    revision: str
    files: tuple[str, ...]
    is_complete: Callable[[Path], bool]

    @property
    def from_hub(self) -> str:
        """What the choice of a download is called; the folder that it makes is chosen by its own name afterward."""
        return f"from the hub: {self.hub}"

    @property
    def published(self) -> str:
        """Name of the folder that a download makes."""
        return self.hub.rpartition("/")[2]

    def roots(self) -> list[Path]:
        """Where models are looked for; the first is where a download goes."""
        register(self.name)
        return [Path(path) for path in folder_paths.folder_names_and_paths[self.name][0]]

    def models(self) -> list[str]:
        """Names of the folders that hold a model. One that is still being fetched has a name that begins with a dot."""
        found = [path for root in self.roots() if root.is_dir() for path in root.glob(f"*/{self.MARK}")]
        return sorted({path.parent.name for path in found if path.is_file() and not path.parent.name.startswith(".")})

    def is_there(self) -> bool:
        """Whether the published model need not be fetched."""
        return self.published in self.models() and self.is_complete(self.path(self.published))

    def choices(self) -> list[str]:
        """What a loader offers: the download, then all folders."""
        return [self.from_hub, *self.models()]

    def check(self, name: str | None) -> bool | str:
        """ComfyUI's verdict on a choice before anything runs; a linked one is not known yet and comes as None."""
        return True if name is None or name in self.choices() else self.missing(name)

    def path(self, name: str) -> Path:
        """Where the folder of a name is: one of the list, since a name that came through a link could be any path.

        :raises FileNotFoundError: there is none.
        """
        if name not in self.models():
            raise FileNotFoundError(self.missing(name))
        return next(root / name for root in self.roots() if (root / name / self.MARK).is_file())

    def missing(self, name: str) -> str:
        """What to say about a folder that isn't there."""
        there = ", ".join(self.models()) or "it is empty"
        return (
            f"There is no {shown(name, 200)} in models/{self.name} ({there}). Put the files of {self.hub} "
            f"({', '.join(self.files)}) into models/{self.name}/{self.published} and reload the page; or choose "
            f"'{self.from_hub}' with allow_download on, on a server whose owner allows downloads (SECURITY.md says "
            "how)."
        )


CLIPSEG = HubFolder("clipseg", HUB_NAME, HUB_REVISION, HUB_FILES, is_complete)
COLOR_MEMORIES = SavedFolders(
    ("color_memories",), "Write one with Save Color Memory, or take one from elsewhere", comes_with_one=False
)
DDCOLOR = WeightFolders(
    ("ddcolor", "upscale_models"),
    "Download one of DDColor's four files, such as ddcolor_modelscope.pth (github.com/piddnad/DDColor says where)",
)
DEADIFF = WeightFolders(
    ("deadiff", "checkpoints"), "Download DEADiff's checkpoint (github.com/bytedance/DEADiff says where)"
)
INVERSIONS = SavedFolders(
    ("inversions",), "Write one with Save Inversion, or take one from elsewhere", comes_with_one=False
)
LCAD = WeightFolders(
    ("lcad", "checkpoints"),
    "Download L-CAD's checkpoint (github.com/changzheng123/L-CAD says where; its license is non-commercial)",
)
