"""A learned concept on its way from learning to fusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class ConceptPrompt:
    """A prompt of learned vectors alone.

    :param prompt: what the host that made it hands to its model: CONDITIONING, or a context (1, columns, width).
    :param columns: length of that prompt.
    :param vectors: how many of the columns are the concept's.
    :param first: the first of them: 1 behind a begin mark, else 0.
    :param learned: the vectors themselves, (n, width) for each text encoder; () when only the prompt is known.
    :param pooled: (1, P), SDXL's pooled prompt, where ``prompt`` does not hold it itself.
    """

    prompt: Any
    columns: int
    vectors: int
    first: int
    learned: tuple[Tensor, ...] = ()
    pooled: Tensor | None = None
