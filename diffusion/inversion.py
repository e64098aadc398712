"""What an inversion hands on: the INVERSION that travels between nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..color.held import Held
from ..color.tensors import FLOATS, check_finite, check_tensor
from ..settings import Settings, setting, share
from .schedule import Convention, InversionPlan

if TYPE_CHECKING:  # a sibling layer, named for the type only
    from ..attention.bank import FeatureBank
    from ..attention.layers import LayerInfo


@dataclass(frozen=True)
class InversionSettings(Settings):
    """How a picture is inverted; depth and steps are the paper's for colorization."""

    depth: int = setting(
        5,
        "T, how many steps to climb. Low stays close to the picture; high gives sampling more freedom to change it.",
        low=1,
        high=999,
        auto=True,
    )
    steps: int = setting(
        50,
        "Length of the whole schedule, of which the lowest depth steps are used. Low makes each step larger and the "
        "inversion coarser; high makes it truer, but the same depth then reaches less noise.",
        low=1,
        high=999,
        auto=True,
    )
    convention: Convention = setting(
        "consistent",
        "consistent comes back down the levels that it went up. official climbs one step further and reads the result "
        "two steps lower, as the published program does (colorization). diffusers is consistent down to the smallest "
        "training sigma instead of 0: translation's published program.",
        published="official",
        advanced=True,
    )
    refinements: int = setting(
        0,
        "Fixed-point iterations a step. 0 is plain DDIM inversion; each one costs a model call a step and brings the "
        "round trip closer to exact. Not with the official convention.",
        low=0,
        high=10,
        advanced=True,
    )
    measure_round_trip: bool = setting(
        True,
        "Samples back once, to measure how well the picture returns; costs depth model calls. When off, the error is "
        "reported as -1.",
        advanced=True,
    )
    closer_sigmas: float = setting(
        0.0,
        "Puts more levels into sigmas, the output, so that each is at least this share of the one before it; the "
        "inversion stays as it is. 0 adds none, which is right for euler; 0.75 gives samplers of higher order an even "
        "way down, high values cost more steps of sampling.",
        low=0.0,
        high=0.95,
        step=0.05,
        round=0.01,
        advanced=True,
        later=True,
    )

    method: Literal["euler", "heun", "controlled"] = setting(
        "euler",
        "How a step climbs. euler is plain inversion, which refinements bring closer to exact; heun is of second "
        "order, for the sampler heun, at two model calls a step. controlled is for models of flow matching: it is "
        "drawn toward ordinary noise, so that the model draws more freely from there.",
        advanced=True,
        later=True,
    )
    control: float = share(
        0.5,
        "With method controlled, how far it is drawn. 0 is the model's own way, which keeps the picture; 1 ends in "
        "noise that knows nothing of it.",
        advanced=True,
        later=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method != "euler" and (self.refinements or self.convention != "consistent"):
            raise ValueError(
                f"method is {self.method}, expected euler with refinements or another convention than consistent; set "
                "refinements to 0 and convention to consistent, or method to euler."
            )
        if self.refinements and self.convention == "official":
            raise ValueError("Refinements need the consistent convention; the official one reads other levels.")


@dataclass(frozen=True)
class Inversion(Held):
    """A batch of pictures, inverted.

    :param plan: levels, and the way back.
    :param trajectory: (K+1, B, C, h, w), the latents at ``plan.levels``, in the model's own latent scale.
    :param bank: attention features kept on the way (empty when nothing was captured).
    :param model: fingerprint of the model that made it.
    :param layers: that model's attention layers.
    :param chroma: how much color the pictures have, by the model's linear map from latents to colors; None where there
        is no such map.
    """

    plan: InversionPlan
    trajectory: Tensor
    bank: FeatureBank
    model: str
    layers: tuple[LayerInfo, ...] = ()
    chroma: float | None = None

    @property
    def pictures(self) -> int:
        """How many pictures were inverted."""
        return self.trajectory.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the latents."""
        return self.trajectory.shape[-2], self.trajectory.shape[-1]

    def check(self, name: str) -> None:
        """Whether what travels as an inversion is one: whole, and finite.

        :param name: what the user calls it; messages start with it.
        :raises ValueError: it is not.
        """
        if not isinstance(self.plan, InversionPlan) or not self.plan.is_ordered:
            raise ValueError(f"{name}: found an inversion without levels that rise, expected one of DDIM Inversion.")
        steps = len(self.plan.levels)
        expected = f"latents at {steps} levels, ({steps}, B, C, h, w)"
        check_tensor(self.trajectory, f"{name}: its way", expected)
        shape = tuple(self.trajectory.shape)
        if len(shape) != 5 or 0 in shape or shape[0] != steps or self.trajectory.dtype not in FLOATS:
            raise ValueError(
                f"{name}: its way: found {self.trajectory.dtype} of shape {shape}, expected {expected}; invert the "
                "picture again."
            )
        check_finite(self.trajectory, f"{name}: its way", expected)
        if not hasattr(self.bank, "check"):
            found = type(self.bank).__name__
            raise ValueError(f"{name}: its features: found {found}, expected those of DDIM Inversion, or none.")
        self.bank.check(name, self.pictures, self.plan.kept_sigmas, {info.layer: info.channels for info in self.layers})

    def take(self, pictures: range) -> Inversion:
        """The inversion of some of the pictures."""
        return replace(self, trajectory=self.trajectory[:, list(pictures)], bank=self.bank.take(pictures))

    def noised(self) -> Tensor:
        """(B, C, h, w): the start of the way back, at ``plan.sigmas[0]``."""
        return self.plan.to_sampling(self.trajectory[-1])

    def given(self) -> Tensor:
        """(B, C, h, w): the same as a sampler is given it that adds no noise."""
        return self.plan.as_given(self.noised())


def start_warnings(
    inversion: Inversion, latents: Tensor, adds_noise: bool, first_sigma: float | None = None
) -> list[str]:
    """What is wrong with where a sampling of an inverted picture starts.

    :param latents: (a multiple of B, C, h, w), in the model's latent scale, before noise is added.
    :param adds_noise: whether noise is added.
    :param first_sigma: where the sampling begins; one that goes on where another stopped begins lower.
    """
    noised, clean = inversion.given(), inversion.trajectory[0]
    way = _distance(noised, clean)

    def near(other: Tensor) -> bool:
        rows = other[[i % len(other) for i in range(len(latents))]].to(latents)
        return _distance(latents, rows) < 0.25 * way

    if near(clean):
        return [
            "the latent to sample is the clean picture, so its structure and colors will be off; sample the noised "
            "latent that DDIM Inversion gave, without added noise."
        ]
    if adds_noise and near(noised):
        return [
            "the latent to sample is noised already, and the sampler adds noise once more; turn that off (add_noise "
            "disable, or Disable Noise)."
        ]
    top = inversion.plan.sigmas[0]
    if not adds_noise and first_sigma is not None and abs(first_sigma - top) < 0.02 * top and _strange(latents, noised):
        return [
            "the latent to sample is none of the input's: nothing in it looks like what input_inversion found. Sample "
            "the noised latent of the DDIM Inversion that input_inversion comes from."
        ]
    return []


def _strange(latents: Tensor, noised: Tensor) -> bool:
    """Whether some latents are of another picture than these, or of none.

    However much a pass colored a picture, at least one channel keeps its structure: the correlation there stays above
    0.8, another picture's below 0.4 (embedded model).
    """
    one = latents.float().flatten(2)
    other = noised.to(one)[[i % len(noised) for i in range(len(one))]].flatten(2)
    one, other = one - one.mean(-1, keepdim=True), other - other.mean(-1, keepdim=True)
    scale = (one.norm(dim=-1) * other.norm(dim=-1)).clamp_min(1e-12)
    return bool((((one * other).sum(-1) / scale).amax(1) < 0.6).any())


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).pow(2).mean().sqrt())


def role_warnings(source: Inversion, reference: Inversion, gray: Inversion) -> list[str]:
    """Whether three inversions seem to stand where others belong: the input's, the reference's, its gray version's."""
    warnings = []
    if _same_pictures(reference, gray):
        warnings.append(
            "reference_inversion and gray_inversion are of the same picture; the second one is the reference without "
            "its colors (Desaturate)."
        )
    if _same_pictures(source, reference):
        warnings.append("input_inversion and reference_inversion are of the same picture.")
    if warnings or source.chroma is None or reference.chroma is None or gray.chroma is None:
        return warnings
    if gray.chroma > reference.chroma:
        return ["reference_inversion has less color than gray_inversion; they seem to be exchanged."]
    if _farther(reference, gray, source):
        return [
            "gray_inversion is less like reference_inversion than input_inversion is, but it is the reference without "
            "its colors; it seems to be exchanged with the input's."
        ]
    # even gray pictures have some, by a linear map
    if source.chroma > reference.chroma and reference.chroma - gray.chroma < 0.25 * (source.chroma - gray.chroma):
        return ["input_inversion has more color than reference_inversion; they seem to be exchanged."]
    return []


def _same_pictures(one: Inversion, other: Inversion) -> bool:
    a, b = one.trajectory[0], other.trajectory[0]
    return a.shape == b.shape and bool((a == b.to(a)).all())


def _farther(reference: Inversion, gray: Inversion, source: Inversion) -> bool:
    """Whether a reference's own gray version is clearly less like it than another picture is."""
    own, its_gray, other = (inversion.trajectory[0] for inversion in (reference, gray, source))
    if not own.shape[-3:] == its_gray.shape[-3:] == other.shape[-3:] or len(own) != len(its_gray):
        return False
    if len(own) not in (1, len(other)):
        return False
    return _distance(own, other.to(own)) < 0.9 * _distance(own, its_gray.to(own))


def latent_chroma(latents: Tensor, factors: Sequence[Sequence[float]], bias: Sequence[float] | None) -> float:
    """How much color latents have: the root mean square of the differences between R, G and B.

    :param latents: (B, C, h, w), in the model's latent scale.
    :param factors: (C, 3), a linear map to colors; ``bias`` (3,).
    """
    rgb = torch.einsum("bchw,cn->bnhw", latents.float().cpu(), torch.tensor(factors, dtype=torch.float32))
    if bias is not None:
        rgb = rgb + torch.tensor(bias, dtype=torch.float32).view(1, 3, 1, 1)
    return float((rgb - rgb.mean(1, keepdim=True)).pow(2).mean().sqrt())


def round_trip_error(original: Tensor, returned: Tensor) -> float:
    """Root mean square of the difference, relative to the original's spread; as it is where that has none."""
    returned, original = returned.cpu().double(), original.cpu().double()  # some devices have no float64
    difference, spread = (returned - original).pow(2).mean().sqrt(), original.std()
    return float(difference / spread if spread > 1e-6 else difference)  # an empty latent, or one of one value


def check_same_model(inversion: Inversion, fingerprint: str) -> None:
    """:raises ValueError: an inversion was made by another model."""
    if inversion.model != fingerprint:
        raise ValueError(
            f"found an inversion made with another model ({inversion.model}), expected one of this model "
            f"({fingerprint}); invert the picture again with the model that you sample with."
        )
