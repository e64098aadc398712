"""Reading weights from disk: plain tensors, never code, from one file or a component of a diffusers folder."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from .layout import LONGEST_HEADER, Layout, read_layout
from .names import plain_names
from .pickles import StandIn, load_pickle, module_tensors
from .plain_json import read_json, short
from .quantized import owner, unpacked

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_VARIANTS = ("", ".fp16", ".bf16", ".non_ema")  # the full precision first, averages before the others
#: Under which names training programs keep a model's weights in a pickled file, the one that counts first.
_NESTS = (
    *("state_dict", "params", "params_ema", "model_state_dict", "model", "module", "network", "net", "net_g"),
    *("generator", "weights", "ema", "model_ema", "ema_state_dict", "state_dict_ema"),
)
#: Other things that are saved under a file of weights' name, by their first bytes.
_OTHER_FILES = (
    (b"GGUF", "a GGUF file, whose weights are quantized: get them as .safetensors"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file: get the file itself (`git lfs pull`)"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"\xfd7zXZ", "an xz archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it"),
    (b"\x89PNG", "a picture: get the weights as .safetensors"),
    (b"\xff\xd8\xff", "a picture: get the weights as .safetensors"),
    (b"RIFF", "a picture or a video: get the weights as .safetensors"),
    (b"\x93NUMPY", "an array of numpy: get the weights as .safetensors"),
    (b"\x89HDF", "an HDF5 file: get the weights as .safetensors"),
    (b"%PDF", "a PDF, not weights"),
)
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<\?xml|<head|<body)", re.IGNORECASE)
#: A file of a few printable letters, as servers answer in place of one that they do not give; weights have others.
_TEXT = re.compile(rb"[\t\n\r -~]{1,511}")
#: What torch's reader raises for a file that it cannot read.
DAMAGED = (
    *(pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, AssertionError, MemoryError, struct.error, zipfile.BadZipFile),
)


def digest(weight: Tensor, extra: str = "") -> str:
    """12 hexadecimal digits for some weights: SHA-1 of their float16 values and of a text beside them."""
    numbers = weight.detach().half().cpu().contiguous().numpy().tobytes()
    return hashlib.sha1(numbers + extra.encode(), usedforsecurity=False).hexdigest()[:12]


def read_tensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickled checkpoint, on the CPU; what kind it is its content says.

    They are memory of their own, and nothing of the file is mapped, not even meanwhile: a file that changes later
    changes nothing, and one that changes now is an error. Names are those of the model alone, without what wraps it;
    averaged copies (``model_ema.*``) are left out unless a UNet's are all that there is. Eight-bit floats become
    float16 (``files.quantized``), all others stay as stored.

    :param wanted: whether a tensor is, by its name; the others are not kept, and not read where the format allows it.
    :raises ValueError: the file is damaged, wants code to run, or is quantized in a way that cannot be read.
    """
    _check_kind(path)
    stored = _stored(path, wanted)
    try:
        return unpacked(stored)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _stored(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """A file's tensors, in its own precisions, with what belongs to those that are wanted."""
    if is_safetensors_inside(path):
        layout = layout_of(path)
        chosen = _chosen(layout.tensors, wanted)
        try:
            with path.open("rb") as file:
                return {said: layout.read(file, name) for name, said in chosen.items()}
        except (ValueError, OSError) as error:
            raise ValueError(unreadable(path, error)) from error

    chosen: dict[str, str] = {}

    def choose(loaded: Any) -> dict[str, Tensor]:
        found = weights_in(loaded)
        if not chosen:
            chosen.update(_chosen(found, wanted))
        return {said: found[name] for name, said in chosen.items()}

    try:
        return load_pickle(path, choose)
    except DAMAGED as error:
        raise ValueError(unreadable(path, error)) from error


def layout_of(path: Path) -> Layout:
    """The header of a safetensors file.

    :raises ValueError: it has none, or it does not fit the file; the file is named.
    """
    try:
        return read_layout(path)
    except (ValueError, OSError) as error:
        raise ValueError(unreadable(path, error)) from error


def _chosen(names: Iterable[str], wanted: Callable[[str], bool]) -> dict[str, str]:
    """Stored names of what is read -> names without wrappers: the wanted ones, and what scales or describes them.

    :raises ValueError: two tensors have one name then.
    """
    plain = plain_names(names)
    present = set(plain.values())
    if len(present) < len(plain):
        seen: set[str] = set()
        twice = next(said for said in plain.values() if said in seen or seen.add(said))
        raise ValueError(f"it has {short(twice)} twice, in different wrappers")
    owners = {said: of if (of := owner(said)) in present else said for said in present}
    chosen = {of: wanted(of) for of in dict.fromkeys(owners[said] for said in plain.values())}
    return {name: said for name, said in plain.items() if chosen[owners[said]]}


def weights_in(loaded: Any, depth: int = 4) -> dict[str, Tensor]:
    """The tensors of what a pickled file holds: one, a network's, or those of the mapping that training programs keep.

    A tensor alone is called ``emb_params``, as the embedding is that it must be.
    """
    if isinstance(loaded, Tensor):
        return {"emb_params": loaded}
    if isinstance(loaded, StandIn):
        return module_tensors(loaded)
    if isinstance(loaded, (list, tuple)) and depth:
        return {name: tensor for entry in loaded for name, tensor in weights_in(entry, depth - 1).items()}
    return _weights_of(loaded, depth) if isinstance(loaded, Mapping) and depth else {}


def _weights_of(loaded: Mapping[Any, Any], depth: int) -> dict[str, Tensor]:
    """:func:`weights_in` of a mapping."""
    if "string_to_param" in loaded:  # an embedding of the web UI, under names that tell
        vectors = weights_in(loaded["string_to_param"], depth - 1)
        return {f"string_to_param.{name}": tensor for name, tensor in vectors.items()}
    nested = [loaded[name] for name in _NESTS if name in loaded] + (list(loaded.values()) if len(loaded) == 1 else [])
    for inner in nested:
        found = {} if isinstance(inner, Tensor) else weights_in(inner, depth - 1)
        if found:
            return found
    return {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}


def is_safetensors_inside(path: Path) -> bool:
    """Whether a file is to be read as safetensors: by its content, and where that says nothing by its name."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if start[8:] == b"{" and length <= min(LONGEST_HEADER, path.stat().st_size - 8):
        return True
    return path.suffix.lower() in (".safetensors", ".sft") and not start.startswith((b"PK\x03\x04", b"\x80\x02"))


def _check_kind(path: Path) -> None:
    """:raises ValueError: a file of another kind, such as a page of the web in place of what was to be downloaded."""
    with path.open("rb") as file:
        start = file.read(512)
    kind = next((kind for magic, kind in _OTHER_FILES if start.startswith(magic)), None)
    if _PAGE.match(start):
        kind = "a page of the web, not weights: download the file itself, logged in where that is asked for"
    elif _TEXT.fullmatch(start):
        said = short(start.decode("ascii").strip())
        raise ValueError(f"{path} could not be read as plain weights: it is a text, {said}; download the file itself.")
    elif start.startswith(b"PK") and zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                inside = archive.namelist()
        except DAMAGED as error:
            raise ValueError(unreadable(path, error)) from error
        if any(name.endswith("/constants.pkl") for name in inside):
            kind = "a TorchScript program, not weights: get the weights themselves"
        elif not any(name.endswith("data.pkl") for name in inside):
            kind = f"a zip archive (with {inside[0] if inside else 'nothing'} in it): unpack it"
    if kind:
        raise ValueError(f"{path} could not be read as plain weights: it is {kind}.")


def unreadable(path: Path, error: Exception) -> str:
    """What to say about a file that a reader gave up on, in one line.

    :param error: a phrase of ours, as a :class:`ValueError`; what torch says is not for users.
    """
    code = re.search(r"\bGLOBAL ([\w.]+)", str(error))  # what torch's reader was asked to call and did not
    if code:
        return (
            f"{path} is a pickle with code in it: it wants to run {code[1][-100:]}, which is refused. Download the "
            "weights from where they were published, as .safetensors if there is one."
        )
    if type(error) is ValueError and str(error).startswith(("it ", "its ", "the header", "`__")):
        why = f": {error}. It is cut off, damaged or another kind of file"
    else:
        why = ": it is cut off, damaged, or a pickle with code in it"
    size = f" ({path.stat().st_size} bytes)" if path.is_file() else ""
    return f"{path}{size} could not be read as plain weights{why}; download it again, as .safetensors if there is one."


@contextmanager
def reading(path: Path, advice: str) -> Iterator[None]:
    """The reading of a file, in whose errors the file is named.

    :param advice: what to do where there is no such file.
    :raises FileNotFoundError: there is no such file.
    :raises ValueError: as raised while reading, with the path in front if the message lacks it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {advice}.")
    try:
        yield
    except ValueError as error:
        said = str(error)
        if str(path) in said:
            raise
        raise ValueError(f"{path}: {said}") from error


def read_component(folder: Path) -> dict[str, Tensor]:
    """The tensors of one component of a diffusers folder: whole or in shards, safetensors before pickles.

    :raises ValueError: there are no weights; the message says what there is.
    """
    for suffix in ("safetensors", "bin"):
        for variant in _VARIANTS:
            for stem in _STEMS:
                whole = folder / f"{stem}{variant}.{suffix}"
                if whole.is_file():
                    return read_tensors(whole)
                index = folder / f"{stem}.{suffix}.index{variant}.json"
                if index.is_file():
                    return _read_shards(index)
    found = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else "no such folder"
    raise ValueError(
        f"{folder} has no weights (found {found}), expected for example {_STEMS[0]}.safetensors: download the folder "
        "again, with its large files."
    )


def _read_shards(index: Path) -> dict[str, Tensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) and name for name in weight_map.values()):
        raise ValueError(f"{index} has no `weight_map` from tensors to names of files: download the folder again.")
    # Only names beside the index: a path in it must not lead out of the folder.
    shards = [index.parent / Path(name).name for name in sorted(set(weight_map.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise ValueError(
            f"{index} lists the shards [{', '.join(missing[:5])}], which are missing: download the folder again."
        )
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        found = read_tensors(shard)
        twice = found.keys() & tensors.keys()
        if twice:
            raise ValueError(f"{shard} has {short(min(twice))}, as another shard does: download the folder again.")
        tensors |= found
    return tensors
