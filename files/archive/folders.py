"""What a small file beside pictures says of them: ``exemplar.json``, for its folder and those below without their own.

    {"reference": ["street.jpg", "coat.png@coat-mask.png*0.5"], "prompt": "a red brick house, a green lawn",
     "negative": "", "regions": {"green lawn": "lawn.png"}, "memory": ["colors.safetensors"]}

All keys may be missing; any other key is refused. Names are relative to the file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import plain_json
from ..plain_json import short
from .finding import digest_of

NAME = "exemplar.json"
_LONGEST = 1_000_000
_MOST = 64


@dataclass(frozen=True)
class FolderSettings:
    """What is said of a folder's pictures; names of files are whole paths.

    :param reference: texts as ``--reference`` takes them.
    :param regions: phrase and mask of each.
    :param digest: of all of it, with the content of the files that are named.
    """

    reference: tuple[str, ...] = ()
    prompt: str = ""
    negative: str = ""
    regions: tuple[tuple[str, str], ...] = ()
    memory: tuple[str, ...] = ()
    digest: str = ""

    @property
    def said(self) -> frozenset[str]:
        """Keys that say something."""
        return frozenset(name for name, value in asdict(self).items() if value and name != "digest")


class FolderFiles:
    """The settings of folders below a root, each file read once and kept as long as a run looks for pictures.

    :param split: takes a reference's text apart: the picture, its mask if it has one, and what is written behind.
    """

    def __init__(self, root: Path, split: Callable[[str], tuple[Path, Path | None, str]]) -> None:
        self.root, self._split = root, split
        self._known: dict[Path, FolderSettings] = {}
        self.named: set[str] = set()

    def of(self, name: str) -> FolderSettings:
        """What holds for a picture, by its name below the root.

        :raises ValueError: a file that says something else, or names what is not there.
        """
        return self._of((self.root / name).parent)

    def _of(self, folder: Path) -> FolderSettings:
        if folder not in self._known:
            if os.path.lexists(folder / NAME):
                self._known[folder] = self._read(folder / NAME)
            elif folder == self.root or self.root not in folder.parents:
                self._known[folder] = FolderSettings()
            else:
                self._known[folder] = self._of(folder.parent)
        return self._known[folder]

    def _read(self, path: Path) -> FolderSettings:
        said = _object(path)
        digests: list[Any] = []

        def file(name: str, text: str) -> Path:
            place = path.parent / text
            if not place.is_file():
                raise ValueError(
                    f"{path}: {name} names {short(text)}, which is no file there; name one, or leave it out."
                )
            digests.append(digest_of(place))
            self.named.add(os.path.realpath(place))
            return place

        references = []
        for text in _texts(path, "reference", said.get("reference", [])):
            picture, mask, behind = self._split(str(path.parent / text))
            file("reference", os.path.relpath(picture, path.parent))
            if mask is not None:
                mask = file("reference", str(mask))
            references.append(f"{picture}{'' if mask is None else f'@{mask}'}{behind}")
        regions = said.get("regions", {})
        if not isinstance(regions, dict) or len(regions) > _MOST:
            raise ValueError(
                f"{path}: regions is {short(str(regions))}; expected an object of at most {_MOST} phrases."
            )
        masks = [
            (phrase, str(file("regions", text)))
            for phrase, text in zip(regions, _texts(path, "regions", list(regions.values())), strict=True)
        ]
        memories = [str(file("memory", text)) for text in _texts(path, "memory", said.get("memory", []))]
        prompt, negative = (_text(path, name, said.get(name, "")) for name in ("prompt", "negative"))
        digest = hashlib.sha256(json.dumps([said, digests], sort_keys=True).encode()).hexdigest()[:16]
        return FolderSettings(tuple(references), prompt, negative, tuple(masks), tuple(memories), digest)


def _object(path: Path) -> Mapping[str, Any]:
    if not path.is_file() or path.stat().st_size > _LONGEST:
        raise ValueError(f"{path} is no small file; expected settings of the folder as JSON.")
    try:
        said = plain_json.parse(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} {error}; expected settings of the folder as JSON.") from error
    if not isinstance(said, dict):
        raise ValueError(f"{path} holds {short(str(said))}; expected an object.")
    known = ("reference", "prompt", "negative", "regions", "memory")
    if unknown := next((name for name in said if name not in known), None):
        raise ValueError(f"{path} has the key {short(unknown)}; expected {', '.join(known)}.")
    return said


def _text(path: Path, name: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{path}: {name} is {short(str(value))}; expected a text.")
    return value


def _texts(path: Path, name: str, values: object) -> list[str]:
    listed = [values] if isinstance(values, str) else values
    if not isinstance(listed, list) or len(listed) > _MOST:
        raise ValueError(f"{path}: {name} is {short(str(values))}; expected a text, or a list of at most {_MOST}.")
    for value in listed:
        if not _text(path, name, value).strip():
            raise ValueError(f"{path}: {name} has an empty text; leave it out.")
    return listed
