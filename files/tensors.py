"""Reading weights from disk: plain tensors, never code, from one file or a component of a diffusers folder."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from .names import plain_names
from .pickles import StandIn, load_pickle, module_tensors
from .quantized import owner, unpacked

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_VARIANTS = ("", ".fp16", ".bf16", ".non_ema")  # the full precision first, averages before the others
#: Under which names training programs keep a model's weights in a pickled file, the one that counts first.
_NESTS = (
    *("state_dict", "params", "params_ema", "model_state_dict", "model", "module", "network", "net", "generator"),
    *("weights", "ema", "model_ema", "ema_state_dict", "state_dict_ema"),
)
#: Other things that are saved under a file of weights' name, by their first bytes.
_OTHER_FILES = (
    (b"GGUF", "a GGUF file, whose weights are quantized: get them as .safetensors"),
    (b"version https://git-lfs", "a pointer of Git LFS in place of the file: get the file itself (`git lfs pull`)"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
)
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<\?xml|<head|<body)", re.IGNORECASE)
#: What torch's reader raises for a file that it cannot read.
DAMAGED = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError)
#: Bytes of a safetensors header, by the format's own limit; a larger number means that this is another kind of file.
LONGEST_HEADER = 100_000_000


def digest(weight: Tensor, extra: str = "") -> str:
    """12 hexadecimal digits for some weights: SHA-1 of their float16 values and of a text beside them."""
    numbers = weight.detach().half().cpu().contiguous().numpy().tobytes()
    return hashlib.sha1(numbers + extra.encode(), usedforsecurity=False).hexdigest()[:12]


def read_tensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickled checkpoint, on the CPU; what kind it is its content says.

    They are copies: a file that changes later changes nothing. Names are those of the model alone, without what wraps
    it; averaged copies (``model_ema.*``) are left out unless a UNet's are all that there is. Eight-bit floats become
    float16 (``files.quantized``), all others stay as stored.

    :param wanted: whether a tensor is, by its name; the others are not read from disk where the format allows it.
    :raises ValueError: the file is damaged, wants code to run, or is quantized in a way that cannot be read.
    """
    _check_kind(path)
    stored = _stored(path, wanted)
    try:
        return unpacked(stored)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _stored(path: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Copies of a file's tensors, in its own precisions, with what belongs to those that are wanted."""
    from safetensors import SafetensorError, safe_open

    try:
        if is_safetensors_inside(path):
            with safe_open(str(path), framework="pt", device="cpu") as file:
                return _copies(list(file.keys()), file.get_tensor, wanted)
        found = weights_in(load_pickle(path))
        return _copies(list(found), found.__getitem__, wanted)
    except (SafetensorError, *DAMAGED) as error:
        raise ValueError(unreadable(path, error)) from error


def _copies(names: list[str], get: Callable[[str], Tensor], wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """The wanted ones, under plain names. Readers map a file; a copy lives on when the file is cut or written over."""
    plain = plain_names(names)
    present = set(plain.values())
    owners = {said: of if (of := owner(said)) in present else said for said in present}
    chosen = {of: wanted(of) for of in dict.fromkeys(owners[said] for said in plain.values())}
    return {said: get(name).detach().clone() for name, said in plain.items() if chosen[owners[said]]}


def read_pickle(path: Path) -> Any:
    """All that a pickled file holds, as ``files.pickles`` gives it, its tensors *mapped* from the file.

    :raises ValueError: the file is damaged, of another kind, or wants code to run.
    """
    _check_kind(path)
    try:
        return load_pickle(path)
    except DAMAGED as error:
        raise ValueError(unreadable(path, error)) from error


def weights_in(loaded: Any, depth: int = 4) -> dict[str, Tensor]:
    """The tensors of what a pickled file holds: a network's, or those of the mapping that training programs keep."""
    if isinstance(loaded, StandIn):
        return module_tensors(loaded)
    if not isinstance(loaded, Mapping) or not depth:
        return {}
    if "string_to_param" in loaded:  # an embedding of the web UI, under names that tell
        vectors = weights_in(loaded["string_to_param"], depth - 1)
        return {f"string_to_param.{name}": tensor for name, tensor in vectors.items()}
    nested = [loaded[name] for name in _NESTS if name in loaded] + (list(loaded.values()) if len(loaded) == 1 else [])
    for inner in nested:
        if found := weights_in(inner, depth - 1):
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
    elif start.startswith(b"PK") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in inside):
            kind = "a TorchScript program, not weights: get the weights themselves"
        elif not any(name.endswith("data.pkl") for name in inside):
            kind = f"a zip archive (with {inside[0] if inside else 'nothing'} in it): unpack it"
    if kind:
        raise ValueError(f"{path} is {kind}.")


def unreadable(path: Path, error: Exception) -> str:
    """What to say about a file that a reader gave up on, in one line."""
    code = re.search(r"\bGLOBAL ([\w.]+)", str(error))  # what torch's reader was asked to call and did not
    if code:
        return (
            f"{path} is a pickle with code in it: it wants to run {code[1]}, which is refused. Download the weights "
            "from where they were published, as .safetensors if there is one."
        )
    said = re.search(r"WeightsUnpickler error:\s*(\S.*)", str(error))  # behind advice that nobody should follow
    lines = [said[1]] if said else str(error).strip().splitlines()
    return (
        f"{path} ({path.stat().st_size} bytes) could not be read as plain weights "
        f"({lines[0] if lines else type(error).__name__}): it is cut off, damaged, or a pickle with code in it; "
        "download it again, as .safetensors if there is one."
    )


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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    :raises ValueError: the file is missing or holds anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing: give a complete diffusers folder (unet, vae, text_encoder, scheduler).")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): download the folder again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object: download the folder again.")
    return content


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
    weight_map = read_json(index).get("weight_map", {})
    # Only names beside the index: a path in it must not lead out of the folder.
    shards = [index.parent / Path(str(name)).name for name in sorted(set(weight_map.values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise ValueError(f"{index} lists shards {missing or weight_map} that are missing: download the folder again.")
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= read_tensors(shard)
    return tensors
