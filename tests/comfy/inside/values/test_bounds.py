"""Every number at its bounds and just within: finite pictures in 0..1, twice the same, and inputs left as they were."""

import pytest

from .judge import refusal
from .outcome import Outcome, Snapshot
from .right import BY_ID

#: What a run takes at most of a setting whose upper bound is hours of work or gigabytes; the bound itself is refused
#: or taken by the setting alone (``tests/test_settings.py``).
MOST = {
    "resolution": 96,
    "steps": 12,
    "depth": 4,
    "updates": 2,
    "iterations": 2,
    "pivot_iterations": 2,
    "passes": 2,
    "refinements": 2,
    "variations": 3,
    "accumulation": 2,
    "rows": 4,
}
#: Of nodes that train.
LEARNING = {"resolution": 40, "steps": 3}
TRAINS = ("ExemplarTranslate", "ExemplarConceptInversion", "ExemplarPivotInversion")
SLOW = (*TRAINS, "ExemplarColorize", "ExemplarDDIMInversion")

NUMBERS = [
    (node_id, item.id)
    for node_id, node in BY_ID.items()
    for item in node.define_schema().inputs
    if item.get_io_type() in ("INT", "FLOAT")
]


def bounds(node_id, item):
    """Name -> a value at a bound of a setting, or just within."""
    about = item.setting.about
    most = {**MOST, **(LEARNING if node_id in TRAINS else {})}
    low, high = about.low, min(about.high, most.get(item.id, about.high))
    found = {"low": low, "high": high}
    if node_id not in SLOW:
        step = 1 if item.setting.kind is int else (high - low) * 1e-6
        found |= {"above low": min(low + step, high), "below high": max(high - step, low)}
    return {name: item.setting.kind(value) for name, value in found.items()}


@pytest.mark.parametrize(("node_id", "name"), NUMBERS)
def test_bounds(right, node_id, name):
    schema = BY_ID[node_id].define_schema()
    (item,) = (item for item in schema.inputs if item.id == name)
    wrong = []
    for label, value in bounds(node_id, item).items():
        inputs = {**right.inputs(node_id), name: value}
        before = Snapshot(inputs)
        try:
            found = Outcome(right, node_id, inputs)
        except ValueError as error:  # what a small model or a short schedule has no room for
            wrong.append(refusal(schema, [name, "depth"], error))
            continue
        wrong.append(found.flaw())
        wrong.append(before.changed() and f"{before.changed()} was changed")
        if node_id not in SLOW and label in ("low", "high"):
            far, where = Outcome(right, node_id, inputs).difference(found)
            wrong.append("" if far == 0 else f"{where} is another one the second time, {far:.3g} off")
    assert not [f"{name}: {one}" for one in wrong if one]
