"""Prompt-to-prompt edits from two texts (arXiv 2208.01626), for any host whose text encoder can be asked for tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..attention.alignment import equalizer, refinement, replacement
from ..attention.control import PromptControl, SelfLayers, self_layer_options
from ..attention.layers import LayerInfo
from ..attention.map_edits import MapEdit, Reweight
from ..attention.phrases import PromptTokens
from ..attention.word_maps import BlendWords
from ..settings import Settings, setting, share
from .vct_pair import SELF_LAYERS_HELP

#: Of a word: attention that is larger by this is noise already, and larger numbers are a mistake.
LARGEST_NUMBER = 1000.0

#: A text -> its tokens.
ReadPrompt = Callable[[str], PromptTokens]


@dataclass(frozen=True)
class PromptControlSettings(Settings):
    """How a target prompt follows a source prompt."""

    cfg: float = setting(
        7.5,
        "Low follows the prompts loosely, high strictly.",
        low=1.0,
        high=30.0,
        step=0.5,
        round=0.01,
        widget="cfg",
        formerly="guidance",
    )
    cross_ratio: float = share(
        0.8,
        "Share of the run in which words keep the source's places. Low lets new words move things, high keeps them in "
        "place.",
    )
    self_ratio: float = share(
        0.4,
        "Share of the run in which the source's layout is kept. Low lets shapes change, high changes colors and "
        "texture only.",
    )
    words: Literal["refine", "replace", "reweight only"] = setting(
        "refine",
        "refine keeps the attention of common words and lets new ones in. replace swaps word for word, for prompts "
        "with equally many words. reweight only leaves the target's attention, up to weights.",
        advanced=True,
    )
    weights: str = setting(
        "",
        "Louder and quieter words of the target, as apple=2, sky=0.5. 1 leaves a word, 0 silences it. They act while "
        "cross_ratio lasts.",
        advanced=True,
    )
    word_ratios: str = setting(
        "",
        "cross_ratio of single words of the target, as apple=0.2: low lets that word move, high keeps it in place.",
        advanced=True,
    )
    blend_words: str = setting(
        "",
        "Local blend: words of either prompt, as cat, dog. The picture changes only where they look. Empty changes it "
        "everywhere.",
        advanced=True,
    )
    blend_threshold: float = share(
        0.3,
        "How much of a word's strongest attention counts as its place. Low covers more, high less.",
        advanced=True,
    )
    self_layers: SelfLayers = setting("official (up to 1024 tokens)", SELF_LAYERS_HELP, advanced=True)
    both_pictures: bool = setting(
        False,
        "Off returns the target. On returns target and source as a batch, when both are sampled.",
        advanced=True,
    )


def prompt_control(
    read: ReadPrompt,
    source: str,
    target: str,
    columns: tuple[int, int],
    settings: PromptControlSettings,
    layers: Sequence[LayerInfo],
) -> PromptControl:
    """The attention control from one prompt to another.

    :param columns: (source, target) lengths of the padded prompts.
    :param layers: the model's.
    :raises ValueError: words that the target lacks or that have no number, or prompts that can't be swapped.
    """
    before, after = read(source), read(target)
    edits: list[MapEdit] = []
    if settings.words == "refine":
        edits.append(refinement(before.ids, after.ids, columns))
    elif settings.words == "replace":
        edits.append(replacement(before.ids, after.ids, columns, (before.words, after.words)))
    factors = _numbers(read, after, settings.weights, "weights")
    if factors:
        edits.append(Reweight(equalizer(columns[1], factors)))
    return PromptControl(
        columns,
        tuple(edits),
        settings.cross_ratio,
        settings.self_ratio,
        _numbers(read, after, settings.word_ratios, "word_ratios", (0.0, 1.0)),
        **self_layer_options(settings.self_layers, layers),
    )


def blend_words(read: ReadPrompt, source: str, target: str, settings: PromptControlSettings) -> BlendWords | None:
    """The words of a local blend; None where none are named.

    :raises ValueError: a word that neither prompt has.
    """
    prompts = (read(source), read(target))
    columns: tuple[list[int], list[int]] = ([], [])
    for word in parse_words(settings.blend_words):
        tokens = read(word)
        places = [prompt.find(tokens) for prompt in prompts]
        if not any(places):
            raise ValueError(
                f"Neither prompt has the blend word '{word}'; use words that stand in them, spelled alike."
            )
        for all_places, more in zip(columns, places, strict=True):
            all_places.extend(more)
    if not any(columns):
        return None
    return BlendWords(tuple(columns[0]), tuple(columns[1]), settings.blend_threshold)


def parse_words(text: str) -> dict[str, float | None]:
    """``apple=2, red bird=0.5, sky`` -> each word or phrase and its number, None where it has none.

    :raises ValueError: what follows '=' is no number, or a huge one.
    """
    numbers: dict[str, float | None] = {}
    for term in (part.strip() for part in text.replace("\n", ",").split(",")):
        if not term:
            continue
        word, _, number = term.partition("=")
        try:
            value = float(number) if number.strip() else None
        except ValueError:
            value = math.nan
        if value is not None and not abs(value) <= LARGEST_NUMBER:
            raise ValueError(
                f"'{term}' is not understood; write word=number, such as 'apple=2, sky=0.5', with numbers up to "
                f"{LARGEST_NUMBER:g}."
            )
        numbers[word.strip()] = value
    return numbers


def _numbers(
    read: ReadPrompt,
    prompt: PromptTokens,
    text: str,
    field: str,
    bounds: tuple[float, float] = (-LARGEST_NUMBER, LARGEST_NUMBER),
) -> dict[int, float]:
    """Column of a prompt -> the number that a text gives to its word.

    :raises ValueError: a word without a number, or with one out of bounds, or one that the prompt lacks.
    """
    numbers: dict[int, float] = {}
    low, high = bounds
    for word, number in parse_words(text).items():
        columns = prompt.columns_of(read(word))
        if number is None:
            raise ValueError(f"{field} needs a number for each word, such as 'apple=2'.")
        if not low <= number <= high:
            raise ValueError(f"{field} is '{word}={number:g}'; numbers must lie between {low:g} and {high:g}.")
        numbers |= dict.fromkeys(columns, number)
    return numbers
