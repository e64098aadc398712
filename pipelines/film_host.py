"""What the flow of a film asks of who reads and writes it: files, or frames at hand. They satisfy it by shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor


class FilmFacts(Protocol):
    """What is known of a film before it is read."""

    @property
    def width(self) -> int:
        """Of a frame, in pixels."""
        ...

    @property
    def height(self) -> int:
        """Of a frame, in pixels."""
        ...

    @property
    def frames(self) -> int | None:
        """How many the header promises; None where it does not say."""
        ...


class FilmFrame(Protocol):
    """One frame."""

    @property
    def index(self) -> int:
        """Counted from 0."""
        ...

    @property
    def picture(self) -> Tensor:
        """(H, W, 3) in 0..1."""
        ...


class FilmSource(Protocol):
    """A film to be colored. It can be read several times, also by readers that take turns."""

    @property
    def facts(self) -> FilmFacts:
        """What is known of it."""
        ...

    def frames(self, start: int = 0, stop: int | None = None) -> Iterator[Any]:
        """:class:`FilmFrame` from ``start`` on, up to but without ``stop``."""
        ...

    def small(self, longest: int) -> Iterator[Any]:
        """All frames with a longest side of at most so many pixels."""
        ...


class ShotSink(Protocol):
    """Where a shot's frames go. ``scores`` is kept with them; it holds what JSON can hold."""

    scores: dict[str, Any]

    def write(self, frame: Any, picture: Tensor) -> None:
        """Take a frame of the film, and its colored picture, (H, W, 3) in 0..1."""
        ...


class FilmSink(Protocol):
    """Where a film goes, shot by shot."""

    def check(self) -> None:
        """Whether it can be written.

        :raises ValueError: it cannot.
        """
        ...

    def begin(self, shots: Sequence[tuple[int, int]]) -> Mapping[int, Mapping[str, Any]]:
        """What shots there are, (start, stop); returns the whole ones that are there, with their scores."""
        ...

    def shot(self, number: int) -> AbstractContextManager[ShotSink]:
        """Begin one; left by an exception it is thrown away."""
        ...

    def finish(self) -> Any:
        """All shots are there; returns where the film is."""
        ...
