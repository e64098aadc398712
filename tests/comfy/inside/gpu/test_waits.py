"""How often the host waits for the device, or sends it something, in a steady step of every edit.

The bound: what is read from the device is the noise level, once a call of the UNet. What goes there are the features
that the inversion kept for a noise level, when the sampling reaches it, and nothing else.
"""

import pytest

from ....fixtures.pretended_gpu import DOWNLOAD, ITEM, UPLOAD
from ..models import prompt
from .laps import tiny

#: Where one level's features are sent from.
LEVELS = "attention/levels_on_device.py"

#: Edits on the embedded model, and how many waits a call of the UNet they are allowed.
EDITS = {
    "injection": 1,
    "injection_from_there": 1,
    "injection_in_masks": 1,
    "injection_of_two": 1,
    "guidance": 1,
    "capture": 1,
    "deadiff": 1,
    "deadiff_in_mask": 1,
    "instances_normalized": 1,
    "instances_step": 1,
    "instances_two_passes": 1,
    "lcad_attention": 1,
    "lcad_condition": 0,
    "fusion": 1,
    "fusion_in_mask": 1,
    "fusion_sampled": 1,
    "fusion_pivots": 1,
    "prompts": 1,
    "prompts_words": 1,
    "luminance": 0,
    "published_sampler": 0,
}


def check(laps, most):
    """The bound, for every lap but the first ones."""
    assert len(laps.steady) > 1
    for lap in laps.steady:
        waits = {at: count for at, count in lap.items() if not (at[0] == UPLOAD and at[1].startswith(LEVELS))}
        assert sum(waits.values()) <= most and {kind for kind, _ in waits} <= {ITEM, DOWNLOAD}, lap


@pytest.mark.parametrize(("edit", "most"), EDITS.items())
def test_the_embedded_model(bench, edit, most):
    check(getattr(bench, edit)(), most)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_family(bench, family):
    model = tiny(family)
    check(bench.capture(model, prompt(family)), 1)
    check(bench.family(model, family), 1)


def test_before_a_run_levels_are_read_as_a_whole(gpu, bench):
    before = len(gpu.events)
    laps = bench.injection_from_there()
    first = [event for event in gpu.events[before : laps.marks[0]] if event.ours]
    assert not any(event.kind == ITEM for event in first)
    levels = bench.column("injection").more_sigmas.nbytes
    assert sum(event.kind == DOWNLOAD and event.size == levels for event in first) <= 2
