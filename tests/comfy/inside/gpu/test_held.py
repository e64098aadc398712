"""What edits and climbs hold on the device: no more than they say, and nothing when a run is over, however it ends."""

import gc

import comfy.model_management as mm
import comfy.samplers
import pytest
import torch

from comfyui_exemplar.hosts.comfy.edits import placed_edits
from comfyui_exemplar.hosts.comfy.room import held_bytes

from ....fixtures.pretended_gpu import MEMORY
from ..pairs import encode
from ..sampling import invert, run_guider
from ..work import RUNS
from .test_waits import EDITS

ROLES = ("input", "reference", "gray")


def held():
    """Bytes on the device when ComfyUI has taken all models off it."""
    mm.unload_all_models()
    gc.collect()
    return MEMORY.now


class Stop(BaseException):
    """Neither an error nor a success: how ComfyUI cancels."""


def failing(model, error, call=3):
    """Have a MODEL's UNet fail at a call; returns what undoes that."""
    calls = []

    def fail(*_):
        calls.append(None)
        if len(calls) == call:
            raise error("in the middle of a run")

    return model.model.diffusion_model.register_forward_pre_hook(fail)


@pytest.mark.parametrize("edit", EDITS)
def test_nothing_is_left(bench, edit):
    before = held()
    getattr(bench, edit)()
    assert held() == before


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        ("injection_in_masks", RuntimeError),
        ("injection_in_masks", Stop),
        ("capture", Stop),
        ("deadiff_in_mask", RuntimeError),
        ("instances_two_passes", Stop),
        ("fusion_pivots", RuntimeError),
        ("prompts_words", Stop),
        ("luminance", RuntimeError),
    ],
)
def test_nothing_is_left_of_a_run_that_ends_early(bench, edit, error):
    before = held()
    hook = failing(bench.embedded[0], error)
    try:
        getattr(bench, edit)()
    except error as ended:
        ended.__traceback__ = ended.__context__ = ended.__cause__ = None
    else:
        pytest.fail("it ended")
    finally:
        hook.remove()
    assert held() == before


@pytest.fixture(scope="module")
def three(nodes, embedded, scene):
    """Three inversions of two pictures each, in main memory."""
    model, _, vae, empty = embedded
    pictures = [scene[0], scene[1], scene[1].mean(-1, keepdim=True).expand(-1, -1, -1, 3)]
    both = [vae.encode(torch.cat([picture, picture.flip(1)])) for picture in pictures]
    return {
        role: invert(nodes, model, empty, samples, depth=4, measure_round_trip=False)
        for role, samples in zip(ROLES, both, strict=True)
    }


def test_a_model_between_runs(nodes, embedded, three):
    """A MODEL under injection, and the inversions, which ComfyUI's cache keeps."""
    before = held()
    inversions = {f"{role}_inversion": made[0] for role, made in three.items()}
    (model,) = nodes("ExemplarDualAttentionColor", model=embedded[0], **inversions)
    assert held() == before and all(made[0].bank.device.type == "cpu" for made in three.values())
    (placed,) = placed_edits(model.model_options["transformer_options"])
    said = held_bytes([placed], model, (2, 4, 16, 16))
    level = max(
        sum(t.nbytes for sigma, *_, t in each.items() if sigma == at)
        for each in (placed.edit.banks.source,)
        for at in each.sigmas
    )
    assert said > level
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(embedded[3], embedded[3])
    guider.set_cfg(3.0)
    most = []
    placed_at = model.model.diffusion_model.out[0].register_forward_pre_hook(lambda *_: most.append(MEMORY.now))
    plain = comfy.samplers.CFGGuider(embedded[0])
    plain.set_conds(embedded[3], embedded[3])
    plain.set_cfg(3.0)
    try:
        run_guider(plain, *three["input"][1:3])
        alone, most[:] = max(most), []
        run_guider(guider, *three["input"][1:3])
    finally:
        placed_at.remove()
    # both rows are there as well, of which the plain run has as many
    assert 0.9 * said < max(most) - alone < 1.1 * said
    assert held() == before


@pytest.mark.parametrize("node", ["ExemplarDDIMInversion", "ExemplarColorize", "ExemplarTranslate"])
def test_what_failed_is_let_go_before_the_next_try(kit, node):
    """Memory runs out in the last step of an inversion, when nearly all of its features are there."""
    concept = {"reference": None, "concept": encode(kit.embedded, "blue heart"), "pivot_iterations": 0}
    settings = concept if node == "ExemplarTranslate" else {}
    calls = []

    def watch(rows):
        gc.collect()
        calls.append((rows, MEMORY.now))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    RUNS[node](kit, 2, **settings)  # whatever is loaded is there
    with kit.watched("unet", watch):
        RUNS[node](kit, 2, **settings)
    (many, first), _, (few, again) = calls[:3]
    assert few < many and again <= first
