"""Dual attention-guided color transfer (Kosugi 2025, arXiv 2505.15812), as an attention edit.

In the chosen decoder layers the self-attention of the picture being colored is replaced by

    o = softmax((γ · q_input·k_grayᵀ + (1−γ) · q·k_refᵀ) / √d) · v_ref
    o ← (1−β) · o + β · softmax(q_input·k_inputᵀ / √d) · v

where q and v are the running picture's, and the rest was kept by three DDIM inversions: the gray input, the color
reference (``ref``) and the reference without its colors (``gray``). γ leans on the correspondence between gray and
gray, which color cannot disturb; β holds on to the input's own structure. Layers at the finest attention resolution
("shallow") and the others ("deep") have their own γ and β.

The β term uses the *kept* q and k but the *running* v, as the published program does.

In a transformer whose attention holds the prompt's tokens too, these stay in both softmaxes with the running picture's
own logits, so the prompt keeps its say; their own rows are not the edit's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.batches import Batches, check_masks, freed
from .bank import nearest_level, pick_rows
from .call import CONDITIONAL, Attend, AttentionCall, faded, on_rows
from .constants import Constants
from .dual_banks import DualBanks, Role
from .dual_settings import DualAttentionSettings
from .fused import blend_after_softmax, blend_before_softmax, blend_beside, sdpa, with_key_bias
from .layers import Layer
from .levels_on_device import LevelReader
from .token_masks import check_reference_mask, to_grid, tokens_in_mask

#: Beside projections, the name of an output that is known before sampling.
FIXED = "fixed"

_MIXES = {"before softmax": blend_before_softmax, "after softmax": blend_after_softmax}


class DualAttentionColor:
    """The edit. It acts on conditional rows only, so that guidance is the sampler's own.

    It keeps of the banks what it still reads, and the outputs that :meth:`precompute` found: they belong to the edit
    and live as long as the MODEL or the run that holds it. What goes to the device of a run, its masks and one level of
    features after the other, lives for that run, whose owner lets it go with :meth:`forget`.

    :param settings: γ, β and when to act.
    :param layers: layer -> whether it counts as shallow.
    :param banks: of input(s), reference(s) and gray reference(s).
    :param source_mask: (B or 1, H, W) in 0..1, where in the input color may go; None is everywhere.
    :param reference_mask: (B or 1, H, W), which parts of the reference may give color (those above one half).
    :ivar banks: reduced to what the edit still reads.
    :ivar pictures: how many pictures the edit knows; it serves latent batches of that size and their multiples.
    :ivar sigmas: levels at which the edit has features, highest first.
    :raises ValueError: banks or masks that do not fit each other, or an empty mask.
    :raises LookupError: a bank without what the settings need.
    """

    def __init__(
        self,
        settings: DualAttentionSettings,
        layers: Mapping[Layer, bool],
        banks: DualBanks,
        source_mask: Tensor | None = None,
        reference_mask: Tensor | None = None,
    ) -> None:
        self.settings, self.layers = settings, dict(layers)
        self._fixed: dict[tuple[float, Layer], Tensor] = {}
        needs = self._needs()
        banks.check(needs)
        check_masks(source_mask, banks.source.pictures, "input_mask")
        check_masks(reference_mask, banks.reference.pictures, "reference_mask")
        self._source_mask = source_mask
        self._key_tokens = self._select_keys(reference_mask, banks)
        self._sent = Constants()
        self._reader = LevelReader(self._features)
        # what is asked of banks that may be empty later
        self.pictures, self.sigmas, self._levels = banks.pictures, banks.sigmas, banks.reference.levels
        self._grids = {layer: banks.source.grid(layer) for layer, need in needs.items() if need["input"]}
        self.banks = banks.only(needs)

    def forget(self) -> None:
        """Let go of what the last run left on the device."""
        self._sent.clear()
        self._reader.forget()

    def holds(self, device: torch.device) -> int:
        """Bytes of features that a run puts on a device, at most; 0 where they are there already."""
        return self._reader.holds(device, [level for level in self.sigmas if self.active(level)])

    def misfit(self, call: AttentionCall) -> str | None:
        """What keeps the edit from this call, None for nothing: the input's features are of another grid of tokens."""
        grid = self._grids.get(call.layer)
        if grid is None or grid == call.grid:
            return None
        (height, width), (high, wide) = call.grid, grid
        return (
            f"{height} x {width} tokens where the inversion of the input had {high} x {wide} (a node such as Deep "
            "Shrink, on one of the two MODELs only)"
        )

    def active(self, sigma: float) -> bool:
        """Whether the edit acts at the kept level nearest to a sigma."""
        position = self.sigmas.index(nearest_level(self._levels, sigma)) / len(self.sigmas)
        return self.settings.start <= position < self.settings.end

    def precompute(
        self,
        heads: Mapping[Layer, int],
        attend: Attend = sdpa,
        device: torch.device | None = None,
        out_of_memory: Callable[[Exception], bool] = freed,
    ) -> None:
        """Compute what is known before sampling: with γ = 1 and β = 0 nothing of the running picture enters a layer.

        The outputs are kept where the features are, which the edit then lets go of. The device has those of one layer
        at one level at a time.

        :param heads: of each layer.
        :param attend: fused attention to compute with.
        :param device: where to compute (None: where the banks are).
        :param out_of_memory: whether an error says that memory ran out: then it is done for fewer pictures at once.
        """
        pictures, at_once = tuple(range(self.pictures)), Batches(self.pictures, out_of_memory)
        for layer in self._needs():
            if self.settings.weights(self.layers[layer]) == (1.0, 0.0):
                outputs = {}
                for level in self.sigmas:

                    def fixed(part: slice, layer: Layer = layer, level: float = level) -> Tensor:
                        return self._fixed_output(layer, level, pictures[part], heads[layer], attend, device)

                    parts = [made for _, made in at_once.of(self.pictures, fixed)]
                    outputs[level, layer] = torch.cat(parts) if len(parts) > 1 else parts[0]
                self._fixed |= outputs
                self.banks = self.banks.only(self._needs())
        self.forget()

    def __call__(self, call: AttentionCall, earlier: Callable[[AttentionCall], Tensor]) -> Tensor:
        """The colored attention, (rows, N, heads · d); rows that are not conditional are ``earlier``'s."""
        rows = call.rows_of(CONDITIONAL)
        if not rows or not self.active(call.sigma):
            return earlier(call)

        def edited(conditional: AttentionCall) -> Tensor:
            if self._uneven(conditional.layer, conditional.pictures):
                # masks that leave every reference its own number of tokens: one row after another
                colored = torch.cat([self._attention(conditional.select([i])) for i in range(len(rows))])
            else:
                colored = self._attention(conditional)
            share = self._share(conditional)
            alone = isinstance(share, float) and share == 1
            return colored if alone else faded(earlier(conditional), colored, share)

        return on_rows(call, rows, edited, earlier)

    def _attention(self, call: AttentionCall) -> Tensor:
        """The module's two equations for the rows of a call, (rows, N, heads · d)."""
        level = nearest_level(self._levels, call.sigma)

        def read(*name: str) -> Tensor:
            return pick_rows(self._reader.read(level, call.q.device, (call.layer, *name)), call.pictures)

        if (level, call.layer) in self._fixed:
            # a copy: what an edit returns may be worked on in place
            return read(FIXED).to(call.q, copy=True)
        gamma, beta = self.settings.weights(self.layers[call.layer])

        def kept(role: Role, letter: str) -> Tensor:
            return read(role, letter).to(call.q)

        def keys(role: Role, letter: str) -> Tensor:
            return self._in_mask(kept(role, letter), call.layer, call.pictures)

        v = keys("reference", "v")
        attend = self._attend(call.attend, call.layer, call.q.device)
        if call.beside is not None:
            return self._joint(call, kept, keys, gamma, beta)
        if gamma == 0:
            o = attend(call.q, keys("reference", "k"), v, call.heads)
            if beta == 0:
                return o
            q_input = kept("input", "q")
        else:
            q_input, k_gray = kept("input", "q"), keys("gray", "k")
            if gamma == 1:
                o = attend(q_input, k_gray, v, call.heads)
            else:
                mix = _MIXES[self.settings.mix]
                o = mix(q_input, k_gray, call.q, keys("reference", "k"), v, gamma, call.heads, attend)
        if beta > 0:
            o = torch.lerp(o, call.attend(q_input, kept("input", "k"), call.v, call.heads), beta)
        return o

    def _joint(
        self,
        call: AttentionCall,
        kept: Callable[[Role, str], Tensor],
        keys: Callable[[Role, str], Tensor],
        gamma: float,
        beta: float,
    ) -> Tensor:
        """The same where the prompt's tokens stand in the picture's attention: they keep their say.

        The running queries attend to them beside whatever is attended to in the picture's place.
        """
        assert call.beside is not None
        beside, heads, v = call.beside, call.heads, keys("reference", "v")
        attend = self._attend(call.attend, call.layer, call.q.device, beside[0].shape[1])

        def placed(k: Tensor) -> Tensor:
            if call.rotation is None or self.settings.reference_positions == "shared":
                return k
            return call.rotation.shift(call.grid).turned(k, heads)

        def blended(share: float) -> Tensor:
            k_gray = placed(keys("gray", "k")) if share > 0 else None
            k_reference = placed(keys("reference", "k")) if share < 1 else k_gray
            q_input = kept("input", "q") if share > 0 else call.q
            first = k_reference if k_gray is None else k_gray
            assert first is not None and k_reference is not None
            return blend_beside(q_input, first, call.q, k_reference, v, beside, share, heads, attend)

        if self.settings.mix == "before softmax" or gamma in (0, 1):
            o = blended(gamma)
        else:
            o = torch.lerp(blended(0.0), blended(1.0), gamma)
        if beta > 0:
            q_input, k_input = kept("input", "q"), kept("input", "k")
            own = blend_beside(q_input, k_input, call.q, k_input, call.v, beside, 1.0, heads, call.attend)
            o = torch.lerp(o, own, beta)
        return o

    def _fixed_output(
        self,
        layer: Layer,
        level: float,
        pictures: Sequence[int],
        heads: int,
        attend: Attend,
        device: torch.device | None,
    ) -> Tensor:
        """softmax(q_input·k_grayᵀ/√d) · v_ref of a layer at a level, (len(pictures), N, heads · d)."""
        if self._uneven(layer, pictures):
            parts = [self._fixed_output(layer, level, [picture], heads, attend, device) for picture in pictures]
            return torch.cat(parts)
        q = self._kept("input", "q", layer, level, pictures)
        k = self._kept("gray", "k", layer, level, pictures)
        v = self._kept("reference", "v", layer, level, pictures)
        running = q.to(device or q.device)
        k, v = (self._in_mask(t.to(running), layer, pictures) for t in (k, v))
        return self._attend(attend, layer, running.device)(running, k, v, heads).to(q)

    def _attend(self, attend: Attend, layer: Layer, device: torch.device, beside: int = 0) -> Attend:
        """Attention to the references' tokens, each with the weight of its reference.

        :param beside: tokens before them that have none.
        """
        bias = self.banks.bias
        if bias is None:
            return attend
        sent = self._sent.on(device, lambda: F.pad(bias[layer], (beside, 0)), "bias", layer, beside)
        return with_key_bias(attend, sent)

    def _needs(self) -> dict[Layer, dict[Role, str]]:
        """What the edit reads of the banks: of each layer whose outputs are not known, projections by role."""
        known = {layer for _, layer in self._fixed}
        return {layer: self.settings.needs(shallow) for layer, shallow in self.layers.items() if layer not in known}

    def _features(self, level: float) -> dict[Hashable, Tensor]:
        """All that the edit reads at a level."""
        found: dict[Hashable, Tensor] = {
            (layer, FIXED): fixed for (at, layer), fixed in self._fixed.items() if at == level
        }
        return found | {(layer, role, letter): kept for role, layer, letter, kept in self.banks.at(level)}

    def _kept(self, role: Role, letter: str, layer: Layer, level: float, pictures: Sequence[int]) -> Tensor:
        """A projection as the bank has it, (len(pictures), tokens, heads · d)."""
        bank = self.banks.of(role)
        return pick_rows(bank.get(bank.nearest(level), layer, letter), tuple(pictures))

    def _share(self, call: AttentionCall) -> float | Tensor:
        """How much of the edit each token gets; a tensor is (rows, N, 1), float32."""
        strength, shown = float(self.settings.strength), self._source_mask
        if shown is None:
            return strength
        mask = self._sent.on(call.q.device, lambda: to_grid(shown, call.grid), "mask", call.grid)
        return strength * pick_rows(mask.unsqueeze(-1), call.pictures)

    def _select_keys(self, mask: Tensor | None, banks: DualBanks) -> dict[Layer, list[Tensor]] | None:
        """For each layer and reference, the tokens that may be looked at."""
        if mask is None:
            return None
        check_reference_mask(mask)
        return {layer: tokens_in_mask(mask, banks.reference.grid(layer)) for layer in self.layers}

    def _in_mask(self, tokens: Tensor, layer: Layer, pictures: Sequence[int]) -> Tensor:
        """Drop the reference's tokens outside the mask: (rows, M, C) -> (rows, m, C)."""
        if self._key_tokens is None:
            return tokens
        chosen = self._tokens_of(layer, pictures)
        index = self._sent.on(tokens.device, lambda: torch.stack(chosen), "keys", layer, tuple(pictures))
        return torch.gather(tokens, 1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))

    def _tokens_of(self, layer: Layer, pictures: Sequence[int]) -> list[Tensor]:
        """For each picture, the reference tokens that its mask leaves."""
        if self._key_tokens is None:
            return []
        chosen = self._key_tokens[layer]
        return [chosen[picture % len(chosen)] for picture in pictures]

    def _uneven(self, layer: Layer, pictures: Sequence[int]) -> bool:
        """Whether masks leave these pictures different numbers of reference tokens."""
        return len({len(tokens) for tokens in self._tokens_of(layer, pictures)}) > 1
