"""Which column of one prompt stands for which of another: the mappers and equalizers of prompt-to-prompt control.

Prompts come as token ids, one an attention column, the beginning mark included where the encoder has one.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from .control import PromptControl
from .map_edits import Refine, Replace, Reweight
from .windows import Window


def align(source: Sequence[Hashable], target: Sequence[Hashable]) -> list[int]:
    """For each target token the place of its counterpart in the source, -1 for a new one.

    Global alignment (Needleman and Wunsch 1970) with the published program's scores: match 1, mismatch -1, gap 0. Two
    gaps are always as good as a mismatch, so only equal tokens are paired. Where several alignments score the same, the
    published program's choice is made: seen from the end, a new target token first, then a dropped source token, then a
    pair.
    """
    rows, columns = len(source), len(target)
    best = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows):
        for j in range(columns):
            pair = best[i][j] + (1 if source[i] == target[j] else -1)
            best[i + 1][j + 1] = max(pair, best[i + 1][j], best[i][j + 1])
    places = [-1] * columns
    i, j = rows, columns
    while i and j:
        if best[i][j] == best[i][j - 1]:
            j -= 1
        elif best[i][j] == best[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            places[j] = i
    return places


def refinement(source: Sequence[Hashable], target: Sequence[Hashable], columns: tuple[int, int]) -> Refine:
    """The refinement from one prompt to another.

    Padding behind the target's tokens takes the source's column at the same place.

    :param source: ids up to and including the end mark; ``target`` likewise. No padding.
    :param columns: (source, target) lengths of the padded prompts.
    """
    _check(source, target, columns)
    tail = (place if place < columns[0] else -1 for place in range(len(target), columns[1]))
    mapper = torch.tensor([*align(source, target), *tail], dtype=torch.long)
    return Refine(mapper, (mapper >= 0).float())


def replacement(
    source: Sequence[Hashable],
    target: Sequence[Hashable],
    columns: tuple[int, int],
    words: tuple[Sequence[int], Sequence[int]] | None = None,
) -> Replace:
    """The word swap from one prompt to another with equally many words.

    Words are paired in order. A word hands its maps over to one of as many tokens one to one; where the numbers differ,
    its attention is shared out equally among the other's tokens, as published. Padding is paired from the end marks on.

    :param words: for each token of either prompt the word that it belongs to, 0 for marks; default: each token is a
        word.
    :raises ValueError: different numbers of words; the message says what to use instead.
    """
    _check(source, target, columns)
    spans = [_spans(ids, of_tokens) for ids, of_tokens in zip((source, target), words or (None, None), strict=True)]
    if len(spans[0]) != len(spans[1]):
        raise ValueError(
            f"The source has {len(spans[0])} words or marks and the target {len(spans[1])}; replace swaps word for "
            "word. Use refine, or prompts with equally many words."
        )
    mapper = torch.zeros(columns)
    for before, after in zip(*spans, strict=True):
        if len(before) == len(after):
            mapper[before, after] = 1.0
        else:
            mapper[torch.tensor(before)[:, None], torch.tensor(after)] = 1.0 / len(after)
    for column in range(len(target), columns[1]):
        mapper[min(len(source) + column - len(target), columns[0] - 1), column] = 1.0
    return Replace(mapper)


def equalizer(columns: int, weights: Mapping[int, float]) -> Tensor:
    """(columns,) factors: ``weights`` for the columns named, 1 elsewhere.

    :raises ValueError: a column that the prompt does not have.
    """
    factors = torch.ones(columns)
    for column, weight in weights.items():
        if not 0 <= column < columns:
            raise ValueError(f"A weight is given for column {column}, but the prompt has columns 0 to {columns - 1}.")
        factors[column] = weight
    return factors


def _spans(ids: Sequence[Hashable], words: Sequence[int] | None) -> list[list[int]]:
    """Columns of each word, in order; every mark is a word of its own."""
    spans: list[list[int]] = []
    for column in range(len(ids)):
        if words is not None and column and words[column] == words[column - 1] != 0:
            spans[-1].append(column)
        else:
            spans.append([column])
    return spans


def _check(source: Sequence[Hashable], target: Sequence[Hashable], columns: tuple[int, int]) -> None:
    for name, ids, count in (("source", source, columns[0]), ("target", target, columns[1])):
        if len(ids) > count:
            raise ValueError(f"The {name} prompt has {len(ids)} tokens for {count} columns; shorten it.")


#: Which columns a concept's weight goes to: its own, or those one place early, as in the published program.
WeightPlace = Literal["intended", "official"]


def concept_control(
    columns: tuple[int, int],
    vectors: int,
    first: int,
    *,
    cross_window: Window = 0.2,
    self_window: Window = 0.9,
    weight: float = 0.5,
    weight_place: WeightPlace = "intended",
    **options: Any,
) -> PromptControl:
    """VCT's control (arXiv 2307.14352, section 3.3) from the empty prompt to one of learned vectors alone.

    The empty prompt's columns are handed over, the concept's keep their own maps, times ``weight`` while the window
    lasts. The published program looks the concept's columns up in a list without the begin mark, and so weights the
    columns one place early: the begin mark is halved and the last vector is not. Its recorded results have that in them
    (``official``).

    :param columns: (source, target) lengths of the padded prompts.
    :param vectors: number of learned vectors.
    :param first: column of the first one: 1 behind a begin mark, else 0.
    :param options: further fields of :class:`PromptControl`.
    :raises ValueError: more vectors than columns, or an unknown place.
    """
    if weight_place not in get_args(WeightPlace):
        raise ValueError(f"weight_place is '{weight_place}'; expected one of {', '.join(get_args(WeightPlace))}.")
    room = columns[1] - 2 * first
    if not 1 <= vectors <= room:
        raise ValueError(f"vectors is {vectors}, expected 1 to {room}, what a prompt of {columns[1]} columns holds.")
    # any numbers do as ids, as long as the concept's are new
    begin, end = ([0], [1]) if first else ([], [])
    refine = refinement([*begin, *end], [*begin, *range(2, 2 + vectors), *end], columns)
    early = first if weight_place == "official" else 0
    factors = equalizer(columns[1], {first + i - early: weight for i in range(vectors)})
    edits = (refine,) if weight == 1 else (refine, Reweight(factors))
    return PromptControl(columns, edits, cross_window, self_window, **options)
