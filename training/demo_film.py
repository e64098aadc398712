"""The example film that comes with the pack: three shots of drawings in gray, a key frame in color of the first and the
last, and a color reference of the other: the same things at other places.

Run it as ``python -m training.demo_film FOLDER``; FOLDER holds what ``python -m training prepare`` leaves.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from comfyui_exemplar.color import desaturate, lab_to_rgb
from comfyui_exemplar.demo import FILM_KEYS, film_color_paths, film_path

from .clip_scenes import GROUND, Scene, Stock, _premultiplied
from .clips import Clip
from .drawings import Drawings

#: Who drew it.
HAND = "noto"
#: What each shot shows; later ones lie before earlier ones.
THINGS = (
    ("tangerine", "cactus", "sunflower", "blueberries"),
    ("mushroom", "octopus", "lemon", "tropical-fish"),
    ("balloon", "broccoli", "strawberry", "crab"),
)
#: Color of each shot's ground, CIE Lab.
GROUNDS = ((86, -8, -16), (38, -22, 12), (66, 10, 30))
#: The shot that the reference is of.
REFERENCE = 1
#: Frames of a shot, frames a second, side of the square that is drawn, height that is kept, seed.
SHOT, RATE, SIDE, HEIGHT, SEED = 24, 12, 192, 144, 5


def clip(drawings: Drawings) -> Clip:
    """The film."""
    found = {(name, whose): row for row, (name, whose) in enumerate(zip(drawings.names, drawings.hands, strict=True))}
    random = np.random.default_rng(SEED)
    made = Clip(Stock.demo(), SEED, frames=SHOT * len(THINGS), size=SIDE)
    made.scenes = [
        Scene(
            i * SHOT,
            (i + 1) * SHOT,
            "drawings",
            _ground(color, random),
            [_premultiplied(drawings.pictures[found[name, HAND]]) for name in names],
        )
        for i, (names, color) in enumerate(zip(THINGS, GROUNDS, strict=True))
    ]
    return made


def _ground(color: tuple[int, int, int], random: np.random.Generator) -> np.ndarray:
    """Nearly even, as behind the drawings that the embedded model knows; uneven enough to be seen moving."""
    import cv2

    lab = np.full((GROUND, GROUND, 3), color, dtype=np.float32)
    for cells, strength in ((4, 5.0), (24, 2.0)):
        noise = random.standard_normal((cells, cells)).astype(np.float32)
        lab[..., 0] += strength * cv2.resize(noise, (GROUND, GROUND), interpolation=cv2.INTER_CUBIC)
    return lab_to_rgb(torch.from_numpy(lab)[None])[0].clamp(0, 1).numpy()


def cropped(picture: Tensor) -> Tensor:
    """The middle of a square picture."""
    above = (SIDE - HEIGHT) // 2
    return picture[above : above + HEIGHT]


def write(folder: Path) -> None:
    """The files, where they are installed."""
    import av

    drawings = Drawings.load(folder / "drawings.npz")
    reference, *keys = film_color_paths()
    film = clip(drawings)
    with av.open(str(film_path()), "w", options={"fflags": "+bitexact", "movflags": "+faststart"}) as file:
        options = {"crf": "20", "preset": "veryslow", "flags": "+bitexact"}
        stream = file.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = SIDE, HEIGHT, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = 6, 1
        for frame in film.frames():
            gray = desaturate(cropped(frame.clean)[None], "rec601_8bit")[0]
            made = av.VideoFrame.from_ndarray(_bytes(gray), format="rgb24")
            file.mux(stream.encode(made.reformat(format="yuv420p", dst_colorspace=6)))
        file.mux(stream.encode(None))
    for number, path in zip(FILM_KEYS, keys, strict=True):
        Image.fromarray(_bytes(cropped(film.frame(number).clean))).save(path, optimize=True)
    shown = film.reference(REFERENCE, _whole(film, REFERENCE))[0]
    Image.fromarray(_bytes(cropped(shown))).save(reference, quality=92)


def _whole(film: Clip, shot: int) -> int:
    """The rendering of a shot, among forty, whose middle frame shows most of the thing of which it shows least."""

    def least(motion: int) -> int:
        shown = cropped(film.again(motion).things(film.scenes[shot].middle))
        return min(int((shown == thing).sum()) for thing in range(1, len(THINGS[shot]) + 1))

    return max(range(1, 41), key=least)


def _bytes(picture: Tensor) -> np.ndarray:
    return (picture * 255).round().byte().numpy()


if __name__ == "__main__":
    write(Path(sys.argv[1]))
