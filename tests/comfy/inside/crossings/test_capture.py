"""Nodes of ComfyUI on the MODEL that inverts: what is kept is what was there, or the inversion is refused by name."""

import pytest
import torch

from comfyui_exemplar.diffusion.schedule import inversion_plan
from comfyui_exemplar.texts.crossings import REFUSED, TOGETHER, outcome

from ..sampling import difference, invert
from .cells import TOLERANCE, told
from .columns import COARSE, FINE
from .naive import Recorded
from .neighbors import CACHES, NEIGHBORS, core, need, prepared, run_node
from .prompts import LEFT, halved, masked, ranged
from .reference import Reference

CELLS = [(n, "capture") for n in (*NEIGHBORS, *CACHES)]
MORE = [(key, "capture") for key in ("ContextWindows", "Ranged", "Area", "Bounds", "Combined", "Masked", "NoiseMask")]
NAMED = {"HyperTile": "HyperTile changed", "ToMe": "Token Merging changed", "EasyCache": "cache", "LazyCache": "cache"}


def inverted(nodes, embedded, scene, model, conditioning=None, depth=2):
    return invert(
        nodes,
        model,
        conditioning or embedded[3],
        embedded[2].encode(scene[0]),
        depth=depth,
        steps=20,
        measure_round_trip=False,
    )[0]


@pytest.mark.parametrize("neighbor", [n for n, _ in CELLS], ids=lambda n: n.key)
def test_cell(nodes, embedded, scene, neighbor, caplog):
    need(neighbor)
    theirs = neighbor.on(embedded[0])
    if outcome(neighbor.key, "capture") == REFUSED:
        with pytest.raises(ValueError, match=NAMED[neighbor.key]):
            inverted(nodes, embedded, scene, theirs, depth=4)
        return
    assert outcome(neighbor.key, "capture") == TOGETHER
    made = inverted(nodes, embedded, scene, theirs)
    assert not told(caplog)
    reference = Reference(theirs, embedded[3], embedded[3], Recorded([*COARSE, *FINE]), 1.0, neighbor.guidance)
    prepared(neighbor)(reference)
    compare(reference, embedded, scene, made, theirs)


def compare(reference, embedded, scene, made, model):
    """An inversion against a reference's: latents at every level, and every kept feature."""
    plan = inversion_plan(model.get_model_object("model_sampling").sigmas, 20, 2)
    way = reference.invert(embedded[2].encode(scene[0]), plan)
    assert difference(made.trajectory, way) < TOLERANCE
    kept = reference.edit.kept
    assert len(kept) == 2 * 4
    for (level, layer), features in kept.items():
        at = made.bank.nearest(level)
        assert abs(at - level) < 1e-4 * level
        for letter, feature in zip("qkv", features, strict=True):
            assert difference(made.bank.get(at, layer, letter), feature) < TOLERANCE


@pytest.mark.parametrize("kind", ["Combined", "Masked"])
def test_prompts_of_several_parts(nodes, embedded, scene, kind, columns):
    """The first part's features are kept, and the latents move by all of them."""
    positive = columns("instances").positive
    parts = [*positive, *halved(positive)]
    masks = [None, None]
    if kind == "Masked":
        masks = [LEFT, 1 - LEFT]
        parts = [*masked(positive, LEFT), *masked(halved(positive), 1 - LEFT)]
    made = inverted(nodes, embedded, scene, embedded[0], parts)
    reference = Reference(embedded[0], parts, parts, Recorded([*COARSE, *FINE]), 1.0)
    from .prompts import mixed

    mixed(reference, list(zip(parts, masks, [None, None], strict=True)))
    compare(reference, embedded, scene, made, embedded[0])


def test_what_is_refused(nodes, embedded, scene, columns):
    positive = columns("instances").positive
    windows = core("ContextWindowsManual", "nodes_context_windows")
    schedule = ("standard_static", 1, False, "pyramid", 0, False)
    with pytest.raises(ValueError, match="context windows"):
        inverted(nodes, embedded, scene, run_node(windows, embedded[0], 2, 0, *schedule)[0])
    with pytest.raises(ValueError, match="Set Timestep Range"):
        inverted(nodes, embedded, scene, embedded[0], ranged(positive, 0.0, 0.5))
    import nodes as stock

    area = stock.ConditioningSetArea().append(positive, 32, 32, 0, 0, 1.0)[0]
    for partly in (area, masked(positive, LEFT, "mask bounds")):
        with pytest.raises(ValueError, match="area of the picture"):
            inverted(nodes, embedded, scene, embedded[0], [*partly, *positive])
    latent = stock.SetLatentNoiseMask().set_mask({"samples": embedded[2].encode(scene[0])}, LEFT)[0]
    how = {"model": embedded[0], "conditioning": embedded[3], "depth": 2, "steps": 20}
    with pytest.raises(ValueError, match=r"DDIM Inversion: latent: found a noise mask.*input_mask"):
        nodes("ExemplarDDIMInversion", latent=latent, **how)
    latent["noise_mask"] = torch.ones_like(latent["noise_mask"])  # keeps nothing
    assert nodes("ExemplarDDIMInversion", latent=latent, **how)[0].pictures == 1


def test_fewer_levels_than_steps(nodes, embedded, scene):
    lcm = next(n for n in NEIGHBORS if n.key == "ModelSampling").on(embedded[0])
    with pytest.raises(ValueError, match=r"50 noise levels only.*lcm"):
        invert(nodes, lcm, embedded[3], embedded[2].encode(scene[0]), depth=2, steps=50)


def test_injection_of_what_was_inverted_under_deep_shrink(nodes, embedded, scene, columns):
    """With the node on both MODELs features and tokens are of one size."""
    column, shrink = columns("injection"), next(n for n in NEIGHBORS if n.key == "DeepShrinkFine")
    theirs = shrink.on(embedded[0])
    images = {"input": scene[0], "reference": scene[1], "gray": scene[1].mean(-1, keepdim=True).expand(-1, -1, -1, 3)}
    made = {name: invert(nodes, theirs, embedded[3], embedded[2].encode(i), depth=2) for name, i in images.items()}
    before, latent, sigmas = column.inverted, column.latent, column.sigmas
    column.inverted, column.latent, column.sigmas = made, *made["input"][1:3]
    try:
        found, expected = column.found(column.made(theirs)), column.expected(theirs)
    finally:
        column.inverted, column.latent, column.sigmas = before, latent, sigmas
    assert difference(found, expected) < TOLERANCE
