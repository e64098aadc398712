"""L-CAD's plain sampling against the published program's numbers, on both hosts."""

import importlib.util

import pytest
import torch

from comfyui_exemplar.diffusion.sampling import sample_ddim, to_eps
from comfyui_exemplar.diffusion.schedule import ddim_timesteps, rescale, sampling_sigmas

from .lcad_set import close, comfy_conditioning, comfy_model, diffusers_denoiser

INSIDE_COMFY = importlib.util.find_spec("comfy") is not None

# the tolerances that the set's description suggests
EPS, X, LONG, PICTURE = 5e-4, 3e-3, 5e-3, 1e-3


def sample(parity, x, sigmas, gray, texts, weight, seen=None):
    """Plain sampling on the host at hand; ``seen`` collects what each step saw: (x, sigma, clean estimate)."""

    def note(step):
        if seen is not None:
            seen.append((step["x"].clone(), float(step["sigma"]), step["denoised"].clone()))

    if not INSIDE_COMFY:
        denoiser = diffusers_denoiser(parity, gray, texts)
        return sample_ddim(denoiser.guided(weight), x, sigmas, callback=note, disable=True)
    import comfy.samplers

    from comfyui_exemplar.hosts.comfy import sampling

    def noted(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return sample_ddim(model, x, sigmas, extra_args, note, disable)

    guider = comfy.samplers.CFGGuider(comfy_model(parity))
    guider.set_conds(comfy_conditioning(texts[0], gray), comfy_conditioning(texts[1], gray))
    guider.set_cfg(weight)
    return sampling.run_sampler(guider, x, noted, sigmas, None)


def start(recorded, sigmas):
    """The recorded noise is in the variance-preserving form."""
    return rescale(recorded["x_T"], 0.0, float(sigmas[0]))


@pytest.fixture(scope="module")
def recorded(lcad_set):
    return lcad_set.file("ddim")


@pytest.fixture(scope="module")
@torch.no_grad()
def maps(lcad_set, recorded):
    return lcad_set.autoencoder.encoder(recorded["hint"])


@pytest.fixture(scope="module")
def texts(recorded):
    return {0: recorded["context_cond"], 1: recorded["context_uncond"]}


def table(parity):
    return ((1 - parity.alphas_cumprod.double()) / parity.alphas_cumprod.double()).sqrt().float()


def test_schedule(lcad_set, recorded):
    for case in lcad_set.meta["ddim"]:
        name = f"S{case['steps']}"
        timesteps = ddim_timesteps(case["steps"], lcad_set.meta["timesteps"])
        assert timesteps == recorded[f"{name}.timesteps"].tolist()
        sigmas = sampling_sigmas(table(lcad_set), case["steps"], "official").double()
        alphas = 1 / (1 + sigmas**2)
        close(alphas[:-1].flip(0), recorded[f"{name}.alphas"], 1e-6, rows=0)
        close(alphas[1:].flip(0), recorded[f"{name}.alphas_prev"], 1e-6, rows=0)


@torch.no_grad()
def test_every_step(lcad_set, recorded, maps, texts):
    case = min(lcad_set.meta["ddim"], key=lambda case: case["steps"])
    sigmas = sampling_sigmas(table(lcad_set), case["steps"], "official")
    steps: list = []
    end = sample(lcad_set, start(recorded, sigmas), sigmas, maps[-1], texts, case["guidance"], steps)
    name = f"S{case['steps']}.fresh."
    plain, told = recorded[f"{name}eps_uncond"], recorded[f"{name}eps_cond"]
    eps = plain + case["guidance"] * (told - plain)
    assert len(steps) == case["steps"]
    levels = [float(s) for s in sigmas[1:]]
    after = [x for x, *_ in steps[1:]] + [end]
    for i, (x, sigma, denoised) in enumerate(steps):
        scale = 1 + 2 * case["guidance"]  # an error of both predictions, by the guidance's weights
        close(to_eps(x, sigma, denoised)[0], eps[i], EPS * scale, f"eps of step {i}")
        close(denoised[0], recorded[f"{name}pred_x0_per_step"][i], X, f"x0 of step {i}")
        close(rescale(after[i], levels[i], 0.0)[0], recorded[f"{name}x_per_step"][i], X, f"x after step {i}")


@torch.no_grad()
def test_whole_runs(lcad_set, recorded, maps, texts):
    for case in lcad_set.meta["ddim"]:
        name = f"S{case['steps']}.fresh."
        sigmas = sampling_sigmas(table(lcad_set), case["steps"], "official")
        end = sample(lcad_set, start(recorded, sigmas), sigmas, maps[-1], texts, case["guidance"])
        z = rescale(end, float(sigmas[-1]), 0.0)
        close(z, recorded[f"{name}z"], X if case["steps"] < 10 else LONG, name)
        if f"{name}image" not in recorded:
            continue
        autoencoder = lcad_set.autoencoder
        picture = autoencoder(z.float() / lcad_set.meta["scale_factor"], maps)
        close(picture, recorded[f"{name}image"], PICTURE, name)
        # the published program cuts the fraction off
        found = (autoencoder.decode(z.float() / lcad_set.meta["scale_factor"], maps)[0] * 255).int()
        close(found, recorded[f"{name}image_u8_hwc"].int(), 1, f"{name}8 bits", rows=0)
    assert any(f"S{case['steps']}.fresh.image" in recorded for case in lcad_set.meta["ddim"])
