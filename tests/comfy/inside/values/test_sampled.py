"""What only a sampling meets: latents and levels under every MODEL, GUIDER and SAMPLER that the nodes give."""

import pytest
import torch

from .judge import refusal
from .outcome import Outcome
from .right import BY_ID
from .sampled import NOTHING_TO_DO, ODD, OF_ANOTHER

#: Node, inputs beside the required ones, and whether what it gives hangs on an inversion of the latent.
DRAWING = [
    ("ExemplarDualAttentionColor", (), True),
    ("ExemplarConceptFusion", (), True),
    ("ExemplarConceptFusion", ("pivots", "mask"), True),
    ("ExemplarPromptControl", ("inversion",), True),
    ("ExemplarPromptControl", (), False),
    ("ExemplarColorGuidance", (), False),
    ("ExemplarPublishedSampler", (), False),
    ("ExemplarLatentLuminance", ("model",), False),
    ("ExemplarLCADInstances", (), False),
    ("ExemplarApplyDEADiff", (), False),
]


def drawn(right, node_id, more, change):
    """What sampling an odd start gives; the start that it was given."""
    outcome = Outcome(right, node_id, right.inputs(node_id, *more), draw=False)
    latent, sigmas = outcome.start()
    latent, sigmas = change(latent["samples"], sigmas)
    return outcome.sampled(latent, sigmas), latent


@pytest.mark.parametrize("odd", [*ODD, *OF_ANOTHER])
@pytest.mark.parametrize(("node_id", "more", "tied"), DRAWING, ids=[f"{n}-{'-'.join(m)}" for n, m, _ in DRAWING])
def test_odd_starts(right, node_id, more, tied, odd):
    change = (ODD | OF_ANOTHER)[odd]
    if odd in OF_ANOTHER and not tied:
        samples, latent = drawn(right, node_id, more, change)
        assert samples.shape == latent.shape and torch.isfinite(samples).all()
        return
    with pytest.raises(ValueError) as refused:
        drawn(right, node_id, more, change)
    assert not refusal(BY_ID[node_id].define_schema(), ("latent", "sigmas", "noise"), refused.value)


@pytest.mark.parametrize(("node_id", "more", "tied"), DRAWING, ids=[f"{n}-{'-'.join(m)}" for n, m, _ in DRAWING])
def test_no_levels_change_nothing(right, node_id, more, tied):
    (change,) = NOTHING_TO_DO.values()
    samples, latent = drawn(right, node_id, more, change)
    assert torch.equal(samples, latent)
