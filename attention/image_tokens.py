"""Image tokens beside the prompt (DEADiff, Qi et al. 2024, arXiv 2403.06951), as an edit of the text cross-attentions.

A layer's second pair of projections turns image tokens into keys and values, which stand beside the text's in one
softmax (section 3.2 of the paper):

    k = [W_k text ; w · W_ik image]     v = [W_v text ; w · W_iv image]     o = softmax(q kᵀ / √d) v

A layer listens to one kind of tokens only: the coarse ones to *semantic* tokens, the others to *style* tokens. Where
the kind is missing, and in every unconditional row, the tokens are zeros. They have no value but still take their part
of the softmax: the network was trained with that damping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from .bank import pick_rows
from .call import CONDITIONAL, UNKNOWN, AttentionCall, faded
from .constants import Constants
from .layers import Layer, LayerInfo, select_layers
from .token_masks import to_grid

STYLE, SEMANTICS = "style", "semantics"
KINDS = (STYLE, SEMANTICS)

#: The layers of a kind that are left when the other kind has taken its own.
REST = "rest"
#: The split that the published model was taught, as expressions for semantic and style layers.
PUBLISHED_SPLIT = ("semantic", REST)

#: What a weight means. ``plain at 0``: from no image at all, over what was trained, to more. ``official``: keys and
#: values times the weight, so that 0 is a picture of zeros, which still damps the text.
Weighting = Literal["plain at 0", "official"]


def route(
    infos: Sequence[LayerInfo], semantic_layers: str = PUBLISHED_SPLIT[0], style_layers: str = PUBLISHED_SPLIT[1]
) -> dict[Layer, str]:
    """Which kind of tokens each cross-attention layer listens to.

    :param infos: the model's transformer layers, in network order.
    :param semantic_layers: a layer expression (``layers.select_layers``), or ``rest``.
    :param style_layers: the same for style; ``rest`` is every layer that is not semantic. Layers of neither are left
        alone.
    :raises ValueError: an expression that names nothing, a layer of both kinds, or two rests.
    """
    named = {STYLE: style_layers.strip().lower(), SEMANTICS: semantic_layers.strip().lower()}
    if list(named.values()) == [REST, REST]:
        raise ValueError("Style and semantic layers are both 'rest'; name one of them, such as 'semantic'.")
    chosen = {
        kind: {info.layer for info in select_layers(words, infos)} for kind, words in named.items() if words != REST
    }
    both = set.intersection(*chosen.values()) if len(chosen) == 2 else set()
    if both:
        raise ValueError(
            f"{', '.join(layer.name for layer in sorted(both))} would listen to style and to semantics; a layer "
            "listens to one of them. Take it out of one list."
        )
    for kind in KINDS:
        if kind not in chosen:
            other = next(iter(chosen.values()))
            chosen[kind] = {info.layer for info in infos} - other
    return {info.layer: kind for info in infos for kind in KINDS if info.layer in chosen[kind]}


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of image tokens at one layer: (pictures, tokens, channels) each; zeros where it has none."""

    k: Tensor
    v: Tensor


def project_tokens(
    tokens: Mapping[str, Tensor], projections: Mapping[Layer, tuple[Tensor, Tensor]], routing: Mapping[Layer, str]
) -> dict[Layer, KeysValues]:
    """Keys and values of every layer, once for a whole sampling.

    :param tokens: kind -> (pictures, tokens, width); one kind or both, with as many pictures, or one.
    :param projections: layer -> W_ik and W_iv, (channels, width), without bias.
    :raises ValueError: no tokens at all.
    """
    if not tokens:
        raise ValueError("There are no image tokens; connect DEADiff Encode.")
    count = max(of_kind.shape[1] for of_kind in tokens.values())
    projected = {}
    for layer, kind in routing.items():
        w_k, w_v = (w.float() for w in projections[layer])
        if kind in tokens:
            image = tokens[kind].float()
            projected[layer] = KeysValues(image @ w_k.T, image @ w_v.T)
        else:
            zeros = w_k.new_zeros(1, count, w_k.shape[0])
            projected[layer] = KeysValues(zeros, zeros)
    return projected


class ImageTokens:
    """The edit. Conditional rows get a picture's tokens, all others as many zeros, as the published program does.

    Rows of a prompt that is not the sampler's are left alone.

    Keys and values as a batch's rows need them are kept from call to call of a layer: for one run, whose owner (the
    host that installed the edit) lets them go with :meth:`forget`. Another batch replaces them.

    :param projected: what :func:`project_tokens` made: it lives as long as the edit.
    :param weight: 0 or more; 1 is what was trained. What lies between 0 and 1 depends on ``weighting``.
    :param mask: (B or 1, H, W) in 0..1, where in the picture the tokens act; None is everywhere.
    :param text_tokens: length of one stretch of prompt. A host repeats prompts to give all rows one length; image
        tokens are then repeated as well, because what counts is their share.
    :raises ValueError: weight or weighting out of range.
    """

    def __init__(
        self,
        projected: Mapping[Layer, KeysValues],
        weight: float = 1.0,
        weighting: Weighting = "plain at 0",
        mask: Tensor | None = None,
        text_tokens: int = 77,
    ) -> None:
        if weighting not in get_args(Weighting):
            raise ValueError(f"weighting is '{weighting}'; expected one of {', '.join(get_args(Weighting))}.")
        if weight < 0:
            raise ValueError(f"weight is {weight}; it must be 0 or more.")
        official = weighting == "official"
        # below 1 the expected weighting fades between two attentions, and the tokens themselves stay as trained
        scale = weight if official else max(weight, 1.0)
        self.projected = {layer: KeysValues(scale * pair.k, scale * pair.v) for layer, pair in projected.items()}
        self.share = 1.0 if official else min(float(weight), 1.0)
        self.mask = mask
        self.text_tokens = text_tokens
        self._batches: dict[Layer, tuple[tuple, Tensor, Tensor]] = {}
        self._sent = Constants()

    def forget(self) -> None:
        """Let the rows of the last run go."""
        self._batches.clear()
        self._sent.clear()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers that have tokens."""
        return tuple(self.projected)

    @property
    def pictures(self) -> int:
        """How many pictures have tokens of their own; a latent batch starts over after them."""
        return max(len(pair.k) for pair in self.projected.values())

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        """The call with the pictures' tokens beside the prompt's, as an edit (``attention.call.Edit``)."""
        share = self._share(call)
        if isinstance(share, float) and share == 0:
            return earlier(call)
        k, v = self._rows(call)
        joined = earlier(replace(call, k=torch.cat([call.k, k], 1), v=torch.cat([call.v, v], 1)))
        return joined if isinstance(share, float) and share == 1 else faded(earlier(call), joined, share)

    def _share(self, call: AttentionCall) -> float | Tensor:
        """How much of the edit each token of the picture gets; a tensor is (rows, N or 1, 1), float32."""
        mask = self.mask
        if mask is None and UNKNOWN not in call.branches:
            return self.share

        def made() -> Tensor:
            share = torch.full((1, 1, 1), self.share)
            if mask is not None:
                share = share * pick_rows(to_grid(mask, call.grid).unsqueeze(-1), call.pictures)
            # a prompt that is not ours gets neither a picture's tokens nor the damping of zeros
            return share * torch.tensor([float(one != UNKNOWN) for one in call.branches])[:, None, None]

        return self._sent.on(call.q.device, made, call.grid, call.branches, call.pictures)

    def _rows(self, call: AttentionCall) -> tuple[Tensor, Tensor]:
        """Keys and values for the rows of a call, (rows, tokens, channels) each."""
        copies = max(1, call.text_keys // self.text_tokens)
        batch = (call.branches, call.pictures, copies, call.k.dtype, call.k.device)
        last = self._batches.get(call.layer)
        if last is None or last[0] != batch:
            pair = self.projected[call.layer]
            conditional = torch.tensor([branch == CONDITIONAL for branch in call.branches])[:, None, None]
            k, v = (
                (pick_rows(t, call.pictures) * conditional.to(t.device)).repeat(1, copies, 1).to(call.k)
                for t in (pair.k, pair.v)
            )
            last = self._batches[call.layer] = (batch, k, v)
        return last[1], last[2]
