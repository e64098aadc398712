"""What a user can choose of dual attention, the paper's parameters by the paper's names (``dual``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..settings import Settings, setting, share
from .dual_banks import Role

Mix = Literal["before softmax", "after softmax"]


@dataclass(frozen=True)
class DualAttentionSettings(Settings):
    """The paper's parameters, where the edit acts, and when and how strongly."""

    gamma_shallow: float = share(
        0.5,
        "Fine layers. 0 trusts the match between the picture as it is being colored and the reference, 1 the match of "
        "gray input to gray reference.",
        advanced=True,
        auto=True,
    )
    gamma_deep: float = share(
        1.0,
        "Coarse layers. 0 trusts the match between the picture as it is being colored and the reference, 1 the match "
        "of gray input to gray reference. At 1 (with beta_deep 0) the running picture does not enter at all, and these "
        "layers are computed once, before sampling.",
        advanced=True,
        auto=True,
    )
    beta_shallow: float = share(
        0.5,
        "Fine layers. 0 takes everything from the reference, 1 keeps the input's own attention and takes no color.",
        advanced=True,
        auto=True,
    )
    beta_deep: float = share(
        0.0,
        "Coarse layers. 0 takes everything from the reference, 1 keeps the input's own attention and takes no color.",
        advanced=True,
        auto=True,
    )
    mix: Mix = setting(
        "before softmax",
        "Where the two matches are mixed. before softmax mixes the scores and favors places on which both agree (the "
        "paper's default); after softmax averages the two finished weightings.",
        advanced=True,
    )
    layers: str = setting(
        "color",
        "Where the reference is looked at: a preset (color, fine, coarse, decoder, encoder, middle, all) or ranges "
        "such as output.6-11. More and coarser layers move color in larger patches.",
        advanced=True,
    )
    strength: float = share(1.0, "0 is the plain model, 1 the full injection.")
    start: float = share(
        0.0,
        "Share of the kept steps after which the injection begins: 0 is at once, high values leave the first steps to "
        "the model.",
        advanced=True,
        widget="start_percent",
    )
    end: float = share(
        1.0,
        "Share of the kept steps after which the injection stops: 1 is never, low values leave the last steps to the "
        "model.",
        advanced=True,
        widget="end_percent",
    )

    reference_positions: Literal["shared", "shifted"] = setting(
        "shared",
        "For transformers whose attention knows positions: where the reference stands. shared puts it onto the input, "
        "so that equal places attract each other; shifted beside it, so that only looks count. Other models do not "
        "feel it.",
        advanced=True,
        later=True,
    )

    @property
    def acts(self) -> bool:
        """Whether anything is changed at all."""
        return self.strength > 0 and self.start < self.end

    def weights(self, shallow: bool) -> tuple[float, float]:
        """(γ, β) of a layer."""
        return (self.gamma_shallow, self.beta_shallow) if shallow else (self.gamma_deep, self.beta_deep)

    def needs(self, shallow: bool) -> dict[Role, str]:
        """Projections that a layer must have kept, by role."""
        gamma, beta = self.weights(shallow)
        return {
            "input": ("q" if gamma > 0 or beta > 0 else "") + ("k" if beta > 0 else ""),
            "reference": ("k" if gamma < 1 else "") + "v",
            "gray": "k" if gamma > 0 else "",
        }
