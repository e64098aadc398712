"""Dual attention-guided color transfer (Kosugi 2025, arXiv 2505.15812), as an attention edit.

In the chosen decoder layers the self-attention of the picture being colored is replaced by

    o = softmax((γ · q_input·k_grayᵀ + (1−γ) · q·k_refᵀ) / √d) · v_ref
    o ← (1−β) · o + β · softmax(q_input·k_inputᵀ / √d) · v

where q and v are the running picture's, and the rest was kept by three DDIM inversions: the gray input, the color
reference (``ref``) and the reference without its colors (``gray``). γ leans on the correspondence between gray and
gray, which color cannot disturb; β holds on to the input's own structure. Layers at the finest attention resolution
("shallow") and the others ("deep") have their own γ and β.

The β term uses the *kept* q and k but the *running* v, as the published program does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .bank import FeatureBank, pick_rows
from .call import CONDITIONAL, Attend, AttentionCall
from .fused import blend_after_softmax, blend_before_softmax, sdpa
from .layers import Layer

MIXES = {"before softmax": blend_before_softmax, "after softmax": blend_after_softmax}


@dataclass(frozen=True)
class DualAttentionSettings:
    """The paper's parameters (its defaults), and when and how strongly the edit acts.

    :param gamma_shallow: 0..1, weight of gray-to-gray correspondence in shallow layers (γ₁); 0 is color-to-color only.
    :param gamma_deep: the same in deep layers (γ₂). At 1 the running picture's queries do not matter.
    :param beta_shallow: 0..1, share of the input's own attention in shallow layers (β₁); 1 takes no color at all.
    :param beta_deep: the same in deep layers (β₂).
    :param mix: blend the two correspondences ``before softmax`` or ``after softmax``.
    :param strength: 0..1, from plain attention to the edit.
    :param start: share of the way back after which the edit begins, 0..1.
    :param end: share of the way back after which it stops, 0..1.
    """

    gamma_shallow: float = 0.5
    gamma_deep: float = 1.0
    beta_shallow: float = 0.5
    beta_deep: float = 0.0
    mix: str = "before softmax"
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        for name in ("gamma_shallow", "gamma_deep", "beta_shallow", "beta_deep", "strength", "start", "end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1.")
        if self.mix not in MIXES:
            raise ValueError(f"mix is '{self.mix}'; expected one of {', '.join(MIXES)}.")

    def weights(self, shallow: bool) -> tuple[float, float]:
        """(γ, β) of a layer."""
        return (self.gamma_shallow, self.beta_shallow) if shallow else (self.gamma_deep, self.beta_deep)

    def needs(self, shallow: bool) -> dict[str, str]:
        """Projections that a layer must have kept, by role: ``input``, ``reference``, ``gray``."""
        gamma, beta = self.weights(shallow)
        return {
            "input": ("q" if gamma > 0 or beta > 0 else "") + ("k" if beta > 0 else ""),
            "reference": ("k" if gamma < 1 else "") + "v",
            "gray": "k" if gamma > 0 else "",
        }


class DualAttentionColor:
    """The edit. It reads three banks and acts on conditional rows only, so that guidance is the sampler's own.

    :param settings: γ, β and when to act.
    :param layers: layer -> whether it counts as shallow.
    :param source: bank of the gray input(s).
    :param reference: bank of the color reference(s): one for all inputs, or one an input.
    :param gray_reference: bank of the same reference(s) without color.
    :param source_mask: (B or 1, H, W) in 0..1, where in the input color may go; None is everywhere.
    :param reference_mask: (B or 1, H, W), which parts of the reference may give color (those above one half).
    :param attend: fused attention to use for what can be computed before sampling.
    :param device: where that is computed (None: where the banks are).
    :raises ValueError: banks or masks that do not fit each other, or an empty mask.
    :raises LookupError: a bank without what the settings need.
    """

    def __init__(
        self,
        settings: DualAttentionSettings,
        layers: Mapping[Layer, bool],
        source: FeatureBank,
        reference: FeatureBank,
        gray_reference: FeatureBank,
        source_mask: Tensor | None = None,
        reference_mask: Tensor | None = None,
        attend: Attend = sdpa,
        heads: Mapping[Layer, int] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self.settings = settings
        self.layers = dict(layers)
        self.banks = {"input": source, "reference": reference, "gray": gray_reference}
        self._check()
        self._check_masks({"input": source_mask, "reference": reference_mask})
        self._source_mask = source_mask
        self._key_tokens = self._select_keys(reference_mask)
        self._fixed: dict[tuple[float, Layer], Tensor] = {}
        if heads is not None:
            self._compute_fixed(heads, attend, device)

    @property
    def pictures(self) -> int:
        """How many pictures the edit knows; it serves latent batches of that size and their multiples."""
        return max(bank.pictures for bank in self.banks.values())

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Levels at which the edit has features, highest first."""
        return self.banks["reference"].sigmas

    def active(self, sigma: float) -> bool:
        """Whether the edit acts at the kept level nearest to a sigma."""
        position = self.sigmas.index(self.banks["reference"].nearest(sigma)) / len(self.sigmas)
        return self.settings.start <= position < self.settings.end

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        rows = call.rows_of(CONDITIONAL)
        if not rows or not self.active(call.sigma):
            return earlier(call)
        part = call.select(rows)
        if self._uneven_keys(part):
            # masks that leave every reference its own number of tokens: one row after another
            colored = torch.cat([self._attention(part.select([i])) for i in range(len(rows))])
        else:
            colored = self._attention(part)
        blend = self._blend_weight(part)
        if blend is not None:
            colored = torch.lerp(earlier(part), colored, blend)
        if len(rows) == len(call.rows):
            return colored
        rest = [i for i in range(len(call.rows)) if i not in rows]
        out = colored.new_empty((len(call.rows), *colored.shape[1:]))
        out[rows] = colored
        out[rest] = earlier(call.select(rest))
        return out

    def _attention(self, call: AttentionCall) -> Tensor:
        level = self.banks["reference"].nearest(call.sigma)
        gamma, beta = self.settings.weights(self.layers[call.layer])
        fixed = self._fixed.get((level, call.layer))
        if fixed is not None:
            # a copy: what an edit returns may be worked on in place
            return pick_rows(fixed, call.pictures).to(call.q, copy=True)

        def kept(role: str, letter: str) -> Tensor:
            bank = self.banks[role]
            return pick_rows(bank.get(bank.nearest(level), call.layer, letter), call.pictures).to(call.q)

        def keys(role: str, letter: str) -> Tensor:
            return self._restrict(kept(role, letter), call)

        mix = MIXES[self.settings.mix]
        q_input = kept("input", "q") if gamma > 0 or beta > 0 else None
        k_gray = keys("gray", "k") if gamma > 0 else None
        k_ref = keys("reference", "k") if gamma < 1 else None
        out = mix(q_input, k_gray, call.q, k_ref, keys("reference", "v"), gamma, call.heads, call.attend)
        if beta > 0:
            own = call.attend(q_input, kept("input", "k"), call.v, call.heads)
            out = torch.lerp(out, own, beta)
        return out

    def _compute_fixed(self, heads: Mapping[Layer, int], attend: Attend, device: torch.device | None) -> None:
        """With γ = 1 and β = 0 nothing of the running picture enters: such a layer's output is known beforehand."""
        for layer, shallow in self.layers.items():
            if self.settings.weights(shallow) != (1.0, 0.0):
                continue
            for sigma in self.sigmas:
                q = self.banks["input"].get(self.banks["input"].nearest(sigma), layer, "q")
                pictures = tuple(range(self.pictures))
                nothing = q.new_empty((len(pictures), 0, q.shape[-1]), device=device)
                call = AttentionCall(
                    layer,
                    sigma,
                    nothing,
                    nothing,
                    nothing,
                    heads[layer],
                    (CONDITIONAL,) * len(pictures),
                    pictures,
                    pictures,
                    self.banks["input"].grid(layer),
                    attend,
                )
                parts = [call.select([i]) for i in range(len(pictures))] if self._uneven_keys(call) else [call]
                self._fixed[sigma, layer] = torch.cat([self._attention(part) for part in parts]).to(q)

    def _blend_weight(self, call: AttentionCall) -> Tensor | None:
        """How much of the edit each token gets: None for all of it, else broadcastable to (rows, N, 1)."""
        strength = self.settings.strength
        if self._source_mask is None:
            return None if strength == 1 else call.q.new_tensor(strength)
        mask = to_grid(self._source_mask, call.grid).to(call.q)
        return strength * pick_rows(mask.unsqueeze(-1), call.pictures)

    def _select_keys(self, mask: Tensor | None) -> dict[Layer, list[Tensor]] | None:
        """For each layer and reference, the tokens that may be looked at."""
        if mask is None:
            return None
        check_reference_mask(mask)
        return {layer: tokens_in_mask(mask, self.banks["reference"].grid(layer)) for layer in self.layers}

    def _restrict(self, tensor: Tensor, call: AttentionCall) -> Tensor:
        """Drop the reference tokens outside the mask."""
        if self._key_tokens is None:
            return tensor
        index = torch.stack(self._tokens_of(call)).to(tensor.device)
        return torch.gather(tensor, 1, index.unsqueeze(-1).expand(-1, -1, tensor.shape[-1]))

    def _tokens_of(self, call: AttentionCall) -> list[Tensor]:
        """For each row, the reference tokens that its mask leaves."""
        chosen = self._key_tokens[call.layer]
        return [chosen[picture % len(chosen)] for picture in call.pictures]

    def _uneven_keys(self, call: AttentionCall) -> bool:
        return self._key_tokens is not None and len({len(tokens) for tokens in self._tokens_of(call)}) > 1

    def _check(self) -> None:
        """Say what is wrong with the banks before any sampling starts."""
        needs = {layer: self.settings.needs(shallow) for layer, shallow in self.layers.items()}
        needed = {role: bank for role, bank in self.banks.items() if any(need[role] for need in needs.values())}
        empty = [role for role, bank in needed.items() if not bank.pictures]
        if empty:
            raise ValueError(
                f"The inversion of the {', '.join(empty)} kept no attention features; put an Attention Capture node "
                "on the MODEL that DDIM Inversion uses."
            )
        counts = {role: bank.pictures for role, bank in needed.items()}
        references = counts["reference"]
        if counts.get("gray", references) != references or (
            "input" in counts and references not in (1, counts["input"])
        ):
            raise ValueError(
                f"Batches do not match: {counts.get('input', 'any')} input(s), {references} reference(s), "
                f"{counts.get('gray', references)} gray reference(s). Use one reference for all inputs, or one for "
                f"each."
            )
        levels = self.banks["reference"].sigmas
        for role, bank in needed.items():
            if len(bank.sigmas) != len(levels) or any(
                abs(a - b) > 1e-4 * b for a, b in zip(bank.sigmas, levels, strict=True)
            ):
                raise ValueError(
                    f"The inversions do not visit the same levels: the {role} has {_levels(bank.sigmas)}, the "
                    f"reference {_levels(levels)}. Use the same steps, depth and convention for all three."
                )
        for layer, need in needs.items():
            for role, letters in need.items():
                for letter in letters:
                    for sigma in self.banks[role].sigmas:
                        self.banks[role].get(sigma, layer, letter)
            if need["gray"] and self.banks["reference"].grid(layer) != self.banks["gray"].grid(layer):
                raise ValueError(
                    f"The reference has {self.banks['reference'].grid(layer)} tokens at {layer.name} and its gray "
                    f"version {self.banks['gray'].grid(layer)}: invert both at the same size."
                )

    def _check_masks(self, masks: Mapping[str, Tensor | None]) -> None:
        for role, mask in masks.items():
            count = self.banks[role].pictures
            if mask is not None and count and len(mask) not in (1, count):
                raise ValueError(
                    f"There are {len(mask)} {role} masks for {count} {role} picture(s); use one for all, or one for "
                    f"each."
                )


def check_reference_mask(mask: Tensor) -> None:
    """:raises ValueError: a mask, (B, H, W), that leaves nothing to look at."""
    if not bool((mask > 0.5).any(dim=(1, 2)).all()):
        raise ValueError("The reference mask is empty (nothing above one half); paint where color may come from.")


def tokens_in_mask(mask: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """For each mask of (B, H, W), the tokens of which it covers at least one half."""
    # a region smaller than a token still has one: the token that it covers best
    return [torch.nonzero(row >= min(0.5, float(row.max()))).squeeze(1) for row in to_grid(mask, grid)]


def to_grid(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of each token that a mask covers: (B, H, W) -> (B, h·w)."""
    return F.adaptive_avg_pool2d(mask.float().unsqueeze(1), grid).flatten(1)


def _levels(sigmas: tuple[float, ...]) -> str:
    return f"{len(sigmas)} from {sigmas[0]:.3f} to {sigmas[-1]:.3f}" if sigmas else "none"
