"""Headers of safetensors files: what a file says beside its tensors.

Embedded models carry their configuration, and every file may carry a *recommendation*: settings under the pack's own
names, one section a system, such as ``{"ddcolor": {"resolution": 512}}``. It is what ``auto`` takes (``settings``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..settings import Settings, entries
from . import plain_json
from .fields import Fields, array, check_fields, integer, number, optional, string
from .plain_json import short
from .tensors import is_safetensors_inside, layout_of

#: Which form the header of an embedded model has, its configuration, and the form that is read.
FORMAT_KEY = "exemplar.format"
CONFIG_KEY = "exemplar.config"
FORMAT = "1"
#: Recommended settings, a JSON object of sections.
RECOMMENDED_KEY = "exemplar.recommended"

_WIDTH = integer(1, 16_384)
_LEVELS = (1, 8)
#: What an embedded model's configuration says, section by section; what else stands there is for people. Weights are
#: compared with it where they are loaded.
_SECTIONS: Mapping[str, Fields] = {
    "latent": {"channels": integer(1, 256), "scale_factor": number(1e-4, 1e4)},
    "unet": {
        "sample_size": integer(1, 4096),
        "in_channels": _WIDTH,
        "out_channels": _WIDTH,
        "down_block_types": array(string("CrossAttnDownBlock2D", "DownBlock2D"), *_LEVELS),
        "up_block_types": array(string("CrossAttnUpBlock2D", "UpBlock2D"), *_LEVELS),
        "block_out_channels": array(_WIDTH, *_LEVELS),
        "layers_per_block": integer(1, 16),
        "cross_attention_dim": _WIDTH,
        "attention_head_dim": array(integer(1, 1024), *_LEVELS, alone=True),
        "norm_num_groups": integer(1, 1024),
    },
    "text": {"tokens": integer(1, 1024)},
    "schedule": {
        "type": string("scaled_linear", "linear"),
        "beta_start": number(1e-6, 0.999),
        "beta_end": number(1e-6, 0.999),
        "steps": integer(2, 100_000),
        "prediction": string("epsilon", "v_prediction"),
    },
}
#: L-CAD's own section, and the side of the pictures that a model was trained on.
_LCAD: Fields = {"widths": array(_WIDTH, *_LEVELS), "blocks": integer(1, 16), "groups": integer(0, 1024)}
_SIDE: Fields = {"image_size": optional(integer(1, 16_384))}
#: What judges a recommendation for which no settings are known, where it is neither text nor switch.
_NUMBER = number(0, 1e9)
_RESTORE = "Get the file again, or write it anew; one that came with the pack comes back when the pack is reinstalled."


def read_metadata(path: str | Path) -> Mapping[str, str]:
    """The ``__metadata__`` of a safetensors header, {} if it has none; tensors are not read.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: the file does not start with a safetensors header, or is not what that says.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: give a .safetensors file.")
    return layout_of(path).metadata


def read_config(path: str | Path) -> dict[str, Any]:
    """The configuration in the header of an embedded-model file: sections latent, unet, text and schedule, maybe lcad.

    Every value is one that it can be, and lists are tuples. No tensor is read.

    :raises FileNotFoundError: there is no such file.
    :raises ValueError: the file is not safetensors, is not an embedded model, is of another format version, or says
        something of itself that cannot be; the message names it.
    """
    metadata = read_metadata(path)
    version = metadata.get(FORMAT_KEY)
    if version is None or CONFIG_KEY not in metadata:
        raise ValueError(
            f"{path} is a safetensors file without `{FORMAT_KEY}` and `{CONFIG_KEY}` in its header, so it is not an "
            "embedded Exemplar model: load it as an ordinary checkpoint."
        )
    if version != FORMAT:
        raise ValueError(
            f"{path} is an embedded Exemplar model of format {short(version)}, this version reads {short(FORMAT)}: "
            "update the pack or use the file that came with it."
        )
    called = f"{path}: `{CONFIG_KEY}`"
    config = read_object(path, CONFIG_KEY)
    missing = [name for name in _SECTIONS if name not in config]
    if missing:
        raise ValueError(f"{called} lacks the sections {', '.join(missing)}. {_RESTORE}")
    found: dict[str, Any] = {
        name: check_fields(config[name], fields, f"{called}: {name}", _RESTORE) for name, fields in _SECTIONS.items()
    }
    if "lcad" in config:
        found["lcad"] = check_fields(config["lcad"], _LCAD, f"{called}: lcad", _RESTORE)
    try:
        _check_together(found)
    except ValueError as error:
        raise ValueError(f"{called}: {error} {_RESTORE}") from error
    return found | check_fields(config, _SIDE, called, _RESTORE)


def _check_together(config: Mapping[str, Any]) -> None:
    """:raises ValueError: values that can be, but not together."""
    unet, schedule = config["unet"], config["schedule"]
    check_levels(unet, "unet")
    if unet["out_channels"] != config["latent"]["channels"]:
        raise ValueError(
            f"unet: out_channels is {unet['out_channels']}, but latent: channels is {config['latent']['channels']}."
        )
    if schedule["beta_start"] > schedule["beta_end"]:
        raise ValueError(f"schedule: beta_start is above beta_end, which is {schedule['beta_end']:g}.")
    lcad = config.get("lcad")
    if lcad and lcad["groups"] and any(width % lcad["groups"] for width in lcad["widths"]):
        raise ValueError(f"lcad: widths {list(lcad['widths'])} are not all multiples of {lcad['groups']} groups.")


def check_levels(unet: Mapping[str, Any], called: str) -> None:
    """Whether a UNet's lists, in diffusers' words, have one entry for each level, and its channels can be split.

    :raises ValueError: they have not.
    """
    channels = unet["block_out_channels"]
    for name in ("down_block_types", "up_block_types", "attention_head_dim"):
        value = unet[name]
        if isinstance(value, tuple) and len(value) != len(channels):
            raise ValueError(f"{called}: {name} has {len(value)} values, but block_out_channels has {len(channels)}.")
    heads = unet["attention_head_dim"]
    heads = heads if isinstance(heads, tuple) else (heads,) * len(channels)
    for width, count in zip(channels, heads, strict=True):
        if width % count or width % unet["norm_num_groups"]:
            raise ValueError(
                f"{called}: block_out_channels has {width}, which cannot be split into {count} heads "
                f"(attention_head_dim) and {unet['norm_num_groups']} groups (norm_num_groups)."
            )


def read_object(path: str | Path, key: str) -> dict[str, Any]:
    """A JSON object in the header of a safetensors file; {} where there is none under the key.

    :raises ValueError: what stands there is no such object; file and key are named.
    """
    try:
        content = plain_json.parse(read_metadata(path).get(key, "{}"))
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {short(key)} in the header {error}. {_RESTORE}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {short(key)} in the header holds no object. {_RESTORE}")
    return content


#: System -> the settings classes that its recommendations are for.
Systems = Mapping[str, Iterable[type[Settings]]]


def read_recommended(path: str | Path, systems: Systems | None = None) -> dict[str, dict[str, Any]]:
    """What a safetensors file recommends: system -> setting -> value.

    {} where it says nothing or is another kind of file.

    :param systems: by which settings the values are judged; names that no class has are passed over, and a setting's
        former name counts as its name.
    :raises FileNotFoundError: there is no such file.
    :raises ValueError: the recommendation is damaged, or one of its values can be no setting's.
    """
    if not is_safetensors_inside(Path(path)):
        return {}
    sections = read_object(path, RECOMMENDED_KEY)
    called = f"{path}: `{RECOMMENDED_KEY}`"
    for system, section in sections.items():
        if not isinstance(section, dict):
            raise ValueError(f"{called}: {short(system)} holds no settings by their names. {_RESTORE}")
        known: dict[str, list[Any]] = {}
        former: dict[str, str] = {}
        for settings in (systems or {}).get(system, ()):
            for entry in entries(settings).values():
                known.setdefault(entry.recommended_as, []).append(entry)
                if entry.about.formerly:
                    former[entry.about.formerly] = entry.recommended_as
        section = sections[system] = _renamed(section, {old: new for old, new in former.items() if old not in known})
        for name, value in section.items():
            judges = known.get(name) or ([] if isinstance(value, (str, bool)) else [_NUMBER])
            try:
                for judge in judges:
                    judge.check(value, f"{called}: {system}.{name}")
            except ValueError as error:
                raise ValueError(f"{error} {_RESTORE}") from error
    return sections


def _renamed(section: dict[str, Any], former: Mapping[str, str]) -> dict[str, Any]:
    """A section under today's names, in its order; what stands there under both is taken from the new one."""
    return {former.get(name, name): section.get(former.get(name, name), value) for name, value in section.items()}


def is_embedded(path: str | Path) -> bool:
    """Whether the file is a safetensors file that calls itself an embedded Exemplar model, of any version."""
    try:
        return FORMAT_KEY in read_metadata(path)
    except ValueError:
        return False
