"""A target drawn beside a source under control, as one denoiser for any sampler: what the hosts share.

Source and target are denoised side by side, the target under prompt-to-prompt control (``attention.control``). Where
the source's way is known (an inverted picture, :class:`~..diffusion.replay.Replay`), it is not computed anew: its
conditional row still runs, for its queries and keys, its unconditional row does not. That is 3 rows a step instead of
4.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.alignment import WeightPlace, concept_control
from ..attention.constants import Constants
from ..attention.control import ControlledAttention, PromptControl, SelfLayers, self_layer_options
from ..attention.layers import LayerInfo
from ..attention.rows import taken
from ..attention.word_maps import BlendWords, WordMaps, blend, blend_layers
from ..diffusion.inversion import Inversion, check_same_model
from ..diffusion.levels import step_of
from ..diffusion.pivot import Pivots
from ..diffusion.replay import Replay
from ..settings import Settings, setting, share

log = logging.getLogger(__name__)

#: ``predict(target, source, sigma, edit) -> (target's clean estimate, and source's where there is no replay)``, guided.
PredictPair = Callable[[Tensor, Tensor, float, ControlledAttention], tuple[Tensor, ...]]

SELF_LAYERS_HELP = (
    "Which self-attention layers follow the source. official (up to 1024 tokens) leaves out the finest layers of a 512 "
    "pixel picture, and of smaller pictures none; all but the finest leaves them out at any size; all also keeps fine "
    "texture."
)


@dataclass(frozen=True)
class FusionSettings(Settings):
    """How a learned concept is fused with a picture (arXiv 2307.14352, section 3.3)."""

    cfg: float = setting(
        7.5,
        "Low keeps to the picture, high gives more of the concept. Pivots hold the picture at the value that they were "
        "found at. At 1 there is no unconditional prediction, and no pivots are needed.",
        low=1.0,
        high=30.0,
        step=0.5,
        round=0.01,
        auto=True,
        widget="cfg",
        formerly="guidance",
    )
    cross_ratio: float = share(
        0.2,
        "Share of the run in which what the picture's places are about is kept. Low lets the concept in early, high "
        "keeps more of the content.",
    )
    self_ratio: float = share(
        0.9,
        "Share of the run in which the picture's layout is kept. Low lets shapes change (another thing in its place), "
        "high changes colors and texture only (style transfer).",
    )
    concept_weight: float = setting(
        0.5,
        "Factor on the concept's attention while cross_ratio lasts. 0 silences it there, 1 leaves it, above 1 it is "
        "louder.",
        low=0.0,
        high=10.0,
        step=0.05,
        round=0.001,
        advanced=True,
        auto=True,
    )
    weight_place: WeightPlace = setting(
        "intended",
        "intended weights the concept's own columns. official weights those one place early, as the published program "
        "does by mistake: the begin mark is weighted and the last vector is not. Its published results have that in "
        "them.",
        published="official",
        advanced=True,
    )
    self_layers: SelfLayers = setting("official (up to 1024 tokens)", SELF_LAYERS_HELP, advanced=True)

    def control(self, columns: tuple[int, int], vectors: int, first: int, layers: Sequence[LayerInfo]) -> PromptControl:
        """The attention control of a fusion.

        :param columns: (source, concept) lengths of the padded prompts.
        :param vectors: how many of the concept's columns are learned vectors, from ``first`` on.
        :param layers: the model's.
        :raises ValueError: more vectors than columns.
        """
        return concept_control(
            columns,
            vectors,
            first,
            cross_window=self.cross_ratio,
            self_window=self.self_ratio,
            weight=self.concept_weight,
            weight_place=self.weight_place,
            **self_layer_options(self.self_layers, layers),
        )


@dataclass(frozen=True)
class ConceptFusionSettings(FusionSettings):
    """What a fusion of a picture that was inverted, and of a concept that was learned, can choose."""

    vectors: int = setting(
        3,
        "How many vectors (or words) the concept has. Too few leaves some to the picture's padding, too many holds "
        "padding back.",
        low=1,
        high=75,
    )
    source_stream: Literal["replayed", "sampled"] = setting(
        "replayed",
        "replayed takes the picture's way from its pivots or its inversion: three rows a step. sampled computes it "
        "beside the other, four rows, as the published program does. With pivots both give the same.",
        published="sampled",
        advanced=True,
    )


@dataclass(frozen=True, eq=False)
class Fusion:
    """What a target takes from a source, and how: a controlled pair but for its prompts, for any host.

    :param cfg: classifier-free guidance weight of both streams.
    :param replay: the source's way when it is known; None samples the source as well.
    :param pivots: unconditional contexts for each sigma, in place of the negative prompt's.
    :param words: words of a local blend; None for none.
    :param mask: (1 or B, H, W) in 0..1, where the target may differ from the source.
    """

    control: PromptControl
    cfg: float = 7.5
    replay: Replay | None = None
    pivots: Pivots | None = None
    words: BlendWords | None = None
    mask: Tensor | None = None


def replay_of(inversion: Inversion, pivots: Pivots | None, fingerprint: str, cfg: float) -> Replay:
    """The way that an inverted picture goes as a source: its pivots' where there are some.

    :param fingerprint: of the model that is to sample.
    :raises ValueError: inversion and pivots of another model, picture size or schedule.
    """
    check_same_model(inversion, fingerprint)
    way = Replay.of_inversion(inversion)
    if pivots is None:
        return way
    if pivots.model != fingerprint:
        raise ValueError(
            f"pivots: found some of another model ({pivots.model}), expected those of this model ({fingerprint}); find "
            "them again with the model that you sample with."
        )
    pinned = Replay.of_pivots(pivots)
    channels = {latents.shape[-3] for latents in (pivots.trajectory, inversion.trajectory)}
    if pinned.levels != way.levels or pinned.size != way.size or way.pictures != 1 or len(channels) != 1:
        raise ValueError(
            f"pivots: found {len(pinned.levels) - 1} steps from sigma {pinned.levels[0]:.3f} at {pinned.size[1]} x "
            f"{pinned.size[0]}, expected those of the inversion, {way.pictures} picture(s), {len(way.levels) - 1} "
            f"steps from sigma {way.levels[0]:.3f} at {way.size[1]} x {way.size[0]}; connect the inversion that Pivot "
            "Inversion used."
        )
    if abs(pivots.cfg - cfg) > 1e-6:
        log.warning("cfg is %g, but the pivots hold the picture at %g; use that.", cfg, pivots.cfg)
    return pinned


class ControlledRun:
    """One sampling run of a pair, and the owner of what an edit keeps, and of what is sent to the device for the run.

    Each prediction's source features and word maps it clears when the prediction is made; the word maps' sums over the
    run go away with it.

    :param sigmas: (N+1,) descending levels of the run.
    :param infos: the model's layers.
    :raises ValueError: fewer than two levels.
    """

    def __init__(self, fusion: Fusion, sigmas: Sequence[float], infos: Iterable[LayerInfo] = ()) -> None:
        if len(sigmas) < 2:
            raise ValueError(f"A run needs at least two levels; got {list(sigmas)}.")
        self.fusion = fusion
        self.sigmas = tuple(float(s) for s in sigmas)
        self.maps = None if fusion.words is None else WordMaps(fusion.words, blend_layers(infos))
        self._sent = Constants()
        self._controls: dict[torch.device, PromptControl] = {}

    def denoise(self, x: Tensor, sigma: float, predict: PredictPair) -> Tensor:
        """Clean estimate of the streams that a sampler carries, of the shape of ``x``.

        :param x: (B, C, h, w) targets with a replay, else (2B, C, h, w), targets and then sources.
        """
        replay = self.fusion.replay
        if replay is not None:
            way = replay.latents
            replay = replace(replay, latents=self._sent.on(x.device, lambda: way, "replay"))
            source = _rows(replay.at(sigma).to(x), len(x))
            (answer,) = self._predict(x, source, sigma, predict)
            return self._blended(answer, _rows(replay.denoised(sigma).to(x), len(x)), sigma)
        target, source = x.chunk(2)
        answer, original = self._predict(target, source, sigma, predict)
        return torch.cat([self._blended(answer, original, sigma), original])

    def _predict(self, target: Tensor, source: Tensor, sigma: float, predict: PredictPair) -> tuple[Tensor, ...]:
        """The streams' clean estimates, (B, C, h, w) each, under an edit that lives for this prediction."""
        shown = self._blended(target, source, sigma)
        words = None if self.maps is None else WordMaps(self.maps.words, self.maps.layers)
        edit = ControlledAttention(self._control(target.device), self.sigmas, words=words)
        try:
            answers = predict(shown, source, sigma, edit)
            if self.maps is not None and words is not None:
                self.maps.add_all(words)
        finally:
            edit.clear()
        return answers

    def _control(self, device: torch.device) -> PromptControl:
        """The fusion's control with its tables on a device."""
        if device not in self._controls:
            self._controls[device] = self.fusion.control.on(device)
        return self._controls[device]

    def _blended(self, target: Tensor, source: Tensor, sigma: float) -> Tensor:
        """The target where it may differ, the source elsewhere, (B, C, h, w).

        Used on what the model is shown and on what it answers, as ComfyUI does for inpainting: whatever the sampler,
        the last answer is the source's outside the mask.
        """
        height, width = target.shape[-2:]
        mask = self.fusion.mask
        if mask is not None:
            large = mask.float().reshape(-1, 1, *mask.shape[-2:])
            shrunk = self._sent.on(
                target.device, lambda: F.interpolate(large, size=(height, width), mode="area"), "mask", height, width
            )
            target = blend(target, source, _rows(shrunk.to(target), len(target)))
        if self.maps is not None and step_of(sigma, self.sigmas) >= self.maps.words.begins(len(self.sigmas) - 1):
            covered = self.maps.mask((height, width))
            target = blend(target, source, None if covered is None else _rows(covered, len(target)))
        return target


def _rows(rows: Tensor, count: int) -> Tensor:
    """(count, ...) rows, one a picture: a batch that repeats the pictures starts over."""
    if len(rows) == count:
        return rows
    return taken(rows, [picture % len(rows) for picture in range(count)])
