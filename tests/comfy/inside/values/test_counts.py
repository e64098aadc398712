"""Numbers of pictures, masks, latents and prompts that go together, and those that do not, on every node."""

import itertools

import pytest
import torch

from .judge import refusal
from .outcome import Outcome
from .right import BY_ID

KINDS = ("IMAGE", "MASK", "LATENT", "CONDITIONING")
#: Learning takes one picture, and half a second; what it refuses is in the tests of its nodes.
LEFT_OUT = ("ExemplarConceptInversion", "ExemplarTranslate")
COUNTS = [(a, b) for a, b in itertools.product((1, 2, 3), repeat=2) if (a, b) != (1, 1)]
PAIRS = [
    (node_id, one.id, other.id)
    for node_id, node in BY_ID.items()
    if node_id not in LEFT_OUT
    for one, other in itertools.combinations(
        [item for item in node.define_schema().inputs if item.get_io_type() in KINDS], 2
    )
]
#: Charts of numbers, whose bars may end a pixel higher where a number's last digits differ, or which have a point for
#: each picture.
CHARTS = ("strip", "plot")
#: What may be named where a number is wrong: the other one of two that do not go together.
ALSO = ("image", "input_inversion", "reference_inversion", "inversion", "reference", "color_image")


def times(kind, good, count):
    """A batch of the same, so that every result is the single one."""
    if kind == "LATENT":
        return {**good, "samples": torch.cat([good["samples"]] * count)}
    if kind == "CONDITIONING":
        return [[torch.cat([context] * count), extras] for context, extras in good]
    return torch.cat([good] * count)


@pytest.mark.parametrize(("node_id", "one", "other"), PAIRS)
def test_counts(right, node_id, one, other):
    """A batch of equal pictures gives the single picture's result, as often as there are pictures."""
    schema = BY_ID[node_id].define_schema()
    kinds = {item.id: item.get_io_type() for item in schema.inputs}
    plain = right.inputs(node_id, one, other)
    single, wrong = None, []
    for counts in COUNTS if node_id != "ExemplarColorize" else [(1, 3), (3, 1)]:
        inputs = dict(plain)
        for name, count in zip((one, other), counts, strict=True):
            inputs[name] = times(kinds[name], inputs[name], count)
        try:
            made = Outcome(right, node_id, inputs)
        except ValueError as error:
            wrong.append(refusal(schema, (one, other, *ALSO), error))
            continue
        single = single or Outcome(right, node_id, plain)
        for name, part in single.parts.items():
            if name in single.pictures or name.endswith(("samples", "guider", "model")):
                many = made.parts[name]
                far = (many.double() - part.double()).abs().max() if many.shape[1:] == part.shape[1:] else 1e9
                if len(many) not in (1, *counts) or (far > 1e-3 and (name not in CHARTS or many.shape != part.shape)):
                    wrong.append(f"{counts}: {name} is {tuple(many.shape)}, {float(far):.3g} off")
    assert not [each for each in wrong if each]
