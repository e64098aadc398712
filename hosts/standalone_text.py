"""Text encoders of the files that ``checkpoint`` loads, as functions of learnt vectors.

``load_standalone`` runs the text encoder once, on the empty prompt, and lets it go; learning a concept needs it for longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import demo
from ..networks.hashed_words import NULL_TOKEN, HashedWords, tokenize
from . import ldm_config as ldm
from . import text_encoders as text
from .diffusers_gradients import encode_concept
from .weight_files import read_component, read_json, read_tensors

#: CLIP's id of the word "picture", for files that come without a tokenizer.
_PICTURE = ("picture", 1674)
_UNSUPPORTED = "Translation on the command line needs Stable Diffusion 1.x or 2.x or the embedded model"


class ConceptText(Protocol):
    """A text encoder for prompts of nothing but vectors."""

    #: Tokens of a prompt, the column of the first vector, and the width of a vector.
    columns: int
    first: int
    width: int

    def rows(self, word: str) -> Tensor:
        """(m, width): the token rows of a word."""

    def __call__(self, vectors: Sequence[Tensor]) -> tuple[Tensor]:
        """One group of vectors (n, width) -> (context (1, columns, width),), differentiable."""


class WordTable:
    """The embedded model's: vectors stand where words would, "no word" fills the rest."""

    first = 0

    def __init__(self, words: HashedWords) -> None:
        self.table, self.columns, self.width = words.emb.weight, words.tokens, words.emb.embedding_dim

    def rows(self, word: str) -> Tensor:
        ids = [i for i in tokenize(word, vocabulary=len(self.table), tokens=self.columns) if i != NULL_TOKEN]
        if not ids:
            raise ValueError(f"'{word}' has no word that the embedded model reads; give a plain English word.")
        return self.table[ids]

    def __call__(self, vectors: Sequence[Tensor]) -> tuple[Tensor]:
        (group,) = vectors
        if not 1 <= len(group) <= self.columns:
            raise ValueError(f"The embedded model has room for 1 to {self.columns} vectors; got {len(group)}.")
        nothing = self.table[NULL_TOKEN].expand(self.columns - len(group), -1)
        return (torch.cat([group.to(nothing), nothing])[None],)


class ClipText:
    """CLIP of Stable Diffusion 1.x (padded with its end mark) or 2.x (padded with 0).

    :param tokenizer: a transformers tokenizer; without one only the word "picture" is known.
    """

    first = 1

    def __init__(self, encoder: Any, pad_with_end: bool, tokenizer: Any = None) -> None:
        self.encoder, self.tokenizer = encoder, tokenizer
        self.columns: int = encoder.config.max_position_embeddings
        self.width: int = encoder.config.hidden_size
        size = encoder.config.vocab_size
        self.begin, self.end = size - 2, size - 1  # CLIP's marks are its last two ids
        self.pad = self.end if pad_with_end else 0

    def rows(self, word: str) -> Tensor:
        if self.tokenizer is not None:
            ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        elif word == _PICTURE[0]:
            ids = [_PICTURE[1]]
        else:
            raise ValueError(
                f"A single-file checkpoint comes without a tokenizer, so the initial word can only be 'picture', not "
                f"'{word}'; use a diffusers folder for other words."
            )
        if not ids:
            raise ValueError(f"The initial word '{word}' has no tokens; give a plain word.")
        return self.encoder.get_input_embeddings().weight[ids]

    def __call__(self, vectors: Sequence[Tensor]) -> tuple[Tensor]:
        (group,) = vectors
        return (encode_concept(self.encoder, group, self.begin, self.end, self.pad),)


def read_vectors(path: Path, width: int) -> Tensor:
    """(n, width): the vectors of an embedding file for one text encoder, whatever its tensor is called.

    :raises ValueError: several tensors of that width, or none.
    """
    tensors = [t for t in read_tensors(path).values() if t.ndim in (1, 2) and t.shape[-1] == width]
    if len(tensors) != 1:
        raise ValueError(f"{path} has {len(tensors)} tensors of vectors {width} wide; an embedding of this model has one.")
    return tensors[0].float().reshape(-1, width)


def load_concept_text(path: Path, device: str | torch.device = "cpu") -> ConceptText:
    """The text encoder of a file or folder that ``load_standalone`` reads; float32, frozen.

    :raises ValueError: SDXL, or a file without a text encoder.
    """
    if path.is_dir():
        return _from_folder(path, device)
    if demo.is_embedded(path):
        tensors = demo.load_state_dict(path)
        words = HashedWords.from_state_dict(
            ldm.part(tensors, "text."), tokens=demo.read_config(path)["text"]["tokens"]
        )
        return WordTable(words.to(device))
    tensors = read_tensors(path)

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in tensors)

    if has(ldm.SDXL_TEXT[1]):
        raise ValueError(f"{path} is SDXL. {_UNSUPPORTED}; use ComfyUI for SDXL.")
    if has(ldm.SD1_TEXT):
        return ClipText(_frozen(text.clip_from_ldm(tensors, ldm.SD1_TEXT), device), True)
    prefix = next(filter(has, ldm.SD2_TEXT), None)
    if prefix is None:
        raise ValueError(f"{path} has no text encoder. {_UNSUPPORTED}.")
    return ClipText(_frozen(text.open_clip_from_ldm(tensors, prefix, projection=False), device), False)


def _from_folder(path: Path, device: str | torch.device) -> ClipText:
    from transformers import CLIPTextConfig, CLIPTokenizer

    if (path / "text_encoder_2").is_dir():
        raise ValueError(f"{path} is SDXL. {_UNSUPPORTED}; use ComfyUI for SDXL.")
    folder = path / "text_encoder"
    config = CLIPTextConfig.from_dict(read_json(folder / "config.json"))
    encoder = text.clip_model(config, read_component(folder), str(folder))
    tokenizer = CLIPTokenizer.from_pretrained(path / "tokenizer") if (path / "tokenizer").is_dir() else None
    return ClipText(_frozen(encoder, device), config.hidden_act == "quick_gelu", tokenizer)


def _frozen(encoder: Any, device: str | torch.device) -> Any:
    return encoder.to(device).eval().requires_grad_(False)
