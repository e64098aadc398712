"""DDColor, L-CAD and DEADiff of a user's own."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from ...color import ab_error, desaturate, luminance_error
from ..ddcolor import AutoColorSettings, auto_color
from ..lcad import LCADSettings, describe
from .checks import UNKNOWN, Check, Finding, Verdict
from .embedded import Pictures
from .subjects import AutoColor, Describer, Once, Tokens

#: Mean distance from gray of colors that a trained network gives, Lab units. Photographs have some 5 to 40.
_LEAST, _MOST = 2.0, 60.0

#: What L-CAD is told of the photograph.
WORDS = "a brown cat with green eyes"


def ddcolor_checks(pictures: Pictures, network: Once) -> list[Check]:
    """Of a DDColor file."""

    @torch.no_grad()
    def color() -> Finding:
        loaded: AutoColor = network.first()
        gray = pictures.photo[0]
        settings = AutoColorSettings.resolve(loaded.recommended)
        begun = time.perf_counter()
        colored = auto_color(loaded, gray, settings).cpu()
        seconds = time.perf_counter() - begun
        return _colors(colored, gray, f"{loaded.variant}, {seconds:.2g} s at {settings.resolution}", "DDColor")

    return [_check("DDColor", "The photograph, colored with no reference.", color)]


def lcad_checks(pictures: Pictures, network: Once, quick: bool) -> list[Check]:
    """Of an L-CAD checkpoint."""

    @torch.no_grad()
    def color() -> Finding:
        loaded: Describer = network.first()
        gray = pictures.photo[0]
        chosen: dict[str, Any] = {"steps": 4, "resolution": 128} if quick else {"steps": 20}
        settings = LCADSettings.resolve(loaded.recommended, **chosen)
        begun = time.perf_counter()
        colored = describe(loaded, gray, WORDS, settings).cpu()
        seconds = time.perf_counter() - begun
        said = f"{seconds / settings.steps:.2g} s a step at {settings.resolution}"
        return _colors(colored, gray, said, f"L-CAD: {WORDS}")

    return [_check("L-CAD", f"The photograph, colored by '{WORDS}'.", color)]


def deadiff_checks(pictures: Pictures, network: Once) -> list[Check]:
    """Of a DEADiff checkpoint, or an adapter."""

    @torch.no_grad()
    def encode() -> Finding:
        tokens: Tokens = network.first()
        begun = time.perf_counter()
        one, other = (tokens(each) for each in (pictures.photo[1], pictures.scene[1]))
        apart = {kind: float((one[kind] - other[kind]).norm() / one[kind].norm()) for kind in one}
        seconds = (time.perf_counter() - begun) / 2  # a device has done its work when its numbers are here
        if not all(bool(t.isfinite().all()) for t in (*one.values(), *other.values())):
            return Finding("no numbers", "failed", "The encoder overflows in this precision; use float32.")
        verdict: Verdict = "good" if min(apart.values()) > 0.01 else "look"
        note = "" if verdict == "good" else "Two quite different pictures give the same tokens: random weights?"
        listed = ", ".join(f"{kind} {value:.2f}" for kind, value in apart.items())
        return Finding(f"{listed}; {seconds:.2g} s a picture", verdict, note, {**apart, "seconds": seconds})

    return [
        Check(
            "DEADiff",
            "tokens",
            "How much the tokens of two quite different pictures differ, relative to their length.",
            f"more than 0.01; released weights: {UNKNOWN}",
            "an encoder that sees nothing gives all pictures the same tokens",
            encode,
        )
    ]


def _check(system: str, measures: str, run: Any) -> Check:
    return Check(
        system,
        "coloring",
        measures,
        f"colorfulness {_LEAST:g} to {_MOST:g}, L within 0.5; released weights: {UNKNOWN}",
        "photographs have some 5 to 40; the merge keeps lightness",
        run,
    )


def _colors(colored: Tensor, gray: Tensor, said: str, caption: str) -> Finding:
    if not bool(colored.isfinite().all()):
        return Finding("no numbers", "failed", "The network overflows in this precision; use bfloat16 or float32.")
    kept, chroma = float(luminance_error(colored, gray)), float(ab_error(colored, desaturate(gray)))
    found = f"colorfulness {chroma:.1f}, L within {kept:.2f}; {said}"
    numbers = {"colorfulness": chroma, "lightness": kept}
    if kept > 0.5:
        return Finding(found, "failed", "The result's lightness is not the input's; please report it.", numbers)
    verdict: Verdict = "good" if _LEAST <= chroma <= _MOST else "look"
    note = "" if verdict == "good" else "No trained network colors so; these weights look random or untrained."
    return Finding(found, verdict, note, numbers, ((caption, colored),))
