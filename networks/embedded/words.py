"""The embedded model's text encoder: a bag of hashed words.

A word is hashed to a row of one embedding table; there is no context, order or grammar. It exists so that the
embedded UNet has cross-attention like Stable Diffusion's; the colorization itself uses the empty prompt only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = 1024
TOKENS = 8
NULL_TOKEN = 0
_IGNORED = frozenset({"with", "the", "of", "and"})


def tokenize(text: str, *, vocabulary: int = VOCABULARY, tokens: int = TOKENS) -> list[int]:
    """Text -> exactly ``tokens`` ids in 0..vocabulary-1; 0 is "no word" and fills the end.

    Lower-case, split at everything but a-z, drop one-letter words and with/the/of/and, keep the first ``tokens``;
    id = 1 + md5(word) mod (vocabulary - 1). md5 because Python's own hash() changes from process to process.
    """
    words = [w for w in re.split(r"[^a-z]+", text.lower()) if len(w) > 1 and w not in _IGNORED][:tokens]
    ids = [1 + int(hashlib.md5(w.encode(), usedforsecurity=False).hexdigest(), 16) % (vocabulary - 1) for w in words]
    return ids + [NULL_TOKEN] * (tokens - len(ids))


class HashedWords(nn.Module):
    """Embedding table ``emb.weight`` (vocabulary, width), looked up for ``tokens`` hashed words a text.

    With ``bound``, a word also hears the one before it and the one after it, through ``left.weight`` and
    ``right.weight`` (width, width): the only grammar there is, enough to tell "red apple, yellow bell" from "yellow
    apple, red bell".
    """

    def __init__(
        self, vocabulary: int = VOCABULARY, width: int = 96, tokens: int = TOKENS, bound: bool = False
    ) -> None:
        """vocabulary >= 2 (row 0 is "no word"), width = the UNet's cross-attention width, tokens = sequence length."""
        super().__init__()
        if vocabulary < 2 or width < 1 or tokens < 1:
            raise ValueError(
                f"a hashed-word table got vocabulary {vocabulary}, width {width}, tokens {tokens}, but needs at least "
                "2, 1 and 1: read the sizes with HashedWords.from_state_dict."
            )
        self.tokens = tokens
        self.emb = nn.Embedding(vocabulary, width)
        self.left = nn.Linear(width, width, bias=False) if bound else None
        self.right = nn.Linear(width, width, bias=False) if bound else None

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], *, tokens: int = TOKENS) -> HashedWords:
        """Build from ``emb.weight`` (vocabulary, width) and, if words are bound, the two that bind them.

        Those are ``left.weight`` and ``right.weight`` (width, width); all become float32.

        :param tokens: which is not in any shape.
        :raises ValueError: keys are missing or unexpected, or shapes do not fit; they are named.
        """
        neighbors = {"left.weight", "right.weight"}
        bound = not neighbors.isdisjoint(state_dict)
        expected = {"emb.weight"} | (neighbors if bound else set())
        missing, unexpected = sorted(expected - set(state_dict)), sorted(set(state_dict) - expected)
        if missing or unexpected:
            raise ValueError(
                f"hashed-word weights: missing {missing}, unexpected {unexpected}, expected exactly "
                f"{sorted(expected)}: pass the file's tensors with their `text.` prefix removed."
            )
        table = state_dict["emb.weight"]
        shapes = [tuple(state_dict[name].shape) for name in sorted(expected)]
        if table.ndim != 2 or any(shape != (table.shape[1],) * 2 for shape in shapes[1:]):
            raise ValueError(
                f"the hashed-word table has shape {', '.join(map(str, shapes))}, expected (vocabulary, width), and "
                "(width, width) for bound words: the file is damaged or is another model's."
            )
        model = cls(vocabulary=table.shape[0], width=table.shape[1], tokens=tokens, bound=bound)
        model.load_state_dict({name: tensor.float() for name, tensor in state_dict.items()}, strict=True)
        return model.eval().requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, tokens), integer -> embeddings (B, tokens, width)."""
        return self.heard(self.emb(ids), ids != NULL_TOKEN)

    def heard(self, words: Tensor, said: Tensor) -> Tensor:
        """Words that hear their neighbors, where they are bound; else as they are.

        :param words: (B, tokens, width), of the table or of an embedding's file.
        :param said: (B, tokens) bool, false where no word stands.
        """
        if self.left is None or self.right is None:
            return words
        is_word = said.unsqueeze(-1)
        spoken = words * is_word
        # nothing stands before the first word and after the last one
        heard = self.left(F.pad(spoken[:, :-1], (0, 0, 1, 0))) + self.right(F.pad(spoken[:, 1:], (0, 0, 0, 1)))
        return words + heard * is_word

    def encode(self, texts: Sequence[str]) -> Tensor:
        """B texts -> (B, tokens, width), on the table's device and in its dtype."""
        vocabulary = self.emb.num_embeddings
        ids = [tokenize(text, vocabulary=vocabulary, tokens=self.tokens) for text in texts]
        return self(torch.tensor(ids, dtype=torch.long, device=self.emb.weight.device))
