"""Exemplar colorization, start to end (Kosugi 2025, arXiv 2505.15812), on any host.

    input, reference, gray reference --encode--> latents --DDIM inversion + attention capture--> trajectories, banks
    noised input --AdaIN to the noised reference--> start
    start --sampling with dual attention and colorization guidance--> colored latent --decode--> chroma
    luminance of the input + chroma -> picture, at the input's own size

With N passes the colored picture is inverted and sampled again, always with the features kept in the first place.
Where attention finds no match in the reference, another coloring of the input can step in at the end (``fallback``).

Everything that can share a model call does: pictures of one size are inverted in one batch, and the colored and the
plain prediction of guidance run together. More pictures than a batch go round after round, see ``exemplar_batches``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..attention.dual import DualAttentionColor
from ..attention.dual_banks import DualBanks
from ..attention.token_masks import check_reference_mask
from ..color import (
    adain,
    as_picture,
    check_count,
    check_masks,
    chroma_of,
    desaturate,
    merge_chroma,
    merge_luminance,
    official_merge,
    resize,
    to_uint8,
)
from ..color.sizes import size_of
from ..color.statistics import Moments, adain_moments, match_chroma_moments
from ..diffusion.inversion import Inversion
from ..diffusion.schedule import inversion_plan
from .confidence import blended_chroma, full_size, match_confidence, mixed_chroma, trust
from .exemplar_inversion import NO_REFERENCE, Inverter, ReferencePair, color_layers, size_to_work_at
from .exemplar_references import References, inverted, simplified
from .exemplar_settings import ColorizeSettings
from .host import Host

#: Called with the pass number and the pictures, (B, H, W, 3), after each pass.
OnPass = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class ColorizeResult:
    """Colored pictures, and what was kept on the way.

    :param images: (B, H, W, 3), at the inputs' own size.
    :param source: the inputs' inversion, with their features.
    :param reference: the references' pair, to color other pictures with.
    :param latent: (B, C, h, w), the last colored latent.
    :param from_reference: (B, h, w) in 0..1, how much of the color is the reference's; None is all of it.
    :param together: all references serve every input.
    """

    images: Tensor
    source: Inversion
    reference: ReferencePair
    latent: Tensor
    from_reference: Tensor | None = None
    together: bool = False

    @property
    def reference_share(self) -> Tensor:
        """(B, H, W) in 0..1: how much of the color is the reference's, at the pictures' size."""
        count, height, width, _ = self.images.shape
        if self.from_reference is None:
            return torch.ones(1, 1, 1).expand(count, height, width)
        return full_size(self.from_reference, (height, width))

    def take(self, index: int) -> ColorizeResult:
        """The result of one picture, as a batch of one."""
        one = range(index, index + 1)
        shared = self.together or self.reference.pictures == 1
        pair = self.reference if shared else self.reference.take(one)
        share = None if self.from_reference is None else self.from_reference[index][None]
        source, latent = self.source.take(one), self.latent[index][None]
        return ColorizeResult(self.images[index][None], source, pair, latent, share, self.together)


def colorize(  # every picture and mask has its name
    host: Host,
    inputs: Tensor,
    reference: Tensor | References | None,
    settings: ColorizeSettings | None = None,
    *,
    prepared: ReferencePair | None = None,
    source_mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    on_pass: OnPass | None = None,
    fallback: Tensor | None = None,
) -> ColorizeResult:
    """Color gray pictures by an example, all of them in one batch.

    :param inputs: (B, H, W, 3) in 0..1; only their luminance is used.
    :param reference: (1 or B, h, w, 3) in 0..1: one for all inputs or one an input; or any number that serve every
        input together, with masks and weights of their own. May be None with ``prepared`` when neither chroma
        statistics nor the official postprocessing are asked for.
    :param prepared: an earlier result's ``reference``; then only the inputs are inverted.
    :param source_mask: (1 or B, H, W), where color may go.
    :param reference_mask: (1 or B, h, w), which parts of the reference give color.
    :param on_pass: called with the pass number and the pictures after each pass.
    :param fallback: (1 or B, *, *, 3) in 0..1, another coloring of the inputs, for where there is no match; see
        ``fallback_below``.
    :raises ValueError: pictures, batches or settings that do not fit, before any model call.
    """
    settings = settings or ColorizeSettings()
    plan = inversion_plan(host.sigma_table, settings.steps, settings.depth, settings.convention)
    layers = color_layers(host.layers, settings.attention.layers)
    inputs = as_picture(inputs, "input")
    gray = desaturate(inputs) if settings.postprocess == "exact" else inputs
    reference, reference_mask = simplified(reference, reference_mask, prepared)
    check_colorize(inputs, reference, prepared, settings, source_mask, reference_mask, fallback)
    inverter = Inverter(host, plan, layers, settings)
    if prepared is not None:
        inverter.check_prepared(prepared)

    one, several = (reference, None) if not isinstance(reference, References) else (None, reference)
    if several is not None and prepared is None:
        prepared = inverted(inverter, several)
    small = resize(gray, size_to_work_at(host, inputs, settings))
    source, pair = inverter.invert(small, one, prepared)
    banks = _banks(source, pair, several)
    edit = DualAttentionColor(settings.attention, layers, banks, source_mask, reference_mask)
    if settings.attention.acts:
        edit.precompute({info.layer: info.heads for info in host.layers}, host.attend, host.device, host.out_of_memory)

    def color(x: Tensor) -> tuple[Tensor, Tensor]:
        try:
            latent = plan.to_clean(host.sample(x, plan, edit, tuple(layers), settings.guidance))
        finally:
            edit.forget()  # the decoder needs the memory
        return latent, host.decode(latent)

    latent, decoded = color(_start(source, pair, several, settings.match_latents))
    statistics = _statistics(reference, settings)
    for n in range(settings.passes - 1):
        colored = _postprocess(decoded, small, statistics, settings, source_mask)
        if on_pass is not None:
            on_pass(n, colored)
        trajectory = host.invert(_encode_again(host, colored, settings), plan, None, settings.refinements)
        latent, decoded = color(plan.to_sampling(trajectory[-1]))
    full = small if settings.postprocess == "official" else gray
    share = None
    if fallback is not None and settings.fallback_below > 0:
        target = replace(pair.gray, bank=banks.gray if banks.gray.pictures else banks.reference)
        sure = match_confidence(
            source, target, reference_mask, bias=banks.bias, device=host.device, out_of_memory=host.out_of_memory
        )
        share = trust(sure, settings.fallback_below)
    images = _postprocess(decoded, full, statistics, settings, source_mask, fallback, share).to(inputs)
    if on_pass is not None:
        on_pass(settings.passes - 1, images)
    return ColorizeResult(images, source, pair, latent, share, several is not None)


def check_colorize(
    inputs: Tensor,
    reference: Tensor | References | None,
    prepared: ReferencePair | None,
    settings: ColorizeSettings,
    source_mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    fallback: Tensor | None = None,
) -> None:
    """Whether pictures, masks and settings fit each other; parameters as for :func:`colorize`.

    :raises ValueError: numbers differ, a mask is empty, or there is no reference.
    """
    if fallback is not None:
        _check_fallback(as_picture(fallback, "fallback"), inputs, settings)
    reference, reference_mask = simplified(reference, reference_mask, prepared)
    check_references_known(reference, prepared, settings)
    check_masks(source_mask, len(inputs), "mask")
    if isinstance(reference, References):
        _check_several(reference, prepared, settings, reference_mask)
        return
    count = 0 if reference is None else len(reference)
    if prepared is not None:
        count = prepared.pictures
        check_count(count, len(inputs), "reference_inversion")
        check_count(prepared.gray.pictures, count, "gray_inversion")
    if reference is not None:
        check_count(len(reference), len(inputs), "reference")
    check_masks(reference_mask, count, "reference_mask")
    if reference_mask is not None:
        check_reference_mask(reference_mask)


def check_references_known(
    reference: Tensor | References | None, prepared: ReferencePair | None, settings: ColorizeSettings
) -> None:
    """Whether there are references, and the pictures themselves where they are needed.

    :raises ValueError: there are not.
    """
    known = isinstance(reference, Tensor) or (reference is not None and len(reference) > 0)
    if not known and prepared is None:
        raise ValueError(NO_REFERENCE)
    if not known and (settings.match_chroma > 0 or settings.postprocess == "official"):
        raise ValueError(
            "reference: found nothing beside its inversions, expected the picture itself, since matching chroma "
            "statistics needs the reference picture; connect it, or set match_chroma to 0."
        )


def _check_several(
    references: References, prepared: ReferencePair | None, settings: ColorizeSettings, mask: Tensor | None
) -> None:
    references.check(prepared)
    if mask is not None:
        raise ValueError("reference_mask: found one beside references that have their own, expected none.")
    for part in () if prepared is None else prepared.parts:
        if part.gray.pictures != part.color.pictures or part.gray.size != part.color.size:
            raise ValueError(
                f"gray_inversion: found {part.gray.pictures} picture(s) of {part.gray.size}, expected "
                f"{part.color.pictures} of {part.color.size}, as reference_inversion has; invert both alike."
            )
    references.check_settings(settings)


def _banks(source: Inversion, pair: ReferencePair, several: References | None) -> DualBanks:
    """What the edit reads: of several references that serve every input, one bank."""
    if several is None:
        return DualBanks(source.bank, pair.color.bank, pair.gray.bank)
    union = several.united(pair)
    return DualBanks(source.bank, union.color, union.gray, union.bias)


def _start(source: Inversion, pair: ReferencePair, several: References | None, strength: float) -> Tensor:
    """The inputs' noised latents with the references' statistics."""
    if several is None:
        return adain(source.noised(), pair.color.noised(), strength=strength)
    return adain_moments(source.noised(), several.latents(pair), strength)


def _statistics(reference: Tensor | References | None, settings: ColorizeSettings) -> Tensor | Moments | None:
    """What chroma is matched to: a picture, or the statistics of several."""
    if not isinstance(reference, References):
        return reference
    return reference.chroma() if settings.match_chroma > 0 else None


def _check_fallback(fallback: Tensor, inputs: Tensor, settings: ColorizeSettings) -> None:
    check_count(len(fallback), len(inputs), "fallback")
    if settings.postprocess == "official" and settings.fallback_below > 0:
        raise ValueError(
            "postprocess is official, which knows one source of color only; expected exact beside a fallback."
        )


def _postprocess(
    decoded: Tensor,
    gray: Tensor,
    reference: Tensor | Moments | None,
    settings: ColorizeSettings,
    mask: Tensor | None,
    fallback: Tensor | None = None,
    share: Tensor | None = None,
) -> Tensor:
    """The decoded picture's chroma, (B, h, w, 3), on the gray one's luminance, (B, H, W, 3) -> (B, H, W, 3)."""
    if isinstance(reference, Moments):
        chroma = match_chroma_moments(chroma_of(decoded), reference, settings.match_chroma)
        if share is not None and fallback is not None:
            chroma = mixed_chroma(chroma, as_picture(fallback, "fallback"), share)
        return merge_chroma(chroma, gray.to(decoded.device), mask=mask)
    if settings.postprocess == "official" and reference is not None:
        gray8, reference8 = (to_uint8(t).cpu() for t in (gray, resize(reference, size_of(gray))))
        return official_merge(decoded.movedim(-1, 1) * 2 - 1, gray8, reference8).float() / 255
    statistics = reference.to(decoded.device) if reference is not None and settings.match_chroma > 0 else None
    gray = gray.to(decoded.device)
    if share is not None and fallback is not None:
        chroma = blended_chroma(decoded, as_picture(fallback, "fallback"), share, statistics, settings.match_chroma)
        return merge_chroma(chroma, gray, mask=mask)
    return merge_luminance(
        decoded, gray, statistics_from=statistics, statistics_strength=settings.match_chroma, mask=mask
    )


def _encode_again(host: Host, colored: Tensor, settings: ColorizeSettings) -> Tensor:
    if settings.postprocess == "official":
        # the published program hands its 8-bit picture to the encoder in float16
        colored = ((colored * 2 - 1).half().float() + 1) / 2
    return host.encode(colored)
