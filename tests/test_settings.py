"""Settings: one field, and everything that is made from it."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from comfyui_exemplar.settings import AUTO, Settings, entries, setting, share


@dataclass(frozen=True)
class Inner(Settings):
    strength: float = share(0.5, "Low is weak, high is strong.", auto=True)


@dataclass(frozen=True)
class Outer(Settings):
    steps: int = setting(10, "Low is fast, high is fine.", low=1, high=100, auto=True)
    shape: Literal["round", "square"] = setting("round", "Of the thing.", published="square")
    name: str = setting("", "Any.")
    quiet: bool = setting(False, "On says nothing.")
    inner: Inner = field(default_factory=Inner)
    device: object = None  # no user's business


def test_entries_are_flat_and_in_order():
    assert list(entries(Outer)) == ["steps", "shape", "name", "quiet", "strength"]
    assert entries(Outer)["shape"].options == ("round", "square") and entries(Outer)["strength"].path == ("inner",)


def test_what_was_chosen_counts_then_the_model_then_the_default():
    model = {"steps": 4, "strength": 0.25, "unknown": 1}
    assert Outer.resolve(model, steps=7) == Outer(7, inner=Inner(0.25))
    assert Outer.resolve(model, steps=AUTO, strength=-1.0) == Outer(4, inner=Inner(0.25))
    assert Outer.resolve(None, steps=None, device="cpu") == Outer(device="cpu")
    assert Outer.resolve({}, inner=Inner(0.1)) == Outer(inner=Inner(0.1))


def test_auto_says_what_it_took():
    model = {"steps": 4}
    chosen = {"steps": AUTO, "strength": -1.0}
    told = Outer.resolve(model, **chosen).explain(model, **chosen)
    assert told == "recommended by the model: steps 4; published: strength 0.5"
    assert Outer(7).explain(model, steps=7, strength=0.5) == ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps is 0; it must lie between 1 and 100"),
        ({"steps": 2.5}, "steps is 2.5; expected a whole number"),
        ({"steps": float("nan")}, "expected a whole number"),
        ({"steps": "many"}, "steps is 'many'; expected a number"),
        ({"steps": "7"}, "steps is '7'; expected a number"),
        ({"steps": 10**400}, "expected a whole number"),
        ({"strength": [0.5]}, "expected a number"),
        ({"shape": "flat"}, "shape is 'flat'; expected one of round, square"),
        ({"name": 3}, "name is 3; expected a text"),
        ({"quiet": "no"}, "quiet is 'no'; expected on or off"),
        ({"strength": 1.5}, "strength is 1.5; it must lie between 0 and 1"),
    ],
)
def test_values_out_of_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Outer.resolve({}, **values)


def test_whole_numbers_are_whole():
    """A file's header may say 4.0; what counts with it needs 4."""
    made = Outer.resolve({"steps": 4.0})
    assert made == Outer(4) and type(made.steps) is int


def test_auto_needs_room_below():
    with pytest.raises(TypeError, match="lower bound"):
        setting(0.0, "x", low=-1.0, auto=True)
