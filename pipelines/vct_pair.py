"""A controlled pair of streams as one denoiser, for any sampler: what the hosts share.

Source and target are denoised side by side, the target under prompt-to-prompt control (``attention.control``). Where
the source's way is known (an inverted picture, :class:`~..diffusion.replay.Replay`), it is not computed anew: its
conditional row still runs, for its queries and keys, its unconditional row does not. That is 3 rows a step instead of
4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.control import ControlledAttention, PromptControl, step_of
from ..attention.layers import LayerInfo
from ..attention.word_maps import BlendWords, WordMaps, blend, blend_layers
from ..diffusion.replay import Replay

#: ``predict(target, source, sigma, edit) -> (target's clean estimate, source's, or None with a replay)``, both guided.
PredictPair = Callable[[Tensor, Tensor, float, ControlledAttention], tuple[Tensor, Tensor | None]]


class ControlledRun:
    """One sampling run of a pair.

    :param sigmas: (N+1,) descending levels of the run.
    :param infos: the model's layers.
    :param replay: the source's way, when it is known.
    :param words: words of a local blend; None for none.
    :param mask: (1 or B, H, W) in 0..1, a given blend: the target inside, the source outside.
    :raises ValueError: fewer than two levels.
    """

    def __init__(
        self,
        control: PromptControl,
        sigmas: Sequence[float],
        infos: Iterable[LayerInfo] = (),
        replay: Replay | None = None,
        words: BlendWords | None = None,
        mask: Tensor | None = None,
    ) -> None:
        if len(sigmas) < 2:
            raise ValueError(f"A run needs at least two levels; got {list(sigmas)}.")
        self.control, self.replay, self.mask = control, replay, mask
        self.sigmas = tuple(float(s) for s in sigmas)
        self.words = None if words is None else WordMaps(words, blend_layers(infos))

    def denoise(self, x: Tensor, sigma: float, predict: PredictPair) -> Tensor:
        """Clean estimate of the streams that a sampler carries.

        :param x: (B, C, h, w) targets with a replay, else (2B, C, h, w), targets and then sources.
        """
        if self.replay is not None:
            target, source = x, _rows(self.replay.at(sigma).to(x), len(x))
        else:
            target, source = x.chunk(2)
        shown = self._blended(target, source, sigma)
        answer, original = self._predict(shown, source, sigma, predict)
        if self.replay is not None:
            original = _rows(self.replay.denoised(sigma).to(x), len(x))
        answer = self._blended(answer, original, sigma)
        return answer if self.replay is not None else torch.cat([answer, original])

    def _predict(
        self, shown: Tensor, source: Tensor, sigma: float, predict: PredictPair
    ) -> tuple[Tensor, Tensor | None]:
        words = None if self.words is None else WordMaps(self.words.words, self.words.layers)
        edit = ControlledAttention(self.control, self.sigmas, words=words)
        answers = predict(shown, source, sigma, edit)
        if words is not None:
            self.words.take_over(words)
        return answers

    def _blended(self, target: Tensor, source: Tensor, sigma: float) -> Tensor:
        """The target where it may differ, the source elsewhere.

        Used on what the model is shown and on what it answers, as ComfyUI does for inpainting: whatever the sampler,
        the last answer is the source's outside the mask.
        """
        size = tuple(target.shape[-2:])
        if self.mask is not None:
            given = F.interpolate(self.mask.float().reshape(-1, 1, *self.mask.shape[-2:]), size=size, mode="area")
            target = blend(target, source, _rows(given.to(target), len(target)))
        if self.words is not None and step_of(sigma, self.sigmas) >= self.words.words.begins(len(self.sigmas) - 1):
            found = self.words.mask(size)
            target = blend(target, source, None if found is None else _rows(found, len(target)))
        return target


def _rows(rows: Tensor, count: int) -> Tensor:
    """Rows for that many pictures: a batch that repeats the known ones starts over."""
    if len(rows) == count:
        return rows
    return rows[[picture % len(rows) for picture in range(count)]]
