"""Noise masks on the latent that is sampled, with and without Differential Diffusion."""

import comfy.samplers
import pytest
import torch
import torch.nn.functional as F

import nodes as stock

from .cells import check, meets
from .columns import COLUMNS, GUIDERS
from .neighbors import BY_KEY
from .prompts import LEFT

CELLS = [("NoiseMask", c) for c in (*COLUMNS, *GUIDERS) if meets("NoiseMask", c)]
#: From 0 on the left to 1 on the right.
SLOPE = torch.linspace(0, 1, 64).expand(1, 64, 64)


@pytest.mark.parametrize("differential", [False, True], ids=["mask", "differential"])
@pytest.mark.parametrize("column", [c for _, c in CELLS])
def test_cell(columns, embedded, column, differential, caplog):
    name, column, model = column, columns(column), embedded[0]
    theirs = BY_KEY["DifferentialDiffusion"].on(model) if differential else model
    ours = theirs if name in GUIDERS else column.made(theirs)
    latent = stock.SetLatentNoiseMask().set_mask(column.latent, SLOPE if differential else LEFT)[0]
    noised = name in ("injection", "fusion")  # what DDIM Inversion gave
    noise = torch.zeros_like(latent["samples"])
    if not noised:
        latent["samples"] = latent["samples"] * 0.1
        noise = torch.randn(noise.shape, generator=torch.Generator().manual_seed(4))

    def found():
        euler = comfy.samplers.sampler_object("euler")
        return column.guider(ours).sample(
            noise, latent["samples"], euler, column.sigmas, latent["noise_mask"], disable_pbar=True, seed=0
        )

    def expected():
        reference = column.reference(model)
        clean = model.model.process_latent_in(latent["samples"])
        mask = F.interpolate(latent["noise_mask"], clean.shape[-2:], mode="bilinear")
        sampling, top = model.get_model_object("model_sampling"), column.sigmas[0]

        def share(sigma):
            if not differential:
                return mask
            now, first, last = (float(sampling.timestep(s)) for s in (torch.tensor(sigma), top, sampling.sigma_min))
            return (mask >= (now - last) / (first - last)).float()

        for one in (reference, getattr(reference, "beside", None)):
            if one is not None:
                inpaint(one, clean, noise, share)
        start = model.model.process_latent_out(clean + noise * float(top))
        return reference.sample(start, column.sigmas)

    check("NoiseMask", name, found, expected, caplog, says="noise mask", model=ours)


def inpaint(reference, clean, noise, share):
    """Outside the mask the model is shown the clean latent with noise, and answers the clean latent."""
    denoise = reference.denoise

    def masked(x, sigma):
        mask = share(sigma)
        shown = x * mask + (clean + noise * sigma) * (1 - mask)
        if getattr(reference, "beside", None) is not None:
            reference.shown = reference.shown * mask + (clean + noise * sigma) * (1 - mask)
        return denoise(shown, sigma) * mask + clean * (1 - mask)

    reference.denoise = masked
