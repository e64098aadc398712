"""The three inversions of exemplar colorization: input, reference, and the reference without color."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..attention.bank import FeatureBank, joined_banks
from ..attention.capture import Capture, CaptureSpec, CaptureTarget
from ..attention.dual_banks import Role
from ..attention.layers import Layer, LayerInfo, is_shallow, select_layers
from ..color import desaturate, resize
from ..color.sizes import size_of, working_size
from ..diffusion.inversion import Inversion, check_same_model
from ..diffusion.schedule import InversionPlan
from .exemplar_settings import ColorizeSettings, WorkingSizeSettings
from .host import Host

NO_REFERENCE = (
    "reference: found nothing, expected a reference; connect a color picture, the INVERSION pair of an earlier run, or "
    "as fallback an automatic coloring of the input."
)


@dataclass(frozen=True)
class ReferencePair:
    """References and their gray versions, inverted: all that coloring needs of them. Reusable.

    :param others: of other sizes, in order, where several references serve every input.
    """

    color: Inversion
    gray: Inversion
    others: tuple[ReferencePair, ...] = ()

    @property
    def parts(self) -> tuple[ReferencePair, ...]:
        """Pairs of one size each."""
        return (replace(self, others=()), *self.others)

    @property
    def pictures(self) -> int:
        """How many references there are."""
        return self.color.pictures + sum(other.pictures for other in self.others)

    def take(self, pictures: range) -> ReferencePair:
        """The pair of some of the references, of one size."""
        return ReferencePair(self.color.take(pictures), self.gray.take(pictures))

    def at_rest(self) -> ReferencePair:
        """The pair with its features off the device, see :func:`at_rest`."""
        others = tuple(other.at_rest() for other in self.others)
        return ReferencePair(at_rest(self.color), at_rest(self.gray), others)


def joined_pairs(pairs: Sequence[ReferencePair]) -> ReferencePair:
    """Pairs of any sizes as one; neighbors of one size are one batch."""
    joined: list[ReferencePair] = []
    for pair in (part for one in pairs for part in one.parts):
        if joined and joined[-1].color.size == pair.color.size:
            joined[-1] = ReferencePair(_together(joined[-1].color, pair.color), _together(joined[-1].gray, pair.gray))
        else:
            joined.append(pair)
    return replace(joined[0], others=tuple(joined[1:]))


def _together(one: Inversion, other: Inversion) -> Inversion:
    trajectory = torch.cat([one.trajectory, other.trajectory], dim=1)
    return replace(one, trajectory=trajectory, bank=joined_banks([one.bank, other.bank]))


def at_rest(inversion: Inversion) -> Inversion:
    """The same with its features where its latents are, see :func:`features_at_rest`."""
    bank = features_at_rest(inversion.bank, inversion.trajectory.device)
    return inversion if bank is inversion.bank else replace(inversion, bank=bank)


def features_at_rest(bank: FeatureBank, device: torch.device) -> FeatureBank:
    """The same features on a device that keeps what outlives a run; those in main memory stay there."""
    if bank.device != torch.device("cpu"):
        bank = bank.moved(device)
    return bank.compact()  # some of many pictures would keep all of them


def size_to_work_at(host: Host, pictures: Tensor, settings: ColorizeSettings | WorkingSizeSettings) -> tuple[int, int]:
    """(height, width) in pixels at which pictures, (B, H, W, 3), are inverted and sampled."""
    return working_size(*size_of(pictures), settings.resolution, host.size_multiple, host.factor)


def one_working_size(host: Host, image: Tensor, reference: Tensor, settings: ColorizeSettings) -> bool:
    """Whether input and reference are worked on at the same size, so that their inversions share model calls."""
    return size_to_work_at(host, image, settings) == size_to_work_at(host, reference, settings)


def color_layers(infos: tuple[LayerInfo, ...], expression: str) -> dict[Layer, bool]:
    """Selected layers, and whether each is shallow."""
    return {info.layer: is_shallow(info, infos) for info in select_layers(expression, infos)}


def capture_spec(role: Role, layers: Mapping[Layer, bool], settings: ColorizeSettings) -> CaptureSpec:
    """What an inversion must keep for its role."""
    keep = {layer: settings.attention.needs(shallow)[role] for layer, shallow in layers.items()}
    storage = settings.storage
    return CaptureSpec({at: letters for at, letters in keep.items() if letters}, storage.dtype, storage.device)


@dataclass(frozen=True)
class Inverter:
    """Inverts the pictures of one run, as many in one batch as have one size."""

    host: Host
    plan: InversionPlan
    layers: Mapping[Layer, bool]
    settings: ColorizeSettings

    def check_prepared(self, prepared: ReferencePair) -> None:
        """Whether a pair that was inverted before serves this run.

        :raises ValueError: another model, plan, or features that are missing.
        """
        for other in prepared.others:
            self.check_prepared(other)
        for name, inversion in (("reference_inversion", prepared.color), ("gray_inversion", prepared.gray)):
            check_same_model(inversion, self.host.fingerprint)
            if inversion.plan != self.plan:
                raise ValueError(
                    f"{name}: found one {inversion.plan.depth} of {inversion.plan.steps} steps deep "
                    f"({inversion.plan.convention}), expected {self.plan.depth} of {self.plan.steps} "
                    f"({self.plan.convention}), as this run asks for; use the same settings, or invert the reference "
                    "again."
                )
        self._check_kept("reference", prepared.color)
        self._check_kept("gray", prepared.gray)

    def _check_kept(self, role: Role, inversion: Inversion) -> None:
        for layer, letters in capture_spec(role, self.layers, self.settings).keep.items():
            if not all(inversion.bank.has(s, layer, letter) for s in self.plan.kept_sigmas for letter in letters):
                raise ValueError(
                    f"{role}_inversion: found no '{letters}' of {layer.name}, expected it to have been kept, since "
                    "these settings need it: it was made with other layers, gamma or beta. Use the same settings, or "
                    "invert the reference again."
                )

    def invert(
        self, small: Tensor, reference: Tensor | None, prepared: ReferencePair | None = None
    ) -> tuple[Inversion, ReferencePair]:
        """Invert inputs, references and gray references.

        :param small: (B, h, w, 3), the gray input(s) at working size.
        :param reference: (1 or B, H, W, 3) in color.
        :param prepared: references that are inverted already; then only the inputs are.
        :raises ValueError: neither a reference nor a prepared one.
        """
        if prepared is not None:
            return self._invert([("input", self.host.encode(small))])["input"], prepared
        if reference is None:
            raise ValueError(NO_REFERENCE)
        pictures: list[tuple[Role, Tensor]] = [("input", small), *self._pictures_of(reference)]
        latents: list[tuple[Role, Tensor]] = [(role, self.host.encode(batch)) for role, batch in pictures]
        together = len({latent.shape[1:] for _, latent in latents}) == 1
        made: dict[Role, Inversion] = {}
        for group in [latents] if together else [latents[:1], latents[1:]]:
            made |= self._invert(group)
        return made["input"], ReferencePair(made["reference"], made["gray"])

    def invert_references(self, reference: Tensor) -> ReferencePair:
        """Invert references, (n, H, W, 3) in color, and the same without color, in one batch."""
        made = self._invert([(role, self.host.encode(batch)) for role, batch in self._pictures_of(reference)])
        return ReferencePair(made["reference"], made["gray"])

    def _pictures_of(self, reference: Tensor) -> list[tuple[Role, Tensor]]:
        """References as they are inverted, in color and without."""
        size = size_to_work_at(self.host, reference, self.settings)
        # The published program makes its gray copy before resizing, with PIL's 8-bit luma.
        method = "rec601_8bit" if self.settings.postprocess == "official" else "lab"
        return [("reference", resize(reference, size)), ("gray", resize(desaturate(reference, method), size))]

    def _invert(self, group: Sequence[tuple[Role, Tensor]]) -> dict[Role, Inversion]:
        """Invert latents, (n, C, h, w) a role, in one batch."""
        targets: list[CaptureTarget] = []
        spans: list[range] = []
        first = 0
        for role, latents in group:
            spans.append(range(first, first + len(latents)))
            targets.append(CaptureTarget(capture_spec(role, self.layers, self.settings), pictures=spans[-1]))
            first += len(latents)
        capture = Capture(targets, self.plan.kept_sigmas)
        batch = torch.cat([latents for _, latents in group])
        trajectory = self.host.invert(batch, self.plan, capture, self.settings.refinements)
        capture.check(len(batch))
        return {
            role: Inversion(
                self.plan,
                trajectory[:, span.start : span.stop].clone(),  # a view would keep those of the others
                target.bank,
                self.host.fingerprint,
                self.host.layers,
            )
            for (role, _), span, target in zip(group, spans, targets, strict=True)
        }
