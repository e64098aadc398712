"""Exemplar colorization, start to end (Kosugi 2025, arXiv 2505.15812), on any host.

    input, reference, gray reference --encode--> latents --DDIM inversion + attention capture--> trajectories, banks
    noised input --AdaIN to the noised reference--> start
    start --sampling with dual attention and colorization guidance--> colored latent --decode--> chroma
    luminance of the input + chroma -> picture, at the input's own size

With N passes the colored picture is inverted and sampled again, always with the features kept in the first place.
Where attention finds no match in the reference, another coloring of the input can step in at the end (``fallback``).

Everything that can share a model call does: pictures of one size are inverted in one batch, and the colored and the
plain prediction of guidance run together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from ..attention.capture import Capture, CaptureSpec, CaptureTarget
from ..attention.dual import DualAttentionColor, DualAttentionSettings, check_reference_mask
from ..attention.layers import Layer, LayerInfo, is_shallow, select_layers
from ..color import adain, as_picture, desaturate, merge_chroma, merge_luminance, official_merge, resize
from ..color.sizes import working_size
from ..diffusion.inversion import Inversion, check_same_model
from ..diffusion.schedule import InversionPlan, inversion_plan
from .confidence import blended_chroma, match_confidence, trust
from .host import Host

#: Roles of the three inversions, as the error messages and the banks name them.
ROLES = ("input", "reference", "gray")


#: The letters of the paper and of the embedded model's header, and our names for them.
_LETTERS = {
    "steps_total": ("steps",),
    "T": ("depth",),
    "w": ("guidance",),
    "N": ("passes",),
    "resolution": ("resolution",),
    "gamma": ("gamma_shallow", "gamma_deep"),
    "beta": ("beta_shallow", "beta_deep"),
    "init_adain": ("match_latents",),
    "std_match": ("match_chroma",),
}


@dataclass(frozen=True)
class ColorizeSettings:
    """Everything a user can choose; the defaults are the paper's, for Stable Diffusion.

    :param guidance: w, weight of classifier-free colorization guidance; 1 switches it off.
    :param passes: N, how often the picture is colored, inverted and colored again.
    :param depth: T, number of steps from the noised latents back.
    :param steps: length of the whole DDIM schedule of which the lowest ``depth`` steps are used.
    :param convention: ``consistent`` or ``official``, see ``diffusion.schedule.inversion_plan``.
    :param refinements: fixed-point iterations a step of the inversion.
    :param match_latents: 0..1, AdaIN of the noised input to the noised reference before the first pass.
    :param match_chroma: 0..1, match of the result's mean and spread of (a, b) to the reference's.
    :param resolution: side in pixels of the square whose area the model works at; 0 works at the pictures' own size.
    :param layers: where dual attention acts, see ``attention.layers``.
    :param attention: γ, β and the like.
    :param postprocess: ``exact`` (float Lab at full size) or ``official`` (the published 8-bit arithmetic, at working
        size).
    :param keep_dtype: dtype of the kept features; None keeps the model's.
    :param keep_device: where they are kept; None keeps them with the model.
    :param fallback_below: 0..1, attention's confidence below which a place takes the fallback's color; 0 is off.
    """

    guidance: float = 10.0
    passes: int = 3
    depth: int = 5
    steps: int = 50
    convention: str = "consistent"
    refinements: int = 0
    match_latents: float = 1.0
    match_chroma: float = 1.0
    resolution: int = 512
    layers: str = "color"
    attention: DualAttentionSettings = field(default_factory=DualAttentionSettings)
    postprocess: str = "exact"
    keep_dtype: torch.dtype | None = None
    keep_device: torch.device | None = None
    fallback_below: float = 0.0

    def __post_init__(self) -> None:
        if self.passes < 1:
            raise ValueError(f"passes is {self.passes}; at least one is needed.")
        if self.postprocess not in ("exact", "official"):
            raise ValueError(f"postprocess is '{self.postprocess}'; expected 'exact' or 'official'.")
        if not 0 <= self.fallback_below <= 1:
            raise ValueError(f"fallback_below is {self.fallback_below}; it must lie between 0 and 1.")

    @classmethod
    def recommended(cls, letters: Mapping[str, Any], **chosen: Any) -> ColorizeSettings:
        """A model's own recommendation, overridden by what the user chose; the paper's where neither says anything.

        :param letters: ``recommended`` of an embedded model's header, in the paper's letters (T, w, N, gamma, ...); may
            be empty, unknown letters are passed over.
        :param chosen: any of our fields, and ``gamma_shallow`` and the like directly.
        """
        values: dict[str, Any] = {}
        for letter, ours in _LETTERS.items():
            if letter in letters:
                given = letters[letter] if isinstance(letters[letter], list) else [letters[letter]]
                values.update(zip(ours, (float(v) if isinstance(v, bool) else v for v in given), strict=True))
        values.update(chosen)
        shares = {f.name: values.pop(f.name) for f in fields(DualAttentionSettings) if f.name in values}
        return cls(attention=DualAttentionSettings(**shares), **values)

    def model_calls(self, reference_ready: bool = False, one_size: bool = True) -> int:
        """How many model calls the flow makes, for progress bars."""
        climb = (self.depth + (self.convention == "official")) * (1 + self.refinements)
        first = 1 if reference_ready or one_size else 2
        return climb * (first + self.passes - 1) + self.depth * self.passes


@dataclass(frozen=True)
class ReferencePair:
    """A reference and its gray version, inverted: all that coloring needs of a reference. Reusable."""

    color: Inversion
    gray: Inversion

    def take(self, pictures: range) -> ReferencePair:
        """The pair of some of the references."""
        return ReferencePair(self.color.take(pictures), self.gray.take(pictures))


@dataclass(frozen=True)
class ColorizeResult:
    """:param images: (B, H, W, 3), at the inputs' own size.
    :param source: the inputs' inversion, with their features.
    :param reference: the references' pair, to color other pictures with.
    :param latent: (B, C, h, w), the last colored latent.
    :param from_reference: (B, h, w) in 0..1, how much of the color is the reference's; None is all of it.
    """

    images: Tensor
    source: Inversion
    reference: ReferencePair
    latent: Tensor
    from_reference: Tensor | None = None


def one_working_size(host: Host, image: Tensor, reference: Tensor, settings: ColorizeSettings) -> bool:
    """Whether input and reference are worked on at the same size, so that their inversions share model calls."""
    sizes = [
        working_size(*picture.shape[1:3], settings.resolution, host.size_multiple, host.factor)
        for picture in (image, reference)
    ]
    return sizes[0] == sizes[1]


def color_layers(infos: tuple[LayerInfo, ...], expression: str) -> dict[Layer, bool]:
    """Selected layers, and whether each is shallow."""
    return {info.layer: is_shallow(info, infos) for info in select_layers(expression, infos)}


def capture_spec(role: str, layers: dict[Layer, bool], settings: ColorizeSettings) -> CaptureSpec:
    """What an inversion must keep for its role."""
    keep = {layer: settings.attention.needs(shallow)[role] for layer, shallow in layers.items()}
    return CaptureSpec(
        {at: letters for at, letters in keep.items() if letters}, settings.keep_dtype, settings.keep_device
    )


def colorize(
    host: Host,
    inputs: Tensor,
    reference: Tensor | None,
    settings: ColorizeSettings | None = None,
    *,
    prepared: ReferencePair | None = None,
    source_mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    on_pass: Callable[[int, Tensor], None] | None = None,
    fallback: Tensor | None = None,
) -> ColorizeResult:
    """Color gray pictures by an example.

    :param inputs: (B, H, W, 3) in 0..1; only their luminance is used.
    :param reference: (1 or B, h, w, 3) in 0..1: one for all inputs or one an input. May be None with ``prepared`` when
        neither chroma statistics nor the official postprocessing are asked for.
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
    layers = color_layers(host.layers, settings.layers)
    inputs = as_picture(inputs, "input")
    gray = desaturate(inputs) if settings.postprocess == "exact" else inputs
    if reference is not None:
        reference = as_picture(reference, "reference")
    check_batches(inputs, reference, prepared, settings, source_mask, reference_mask, fallback)
    if prepared is not None:
        _check_prepared(prepared, host, plan, layers, settings)

    size = working_size(*inputs.shape[1:3], settings.resolution, host.size_multiple, host.factor)
    small = resize(gray, size)
    source, pair = _invert_all(host, small, reference, prepared, plan, layers, settings)
    edit = DualAttentionColor(
        settings.attention,
        layers,
        source.bank,
        pair.color.bank,
        pair.gray.bank,
        source_mask,
        reference_mask,
        host.attend,
        {info.layer: info.heads for info in host.layers},
        host.device,
    )

    start = adain(source.noised(), pair.color.noised(), strength=settings.match_latents)
    for n in range(settings.passes):
        last = host.sample(start, plan, edit, tuple(layers), settings.guidance)
        latent = plan.to_clean(last)
        decoded = host.decode(latent)
        if n == settings.passes - 1:
            break
        colored = _postprocess(decoded, small, reference, settings, source_mask)
        if on_pass is not None:
            on_pass(n, colored)
        start = plan.to_sampling(
            host.invert(_encode_again(host, colored, settings), plan, None, settings.refinements)[-1]
        )
    full = small if settings.postprocess == "official" else gray
    share = None
    if fallback is not None and settings.fallback_below > 0:
        target = pair.gray if pair.gray.bank.pictures else pair.color
        share = trust(match_confidence(source, target, reference_mask), settings.fallback_below)
    images = _postprocess(decoded, full, reference, settings, source_mask, fallback, share).to(inputs)
    if on_pass is not None:
        on_pass(settings.passes - 1, images)
    return ColorizeResult(images, source, pair, latent, share)


def check_batches(
    inputs: Tensor,
    reference: Tensor | None,
    prepared: ReferencePair | None,
    settings: ColorizeSettings,
    source_mask: Tensor | None = None,
    reference_mask: Tensor | None = None,
    fallback: Tensor | None = None,
) -> None:
    """Whether the numbers of pictures and masks fit each other; parameters as for :func:`colorize`.

    :raises ValueError: they do not, a mask is empty, or there is no reference.
    """
    if reference is None and prepared is None:
        raise ValueError(
            "There is no reference: connect a color picture, the INVERSION pair of an earlier run, or as fallback an "
            "automatic coloring of the input."
        )
    if fallback is not None:
        _check_fallback(as_picture(fallback, "fallback"), inputs, settings)
    if reference is None and (settings.match_chroma > 0 or settings.postprocess == "official"):
        raise ValueError(
            "Matching chroma statistics needs the reference picture itself beside its inversions: "
            "connect it, or set match_chroma to 0."
        )
    for count in (
        n
        for n in (len(reference) if reference is not None else None, prepared.color.pictures if prepared else None)
        if n is not None
    ):
        if count not in (1, len(inputs)):
            raise ValueError(
                f"There are {len(inputs)} input(s) and {count} reference(s); "
                "use one reference for all inputs, or one for each."
            )
    references = prepared.color.pictures if prepared else len(reference)
    _check_masks(source_mask, reference_mask, len(inputs), references)


def _check_fallback(fallback: Tensor, inputs: Tensor, settings: ColorizeSettings) -> None:
    if len(fallback) not in (1, len(inputs)):
        raise ValueError(
            f"There are {len(inputs)} input(s) and {len(fallback)} fallback picture(s); use one for each input."
        )
    if settings.postprocess == "official" and settings.fallback_below > 0:
        raise ValueError("A fallback needs the exact postprocessing; the official one knows one source of color only.")


def _check_masks(source: Tensor | None, reference: Tensor | None, inputs: int, references: int) -> None:
    for name, mask, count in (("input", source, inputs), ("reference", reference, references)):
        if mask is not None and len(mask) not in (1, count):
            raise ValueError(
                f"There are {len(mask)} {name} masks for {count} {name} picture(s); use one for all, or one for each."
            )
    if reference is not None:
        check_reference_mask(reference)


def _check_prepared(
    prepared: ReferencePair, host: Host, plan: InversionPlan, layers: dict[Layer, bool], settings: ColorizeSettings
) -> None:
    for inversion in (prepared.color, prepared.gray):
        check_same_model(inversion, host.fingerprint)
        if inversion.plan != plan:
            raise ValueError(
                f"The reference was inverted {inversion.plan.depth} of {inversion.plan.steps} steps deep "
                f"({inversion.plan.convention}); this run asks for {plan.depth} of {plan.steps} ({plan.convention}). "
                "Use the same settings, or invert the reference again."
            )
    for role, bank in (("reference", prepared.color.bank), ("gray", prepared.gray.bank)):
        for layer, letters in capture_spec(role, layers, settings).keep.items():
            if not all(bank.has(sigma, layer, letter) for sigma in plan.kept_sigmas for letter in letters):
                raise ValueError(
                    f"The {role} inversion did not keep '{letters}' of {layer.name}, which these settings need: it was "
                    "made with other layers, gamma or beta. Use the same settings, or invert the reference again."
                )


def _invert_all(
    host: Host,
    small: Tensor,
    reference: Tensor | None,
    prepared: ReferencePair | None,
    plan: InversionPlan,
    layers: dict[Layer, bool],
    settings: ColorizeSettings,
) -> tuple[Inversion, ReferencePair]:
    """Invert inputs, reference and gray reference; in one batch where their sizes agree."""
    batches = [("input", small)]
    if prepared is None:
        size = working_size(*reference.shape[1:3], settings.resolution, host.size_multiple, host.factor)
        # The published program makes its gray copy before resizing, with PIL's 8-bit luma.
        method = "rec601_8bit" if settings.postprocess == "official" else "lab"
        batches += [("reference", resize(reference, size)), ("gray", resize(desaturate(reference, method), size))]
    latents = [(role, host.encode(pictures)) for role, pictures in batches]
    found: dict[str, Inversion] = {}
    if len({latent.shape[1:] for _, latent in latents}) == 1:
        groups = [latents]
    else:
        groups = [latents[:1], latents[1:]]
    for group in groups:
        found.update(_invert_group(host, group, plan, layers, settings))
    return found["input"], prepared or ReferencePair(found["reference"], found["gray"])


def _invert_group(
    host: Host,
    group: list[tuple[str, Tensor]],
    plan: InversionPlan,
    layers: dict[Layer, bool],
    settings: ColorizeSettings,
) -> dict[str, Inversion]:
    targets, spans, first = [], {}, 0
    for role, latent in group:
        spans[role] = range(first, first + len(latent))
        targets.append(CaptureTarget(capture_spec(role, layers, settings), pictures=spans[role]))
        first += len(latent)
    capture = Capture(targets, plan.kept_sigmas)
    trajectory = host.invert(torch.cat([latent for _, latent in group]), plan, capture, settings.refinements)
    return {
        role: Inversion(
            plan, trajectory[:, spans[role].start : spans[role].stop], target.bank, host.fingerprint, host.layers
        )
        for (role, _), target in zip(group, targets, strict=True)
    }


def _postprocess(
    decoded: Tensor,
    gray: Tensor,
    reference: Tensor | None,
    settings: ColorizeSettings,
    mask: Tensor | None,
    fallback: Tensor | None = None,
    share: Tensor | None = None,
) -> Tensor:
    if settings.postprocess == "official":
        bytes_ = [(t * 255).round().to(torch.uint8).cpu() for t in (gray, resize(reference, tuple(gray.shape[1:3])))]
        return official_merge(decoded.movedim(-1, 1) * 2 - 1, *bytes_).float() / 255
    statistics = reference.to(decoded.device) if settings.match_chroma > 0 else None
    gray = gray.to(decoded.device)
    if share is not None:
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
