"""What learning through a frozen model shares: its setting, its scale in half precision, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from ..settings import Settings, setting

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Losses of half-precision networks are multiplied by this before the backward pass: their gradients are below what
#: float16 holds. A power of two, so that nothing else changes.
HALF_SCALE = 4096.0


@dataclass(frozen=True)
class GradientSettings(Settings):
    """What everything that is learned through a model can choose."""

    gradient_checkpointing: bool = setting(
        False,
        "Off is faster. On computes activations twice instead of keeping them: much less memory, about a third more "
        "time.",
        advanced=True,
    )


def drain(generator: Generator[Item, None, Result], on_item: Callable[[Item], None]) -> Result:
    """Run a generator to its end and return its value; what ``on_item`` raises ends it."""
    while True:
        try:
            item = next(generator)
        except StopIteration as done:
            return done.value
        on_item(item)
