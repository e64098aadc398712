"""The README's pictures: each recipe's inputs and its result, from one run each.

A photograph and a drawing by a reference (both shipped); a photograph by an edited copy of it that has drifted in a
known way, with the plain merge beside; a drawing by references, a stroke and a palette.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from comfyui_exemplar.cli import main as command_line
from comfyui_exemplar.color import merge_luminance, to_uint8
from comfyui_exemplar.color.heat import side_by_side
from comfyui_exemplar.demo import ExampleSettings, example_paths
from comfyui_exemplar.files.pictures import load_picture
from comfyui_exemplar.files.saving import save_image, save_picture
from comfyui_exemplar.pipelines.sheet import labeled, scaled
from comfyui_exemplar.pipelines.transfer import TransferSettings, transfer_colors

from .canvases import Canvas
from .drift import Drift
from .drift_pairs import Changes, DriftPair, pair

HEIGHT = 240
#: What edit models do at once: a zoom of 5 %, a shift, a bend of a few pixels, and their decoder's softness.
EDIT = Changes(Drift(zoom=1.05, shift=(14.0, -10.0), warp=4.0, seed=7), soft=0.5)
MARGIN = 40
#: The lowest berry of the scene, (top, bottom, left, right) in pixels of its file, and what is painted there.
BERRY, PAINT = (178, 194, 58, 86), (60, 150, 30)


def write_recipes(packages: Path, output: Path) -> list[Path]:
    """Write ``by-a-reference.jpg``, ``by-an-edit.jpg`` and ``by-strokes.jpg``.

    :param packages: folder of the fetched packages, for NASA's portrait (scikit-image's *astronaut*, public domain).
    """
    output.mkdir(parents=True, exist_ok=True)
    made = {
        "by-a-reference": [by_reference(name, output) for name in ("photo", "scene")],
        "by-an-edit": [by_edit(drifted_portrait(packages))],
        "by-strokes": [by_strokes(output)],
    }
    return [_save(rows, output / f"{name}.jpg") for name, rows in made.items()]


def by_reference(name: str, output: Path) -> Tensor:
    """A shipped pair, colored by the method with attention: input, reference, result."""
    gray, reference = example_paths(ExampleSettings(name))
    result = output / f"{name}.png"
    _run("colorize", gray, "--reference", reference, "--output", result)
    return _row({"input": load_picture(gray), "reference": load_picture(reference), "result": load_picture(result)})


def drifted_portrait(packages: Path) -> DriftPair:
    """NASA's portrait of Eileen Collins, and a copy in color that moved in a known way."""
    picture = load_picture(packages / "scikit-image" / "skimage" / "data" / "astronaut.png")[0]

    def nothing(random: np.random.Generator) -> tuple[Tensor, Tensor]:
        return picture, torch.zeros(picture.shape[:2], dtype=torch.bool)

    canvas = Canvas(picture, MARGIN, "astronaut", nothing, lambda random: torch.zeros(picture.shape[:2]))
    return pair(canvas, "mixed", 1.0, EDIT, np.random.default_rng(0))


def by_edit(drifted: DriftPair) -> Tensor:
    """Original, edit, the edit's chroma laid on as it is, and ours."""
    laid = merge_luminance(drifted.edited, drifted.original)
    ours = transfer_colors(drifted.original, drifted.edited, TransferSettings()).images
    return _row({"photograph": drifted.original, "edit": drifted.edited, "laid on as it is": laid, "result": ours})


def by_strokes(output: Path) -> Tensor:
    """A drawing by a reference and one painted berry, through a color memory."""
    gray, reference = example_paths(ExampleSettings("scene"))
    painted = load_picture(gray)
    top, bottom, left, right = BERRY
    painted[:, top:bottom, left:right] = torch.tensor(PAINT) / 255
    strokes, result = output / "strokes.png", output / "strokes-result.png"
    save_picture(painted, strokes)
    _run("colorize", gray, "--reference", reference, "--strokes", strokes, "--output", result)
    return _row({"input, painted on": painted, "reference": load_picture(reference), "result": load_picture(result)})


def _run(*words: object) -> None:
    if code := command_line([str(word) for word in words]):
        raise RuntimeError(f"the command {words[0]} ended with {code}, expected 0; see what it said above.")


def _row(pictures: dict[str, Tensor]) -> Tensor:
    return side_by_side([labeled(scaled(picture, HEIGHT), label) for label, picture in pictures.items()], gap=6)


def _save(rows: list[Tensor], path: Path) -> Path:
    width = max(row.shape[2] for row in rows)
    padded = [torch.cat([row, torch.ones(1, row.shape[1], width - row.shape[2], 3)], 2) for row in rows]
    save_image(Image.fromarray(to_uint8(torch.cat(padded, 1))[0].numpy()), path, quality=88)
    return path
