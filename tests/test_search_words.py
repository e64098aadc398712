"""Words that users type into ComfyUI's search, and the node that each is to find first.

The page ranks by id and display name alone, of which few words are a part; among the others it asks for the best fuzzy
match within the aliases, and then for names of the word's length. So a word must be an alias of one node only.
"""

import re

import pytest

from texts.schemas import read

WORDS = {
    "b&w": "ExemplarDesaturate",
    "black and white": "ExemplarDesaturate",
    "greyscale": "ExemplarDesaturate",
    "grayscale": "ExemplarDesaturate",
    "vintage photo": "ExemplarColorize",
    "old photo": "ExemplarColorize",
    "recolor": "ExemplarDDColor",
    "color by example": "ExemplarColorize",
    "auto color": "ExemplarDDColor",
    "automatic colorization": "ExemplarDDColor",
    "deoldify": "ExemplarDDColor",
    "film": "ExemplarColorizeVideo",
    "movie": "ExemplarColorizeVideo",
    "deflicker": "ExemplarSteadyColor",
    "flicker": "ExemplarSteadyColor",
    "temporal consistency": "ExemplarSteadyColor",
    "color grading": "ExemplarMatchColors",
    "color match": "ExemplarMatchColors",
    "photo restoration": "ExemplarTransferColors",
    "restoration": "ExemplarTransferColors",
    "restore": "ExemplarTransferColors",
    "key frames": "ExemplarColorizeVideo",
    "keyframe": "ExemplarColorizeVideo",
    "video": "ExemplarColorizeVideo",
    "scene detection": "ExemplarFindShots",
    "several references": "ExemplarColorMemory",
    "palette": "ExemplarColorPalette",
    "scribble": "ExemplarColorStrokes",
    "invert noise": "ExemplarDDIMInversion",
    "unsample": "ExemplarDDIMInversion",
    "null text inversion": "ExemplarPivotInversion",
    "textual inversion": "ExemplarConceptInversion",
    "style transfer": "ExemplarTranslate",
    "prompt to prompt": "ExemplarPromptControl",
    "ip adapter": "ExemplarApplyDEADiff",
    "ipadapter": "ExemplarApplyDEADiff",
    "mask by text": "ExemplarReferringMask",
    "text mask": "ExemplarReferringMask",
}


@pytest.fixture(scope="module")
def aliases():
    return {name: {alias.lower() for alias in node.aliases} for name, node in read().items()}


@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_one_nodes(word, aliases):
    assert [name for name, words in aliases.items() if word in words] == [WORDS[word]]


def test_colorize_finds_the_whole_flow_first():
    """Among names that have a word of its own, the page prefers those that have it early, and short ones."""

    def far(text):
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)
        return text.lower().index("colorize") + len(text) / 2 if "colorize" in map(str.lower, words) else float("inf")

    first, second, *_ = sorted((min(far(name), far(node.name)), name) for name, node in read().items())
    assert first[1] == "ExemplarColorize" and first[0] < second[0]


def test_nodes_have_no_alias_twice():
    for name, node in read().items():
        assert len({alias.lower() for alias in node.aliases}) == len(node.aliases), name
        assert all(re.search(r"\w", alias) for alias in node.aliases), name
