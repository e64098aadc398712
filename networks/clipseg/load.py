"""Referring segmentation: where in a picture a text applies, by transformers' CLIPSeg from a local folder.

Source: Lüddecke and Ecker, CVPR 2022, arXiv 2112.10003. Everything else in the pack works without it.

Of a folder only words, sizes and weights are read; which classes are made of them is said here.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ...files.ldm import build
from ...files.numbers import check_numbers
from ...files.plain_json import read_json
from ...files.tensors import read_component
from ..clip.words import MERGES, WORDS, check_complete, has_words, make_tokenizer, read_words
from .architecture import CONFIG, PREPROCESSING, read_architecture, read_preprocessing
from .model import LoadedReferring

#: The folder on the hub, the state of it that is fetched, and the files of it that are needed.
HUB_NAME = "CIDAS/clipseg-rd64-refined"
HUB_REVISION = "999e0328d9e10b484360c477313983f9afdd7050"
HUB_FILES = (CONFIG, PREPROCESSING, WORDS, MERGES, "model.safetensors")

#: A table of positions that older files hold and newer networks compute.
_COMPUTED = "embeddings.position_ids"


def load_referring(folder: Path) -> LoadedReferring:
    """A folder as transformers writes it: config.json, weights, tokenizer and preprocessing. Float32, on the CPU.

    :raises ValueError: not CLIPSeg, incomplete, or damaged; the message names file and place.
    """
    from transformers import CLIPSegForImageSegmentation

    check_kind(folder)
    words = read_words(folder)
    check_complete(words)
    architecture = read_architecture(folder)
    prepared = read_preprocessing(folder, architecture.vision["patch_size"])
    config = architecture.configuration(words)
    tensors = {name: tensor for name, tensor in read_component(folder).items() if not name.endswith(_COMPUTED)}
    check_numbers(tensors, called=str(folder))
    network = build(lambda: CLIPSegForImageSegmentation(config), tensors, str(folder))
    for name, positions in list(network.named_buffers()):
        if name.endswith(_COMPUTED):  # no weight, so it is still on the meta device
            owner = network.get_submodule(name.rpartition(".")[0])
            owner.position_ids = torch.arange(positions.shape[-1])[None]
    return LoadedReferring(
        folder.name,
        network.float(),
        make_tokenizer(words, architecture.text["max_position_embeddings"]),
        prepared.side,
        prepared.mean,
        prepared.std,
    )


def is_complete(folder: Path) -> bool:
    """Whether a folder has all files that a CLIPSeg needs, of whatever form; what they hold is not looked at."""
    weights = any(path.suffix in (".safetensors", ".bin") for path in folder.glob("*"))
    return weights and (folder / CONFIG).is_file() and has_words(folder)


def check_kind(folder: Path) -> None:
    """:raises ValueError: the folder lacks its configuration, or is another kind of model's."""
    path = folder / CONFIG
    kind = read_json(path).get("model_type") if path.is_file() else None
    if kind != "clipseg":
        found = f"a model of the type {kind!s:.60}" if kind else "no config.json"
        raise ValueError(f"{folder} holds {found}, expected a CLIPSeg folder: put one such as {HUB_NAME} there.")
