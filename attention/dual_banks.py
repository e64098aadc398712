"""The three banks that color injection reads, and whether they fit each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from ..diffusion.levels import same_levels
from .bank import FeatureBank
from .layers import Layer

#: Whose features: the gray input's, the color reference's, the same reference's without color.
Role = Literal["input", "reference", "gray"]

ROLES: tuple[Role, ...] = get_args(Role)

#: What is said of an inversion, such as ``reference_inversion``, that kept nothing.
NO_FEATURES = (
    "{}: found no attention features, expected some to have been kept; put an Attention Capture node on the "
    "MODEL that DDIM Inversion uses."
)


class NothingKeptError(ValueError):
    """An inversion kept none of the features that are asked of it."""


#: layer -> role -> projections, some of the letters ``qkv``.
Needs = Mapping[Layer, Mapping[Role, str]]


@dataclass(frozen=True)
class DualBanks:
    """Kept features of the three inversions.

    :param source: of the gray input(s).
    :param reference: of the color reference(s): one for all inputs, or one an input.
    :param gray: of the same reference(s) without color.
    :param bias: layer -> (M,) float32, what the logits of the one reference's tokens get beside their match, see
        ``union``; None for nothing.
    """

    source: FeatureBank
    reference: FeatureBank
    gray: FeatureBank
    bias: Mapping[Layer, Tensor] | None = None

    def of(self, role: Role) -> FeatureBank:
        """The bank of a role."""
        return self.source if role == "input" else self.reference if role == "reference" else self.gray

    @property
    def pictures(self) -> int:
        """How many pictures the banks describe."""
        return max(bank.pictures for bank in (self.source, self.reference, self.gray))

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Levels with features, highest first."""
        return self.reference.sigmas

    def only(self, needs: Needs) -> DualBanks:
        """The banks reduced to what is needed; they share memory with these."""
        source, reference, gray = (
            self.of(role).only({layer: need[role] for layer, need in needs.items()}) for role in ROLES
        )
        return DualBanks(source, reference, gray, self.bias)

    def at(self, level: float) -> Iterator[tuple[Role, Layer, str, Tensor]]:
        """(role, layer, projection, tensor) of everything kept at a level; banks may count it with other rounding."""
        for role in ROLES:
            bank = self.of(role)
            sigma = bank.nearest(level) if bank.levels else None
            for at, layer, letter, tensor in bank.items():
                if at == sigma:
                    yield role, layer, letter, tensor

    def check(self, needs: Needs) -> None:
        """Whether the banks hold what is needed and fit each other, before any sampling starts.

        :raises NothingKeptError: a bank is empty.
        :raises ValueError: numbers of pictures, levels or sizes differ.
        :raises LookupError: a bank without a projection that is needed.
        """
        needed: dict[Role, FeatureBank] = {
            role: self.of(role) for role in ROLES if any(need[role] for need in needs.values())
        }
        empty = [role for role, bank in needed.items() if not bank.pictures]
        if empty:
            raise NothingKeptError(NO_FEATURES.format(", ".join(f"{role}_inversion" for role in empty)))
        counts: dict[Role, int] = {role: bank.pictures for role, bank in needed.items()}
        _check_counts(counts)
        for role, bank in needed.items():
            if not same_levels(bank.sigmas, self.sigmas):
                raise ValueError(
                    f"{role}_inversion: found features at {_levels(bank.sigmas)}, expected the same levels as "
                    f"reference_inversion, {_levels(self.sigmas)}; use the same steps, depth and convention for all."
                )
        for layer, need in needs.items():
            self._check_layer(layer, need)

    def _check_layer(self, layer: Layer, need: Mapping[Role, str]) -> None:
        for role, letters in need.items():
            bank = self.of(role)
            for letter in letters:
                for sigma in bank.sigmas:
                    try:
                        bank.get(sigma, layer, letter)
                    except LookupError as error:
                        raise LookupError(
                            f"{role}_inversion: found one that can't serve, expected '{letter}' of {layer.name} at "
                            f"every level: {error} Is another inversion meant for this socket, or does its Attention "
                            "Capture keep too little?"
                        ) from None
        if need["gray"] and self.reference.grid(layer) != self.gray.grid(layer):
            raise ValueError(
                f"gray_inversion: found {self.gray.grid(layer)} tokens at {layer.name}, expected "
                f"{self.reference.grid(layer)} as reference_inversion has; invert both at the same size."
            )


def _check_counts(counts: Mapping[Role, int]) -> None:
    references = counts["reference"]
    gray, inputs = counts.get("gray", references), counts.get("input")
    if gray != references or (inputs is not None and references not in (1, inputs)):
        raise ValueError(
            f"reference_inversion: found {references} reference(s), {gray} gray one(s) and "
            f"{'any number of' if inputs is None else inputs} input(s), expected one reference for all inputs, or one "
            "for each, and as many gray ones; invert as many."
        )


def _levels(sigmas: tuple[float, ...]) -> str:
    return f"{len(sigmas)} from {sigmas[0]:.3f} to {sigmas[-1]:.3f}" if sigmas else "none"
