"""Every input of every node is given every odd value of its kind: one clear error that names node and input."""

import itertools
import random

import pytest

from .contents import contents
from .generated import cases, odd_values
from .judge import refusal
from .right import BY_ID

INPUTS = [(node_id, item.id) for node_id, node in BY_ID.items() for item in node.define_schema().inputs]
#: How many pairs of odd inputs are tried on a node.
PAIRS = 12


def item_of(node_id, name):
    return next(item for item in BY_ID[node_id].define_schema().inputs if item.id == name)


def flaw(right, node_id, *odd):
    """What is wrong with how a node meets odd values; "" for nothing.

    :param odd: (input, the value's name, what makes it).
    """
    inputs = right.inputs(node_id, *(name for name, _, _ in odd))
    for name, _, change in odd:
        inputs[name] = change(inputs.get(name))
    said = " and ".join(f"{name}: {label}" for name, label, _ in odd)
    try:
        BY_ID[node_id].execute(**inputs)
    except Exception as error:  # noqa: BLE001  what kind it is, is the question
        plain = all(label.startswith("says ") for _, label, _ in odd)
        wrong = refusal(BY_ID[node_id].define_schema(), [name for name, _, _ in odd], error, plain)
        return wrong and f"{node_id}, {said}: {wrong}"
    return f"{node_id}, {said}: taken silently"


def test_there_are_enough():
    """What the tests of this folder promise: thousands of runs."""
    held = sum(len(contents(node_id, item_of(node_id, name))) for node_id, name in INPUTS)
    assert len(list(cases())) + held + PAIRS * len(BY_ID) > 6500


@pytest.mark.parametrize(("node_id", "name"), INPUTS)
def test_odd_values(right, node_id, name):
    table = odd_values(node_id, item_of(node_id, name))
    assert not [found for odd, change in table.items() if (found := flaw(right, node_id, (name, odd, change)))]


@pytest.mark.parametrize(("node_id", "name"), [(n, i) for n, i in INPUTS if contents(n, item_of(n, i))])
def test_contents(right, node_id, name):
    """Of the right type, and yet another model's, another size's, cut off, or not finite."""
    table = contents(node_id, item_of(node_id, name))
    assert not [found for odd, change in table.items() if (found := flaw(right, node_id, (name, odd, change)))]


@pytest.mark.parametrize("node_id", BY_ID)
def test_several_at_once(right, node_id):
    """One of them is named."""
    inputs = [item.id for item in BY_ID[node_id].define_schema().inputs]
    pairs = list(itertools.combinations(inputs, 2))
    chosen = random.Random(node_id).sample(pairs, min(PAIRS, len(pairs)))
    found = []
    for names in chosen:
        if set(names) == {"reference", "concept"}:
            continue  # either, never both
        odd = []
        for name in names:
            table = odd_values(node_id, item_of(node_id, name))
            label = random.Random(f"{node_id} {names} {name}").choice(sorted(table))
            odd.append((name, label, table[label]))
        found.append(flaw(right, node_id, *odd))
    assert not [one for one in found if one]
