"""Which tokens of a prompt a phrase covers.

A prompt comes as its words' tokens with their places in the context that cross-attention reads (start, end and padding
tokens are no words). Tokens may be anything that compares: ids, strings.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PromptTokens:
    """A tokenized prompt.

    :param tokens: the words' tokens, in order.
    :param places: for each token, its place in the context, 0 being the start token where there is one.
    :param length: tokens in the whole context, start, end and padding included.
    """

    tokens: tuple[Hashable, ...]
    places: tuple[int, ...]
    length: int


def comma_spans(tokens: Sequence[Hashable], comma: Hashable, first: int = 1) -> list[tuple[int, int]]:
    """L-CAD's rule: a bare comma ends a phrase, everything between two commas belongs to it, articles included.

    :param tokens: the prompt's, without start and end tokens.
    :param first: place of the first token in the context; 1 where a start token precedes it.
    :returns: (start, stop) places of each phrase.
    :raises ValueError: a part without a word. (The published program divides by zero there.)
    """
    ends = [i for i, token in enumerate(tokens) if token == comma]
    spans = [
        (start + first, stop + first)
        for start, stop in zip([0, *(end + 1 for end in ends)], [*ends, len(tokens)], strict=True)
    ]
    for i, (start, stop) in enumerate(spans):
        if start == stop:
            raise ValueError(
                f"Part {i + 1} of the prompt's {len(spans)} parts is empty: take the comma before or after it away."
            )
    return spans


def split_prompt(prompt: PromptTokens, comma: Hashable) -> list[tuple[int, ...]]:
    """Places of the phrases between a prompt's commas, see :func:`comma_spans`."""
    return [prompt.places[start:stop] for start, stop in comma_spans(prompt.tokens, comma, 0)]


def find_phrases(
    prompt: PromptTokens, text: str, phrases: Sequence[tuple[str, Sequence[Hashable]]]
) -> list[tuple[int, ...]]:
    """Places of phrases that stand somewhere in the prompt, token by token.

    A phrase that is named twice takes its first and its second mention, and so on.

    :param text: the prompt as written, for messages.
    :param phrases: (as written, its tokens).
    :returns: for each phrase its places in the context.
    :raises ValueError: phrases that the prompt doesn't contain (often enough), all named.
    """
    found: list[tuple[int, ...]] = []
    wrong: list[str] = []
    used: dict[tuple[Hashable, ...], int] = {}
    for name, tokens in phrases:
        wanted = tuple(tokens)
        starts = [i for i in range(len(prompt.tokens)) if wanted and prompt.tokens[i : i + len(wanted)] == wanted]
        mention = used.get(wanted, 0)
        used[wanted] = mention + 1
        if mention < len(starts):
            found.append(prompt.places[starts[mention] : starts[mention] + len(wanted)])
        elif mention:
            wrong.append(f"'{name}' (named {mention + 1} times, there {len(starts)} times)")
        else:
            wrong.append(f"'{name}'")
    if wrong:
        raise ValueError(
            f"The prompt '{text}' does not contain {', '.join(wrong)}. Write each phrase as it stands in the prompt."
        )
    return found
