"""What hosts give the doctor: models with what is known of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from ..ddcolor import ColorNetwork
from ..lcad import LCADHost
from ..vct import TranslationHost
from .checks import NotRunError


class AutoColor(ColorNetwork, Protocol):
    """A DDColor network."""

    @property
    def recommended(self) -> Mapping[str, Any]:
        """Settings that its file recommends."""
        ...

    @property
    def variant(self) -> str:
        """What its architecture is called."""
        ...


class Describer(LCADHost, Protocol):
    """An L-CAD."""

    @property
    def recommended(self) -> Mapping[str, Any]:
        """Settings that its file recommends."""
        ...


#: References (n, H, W, 3) in 0..1 -> kind (style, semantics) -> tokens (pictures, tokens, hidden), float32.
Tokens = Callable[[Tensor], Mapping[str, Tensor]]


#: Families by the width of their prompts; hosts tell SDXL, which is as wide as none of these.
_FAMILIES = {768: "SD 1.x", 1024: "SD 2.x"}


def family_of(width: int | None) -> str:
    """What a Stable Diffusion is called whose prompts are so many channels wide."""
    return _FAMILIES.get(width or 0, f"a Stable Diffusion of prompts {width} wide")


def other_precision(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Single for half, and for single the half precision that a device is fast in."""
    half = torch.bfloat16 if device.type == "cpu" else torch.float16
    return half if dtype == torch.float32 else torch.float32


@dataclass(frozen=True)
class Model:
    """A Stable Diffusion, or the embedded model.

    :param host: it with its autoencoder, and the empty prompt.
    :param recommended: system -> settings.
    :param family: such as ``SD 1.x``.
    :param dtype: of the UNet's arithmetic.
    :param about: what else is known of it, in words with commas between them.
    """

    host: TranslationHost
    recommended: Mapping[str, Mapping[str, Any]]
    family: str
    dtype: torch.dtype
    about: str

    @property
    def exemplar(self) -> Mapping[str, Any]:
        """What it recommends for exemplar colorization."""
        return self.recommended.get("exemplar", {})


class Once:
    """Something that is loaded when it is first asked for; where that failed, it is not tried again.

    :param load: gives it.
    :param what: it is called, for messages.
    """

    def __init__(self, load: Callable[[], Any], what: str) -> None:
        self._load, self.what = load, what
        self._failed = False

    @cached_property
    def _loaded(self) -> Any:
        return self._load()

    def first(self) -> Any:
        """It; raises what loading raises."""
        try:
            return self._loaded
        except NotRunError:
            raise
        except Exception:
            self._failed = True
            raise

    def __call__(self) -> Any:
        """It.

        :raises NotRunError: it could not be loaded before.
        """
        if self._failed:
            raise NotRunError(f"{self.what} could not be loaded, see above.")
        return self.first()


@dataclass(frozen=True)
class Files:
    """The four files that come with the pack, each loaded when it is asked for.

    :param model: a :class:`Model`; ``ddcolor`` an :class:`AutoColor`, ``lcad`` a :class:`Describer`, ``deadiff``
        :data:`Tokens`.
    """

    model: Once
    ddcolor: Once
    lcad: Once
    deadiff: Once


@dataclass(frozen=True)
class Checkpoint:
    """A user's checkpoint.

    :param name: of its file; "" where nobody knows.
    :param model: a :class:`Model`.
    :param other: the same in another precision: single where it is in half, half where it is in single.
    """

    name: str
    model: Once
    other: Once
