"""Values that are tuples of their tensors: what is in them, and that they stay the values that they were."""

import copy
import dataclasses
import operator
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.layers import Layer, LayerInfo
from comfyui_exemplar.color.held import Held, is_list
from comfyui_exemplar.diffusion.inversion import Inversion
from comfyui_exemplar.diffusion.pivot import Pivots
from comfyui_exemplar.diffusion.schedule import inversion_plan

PLAN = inversion_plan(torch.linspace(0.03, 14.6, 1000), 10, 2)
LAYER = Layer("output", 1)


@dataclass(frozen=True)
class Thing(Held):
    first: Any = None
    second: Any = None
    named: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plain:
    first: Any = None
    second: Any = None
    named: Mapping[str, Any] = field(default_factory=dict)


def ones(*shape):
    return torch.ones(*shape)


def inversion():
    bank = FeatureBank()
    for sigma in PLAN.kept_sigmas:
        bank.put(sigma, LAYER, (2, 3), q=ones(1, 6, 8), k=ones(1, 6, 8).half())
    return Inversion(PLAN, ones(3, 1, 4, 4, 6), bank, "tiny", (LayerInfo(LAYER, 8, 2, 1),))


def pivots():
    return Pivots((4.0, 2.0, 0.0), ones(2, 7, 8), ones(3, 1, 4, 4, 6), ((0.1,), (0.1,)), 0.0, 7.5, "tiny")


def counted(value):
    """Bytes as ComfyUI counts them: in lists and tuples, however deep."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(map(counted, value)) if isinstance(value, (list, tuple)) else 0


def same(one, other):
    one, other = list(one), list(other)
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))


class TestContents:
    def test_tensors_wherever_they_are(self):
        a, b, c, d, e = (ones(i) for i in range(1, 6))
        thing = Thing([a, "text", (b, None, 3)], Plain(c, {"x": [d]}), named={"y": e})
        assert isinstance(thing, tuple) and same(tuple(thing), (a, b, c, d, e))

    def test_each_once(self):
        a = ones(2)
        circle = [a]
        circle.append(circle)
        assert same(Thing(a, [a, circle], {"x": a}), (a,))

    def test_by_position_and_by_name(self):
        a, b = ones(1), ones(2)
        assert same(Thing(a, b), Thing(first=a, second=b)) and same(Thing(second=b), (b,))

    def test_none(self):
        for empty in (Thing(), Thing("text", 3.0), Thing([0.5] * 1000), Thing(torch.float32, Plain)):
            assert len(empty) == 0

    def test_what_travels(self):
        made = inversion()
        assert counted([made]) == counted(made) == made.trajectory.nbytes + made.bank.nbytes
        assert counted(pivots()) == 4 * (2 * 7 * 8 + 3 * 4 * 4 * 6)
        assert counted(dataclasses.replace(made, bank=FeatureBank())) == made.trajectory.nbytes
        assert counted(made.take(range(1))) == counted(made)


class TestTheSameValues:
    """As a dataclass without the base."""

    def test_fields(self):
        made = inversion()
        assert (made.pictures, made.size) == (1, (4, 6))
        assert pivots().step(2.1) == 1 and pivots().at(4.0).shape == (7, 8)
        made.check("it")
        pivots().check("they")
        with pytest.raises(dataclasses.FrozenInstanceError):
            made.model = "other"
        assert [f.name for f in dataclasses.fields(made)][:3] == ["plan", "trajectory", "bank"]

    def test_changed(self):
        made = inversion()
        other = dataclasses.replace(made, trajectory=made.trajectory * 2)
        assert other.bank is made.bank and len(other) == len(made) and other[0] is other.trajectory
        assert not any(tensor is made.trajectory for tensor in other), "nothing is held that the value no longer has"

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
    def test_copies(self, copied):
        made = inversion()
        twin = copied(made)
        assert type(twin) is Inversion and (twin.plan, twin.model, twin.layers) == (made.plan, made.model, made.layers)
        assert all(map(torch.equal, twin, made)) and len(twin) == len(made) == 5
        assert twin[0] is twin.trajectory and same(twin[1:], twin.bank.tensors), "its own, each once"
        assert not any(a is b for a, b in zip(twin, made, strict=True))
        shallow = copy.copy(made)
        assert shallow.bank is made.bank and same(shallow, made)

    def test_truth(self):
        assert Thing() and Thing(ones(1)) and inversion()

    @pytest.mark.parametrize("kind", [Thing, Plain])
    def test_equality(self, kind):
        a = ones(1)
        for x, y, alike in ((1, 1, True), (a, a, True), (1, 2, False), ([a], [a], True)):
            assert (kind(x) == kind(y)) is alike and (kind(x) != kind(y)) is not alike
        assert kind(1) != (1,) and kind(a) != 3
        for compare in (operator.lt, operator.le, operator.gt, operator.ge):
            with pytest.raises(TypeError):
                compare(kind(1), kind(2))
        for compare in (operator.eq, operator.ne):
            with pytest.raises(RuntimeError, match="ambiguous"):
                compare(kind(ones(2)), kind(ones(2)))
        assert repr(kind(1)) == str(kind(1)) == f"{kind.__name__}(first=1, second=None, named={{}})"
        assert hash(kind(1, a, 2)) == hash(kind(1, a, 2))

    def test_it_is_no_list(self):
        assert is_list([1]) and is_list(()) and not is_list(Thing()) and not is_list("text") and not is_list(ones(1))
