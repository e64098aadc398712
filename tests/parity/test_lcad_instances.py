"""L-CAD's instance-aware sampling and its reuse of attention logits against the recorded numbers, on both hosts."""

import contextlib
import dataclasses
import importlib.util

import pytest
import torch
import torch.nn.functional as F

from comfyui_exemplar.attention.call import CROSS
from comfyui_exemplar.attention.instances import (
    Instance,
    InstanceSettings,
    official_grid,
    official_step,
    token_logits,
)
from comfyui_exemplar.attention.phrases import comma_spans
from comfyui_exemplar.diffusion.sampling import sample_ddim, to_eps
from comfyui_exemplar.diffusion.schedule import rescale, sampling_sigmas

from .lcad_set import close, comfy_conditioning, comfy_model, diffusers_denoiser

INSIDE_COMFY = importlib.util.find_spec("comfy") is not None

# the tolerances that the set's description suggests
HIDDEN, LOGITS, DELTA, LOSS, STEP = 1e-4, 1e-3, 2e-6, 1e-4, 1e-4
EPS, X, LONG = 5e-4, 3e-3, 5e-3
SHORT_RUN, LONG_RUN = 2e-3, 4e-3

PUBLISHED = InstanceSettings(1.0, "official", "official")


def sample(parity, x, sigmas, gray, texts, weight, sampler, *, instances=(), stale=False, probe=None):
    """Run a sampler on the host at hand.

    :param probe: an edit of cross-attention that looks on.
    """
    if not INSIDE_COMFY:
        from comfyui_exemplar.hosts.diffusers.lcad_instances import guided_instances, stale_logits

        denoiser = diffusers_denoiser(parity, gray, texts)
        layers = [info.layer for info in denoiser.layers]
        factor = parity.meta["image_hw"][0] // x.shape[-2]
        guided = guided_instances(denoiser, weight, instances, factor) if instances else denoiser.guided(weight)
        looking = denoiser.edited(probe, layers, (CROSS,))
        with stale_logits(denoiser) if stale else contextlib.nullcontext(), looking:
            return sampler(guided, x, sigmas)
    import comfy.samplers

    from comfyui_exemplar.hosts.comfy import edits, sampling
    from comfyui_exemplar.hosts.comfy.lcad_instances import add_instances, reuse_logits

    model = comfy_model(parity)
    if instances:
        model = add_instances(model, instances)
    if stale:
        model = reuse_logits(model)
    if probe is not None:
        model = edits.add_edit(model, edits.PlacedEdit("probe", probe, edits.layer_widths(model), (CROSS,)))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(comfy_conditioning(texts[0], gray), comfy_conditioning(texts[1], gray))
    guider.set_cfg(weight)
    return sampling.run_sampler(guider, x, sampler, sigmas, None)


def predict(parity, x, sigma, gray, texts, weight, **how):
    """One guided prediction at a level, as noise; x and the result in the program's own (variance-preserving) scale."""
    seen = []

    def once(model, y, sigmas, extra_args=None, callback=None, disable=None):
        seen.append(to_eps(y, sigma, model(y, y.new_full((len(y),), sigma), **(extra_args or {}))))
        return y

    sample(parity, rescale(x, 0.0, sigma), torch.tensor([sigma, 0.0]), gray, texts, weight, once, **how)
    return seen[0]


def watched_ddim():
    """(what each step saw, a sampler that notes it)."""
    steps = []

    def sampler(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return sample_ddim(
            model, x, sigmas, extra_args, lambda step: steps.append({**step, "x": step["x"].clone()}), True
        )

    return steps, sampler


def table(parity):
    return ((1 - parity.alphas_cumprod.double()) / parity.alphas_cumprod.double()).sqrt().float()


def spans(parity):
    """Each phrase's places, from the ends that the set lists."""
    ends = parity.meta["sam"]["split_id"]
    starts = [1, *(end + 1 for end in ends[:-1])]
    return [tuple(range(start, end)) for start, end in zip(starts, ends, strict=True)]


@pytest.fixture(scope="module")
def recorded(lcad_set):
    return lcad_set.file("sam")


@pytest.fixture(scope="module")
def texts(recorded):
    return {0: recorded["context_cond"], 1: recorded["context_uncond"]}


@pytest.fixture(scope="module")
@torch.no_grad()
def gray(lcad_set, recorded):
    return lcad_set.autoencoder.encoder(recorded["hint"])[-1]


@pytest.fixture(scope="module")
def instances(lcad_set, recorded):
    """The recorded phrases with the masks as they were drawn, before any resize."""
    masks = recorded["raw_masks_u8"].float()
    length = recorded["context_cond"].shape[1]
    return [
        Instance(f"phrase {i}", places, length, masks[i : i + 1], PUBLISHED) for i, places in enumerate(spans(lcad_set))
    ]


def test_phrases_between_commas(lcad_set):
    for case in lcad_set.meta["token_split_cases"]:
        found = comma_spans(case["tokens"], ",</w>")
        assert [list(span) for span in found] == case["spans"]
        assert [span[1] for span in found] == case["split_id"]


def test_masks(lcad_set, recorded):
    picture = tuple(lcad_set.meta["sam"]["image_hw"])
    masks = recorded["raw_masks_u8"]
    whole = official_grid(masks, picture, picture)
    kept = recorded["sam_mask"][0]
    close(whole[: len(kept)], kept, 1e-5, "at the picture's size")
    sizes = [name for name in recorded if name.startswith("mask_at.")]
    assert sizes
    for name in sizes:
        grid = tuple(int(side) for side in name.removeprefix("mask_at.").split("x"))
        assert torch.equal(official_grid(masks, picture, grid), recorded[name][0]), name


def layer_name(layer):
    block = "middle_block" if layer.block == "middle" else f"{layer.block}_blocks.{layer.index}"
    return f"{block}.1.transformer_blocks.{layer.depth}.attn2"


@torch.no_grad()
def test_logits_and_their_step(lcad_set, recorded, gray, texts, instances):
    """Layer by layer, in the first of the two calls: logits before, the step, the loss that it is the gradient of."""
    sigma = float(table(lcad_set)[int(recorded["t"])])
    calls = []

    def look(call, earlier):
        calls.append(call.select(call.rows_of(0)))
        return earlier(call)

    predict(lcad_set, recorded["x_t"], sigma, gray, texts, 2.0, probe=look)
    found = {layer_name(call.layer): call for call in calls}
    assert set(found) == {name.removeprefix("loss.") for name in recorded if name.startswith("loss.")}
    picture = tuple(lcad_set.meta["sam"]["image_hw"])
    checked = 0
    for name, call in found.items():
        logits = token_logits(call, range(call.k.shape[1]))
        before = recorded.get(f"sim_cond_before.{name}", recorded.get(f"sim_cond_before_firstcols.{name}"))
        if before is not None:
            close(logits[0, ..., : before.shape[-1]], before, LOGITS, f"logits of {name}", rows=0)
        step, loss = torch.zeros_like(logits), 0.0
        for instance in instances:
            mask = official_grid(instance.masks, picture, call.grid).flatten(1).float()
            own = logits[..., list(instance.tokens)]
            step[..., list(instance.tokens)] = official_step(own, mask)
            target = mask[:, None, :, None].expand_as(own)
            loss = loss + F.binary_cross_entropy(own.sigmoid(), target)
        assert abs(float(loss) - float(recorded[f"loss.{name}"])) <= LOSS, name
        delta = recorded.get(f"sim_cond_delta.{name}")
        if delta is not None:
            close(-step[0, ..., : delta.shape[-1]], delta, DELTA, f"step of {name}", rows=0)
            checked += 1
    assert checked


@torch.no_grad()
def test_single_step(lcad_set, recorded, gray, texts, instances):
    single, weight = lcad_set.meta["sam"]["single_step"], lcad_set.meta["sam"]["guidance"]
    sigmas = sampling_sigmas(table(lcad_set), single["ddim_steps"], "official")
    at = len(sigmas) - 2 - single["index"]
    sigma, after = float(sigmas[at]), float(sigmas[at + 1])
    assert sigma == float(table(lcad_set)[single["t"]])
    x = recorded["x_t"]

    def eps(weight, instances):
        return predict(lcad_set, x, sigma, gray, texts, weight, instances=instances)

    close(eps(1.0, ()), recorded["eps_pass1_cond"], HIDDEN, "first call")
    close(eps(0.0, ()), recorded["eps_pass1_uncond"], HIDDEN, "first call, unconditional")
    close(eps(1.0, instances), recorded["eps_pass2_cond"], STEP, "second call")
    close(eps(0.0, instances), recorded["eps_pass2_uncond"], STEP, "second call, unconditional")
    guided = eps(weight, instances)
    close(guided, recorded["model_output"], STEP * (2 * weight - 1), "guided")
    a, a_after = (1 / (1 + s**2) for s in (sigma, after))
    x0 = (x - (1 - a) ** 0.5 * guided) / a**0.5
    close(x0, recorded["pred_x0"], X, "clean estimate")
    close(a_after**0.5 * x0 + (1 - a_after) ** 0.5 * guided, recorded["x_prev"], STEP, "next latent")
    assert float((recorded["eps_pass2_cond"] - recorded["eps_pass1_cond"]).abs().max()) > 2 * STEP, "masks do something"


@torch.no_grad()
def test_whole_runs(lcad_set, recorded, gray, texts, instances):
    for case in lcad_set.meta["sam"]["full_runs"]:
        name, short = f"S{case['steps']}", case["steps"] < 10
        sigmas = sampling_sigmas(table(lcad_set), case["steps"], "official")
        steps, sampler = watched_ddim()
        start = rescale(recorded["x_T"], 0.0, float(sigmas[0]))
        end = sample(lcad_set, start, sigmas, gray, texts, case["guidance"], sampler, instances=instances)
        z = rescale(end, float(sigmas[-1]), 0.0)
        close(z, recorded[f"{name}.z"], SHORT_RUN if short else LONG_RUN, name)
        visited = recorded.get(f"{name}.x_per_step")
        if visited is not None:
            for i, x in enumerate([*(step["x"] for step in steps[1:]), end]):
                close(rescale(x, float(sigmas[i + 1]), 0.0)[0], visited[i], SHORT_RUN, f"{name}, step {i}")
        plain = sample(lcad_set, start, sigmas, gray, texts, case["guidance"], sampler)
        close(
            rescale(plain, float(sigmas[-1]), 0.0), recorded[f"{name}.z_unguided_fresh"], LONG_RUN, f"{name} unguided"
        )
        changed = float((z - recorded[f"{name}.z_unguided_fresh"]).abs().max())
        assert changed > (SHORT_RUN if short else LONG_RUN), "the tolerance tells masks from no masks"


@torch.no_grad()
def test_one_pass_differs_in_first_order(lcad_set, recorded, gray, texts, instances):
    """Twice the step, twice the distance between the two schedules."""
    sigma = float(table(lcad_set)[int(recorded["t"])])

    def eps(strength, schedule):
        settings = dataclasses.replace(PUBLISHED, strength=strength, schedule=schedule)
        stepped = [dataclasses.replace(instance, settings=settings) for instance in instances]
        return predict(lcad_set, recorded["x_t"], sigma, gray, texts, 1.0, instances=stepped)

    apart = [float((eps(s, "one pass") - eps(s, "official")).norm()) for s in (2.0, 4.0)]
    assert apart[0] > 10 * HIDDEN
    assert 1.8 < apart[1] / apart[0] < 2.2


@torch.no_grad()
def test_second_call_on_stale_logits(lcad_set):
    """The recorded pair of calls, whose rows are at two levels: each row by itself."""
    recorded = lcad_set.file("unet")
    levels = table(lcad_set)
    for row in range(len(recorded["x"])):
        found = {}
        for name, stale in (("eps2_stale", True), ("eps2_fresh", False)):
            found[name] = two_calls(lcad_set, recorded, levels, row, stale)
            close(found[name], recorded[name][row : row + 1], HIDDEN, f"{name}, row {row}")
        assert float((found["eps2_stale"] - found["eps2_fresh"]).abs().max()) > 0.1


def two_calls(parity, recorded, levels, row, stale):
    """The noise predicted by the second of two calls of one run."""
    seen = []

    def twice(model, y, sigmas, extra_args=None, callback=None, disable=None):
        for suffix in ("", "2"):
            sigma = float(levels[recorded[f"timesteps{suffix}"][row]])
            x = rescale(recorded[f"x{suffix}"][row : row + 1], 0.0, sigma)
            text.update({0: recorded[f"context{suffix}"][row : row + 1]})
            seen.append(to_eps(x, sigma, model(x, x.new_full((1,), sigma), **(extra_args or {}))))
        return y

    if INSIDE_COMFY:
        pytest.skip("ComfyUI has one prompt a run; whole runs below use the cache there")
    text = {0: recorded["context"][row : row + 1], 1: recorded["context"][row : row + 1]}
    from comfyui_exemplar.hosts.diffusers.lcad_instances import stale_logits

    denoiser = diffusers_denoiser(parity, recorded["gray"][row : row + 1], text)
    denoiser.contexts = text
    with stale_logits(denoiser) if stale else contextlib.nullcontext():
        twice(denoiser.guided(1.0), None, None)
    return seen[1]


@torch.no_grad()
def test_plain_sampling_as_published(lcad_set):
    """Every second step on the logits of the one before."""
    recorded = lcad_set.file("ddim")
    gray = lcad_set.autoencoder.encoder(recorded["hint"])[-1]
    texts = {0: recorded["context_cond"], 1: recorded["context_uncond"]}
    for case in lcad_set.meta["ddim"]:
        name = f"S{case['steps']}.official."
        sigmas = sampling_sigmas(table(lcad_set), case["steps"], "official")
        steps, sampler = watched_ddim()
        start = rescale(recorded["x_T"], 0.0, float(sigmas[0]))
        end = sample(lcad_set, start, sigmas, gray, texts, case["guidance"], sampler, stale=True)
        close(rescale(end, float(sigmas[-1]), 0.0), recorded[f"{name}z"], X if case["steps"] < 10 else LONG, name)
        if f"{name}pred_x0_per_step" not in recorded:
            continue
        eps_uncond, eps_cond = recorded[f"{name}eps_uncond"], recorded[f"{name}eps_cond"]
        eps = eps_uncond + case["guidance"] * (eps_cond - eps_uncond)
        for i, step in enumerate(steps):
            close(step["denoised"][0], recorded[f"{name}pred_x0_per_step"][i], X, f"x0 of step {i}")
            predicted = to_eps(step["x"], float(step["sigma"]), step["denoised"])[0]
            close(predicted, eps[i], EPS * (1 + 2 * case["guidance"]), f"eps of step {i}")
