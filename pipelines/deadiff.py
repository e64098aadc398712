"""References to image tokens by DEADiff (Qi et al. 2024, arXiv 2403.06951): encoded once, weighted, combined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..attention.image_tokens import SEMANTICS, STYLE
from ..networks.deadiff import weights as published
from ..networks.deadiff.load import DEADiffAdapter
from ..networks.deadiff.model import to_pixels

#: Our names of the kinds, and the program's for branches and their usual instruction words.
BRANCH_OF = {STYLE: "style", SEMANTICS: "content"}

#: How references become tokens: their weighted mean; all of them side by side; or the tokens of reference i for picture
#: i of a latent batch.
COMBINATIONS = ("average", "together", "one each")

#: References that go through the encoder at once.
CHUNK = 8


def parse_weights(text: str, references: int) -> list[float]:
    """Weights of some references from a list such as ``1, 0.5``; a single one is everybody's.

    :raises ValueError: not numbers, not as many as references, or nothing above 0.
    """
    try:
        weights = [float(word) for word in text.replace(";", ",").split(",") if word.strip()]
    except ValueError:
        raise ValueError(f"The weights are '{text}'; expected numbers, such as '1' or '1, 0.5'.") from None
    if len(weights) == 1:
        weights *= references
    if len(weights) != references:
        raise ValueError(
            f"There are {references} references and {len(weights)} weights ('{text}'); give one weight for all, or one "
            f"each."
        )
    if min(weights) < 0 or max(weights) == 0:
        raise ValueError(f"The weights are '{text}'; they must be 0 or more, and one of them above 0.")
    return weights


def combine(tokens: Tensor, weights: Sequence[float], how: str) -> Tensor:
    """Tokens of several references (n, Q, hidden) -> (pictures, tokens, hidden), see ``COMBINATIONS``.

    Keys and values have no bias, so a token times its weight is what the program's img_weight makes of it.
    """
    scale = torch.tensor(weights).to(tokens)[:, None, None]
    if how == "average":
        return (tokens * scale).sum(0, keepdim=True) / scale.sum()
    if how == "together":
        return (tokens * scale).flatten(0, 1)[None]
    if how == "one each":
        return tokens * scale
    raise ValueError(f"References are to be combined as '{how}'; expected one of {', '.join(COMBINATIONS)}.")


@torch.no_grad()
def encode(
    adapter: DEADiffAdapter,
    images: Tensor,
    words: Mapping[str, str],
    on_chunk: Callable[[int], None] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """References (n, H, W, 3) in 0..1 -> kind -> tokens (n, Q, hidden), float32 on the CPU.

    :param words: kind -> its instruction word, for the kinds that are wanted.
    :param on_chunk: called with how many references are done.
    :param device: where the encoder is.
    """
    ids = {BRANCH_OF[kind]: adapter.instruction(word) for kind, word in words.items()}
    dtype = adapter.encoder.branches[published.BRANCHES[0]].query_tokens.dtype
    found: dict[str, list[Tensor]] = {kind: [] for kind in words}
    for start in range(0, len(images), CHUNK):
        pixels = to_pixels(images[start : start + CHUNK], adapter.encoder.side).to(device, dtype)
        made = adapter.encoder(pixels, ids)
        for kind in words:
            found[kind].append(made[BRANCH_OF[kind]].float().cpu())
        if on_chunk is not None:
            on_chunk(min(start + CHUNK, len(images)))
    return {kind: torch.cat(parts) for kind, parts in found.items()}
