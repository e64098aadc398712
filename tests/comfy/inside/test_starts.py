"""Color injection under what a user may connect by mistake: said once by name, or refused; and nothing said else."""

import logging

import comfy.samplers
import pytest
import torch

from .sampling import difference, run, run_guider

NAME = "Dual-Attention Color Injection"


@pytest.fixture
def said(caplog):
    """The pack's warnings so far."""
    caplog.set_level(logging.WARNING)
    return lambda: [r.getMessage() for r in caplog.records if r.name.startswith("comfyui_exemplar")]


def guider(model, empty, cfg=3.0):
    made = comfy.samplers.CFGGuider(model)
    made.set_conds(empty, empty)
    made.set_cfg(cfg)
    return made


def noisy(model, empty, samples, sigmas):
    """Sampling that adds noise."""
    noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(0))
    euler = comfy.samplers.sampler_object("euler")
    return guider(model, empty).sample(noise, samples, euler, sigmas, disable_pbar=True, seed=0)


def place(nodes, model, found, **changed):
    """Color injection with inversions in those sockets."""
    sockets = {"input": found["input"][0], "reference": found["reference"][0], "gray": found["gray"][0], **changed}
    return nodes("ExemplarDualAttentionColor", model=model, **{f"{k}_inversion": v for k, v in sockets.items()})[0]


def test_the_right_way_says_nothing(nodes, embedded, inverted, said):
    _, noised, sigmas, _ = inverted["input"]
    model = place(nodes, embedded[0], inverted)
    run(model, embedded[3], noised, sigmas)
    (matched,) = nodes("ExemplarMatchLatentStatistics", latent=noised, reference=inverted["reference"][1], strength=1.0)
    run(model, embedded[3], matched, sigmas)
    assert said() == []


def test_reference_and_gray_exchanged(nodes, embedded, inverted, said):
    place(nodes, embedded[0], inverted, reference=inverted["gray"][0], gray=inverted["reference"][0])
    assert said() == [f"{NAME}: reference_inversion has less color than gray_inversion; they seem to be exchanged."]


def test_input_and_reference_exchanged(nodes, embedded, inverted, said):
    place(nodes, embedded[0], inverted, input=inverted["reference"][0], reference=inverted["input"][0])
    assert len(said()) == 1 and "exchanged" in said()[0]


def test_one_inversion_in_two_sockets(nodes, embedded, inverted, said):
    place(nodes, embedded[0], inverted, gray=inverted["reference"][0])
    assert len(said()) == 1 and "of the same picture" in said()[0]


def test_an_inversion_that_was_made_for_another_socket(nodes, embedded, inverted, scene):
    (marked,) = nodes("ExemplarAttentionCapture", model=embedded[0], layers="color", keep="gray reference (k)")
    latent = {"samples": embedded[2].encode(scene[1])}
    only_k = nodes("ExemplarDDIMInversion", model=marked, conditioning=embedded[3], latent=latent, depth=4, steps=50)[0]
    with pytest.raises(
        LookupError, match=r"reference_inversion: found one that can't serve.*No 'v'.*another inversion"
    ):
        place(nodes, embedded[0], inverted, reference=only_k)


def test_clean_latents(nodes, embedded, inverted, scene, said):
    clean = {"samples": embedded[2].encode(scene[0])}
    run(place(nodes, embedded[0], inverted), embedded[3], clean, inverted["input"][2])
    assert len(said()) == 1 and "is the clean picture" in said()[0]


def test_latents_of_another_picture(nodes, embedded, inverted, said):
    _, noised, sigmas, _ = inverted["input"]
    other = {"samples": torch.randn(noised["samples"].shape, generator=torch.Generator().manual_seed(4))}
    run(place(nodes, embedded[0], inverted), embedded[3], other, sigmas)
    assert len(said()) == 1 and "none of the input's" in said()[0]


def test_input_and_gray_exchanged(nodes, embedded, inverted, said):
    place(nodes, embedded[0], inverted, input=inverted["gray"][0], gray=inverted["input"][0])
    assert len(said()) == 1 and "exchanged with the input's" in said()[0]


def test_noise_is_added_to_noised_latents(nodes, embedded, inverted, said):
    noisy(place(nodes, embedded[0], inverted), embedded[3], inverted["input"][1]["samples"], inverted["input"][2])
    assert len(said()) == 1 and "noised already" in said()[0]


def test_a_noise_mask_on_noised_latents_is_refused(nodes, embedded, inverted):
    _, noised, sigmas, _ = inverted["input"]
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    made, samples = guider(place(nodes, embedded[0], inverted), embedded[3]), noised["samples"]
    euler = comfy.samplers.sampler_object("euler")
    with pytest.raises(ValueError, match=rf"noise mask.*input_mask of {NAME}"):
        made.sample(torch.zeros_like(samples), samples, euler, sigmas, denoise_mask=mask, disable_pbar=True, seed=0)
    with pytest.raises(ValueError, match=rf"noise mask.*input_mask of {NAME}"):  # KSampler, which adds noise as well
        made.sample(torch.randn_like(samples), samples, euler, sigmas, denoise_mask=mask, disable_pbar=True, seed=0)
    everywhere = made.sample(
        torch.zeros_like(samples), samples, euler, sigmas, denoise_mask=torch.ones_like(mask), disable_pbar=True, seed=0
    )
    assert difference(everywhere, run_guider(made, noised, sigmas)) < 1e-5
