"""Phrases found in a prompt, and those that are not."""

import pytest

from comfyui_exemplar.attention.phrases import PromptTokens, comma_spans, find_phrases, split_prompt, word_columns

TEXT = "the blue cup, a red cup"


def prompt(text, first=1, length=77):
    """One token a word; commas are words of their own; ``first`` words of the context come before."""
    words = tuple(text.replace(",", " ,").split())
    columns = [("", 0)] * length
    columns[first : first + len(words)] = [(word, at + 1) for at, word in enumerate(words)]
    return PromptTokens(text, tuple(columns))


def find(text, *phrases):
    return find_phrases(prompt(text), [prompt(phrase) for phrase in phrases])


class TestCommas:
    def test_articles_belong_to_phrases_and_commas_do_not(self):
        assert comma_spans(TEXT.replace(",", " ,").split(), ",") == [(1, 4), (5, 8)]
        assert split_prompt(prompt(TEXT), ",") == [(1, 2, 3), (5, 6, 7)]

    def test_places_may_have_gaps(self):
        """A prompt of two chunks has end and start tokens in between."""
        columns = [("", 0)] * 154
        for place, word in zip((75, 78, 79, 80), "a,bc", strict=True):
            columns[place] = (word, place)
        split = PromptTokens("a, b c", tuple(columns))
        assert split.length == 154 and split_prompt(split, ",") == [(75,), (79, 80)]

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


BEGIN, END = 100, 101


class TestColumns:
    def test_between_marks(self):
        """A word of two tokens between marks, and padding."""
        cats = PromptTokens("two kittens", ((BEGIN, 0), (5, 1), (6, 2), (7, 2), (END, 0), (END, 0)))
        assert cats.ids == (BEGIN, 5, 6, 7, END) and cats.words == (0, 1, 2, 2, 0) and cats.first == 1
        assert cats.tokens == (5, 6, 7) and cats.places == (1, 2, 3) and cats.length == 6
        kittens = PromptTokens("kittens", ((BEGIN, 0), (6, 1), (7, 1), (END, 0), (END, 0), (END, 0)))
        assert cats.find(kittens) == cats.columns_of(kittens) == (2, 3) and kittens.find(cats) == ()
        with pytest.raises(ValueError, match="The prompt 'kittens' has no 'two kittens'"):
            kittens.columns_of(cats)

    def test_without_marks(self):
        cats = PromptTokens("two cats", ((5, 1), (6, 2), (0, 0)))
        assert cats.ids == (5, 6) and cats.words == (1, 2) and cats.first == 0

    def test_empty_prompts(self):
        marked = PromptTokens("", ((BEGIN, 0), (END, 0), (END, 0)))
        assert marked.ids == (BEGIN, END) and marked.first == 1 and marked.places == ()
        plain = PromptTokens("", ((0, 0), (0, 0)))
        assert plain.ids == () and plain.first == 0

    def test_every_occurrence(self):
        assert word_columns([BEGIN, 5, 6, 7, 5, 6, END], [5, 6]) == (1, 2, 4, 5)
        assert word_columns([BEGIN, 5, END], [8]) == ()
        assert word_columns([BEGIN, 5, END], []) == ()
