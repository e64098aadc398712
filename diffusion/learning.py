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

#: What is said where less memory has to do.
SPARED = (
    "Memory is short, so gradient_checkpointing turns itself on: activations are computed twice instead of kept, which "
    "takes about a third more time."
)


@dataclass(frozen=True)
class GradientSettings(Settings):
    """What everything that is learned through a model can choose."""

    gradient_checkpointing: bool = setting(
        False,
        "Off is faster, and turns itself on where memory is short. On computes activations twice instead of keeping "
        "them: much less memory, about a third more time.",
        advanced=True,
    )


def drain(generator: Generator[Item, None, Result], on_item: Callable[[Item], object]) -> Result:
    """Run a generator to its end and return its value; what ``on_item`` raises ends it."""
    while True:
        try:
            item = next(generator)
        except StopIteration as done:
            return done.value
        on_item(item)


def drain_or_spare(
    start: Callable[[], Generator[Item, None, Result]],
    on_item: Callable[[Item], object],
    spare: Callable[[], bool],
    out_of_memory: Callable[[Exception], bool],
) -> Result:
    """:func:`drain` of what ``start`` makes. Where memory runs out before its first item, it is made once more.

    :param spare: has what is learned through need less memory; False where nothing is left to spare.
    :param out_of_memory: whether an error says that memory ran out; if so, it frees what can be freed.
    """
    generator = start()
    try:
        first = next(generator)
    except StopIteration as done:
        return done.value
    except Exception as error:
        if not out_of_memory(error) or not spare():
            raise
        generator = start()
    else:
        on_item(first)
    return drain(generator, on_item)
