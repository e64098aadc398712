"""The embedded models, example pictures and the example film: where their files are.

``model.safetensors`` is a diffusion model, ``lcad.safetensors`` one for color from words; the headers of both carry
their configuration (``files.headers``, ``networks.embedded``). ``ddcolor.safetensors`` and ``deadiff.safetensors`` are
files like the published ones, only small (``networks.ddcolor.load``, ``networks.deadiff.load``). What each file
recommends stands in its header too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..settings import Settings, setting

_FOLDER = Path(__file__).resolve().parent


def model_path() -> Path:
    """Where the embedded model's file is installed."""
    return _FOLDER / "model.safetensors"


def ddcolor_path() -> Path:
    """Where the embedded DDColor's file is installed."""
    return _FOLDER / "ddcolor.safetensors"


def lcad_path() -> Path:
    """Where the embedded L-CAD's file is installed."""
    return _FOLDER / "lcad.safetensors"


def deadiff_path() -> Path:
    """Where the embedded model's DEADiff adapter is installed."""
    return _FOLDER / "deadiff.safetensors"


def pictures_path() -> Path:
    """The folder of the example pictures."""
    return _FOLDER / "pictures"


def recorded_path() -> Path:
    """Where the numbers are installed that the doctor holds the embedded files against (``pipelines.doctor``)."""
    return _FOLDER / "recorded.json"


@dataclass(frozen=True)
class ExampleSettings(Settings):
    """Pictures to try things on: a gray one and a color reference."""

    pictures: Literal["drawing", "scene", "photo", "words"] = setting(
        "drawing",
        "drawing: a flower drawn by two hands. scene: two things that change places, so that position is no clue. "
        "photo: a cat seen twice. words: an apple and an umbrella, for L-CAD, whose embedded model knows both by name. "
        "The embedded models know drawings; photographs want Stable Diffusion.",
    )


def example_paths(settings: ExampleSettings) -> tuple[Path, Path]:
    """Where a gray picture and its reference are installed."""
    suffix = "jpg" if settings.pictures == "photo" else "png"
    folder = _FOLDER / "pictures"
    return folder / f"{settings.pictures}-gray.png", folder / f"{settings.pictures}-reference.{suffix}"


#: The frames of the example film that are given in color, of its first and its last shot.
FILM_KEYS = (12, 60)


def film_path() -> Path:
    """Where the example film is installed: three shots in gray."""
    return _FOLDER / "pictures" / "film-gray.mp4"


def film_color_paths() -> tuple[Path, ...]:
    """Where a reference of the example film's second shot is installed, and its frames :data:`FILM_KEYS` in color."""
    keys = (_FOLDER / "pictures" / f"film-key-{number}.png" for number in FILM_KEYS)
    return _FOLDER / "pictures" / "film-reference.jpg", *keys
