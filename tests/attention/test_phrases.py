"""Phrases found in a prompt, and those that are not."""

import pytest

from comfyui_exemplar.attention.phrases import PromptTokens, comma_spans, find_phrases, split_prompt

TEXT = "the blue cup, a red cup"


def prompt(text, first=1, length=77):
    """One token a word; commas are words of their own; ``first`` words of the context come before."""
    words = tuple(text.replace(",", " ,").split())
    return PromptTokens(words, tuple(range(first, first + len(words))), length)


def find(text, *phrases):
    return find_phrases(prompt(text), text, [(phrase, phrase.split()) for phrase in phrases])


class TestCommas:
    def test_articles_belong_to_phrases_and_commas_do_not(self):
        assert comma_spans(TEXT.replace(",", " ,").split(), ",") == [(1, 4), (5, 8)]
        assert split_prompt(prompt(TEXT), ",") == [(1, 2, 3), (5, 6, 7)]

    def test_places_may_have_gaps(self):
        """A prompt of two chunks has end and start tokens in between."""
        split = PromptTokens(("a", ",", "b", "c"), (75, 78, 79, 80), 154)
        assert split_prompt(split, ",") == [(75,), (79, 80)]

    @pytest.mark.parametrize("text, part", [("a cup,", 2), (", a cup", 1), ("a cup,, a can", 2), ("", 1)])
    def test_empty_parts_are_named(self, text, part):
        with pytest.raises(ValueError, match=f"Part {part} of the prompt's"):
            comma_spans(text.replace(",", " ,").split(), ",")


class TestPhrases:
    def test_where_it_stands(self):
        assert find(TEXT, "red cup", "blue") == [(6, 7), (2,)]

    def test_mentions_are_taken_in_turn(self):
        assert find(TEXT, "cup", "cup") == [(3,), (7,)]
        assert find("cup cup cup", "cup cup", "cup") == [(1, 2), (1,)]

    def test_wrong_ones_are_all_named(self):
        with pytest.raises(
            ValueError, match=r"'the blue cup, a red cup' does not contain 'green cup', 'cup red'\. Write"
        ):
            find(TEXT, "green cup", "blue", "cup red")

    def test_one_mention_too_few(self):
        with pytest.raises(ValueError, match=r"'cup' \(named 3 times, there 2 times\)"):
            find(TEXT, "cup", "cup", "cup")

    def test_part_of_a_word_is_another_word(self):
        with pytest.raises(ValueError, match="'cup'"):
            find("a cupboard", "cup")

    def test_nothing_is_no_phrase(self):
        with pytest.raises(ValueError, match="''"):
            find(TEXT, "")
