"""The embedded model's text encoder: a bag of hashed words.

A word is hashed to a row of one embedding table; there is no context, order or grammar. It exists so that the
embedded UNet has cross-attention like Stable Diffusion's; the colourisation itself uses the empty prompt only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import torch
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
    """Embedding table ``emb.weight`` (vocabulary, width), looked up for ``tokens`` hashed words a text."""

    def __init__(self, vocabulary: int = VOCABULARY, width: int = 96, tokens: int = TOKENS) -> None:
        """vocabulary >= 2 (row 0 is "no word"), width = the UNet's cross-attention width, tokens = sequence length."""
        super().__init__()
        if vocabulary < 2 or width < 1 or tokens < 1:
            raise ValueError(
                f"a hashed-word table got vocabulary {vocabulary}, width {width}, tokens {tokens}, but needs at least "
                "2, 1 and 1: read the sizes with HashedWords.from_state_dict."
            )
        self.tokens = tokens
        self.emb = nn.Embedding(vocabulary, width)

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor], *, tokens: int = TOKENS) -> HashedWords:
        """Build from ``{"emb.weight": (vocabulary, width)}``, converted to float32; ``tokens`` is not in any shape.

        Raises ValueError naming missing and unexpected keys, or the table's shape.
        """
        missing = sorted({"emb.weight"} - set(state_dict))
        unexpected = sorted(set(state_dict) - {"emb.weight"})
        if missing or unexpected:
            raise ValueError(
                f"hashed-word weights: missing {missing}, unexpected {unexpected}, expected exactly ['emb.weight']: "
                "pass the file's tensors with their `text.` prefix removed."
            )
        table = state_dict["emb.weight"]
        if table.ndim != 2:
            raise ValueError(
                f"the hashed-word table has shape {tuple(table.shape)}, expected (vocabulary, width): the file is "
                "damaged or is another model's."
            )
        model = cls(vocabulary=table.shape[0], width=table.shape[1], tokens=tokens)
        model.load_state_dict({"emb.weight": table.float()}, strict=True)
        return model.eval().requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, tokens), integer -> embeddings (B, tokens, width)."""
        return self.emb(ids)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """B texts -> (B, tokens, width), on the table's device and in its dtype."""
        vocabulary = self.emb.num_embeddings
        ids = [tokenize(text, vocabulary=vocabulary, tokens=self.tokens) for text in texts]
        return self(torch.tensor(ids, dtype=torch.long, device=self.emb.weight.device))
