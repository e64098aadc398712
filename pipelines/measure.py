"""The papers' tables: how good colored pictures are, each measure as it is defined and as it was published.

    pairs, one after another --> a number a picture, features of networks --> means, distances of sets --> a table

``color.measures`` has the arithmetic, ``networks.measure`` the networks; :mod:`.measure_table` lists the measures,
:mod:`.measure_report` shows what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ..color import ab_error, as_picture, color_ghosting, luminance_error, psnr
from ..color.film_metrics import STEPS, cdc_of_shares, channel_shares
from ..color.measures import (
    colorfulness,
    colorfulness_as_ddcolor,
    frechet_distance,
    histogram_intersection,
    histogram_intersection_as_exemplar,
    psnr_as_colormnet,
    single_image_distance,
    single_image_distance_as_exemplar,
    ssim,
    ssim_as_skimage,
)
from ..color.measures.colorfulness import levels
from ..settings import Settings, setting
from .measure_table import DDCOLOR, METRIC, METRICS, Measured, Metric, Row, Two


@dataclass(frozen=True)
class MeasureSettings(Settings):
    """What is measured beside what the pictures allow."""

    frames: bool = setting(
        False,
        "On, the pictures are the frames of one shot, in order, and how steady their colors are is measured, too "
        "(CDC). Off for pictures that have nothing to do with each other.",
    )


def check_frames(settings: MeasureSettings, count: int, name: str = "frames") -> None:
    """Whether there are as many pictures as steadiness is measured of, before any work.

    :param name: what the user calls the setting.
    :raises ValueError: too few.
    """
    if settings.frames and count <= max(STEPS):
        raise ValueError(
            f"{name}: found {count} picture(s), expected at least {max(STEPS) + 1}, the frames of one shot; leave it "
            "off, or take a longer shot."
        )


class Seen(Protocol):
    """What Inception sees of some pictures (``networks.measure.inception.Seen``)."""

    @property
    def first(self) -> Tensor:
        """(B, 64, h, w), after the first pooling."""
        ...

    @property
    def second(self) -> Tensor:
        """(B, 192, h, w), before the second pooling."""
        ...

    @property
    def last(self) -> Tensor | None:
        """(B, 2048)."""
        ...


class Looks(Protocol):
    """Inception (``networks.measure.inception.Inception``)."""

    def look(self, pictures: Tensor, *, resize: bool = True, whole: bool = True) -> Seen:
        """:param pictures: (B, H, W, 3) in 0..1. ``resize``: to the network's size; ``whole``: whether to its end."""
        ...


class Compares(Protocol):
    """LPIPS (``networks.measure.perceptual.Perceptual``)."""

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """(B, 3, H, W) each, in -1..1 -> (B,)."""
        ...


class Networks(Protocol):
    """The networks that there are (``networks.measure.files.MeasureNetworks``)."""

    @property
    def inception(self) -> Looks | None:
        """With FID's weights."""
        ...

    @property
    def torchvision(self) -> Looks | None:
        """With torchvision's weights."""
        ...

    @property
    def perceptual(self) -> Compares | None:
        """LPIPS."""
        ...

    @property
    def missing(self) -> Mapping[str, str]:
        """By the names above, which measures have to be left out, and why."""
        ...


@dataclass(frozen=True)
class Pair:
    """A picture and what it is measured against, each (1, H, W, 3) in 0..1.

    :param output: the colored picture; ``name`` what it is called.
    :param reference: whose colors it should have, of any size.
    :param truth: what it should be; ``gray`` what was colored; both of the output's size.
    """

    name: str
    output: Tensor
    reference: Tensor | None = None
    truth: Tensor | None = None
    gray: Tensor | None = None


#: Smallest side that leaves networks something to see, pixels.
_LEAST = 35
#: Largest side that features of all places are taken of, whose number grows with the area: gigabytes beyond.
_MOST = 2048

Measure = Callable[[Tensor, Tensor], Tensor]

#: Against what pictures are measured through each network.
_NEEDING = {"inception": {"reference", "truth"}, "torchvision": {"truth"}, "perceptual": {"reference", "truth"}}

#: Of a picture and what it is measured against: as published, as defined.
_OF_PAIRS: dict[str, tuple[Measure | None, Measure]] = {
    "his": (histogram_intersection_as_exemplar, histogram_intersection),
    "psnr": (psnr_as_colormnet, psnr),
    "ssim": (ssim_as_skimage, ssim),
    "ab_error": (None, ab_error),
    "lightness_error": (None, luminance_error),
    "ghosting": (None, color_ghosting),
}


@dataclass
class Measuring:
    """Pairs, one after another; :meth:`result` when all were there. Holds numbers and features, no pictures.

    :param networks: what distances and LPIPS look through; without them they are left out.
    :param device: where networks are.
    """

    settings: MeasureSettings = field(default_factory=MeasureSettings)
    networks: Networks | None = None
    device: str | torch.device = "cpu"
    names: list[str] = field(default_factory=list)
    _each: dict[str, list[Two]] = field(default_factory=dict)
    _truths: list[Two] = field(default_factory=list)
    _features: dict[str, list[Tensor]] = field(default_factory=dict)
    _shares: list[Tensor] = field(default_factory=list)
    _refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    _needed: set[str] = field(default_factory=set)

    def add(self, pair: Pair) -> None:
        """Measure a picture.

        :raises ValueError: what is no picture, or a truth or a gray input of another size.
        """
        output = as_picture(pair.output, pair.name)
        against = {"reference": pair.reference, "truth": pair.truth, "gray": pair.gray}
        known = {name: as_picture(each, f"{pair.name}: {name}") for name, each in against.items() if each is not None}
        for name in ("truth", "gray"):
            if name in known and known[name].shape != output.shape:
                raise ValueError(
                    f"{pair.name}: found a {name} of {_size(known[name])} pixels for {_size(output)}, expected the "
                    "same size; scale one of them, by the same program for all."
                )
        if "gray" not in known and "truth" in known:
            known["gray"] = known["truth"]
        self.names.append(pair.name)
        self._needed |= known.keys()
        for metric in METRICS:
            if metric.key in _OF_PAIRS and metric.needs in known:
                measures = _OF_PAIRS[metric.key]
                self._note(metric.key, *(self._tried(metric, each, output, known[metric.needs]) for each in measures))
        self._note("colorfulness", float(colorfulness_as_ddcolor(output)), float(colorfulness(output)))
        if "truth" in known:
            truth = known["truth"]
            self._truths.append((float(colorfulness_as_ddcolor(truth)), float(colorfulness(truth))))
        if self.settings.frames:
            self._shares.append(channel_shares(output[0]))
        self._look(output, known)

    def _note(self, key: str, published: float | None, defined: float | None) -> None:
        self._each.setdefault(key, []).append((published, defined))

    def _tried(self, metric: Metric, measure: Measure | None, output: Tensor, other: Tensor) -> float | None:
        """A number; None, and the reason once, where a measure does not take these sizes."""
        if measure is None:
            return None
        try:
            return float(measure(output, other))
        except ValueError as error:
            how = "as published" if measure is _OF_PAIRS[metric.key][0] else "as defined"
            self._refuse(metric, measure.__name__, f"{how}: {error}")
            return None

    def _refuse(self, metric: Metric, what: str, said: str) -> None:
        """Remember why a measure has no number for a picture: the first reason, and of how many."""
        count, first = self._refused.get(what, (0, f"{metric.name}, {said}"))
        self._refused[what] = (count + 1, first)

    @torch.no_grad()
    def _look(self, output: Tensor, known: dict[str, Tensor]) -> None:
        """What networks see of a pair."""
        if self.networks is None:
            return
        named = {"output": output, **{name: known[name] for name in ("reference", "truth") if name in known}}
        if (inception := self.networks.inception) is not None:
            seen = {name: self._seen(inception, "fid", name, picture) for name, picture in named.items()}
            if "reference" in known:
                self._single(inception, seen, output, known["reference"])
        if (other := self.networks.torchvision) is not None and "truth" in known:
            for name in ("output", "truth"):
                self._seen(other, "torchvision", name, named[name])
        if self.networks.perceptual is not None:
            self._compare(self.networks.perceptual, output, known)

    def _seen(self, network: Looks, kind: str, name: str, picture: Tensor) -> Seen:
        """What Inception sees of a picture, whose last features are kept."""
        look = network.look(_in_levels(picture).to(self.device))
        if look.last is not None:
            self._features.setdefault(f"{kind} {name}", []).append(look.last[0].cpu())
        return look

    def _single(self, network: Looks, seen: dict[str, Seen], output: Tensor, reference: Tensor) -> None:
        """SI-FID of a pair, as defined at the pictures' own sizes."""
        metric, defined = METRIC["si_fid"], None
        published = single_image_distance_as_exemplar(seen["output"].first[0], seen["reference"].first[0])
        small = min((output, reference), key=lambda picture: min(picture.shape[1:3]))
        large = max((output, reference), key=lambda picture: max(picture.shape[1:3]))
        if max(large.shape[1:3]) > _MOST:
            self._refuse(metric, "places", f"as defined: found {_size(large)} pixels, expected at most {_MOST} a side.")
        elif min(small.shape[1:3]) < _LEAST:
            self._refuse(metric, "places", f"as defined: found {_size(small)} pixels, expected at least {_LEAST}.")
        else:
            looks = (network.look(each.to(self.device), resize=False, whole=False) for each in (output, reference))
            defined = single_image_distance(*(look.second[0] for look in looks))
        self._note(metric.key, published, defined)

    def _compare(self, network: Compares, output: Tensor, known: dict[str, Tensor]) -> None:
        """LPIPS of a pair."""

        def distance(other: Tensor, scale: float, offset: float) -> float:
            both = (_in_levels(each).to(self.device).movedim(-1, 1) * scale + offset for each in (other, output))
            return float(network(*both))

        for name in ("reference", "truth"):
            if name not in known:
                continue
            metric, other = METRIC[f"lpips_{name}"], known[name]
            if other.shape != output.shape or min(output.shape[1:3]) < _LEAST:
                said = f"found {_size(other)} for {_size(output)} pixels"
                self._refuse(metric, metric.key, f"{said}, expected the same and at least {_LEAST} a side.")
                self._note(metric.key, None, None)
                continue
            defined = distance(other, 2, -1)
            self._note(metric.key, distance(other, 255, 0) if name == "truth" else defined, defined)

    def result(self) -> Measured:
        """The table.

        :raises ValueError: nothing was measured, or frames that are too few.
        """
        if not self.names:
            raise ValueError("measure: found no picture, expected at least one.")
        rows = [row for metric in METRICS if (row := self._row(metric)) is not None]
        notes = [f"{said} ({count} of {len(self.names)} pictures)" for count, said in self._refused.values()]
        if any(row.metric.key.startswith("fid") for row in rows):
            notes.append(f"FID of {len(self.names)} pictures: it falls with their number; compare sets of one number.")
        if self.networks is not None:
            notes += [said for name, said in self.networks.missing.items() if self._needed & _NEEDING[name]]
        return Measured(tuple(rows), tuple(self.names), tuple(notes))

    def _row(self, metric: Metric) -> Row | None:
        if metric.key.startswith("fid"):
            return self._distance_row(metric)
        if metric.key == "cdc":
            steady = cdc_of_shares(self._shares) if self.settings.frames else None
            return None if steady is None else Row(metric, steady, steady)
        if metric.key == "delta_colorfulness":
            if len(self._truths) < len(self.names):
                return None
            own, true = (_means(each) for each in (self._each["colorfulness"], self._truths))
            differences = [None if a is None or b is None else abs(a - b) for a, b in zip(own, true, strict=True)]
            return Row(metric, differences[0], differences[1])
        each = self._each.get(metric.key, [])
        if len(each) < len(self.names):  # it lacked something
            return None
        return Row(metric, *_means(each), tuple(each))

    def _distance_row(self, metric: Metric) -> Row | None:
        sets = [f"fid {metric.needs}", "fid output"]
        defined = self._distance(*sets)
        published = defined
        if metric.published_by == DDCOLOR:
            published = self._distance("torchvision truth", "torchvision output")
        return None if published is None and defined is None else Row(metric, published, defined)

    def _distance(self, *sets: str) -> float | None:
        features = [self._features.get(name, []) for name in sets]
        if min(map(len, features)) < max(2, len(self.names)):
            return None
        return frechet_distance(*(torch.stack(each) for each in features))


def _means(each: Sequence[Two]) -> Two:
    """Means over all pictures; None where one has no number, since a mean over some is another measure."""
    columns = zip(*each, strict=True)
    published, defined = (
        None if any(value is None for value in column) else sum(value or 0.0 for value in column) / len(each)
        for column in columns
    )
    return published, defined


def _in_levels(picture: Tensor) -> Tensor:
    """A picture as a file of 8 bits holds it, which is what the published programs read."""
    return levels(picture).float() / 255


def _size(picture: Tensor) -> str:
    return f"{picture.shape[2]} x {picture.shape[1]}"
