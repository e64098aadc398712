"""A prompt's tokens, and which of them a phrase covers.

A prompt comes as one entry for every column that cross-attention reads, with the word that it belongs to (start, end
and padding tokens are no words). Tokens may be anything that compares: ids, strings.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as its text encoder reads it.

    :param text: the prompt as written, for messages.
    :param columns: (token, word) for every column of the context, start, end and padding included; words count from 1,
        0 is none.
    """

    text: str
    columns: tuple[tuple[Hashable, int], ...]

    @property
    def length(self) -> int:
        """Columns of the whole context."""
        return len(self.columns)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Columns of the words' tokens, in order."""
        return tuple(place for place, (_, word) in enumerate(self.columns) if word)

    @cached_property
    def tokens(self) -> tuple[Hashable, ...]:
        """The words' tokens alone, one for each of ``places``."""
        return tuple(token for token, word in self.columns if word)

    @property
    def first(self) -> int:
        """Column of the first word: 1 behind a begin mark, 0 where the encoder has no marks."""
        if not self.columns or self.columns[0][1]:
            return 0
        # an encoder with marks begins even an empty prompt with something else than padding
        return int(self.columns[0][0] != self.columns[-1][0])

    @cached_property
    def _used(self) -> tuple[tuple[Hashable, int], ...]:
        """Columns from the begin mark to the end mark, without padding."""
        last = self.places[-1] if self.places else self.first - 1
        return self.columns[: last + 1 + self.first]

    @property
    def ids(self) -> tuple[Hashable, ...]:
        """Tokens from the begin mark to the end mark, one a column, without padding."""
        return tuple(token for token, _ in self._used)

    @property
    def words(self) -> tuple[int, ...]:
        """For each of ``ids`` the word that it belongs to, 0 for marks."""
        return tuple(word for _, word in self._used)

    def find(self, phrase: PromptTokens) -> tuple[int, ...]:
        """Columns of every occurrence of a word or phrase, none when the prompt lacks it."""
        return word_columns(self.ids, phrase.tokens)

    def columns_of(self, phrase: PromptTokens) -> tuple[int, ...]:
        """Columns of every occurrence of a word or phrase.

        :raises ValueError: it is not in the prompt.
        """
        columns = self.find(phrase)
        if not columns:
            raise ValueError(
                f"The prompt '{self.text}' has no '{phrase.text}'; use words that stand in it, spelled alike."
            )
        return columns


def word_columns(prompt: Sequence[Hashable], word: Sequence[Hashable]) -> tuple[int, ...]:
    """Columns of every occurrence of a word's tokens in a prompt."""
    size = len(word)
    if not size:
        return ()
    starts = [i for i in range(len(prompt) - size + 1) if list(prompt[i : i + size]) == list(word)]
    return tuple(sorted({start + offset for start in starts for offset in range(size)}))


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


def find_phrases(prompt: PromptTokens, phrases: Sequence[PromptTokens]) -> list[tuple[int, ...]]:
    """Places of phrases that stand somewhere in the prompt, token by token.

    A phrase that is named twice takes its first and its second mention, and so on.

    :returns: for each phrase its places in the context.
    :raises ValueError: phrases that the prompt doesn't contain (often enough), all named.
    """
    places: list[tuple[int, ...]] = []
    missing: list[str] = []
    mentions: dict[tuple[Hashable, ...], int] = {}
    for phrase in phrases:
        tokens, size = phrase.tokens, len(phrase.tokens)
        starts = [i for i in range(len(prompt.tokens)) if size and prompt.tokens[i : i + size] == tokens]
        mention = mentions.get(tokens, 0)
        mentions[tokens] = mention + 1
        if mention < len(starts):
            places.append(prompt.places[starts[mention] : starts[mention] + size])
        elif mention:
            missing.append(f"'{phrase.text}' (named {mention + 1} times, there {len(starts)} times)")
        else:
            missing.append(f"'{phrase.text}'")
    if missing:
        raise ValueError(
            f"The prompt '{prompt.text}' does not contain {', '.join(missing)}. Write each phrase as it stands in the "
            "prompt."
        )
    return places
