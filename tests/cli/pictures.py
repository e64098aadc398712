"""Pictures and calls for tests of the command line."""

import subprocess
import sys

import numpy as np
from PIL import Image

from comfyui_exemplar.__main__ import main

#: Few and small model calls of the embedded model.
QUICK = ("--depth", "2", "--resolution", "32")


def shapes(width, height, mode="RGB"):
    """A smooth picture with something to see."""
    y, x = np.mgrid[0:height, 0:width]
    red = 120 + 80 * np.sin(x / 7)
    green = 120 + 80 * np.cos(y / 9)
    rgb = np.stack([red, green, 200 - (x + y) * 100 / (width + height)], -1).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray((rgb[..., 0].astype(np.uint16) * 257) + 31)
    if mode == "RGBA":
        alpha = np.where(x < width // 4, 0, 255).astype(np.uint8)
        return Image.fromarray(np.dstack([rgb, alpha]))
    return Image.fromarray(rgb).convert(mode)


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "comfyui_exemplar", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )


def size_of(path):
    with Image.open(path) as image:
        return image.size


def run(*arguments):
    return main([str(a) for a in arguments])
