"""Exemplar colorization against the published program's numbers, through the functions that the nodes run."""

import dataclasses
import importlib.util

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.call import AttentionCall
from comfyui_exemplar.attention.capture import Capture, CaptureTarget
from comfyui_exemplar.attention.dual import DualAttentionColor
from comfyui_exemplar.attention.dual_banks import DualBanks
from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.attention.fused import sdpa
from comfyui_exemplar.attention.layers import Layer, LayerInfo, is_shallow
from comfyui_exemplar.color import adain
from comfyui_exemplar.diffusion.inversion import Inversion
from comfyui_exemplar.diffusion.sampling import to_eps
from comfyui_exemplar.diffusion.schedule import inversion_plan, rescale
from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_inversion import capture_spec, color_layers
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings

from . import hosts
from .levels import check_levels

INSIDE_COMFY = importlib.util.find_spec("comfy") is not None
ROLES = {"input": "input", "ref": "reference", "refL": "gray"}


def close(found, expected, tolerance, what=""):
    error = float((found.double() - expected.double()).abs().max())
    assert error <= tolerance, f"{what}: {error:.3g} > {tolerance:.3g}"


@pytest.fixture(scope="module", params=["comfy"] if INSIDE_COMFY else ["diffusers"])
def host(request, exemplar_set):
    make = hosts.comfy_host if request.param == "comfy" else hosts.diffusers_host
    return make(exemplar_set, hosts.LinearMaps(None, None, 1.0))


def settings_of(params, parity):
    """The manifest's parameters as ours."""
    return ColorizeSettings(
        steps=parity.manifest["schedule"]["ddim_steps"],
        guidance=params["w"],
        passes=params["N"],
        depth=params["T"],
        convention="official",
        match_latents=float(params["adain"]),
        resolution=0,
        postprocess="official",
        attention=DualAttentionSettings(
            gamma_shallow=params["gamma1"],
            gamma_deep=params["gamma2"],
            beta_shallow=params["beta1"],
            beta_deep=params["beta2"],
            mix="after softmax" if params["pre_softmax"] else "before softmax",
            layers="output." + ",".join(str(i) for i in params["layers"]),
        ),
    )


def plan_of(host, depth, parity):
    return inversion_plan(host.sigma_table, parity.manifest["schedule"]["ddim_steps"], depth, "official")


def invert(host, parity, latents, settings):
    """Three inversions in one batch, as the pipeline runs them."""
    plan = plan_of(host, settings.depth, parity)
    layers = color_layers(host.layers, settings.attention.layers)
    names = list(latents)
    targets = [
        CaptureTarget(capture_spec(ROLES[name], layers, settings), pictures=range(i, i + 1))
        for i, name in enumerate(names)
    ]
    trajectory = host.invert(torch.cat([latents[n] for n in names]), plan, Capture(targets, plan.kept_sigmas), 0)
    return {
        name: Inversion(plan, trajectory[:, i : i + 1], targets[i].bank, host.fingerprint)
        for i, name in enumerate(names)
    }


def clean_latents(parity, size):
    key = "x".join(map(str, size))
    return {name: parity.file("common")[f"x0.{key}.{name}"] for name in ROLES}


def test_schedule_matches_recorded_levels(exemplar_set, host):
    alphas = exemplar_set.file("common")["alphas_cumprod"].double()
    # ComfyUI computes its sigmas in float32, where 1 - alpha near the clean end has a relative error of up to 7e-5
    near = {"rtol": 4e-5}
    for depth, recorded in exemplar_set.manifest["schedule_steps_by_T"].items():
        plan = plan_of(host, int(depth), exemplar_set)
        sigma = ((1 - alphas) / alphas).sqrt()
        up = torch.tensor(plan.levels, dtype=torch.float64)
        assert torch.allclose(up[:-1], sigma[[s["t"] for s in recorded["inversion"]]], **near)
        assert torch.allclose(up[1:], sigma[[s["t_next"] for s in recorded["inversion"]]], **near)
        down = torch.tensor(plan.sigmas, dtype=torch.float64)
        assert torch.allclose(down[:-1], sigma[[s["t"] for s in recorded["sampling"]]], **near)
        recorded_end = torch.tensor(recorded["sampling"][-1]["alpha_prev"], dtype=torch.float64)
        assert torch.allclose(down[-1], ((1 - recorded_end) / recorded_end).sqrt(), **near)


def test_plain_model(exemplar_set, host):
    """The denoiser alone, at the recorded timesteps."""
    recorded = exemplar_set.file("unet_forward")
    for x, t, eps in zip(recorded["x"], recorded["t"], recorded["eps"], strict=True):
        sigma = float(host.sigma_table[int(t)])
        y = rescale(x[None], 0.0, sigma)
        found = to_eps(y, sigma, denoise(host, y, sigma))
        close(found, eps[None], exemplar_set.tolerance("unet_forward"))


def denoise(host, x, sigma):
    """One model call through a host's sampling."""
    seen = []

    def once(model, x, sigmas, extra_args=None, callback=None, disable=None):
        seen.append(model(x, x.new_full((len(x),), sigma), **(extra_args or {})))
        return x

    if hasattr(host, "denoiser"):
        return host.denoiser(x, torch.tensor([sigma]))
    from comfyui_exemplar.hosts.comfy import sampling

    sampling.run_sampler(
        sampling.color_guider(host.model, host.conditioning, 1.0), x, once, torch.tensor([sigma, 0.0]), None
    )
    return seen[0]


def test_dual_attention(exemplar_set):
    """Every combination of γ, β and the place of the softmax, before and after ``to_out``."""
    recorded = exemplar_set.file("attention")
    tolerance = exemplar_set.tolerance("attention")
    combos = exemplar_set.manifest["golden"]["attention"]["combos"]
    assert combos
    heads, channels = exemplar_set.manifest["golden"]["attention"]["heads"], recorded["a.x"].shape[-1]

    def merged(feature):  # (heads, tokens, d) -> (1, tokens, heads * d)
        return feature.transpose(0, 1).flatten(1)[None]

    layer, sigma = Layer("output", 0), 1.0
    for combo in combos:
        at = combo["inputs"]
        x = recorded[f"{at}.x"]
        q, k, v = (x @ recorded[f"w.to_{n}.weight"].T for n in "qkv")
        banks = {role: FeatureBank() for role in ("input", "reference", "gray")}
        grid, ref_grid = (1, x.shape[1]), (1, recorded[f"{at}.k_ref"].shape[1])
        banks["input"].put(sigma, layer, grid, q=merged(recorded[f"{at}.q_input"]), k=merged(recorded[f"{at}.k_input"]))
        banks["reference"].put(
            sigma, layer, ref_grid, k=merged(recorded[f"{at}.k_ref"]), v=merged(recorded[f"{at}.v_ref"])
        )
        banks["gray"].put(sigma, layer, ref_grid, k=merged(recorded[f"{at}.k_refL"]))
        settings = DualAttentionSettings(
            gamma_shallow=combo["gamma"],
            beta_shallow=combo["beta"],
            mix="after softmax" if combo["pre_softmax"] else "before softmax",
        )
        edit = DualAttentionColor(settings, {layer: True}, DualBanks(banks["input"], banks["reference"], banks["gray"]))
        call = AttentionCall(layer, sigma, q, k, v, heads, (0,), (0,), (0,), grid, sdpa)
        before = edit(call, AttentionCall.plain)
        assert before.shape == (1, x.shape[1], channels)
        close(before, recorded[f"{combo['id']}.before"], tolerance, combo["id"])
        after = before @ recorded["w.to_out.0.weight"].T + recorded["w.to_out.0.bias"]
        close(after, recorded[f"{combo['id']}.after"], tolerance, combo["id"])


def test_inversion_trajectories(exemplar_set, host):
    recorded = exemplar_set.file("ddim_inversion")
    checked = 0
    for run in exemplar_set.manifest["golden"]["ddim_inversion"]["runs"]:
        latents = clean_latents(exemplar_set, run["latent_size"])
        found = invert(host, exemplar_set, latents, ColorizeSettings(depth=run["T"], convention="official"))
        for name, inversion in found.items():
            levels = inversion.plan.levels
            assert len(levels) == run["n_unet_steps"] + 1
            for k in range(1, len(levels)):
                expected = recorded.get(f"{run['tag']}.{name}.x{k}")
                if expected is not None:
                    z = rescale(inversion.trajectory[k], levels[k], 0.0)
                    close(z, expected, exemplar_set.tolerance("ddim_inversion_x"), f"{run['tag']} {name} x{k}")
                    checked += 1
                eps = recorded.get(f"{run['tag']}.{name}.eps{k - 1}")
                if eps is not None:
                    x, read = inversion.trajectory[k - 1], inversion.plan.reads[k - 1]
                    x = rescale(x, levels[k - 1], read)
                    predicted = to_eps(x, read, denoise(host, x, read))
                    close(
                        predicted, eps, exemplar_set.tolerance("ddim_inversion_eps"), f"{run['tag']} {name} eps{k - 1}"
                    )
                    checked += 1
    assert checked >= 3 * len(exemplar_set.manifest["golden"]["ddim_inversion"]["runs"])


def test_kept_features(exemplar_set, host):
    """Features of the default run: some tokens of some layers, and statistics of all."""
    golden = exemplar_set.manifest["golden"]
    case = golden["sampling"]["cases"][0]
    everything = dataclasses.replace(
        settings_of(case["params"], exemplar_set),
        attention=DualAttentionSettings(gamma_shallow=0.5, gamma_deep=0.5, beta_shallow=0.5, beta_deep=0.5),
    )
    found = invert(host, exemplar_set, clean_latents(exemplar_set, case["latent_size"]), everything)
    tolerance = exemplar_set.tolerance("features")
    stats = golden["features"]["stats"]
    assert stats
    for stat in stats:
        letter, name = stat["name"].split("_")
        bank = found[name].bank
        kept = bank.get(bank.nearest(float(host.sigma_table[stat["t"]])), Layer("output", stat["layer"]), letter)
        heads = kept[0].unflatten(-1, (stat["shape"][0], -1)).transpose(0, 1)
        assert list(heads.shape) == stat["shape"]
        close(heads.flatten()[:4], torch.tensor(stat["first4"]), 2 * tolerance, str(stat))
        assert abs(float(heads.double().abs().sum()) - stat["abs_sum"]) <= 1e-5 * stat["abs_sum"]
        recorded = exemplar_set.file("features").get(f"slot{stat['slot']}.out{stat['layer']}.{stat['name']}")
        if recorded is not None:
            stride = heads.shape[1] // recorded.shape[1]
            close(heads[:, ::stride], recorded, tolerance, str(stat))


def case_ids(exemplar_set):
    return exemplar_set.manifest["golden"]["sampling"]["cases"]


def test_sampling(exemplar_set, host):
    """Start, every recorded noise prediction of both branches, every recorded latent, and the end."""
    recorded = exemplar_set.file("sampling")
    cases = case_ids(exemplar_set)
    assert cases
    for case in cases:
        settings = settings_of(case["params"], exemplar_set)
        found = invert(host, exemplar_set, clean_latents(exemplar_set, case["latent_size"]), settings)
        plan = found["input"].plan
        start = adain(found["input"].noised(), found["ref"].noised(), strength=settings.match_latents)
        close(
            rescale(start, plan.sigmas[0], 0.0),
            recorded[f"{case['id']}.x_init"],
            exemplar_set.tolerance("sampling_x_and_final"),
            case["id"],
        )

        layers = color_layers(host.layers, settings.attention.layers)
        edit = DualAttentionColor(
            settings.attention,
            layers,
            DualBanks(found["input"].bank, found["ref"].bank, found["refL"].bank),
        )
        edit.precompute({info.layer: info.heads for info in host.layers})
        latents = [start]
        for k in range(len(plan.sigmas) - 1):
            one = dataclasses.replace(plan, sigmas=plan.sigmas[k : k + 2])
            latents.append(host.sample(latents[-1], one, edit, tuple(layers), settings.guidance))
            step = plan.sigmas[k + 1] - plan.sigmas[k]
            for weight, branch in ((1.0, "eps_color"), (0.0, "eps_plain")):
                expected = recorded.get(f"{case['id']}.step{k}.{branch}")
                if expected is not None:
                    # from the recorded latent, so that steps do not add up
                    z = recorded.get(f"{case['id']}.step{k - 1}.x_out") if k else recorded[f"{case['id']}.x_init"]
                    y = rescale(z, 0.0, plan.sigmas[k])
                    alone = host.sample(y, one, edit, tuple(layers), weight)
                    close(
                        (alone - y) / step,
                        expected,
                        exemplar_set.tolerance("sampling_eps"),
                        f"{case['id']} step {k} {branch}",
                    )
            expected = recorded.get(f"{case['id']}.step{k}.x_out")
            if expected is not None:
                close(
                    rescale(latents[-1], plan.sigmas[k + 1], 0.0),
                    expected,
                    exemplar_set.tolerance("sampling_x_and_final"),
                    f"{case['id']} x after {k}",
                )
        whole = host.sample(start, plan, edit, tuple(layers), settings.guidance)
        close(
            plan.to_clean(whole),
            recorded[f"{case['id']}.final"],
            exemplar_set.tolerance("sampling_x_and_final"),
            case["id"],
        )


def test_repetitions_through_the_whole_flow(exemplar_set):
    """Three passes from pictures to pictures: the pipeline behind the one-node version and the command line."""
    golden = exemplar_set.manifest["golden"]["repeat_n3"]
    recorded = exemplar_set.file("repeat_n3")
    factor = golden["image_size"] // recorded["z0.input"].shape[-1]
    maps = hosts.LinearMaps(recorded["vae_enc"], recorded["vae_dec"], golden["scale_factor"], factor)
    host = (hosts.comfy_host if INSIDE_COMFY else hosts.diffusers_host)(exemplar_set, maps)
    settings = settings_of(golden["params"], exemplar_set)
    gray, reference = as_picture(recorded["input_gray"]), as_picture(recorded["ref_rgb"])
    assert gray.shape[1] == golden["image_size"]
    pictures = {}
    result = colorize(host, gray, reference, settings, on_pass=lambda n, images: pictures.update({n: images}))
    last = settings.passes - 1
    close(result.latent, recorded[f"iter{last}.final"], exemplar_set.tolerance("repeat_n3_latents"), "last latent")
    checked = 0
    for n, images in pictures.items():
        expected = recorded.get(f"iter{n}.final_rgb")
        if expected is not None:
            found = (images[0] * 255).round().int()
            allowed = exemplar_set.tolerance("repeat_n3_uint8")
            check_levels(found, as_picture(expected)[0].mul(255).round().int(), allowed, f"pass {n}")
            checked += 1
    assert checked >= 2


def as_picture(stored):
    """uint8 of shape (H, W) or (H, W, 3), or a batch of one of them -> (1, H, W, 3) in 0..1."""
    stored = stored.reshape(stored.shape[-3:]) if stored.ndim == 4 else stored
    stored = stored[..., None].expand(-1, -1, 3) if stored.ndim == 2 else stored
    stored = stored.movedim(0, -1) if stored.shape[0] == 3 else stored
    return stored[None].float() / 255


def test_shallow_layers_are_those_of_the_manifest(exemplar_set, host):
    """The published rule (a channel count) and ours (the finest resolution) choose the same layers."""
    width = exemplar_set.manifest["unet"]["shallow_channels"]
    decoder: list[LayerInfo] = [info for info in host.layers if info.layer.block == "output"]
    assert {i.layer for i in decoder if is_shallow(i, host.layers)} == {i.layer for i in decoder if i.channels == width}
