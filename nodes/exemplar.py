"""The whole flow in one node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..pipelines.confidence import trust
from ..pipelines.exemplar_batches import calls_in_batches, colorize_in_batches, joined
from ..pipelines.exemplar_references import References
from ..pipelines.exemplar_settings import ColorizeSettings, ReferencesSettings
from ..pipelines.memory_settings import MemorySettings, MethodSettings
from .common import (
    CATEGORY,
    ColorMemory,
    FrameProgress,
    Inversion,
    StepProgress,
    clip_input,
    conditioning_input,
    depth_within_steps,
    warn_if_colored,
)
from .inputs import expect, optional_mask, optional_picture, picture
from .references import pair_of, several_of
from .widgets import later_widgets, resolved, title, widgets

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.inversion import Inversion as KeptInversion
    from ..memory.entries import ColorMemory as Memory


class Colorize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarColorize",
            display_name="Exemplar Colorize",
            category=CATEGORY,
            description="Colors gray pictures by a color reference, with the attention of a Stable Diffusion model "
            "(Kosugi 2025). The result has the input's own size and lightness.",
            search_aliases=[
                "colorize",
                "colourise",
                "reference colorization",
                "old photo",
                "old photograph",
                "vintage photo",
                "color by example",
                "exemplar colorization",
                "kosugi",
            ],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The UNet of Stable Diffusion 1.x, 2.x or SDXL, or the embedded model."
                ),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                conditioning_input("What the inversions and sampling are told, best the empty prompt."),
                io.Image.Input(
                    "image", tooltip="One or more gray pictures. Of a colored picture only the lightness is used."
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="A color picture with the same kinds of things: one for all inputs, one for each, or any "
                    "number for all, see references. Any size. Without it, and without the inversions below, fallback "
                    "is the reference.",
                ),
                *widgets(ColorizeSettings, "guidance", "passes", "depth", "resolution", "match_chroma"),
                *widgets(ColorizeSettings, "match_latents", "steps"),
                *widgets(ColorizeSettings, "gamma_shallow", "gamma_deep", "beta_shallow", "beta_deep", "mix", "layers"),
                *widgets(ColorizeSettings, "convention", "refinements", "postprocess"),
                *widgets(ColorizeSettings, "precision", "keep_on", "batch"),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the input color may go; the rest stays gray. White is everywhere. One for all "
                    "inputs, or one for each.",
                ),
                io.Mask.Input(
                    "reference_mask",
                    optional=True,
                    tooltip="Which part of the reference may give color (what is above one half). One for all "
                    "references, or one for each; they may cover areas of different size. Where all references serve "
                    "every image, their colors' statistics are those within the masks, too.",
                ),
                Inversion.Input(
                    "reference_inversion",
                    optional=True,
                    tooltip="reference_inversion of another Exemplar Colorize with the same reference and settings: it "
                    "is not inverted again.",
                ),
                Inversion.Input(
                    "gray_inversion",
                    optional=True,
                    tooltip="gray_inversion of the same node: the reference without color. Connect both or neither.",
                ),
                io.Image.Input(
                    "fallback",
                    optional=True,
                    tooltip="The input colored in another way, for example by DDColor: one for each input, any size. "
                    "It is the reference when none is connected, and gives colors where the reference has no match, "
                    "see fallback_below.",
                ),
                # last and optional, so that older workflows load
                *widgets(ColorizeSettings, "fallback_below", optional=True),
                ColorMemory.Input(
                    "memory",
                    optional=True,
                    tooltip="For method memory: a color memory, written with the same model. A reference counts beside "
                    "it.",
                ),
                clip_input(),
                *later_widgets(ColorizeSettings, MethodSettings, ReferencesSettings),
            ],
            outputs=[
                io.Image.Output(
                    display_name="image",
                    tooltip="The colored pictures, at the inputs' own size (at working size with official "
                    "postprocessing).",
                ),
                Inversion.Output(
                    display_name="input_inversion",
                    tooltip="For Attention Map, together with gray_inversion. With more pictures than batch, only "
                    "those of the first batch.",
                ),
                Inversion.Output(
                    display_name="reference_inversion",
                    tooltip="For another Exemplar Colorize with the same reference and settings.",
                ),
                Inversion.Output(
                    display_name="gray_inversion",
                    tooltip="The reference without color: for another Exemplar Colorize together with "
                    "reference_inversion, and for Attention Map, see there.",
                ),
                io.Mask.Output(
                    display_name="from_reference",
                    tooltip="White where colors are the reference's, black where they are the fallback's. All white "
                    "while fallback_below is 0.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, depth: int | None = None, steps: int | None = None) -> bool | str:
        return depth_within_steps(depth, steps)

    @classmethod
    def execute(  # one argument a socket
        cls,
        model: Any,
        vae: Any,
        image: Tensor,
        conditioning: list | None = None,
        reference: Tensor | None = None,
        mask: Tensor | None = None,
        reference_mask: Tensor | None = None,
        reference_inversion: KeptInversion | None = None,
        gray_inversion: KeptInversion | None = None,
        fallback: Tensor | None = None,
        **values: Any,
    ) -> io.NodeOutput:
        memory, method, clip = values.pop("memory", None), values.pop("method", "attention"), values.pop("clip", None)
        expect(cls, model=model, vae=vae, clip=clip)
        several = several_of(cls, values)
        if method == "memory":
            if reference_inversion is not None or gray_inversion is not None:
                raise ValueError(
                    f"{'gray' if reference_inversion is None else 'reference'}_inversion: found one, expected none "
                    "with method memory, which makes no inversions; connect a reference or a memory instead."
                )
            looks = _Looks(model, vae, clip, conditioning)
            given = _Given(image, mask, reference, reference_mask, several, memory, fallback)
            chosen = {name: values.get(name) for name in ("resolution", "batch", "fallback_below")}
            return _by_memory(cls, looks, given, chosen)
        if memory is not None:
            raise ValueError("memory: found one, expected none with method attention; set method to memory.")
        from ..hosts.comfy.conditioning import check_conditioning, inversion_levels
        from ..hosts.comfy.empty_prompt import need_prompt
        from ..hosts.comfy.families.found import require_network
        from ..hosts.comfy.fits import check_inversion, check_vae
        from ..hosts.comfy.host import ComfyHost
        from ..hosts.comfy.recommended import recommended

        require_network(model, title(cls))
        expect(cls, reference_inversion=reference_inversion, gray_inversion=gray_inversion)
        check_vae(vae, model, title(cls))
        for name, inversion in (("reference_inversion", reference_inversion), ("gray_inversion", gray_inversion)):
            if inversion is not None:
                check_inversion(inversion, model, title(cls), name)
        settings = resolved(cls, ColorizeSettings, recommended(model, "exemplar"), values)
        levels = inversion_levels(model, settings.steps, settings.depth, settings.convention)
        conditioning = need_prompt(conditioning, clip, model, title(cls))
        check_conditioning(conditioning, title(cls), model=model, levels=levels, pictures=1)
        image, fallback = picture(cls, image, "image"), optional_picture(cls, fallback, "fallback")
        mask = optional_mask(cls, mask, "mask")
        reference_mask = optional_mask(cls, reference_mask, "reference_mask")
        pair = pair_of(reference_inversion, gray_inversion)
        if reference is None and pair is None:
            reference = fallback
        reference = optional_picture(cls, reference, "reference")
        if several is not None:
            inverted = 0 if pair is None else pair.pictures
            reference = References.of(reference, reference_mask, several, inverted=inverted)
            reference_mask = None
        warn_if_colored(image, "image")
        host = ComfyHost(model, conditioning, vae)
        host.on_step = bar = StepProgress(model, calls_in_batches(host, image, reference, settings, pair))
        result = joined(
            colorize_in_batches(
                host,
                image,
                reference,
                settings,
                prepared=pair,
                source_mask=mask,
                reference_mask=reference_mask,
                fallback=fallback,
                expect=bar.expect,
            )
        )
        return io.NodeOutput(
            result.images, result.source, result.reference.color, result.reference.gray, result.reference_share
        )


@dataclass(frozen=True)
class _Looks:
    """What looks at pictures, as it came in."""

    model: Any
    vae: Any
    clip: Any
    conditioning: list | None


@dataclass(frozen=True)
class _Given:
    """What is to be colored, and what gives colors, as it came in.

    :param weights: of references that all serve every picture; None where there is one for each.
    """

    image: Tensor
    mask: Tensor | None
    reference: Tensor | None
    reference_mask: Tensor | None
    weights: tuple[float, ...] | None
    memory: Memory | None
    fallback: Tensor | None


def _by_memory(node: type[io.ComfyNode], looks: _Looks, given: _Given, chosen: dict[str, Any]) -> io.NodeOutput:
    """What the node gives by the method memory.

    :param chosen: values of its widgets that are settings of this method.
    """
    from ..hosts.comfy.color_memories import NO_INVERSION, colored_by_references, looking
    from ..hosts.comfy.conditioning import check_conditioning
    from ..hosts.comfy.empty_prompt import need_prompt
    from ..hosts.comfy.families.found import require_network
    from ..hosts.comfy.memory import results

    model, memory = looks.model, given.memory
    expect(node, memory=memory)
    image, fallback = picture(node, given.image, "image"), optional_picture(node, given.fallback, "fallback")
    mask = optional_mask(node, given.mask, "mask", len(image))
    reference = fallback if given.reference is None and memory is None else given.reference
    reference = optional_picture(node, reference, "reference")
    if memory is None and reference is None:
        raise ValueError("reference: found nothing, expected a color picture; connect one, or a memory.")
    if reference is None:
        _without_references(given.weights, given.reference_mask)
    reference_mask = optional_mask(node, given.reference_mask, "reference_mask")
    require_network(model, title(node))
    conditioning = need_prompt(looks.conditioning, looks.clip, model, title(node))
    check_conditioning(conditioning, title(node), model=model, pictures=1)
    warn_if_colored(image, "image")
    network = looking(model, looks.vae, conditioning, title(node))
    settings = resolved(node, MemorySettings, network.recommended, chosen)
    made = colored_by_references(
        network,
        image,
        reference,
        memory,
        settings,
        mask=mask,
        reference_mask=reference_mask,
        fallback=fallback,
        weights=given.weights,
        on_pictures=FrameProgress(len(image) + (0 if reference is None else len(reference))),
    )
    blocked = [NO_INVERSION] * 3
    share = trust(made.confidence, settings.fallback_below if fallback is not None else 0.0)
    images, share = results(made.images, share)
    return io.NodeOutput(images, *blocked, share)


def _without_references(weights: tuple[float, ...] | None, mask: Tensor | None) -> None:
    """:raises ValueError: what is about references, beside a memory alone, where it would do nothing."""
    if weights:
        raise ValueError(
            "weights: found some, expected none beside a memory without a reference; connect references, or empty "
            "them. How much memories count is said in Merge Color Memories."
        )
    if mask is not None:
        raise ValueError(
            "reference_mask: found one, expected none beside a memory without a reference; connect the reference, or "
            "disconnect the mask."
        )


NODES = [Colorize]
