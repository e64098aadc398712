"""Prompt-to-prompt edits from texts, with a text encoder of one token a word."""

import pytest
import torch

from comfyui_exemplar.attention.layers import Layer, LayerInfo
from comfyui_exemplar.attention.map_edits import Refine, Replace, Reweight
from comfyui_exemplar.attention.phrases import PromptTokens
from comfyui_exemplar.pipelines.prompt_control import (
    PromptControlSettings,
    blend_words,
    parse_words,
    prompt_control,
)

LENGTH = 8
INFOS = [LayerInfo(Layer("output", i), 8, 1, scale) for i, scale in ((4, 2), (7, 1))]


def read(text):
    words = text.split()
    columns = [("<", 0), *((word, at + 1) for at, word in enumerate(words)), (">", 0)]
    return PromptTokens(text, tuple(columns + [(">", 0)] * (LENGTH - len(columns))))


def control(source, target, **chosen):
    settings = PromptControlSettings.resolve(**chosen)
    return prompt_control(read, source, target, (LENGTH, LENGTH), settings, INFOS)


def test_refine_is_the_default():
    made = control("a cat", "a big cat")
    (edit,) = made.edits
    assert isinstance(edit, Refine) and edit.alphas.tolist()[:5] == [1, 1, 0, 1, 1]
    assert (made.cross_window, made.self_window, made.most_queries) == (0.8, 0.4, 1024)


def test_replace_and_weights():
    swap, louder = control("a cat", "a dog", words="replace", weights="dog=2").edits
    assert isinstance(swap, Replace) and torch.equal(swap.mapper, torch.eye(LENGTH))
    assert isinstance(louder, Reweight) and louder.equalizer.tolist() == [1, 1, 2, 1, 1, 1, 1, 1]
    assert control("a cat", "a dog", words="reweight only").edits == ()


def test_windows_of_words_and_layers():
    made = control("a cat", "a dog and a dog", word_ratios="dog=0.2, and = 0.5", self_layers="all but the finest")
    assert made.word_windows == {2: 0.2, 5: 0.2, 3: 0.5}
    assert made.most_queries is None and made.self_layers == {Layer("output", 4)}


@pytest.mark.parametrize(
    "chosen, message",
    [
        ({"weights": "moon=2"}, "The prompt 'a dog' has no 'moon'"),
        ({"weights": "dog"}, "weights needs a number"),
        ({"weights": "dog=much"}, "'dog=much' is not understood"),
        ({"word_ratios": "dog"}, "word_ratios needs a number"),
        ({"word_ratios": "dog=3"}, "must lie between"),
        ({"words": "swap"}, "words is 'swap'; expected one of refine, replace"),
    ],
)
def test_bad_input(chosen, message):
    with pytest.raises(ValueError, match=message):
        control("a cat", "a dog", **chosen)


def test_blend_words():
    def blended(text, **chosen):
        return blend_words(read, "a cat", "a dog", PromptControlSettings(blend_words=text, **chosen))

    found = blended("cat, dog, a", blend_threshold=0.5)
    assert found.source == (2, 1) and found.target == (2, 1) and found.threshold == 0.5
    assert blended("") is None and blended(" ,") is None
    with pytest.raises(ValueError, match="Neither prompt has the blend word 'moon'"):
        blended("cat, moon")


def test_words_and_numbers():
    assert parse_words("a=2, b c =0.5,\n d") == {"a": 2.0, "b c": 0.5, "d": None}


@pytest.mark.parametrize("number", ["two", "nan", "inf", "-inf", "1e30"])
def test_numbers_that_are_none(number):
    with pytest.raises(ValueError, match=f"'apple={number}' is not understood; write word=number"):
        parse_words(f"sky=1, apple={number}")
