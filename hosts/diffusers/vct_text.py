"""Text encoders of the files that ``checkpoint`` loads, as functions of learned vectors.

``load_standalone`` runs the text encoder once, on the empty prompt, and lets it go; learning a concept needs it for
longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...files import embeddings, headers, ldm
from ...files.output import whole
from ...files.tensors import read_component, read_tensors
from ...networks.clip.sizes import text_configuration
from ...networks.clip.words import make_tokenizer, read_words
from ...networks.embedded.parts import read_embedded
from ...networks.embedded.words import NULL_TOKEN, HashedWords, tokenize
from . import text_encoders as text

#: CLIP's id of the word "picture", for files that come without a tokenizer.
_PICTURE = ("picture", 1674)
#: In the header of the files that :func:`save_vectors` writes.
VECTORS_KEY = "exemplar.concept"
_UNSUPPORTED = "Translation on the command line needs Stable Diffusion 1.x, 2.x or XL, or the embedded model"


class ConceptText(Protocol):
    """A model's text encoder, or both of SDXL's, for prompts of nothing but vectors."""

    @property
    def columns(self) -> int:
        """Tokens of a prompt."""
        ...

    @property
    def first(self) -> int:
        """Column of the first vector."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Each encoder's name in embedding files."""
        ...

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of a vector, for each encoder."""
        ...

    def rows(self, word: str) -> tuple[Tensor, ...]:
        """For each encoder (m, width): the token rows of a word."""
        ...

    def __call__(self, vectors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Vectors (n, width) for each encoder -> (context (1, columns, width), SDXL pooled (1, P)), with gradients."""
        ...


class WordTable:
    """The embedded model's: vectors stand where words would, "no word" fills the rest."""

    first = 0
    names = ("words",)

    def __init__(self, words: HashedWords) -> None:
        self.table, self.columns, self.widths = words.emb.weight, words.tokens, (words.emb.embedding_dim,)

    def rows(self, word: str) -> tuple[Tensor, ...]:
        ids = [i for i in tokenize(word, vocabulary=len(self.table), tokens=self.columns) if i != NULL_TOKEN]
        if not ids:
            raise ValueError(f"'{word}' has no word that the embedded model reads; give a plain English word.")
        return (self.table[ids],)

    def __call__(self, vectors: Sequence[Tensor]) -> tuple[Tensor]:
        (group,) = vectors
        if not 1 <= len(group) <= self.columns:
            raise ValueError(f"The embedded model has room for 1 to {self.columns} vectors; got {len(group)}.")
        nothing = self.table[NULL_TOKEN].expand(self.columns - len(group), -1)
        return (torch.cat([group.to(nothing), nothing])[None],)


class ClipText:
    """CLIP of Stable Diffusion 1.x (padded with its end mark) or 2.x (padded with 0).

    :param tokenizer: a transformers tokenizer; without one only the word "picture" is known.
    :param layer: as ``text_encoders.encode_concept``.
    """

    first = 1

    def __init__(self, encoder: Any, pad_with_end: bool, tokenizer: Any = None, *, layer: int | None = None) -> None:
        self.encoder, self.tokenizer, self.layer = encoder, tokenizer, layer
        self.names = ("l" if pad_with_end else "h",)
        self.columns: int = encoder.config.max_position_embeddings
        self.widths: tuple[int, ...] = (encoder.config.hidden_size,)
        size = encoder.config.vocab_size
        self.begin, self.end = size - 2, size - 1  # CLIP's marks are its last two ids
        self.pad = self.end if pad_with_end else 0

    def rows(self, word: str) -> tuple[Tensor, ...]:
        if self.tokenizer is not None:
            ids = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        elif word == _PICTURE[0]:
            ids = [_PICTURE[1]]
        else:
            raise ValueError(
                "A single-file checkpoint comes without a tokenizer, so the initial word can only be 'picture', not "
                f"'{word}'; use a diffusers folder for other words."
            )
        if not ids:
            raise ValueError(f"The initial word '{word}' has no tokens; give a plain word.")
        return (self.encoder.get_input_embeddings().weight[ids],)

    def encode(self, group: Tensor) -> tuple[Tensor, Tensor | None]:
        """Vectors (n, width) -> hidden states (1, columns, width), and pooled (1, P) where there is a projection."""
        return text.encode_concept(self.encoder, group, self.begin, self.end, self.pad, self.layer)

    def __call__(self, vectors: Sequence[Tensor]) -> tuple[Tensor]:
        (group,) = vectors
        return (self.encode(group)[0],)


class XLText:
    """SDXL's two encoders: the last but one layers of both side by side, pooled by the second one."""

    first = 1
    names = ("l", "g")

    def __init__(self, small: Any, large: Any, tokenizer: Any = None) -> None:
        self.parts = (
            ClipText(small, True, tokenizer, layer=-2),
            ClipText(large, False, tokenizer, layer=-2),
        )
        self.columns = self.parts[0].columns
        self.widths = tuple(part.widths[0] for part in self.parts)

    def rows(self, word: str) -> tuple[Tensor, ...]:
        return tuple(part.rows(word)[0] for part in self.parts)

    def __call__(self, vectors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        (left, _), (right, pooled) = (part.encode(group) for part, group in zip(self.parts, vectors, strict=True))
        context = torch.cat([left, right], dim=-1)
        return (context,) if pooled is None else (context, pooled)


def read_vectors(path: Path, text: ConceptText) -> tuple[Tensor, ...]:
    """For each of a model's encoders (n, width): see ``files.embeddings.read_vectors``."""
    return embeddings.read_vectors(path, text.names, text.widths)


def save_vectors(path: Path, text: ConceptText, vectors: Sequence[Tensor], *, new: bool = False) -> None:
    """Write what :func:`read_vectors`, ComfyUI and diffusers read.

    :param new: never replace a file.
    :raises FileExistsError: with ``new``, there is one.
    :raises OSError: it cannot be written; an older file is as it was.
    """
    tensors = {name: v.contiguous() for name, v in zip(embeddings.tensor_names(text.names), vectors, strict=True)}
    with whole(path, new=new) as beside:
        save_file(tensors, beside, metadata={VECTORS_KEY: "translate"})


def load_concept_text(path: Path, device: str | torch.device = "cpu") -> ConceptText:
    """The text encoder of a file or folder that ``load_standalone`` reads; float32, frozen.

    :raises ValueError: a file without a text encoder.
    """
    if path.is_dir():
        return _from_folder(path, device)
    if headers.is_embedded(path):
        return WordTable(read_embedded(path).words.to(device))
    tensors = read_tensors(path)
    if not any(name.startswith(ldm.UNET) for name in tensors):
        raise ValueError(f"{path} holds {ldm.describe(tensors)} ({len(tensors)} tensors). {_UNSUPPORTED}.")
    try:
        family, encoders = text.text_encoders(tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error} {_UNSUPPORTED}.") from error
    frozen = [_frozen(encoder, device) for encoder in encoders]
    return XLText(*frozen) if family == "sdxl" else ClipText(frozen[0], pad_with_end=family == "sd1")


def _from_folder(path: Path, device: str | torch.device) -> ConceptText:
    def encoder(name: str, projection: bool) -> Any:
        config = text_configuration(path / name / "config.json")
        loaded = text.clip_model(config, read_component(path / name), str(path / name), projection=projection)
        return _frozen(loaded, device)

    first = encoder("text_encoder", False)
    tokenizer = make_tokenizer(read_words(path / "tokenizer")) if (path / "tokenizer").is_dir() else None
    if (path / "text_encoder_2").is_dir():
        return XLText(first, encoder("text_encoder_2", True), tokenizer)
    return ClipText(first, first.config.hidden_act == "quick_gelu", tokenizer)


def _frozen(encoder: Any, device: str | torch.device) -> Any:
    return encoder.to(device).eval().requires_grad_(False)
