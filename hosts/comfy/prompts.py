"""Which token of a prompt stands in which column of its CONDITIONING, in ComfyUI's CLIP."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from ...attention.alignment import word_columns


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as its text encoder reads it.

    :param ids: one an attention column, from the begin mark to the end mark, without padding.
    :param words: for each of them the word that it belongs to, from 1; 0 for marks.
    :param first: column of the first word: 1 behind a begin mark, 0 where the encoder has no marks.
    """

    text: str
    ids: tuple[int, ...]
    words: tuple[int, ...]
    first: int

    @property
    def content(self) -> tuple[int, ...]:
        """The ids of words alone."""
        return tuple(i for i, word in zip(self.ids, self.words, strict=True) if word)

    def has(self, word: PromptTokens) -> tuple[int, ...]:
        """Columns of a word or phrase, none when the prompt lacks it."""
        return word_columns(self.ids, word.content)

    def columns_of(self, word: PromptTokens) -> tuple[int, ...]:
        """Columns of a word or phrase.

        :raises ValueError: it is not in the prompt.
        """
        found = self.has(word)
        if not found:
            raise ValueError(
                f"The prompt '{self.text}' has no '{word.text}'; use words that stand in it, spelled alike."
            )
        return found


def prompt_tokens(clip: Any, text: str) -> PromptTokens:
    """The tokens of a prompt. Of several encoders the first one's: they split texts alike."""
    flat, empty = read_columns(clip, text), read_columns(clip, "")
    # an encoder with marks begins even an empty prompt with something else than padding
    first = int(empty[0][0] != empty[-1][0])
    last = max((i for i, (_, word) in enumerate(flat) if word), default=first - 1)
    used = flat[: last + 1 + first]
    return PromptTokens(text, tuple(i for i, _ in used), tuple(word for _, word in used), first)


def read_columns(clip: Any, text: str) -> list[tuple[int, int]]:
    """(id, word) of every column, padding included; word 0 is none. Of several encoders the first one's."""
    chunks = next(iter(clip.tokenize(text, return_word_ids=True).values()))
    return [(_identity(token), word) for chunk in chunks for token, _, word in chunk]


def _identity(token: Any) -> int:
    """An id of a token; a learned vector's is made from its numbers."""
    if isinstance(token, torch.Tensor):
        numbers = token.detach().float().cpu().contiguous().numpy().tobytes()
        return -1 - int.from_bytes(hashlib.sha256(numbers).digest()[:6], "big")
    return int(token)


def parse_words(text: str) -> dict[str, float | None]:
    """``apple=2, red bird=0.5, sky`` -> each word or phrase and its number, None where it has none.

    :raises ValueError: what follows '=' is no number.
    """
    found: dict[str, float | None] = {}
    for term in (part.strip() for part in text.replace("\n", ",").split(",")):
        if not term:
            continue
        word, _, number = term.partition("=")
        try:
            found[word.strip()] = float(number) if number.strip() else None
        except ValueError:
            raise ValueError(f"'{term}' is not understood; write word=number, such as 'apple=2, sky=0.5'.") from None
    return found
