"""A film in one picture: its shots with scores, key frames, and where the next ones are needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL import ImageDraw

    from .film_scores import ShotReport

#: Width of a shot's tile, and height of its picture, of the bars below, and of its caption.
WIDTH, PICTURE, BARS, CAPTION = 144, 96, 34, 16
#: Tiles in a row, and most tiles: of more shots those that are matched worst.
ROW, MOST = 8, 512
_GAP = 6
_KEY, _SUGGESTED = (30, 90, 220), (240, 130, 0)


def film_strip(shots: Sequence[ShotReport]) -> Tensor:
    """(1, h, w, 3) in 0..1: a tile for each shot.

    Below its picture each tile has a bar for every few frames, high and green where they are well matched, low and red
    where not; a blue line is a key frame, an orange triangle the one that is suggested.
    """
    from PIL import Image, ImageDraw

    numbered = list(enumerate(shots))
    if len(numbered) > MOST:
        worst = sorted(numbered, key=lambda each: 2.0 if each[1].score is None else each[1].score)[:MOST]
        numbered = sorted(worst)
    rows = -(-len(numbered) // ROW) or 1
    columns = min(ROW, len(numbered)) or 1
    height = PICTURE + BARS + CAPTION
    sheet = Image.new("RGB", (columns * (WIDTH + _GAP) + _GAP, rows * (height + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (number, shot) in enumerate(numbered):
        left, top = _GAP + place % ROW * (WIDTH + _GAP), _GAP + place // ROW * (height + _GAP)
        draw.rectangle((left, top, left + WIDTH - 1, top + PICTURE - 1), fill=(225, 225, 225))
        if shot.thumbnail is not None:
            shown = Image.fromarray(shot.thumbnail.numpy())
            scale = min(WIDTH / shown.width, PICTURE / shown.height)
            size = (max(1, round(shown.width * scale)), max(1, round(shown.height * scale)))
            sheet.paste(
                shown.resize(size, Image.Resampling.BICUBIC),
                (left + (WIDTH - size[0]) // 2, top + (PICTURE - size[1]) // 2),
            )
        _bars(draw, shot, left, top + PICTURE)
        score = f"{shot.score:.2f}" if shot.score is not None else "in color" if shot.colored else ""
        said = f"{number + 1}: {shot.start}-{shot.stop - 1}  {score}"
        draw.text((left + 2, top + PICTURE + BARS + 2), said, fill="black")
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255)[None]


def _bars(draw: ImageDraw.ImageDraw, shot: ShotReport, left: int, top: int) -> None:
    """Scores over the shot's frames, with its key frames and the suggested one."""
    draw.rectangle((left, top, left + WIDTH - 1, top + BARS - 1), fill=(245, 245, 245))
    length = shot.stop - shot.start
    for x in range(WIDTH if shot.match else 0):
        first, last = x * len(shot.match) // WIDTH, (x + 1) * len(shot.match) // WIDTH
        some = shot.match[first : max(first + 1, last)]
        value = min(some)  # the worst is what is looked for
        color = (round(210 * (1 - value) + 40 * value), round(60 * (1 - value) + 165 * value), 60)
        high = max(1, round(value * (BARS - 8)))
        draw.line((left + x, top + BARS - high, left + x, top + BARS - 1), fill=color)

    def at(number: int) -> int:
        return left + min(WIDTH - 1, (number - shot.start) * WIDTH // max(1, length))

    for number in shot.key_frames:
        draw.line((at(number), top, at(number), top + BARS - 1), fill=_KEY, width=2)
    if shot.suggestion is not None:
        x = at(shot.suggestion)
        draw.polygon(((x - 5, top), (x + 5, top), (x, top + 8)), fill=_SUGGESTED)
