"""Columns of a CONDITIONING: how many there are, and which token of a prompt stands in which one."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from ...attention.phrases import PromptTokens


def prompt_tokens(clip: Any, text: str) -> PromptTokens:
    """The tokens of a prompt. Of several encoders the first one's: they split texts alike."""
    chunks = next(iter(clip.tokenize(text, return_word_ids=True).values()))
    return PromptTokens(text, tuple((_identity(token), word) for chunk in chunks for token, _, word in chunk))


def _identity(token: Any) -> int:
    """An id of a token; a learned vector's is made from its numbers."""
    if isinstance(token, Tensor):
        numbers = token.detach().float().cpu().contiguous().numpy().tobytes()
        return -1 - int.from_bytes(hashlib.sha256(numbers).digest()[:6], "big")
    return int(token)


def text_columns(conditioning: list, name: str) -> int:
    """Number of columns of a CONDITIONING.

    :raises ValueError: none, or prompts of different lengths in one.
    """
    lengths = {context.shape[1] for context, _ in conditioning}
    if len(lengths) != 1:
        raise ValueError(f"{name}: found prompts of {sorted(lengths)} columns, expected one length; encode one text.")
    return lengths.pop()


def first_column(concept: list, source: list) -> int:
    """1 when both prompts begin with the same mark, else 0."""
    one, other = concept[0][0][:, :1], source[0][0][:, :1]
    return int(one.shape == other.shape and bool((one - other).abs().max() <= 1e-3 * other.abs().max().clamp_min(1e-6)))
