"""Inversion, color injection and color memories on the transformer families."""

import comfy.model_base
import comfy.samplers
import pytest
import torch

from comfyui_exemplar.attention.dual import DualAttentionColor
from comfyui_exemplar.attention.dual_banks import DualBanks
from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.color import ab_error, desaturate
from comfyui_exemplar.hosts.comfy import edits
from comfyui_exemplar.hosts.comfy.families.found import network_of

from .transformers import FAMILIES, TinyVAE, tied, tiny

DEPTH, STEPS = 3, 12


@pytest.fixture(scope="module", params=FAMILIES)
def made(request):
    with torch.inference_mode():
        return tiny(request.param)


@pytest.fixture(scope="module")
def inverted(nodes, made):
    """What DDIM Inversion gives of an input, a reference and a gray reference, everything kept."""
    with torch.inference_mode():
        (marked,) = nodes("ExemplarAttentionCapture", model=made.model, layers="all")
        return [
            nodes(
                "ExemplarDDIMInversion",
                model=marked,
                conditioning=made.prompt(),
                latent={"samples": made.latents(seed=seed)},
                depth=DEPTH,
                steps=STEPS,
                refinements=6,
            )
            for seed in (1, 2, 3)
        ]


def back(made, model, noised, sigmas, cfg=1.0, count=1, sampler="euler"):
    """What a sampler without noise makes of inverted latents."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(made.prompt(), made.prompt())
    guider.set_cfg(cfg)
    start = noised["samples"].expand(count, *noised["samples"].shape[1:])
    way = comfy.samplers.sampler_object(sampler)
    return guider.sample(torch.zeros_like(start), start, way, sigmas, disable_pbar=True, seed=0)


def test_what_is_inverted_comes_back_by_comfys_own_sampler(made, inverted):
    _, noised, sigmas, error = inverted[0]
    assert 0 <= error < 0.02
    assert sigmas[0] < 1 and sigmas[-1] == 0 and len(sigmas) == DEPTH + 1
    start = made.latents(seed=1)
    found = back(made, made.model, noised, sigmas)
    assert found.shape == start.shape
    assert float((found - start).pow(2).mean().sqrt() / start.std()) == pytest.approx(error, abs=0.005)


def test_other_ways_up(nodes, made):
    """A step of second order comes back better than one of Euler's; drawn toward noise, the end is nearer to noise."""

    def climbed(**values):
        return nodes(
            "ExemplarDDIMInversion",
            model=made.model,
            conditioning=made.prompt(),
            latent={"samples": made.latents(seed=1)},
            depth=6,
            steps=8,
            **values,
        )

    plain, heun = climbed(), climbed(method="heun")
    start, apart = made.latents(seed=1), []
    for _, noised, sigmas, _ in (plain, heun):
        found = back(made, made.model, noised, sigmas, sampler="heun")
        apart.append(float((found - start).pow(2).mean().sqrt() / start.std()))
    assert apart[1] < apart[0] and apart[1] == pytest.approx(heun[3], abs=0.002)
    ends = [climbed(method="controlled", control=share)[0].noised() for share in (0.0, 0.5, 1.0)]
    torch.testing.assert_close(ends[0], plain[0].noised())
    noise = torch.randn(ends[0].shape, generator=torch.Generator().manual_seed(0))
    apart = [float((end - noise).abs().mean()) for end in ends]
    assert apart == sorted(apart, reverse=True)
    with pytest.raises(ValueError, match="method is heun, expected euler with refinements"):
        climbed(method="heun", refinements=2)


def test_the_stock_samplers_come_back(nodes, made, inverted):
    """KSampler (Advanced) with ddim_uniform and no noise, and SamplerCustom with the node's sigmas, give the same."""
    from comfy_extras.nodes_custom_sampler import SamplerCustom

    import nodes as stock

    _, noised, sigmas, error = inverted[0]
    start, prompt = made.latents(seed=1), made.prompt()
    grid = comfy.samplers.calculate_sigmas(made.model.get_model_object("model_sampling"), "ddim_uniform", STEPS)
    last = len(grid) - 1
    args = (made.model, "disable", 0, STEPS, 1.0, "euler", "ddim_uniform", prompt, prompt, noised)
    (found,) = stock.KSamplerAdvanced().sample(*args, last - DEPTH, last, "disable")
    euler = comfy.samplers.sampler_object("euler")
    custom = SamplerCustom.execute(made.model, False, 0, 1.0, prompt, prompt, euler, sigmas, noised)
    for back in (found, custom.result[0]):
        assert float((back["samples"] - start).pow(2).mean().sqrt() / start.std()) == pytest.approx(error, abs=0.005)


def test_control_does_not_know_the_batch(nodes, made):
    """A picture is drawn the same way alone, in a batch, and in half of one where memory ran out."""

    def climbed(latents):
        return nodes(
            "ExemplarDDIMInversion",
            model=made.model,
            conditioning=made.prompt(),
            latent={"samples": latents},
            depth=2,
            steps=4,
            method="controlled",
            measure_round_trip=False,
        )[0].trajectory

    one, other = made.latents(seed=1), made.latents(seed=2)
    torch.testing.assert_close(climbed(torch.cat([one, other]))[:, 1:], climbed(other), rtol=0, atol=1e-4)


@pytest.mark.parametrize("convention", ["official", "diffusers"])
def test_other_conventions_are_refused(nodes, made, convention):
    with pytest.raises(ValueError, match=r"convention: found \w+, expected consistent"):
        nodes(
            "ExemplarDDIMInversion",
            model=made.model,
            conditioning=made.prompt(),
            latent={"samples": made.latents()},
            convention=convention,
        )


def injection(nodes, made, inverted, **values):
    (model,) = nodes(
        "ExemplarDualAttentionColor",
        model=made.model,
        input_inversion=inverted[0][0],
        reference_inversion=inverted[1][0],
        gray_inversion=inverted[2][0],
        **values,
    )
    return model


def test_strength_0_is_the_plain_model_bit_for_bit(nodes, made, inverted):
    _, noised, sigmas, _ = inverted[0]
    plain = back(made, made.model, noised, sigmas)
    assert torch.equal(back(made, injection(nodes, made, inverted, strength=0.0), noised, sigmas), plain)
    colored = back(made, injection(nodes, made, inverted), noised, sigmas)
    assert bool(colored.isfinite().all()) and not torch.equal(colored, plain)
    assert torch.equal(back(made, made.model, noised, sigmas), plain)


def maps(q, k, heads):
    """Logits of every head in double precision, (rows, heads, N, M)."""
    q, k = (t.double().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
    return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5


def mixed(logits, v, heads):
    v = v.double().unflatten(-1, (heads, -1)).transpose(1, 2)
    return (torch.softmax(logits, -1) @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("mix", ["before softmax", "after softmax"])
@pytest.mark.parametrize("gamma, beta", [(0.0, 0.0), (0.3, 0.5), (1.0, 0.0), (1.0, 0.4)])
def test_the_fused_call_is_the_two_equations(made, inverted, gamma, beta, mix):
    """Against maps that are built: the picture's rows and the prompt's keys apart, per family and layer."""
    banks = [found[0].bank for found in inverted]
    settings = DualAttentionSettings(
        layers="all", gamma_shallow=gamma, gamma_deep=gamma, beta_shallow=beta, beta_deep=beta, mix=mix
    )
    layers = {info.layer: False for info in network_of(made.model).layers}
    edit = DualAttentionColor(settings, layers, DualBanks(*banks))
    seen = []

    def check(call, earlier):
        found = edit(call, earlier)
        kept = [bank.nearest(call.sigma) for bank in banks]
        q_in, k_in = (banks[0].get(kept[0], call.layer, letter) for letter in "qk")
        k_ref, v_ref = (banks[1].get(kept[1], call.layer, letter) for letter in "kv")
        k_gray = banks[2].get(kept[2], call.layer, "k")
        text = [] if call.beside is None else [maps(call.q, call.beside[0], call.heads)]
        values = [] if call.beside is None else [call.beside[1]]

        def joined(logits, v):
            return mixed(torch.cat([*text, logits], -1), torch.cat([*values, v], 1), call.heads)

        one, other = maps(q_in, k_gray, call.heads), maps(call.q, k_ref, call.heads)
        if mix == "before softmax":
            o = joined(gamma * one + (1 - gamma) * other, v_ref)
        else:
            o = gamma * joined(one, v_ref) + (1 - gamma) * joined(other, v_ref)
        o = torch.lerp(o, joined(maps(q_in, k_in, call.heads), call.v), beta)
        assert float((found - o).abs().max()) < 1e-5 * max(1.0, float(o.abs().max())), call.layer
        seen.append(call.layer)
        return found

    _, noised, sigmas, _ = inverted[0]
    placed = edits.PlacedEdit("Test", check, edits.layer_widths(made.model, layers))
    back(made, edits.add_edit(made.model, placed), noised, sigmas)
    assert set(seen) == set(layers) and len(seen) == DEPTH * len(layers)


def test_only_conditional_rows_are_colored(nodes, made, inverted):
    """With guidance of weight 0 the conditional prediction does not count, so nothing of the reference does."""
    _, noised, sigmas, _ = inverted[0]
    plain = back(made, made.model, noised, sigmas, cfg=0.0)
    found = back(made, injection(nodes, made, inverted), noised, sigmas, cfg=0.0)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)


def test_a_reference_that_stands_beside_the_input(nodes, made, inverted):
    _, noised, sigmas, _ = inverted[0]
    shared = back(made, injection(nodes, made, inverted), noised, sigmas)
    shifted = back(made, injection(nodes, made, inverted, reference_positions="shifted"), noised, sigmas)
    rotary = network_of(made.model).family.rotary and network_of(made.model).family.joint
    assert torch.equal(shared, shifted) != rotary


def test_several_references_serve_a_picture(nodes, made, inverted):
    """Two references one after the other in a batch, the second with a weight that leaves nothing of it."""
    _, noised, sigmas, _ = inverted[0]
    (marked,) = nodes("ExemplarAttentionCapture", model=made.model, layers="all")
    both = [
        nodes(
            "ExemplarDDIMInversion",
            model=marked,
            conditioning=made.prompt(),
            latent={"samples": torch.cat([made.latents(seed=seed), made.latents(seed=seed + 5)])},
            depth=DEPTH,
            steps=STEPS,
            refinements=6,
        )
        for seed in (2, 3)
    ]
    given = {"input_inversion": inverted[0][0], "reference_inversion": both[0][0], "gray_inversion": both[1][0]}
    (one,) = nodes(
        "ExemplarDualAttentionColor", model=made.model, references="all for every image", weights="1, 0.000001", **given
    )
    found = back(made, one, noised, sigmas)
    alone = back(made, injection(nodes, made, inverted), noised, sigmas)
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-3)


@pytest.mark.parametrize("positions", ["without", "with"])
def test_a_memory_gives_a_picture_its_own_colors(nodes, made, positions):
    """Written and asked through the nodes, in one model call each, of a model whose queries are its keys: random ones
    have nothing in common.
    """
    made = tied(tiny(made.name))
    vae, known = TinyVAE(made), network_of(made.model)
    reference = patches(vae.factor * known.multiple)
    looks = {"model": made.model, "vae": vae, "conditioning": made.prompt(), "resolution": 0}
    looks |= {"layers": known.layers[0].layer.name}  # deeper ones of random weights tell places apart less and less
    memory = nodes("ExemplarColorMemory", references=reference, context=0.0, positions=positions, **looks)[0]
    assert {space.turned for space in memory.made.spaces} == {
        positions == "with" and network_of(made.model).family.rotary
    }
    asked = {"image": desaturate(reference), "memory": memory, "temperature_coarse": 0.05, "coherence": 0.0}
    del looks["layers"]  # the memory knows
    found, *_ = nodes("ExemplarMemoryColorize", **asked, **looks)
    # each token its own color would leave 9.76 of 25.1: a pattern's chroma is not quite that of its square
    assert float(ab_error(found, reference)) < 10.5 < 0.45 * float(ab_error(desaturate(reference), reference))


def test_a_memory_needs_a_prompt(nodes, made):
    with pytest.raises(ValueError, match="conditioning: found nothing, and no CLIP"):
        nodes("ExemplarColorMemory", references=torch.rand(1, 64, 64, 3), model=made.model, vae=TinyVAE(made))


def patches(side, squares=4, tokens=3):
    """(1, S, S, 3): squares of several tokens, each of a color and of a pattern of its own, as gray pictures have them.

    Flat ones would not do: a norm leaves nothing of how bright they are.
    """
    generator = torch.Generator().manual_seed(4)
    colors = torch.rand(squares, 1, squares, 1, 3, generator=generator) * 0.4 + 0.3
    pattern = torch.rand(squares, side, squares, side, 1, generator=generator) * 0.6 - 0.3
    pattern = pattern.repeat(1, tokens, 1, tokens, 1)
    return (colors + pattern).flatten(2, 3).flatten(0, 1)[None]
