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

import torch
from torch import Tensor

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_VARIANTS = ("", ".fp16", ".bf16")  # the full precision first
#: Under which names training programs keep a model's weights in a pickled file, the one that counts first.
_NESTS = ("state_dict", "params", "params_ema")


def digest(weight: Tensor, extra: str = "") -> str:
    """12 hexadecimal digits for some weights: SHA-1 of their float16 values and of a text beside them."""
    numbers = weight.detach().half().cpu().contiguous().numpy().tobytes()
    return hashlib.sha1(numbers + extra.encode(), usedforsecurity=False).hexdigest()[:12]


def read_tensors(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickled checkpoint that holds nothing else, on the CPU as stored.

    :param wanted: whether a tensor is, by its name; the others are not read from disk where the format allows it.

    Averaged copies (``model_ema.*``) are left out.

    :raises ValueError: the file is damaged or wants code to run.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix.lower() in (".safetensors", ".sft"):
            with safe_open(str(path), framework="pt", device="cpu") as file:
                names = [name for name in file.keys() if not name.startswith("model_ema.")]  # noqa: SIM118
                return {name: file.get_tensor(name) for name in names if wanted(name)}
        # mapped, so that what nobody wants stays on disk; the format of before 2020 can't be
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError) as error:
        code = re.search(r"\bGLOBAL ([\w.]+)", str(error))  # what torch's reader was asked to call and did not
        if code:
            raise ValueError(
                f"{path} is a pickle with code in it: it wants to run {code[1]}, which is refused. Download the "
                "weights from where they were published, as .safetensors if there is one."
            ) from error
        lines = str(error).strip().splitlines()
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) could not be read as plain weights "
            f"({lines[0] if lines else type(error).__name__}): it is cut off, damaged, or a pickle with code in it; "
            "download it again, as .safetensors if there is one."
        ) from error
    loaded = loaded if isinstance(loaded, Mapping) else {}
    loaded = next((loaded[name] for name in _NESTS if isinstance(loaded.get(name), Mapping)), loaded)
    tensors = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    return {name: value for name, value in tensors.items() if not name.startswith("model_ema.") and wanted(name)}


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
