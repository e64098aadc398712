"""Settings: one field, and everything that is made from it."""

import fractions
import importlib
import itertools
import pkgutil
import random
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest

import comfyui_exemplar.pipelines
from comfyui_exemplar.settings import AUTO, Settings, entries, setting, share

from .fixtures.odd import odd_for


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
        ({"strength": [0.5]}, "strength is a list; expected a number"),
        ({"strength": float("nan")}, "strength is nan; expected a finite number"),
        ({"strength": float("-inf")}, "strength is -inf; expected a finite number"),  # no way to say auto
        ({"steps": True}, "steps is True; expected a number"),
        ({"strength": False}, "strength is False; expected a number"),
        ({"strength": 0.5j}, "strength is a complex; expected a number"),
        ({"strength": np.array(0.5)}, "strength is a ndarray; expected a number"),
        ({"steps": 10**5000}, "steps is a huge number; expected a whole number"),
        ({"shape": ["round"]}, "shape is a list; expected one of round, square"),
        ({"quiet": 1}, "quiet is 1; expected on or off"),
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
    for four in (4.0, np.float32(4), np.int64(4)):
        made = Outer.resolve({"steps": four})
        assert made == Outer(4) and type(made.steps) is int


def every_class(base=Settings):
    for known in base.__subclasses__():
        if known.__module__.startswith("comfyui_exemplar."):
            yield known
        yield from every_class(known)


def every_setting():
    """Class and entry of every setting of the package, but for the nodes' own."""
    for module in pkgutil.walk_packages(comfyui_exemplar.pipelines.__path__, "comfyui_exemplar.pipelines."):
        importlib.import_module(module.name)
    return [
        pytest.param(known, entry, id=f"{known.__name__}.{name}")
        for known in sorted(set(every_class()), key=lambda known: known.__qualname__)
        for name, entry in entries(known).items()
    ]


@pytest.mark.parametrize(("known", "entry"), every_setting())
def test_every_setting_of_the_package_refuses_what_it_cannot_have(known, entry):
    """The kinds of odd values that come through links, one by one; the message is one short line."""
    if entry.kind in (int, float):
        about = entry.about
        assert about.low is not None and about.high is not None, f"{entry.name} has no bounds"
    for name, value in odd_for(entry).items():
        with pytest.raises(ValueError, match=r"^here is .*; (expected|it must)") as refused:
            entry.check(value, "here")
        assert len(str(refused.value)) < 700 and "\n" not in str(refused.value), name
        with pytest.raises(ValueError, match=f"^{entry.name} is "):
            known.resolve({}, **{entry.name: value})
    assert entry.check(entry.default) is entry.default


@pytest.mark.parametrize(("known", "entry"), every_setting())
def test_every_setting_of_the_package_takes_what_means_the_same(known, entry):
    """The bounds themselves, and numbers as other programs have them: the value is the plain one, of the plain type."""
    if entry.kind not in (int, float):
        return
    about = entry.about
    for value in (about.low, about.high):
        plain = entry.check(entry.kind(value))
        others = [np.float64(value), float(value)] if float(value) == value else []
        if float(value).is_integer():
            others += [int(value), np.int64(value), *([fractions.Fraction(int(value))] if others else [])]
        for other in others:
            made = entry.check(other)
            assert made == plain and type(made) in (entry.kind, int), (other, made)
    if about.auto:
        for left in (None, -1, -0.5, np.float32(-3), -(10**9)):
            assert entry.left_alone(left)
        assert not entry.left_alone(0) and not entry.left_alone(-0.0)


@pytest.mark.parametrize("known", sorted(set(every_class()), key=lambda known: known.__qualname__))
def test_two_odd_values_at_once(known):
    """One of them is named."""
    chosen = random.Random(known.__qualname__)
    for one, other in itertools.combinations(entries(known).values(), 2):
        values = {entry.name: chosen.choice(list(odd_for(entry).values())) for entry in (one, other)}
        with pytest.raises(ValueError, match=f"^({one.name}|{other.name}) is .*; (expected|it must)"):
            known.resolve({}, **values)


def test_auto_needs_room_below():
    with pytest.raises(TypeError, match="lower bound"):
        setting(0.0, "x", low=-1.0, auto=True)


def test_whatever_a_file_can_recommend_is_judged():
    """A setting on auto takes what a file says; loaders look at it by the settings of ``pipelines.recommended``."""
    from comfyui_exemplar.pipelines.recommended import SYSTEMS

    def below(cls):
        return {each for child in cls.__subclasses__() for each in (child, *below(child))}

    for module in pkgutil.iter_modules(comfyui_exemplar.pipelines.__path__):
        importlib.import_module(f"{comfyui_exemplar.pipelines.__name__}.{module.name}")
    ours = {cls for cls in below(Settings) if cls.__module__.startswith(comfyui_exemplar.__name__ + ".p")}
    auto = {entry.recommended_as for cls in ours for entry in entries(cls).values() if entry.about.auto}
    judged = {entry.recommended_as for known in SYSTEMS.values() for cls in known for entry in entries(cls).values()}
    assert auto and auto <= judged
