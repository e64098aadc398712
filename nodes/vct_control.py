"""Content-concept fusion (VCT) and prompt-to-prompt control, as guiders."""

from __future__ import annotations

import logging

from comfy_api.latest import io

from ..attention.alignment import (
    WEIGHT_PLACES,
    concept_control,
    equalizer,
    refinement,
    replacement,
)
from ..attention.control import SELF_LAYERS, PromptControl, Reweight, self_layer_options
from ..attention.word_maps import BlendWords
from ..diffusion.inversion import check_same_model
from ..diffusion.replay import Replay
from ..hosts.comfy import model as host
from ..hosts.comfy.prompts import parse_words, prompt_tokens
from ..hosts.comfy.vct_control import ControlGuider, PairSettings, first_column, text_columns
from .common import CATEGORY_TRANSLATE, Inversion, Pivots, share

log = logging.getLogger(__name__)

#: What cross-attention does with words.
WORDS = ("refine", "replace", "reweight only")

STREAMS = ("replayed", "sampled")


def self_layers_input() -> io.Combo.Input:
    return io.Combo.Input(
        "self_layers",
        options=list(SELF_LAYERS),
        default=SELF_LAYERS[0],
        advanced=True,
        tooltip="Which self-attention layers follow the source. official (up to 1024 tokens) leaves out the finest "
        "layers of "
        "a 512 pixel picture, and of smaller pictures none; all but the finest leaves them out at any size; all also "
        "keeps fine texture.",
    )


def source_way(inversion, pivots, fingerprint: str, cfg: float) -> Replay:
    """The way that the source went.

    :raises ValueError: inversion and pivots of another model, picture size or schedule.
    """
    for made in (inversion, pivots):
        if made is not None:
            check_same_model(made, fingerprint)
    way = Replay.of_inversion(inversion)
    if pivots is None:
        return way
    pinned = Replay.of_pivots(pivots)
    if pinned.levels != way.levels or pinned.size != way.size or way.pictures != 1:
        raise ValueError(
            f"The pivots were found for {len(pinned.levels) - 1} steps at {pinned.size[1]} x {pinned.size[0]}, the "
            f"inversion "
            f"has {way.pictures} picture(s), {len(way.levels) - 1} steps at {way.size[1]} x {way.size[0]}: connect the "
            "inversion that Pivot Inversion used."
        )
    if abs(pivots.guidance - cfg) > 1e-6:
        log.warning("cfg is %g, but the pivots hold the picture at %g; use that.", cfg, pivots.guidance)
    return pinned


class ConceptFusion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarConceptFusion",
            display_name="Concept Fusion",
            category=CATEGORY_TRANSLATE,
            description="Draws an inverted picture again with a learned concept in it: the picture is denoised beside "
            "the concept's "
            "stream and lends it its attention (content-concept fusion of VCT).",
            search_aliases=[
                "vct",
                "concept transfer",
                "image translation",
                "style transfer",
                "prompt to prompt",
                "guider",
            ],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The MODEL that made the inversion. Stable Diffusion 1.x, 2.x or SDXL."
                ),
                Inversion.Input(
                    "inversion",
                    tooltip="The picture to keep, inverted over the whole schedule (depth = steps) "
                    "with the convention consistent or diffusers.",
                ),
                io.Conditioning.Input(
                    "concept",
                    tooltip="The learned concept alone, from Concept Inversion or as embedding:name "
                    "through CLIP Text Encode. Other prompts work too.",
                ),
                io.Conditioning.Input("source", tooltip="The prompt of the inversion, usually the empty one."),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=1.0,
                    max=30.0,
                    step=0.5,
                    round=0.01,
                    tooltip="Low keeps to the picture, high gives more of the concept. Use the value that the pivots "
                    "were found at.",
                ),
                share(
                    "cross_ratio",
                    0.2,
                    "Share of the run, 0 to 1, in which what the picture's places are about is kept. Low "
                    "lets the concept in early, high keeps more of the content.",
                    advanced=False,
                ),
                share(
                    "self_ratio",
                    0.9,
                    "Share of the run, 0 to 1, in which the picture's layout is kept. Low lets shapes "
                    "change, high changes colors and texture only.",
                    advanced=False,
                ),
                io.Int.Input(
                    "vectors",
                    default=3,
                    min=1,
                    max=75,
                    tooltip="How many vectors (or words) the concept has. Too few "
                    "leaves some to the picture's padding, too many holds padding back.",
                ),
                io.Float.Input(
                    "concept_weight",
                    default=0.5,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="Factor on the concept's attention while cross_ratio lasts. 0 silences it there, 1 leaves "
                    "it, above 1 it is louder.",
                ),
                io.Combo.Input(
                    "weight_place",
                    options=list(WEIGHT_PLACES),
                    default=WEIGHT_PLACES[0],
                    advanced=True,
                    tooltip="intended weights the concept's own columns. official weights those one place early, as "
                    "the "
                    "published program does: the begin mark is weighted, the last vector is not.",
                ),
                self_layers_input(),
                io.Combo.Input(
                    "source_stream",
                    options=list(STREAMS),
                    default=STREAMS[0],
                    advanced=True,
                    tooltip="replayed takes the picture's way from its inversion or pivots, which saves a quarter of "
                    "each step. sampled computes it anew beside the other, as the published program does.",
                ),
                Pivots.Input(
                    "pivots",
                    optional=True,
                    tooltip="From Pivot Inversion: unconditional prompts that hold the picture under "
                    "cfg. Without them the source prompt is the negative one.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where the picture may change; outside it stays as it was."
                ),
            ],
            outputs=[
                io.Guider.Output(
                    display_name="guider",
                    tooltip="For SamplerCustomAdvanced, with the noised latent and the sigmas "
                    "of DDIM Inversion, and no added noise.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        inversion,
        concept,
        source,
        cfg,
        cross_ratio,
        self_ratio,
        vectors,
        concept_weight,
        weight_place=WEIGHT_PLACES[0],
        self_layers=SELF_LAYERS[0],
        source_stream=STREAMS[0],
        pivots=None,
        mask=None,
    ) -> io.NodeOutput:
        host.require_unet(model, "Concept Fusion")
        way = source_way(inversion, pivots, host.fingerprint(model), cfg)
        control = concept_control(
            (text_columns(source, "source"), text_columns(concept, "concept")),
            vectors,
            first_column(concept, source),
            cross_window=cross_ratio,
            self_window=self_ratio,
            weight=concept_weight,
            weight_place=weight_place,
            **self_layer_options(self_layers, host.attention_layers(model)),
        )
        replay = way if source_stream == STREAMS[0] else None
        guider = ControlGuider(model, PairSettings(control, replay, pivots, mask=mask))
        guider.set_prompts(concept, source, source)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


class PromptControlNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarPromptControl",
            display_name="Prompt Control",
            category=CATEGORY_TRANSLATE,
            description="Two prompts, one picture: the target prompt is drawn with the layout of the source prompt's "
            "picture "
            "(prompt-to-prompt). Give an inversion to edit a picture of your own.",
            search_aliases=["prompt to prompt", "p2p", "attention control", "word swap", "local blend", "guider"],
            inputs=[
                io.Model.Input("model", tooltip="Stable Diffusion 1.x, 2.x or SDXL."),
                io.Clip.Input("clip", tooltip="The model's CLIP: it reads both texts and says which words they share."),
                io.String.Input(
                    "source",
                    default="",
                    multiline=True,
                    tooltip="What the first picture shows; of an inverted "
                    "picture, the prompt that it was inverted with.",
                ),
                io.String.Input("target", default="", multiline=True, tooltip="What the second one is to show."),
                io.Conditioning.Input("negative", tooltip="The negative prompt of both."),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=1.0,
                    max=30.0,
                    step=0.5,
                    round=0.01,
                    tooltip="Low follows the prompts loosely, high strictly.",
                ),
                share(
                    "cross_ratio",
                    0.8,
                    "Share of the run, 0 to 1, in which words keep the source's places. Low lets new words "
                    "move things, high keeps them in place.",
                    advanced=False,
                ),
                share(
                    "self_ratio",
                    0.4,
                    "Share of the run, 0 to 1, in which the source's layout is kept. Low lets shapes change, "
                    "high changes colors and texture only.",
                    advanced=False,
                ),
                io.Combo.Input(
                    "words",
                    options=list(WORDS),
                    default=WORDS[0],
                    advanced=True,
                    tooltip="refine keeps the attention of common words and lets new ones in. replace swaps word for "
                    "word, for prompts with equally many words. reweight only leaves the target's attention, up to "
                    "weights.",
                ),
                io.String.Input(
                    "weights",
                    default="",
                    advanced=True,
                    tooltip="Louder and quieter words of the target, as apple=2, "
                    "sky=0.5. 1 leaves a word, 0 silences it.",
                ),
                io.String.Input(
                    "word_ratios",
                    default="",
                    advanced=True,
                    tooltip="cross_ratio of single words of the target, as "
                    "apple=0.2: low lets that word move, high keeps it in place.",
                ),
                io.String.Input(
                    "blend_words",
                    default="",
                    advanced=True,
                    tooltip="Local blend: words of either prompt, as cat, dog. "
                    "The picture changes only where they look. Empty changes it everywhere.",
                ),
                share(
                    "blend_threshold",
                    0.3,
                    "How much of a word's strongest attention counts as its place, 0 to 1. Low covers more, high less.",
                ),
                self_layers_input(),
                io.Boolean.Input(
                    "both_pictures",
                    default=False,
                    advanced=True,
                    tooltip="Off returns the target. On returns target and source as a batch, when both are sampled.",
                ),
                Inversion.Input(
                    "inversion",
                    optional=True,
                    tooltip="A picture to edit, inverted with the source prompt over the whole "
                    "schedule. Sample its noised latent without added noise.",
                ),
                Pivots.Input(
                    "pivots",
                    optional=True,
                    tooltip="From Pivot Inversion with the source prompt; they hold the picture under cfg.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Where the picture may change; outside it is the source."),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(
        cls,
        model,
        clip,
        source,
        target,
        negative,
        cfg,
        cross_ratio,
        self_ratio,
        words=WORDS[0],
        weights="",
        word_ratios="",
        blend_words="",
        blend_threshold=0.3,
        self_layers=SELF_LAYERS[0],
        both_pictures=False,
        inversion=None,
        pivots=None,
        mask=None,
    ) -> io.NodeOutput:
        host.require_unet(model, "Prompt Control")
        if pivots is not None and inversion is None:
            raise ValueError("Pivots belong to an inverted picture: connect its inversion as well.")
        before, after = prompt_tokens(clip, source), prompt_tokens(clip, target)
        encoded = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (source, target)]
        columns = (text_columns(encoded[0], "source"), text_columns(encoded[1], "target"))

        def of_words(text: str) -> dict[tuple[int, ...], float | None]:
            return {after.columns_of(prompt_tokens(clip, word)): number for word, number in parse_words(text).items()}

        edits = []
        if words == "refine":
            edits.append(refinement(before.ids, after.ids, columns))
        elif words == "replace":
            edits.append(replacement(before.ids, after.ids, columns, (before.words, after.words)))
        factors = {column: _number(n, "weights") for found, n in of_words(weights).items() for column in found}
        if factors:
            edits.append(Reweight(equalizer(columns[1], factors)))
        windows = {column: _number(n, "word_ratios") for found, n in of_words(word_ratios).items() for column in found}
        control = PromptControl(
            columns,
            tuple(edits),
            cross_ratio,
            self_ratio,
            windows,
            **self_layer_options(self_layers, host.attention_layers(model)),
        )
        replay = None
        if inversion is not None:
            replay = source_way(inversion, pivots, host.fingerprint(model), cfg)
        blend = _blend_words(clip, before, after, blend_words, blend_threshold)
        guider = ControlGuider(model, PairSettings(control, replay, pivots, blend, mask, both_pictures))
        guider.set_prompts(encoded[1], negative, encoded[0])
        guider.set_cfg(cfg)
        return io.NodeOutput(guider)


def _number(number: float | None, field: str) -> float:
    if number is None:
        raise ValueError(f"{field} needs a number for each word, such as 'apple=2'.")
    return number


def _blend_words(clip, before, after, text: str, threshold: float) -> BlendWords | None:
    """:raises ValueError: a word that neither prompt has."""
    columns: tuple[list[int], list[int]] = ([], [])
    for word in parse_words(text):
        tokens = prompt_tokens(clip, word)
        found = [prompt.has(tokens) for prompt in (before, after)]
        if not any(found):
            raise ValueError(
                f"Neither prompt has the blend word '{word}'; use words that stand in them, spelled alike."
            )
        for own, more in zip(columns, found, strict=True):
            own.extend(more)
    return BlendWords(tuple(columns[0]), tuple(columns[1]), threshold) if any(columns) else None


NODES = [ConceptFusion, PromptControlNode]
