"""What only a sampling meets: latents and levels under every MODEL, GUIDER and SAMPLER that the nodes give."""

import pytest
import torch

from .judge import refusal
from .outcome import Outcome
from .right import BY_ID
from .sampled import NOTHING_TO_DO, ODD, OF_ANOTHER, RISING

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
#: Of those, what rising levels make no sense for: pairs follow a source's way, the published loops scale their ends.
DOWNWARD = ("ExemplarConceptFusion", "ExemplarPromptControl", "ExemplarPublishedSampler")


def drawn(right, node_id, more, change):
    """What sampling an odd start gives; the start that it was given."""
    outcome = Outcome(right, node_id, right.inputs(node_id, *more), draw=False)
    latent, sigmas = outcome.start()
    latent, sigmas = change(latent["samples"], sigmas)
    return outcome.sampled(latent, sigmas), latent


@pytest.mark.parametrize("odd", [*ODD, *OF_ANOTHER, *RISING])
@pytest.mark.parametrize(("node_id", "more", "tied"), DRAWING, ids=[f"{n}-{'-'.join(m)}" for n, m, _ in DRAWING])
def test_odd_starts(right, node_id, more, tied, odd):
    change = (ODD | OF_ANOTHER | RISING)[odd]
    if (odd in OF_ANOTHER and not tied) or (odd in RISING and node_id not in DOWNWARD):
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


@pytest.mark.parametrize(("node_id", "more"), [(n, m) for n, m, _ in DRAWING if n not in DOWNWARD])
def test_a_rising_step_is_eulers(right, node_id, more):
    """Unsampling (FlipSigmas): the same clean estimate as on the way down, and a step up from it."""
    levels = []

    def down(latent, sigmas):
        levels[:] = sigmas[[1, 0]]
        return latent, torch.tensor([levels[0], 0.0])

    clean, start = drawn(right, node_id, more, down)
    low, high = map(float, levels)
    up, _ = drawn(right, node_id, more, lambda latent, _: (latent, torch.tensor([low, high])))
    assert torch.allclose(up, start + (start - clean) / low * (high - low), rtol=1e-4, atol=1e-4)


def test_a_single_level_samples_nothing(right):
    """What SplitSigmas gives at its ends."""
    samples, latent = drawn(right, "ExemplarDualAttentionColor", (), lambda latent, sigmas: (latent, 60 * sigmas[:1]))
    assert torch.equal(samples, latent)
