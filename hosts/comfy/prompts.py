"""Which token of a prompt stands in which column of its CONDITIONING, in ComfyUI's CLIP."""

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
