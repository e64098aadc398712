"""What a server's owner lets the pack fetch, and the fetching: of one state of a repository, whole or not there."""

from __future__ import annotations

import configparser
import logging
import os
import shutil
from pathlib import Path

import folder_paths

from .folders import HubFolder

log = logging.getLogger(__name__)

#: The owner's word in the server's environment, which counts before the one in the file.
VARIABLE = "EXEMPLAR_ALLOW_DOWNLOADS"
#: The owner's file in ComfyUI's user folder, in a part of it that no page and no workflow reaches.
OWNER, FILE = "exemplar", "config.ini"
SECTION, OPTION = "exemplar", "allow_downloads"


def allowed() -> bool:
    """Whether the server's owner lets the pack fetch files. Without a word from the owner nothing is fetched.

    :raises ValueError: the owner's word is neither yes nor no, or stands in a file that cannot be read.
    """
    said, where = os.environ.get(VARIABLE), f"the environment variable {VARIABLE}"
    if said is None:
        path = Path(folder_paths.get_system_user_directory(OWNER)) / FILE
        said, where = _option(path), f"{OPTION} in {path}"
    try:
        return configparser.ConfigParser.BOOLEAN_STATES[said.strip().lower()]
    except KeyError:
        raise ValueError(f"{where} is {said!r:.60}; expected yes or no.") from None


def _option(path: Path) -> str:
    read = configparser.ConfigParser(interpolation=None)
    try:
        if path.is_file():
            read.read_string(path.read_text(encoding="utf-8-sig"))  # editors on Windows put a mark first
    except (configparser.Error, OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} could not be read ({str(error).splitlines()[0]}); write the lines [{SECTION}] and {OPTION} = yes, "
            "or no."
        ) from error
    return read.get(SECTION, OPTION, fallback="no") or "no"


def fetch(hub: HubFolder) -> None:
    """Fetch a published model. Its folder gets its name when all is there; what an earlier try left is taken up again.

    :raises OSError: it could not be fetched; what arrived is kept.
    """
    from huggingface_hub import snapshot_download

    folder = hub.roots()[0] / hub.published
    beside = folder.with_name(f".{hub.published}.part")
    log.info("Fetching %s from the hub into %s.", hub.hub, folder)
    try:
        # without a token: the model is public, and who asks is nobody's business
        snapshot_download(hub.hub, revision=hub.revision, local_dir=beside, allow_patterns=list(hub.files), token=False)
        missing = [name for name in hub.files if not (beside / name).is_file()]
        if missing:
            raise OSError(f"{', '.join(missing)} did not arrive")
        _name(beside, folder, hub.files)
    except Exception as error:  # the network's errors are of many libraries
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"{hub.hub} could not be fetched ({said:.200}). What arrived is kept in {beside}; run it again to go on, "
            f"or put {', '.join(hub.files)} into {folder} by hand."
        ) from error


def _name(beside: Path, folder: Path, files: tuple[str, ...]) -> None:
    """Give what was fetched its name, in place of what is there under it."""
    shutil.rmtree(beside / ".cache", ignore_errors=True)  # the hub's notes on its progress
    if not folder.exists():
        beside.rename(folder)
        return
    for name in sorted(files, key=lambda name: name == HubFolder.MARK):
        os.replace(beside / name, folder / name)
    shutil.rmtree(beside, ignore_errors=True)
