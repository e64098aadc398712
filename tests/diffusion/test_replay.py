"""The way of a source that is known: latents between levels, and the clean estimates behind the steps."""

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.diffusion.inversion import Inversion
from comfyui_exemplar.diffusion.pivot import Pivots
from comfyui_exemplar.diffusion.replay import Replay
from comfyui_exemplar.diffusion.sampling import sample_ddim
from comfyui_exemplar.diffusion.schedule import inversion_plan

LEVELS = (4.0, 2.0, 1.0, 0.0)


def way():
    return Replay(LEVELS, torch.randn(4, 2, 3, 5, 6, generator=torch.Generator().manual_seed(1)))


def test_levels_and_between():
    replay = way()
    assert replay.pictures == 2 and replay.size == (5, 6)
    for i, level in enumerate(LEVELS[:-1]):
        assert torch.equal(replay.at(level), replay.latents[i])
        assert torch.equal(replay.at(level * (1 + 1e-6)), replay.latents[i])
    torch.testing.assert_close(replay.at(3.0), (replay.latents[0] + replay.latents[1]) / 2)
    torch.testing.assert_close(replay.at(0.0), replay.latents[-1])


def test_its_clean_estimates_walk_it():
    """DDIM under the estimates passes the very latents."""
    replay, passed = way(), []
    last = sample_ddim(
        lambda x, sigma: replay.denoised(float(sigma[0])),
        replay.latents[0],
        torch.tensor(LEVELS),
        callback=lambda step: passed.append(step["x"]),
        disable=True,
    )
    torch.testing.assert_close(torch.stack([*passed, last]), replay.latents)


def test_from_an_inversion_and_from_pivots():
    table = torch.linspace(0.03, 14, 1000)
    plan = inversion_plan(table, 4, 4)
    trajectory = torch.randn(5, 1, 4, 2, 2, generator=torch.Generator().manual_seed(2))
    inversion = Inversion(plan, trajectory, FeatureBank(), "m")
    replay = Replay.of_inversion(inversion)
    assert replay.levels == plan.sigmas and torch.equal(replay.latents, trajectory.flip(0))
    pivots = Pivots(plan.sigmas, torch.zeros(4, 7, 3), trajectory.flip(0), (), 0.0, 7.5, "m")
    assert torch.equal(Replay.of_pivots(pivots).latents, replay.latents)
    with pytest.raises(ValueError, match="does not come back down"):
        Replay.of_inversion(Inversion(inversion_plan(table, 4, 2, "official"), trajectory, FeatureBank(), "m"))
