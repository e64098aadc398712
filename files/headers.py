"""Headers of safetensors files: what a file says beside its tensors.

Embedded models carry their configuration, and every file may carry a *recommendation*: settings under the pack's own
names, one section a system, such as ``{"ddcolor": {"resolution": 512}}``. It is what ``auto`` takes (``settings``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .tensors import LONGEST_HEADER, is_safetensors_inside

if TYPE_CHECKING:
    from torch import Tensor

#: Which form the header of an embedded model has, its configuration, and the form that is read.
FORMAT_KEY = "exemplar.format"
CONFIG_KEY = "exemplar.config"
FORMAT = "1"
#: Recommended settings, a JSON object of sections.
RECOMMENDED_KEY = "exemplar.recommended"
_SECTIONS = ("latent", "unet", "text", "schedule")


def read_metadata(path: str | Path) -> dict[str, str]:
    """The ``__metadata__`` of a safetensors header, {} if it has none; tensors are not read.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: the file does not start with a safetensors header.
    """
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise ValueError(
                f"{path} ({size} bytes) does not start with a safetensors header: it is another kind of file or its "
                "download was cut off; get it again."
            )
        raw = file.read(length)
    try:
        header = json.loads(raw)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both ValueErrors
        raise ValueError(
            f"{path} does not start with a safetensors header ({error}): it is another kind of file or is damaged; get "
            "it again."
        ) from error
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else {}
    return metadata if isinstance(metadata, dict) else {}


def read_config(path: str | Path) -> dict[str, Any]:
    """The configuration in the header of an embedded-model file: sections latent, vae, unet, text, schedule ...

    No tensor is read.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: the file is not safetensors, is not an embedded model, or is of another format version.
    """
    metadata = read_metadata(path)
    version = metadata.get(FORMAT_KEY)
    if version is None or CONFIG_KEY not in metadata:
        raise ValueError(
            f"{path} is a safetensors file without `{FORMAT_KEY}` and `{CONFIG_KEY}` in its header (found "
            f"{sorted(metadata)}), so it is not an embedded Exemplar model: load it as an ordinary checkpoint."
        )
    if version != FORMAT:
        raise ValueError(
            f"{path} is an embedded Exemplar model of format {version!r}, this version reads {FORMAT!r}: update the "
            "pack or use the file that came with it."
        )
    try:
        config = json.loads(metadata[CONFIG_KEY])
    except ValueError as error:
        raise ValueError(f"{path}: `{CONFIG_KEY}` is not JSON ({error}): reinstall the pack to restore it.") from error
    missing = [name for name in _SECTIONS if not isinstance(config, dict) or name not in config]
    if missing:
        raise ValueError(f"{path}: `{CONFIG_KEY}` lacks the sections {missing}: reinstall the pack to restore it.")
    return config


def read_recommended(path: str | Path) -> dict[str, dict[str, Any]]:
    """What a safetensors file recommends: system -> setting -> value.

    {} where it says nothing or is another kind of file.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: the recommendation is damaged.
    """
    if not is_safetensors_inside(Path(path)):
        return {}
    text = read_metadata(path).get(RECOMMENDED_KEY, "{}")
    try:
        sections = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}: `{RECOMMENDED_KEY}` is not JSON ({error}): get the file again.") from error
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise ValueError(f"{path}: `{RECOMMENDED_KEY}` holds no sections of settings: get the file again.")
    return sections


def is_embedded(path: str | Path) -> bool:
    """Whether the file is a safetensors file that calls itself an embedded Exemplar model, of any version."""
    try:
        return FORMAT_KEY in read_metadata(path)
    except ValueError:
        return False


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """All tensors of an embedded-model file on the CPU, as stored (float16).

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: as :func:`read_config`, or the tensors cannot be read.
    """
    read_config(path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            # copies: the reader maps the file, which may be written over while its tensors are in use
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): reinstall the pack to restore it.") from error
