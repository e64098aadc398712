"""What the buttons do: pictures in, an :class:`Outcome` out. Nothing here knows the page."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, get_args

from .. import sources
from .pictures import Dropped, marks_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ...memory.entries import ColorMemory
    from ...memory.features import FeatureSource
    from ...pipelines.exemplar import ColorizeResult
    from ...pipelines.exemplar_references import References
    from ...pipelines.memory_settings import MemorySettings
    from .jobs import Job
    from .models import Models

log = logging.getLogger(__name__)

#: What a fallback may be.
Fallback = Literal["none", "automatic colors"]
FALLBACKS: tuple[Fallback, ...] = get_args(Fallback)


@dataclass(frozen=True)
class Source:
    """What colors come from, for the legend of the map.

    :param color: of its places on the map, as on the web.
    :param share: of the picture's places that it colors.
    """

    name: str
    color: str
    share: float


@dataclass(frozen=True)
class Made:
    """What a method made. All pictures are (1, H, W, 3) in 0..1.

    :param image: the result, at the picture's own size.
    :param confidence: how sure it is, over the gray picture; None where nothing is known.
    :param origin: where colors come from; None likewise.
    :param legend: of ``origin``, where it is in colors of its own.
    :param said: what was done.
    """

    image: Tensor
    confidence: Tensor | None
    origin: Tensor | None
    legend: tuple[Source, ...]
    said: str


@dataclass(frozen=True)
class Outcome:
    """What a job made of a picture, and how long it took.

    :param before: the picture as it was, (1, H, W, 3) in 0..1.
    """

    dropped: Dropped
    before: Tensor
    made: Made
    seconds: float


@dataclass(frozen=True)
class Colorize:
    """What is asked of coloring by example.

    :param layers: what was painted, see ``pictures.marks_of``.
    :param chosen: settings of the method, by their names.
    :param weights: of the references; () for all alike, one for all.
    :param palette: colors as a text, "" for none.
    """

    picture: Path | None
    references: Sequence[Path] = ()
    layers: Sequence[NDArray[Any]] = ()
    method: Literal["memory", "attention"] = "memory"
    chosen: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[float, ...] = ()
    palette: str = ""
    fallback: Fallback = "none"

    def __post_init__(self) -> None:
        if self.picture is None:
            raise ValueError("picture: found none; drop a gray picture first, or click one of the examples.")
        if len(self.weights) not in (0, 1, len(self.references)):
            raise ValueError(
                f"weights: found {len(self.weights)} for {len(self.references)} reference(s), expected one each."
            )

    @property
    def shares(self) -> tuple[float, ...]:
        """A weight for each reference."""
        return self.weights if len(self.weights) > 1 else (self.weights or (1.0,)) * len(self.references)


def colorize(models: Models, job: Job, asked: Colorize) -> Outcome:
    """Color by references, strokes and a palette.

    :raises ValueError: what is asked for does not go together, before any model call.
    """
    from ...color import desaturate

    assert asked.picture is not None
    begun, dropped = perf_counter(), job.read(asked.picture)
    strokes = marks_of(asked.layers, tuple(dropped.image.shape[1:3]))
    if asked.method == "attention":
        others = [name for name, there in (("strokes", strokes), ("a palette", asked.palette.strip())) if there]
        if others:
            raise ValueError(f"attention does not take {' and '.join(others)}; set method to memory, or clear them.")
    if not (asked.references or (asked.method == "memory" and (strokes or asked.palette.strip()))):
        more = ", paint strokes on the picture or list colors" if asked.method == "memory" else ""
        raise ValueError(f"references: found none, expected at least one color picture; drop one{more}.")
    pictures = [job.read(path) for path in asked.references]
    _check_color(pictures, bool(strokes or asked.palette.strip()))
    fallback = None if asked.fallback == "none" else _automatic(models, job, dropped.image)
    by = _by_memory if asked.method == "memory" else _by_attention
    made = by(models, job, asked, dropped.image, pictures, strokes, fallback)
    return Outcome(dropped, desaturate(dropped.image), made, perf_counter() - begun)


def _check_color(pictures: Sequence[Dropped], others: bool) -> None:
    gray = [each.name for each in pictures if not sources.is_colored(each.image)]
    if gray and len(gray) == len(pictures) and not others:
        raise ValueError(f"references: found no color in {', '.join(gray)}; drop color pictures.")


def _automatic(models: Models, job: Job, image: Tensor) -> Tensor:
    from ...pipelines.ddcolor import AutoColorSettings, auto_color

    job.begin(1, "automatic colors")
    made = auto_color(models.ddcolor, image, AutoColorSettings.resolve(models.ddcolor.recommended))
    job.step()
    return made


def _by_memory(
    models: Models,
    job: Job,
    asked: Colorize,
    image: Tensor,
    pictures: Sequence[Dropped],
    strokes: tuple[Tensor, Tensor] | None,
    fallback: Tensor | None,
) -> Made:
    from ...color import desaturate
    from ...color.heat import over_picture
    from ...pipelines.memory import color_in_batches, source_picture
    from ...pipelines.memory_features import ModelFeatures
    from ...pipelines.memory_settings import MemorySettings

    recommended = models.recommended("memory")
    settings = MemorySettings.resolve(recommended, **asked.chosen)
    job.begin(len(pictures) + (strokes is not None) + 1, "looking at the pictures")
    host = models.host(job.step)
    network = ModelFeatures(host, settings.features, models.model.name)
    memory = _memory(network, asked, settings, image, pictures, strokes)
    (result,) = color_in_batches(network, image, memory, settings, host.out_of_memory, fallback=fallback)
    gray = desaturate(image)
    return Made(
        result.images,
        over_picture(gray, result.confidence),
        source_picture(gray, result.source),
        legend_of(memory.sources, result.source),
        _sentence("memory", _made_of(pictures, strokes, asked), settings.explain(recommended, **asked.chosen)),
    )


def _memory(
    network: FeatureSource,
    asked: Colorize,
    settings: MemorySettings,
    image: Tensor,
    pictures: Sequence[Dropped],
    strokes: tuple[Tensor, Tensor] | None,
) -> ColorMemory:
    """All colors as one memory; one model call a reference and one for strokes."""
    from ...memory.entries import merged
    from ...pipelines.memory import write_palette, write_references, write_strokes
    from ...pipelines.memory_settings import PaletteSettings, WritingSettings

    memories, writing = [], WritingSettings(features=settings.features)
    if (colors := PaletteSettings(asked.palette).listed) is not None:
        memories.append(write_palette(colors))  # first: it may be refused, and costs nothing
    for number, (each, share) in enumerate(zip(pictures, asked.shares, strict=True), 1):
        name = f"{number}. {each.name}" if len(pictures) > 1 else each.name
        memories.append(
            write_references(
                network,
                each.image,
                writing,
                weights=(share,),
                names=(name,),
                maker=network.name,
                beside_others=True,  # gray ones were told of before
            )
        )
    if strokes is not None:
        painted, mask = strokes
        memories.append(write_strokes(network, image, painted, writing, mask=mask, maker=network.name))
    return merged(memories)


def _by_attention(
    models: Models,
    job: Job,
    asked: Colorize,
    image: Tensor,
    pictures: Sequence[Dropped],
    strokes: tuple[Tensor, Tensor] | None,
    fallback: Tensor | None,
) -> Made:
    from ...pipelines.exemplar_batches import calls_in_batches, colorize_in_batches
    from ...pipelines.exemplar_references import References
    from ...pipelines.exemplar_settings import ColorizeSettings

    recommended = models.recommended("exemplar")
    settings = ColorizeSettings.resolve(recommended, **asked.chosen)
    reference: Tensor | References = pictures[0].image
    if len(pictures) > 1:
        reference = References(tuple(each.image for each in pictures), weights=asked.shares)
        reference.check_settings(settings)
    host = models.host(job.step)
    job.begin(calls_in_batches(host, image, reference, settings), "inverting and sampling")
    (result,) = colorize_in_batches(host, image, reference, settings, fallback=fallback, expect=job.expect)
    job.check()
    confidence, carried = _looked_into(image, reference, result)
    said = _sentence("attention", _made_of(pictures, strokes, asked), settings.explain(recommended, **asked.chosen))
    return Made(result.images, confidence, carried, (), said)


def _looked_into(
    image: Tensor, reference: Tensor | References, result: ColorizeResult
) -> tuple[Tensor | None, Tensor | None]:
    """How sure attention is of its matches, and what it carries over; None where settings kept nothing to tell."""
    from ...attention.dual_banks import NothingKeptError
    from ...color import desaturate
    from ...color.heat import over_picture
    from ...pipelines.attention_map import attention_maps, attention_maps_of_several
    from ...pipelines.confidence import full_size
    from ...pipelines.exemplar_references import References

    try:
        if isinstance(reference, References):
            (maps, *_) = attention_maps_of_several(
                result.source,
                [part.gray for part in result.reference.parts],
                image,
                reference.pictures,
                weights=reference.weights,
            )
        else:
            maps = attention_maps(result.source, result.reference.gray, image, reference)
    except NothingKeptError as error:
        log.warning("No confidence and no map of where colors come from: these settings kept nothing to make them of.")
        log.debug("%s", error)
        return None, None
    height, width = image.shape[1:3]
    return over_picture(desaturate(image).cpu(), full_size(maps.confidence.cpu(), (height, width))), maps.carried


def recolor(job: Job, original: Path | None, edited: Path | None, chosen: Mapping[str, Any]) -> Outcome:
    """Bring the colors of an edited copy back onto the photograph.

    :raises ValueError: a picture is missing, or they do not go together.
    """
    from ...color import desaturate
    from ...color.heat import over_picture
    from ...pipelines.transfer import TransferSettings, transfer_colors

    for name, path in (("original", original), ("edited copy", edited)):
        if path is None:
            raise ValueError(f"{name}: found none; drop both pictures, the original and its edited copy.")
    assert original is not None and edited is not None
    begun, settings = perf_counter(), TransferSettings.resolve(**chosen)
    dropped, copy = job.read(original), job.read(edited)
    job.begin(1, "finding how the copy was moved")
    result = transfer_colors(
        dropped.image, copy.image, settings, progress=lambda done, _: job.step() if done else job.check()
    )
    job.notes += [note for note in result.notes if note not in job.notes]
    farthest = float(result.displacement.norm(dim=-1).max())
    confidence = over_picture(desaturate(dropped.image), result.confidence.cpu())
    said = f"Colors of {copy.name}, found up to {farthest:.0f} pixels away."
    made = Made(result.images, confidence, result.aligned.cpu(), (), said)
    return Outcome(dropped, dropped.image, made, perf_counter() - begun)


def auto(models: Models, job: Job, picture: Path | None, chosen: Mapping[str, Any]) -> Outcome:
    """Color with no reference.

    :raises ValueError: there is no picture.
    """
    from ...color import desaturate
    from ...pipelines.ddcolor import AutoColorSettings, auto_color

    if picture is None:
        raise ValueError("picture: found none; drop a gray picture first, or click one of the examples.")
    begun, dropped = perf_counter(), job.read(picture)
    job.begin(1, "coloring")
    settings = AutoColorSettings.resolve(models.ddcolor.recommended, **chosen)
    image = auto_color(models.ddcolor, dropped.image, settings)
    job.step()
    said = _sentence("DDColor", models.ddcolor.name, settings.explain(models.ddcolor.recommended, **chosen))
    return Outcome(dropped, desaturate(dropped.image), Made(image, None, None, (), said), perf_counter() - begun)


def legend_of(names: Sequence[str], source: Tensor) -> tuple[Source, ...]:
    """Sources by their names, with their color on the map and how much of the picture they color.

    :param source: (1, H, W) int64, numbers of sources; -1 for none.
    """
    import torch

    from ...color import to_uint8
    from ...pipelines.memory import source_picture

    if not names:
        return ()
    numbers = torch.arange(len(names))[None, None]
    swatches = to_uint8(source_picture(torch.full((1, 1, len(names), 3), 0.6), numbers))[0, 0].tolist()
    return tuple(
        Source(name, "#{:02x}{:02x}{:02x}".format(*swatch), float((source == number).float().mean()))
        for number, (name, swatch) in enumerate(zip(names, swatches, strict=True))
    )


def _made_of(pictures: Sequence[Dropped], strokes: object, asked: Colorize) -> str:
    count = len(pictures)
    parts = [f"{count} reference{'s' * (count > 1)}"] * (count > 0) + ["strokes"] * (strokes is not None)
    parts += ["a palette"] * bool(asked.palette.strip())
    return ", ".join(parts)


def _sentence(method: str, of: str, explained: str) -> str:
    said = f"By {method}, from {of}."
    return f"{said} {explained[:1].upper()}{explained[1:]}." if explained else said
