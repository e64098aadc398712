"""Drawings as the training prepares them, without fetching any."""

import numpy as np
import pytest


@pytest.fixture(scope="session")
def drawings():
    """Six things by two hands: colored discs with a lid of another color, in slightly different sizes."""
    from training.drawings import SIDE, Drawings

    names = ["red-apple", "banana", "flamingo", "blue-heart", "fox", "bell"]
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE * 2 - 1
    pictures, found, hands = [], [], []
    for i, name in enumerate(names):
        for hand, radius in (("noto", 0.9), ("twemoji", 0.8)):
            picture = np.zeros((SIDE, SIDE, 4), np.uint8)
            color = np.array([40 + 35 * i, 220 - 35 * i, 60 + 20 * i])
            picture[..., :3] = np.where((y < -0.2)[..., None], color[::-1], color)
            picture[..., 3] = 255 * (x**2 + y**2 < radius**2)
            pictures.append(picture)
            found.append(name)
            hands.append(hand)
    return Drawings(np.stack(pictures), found, hands)
