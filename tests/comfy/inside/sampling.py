"""Small sampling helpers over ComfyUI's own samplers."""

import comfy.samplers
import torch


def run(model, positive, latent, sigmas, cfg=3.0, negative=None, sampler="euler"):
    """SamplerCustomAdvanced without noise: (B, C, h, w) -> (B, C, h, w)."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative if negative is not None else positive)
    guider.set_cfg(cfg)
    return run_guider(guider, latent, sigmas, sampler)


def run_guider(guider, latent, sigmas, sampler="euler", callback=None):
    samples = latent["samples"]
    return guider.sample(
        torch.zeros_like(samples),
        samples,
        comfy.samplers.sampler_object(sampler),
        sigmas,
        callback=callback,
        disable_pbar=True,
        seed=0,
    )


def difference(a, b):
    return float((a.float() - b.float()).abs().max())


class Calls:
    """Counts the rows that enter and leave a MODEL's UNet, call by call."""

    def __init__(self, model):
        unet = model.model.diffusion_model
        self.entered, self.left = [], []
        self._hooks = [
            unet.input_blocks[0][0].register_forward_pre_hook(lambda _, x: self.entered.append(x[0].shape[0])),
            unet.out[0].register_forward_pre_hook(lambda _, x: self.left.append(x[0].shape[0])),
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self._hooks:
            hook.remove()


def invert(nodes, model, conditioning, samples, capture=True, **settings):
    """What DDIM Inversion returns, three of fifty steps deep; with everything that color injection needs."""
    if capture:
        (model,) = nodes("ExemplarAttentionCapture", model=model, layers="color", keep="everything (q, k, v)")
    return nodes(
        "ExemplarDDIMInversion",
        model=model,
        conditioning=conditioning,
        latent={"samples": samples},
        **{"depth": 3, "steps": 50, **settings},
    )


def invert_whole(nodes, embedded, image, steps):
    """A picture, inverted by the embedded model over a whole schedule: what DDIM Inversion returns."""
    model, _, vae, empty = embedded
    return nodes(
        "ExemplarDDIMInversion",
        model=model,
        conditioning=empty,
        latent={"samples": vae.encode(image)},
        depth=steps,
        steps=steps,
        measure_round_trip=False,
    )
