"""``--gpu-only``: what nodes give is on the device, and so is what comes into them."""

import comfy.model_management as mm
import pytest

from ....fixtures.pretended_gpu import DEVICE, from_gpu, to_gpu
from ..work import RUNS


@pytest.fixture(scope="module", autouse=True)
def gpu_only(gpu):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mm, "intermediate_device", lambda: DEVICE)
        yield


@pytest.fixture(scope="module")
def scene(scene, gpu_only):
    return tuple(to_gpu(from_gpu(picture)) for picture in scene)


@pytest.mark.parametrize("node", RUNS)
def test_nodes_run(kit, node):
    made = RUNS[node](kit, 2)
    kept = {"ExemplarDDIMInversion": made[:1], "ExemplarColorize": made[1:4]}.get(node, ())
    for inversion in kept:
        assert inversion.bank.device == inversion.trajectory.device == DEVICE
