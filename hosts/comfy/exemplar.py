"""The stages of exemplar colorization on a MODEL: what to keep, inversion, and injection with its check."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import comfy.k_diffusion.sampling
import torch
from torch import Tensor

from ...attention.bank import FeatureBank, joined_banks
from ...attention.call import CONDITIONAL
from ...attention.capture import Capture, CaptureSettings, CaptureSpec, CaptureTarget
from ...attention.dual import DualAttentionColor
from ...attention.dual_banks import DualBanks
from ...attention.dual_settings import DualAttentionSettings
from ...attention.layers import select_layers
from ...attention.union import Union
from ...color.batches import in_batches
from ...diffusion.flow import invert_controlled, invert_heun
from ...diffusion.inversion import (
    Inversion,
    InversionSettings,
    latent_chroma,
    role_warnings,
    round_trip_error,
    start_warnings,
)
from ...diffusion.sampler_checks import latent_level
from ...diffusion.sampling import sample_ddim
from ...diffusion.schedule import closer_levels, inversion_plan
from ...pipelines.exemplar_inversion import ReferencePair, color_layers, features_at_rest
from ...pipelines.exemplar_references import References
from . import edits
from .attention import fused_attention
from .families.found import is_transformer, network_of
from .fits import foreign_levels
from .host import ComfyHost, as_latent, from_latent
from .memory import out_of_memory
from .model import attention_layers, sigma_table
from .prompt_rows import why_together
from .room import held_by
from .runs import say
from .sampling_checks import sampling_warnings

log = logging.getLogger(__name__)

_CAPTURE = "exemplar.capture"

#: Display name of the node, for messages.
NAME = "Dual-Attention Color Injection"


def with_capture(model: Any, settings: CaptureSettings) -> Any:
    """A clone of a MODEL that says what an inversion with it keeps.

    :raises ValueError: an expression that names no layers.
    """
    layers = select_layers(settings.layers, attention_layers(model))
    storage = settings.storage
    spec = CaptureSpec({info.layer: settings.letters for info in layers}, storage.dtype, storage.device)
    clone = model.clone()
    clone.set_attachments(_CAPTURE, spec)
    return clone


class Progress(Protocol):
    """What is told of model calls."""

    def __call__(self, denoised: Tensor) -> None:
        """After each one, with the clean estimate (n, C, h, w)."""
        ...

    def expect(self, calls: int) -> None:
        """How many are still to come, whenever that changes."""
        ...


@dataclass(frozen=True)
class Inverted:
    """What an inversion gives.

    :param inversion: trajectory and kept features.
    :param noised: (B, C, h, w), the start of the way back, as a LATENT has it.
    :param sigmas: (T+1,) of the way back.
    :param error: of the round trip, relative to the picture's spread; -1 where it was not measured.
    """

    inversion: Inversion
    noised: Tensor
    sigmas: Tensor
    error: float


def invert(
    model: Any,
    conditioning: list,
    samples: Tensor,
    settings: InversionSettings,
    progress: Callable[[int], Progress],
) -> Inverted:
    """DDIM inversion of pictures, keeping what the MODEL was asked to keep.

    Features end where ComfyUI keeps what nodes give, or where the user wants them.

    All pictures at once; where memory does not suffice half of them, each with its own prompt if they have such.

    :param samples: (B, C, h, w) of a LATENT.
    :param progress: number of model calls -> what is told of each.
    :raises ValueError: steps or depth out of range.
    :raises torch.OutOfMemoryError: memory runs out on pictures that can't be told apart.
    :raises RuntimeError: it runs out on a single picture.
    """
    flow = is_transformer(model)
    plan = inversion_plan(sigma_table(model), settings.steps, settings.depth, settings.convention, flow=flow)
    start = from_latent(model, samples)
    way = way_up(settings, flow)
    each = 2 if settings.method == "heun" else 1 + settings.refinements
    steps_back = 2 * settings.depth - 1 if settings.method == "heun" else settings.depth
    calls = len(plan.reads) * each + (steps_back if settings.measure_round_trip else 0)
    bar = progress(calls)
    host = ComfyHost(model, conditioning, on_step=bar, name="Attention Capture")
    spec = model.get_attachment(_CAPTURE)

    def climb(part: slice) -> tuple[Tensor, FeatureBank, Tensor]:
        target = CaptureTarget(spec) if spec is not None else None
        capture = Capture([target], plan.kept_sigmas) if target is not None else None
        some = host if part == slice(0, len(start)) else host.only(part, len(start))
        trajectory = some.invert(start[part], plan, capture, settings.refinements, way)
        bank = FeatureBank()
        if capture is not None and target is not None:
            capture.check(len(start[part]))
            bank, capture, target = features_at_rest(target.bank, trajectory.device), None, None
        returned = start[part]
        if settings.measure_round_trip:
            # by steps of the same order
            back = comfy.k_diffusion.sampling.sample_heun if settings.method == "heun" else sample_ddim
            returned = plan.to_clean(some.sample(plan.to_sampling(trajectory[-1]), plan, None, (), 1.0, back))
        return trajectory, bank, returned

    def splits(error: Exception) -> bool:
        if not host.out_of_memory(error):
            return False
        why = why_together(conditioning, len(start))
        if why is not None:
            raise torch.OutOfMemoryError(
                f"DDIM Inversion: memory ran out on {len(start)} pictures at once, which can't be inverted one by one: "
                f"{why}. Connect fewer pictures, or smaller ones."
            ) from error
        return True

    def fewer(first: int, at_once: int) -> None:
        bar.expect(calls * -(-(len(start) - first) // at_once))

    parts = [made for _, made in in_batches(len(start), len(start), climb, splits, fewer)]
    trajectories, banks, returned = zip(*parts, strict=True)
    trajectory, bank = torch.cat(trajectories, dim=1), joined_banks(banks)
    inversion = Inversion(plan, trajectory, bank, host.fingerprint, host.layers, _chroma(model, start))
    error = round_trip_error(start, torch.cat(returned)) if settings.measure_round_trip else -1.0
    sigmas = torch.tensor(closer_levels(plan.sigmas, settings.closer_sigmas))
    return Inverted(inversion, as_latent(model, inversion.given()), sigmas, error)


def way_up(settings: InversionSettings, flow: bool) -> Callable[..., Tensor] | None:
    """The way up that was chosen; None for DDIM's.

    :param flow: the model is one of flow matching.
    :raises ValueError: a way that the model does not have.
    """
    if settings.method == "euler":
        return None
    if settings.method == "heun":
        return invert_heun
    if not flow:
        raise ValueError("method: found controlled, expected euler or heun for a UNet; choose one of them.")

    def controlled(model: Any, x: Tensor, *rest: Any, **more: Any) -> Tensor:
        # the same noise whenever a picture is inverted: alone, in a batch, or in half of one where memory ran out
        noise = torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0)).to(x)
        return invert_controlled(model, x, *rest, control=settings.control, noise=noise, **more)

    return controlled


def _chroma(model: Any, latents: Tensor) -> float | None:
    """How much color latents, (B, C, h, w) in the model's scale, have; None where the family has no map to color."""
    latent_format = model.model.latent_format
    factors = latent_format.latent_rgb_factors
    if factors is None or len(factors) != latents.shape[1]:
        return None
    return latent_chroma(latents, factors, getattr(latent_format, "latent_rgb_factors_bias", None))


@dataclass(frozen=True)
class Several:
    """How all references serve every input.

    :param weights: one each, or () for all alike.
    :param others: references of another size beside the first ones, and the same without color.
    """

    weights: tuple[float, ...] = ()
    others: ReferencePair | None = None

    def united(self, pair: ReferencePair, mask: Tensor | None) -> Union:
        """All references as one.

        :param mask: (1 or as many as all references, H, W), which parts of them count; None for all.
        """
        pair = replace(pair, others=() if self.others is None else (self.others,))
        references = References.of(None, mask, self.weights, inverted=pair.pictures)
        references.check(pair)
        return references.united(pair)


def with_color_injection(
    model: Any,
    source: Inversion,
    reference: Inversion,
    gray: Inversion,
    settings: DualAttentionSettings,
    *,
    source_mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    several: Several | None = None,
) -> Any:
    """A clone of a MODEL under dual attention.

    :param source: inversion of the gray input(s); ``reference`` of the color reference(s), ``gray`` of the same without
        color.
    :param source_mask: (B or 1, H, W), where color may go; ``reference_mask`` where it may come from.
    :param several: how all references serve every input; None where each input has one.
    :raises ValueError: inversions or masks that do not fit each other.
    :raises LookupError: an inversion that kept too little.
    """
    infos = attention_layers(model)
    layers = color_layers(infos, settings.layers)
    banks = DualBanks(source.bank, reference.bank, gray.bank)
    if several is not None:
        union = several.united(ReferencePair(reference, gray), reference_mask)
        banks, reference_mask = DualBanks(source.bank, union.color, union.gray, union.bias), None
    edit = DualAttentionColor(settings, layers, banks, source_mask, reference_mask)
    if not settings.acts:
        return model.clone()
    for text in role_warnings(source, reference, gray):
        say(f"{NAME}: {text}")
    known = network_of(model)
    if known is None or not known.family.joint:  # else the prompt enters every layer
        edit.precompute(
            {info.layer: info.heads for info in infos}, fused_attention({}), model.load_device, out_of_memory
        )
    placed = edits.PlacedEdit(
        NAME,
        edit,
        edits.layer_widths(model, layers),
        acts=edit.active,
        branches=frozenset({CONDITIONAL}),
        whole_pictures=True,
        alike=edit.pictures == 1,
        check=injection_check(edit, source, partial(from_latent, model)),
        release=edit.forget,
        holds=held_by(edit),
    )
    return edits.add_edit(model, placed)


def injection_check(
    edit: DualAttentionColor, source: Inversion, to_model: Callable[[Tensor], Tensor]
) -> Callable[[edits.Sampling], None]:
    """A check of what is about to be sampled against what was inverted.

    :param source: the inputs' inversion.
    :param to_model: latents in a LATENT's scale -> in the model's.
    """
    kept, pictures, size = edit.sigmas, edit.pictures, source.size

    def check(run: edits.Sampling) -> None:
        shape = run.shape
        if tuple(shape[-2:]) != tuple(size):
            raise ValueError(
                f"latent: found one of {shape[-1]} x {shape[-2]}, expected {size[1]} x {size[0]}, as the input was "
                "inverted; sample the latent that DDIM Inversion gave, or invert at this size."
            )
        if shape[0] % pictures:
            raise ValueError(
                f"latent: found {shape[0]} picture(s), expected {pictures}, as were inverted, or a multiple."
            )
        adds_noise = bool(run.noise.any())
        start = to_model(run.latent.float())
        noised = not adds_noise or latent_level(source, start) > 0.5 * source.plan.sigmas[0]
        if noised:
            run.refuse_mask(NAME, "input_mask")
        for text in start_warnings(source, start, adds_noise, float(run.sigmas[0]) if len(run.sigmas) else None):
            run.run.warn(f"{NAME}: {text}")
        visited = [float(s) for s in run.sigmas if s > 0] if len(run.sigmas) > 1 else []
        unknown = [s for s in visited if min(abs(s - k) for k in kept) > 0.02 * s]
        if visited and not any(min(kept) * 0.5 <= s <= max(kept) * 1.5 for s in visited):
            raise ValueError(
                f"sigmas: found {visited[0]:.3f} to {visited[-1]:.3f}, expected some from {max(kept):.3f} to "
                f"{min(kept):.3f}, where attention was kept; use the sigmas output of DDIM Inversion, or invert deeper."
            )
        other = foreign_levels(run.guider.model_patcher, source.plan.levels)
        for text in (*([] if other is None else [other]), *sampling_warnings(run, source, kept, to_model)):
            run.run.warn(f"{NAME}: {text}")
        if unknown:
            log.info(
                "%d of %d sampled sigmas were not visited by the inversion; the nearest kept features are used (kept "
                "%.3f to %.3f).",
                len(unknown),
                len(visited),
                max(kept),
                min(kept),
            )

    return check
