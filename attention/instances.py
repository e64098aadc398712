"""Instance-aware cross-attention (L-CAD, Chang et al., NeurIPS 2023): a phrase's tokens are drawn into its mask.

Before the softmax, the logits s (of the conditional rows) take one step down the gradient of a loss, the mean binary
cross-entropy between σ(s) over a phrase's tokens and the phrase's mask m:

    official      s' = s − strength · (σ(s) − m) / N,    N = heads · tokens of the phrase · positions
    normalized    s' = s + strength · REACH · (2m − 1)

``official`` is the published step in closed form; no gradient graph is ever needed, since every layer's loss depends on
that layer's logits alone. Divided by N it moves a logit by 1e-5 to 1e-3 and hardly changes a picture. ``normalized``
goes the same way, up inside the mask and down outside it (where m is 0 or 1, 2m − 1 has the sign of m − σ(s)), but
every logit by the same amount: whatever the size of the picture, the number of heads and of words, and however far the
sigmoid has saturated. It needs no logits, so that the step is a few more features in one fused attention call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..diffusion.levels import same_level
from ..settings import Settings, setting, share
from .bank import pick_rows
from .call import CONDITIONAL, CROSS, AttentionCall, composed, on_rows
from .constants import Constants
from .fused import attend_with_bias, sdpa
from .rows import taken

#: By how much a normalized step of strength 1 moves a logit; e to this power is a token's gain in attention.
REACH = 4.0


@dataclass(frozen=True)
class InstanceSettings(Settings):
    """How strongly and when a phrase is drawn into its mask.

    The two schedules differ in first order of the step. The first layer's logits are equal; from there on, in one pass
    self- and cross-attention see what the changes so far did to the picture, while the second of two passes keeps the
    attention of an unchanged picture and lets only values follow.

    :param sigma_start: noise level of ``start_percent``: the step is taken at this level and below;
    :param sigma_end: of ``end_percent``: and at this level and above. Set by whoever knows the model's schedule.
    """

    strength: float = setting(
        1.0,
        "0 is the plain model. Low values let colors stray; 1 keeps them to their masks; high values leave a thing "
        "nothing but its own words. With the normalized step 1 moves every logit by 4: a word's weight against all "
        "others grows 55 times inside its mask and falls 55 times outside. With the official step 1 is the published "
        "size, which is hardly seen; thousands are.",
        low=0.0,
        high=1000000.0,
        step=0.1,
        round=0.001,
    )
    step: Literal["normalized", "official"] = setting(
        "normalized",
        "normalized takes the direction of the published step, and the same size everywhere: at any size of picture "
        "and any number of words. official is the published gradient step, divided by heads, words and places.",
        published="official",
        advanced=True,
    )
    schedule: Literal["one pass", "official"] = setting(
        "one pass",
        "one pass changes logits as they are computed, at no extra cost. official keeps all logits in a first call of "
        "the model and uses them, changed, in a second call for the positive prompt, as published.",
        published="official",
        advanced=True,
    )
    start_percent: float = share(
        0.0,
        "Share of the sampling, 0 to 1, after which the masks begin to act. High values leave the layout to the model.",
        advanced=True,
    )
    end_percent: float = share(
        1.0,
        "Share of the sampling, 0 to 1, after which they stop. Low values leave the last steps to the model; colors "
        "are decided early.",
        advanced=True,
    )
    sigma_start: float = float("inf")
    sigma_end: float = 0.0

    def acts(self, sigma: float) -> bool:
        """Whether the step is taken at a noise level."""
        below = sigma <= self.sigma_start or same_level(sigma, self.sigma_start)
        above = sigma >= self.sigma_end or same_level(sigma, self.sigma_end)
        return self.strength > 0 and below and above

    def scheduled(self, sigma_after: Callable[[float], float]) -> InstanceSettings:
        """The same on a model's schedule.

        :param sigma_after: share of the sampling -> the noise level there.
        """
        return replace(self, sigma_start=sigma_after(self.start_percent), sigma_end=sigma_after(self.end_percent))


@dataclass(frozen=True)
class Instance:
    """A phrase of the prompt and where it belongs.

    :param phrase: as written.
    :param tokens: its places in the prompt's context, at least one.
    :param length: tokens in that context; a host may repeat it.
    :param masks: (P, H, W) in 0..1, for one picture or for as many as are sampled.
    """

    phrase: str
    tokens: tuple[int, ...]
    length: int
    masks: Tensor
    settings: InstanceSettings = field(default_factory=InstanceSettings)

    def __post_init__(self) -> None:
        if not self.tokens or not 0 <= min(self.tokens) <= max(self.tokens) < self.length:
            raise ValueError(f"'{self.phrase}' has the tokens {self.tokens} of a prompt of {self.length}.")
        if self.masks.ndim != 3 or 0 in self.masks.shape or not bool((self.masks > 0.5).any(dim=(1, 2)).all()):
            raise ValueError(
                f"masks: found nothing above one half in that of '{self.phrase}', {tuple(self.masks.shape)}, expected "
                "some place where its colors belong; paint one."
            )


class InstanceEdit:
    """The edit of cross-attention. It acts on the conditional rows; other rows and kinds run as before.

    :param instances: phrases with their masks; those of ``official`` and ``normalized`` steps may be mixed, and where
        tokens are shared the steps add up.
    :param picture: (height, width) in pixels of what is sampled, to which the published program resizes masks first.
    :param sent: masks and places of tokens on the device, for edits of one run, whose owner clears it; None keeps them
        as long as the edit.
    """

    def __init__(self, instances: Sequence[Instance], picture: tuple[int, int], sent: Constants | None = None) -> None:
        self.instances, self.picture, self.sent = tuple(instances), picture, sent or Constants()

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        """The call with phrases drawn into their masks, as an edit (``attention.call.Edit``)."""
        rows = call.rows_of(CONDITIONAL)
        acting = [instance for instance in self.instances if instance.settings.acts(call.sigma)]
        if call.kind != CROSS or not rows or not acting:
            return earlier(call)

        def drawn(part: AttentionCall) -> Tensor:
            return composed(part, earlier, self._attention(part, acting))

        return on_rows(call, rows, drawn, earlier)

    def _attention(self, call: AttentionCall, instances: Sequence[Instance]) -> Tensor:
        biases, groups = zip(*(self._bias(call, instance) for instance in instances), strict=True)
        heads = max(bias.shape[1] for bias in biases)
        bias = torch.cat([bias.expand(-1, heads, -1, -1) for bias in biases], dim=-1)
        # torch's own fused call: quantized attention, which a host may use, would blur the bias
        return attend_with_bias(call.q, call.k, call.v, bias, torch.cat(groups, dim=-1), call.heads, sdpa)

    def _bias(self, call: AttentionCall, instance: Instance) -> tuple[Tensor, Tensor]:
        """What to add to the logits, (rows, heads or 1, N, G), and which keys belong to which group, (M, G)."""
        settings, device = instance.settings, call.q.device
        text, keys = call.text_keys, call.k.shape[1]

        def groups() -> Tensor:
            each = F.pad(one_hot_tokens(instance, text), (0, 0, 0, keys - text))  # keys of other nodes are no words
            return each if settings.step == "official" else each.sum(1, keepdim=True)

        def grid() -> Tensor:
            official = settings.step == "official"
            masks = instance.masks
            masks = official_grid(masks, self.picture, call.grid) if official else soft_grid(masks, call.grid)
            return masks.flatten(1).unsqueeze(-1).float()

        each = self.sent.on(device, groups, "groups", id(instance), text, keys)
        masks = self.sent.on(device, grid, "masks", id(instance), self.picture, call.grid)
        mask = pick_rows(masks, call.pictures).squeeze(-1)  # (rows, N)
        if settings.step == "official":
            return settings.strength * official_step(token_logits(call, instance.tokens), mask), each
        return (settings.strength * normalized_step(mask))[:, None, :, None], each


def one_hot_tokens(instance: Instance, keys: int) -> Tensor:
    """(M, tokens): which keys are which of a phrase's tokens. Keys may be the prompt several times over.

    :raises ValueError: keys of another prompt.
    """
    if keys % instance.length:
        raise ValueError(
            f"The positive prompt has {keys} tokens, the one that '{instance.phrase}' was looked up in "
            f"{instance.length}: use the same text and the same CLIP for both."
        )
    places = torch.arange(keys) % instance.length
    return (places[:, None] == torch.tensor(instance.tokens)).float()


def token_logits(call: AttentionCall, tokens: Sequence[int]) -> Tensor:
    """Logits before the softmax of all queries with some tokens: (rows, heads, N, tokens), float32."""
    q = call.q.unflatten(-1, (call.heads, -1)).transpose(1, 2)
    k = taken(call.k, tokens, 1).contiguous().unflatten(-1, (call.heads, -1)).permute(0, 2, 3, 1)
    return (q.float() @ k.float()) * q.shape[-1] ** -0.5


def official_step(logits: Tensor, mask: Tensor) -> Tensor:
    """One published gradient step of size 1, as what it adds to the logits: (m − σ(s)) / N.

    :param logits: (rows, heads, N, tokens) of one phrase, before the softmax.
    :param mask: (rows, N), the same for all heads and tokens.
    :returns: like ``logits``. Zero where σ(s) rounds to 1, fading where it rounds to 0, as the gradient of torch's
        cross entropy does, which divides by σ(1−σ) but never by less than 1e-12.
    """
    share = logits.sigmoid()
    slope = share * (1 - share)
    return (mask[:, None, :, None] - share) * (slope / slope.clamp(min=1e-12)) / logits[0].numel()


def normalized_step(mask: Tensor) -> Tensor:
    """What a step of strength 1 adds to the logits of all of a phrase's tokens; shaped like the mask."""
    return REACH * (2 * mask - 1)


def official_grid(masks: Tensor, picture: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The published resize: bilinear to the picture's size (no antialiasing), then the nearest pixel of each token.

    :param masks: (P, H, W).
    :returns: (P, h, w), float64.
    """
    whole = F.interpolate(masks.double().unsqueeze(1), size=picture, mode="bilinear", align_corners=False)
    return F.interpolate(whole, size=grid, mode="nearest").squeeze(1)


def soft_grid(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """How much of each token a mask covers, (P, H, W) -> (P, h, w).

    Relative to the token that it covers best: a thing smaller than a token still has one.
    """
    share = F.adaptive_avg_pool2d(masks.float().unsqueeze(1), grid).squeeze(1)
    return share / share.amax(dim=(1, 2), keepdim=True).clamp(min=1e-6)
