"""Referring segmentation: where in a picture a text applies, by transformers' CLIPSeg from a local folder.

Source: Lüddecke and Ecker, CVPR 2022, arXiv 2112.10003. Everything else in the pack works without it.
"""

from __future__ import annotations

from pathlib import Path

from ...files.ldm import listed
from ...files.tensors import read_component, read_json
from .model import LoadedReferring

#: The folder on the hub, and the files of it that are needed.
HUB_NAME = "CIDAS/clipseg-rd64-refined"
HUB_FILES = ("*.json", "merges.txt", "vocab.json", "model.safetensors")

#: What a folder without its own preprocessing is read with: the published side, and ImageNet's statistics.
_SIDE, _MEAN, _STD = 352, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_referring(folder: Path) -> LoadedReferring:
    """A folder as transformers writes it: config.json, weights, tokenizer and preprocessing. Float32, on the CPU.

    :raises ValueError: not CLIPSeg, incomplete, or damaged; the message says what is missing.
    """
    from transformers import AutoTokenizer, CLIPSegConfig, CLIPSegForImageSegmentation

    check_files(folder)
    tensors = read_component(folder)
    try:
        network, report = CLIPSegForImageSegmentation.from_pretrained(
            None,
            config=CLIPSegConfig.from_pretrained(folder, local_files_only=True),
            state_dict=tensors,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{folder} could not be read as CLIPSeg ({said}): download the folder again.") from error
    # a table of positions that older files hold and newer networks compute
    unexpected = [key for key in report["unexpected_keys"] if not key.endswith("position_ids")]
    missing, reshaped = report["missing_keys"], [str(key) for key in report["mismatched_keys"]]
    if missing or unexpected or reshaped:
        raise ValueError(
            f"{folder}: missing {listed(missing)}, unexpected {listed(unexpected)}, of another shape "
            f"{listed(reshaped)}: the weights are not this configuration's; download the folder again."
        )
    patch = network.config.vision_config.patch_size
    prepared = read_json(folder / "preprocessor_config.json") if (folder / "preprocessor_config.json").is_file() else {}
    side = prepared.get("size", _SIDE)
    side = side.get("height", side.get("shortest_edge", _SIDE)) if isinstance(side, dict) else side
    if side % patch:
        raise ValueError(f"{folder}: pictures of side {side} are no whole number of patches of {patch}.")
    return LoadedReferring(
        folder.name,
        network.float().eval().requires_grad_(False),
        tokenizer,
        side,
        tuple(prepared.get("image_mean", _MEAN)),
        tuple(prepared.get("image_std", _STD)),
    )


def check_files(folder: Path) -> None:
    """:raises ValueError: the folder lacks its configuration or words, or is another kind of model's."""
    path = folder / "config.json"
    kind = read_json(path).get("model_type") if path.is_file() else None
    if kind != "clipseg":
        found = f"a model of the type {kind}" if kind else "no config.json"
        raise ValueError(f"{folder} holds {found}, expected a CLIPSeg folder: put one such as {HUB_NAME} there.")
    # without its words transformers makes up a tokenizer that knows none
    words = "tokenizer.json" if (folder / "tokenizer.json").is_file() else "vocab.json"
    if not (folder / words).is_file() or (words == "vocab.json" and not (folder / "merges.txt").is_file()):
        raise ValueError(f"{folder} lacks vocab.json or merges.txt, the tokenizer's words: download the folder again.")
    read_json(folder / words)
