"""Values that mean the same as the plain ones give what those give, and no run changes what it was given."""

import pytest

from .outcome import Outcome, Snapshot
from .right import BY_ID
from .same import same

#: Whose settings are looked at without a run (``tests/test_settings.py``): a run takes half a second and more.
SLOW = (
    "ExemplarColorize",
    "ExemplarTranslate",
    "ExemplarConceptInversion",
    "ExemplarPivotInversion",
    "ExemplarDDIMInversion",
)
INPUTS = [
    (node_id, item.id)
    for node_id, node in BY_ID.items()
    for item in node.define_schema().inputs
    if node_id != "ExemplarDoctor" and (node_id not in SLOW or not hasattr(item, "setting"))  # it gives times
]


@pytest.fixture(scope="module")
def plain(right):
    """What a node gives with right inputs, by its id and their names."""
    known = {}

    def run(node_id, inputs):
        key = (node_id, *sorted(inputs))
        if key not in known:
            known[key] = Outcome(right, node_id, inputs)
        return known[key]

    return run


@pytest.mark.parametrize(("node_id", "name"), INPUTS)
def test_same_in_other_clothes(right, plain, node_id, name):
    (item,) = (item for item in BY_ID[node_id].define_schema().inputs if item.id == name)
    inputs = right.inputs(node_id, name)
    wrong = []
    for label, (change, near) in (same(item, inputs[name]) if name in inputs else {}).items():
        changed = {**inputs, name: change(inputs[name])}
        before = Snapshot(changed)
        found, where = Outcome(right, node_id, changed).difference(plain(node_id, inputs))
        if not found <= near:
            wrong.append(f"{label}: {where} is {found:.3g} off, {near} is near")
        if before.changed():
            wrong.append(f"{label}: {before.changed()} was changed")
    assert not wrong
