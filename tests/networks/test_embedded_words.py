"""Hashed words: the tokenizer's rules and the strict table."""

import hashlib

import pytest
import torch

from comfyui_exemplar import demo
from comfyui_exemplar.files.tensors import read_tensors
from comfyui_exemplar.networks.embedded.words import HashedWords, tokenize


def word_id(word, vocabulary=1024):
    return 1 + int(hashlib.md5(word.encode()).hexdigest(), 16) % (vocabulary - 1)


def test_empty_prompt_is_eight_null_tokens():
    assert tokenize("") == tokenize(" -- 1 2 3 ") == [0] * 8


def test_rules():
    assert tokenize("The Red-Apple, of a TREE!")[:4] == [word_id("red"), word_id("apple"), word_id("tree"), 0]
    assert tokenize("x with and of the y") == [0] * 8
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    assert tokenize(" ".join(words)) == [word_id(word) for word in words[:8]]
    assert all(0 <= i < 16 for i in tokenize(" ".join(words), vocabulary=16))
    assert len(tokenize("red", tokens=5)) == 5


def test_ids_do_not_change():
    """Recorded once; the table was trained with them."""
    assert tokenize("red apple")[:2] == [989, 910]


def test_sizes_come_from_the_table():
    model = HashedWords.from_state_dict({"emb.weight": torch.randn(16, 5).half()}, tokens=3)
    out = model.encode(["red apple", ""])
    assert out.shape == (2, 3, 5) and out.dtype == torch.float32 and not out.requires_grad
    assert torch.equal(out[1], model.emb.weight[0].expand(3, 5))
    assert torch.equal(out[0, 0], model.emb.weight[word_id("red", 16)])


def test_embedded_table():
    tensors = read_tensors(demo.model_path())
    model = HashedWords.from_state_dict({"emb.weight": tensors["text.emb.weight"]})
    words = model.encode(["", "red apple", "apple"])
    assert words.shape == (3, 8, 128)
    assert torch.equal(words[0, 0], model.emb.weight[0]) and torch.equal(words[1, 1], words[2, 0])


@pytest.mark.parametrize(
    "weights, words",
    [
        ({}, "missing ['emb.weight']"),
        ({"emb.weight": torch.zeros(4, 2), "emb.bias": torch.zeros(2)}, "unexpected ['emb.bias']"),
        ({"emb.weight": torch.zeros(4)}, "shape (4,)"),
        ({"emb.weight": torch.zeros(1, 4)}, "vocabulary 1"),
    ],
)
def test_bad_weights_are_named(weights, words):
    with pytest.raises(ValueError) as error:
        HashedWords.from_state_dict(weights)
    assert words in str(error.value)


class TestBoundWords:
    def model(self):
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(5, 5, generator=generator)
        return HashedWords.from_state_dict(
            {"emb.weight": torch.randn(64, 5, generator=generator), "left.weight": matrix, "right.weight": matrix.T},
            tokens=4,
        )

    def test_a_word_hears_its_neighbors(self):
        model = self.model()
        first, second, alone = model.encode(["red apple, yellow bell", "yellow apple, red bell", "apple"])
        assert not torch.allclose(first[1], second[1])  # the apple
        assert torch.equal(alone[0], model.emb.weight[tokenize("apple", vocabulary=64)[0]])
        # nobody is heard from where there is no word, and nothing is heard there
        assert torch.equal(alone[1:], model.emb.weight[:1].expand(3, -1))

    def test_both_matrices_or_none(self):
        tensors = {name: tensor for name, tensor in self.model().state_dict().items() if name != "right.weight"}
        with pytest.raises(ValueError, match=r"missing \['right.weight'\]"):
            HashedWords.from_state_dict(tensors)
        with pytest.raises(ValueError, match="for bound words"):
            HashedWords.from_state_dict(self.model().state_dict() | {"left.weight": torch.zeros(4, 5)})
