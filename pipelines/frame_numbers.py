"""Numbers of frames as a person lists them."""

from __future__ import annotations

import re

from ..settings import shown


def listed_frames(text: str, called: str) -> tuple[int, ...]:
    """Numbers of frames, counted from 0, in the order listed; () for an empty list.

    :param text: separated by commas, semicolons or space.
    :param called: what the user calls the list; the message starts with it.
    :raises ValueError: something else than numbers of frames.
    """
    words = [word for word in re.split(r"[\s,;]+", text) if word]
    for word in words:
        if not re.fullmatch(r"[0-9]{1,12}", word):
            raise ValueError(f"{called}: found {shown(word)}, expected numbers of frames, such as 120, 388.")
    return tuple(map(int, words))


def listed_starts(cuts: str) -> tuple[int, ...]:
    """The frames at which shots begin, ascending, 0 first; () where cuts are to be looked for.

    :raises ValueError: something else than numbers of frames.
    """
    numbers = listed_frames(cuts, "cuts")
    return tuple(sorted({0, *numbers})) if numbers else ()
