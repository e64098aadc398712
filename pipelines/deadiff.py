"""References to image tokens by DEADiff (Qi et al. 2024, arXiv 2403.06951): encoded once, weighted, combined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..attention.image_tokens import KINDS, SEMANTICS, STYLE, Weighting
from ..color.batches import freed, in_batches
from ..networks.deadiff import weights as published
from ..networks.deadiff.load import DEADiffAdapter
from ..networks.deadiff.model import to_pixels
from ..settings import Settings, setting, share

#: Our names of the kinds, and the program's for branches and their usual instruction words.
BRANCH_OF = {STYLE: "style", SEMANTICS: "content"}

#: How references become tokens: their weighted mean; all of them side by side; or the tokens of reference i for picture
#: i of a latent batch.
Combination = Literal["average", "together", "one each"]

#: For layers: those that a file was taught to speak to.
AUTO = "auto"

#: Of a reference: tokens that are longer than a prompt's by this are noise already, and larger numbers are a mistake.
LARGEST_WEIGHT = 100.0

#: References that go through the encoder at once.
CHUNK = 8


@dataclass(frozen=True)
class DEADiffEncodeSettings(Settings):
    """What is taken from references."""

    take: Literal["style", "semantics", "style & semantics"] = setting(
        "style",
        "style: how it is made, with the prompt deciding what is shown. semantics: what it shows, with the prompt "
        "deciding how. style & semantics: both, so the prompt has the least to say.",
    )
    weights: str = setting(
        "1",
        "One number for all references, or one each, such as 1, 0.5. 0 leaves a reference out; high values draw an "
        "average toward it.",
    )
    combine: Combination = setting(
        "average",
        "average: one set of tokens, the references' weighted mean. together: all tokens side by side, each times its "
        "weight; stronger and less mixed. one each: reference 1 for picture 1 of the latent batch, and so on, starting "
        "over where the batch is longer.",
    )
    semantic_word: Literal["content", "painting", "style"] = setting(
        "content",
        "The word with which the semantic branch reads a reference. content is what it was taught; the published "
        "program passes any other word on to this branch, painting and style among them.",
        advanced=True,
    )

    @property
    def words(self) -> dict[str, str]:
        """The kinds of tokens that are wanted, each with its instruction word."""
        all_words = {STYLE: "style", SEMANTICS: self.semantic_word}
        return {kind: all_words[kind] for kind in KINDS if self.take in (kind, "style & semantics")}


@dataclass(frozen=True)
class DEADiffSettings(Settings):
    """How a model listens to image tokens."""

    weight: float = setting(
        1.0,
        "0 is the plain model, bit for bit; 1 what was trained. Above 1 the reference pushes the prompt aside; above 2 "
        "pictures break.",
        low=0.0,
        high=3.0,
        step=0.05,
        round=0.001,
    )
    start_percent: float = share(
        0.0,
        "Share of the sampling, 0 to 1, after which the tokens begin. Above 0 the plain model lays out the picture "
        "first.",
        advanced=True,
    )
    end_percent: float = share(
        1.0,
        "Share of the sampling, 0 to 1, after which they stop. Low values leave the details to the plain model.",
        advanced=True,
    )
    weighting: Weighting = setting(
        "plain at 0",
        "plain at 0: below 1 the reference fades out. official: keys and values times the weight, as in the published "
        "program; tokens of zeros still take part in attention, so there even 0 damps the prompt. Above 1 both are the "
        "same.",
        published="official",
        advanced=True,
    )
    semantic_layers: str = setting(
        AUTO,
        "Layers that listen to semantic tokens. auto is what the file was taught; DEADiff's own is semantic: the "
        "coarsest encoder layers, the middle, and the coarsest decoder layers but the last. Or other presets (middle, "
        "encoder, decoder, coarse), or ranges such as output.3-4. More and finer layers copy more of the reference.",
        advanced=True,
    )
    style_layers: str = setting(
        AUTO,
        "Layers that listen to style tokens. auto is what the file was taught; DEADiff's own is rest, every layer that "
        "is not semantic. Layers in neither list hear the prompt alone; no layer may be in both.",
        advanced=True,
    )
    timesteps: Literal["nearest", "fractional"] = setting(
        "nearest",
        "nearest is ComfyUI's way. fractional reads the model between whole timesteps, as the published program does "
        "with Euler a; with ddim there is no difference.",
        advanced=True,
    )

    @property
    def acts(self) -> bool:
        """Whether anything is different from the plain model."""
        return (self.weight > 0 or self.weighting == "official") and self.start_percent < self.end_percent


def parse_weights(text: str, references: int) -> list[float]:
    """Weights of some references from a list such as ``1, 0.5``; a single one is everybody's.

    :raises ValueError: not numbers, not as many as references, or nothing above 0.
    """
    try:
        weights = [float(word) for word in text.replace(";", ",").split(",") if word.strip()]
    except ValueError:
        raise ValueError(f"weights: found '{text}', expected numbers, such as '1' or '1, 0.5'.") from None
    if len(weights) == 1:
        weights *= references
    if len(weights) != references:
        raise ValueError(
            f"weights: found {len(weights)} ('{text}') for {references} reference(s), expected one for all, or one "
            f"each."
        )
    if not all(0 <= weight <= LARGEST_WEIGHT for weight in weights) or max(weights) == 0:
        raise ValueError(
            f"weights: found '{text}', expected numbers from 0 to {LARGEST_WEIGHT:g}, and one of them above 0."
        )
    return weights


def combine(tokens: Tensor, weights: Sequence[float], how: Combination) -> Tensor:
    """Tokens of several references (n, Q, hidden) -> (pictures, tokens, hidden).

    Keys and values have no bias, so a token times its weight is what the program's img_weight makes of it.
    """
    scale = torch.tensor(weights).to(tokens)[:, None, None]
    if how == "average":
        return (tokens * scale).sum(0, keepdim=True) / scale.sum()
    if how == "together":
        return (tokens * scale).flatten(0, 1)[None]
    if how == "one each":
        return tokens * scale
    raise ValueError(f"References are to be combined as '{how}'; expected one of {', '.join(get_args(Combination))}.")


@torch.no_grad()
def encode(
    adapter: DEADiffAdapter,
    images: Tensor,
    words: Mapping[str, str],
    on_chunk: Callable[[int], None] | None = None,
    device: torch.device | str = "cpu",
    out_of_memory: Callable[[Exception], bool] = freed,
) -> dict[str, Tensor]:
    """References (n, H, W, 3) in 0..1 -> kind -> tokens (n, Q, hidden), float32 on the CPU.

    :param words: kind -> its instruction word, for the kinds that are wanted.
    :param on_chunk: called with how many references are done.
    :param device: where the encoder is.
    :param out_of_memory: whether an error says that memory ran out: then fewer go through at once.
    """
    ids = {BRANCH_OF[kind]: adapter.instruction(word) for kind, word in words.items()}
    dtype = adapter.encoder.branches[published.BRANCHES[0]].get_parameter("query_tokens").dtype
    tokens: dict[str, list[Tensor]] = {kind: [] for kind in words}

    def encoded(part: slice) -> dict[str, Tensor]:
        found = adapter.encoder(to_pixels(images[part], adapter.encoder.side).to(device, dtype), ids)
        return {kind: found[BRANCH_OF[kind]].float().cpu() for kind in words}

    for part, found in in_batches(len(images), CHUNK, encoded, out_of_memory):
        for kind in words:
            tokens[kind].append(found[kind])
        if on_chunk is not None:
            on_chunk(part.stop)
    return {kind: torch.cat(parts) for kind, parts in tokens.items()}
