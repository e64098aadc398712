"""Pivot Inversion on ComfyUI's models."""

import comfy.model_management
import pytest
import torch

from . import sampling
from .models import prompt, tiny


def invert(nodes, model, conditioning, latent, steps=4, convention="diffusers"):
    return nodes(
        "ExemplarDDIMInversion",
        model=model,
        conditioning=conditioning,
        latent=latent,
        depth=steps,
        steps=steps,
        convention=convention,
        measure_round_trip=False,
    )


def latent_of(model, size=(8, 8)):
    generator = torch.Generator().manual_seed(1)
    return {"samples": torch.randn(1, 4, *size, generator=generator)}


def pivots_of(nodes, model, conditioning, inversion, **settings):
    return nodes(
        "ExemplarPivotInversion",
        model=model,
        conditioning=conditioning,
        inversion=inversion,
        **{"cfg": 7.5, "iterations": 3, **settings},
    )


@pytest.mark.parametrize(
    "family, variant", [("sd1", "official"), ("sd1", "economical"), ("sd2", "official"), ("sdxl", "official")]
)
def test_families(nodes, family, variant):
    model, conditioning = tiny(family), prompt(family)
    inversion, *_ = invert(nodes, model, conditioning, latent_of(model, (8, 12)), steps=3)
    pivots, schedule, chart, error, back = pivots_of(nodes, model, conditioning, inversion, variant=variant)
    assert pivots.contexts.shape == (3, *conditioning[0][0].shape[1:]) and len(schedule) == 3
    # the first step may overshoot: nothing is known of the landscape yet
    assert all(losses[-1] < losses[0] for losses in pivots.losses[1:])
    assert chart.ndim == 4 and chart.shape[-1] == 3 and chart.std() > 0
    assert 0 < error == pivots.reconstruction_error and back["samples"].shape == (1, 4, 8, 12)
    for entry in schedule:  # SDXL's pooled prompt goes along
        assert ("pooled_output" in entry[1]) == ("pooled_output" in conditioning[0][1])


def test_checkpointing_changes_nothing(nodes):
    model, conditioning = tiny("sd1"), prompt("sd1")
    inversion, *_ = invert(nodes, model, conditioning, latent_of(model), steps=2)
    plain, *_ = pivots_of(nodes, model, conditioning, inversion, iterations=2)
    again, *_ = pivots_of(nodes, model, conditioning, inversion, iterations=2, gradient_checkpointing=True)
    assert (plain.contexts - again.contexts).abs().max() < 1e-5 and plain.n_inner == again.n_inner


@pytest.fixture(scope="module")
def found(nodes, embedded, scene):
    """The embedded model's pivots of the scene's reference, six steps."""
    model, _, vae, empty = embedded
    with torch.inference_mode():
        latent = {"samples": vae.encode(scene[1])}
        inversion, noised, sigmas, _ = invert(nodes, model, empty, latent, 6, "consistent")
        return (
            latent,
            inversion,
            noised,
            sigmas,
            pivots_of(nodes, model, empty, inversion, iterations=6, cfg=3.0, variant="economical", stop_below=1e-6),
        )


def test_the_picture_survives_guidance(embedded, found):
    """A stock sampler with the schedule as negative prompt brings the picture back; with the plain prompt it does not,
    unless both prompts are the same one; so the positive prompt is another."""
    model, _, _, empty = embedded
    latent, _, noised, sigmas, (pivots, schedule, *_) = found
    back = sampling.run(model, empty, noised, sigmas, 3.0, negative=schedule)
    error = float((back - latent["samples"]).pow(2).mean().sqrt() / latent["samples"].std())
    assert error == pytest.approx(pivots.reconstruction_error, rel=2e-2, abs=1e-3)
    plain = sampling.run(model, empty, noised, sigmas, 3.0)
    unsteered = float((plain - latent["samples"]).pow(2).mean().sqrt() / latent["samples"].std())
    assert error < unsteered


def test_each_step_of_a_sampler_meets_its_own_context(embedded, found):
    model, _, _, empty = embedded
    _, _, noised, sigmas, (pivots, schedule, *_) = found
    met = []
    watched = model.clone()

    def look(apply_model, call):
        rows = call["c"]["c_crossattn"].chunk(len(call["cond_or_uncond"]))
        met.extend(r[0].float() for r, kind in zip(rows, call["cond_or_uncond"], strict=True) if kind == 1)
        return apply_model(call["input"], call["timestep"], **call["c"])

    watched.set_model_unet_function_wrapper(look)
    sampling.run(watched, empty, noised, sigmas, 3.0, negative=schedule)
    assert len(met) == len(pivots.contexts)
    for seen, wanted, sigma in zip(met, pivots.contexts, pivots.sigmas, strict=True):
        assert torch.equal(seen, wanted) and torch.equal(pivots.at(sigma), wanted)


def test_nothing_is_left_behind(nodes, embedded, found):
    """No gradients on the MODEL, and it samples as before."""
    model, _, _, empty = embedded
    _, inversion, noised, sigmas, (pivots, *_) = found
    before = sampling.run(model, empty, noised, sigmas, 3.0)
    again, *_ = pivots_of(nodes, model, empty, inversion, iterations=2)
    assert torch.equal(sampling.run(model, empty, noised, sigmas, 3.0), before)
    assert not any(p.requires_grad or p.grad is not None for p in model.model.parameters())
    assert not again.contexts.requires_grad and not pivots.trajectory.requires_grad
    assert torch.is_inference_mode_enabled()


@pytest.mark.parametrize("at", [0, 2, 5])
def test_cancel(nodes, embedded, found, monkeypatch, at):
    """In the first step, in a step, between steps: it ends at once, and the next run is as if nothing had been."""
    model, _, _, empty = embedded
    _, inversion, _, _, _ = found
    asked = []

    def interrupt():
        asked.append(None)
        if len(asked) > at:
            raise comfy.model_management.InterruptProcessingException

    with monkeypatch.context() as patch:
        patch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", interrupt)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            pivots_of(nodes, model, empty, inversion, iterations=2)
    assert len(asked) == at + 1 and torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
    assert not any(p.requires_grad or p.grad is not None for p in model.model.parameters())


def test_lora_counts(nodes, embedded, found):
    """Patches of the MODEL are in the copy that is differentiated."""
    model, _, _, empty = embedded
    patched = model.clone()
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"
    weight = dict(model.model.named_parameters())[key]
    patched.add_patches({key: ("diff", (torch.full_like(weight, 0.05),))})
    inversion, *_ = invert(nodes, model, empty, found[0], 2, "consistent")
    plain, *_ = pivots_of(nodes, model, empty, inversion, iterations=1)
    with_lora, *_ = pivots_of(nodes, patched, empty, inversion, iterations=1)
    assert not torch.equal(plain.contexts, with_lora.contexts)
    again, *_ = pivots_of(nodes, model, empty, inversion, iterations=1)
    assert torch.equal(plain.contexts, again.contexts)


def test_bad_input(nodes, embedded, found):
    model, _, _, empty = embedded
    latent, inversion, *_ = found
    two, *_ = invert(nodes, model, empty, {"samples": latent["samples"].repeat(2, 1, 1, 1)}, 2)
    with pytest.raises(ValueError, match="inversion: found one of 2 pictures"):
        pivots_of(nodes, model, empty, two)
    kosugi, *_ = invert(nodes, model, empty, latent, 2, "consistent")
    other = tiny("sd1")
    with pytest.raises(ValueError, match="another model"):
        pivots_of(nodes, other, prompt("sd1"), kosugi)
    with pytest.raises(ValueError, match="conditioning: found 2 prompts"):
        pivots_of(nodes, model, [*empty, *empty], inversion)
    official = nodes(
        "ExemplarDDIMInversion",
        model=model,
        conditioning=empty,
        latent=latent,
        depth=2,
        steps=4,
        convention="official",
        measure_round_trip=False,
    )[0]
    with pytest.raises(ValueError, match="does not come back down the levels"):
        pivots_of(nodes, model, empty, official)
