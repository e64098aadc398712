"""Pictures of where attention looks, from two inversions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention.correspondence import Correspondence, correspond, heat
from ..attention.dual_banks import NothingKeptError
from ..attention.layers import Layer, LayerInfo, select_layers
from ..attention.union import Union, united
from ..color import resize
from ..color.batches import Batches, freed
from ..color.heat import heat_overlay
from ..color.sizes import size_of
from ..diffusion.inversion import Inversion
from ..settings import Settings, setting, share


@dataclass(frozen=True)
class AttentionMapSettings(Settings):
    """Where to look from, and at what."""

    x: float = setting(
        0.5, "Where to look from. 0 is the left edge, 1 the right.", low=0.0, high=1.0, step=0.01, round=0.001
    )
    y: float = setting(
        0.5, "Where to look from. 0 is the top edge, 1 the bottom.", low=0.0, high=1.0, step=0.01, round=0.001
    )
    layers: str = setting(
        "coarse",
        "Layers to average: coarse ones match things, fine ones match textures. Any preset or range, as in Attention "
        "Capture.",
        advanced=True,
    )
    position: float = share(
        0.0, "When on the way back to look: 0 is the noisiest kept step, 1 the last.", advanced=True
    )
    carry: Literal["soft", "hard"] = setting(
        "soft",
        "soft averages the reference's colors with the attention weights; hard takes the best match of every place.",
        advanced=True,
    )
    picture: int = setting(
        0,
        "Which picture of a batch, counted from 0. A number beyond the end starts over.",
        low=0,
        high=4095,
        advanced=True,
    )


@dataclass(frozen=True)
class AttentionMaps:
    """Where attention looks, as pictures and masks.

    :param shown: (1, H, W', 3), the input with the place that looks, beside the reference with where it looks.
    :param heat: (1, h, w), attention on the reference, largest value 1.
    :param carried: (1, H, W, 3), the reference carried over to the input.
    :param confidence: (1, H, W) in 0..1.
    """

    shown: Tensor
    heat: Tensor
    carried: Tensor
    confidence: Tensor


def attention_maps(
    source: Inversion,
    target: Inversion,
    image: Tensor,
    reference: Tensor,
    settings: AttentionMapSettings | None = None,
    *,
    region: Tensor | None = None,
    device: torch.device | None = None,
    out_of_memory: Callable[[Exception], bool] = freed,
) -> AttentionMaps:
    """Where a place of the input looks in the reference, and what attention carries from there to every place.

    :param source: the input's inversion with kept q; ``target`` the reference's with kept k.
    :param image: (B, H, W, 3) in 0..1; ``reference`` (b, h, w, 3). A batch that is too short starts over.
    :param settings: None looks from the place that is surest of its match.
    :param region: (n, H', W') mask to look from instead of a point.
    :param device: where to compute, layer by layer (None: where the features are).
    :param out_of_memory: whether an error says that memory ran out: then it is done for fewer tokens at once.
    :raises NothingKeptError: no layer has what is needed.
    :raises ValueError: an empty region.
    """
    picture = 0 if settings is None else settings.picture
    keys = _OneReference(target, reference[picture % len(reference)][None].cpu(), picture)
    (maps,) = _maps(source, target, image, keys, settings, region, device, out_of_memory)
    return maps


def attention_maps_of_several(
    source: Inversion,
    targets: Sequence[Inversion],
    image: Tensor,
    references: Sequence[Tensor],
    settings: AttentionMapSettings | None = None,
    *,
    masks: Sequence[Tensor | None] = (),
    weights: Sequence[float] = (),
    region: Tensor | None = None,
    device: torch.device | None = None,
    out_of_memory: Callable[[Exception], bool] = freed,
) -> list[AttentionMaps]:
    """The same where several references serve every input: one for each reference, whose heat has a common scale.

    What is carried over and how sure it is, is the same in all of them: attention chooses among the places of all.

    :param targets: inversions of references of one size each.
    :param references: (1, h, w, 3) in 0..1, as many as there are pictures in ``targets``.
    :param masks: for each reference (1, *, *) or None, () for none; ``weights`` one each, as in ``attention.union``.
    :raises NothingKeptError: no layer has what is needed.
    :raises ValueError: an empty region, or numbers that do not fit.
    """
    union = united([(target.bank, target.bank) for target in targets], masks, weights)
    if len(references) != sum(target.pictures for target in targets):
        raise ValueError(
            f"reference: found {len(references)} for {sum(target.pictures for target in targets)} inverted one(s), "
            "expected as many; connect the references that were inverted."
        )
    keys = _SeveralReferences(union, tuple(reference.cpu() for reference in references))
    target = replace(targets[0], bank=union.color)
    return _maps(source, target, image, keys, settings, region, device, out_of_memory)


class _Keys(Protocol):
    """What is looked at: tokens of one reference, or of several."""

    @property
    def pictures(self) -> Sequence[Tensor]:
        """(1, h, w, 3) each."""
        ...

    def of(self, sigma: float, layer: Layer) -> Tensor:
        """(M, heads · d)."""
        ...

    def colors(self, layer: Layer) -> Tensor:
        """(M, 3) in 0..1."""
        ...

    def bias(self, layer: Layer) -> Tensor | None:
        """(M,), of the logits."""
        ...

    def split(self, layer: Layer, values: Tensor) -> list[Tensor]:
        """(M,) -> (h, w) for each picture."""
        ...


@dataclass(frozen=True)
class _OneReference:
    target: Inversion
    reference: Tensor
    picture: int

    @property
    def pictures(self) -> Sequence[Tensor]:
        return (self.reference,)

    def of(self, sigma: float, layer: Layer) -> Tensor:
        return _kept(self.target, self.target.bank.nearest(sigma), layer, "k", self.picture)

    def colors(self, layer: Layer) -> Tensor:
        return _colors(self.reference, self.target.bank.grid(layer))

    def bias(self, layer: Layer) -> Tensor | None:
        return None

    def split(self, layer: Layer, values: Tensor) -> list[Tensor]:
        return [values.unflatten(0, self.target.bank.grid(layer))]


@dataclass(frozen=True)
class _SeveralReferences:
    union: Union
    pictures: Sequence[Tensor]

    def of(self, sigma: float, layer: Layer) -> Tensor:
        bank = self.union.color
        return bank.get(bank.nearest(sigma), layer, "k")[0]

    def colors(self, layer: Layer) -> Tensor:
        each = zip(self.pictures, self.union.grids[layer], self.union.tokens[layer], strict=True)
        parts = [(_colors(picture, grid), chosen) for picture, grid, chosen in each]
        return torch.cat([colors if chosen is None else colors[chosen.cpu()] for colors, chosen in parts])

    def bias(self, layer: Layer) -> Tensor | None:
        return None if self.union.bias is None else self.union.bias[layer]

    def split(self, layer: Layer, values: Tensor) -> list[Tensor]:
        return self.union.split(layer, values)


def _maps(  # as the public functions
    source: Inversion,
    target: Inversion,
    image: Tensor,
    keys: _Keys,
    settings: AttentionMapSettings | None,
    region: Tensor | None,
    device: torch.device | None,
    out_of_memory: Callable[[Exception], bool],
) -> list[AttentionMaps]:
    point = None if settings is None else (settings.x, settings.y)
    settings = settings or AttentionMapSettings()
    picture = settings.picture
    image = image[picture % len(image)][None].cpu()
    if region is not None:
        region = region[picture % len(region)][None].cpu()
    layers = shared_layers(source, target, settings.layers)
    sigmas = source.bank.sigmas
    sigma = sigmas[min(int(settings.position * len(sigmas)), len(sigmas) - 1)]
    soft = settings.carry == "soft"
    carried, confidence = [], []

    def features(info: LayerInfo) -> _Features:
        q = _kept(source, sigma, info.layer, "q", picture)
        k, bias = keys.of(sigma, info.layer), keys.bias(info.layer)
        return _Features(q.to(device or q.device), k.to(device or q.device), info.heads, out_of_memory, bias)

    for info in layers:
        grid = source.bank.grid(info.layer)
        match = features(info).correspond(keys.colors(info.layer))
        carried.append(_to_size(match.soft if soft else match.hard, grid, size_of(image), smooth=soft))
        confidence.append(_to_size(match.confidence[:, None], grid, size_of(image)))
    sure = torch.stack(confidence).mean(0)[..., 0].clamp(0, 1)
    if point is None:
        point = _surest(sure)

    heats: list[list[Tensor]] = []
    for info in layers:
        weight = _query_weight(source.bank.grid(info.layer), point, region)
        planes = keys.split(info.layer, features(info).heat(weight))
        each = zip(planes, keys.pictures, strict=True)
        heats.append([_to_size(plane.flatten()[:, None], size_of(plane[None]), size_of(of)) for plane, of in each])
    means = [torch.stack(of_layers).mean(0)[..., 0] for of_layers in zip(*heats, strict=True)]
    most = torch.stack([mean.amax() for mean in means]).amax().clamp_min(1e-12)
    together = torch.stack(carried).mean(0).clamp(0, 1)
    made = []
    for mean, reference in zip(means, keys.pictures, strict=True):
        shown = heat_overlay(image, reference, mean / most, point if region is None else None, region)
        made.append(AttentionMaps(shown, mean / most, together, sure))
    return made


@dataclass(frozen=True)
class _Features:
    """What one layer kept of a picture, where it is worked on, for as many tokens at once as memory allows.

    :param q: (N, heads · d); ``k`` is (M, heads · d).
    :param bias: (M,), of the logits; None for none.
    """

    q: Tensor
    k: Tensor
    heads: int
    out_of_memory: Callable[[Exception], bool]
    bias: Tensor | None = None

    def correspond(self, values: Tensor) -> Correspondence:
        """``attention.correspondence.correspond`` with values of the key tokens, (M, c); the result is on the CPU."""
        values = values.to(self.q.device)

        def matched(part: slice) -> Correspondence:
            match = correspond(self.q[part], self.k, self.heads, values, self.bias)
            return Correspondence(match.soft.cpu(), match.hard.cpu(), match.index.cpu(), match.confidence.cpu())

        parts = [match for _, match in Batches(len(self.q), self.out_of_memory, "token(s)").of(len(self.q), matched)]
        return Correspondence(
            torch.cat([part.soft for part in parts]),
            torch.cat([part.hard for part in parts]),
            torch.cat([part.index for part in parts]),
            torch.cat([part.confidence for part in parts]),
        )

    def heat(self, weight: Tensor) -> Tensor:
        """``attention.correspondence.heat`` of query tokens with these weights, (N,); the result is on the CPU, (M,).

        :raises ValueError: no token has any weight.
        """
        chosen = torch.nonzero(weight > 0).squeeze(1)
        if len(chosen) < 2:
            return heat(self.q, self.k, self.heads, weight, self.bias).cpu()

        def paid(part: slice) -> Tensor:
            these = torch.zeros_like(weight)
            these[chosen[part]] = weight[chosen[part]]
            return heat(self.q, self.k, self.heads, these, self.bias).cpu() * (these.sum() / weight.sum())

        parts = Batches(len(chosen), self.out_of_memory, "token(s)").of(len(chosen), paid)
        return torch.stack([part for _, part in parts]).sum(0)


def shared_layers(source: Inversion, target: Inversion, expression: str) -> tuple[LayerInfo, ...]:
    """Layers of the expression of which the input kept q and the reference k.

    :raises NothingKeptError: there is none.
    """
    with_q = {layer for _, layer, name, _ in source.bank.items() if name == "q"}
    with_k = {layer for _, layer, name, _ in target.bank.items() if name == "k"}
    chosen = tuple(i for i in select_layers(expression, source.layers) if i.layer in with_q & with_k)
    if not chosen:
        raise NothingKeptError(
            f"layers is '{expression}': found none of them with both q in input_inversion and k in "
            "reference_inversion, expected one at least. Kept q: "
            f"{', '.join(sorted(at.name for at in with_q)) or 'none'}; kept k: "
            f"{', '.join(sorted(at.name for at in with_k)) or 'none'}. Connect the gray reference's inversion, choose "
            "other layers, or keep more with Attention Capture."
        )
    return chosen


def _kept(inversion: Inversion, sigma: float, layer: Layer, letter: str, picture: int) -> Tensor:
    """A kept projection of one picture, (N, heads · d)."""
    kept = inversion.bank.get(sigma, layer, letter)
    return kept[picture % kept.shape[0]]


def _colors(picture: Tensor, grid: tuple[int, int]) -> Tensor:
    """A picture's colors on a grid, (1, H, W, 3) -> (h · w, 3)."""
    # in one order in memory, which a product's order of adding follows: the same picture gives the same bits
    return resize(picture, grid)[0].flatten(0, 1).contiguous()


def _surest(confidence: Tensor) -> tuple[float, float]:
    """(x, y) of the largest confidence, (1, H, W), away from the border: corners match corners, which shows nothing."""
    _, height, width = confidence.shape
    rows, columns = height // 8, width // 8
    inner = torch.zeros_like(confidence)
    inner[:, rows : height - rows, columns : width - columns] = 1
    at = int(((confidence + 1) * inner).flatten().argmax())
    return (at % width + 0.5) / width, (at // width + 0.5) / height


def _query_weight(grid: tuple[int, int], point: tuple[float, float], region: Tensor | None) -> Tensor:
    """(N,): the tokens to look from."""
    if region is not None:
        return F.adaptive_avg_pool2d(region.float()[None], grid).flatten()
    rows, columns = grid
    weight = torch.zeros(rows, columns)
    weight[min(int(point[1] * rows), rows - 1), min(int(point[0] * columns), columns - 1)] = 1
    return weight.flatten()


def _to_size(tokens: Tensor, grid: tuple[int, int], size: tuple[int, int], smooth: bool = True) -> Tensor:
    """(N, c) on a grid -> (1, H, W, c)."""
    channels_first = tokens.float().cpu().unflatten(0, grid).movedim(-1, 0)[None]
    if smooth:
        return F.interpolate(channels_first, size, mode="bilinear", align_corners=False).movedim(1, -1)
    return F.interpolate(channels_first, size, mode="nearest").movedim(1, -1)
