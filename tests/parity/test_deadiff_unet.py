"""DEADiff's UNet and sampling against the published program's numbers, under both hosts.

Without ComfyUI this runs on diffusers; within it, ``tests/comfy`` runs it on ComfyUI's own UNet and samplers.
"""

import dataclasses
import importlib.util

import pytest
import torch

from comfyui_exemplar.attention.call import CROSS, AttentionCall
from comfyui_exemplar.attention.image_tokens import SEMANTICS, STYLE, ImageTokens, project_tokens, route
from comfyui_exemplar.attention.layers import Layer
from comfyui_exemplar.diffusion.sampling import sample_ddim
from comfyui_exemplar.diffusion.schedule import (
    ancestral_sigmas,
    ddim_timesteps,
    fractional_timestep,
    rescale,
    sigmas_from_alphas,
)

from . import hosts
from .deadiff_set import DEADiffUNet

INSIDE_COMFY = importlib.util.find_spec("comfy") is not None
TOLERANCE = (
    1e-5  # what the set's description suggests: absolute for the UNet, relative to the largest value for sampling
)


@pytest.fixture(scope="module")
def unet(deadiff_set):
    return DEADiffUNet(deadiff_set)


@pytest.fixture(scope="module")
def host(unet):
    return ComfyRunner(unet) if INSIDE_COMFY else DiffusersRunner(unet)


class DiffusersRunner:
    """The set's UNet under diffusers, as ``eps(x, t, texts, edit)``."""

    def __init__(self, unet):
        from comfyui_exemplar.hosts.diffusers.denoiser import UNetDenoiser

        class Denoiser(UNetDenoiser):
            """With a text of its own for each branch."""

            texts = ()

            def context(self, branches, rows):
                each = rows // len(branches)
                return torch.cat([text.expand(each, -1, -1) for text in self.texts])

        self.host = hosts.diffusers_host(unet)
        self.make = lambda fractional: Denoiser(self.host.model, fractional=fractional)
        self.layers = self.make(False).layers
        self.sigma_table = self.make(False).sigma_table

    def modules(self):
        names = self.make(False)._layers
        parts = (name.removesuffix(".processor").removesuffix("attn1") + "attn2.to_out.1" for name in names)
        return [self.host.model.unet.get_submodule(part) for part in parts]

    def to_k(self, layer):
        names = {info.layer: name for name, info in self.make(False)._layers.items()}
        return self.host.model.unet.get_submodule(names[layer].removesuffix("attn1.processor") + "attn2")

    def guided(self, texts, edit, scale, fractional, uncond):
        """A denoiser under guidance; ``texts`` are the positive and the negative one."""
        denoiser = self.make(fractional)

        def model(x, sigma):
            with denoiser.edited(edit, edit.layers if edit else (), (CROSS,)):
                if not uncond:
                    denoiser.texts = texts[:1]
                    return denoiser(x, sigma)
                denoiser.texts = texts[::-1]
                plain, positive = denoiser(torch.cat([x, x]), sigma.repeat(2), (1, 0)).chunk(2)
            return plain + scale * (positive - plain)

        return model

    def ddim(self, x, sigmas, seen, **settings):
        return sample_ddim(
            self.guided(**settings), x, sigmas, callback=lambda s: seen.append(s["denoised"]), disable=True
        )

    def euler_ancestral(self, x, sigmas, noises, seen, **settings):
        model = self.guided(**settings)
        for i, noise in enumerate([*noises, None]):
            here, there = float(sigmas[i]), float(sigmas[i + 1])
            denoised = model(x, sigmas[i].reshape(1))
            seen.append(denoised)
            if noise is None:
                return denoised
            up = min(there, (there**2 * (here**2 - there**2) / here**2) ** 0.5)
            x = x + (x - denoised) / here * ((there**2 - up**2) ** 0.5 - here) + noise * up
        raise AssertionError("no last step")


class ComfyRunner:
    """The same under ComfyUI, through the installers that the node uses."""

    def __init__(self, unet):
        from comfyui_exemplar.hosts.comfy.model import attention_layers

        self.model = hosts.comfy_model(unet)
        self.layers = attention_layers(self.model)
        self.sigma_table = sigmas_from_alphas(unet.file("common")["alphas_cumprod"])

    def modules(self):
        found = self.model.model.diffusion_model.named_modules()
        by_name = {name: module for name, module in found if name.endswith("attn2.to_out")}
        places = (
            "middle_block.1" if at.block == "middle" else f"{at.block}_blocks.{at.index}.1"
            for (at,) in ((info.layer,) for info in self.layers)
        )
        return [by_name[f"{place}.transformer_blocks.0.attn2.to_out"] for place in places]

    def to_k(self, layer):
        name = "middle_block.1" if layer.block == "middle" else f"{layer.block}_blocks.{layer.index}.1"
        return self.model.model.diffusion_model.get_submodule(f"{name}.transformer_blocks.0.attn2")

    def _guider(self, texts, edit, scale, fractional, uncond):
        import comfy.samplers

        from comfyui_exemplar.hosts.comfy.deadiff_tokens import fractional_timesteps, install_tokens

        model = self.model if edit is None else install_tokens(self.model, edit, 0.0, 1.0)
        if fractional:
            model = fractional_timesteps(model)
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds([[texts[0], {}]], [[texts[-1], {}]])
        guider.set_cfg(scale if uncond else 1.0)
        return guider

    def _sample(self, function, x, sigmas, seen, **settings):
        import comfy.samplers

        guider = self._guider(**settings)
        return guider.sample(
            torch.zeros_like(x),
            x,
            comfy.samplers.KSAMPLER(function),
            sigmas,
            callback=lambda _, denoised, *rest: seen.append(denoised),
            disable_pbar=True,
            seed=0,
        )

    def ddim(self, x, sigmas, seen, **settings):
        return self._sample(sample_ddim, x, sigmas, seen, **settings)

    def euler_ancestral(self, x, sigmas, noises, seen, **settings):
        import comfy.k_diffusion.sampling as stock

        rest = iter(noises)

        def function(model, x, sigmas, **options):
            return stock.sample_euler_ancestral(model, x, sigmas, noise_sampler=lambda *_: next(rest), **options)

        return self._sample(function, x, sigmas, seen, **settings)


def edit_of(unet, host, tokens, weight):
    routing = route(host.layers)
    return ImageTokens(project_tokens(tokens, unet.projections, routing), weight, "official")


def eps(host, x, timestep, text, edit):
    """The noise that the UNet predicts for a variance-preserving latent, through one DDIM step's denoiser."""
    sigma = float(host.sigma_table[timestep])
    seen = []
    given = rescale(x, 0.0, sigma)
    host.ddim(
        given,
        torch.tensor([sigma, sigma / 2]),
        seen,
        texts=[text, text],
        edit=edit,
        scale=1.0,
        fractional=False,
        uncond=False,
    )
    return (given - seen[0]) / sigma


class OtherText:
    """An edit that gives some layers another prompt, under one that adds tokens."""

    def __init__(self, host, edit, text, layers):
        self.host, self.edit, self.text, self.other = host, edit, text, layers
        self.layers, self.pictures, self.mask = edit.layers, edit.pictures, edit.mask

    def forget(self):
        """Nothing of a run is kept."""

    def __call__(self, call, earlier):
        if call.layer in self.other:
            attention = self.host.to_k(call.layer)
            k, v = attention.to_k(self.text), attention.to_v(self.text)
            call = dataclasses.replace(call, k=k.expand_as(call.k), v=v.expand_as(call.v))
        return self.edit(call, earlier)


@torch.no_grad()
def test_unet(deadiff_set, unet, host):
    """File f: every case, row by row, and what each cross-attention gives in the case that uses all tokens."""
    golden, cases = deadiff_set.file("f_unet_tiny"), deadiff_set.meta["f_unet_tiny"]["cases"]
    texts = {"text": golden["in.text"], "negative": golden["in.negative_text"], "other": golden["in.other_text"]}
    assert cases and {f"out.{name}" for name in cases} == {name for name in golden if name.startswith("out.")}
    for name, case in cases.items():
        for row in range(len(golden["in.x"])):
            tokens = {}
            for kind, branch in ((STYLE, "style"), (SEMANTICS, "content")):
                given = case[f"{branch}_branch"]
                if given == branch:
                    tokens[kind] = golden[f"in.{branch}_tokens"][row : row + 1]
            if case["style_branch"] is None:
                edit = None
            else:
                count = golden["in.style_tokens"].shape[1]
                if not tokens:  # both kinds are zeros
                    tokens[STYLE] = torch.zeros(1, count, golden["in.style_tokens"].shape[2])
                edit = edit_of(unet, host, tokens, case["img_weight"])
            used = case["text"]
            if used["content_branch"] != used["style_branch"]:
                content = [layer for layer, kind in route(host.layers).items() if kind == SEMANTICS]
                edit = OtherText(host, edit, texts[used["content_branch"]], content)
            found = eps(
                host, golden["in.x"][row : row + 1], int(golden["in.t"][row]), texts[used["style_branch"]], edit
            )
            error = float((found - golden[f"out.{name}"][row]).abs().max())
            assert error <= TOLERANCE, f"{name}, row {row}: {error:.3g}"


@torch.no_grad()
def test_each_cross_attention(deadiff_set, unet, host):
    golden = deadiff_set.file("f_unet_tiny")
    tokens = {STYLE: golden["in.style_tokens"][:1], SEMANTICS: golden["in.content_tokens"][:1]}
    seen = []
    hooks = [module.register_forward_hook(lambda _m, _i, out: seen.append(out)) for module in host.modules()]
    eps(host, golden["in.x"][:1], int(golden["in.t"][0]), golden["in.text"], edit_of(unet, host, tokens, 1.0))
    for hook in hooks:
        hook.remove()
    expected = sorted(name for name in golden if name.startswith("both.attn2_out."))
    assert len(seen) == len(expected) == len(host.layers)
    for name, found in zip(expected, seen, strict=True):
        assert float((found - golden[name][:1]).abs().max()) <= TOLERANCE, name


def test_routing(deadiff_set, host):
    """The rule finds the program's table, which was recorded with hooks on the running model."""
    listed = deadiff_set.meta["f_routing"]
    routing = route(host.layers)
    kinds = {"style": STYLE, "content": SEMANTICS}
    assert {Layer(*entry["comfy_block"]): kinds[entry["branch"]] for entry in listed} == routing
    assert [entry["counter"] for entry in listed] == list(range(len(routing)))


def sampling_cases(parity):
    """What the finished DDIM runs are called, such as ``ddim.scale7.5.w1.0``."""
    names = parity.file("g_guidance_sampling_tiny")
    return sorted(n.removesuffix(".final") for n in names if n.startswith("ddim.") and n.endswith(".final"))


def scale_and_weight(deadiff_set, case):
    """A run's guidance and the weight of its tokens, read from its name."""
    _, scale, weight = case.replace(".scale", "|").replace(".w", "|").split("|")
    # at scale 1 the program loses its img_weight, and takes 1; ours keeps it, so it has to be told
    quirk = float(scale) == 1 and deadiff_set.meta["quirk_scale1_ignores_img_weight"]
    return float(scale), 1.0 if quirk else float(weight)


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def test_ddim(deadiff_set, unet, host):
    """File g: guidance, and DDIM to the smallest training sigma."""
    golden, meta = deadiff_set.file("g_guidance_sampling_tiny"), deadiff_set.meta["g_guidance_sampling_tiny"]
    steps = len(meta["ddim_timesteps_4"])
    assert ddim_timesteps(steps) == meta["ddim_timesteps_4"]
    table = host.sigma_table
    sigmas = torch.stack([*(table[t] for t in reversed(ddim_timesteps(steps))), table[0]])
    cases = sampling_cases(deadiff_set)
    assert cases
    for case in cases:
        scale, weight = scale_and_weight(deadiff_set, case)
        edit = edit_of(unet, host, {STYLE: golden["style_tokens"]}, weight)
        seen = []
        settings = {
            "texts": [golden["text"], golden["negative_text"]],
            "edit": edit,
            "scale": scale,
            "fractional": False,
            "uncond": scale != 1,
        }
        final = host.ddim(rescale(golden["x_T"], 0.0, float(sigmas[0])), sigmas, seen, **settings)
        assert relative(rescale(final, float(sigmas[-1]), 0.0), golden[f"{case}.final"]) <= TOLERANCE, case
        for i, denoised in enumerate(seen):
            if f"{case}.pred_x0.{i}" in golden:
                assert relative(denoised, golden[f"{case}.pred_x0.{i}"]) <= TOLERANCE, f"{case} {i}"
        if f"{case}.first.eps_guided" in golden:
            first = int(meta["ddim_timesteps_4"][-1])
            found = {
                "cond": eps(host, golden["x_T"], first, golden["text"], edit),
                "uncond": eps(
                    host,
                    golden["x_T"],
                    first,
                    golden["negative_text"],
                    edit_of(unet, host, {STYLE: torch.zeros_like(golden["style_tokens"])}, 1.0),
                ),
                "guided": (rescale(golden["x_T"], 0.0, float(sigmas[0])) - seen[0]) / float(sigmas[0]),
            }
            for name, value in found.items():
                assert relative(value, golden[f"{case}.first.eps_{name}"]) <= TOLERANCE, f"{case} {name}"


@torch.no_grad()
def test_euler_ancestral(deadiff_set, unet, host):
    """File g: Euler ancestral at fractional timesteps, with the recorded noise."""
    golden, meta = deadiff_set.file("g_guidance_sampling_tiny"), deadiff_set.meta["g_guidance_sampling_tiny"]["euler"]
    sigmas = golden["euler.sigmas"]
    assert relative(ancestral_sigmas(host.sigma_table, meta["steps"]), sigmas) <= TOLERANCE
    timesteps = fractional_timestep(host.sigma_table, sigmas[:-1])
    assert float((timesteps - golden["euler.model_timesteps"]).abs().max()) < 1e-2
    wanted = torch.linspace(len(host.sigma_table) - 1, 0, meta["steps"])
    assert relative(wanted, golden["euler.model_timesteps"]) < 1e-5
    noises = [golden[f"euler.step_noise.{i}"] for i in range(meta["steps"] - 1)]
    seen = []
    final = host.euler_ancestral(
        golden["euler.noise_unit"] * sigmas[0],
        sigmas,
        noises,
        seen,
        texts=[golden["text"], golden["negative_text"]],
        edit=edit_of(unet, host, {STYLE: golden["style_tokens"]}, meta["img_weight"]),
        scale=meta["scale"],
        fractional=True,
        uncond=True,
    )
    for i, denoised in enumerate(seen):
        assert relative(denoised, golden[f"euler.denoised.{i}"]) <= TOLERANCE, i
    assert relative(final, golden["euler.final"]) <= TOLERANCE


@pytest.mark.skipif(not INSIDE_COMFY, reason="the Published Sampler node is ComfyUI's; set COMFYUI_PATH")
def test_published_sampler(deadiff_set, unet, host):
    """File g once more, from the recorded noise as a user gives it: ComfyUI's own scaling at both ends included."""
    from comfyui_exemplar.hosts.comfy.published_sampler import published_sampling
    from comfyui_exemplar.pipelines.published_sampler import PublishedSamplerSettings

    golden, meta = deadiff_set.file("g_guidance_sampling_tiny"), deadiff_set.meta["g_guidance_sampling_tiny"]
    texts = [golden["text"], golden["negative_text"]]

    def sampled(sampler, sigmas, noise, weight, **settings):
        edit = edit_of(unet, host, {STYLE: golden["style_tokens"]}, weight)
        guider = host._guider(texts=texts, edit=edit, uncond=True, **settings)
        return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)

    cases = sampling_cases(deadiff_set)
    assert cases
    for case in cases:
        scale, weight = scale_and_weight(deadiff_set, case)
        sampler, sigmas = published_sampling(
            host.model, PublishedSamplerSettings("ddim", len(meta["ddim_timesteps_4"])), "test"
        )
        found = sampled(sampler, sigmas, golden["x_T"], weight, scale=scale, fractional=False)
        assert relative(found, golden[f"{case}.final"]) <= TOLERANCE, case

    euler = meta["euler"]
    sampler, sigmas = published_sampling(
        host.model, PublishedSamplerSettings("euler_ancestral", euler["steps"]), "test"
    )
    assert relative(sigmas, golden["euler.sigmas"]) <= TOLERANCE
    noises = iter([golden[f"euler.step_noise.{i}"] for i in range(euler["steps"] - 1)])
    sampler.extra_options["noise_sampler"] = lambda *_: next(noises)
    found = sampled(
        sampler, sigmas, golden["euler.noise_unit"], euler["img_weight"], scale=euler["scale"], fractional=True
    )
    assert relative(found, golden["euler.final"]) <= TOLERANCE


def test_tokens_are_made_once(unet, host, deadiff_set):
    """Keys and values of the image do not depend on the step: a layer keeps what it made."""
    golden = deadiff_set.file("g_guidance_sampling_tiny")
    edit = edit_of(unet, host, {STYLE: golden["style_tokens"]}, 1.0)
    layer = edit.layers[0]
    width = unet.projections[layer][0].shape[0]
    q = torch.zeros(1, 4, width)
    call = AttentionCall(layer, 1.0, q, q, q, 1, (0,), (0,), (0,), (2, 2), lambda *_: None)
    first, again = edit._rows(call), edit._rows(dataclasses.replace(call, sigma=0.5))
    assert first[0] is again[0] and first[1] is again[1]
