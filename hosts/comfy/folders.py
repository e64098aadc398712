"""Where ComfyUI keeps a system's weight files: a folder of the system's own, then one that all checkpoints share.

The lists that loader widgets show are made here, from nothing but ComfyUI's ``folder_paths``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import folder_paths

#: What the small file of a system is called that comes with the pack.
EMBEDDED = "embedded"


@dataclass(frozen=True)
class WeightFolders:
    """The folders of ``models`` that may hold a system's files.

    :param names: the system's own folder first; where two have a file of one name, the first one's counts.
    :param advice: what to download, and from where, for the message about a missing file.
    """

    names: tuple[str, ...]
    advice: str

    def register(self) -> None:
        """Make the system's own folder known to ComfyUI, beside those that its user may have added under that name."""
        own = self.names[0]
        path = str(Path(folder_paths.models_dir) / own)
        if path not in folder_paths.folder_names_and_paths.get(own, ((), ()))[0]:
            folder_paths.add_model_folder_path(own, path)
        paths, suffixes = folder_paths.folder_names_and_paths[own]
        folder_paths.folder_names_and_paths[own] = (paths, set(suffixes) | folder_paths.supported_pt_extensions)

    def files(self) -> list[str]:
        """Names of the files of the first folder, then of those that only the next ones have."""
        self.register()
        return list(dict.fromkeys(name for folder in self.names for name in folder_paths.get_filename_list(folder)))

    def choices(self) -> list[str]:
        """What a loader offers: the embedded file, then all others."""
        return [EMBEDDED, *self.files()]

    def check(self, name: str | None) -> bool | str:
        """ComfyUI's verdict on a choice before anything runs; a linked one is not known yet and comes as None."""
        return True if name is None or name in self.choices() else self.missing(name)

    def path(self, name: str, embedded: Path) -> Path:
        """Where a chosen file is.

        :param embedded: the file that comes with the pack.
        :raises FileNotFoundError: no folder has it.
        """
        if name == EMBEDDED:
            return embedded
        self.register()
        found = next((path for folder in self.names if (path := folder_paths.get_full_path(folder, name))), None)
        if found is None:
            raise FileNotFoundError(self.missing(name))
        return Path(found)

    def missing(self, name: str) -> str:
        """What to say about a file that is in none of the folders."""
        found = self.files()
        there = f"there are {', '.join(found[:5])}{' ...' if len(found) > 5 else ''}" if found else "they are empty"
        own = self.names[0]
        return (
            f"There is no '{name}' in models/{' or models/'.join(self.names)} ({there}). {self.advice}, put it into "
            f"models/{own} and reload the page; or choose '{EMBEDDED}'."
        )


DDCOLOR = WeightFolders(
    ("ddcolor", "upscale_models"),
    "Download one of DDColor's four files, such as ddcolor_modelscope.pth (github.com/piddnad/DDColor says where)",
)
DEADIFF = WeightFolders(
    ("deadiff", "checkpoints"), "Download DEADiff's checkpoint (github.com/bytedance/DEADiff says where)"
)
LCAD = WeightFolders(
    ("lcad", "checkpoints"),
    "Download L-CAD's checkpoint (github.com/changzheng123/L-CAD says where; its license is non-commercial)",
)
