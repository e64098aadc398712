"""Transformer families: what is known of each, what is read of its attention, and edits that change it."""

from contextlib import contextmanager

import comfy.sample
import comfy.samplers
import pytest
import torch
import torch.nn.functional as F

from comfyui_exemplar.attention.capture import Capture, CaptureSpec, CaptureTarget
from comfyui_exemplar.hosts.comfy import edits
from comfyui_exemplar.hosts.comfy.families.found import network_of, require_network
from comfyui_exemplar.hosts.comfy.host import ComfyHost

from .transformers import FAMILIES, tiny

LEVEL = 0.3


@pytest.fixture(scope="module", params=FAMILIES)
def made(request):
    with torch.inference_mode():
        return tiny(request.param)


def sampled(made, model=None, cfg=1.0, steps=2, count=1, prompt=None):
    """What two steps make of noise."""
    noise = made.latents(count)
    return comfy.sample.sample(
        model or made.model,
        noise,
        steps,
        cfg,
        "euler",
        "simple",
        made.prompt() if prompt is None else prompt,
        made.prompt(seed=2, words=5),
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=0,
    )


def edited(made, edit, layers=None, **more):
    """The MODEL with an edit on its layers."""
    placed = edits.PlacedEdit("Test", edit, edits.layer_widths(made.model, layers), **more)
    return edits.add_edit(made.model, placed)


def naive(call):
    """A layer's attention with its maps built, in double precision."""
    keys, values = ([beside, own] for beside, own in zip(call.beside or (None, None), (call.k, call.v), strict=True))
    k, v = (torch.cat([t for t in pair if t is not None], 1) for pair in (keys, values))
    q, k, v = (t.double().unflatten(-1, (call.heads, -1)).transpose(1, 2) for t in (call.q, k, v))
    maps = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
    return (maps @ v).transpose(1, 2).flatten(2).to(call.q)


def test_a_family_is_known_and_samples(made):
    known = network_of(made.model)
    assert known.family.name == made.name.replace("3.5", "3")
    assert known.context == 40
    out = sampled(made)
    assert bool(out.isfinite().all()) and float(out.std()) > 0


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_attention_with_its_maps_built_is_the_models(made, cfg):
    """Every layer, the picture's tokens against the prompt's and its own, as the edit gets them."""
    seen = set()

    def edit(call, earlier):
        seen.add(call.layer)
        return naive(call)

    plain = sampled(made, cfg=cfg, count=2)
    found = sampled(made, edited(made, edit), cfg=cfg, count=2)
    assert seen == {info.layer for info in network_of(made.model).layers}
    assert float((found - plain).abs().max()) < 1e-5 * float(plain.abs().max())


def test_an_edit_that_changes_nothing_leaves_every_bit(made):
    plain = sampled(made, cfg=3.0)
    assert torch.equal(sampled(made, edited(made, lambda call, earlier: earlier(call)), cfg=3.0), plain)
    assert torch.equal(sampled(made, cfg=3.0), plain)  # the MODEL itself is as it was


def test_the_prompts_rows_are_the_models(made):
    """What is written over the picture's rows leaves the prompt's as they would have been."""
    if not network_of(made.model).family.joint:
        pytest.skip("the prompt is attended to apart")
    rows = []

    layer = network_of(made.model).layers[0]

    def edit(call, earlier):
        return torch.zeros_like(call.q)

    def look(function, *args, **named):
        out = function(*args, **named)
        rows.append(out)
        return out

    model = made.model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = look
    sampled(made, model, steps=1)
    plain, rows[:] = list(rows), []
    placed = edits.PlacedEdit("Test", edit, edits.layer_widths(made.model, [layer.layer]))
    sampled(made, edits.add_edit(model, placed), steps=1)
    first = next(i for i, out in enumerate(plain) if not torch.equal(out, rows[i]) or out.shape != rows[i].shape)
    number = rows[first].shape[1]
    assert number < plain[first].shape[1]  # only the prompt's rows were asked for
    torch.testing.assert_close(rows[first], plain[first][:, :number], rtol=0, atol=1e-6)


@contextmanager
def hooked(made):
    """Queries and keys of every layer before they are turned, (B, N, heads, d), from the network's own modules."""
    network, found, handles = made.model.model.diffusion_model, {}, []
    known = network_of(made.model)

    def on(module, keep):
        handles.append(module.register_forward_hook(lambda _m, _i, out: keep(out)))

    def normed(norm):
        return lambda t: F.rms_norm(t, norm.weight.shape, norm.weight, norm.eps)

    for info in known.layers:
        layer, at = info.layer, info.layer.index
        if made.name in ("Flux.1", "Flux.2", "Chroma"):
            block = getattr(network, f"{layer.block}_blocks")[at]
            norm = block.img_attn.norm if layer.block == "double" else block.norm

            def keep(out, layer=layer):
                found[layer] = tuple(t.transpose(1, 2) for t in out)

            on(norm, keep)
        elif made.name == "Qwen-Image":
            attention = network.transformer_blocks[at].attn
            for letter, norm in enumerate((attention.norm_q, attention.norm_k)):

                def keep(out, layer=layer, letter=letter):
                    found.setdefault(layer, [None, None])[letter] = out.transpose(1, 2)

                on(norm, keep)
        elif made.name in ("Lumina 2", "Z-Image"):
            attention = network.layers[at].attention

            def keep(out, layer=layer, attention=attention):
                q, k, _ = (t.unflatten(-1, (attention.n_local_heads, -1)) for t in out.chunk(3, -1))
                norms = (normed(attention.q_norm), normed(attention.k_norm))
                found[layer] = tuple(norm(t) for norm, t in zip(norms, (q, k), strict=True))

            on(attention.qkv, keep)
        elif made.name == "Anima":
            attention = network.blocks[at].self_attn
            for letter, part in enumerate(("q", "k")):
                norm = normed(getattr(attention, f"{part}_norm"))

                def keep(out, layer=layer, letter=letter, norm=norm, heads=attention.n_heads):
                    found.setdefault(layer, [None, None])[letter] = norm(out.unflatten(-1, (heads, -1)))

                on(getattr(attention, f"{part}_proj"), keep)
        else:
            attention = network.joint_blocks[at].x_block.attn

            def keep(out, layer=layer, attention=attention):
                q, k, _ = (t.unflatten(-1, (attention.num_heads, -1)) for t in out.chunk(3, -1))
                found[layer] = (attention.ln_q(q), attention.ln_k(k))

            on(attention.qkv, keep)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("size", [(10, 12), (7, 9)])
def test_what_is_read_is_what_the_modules_make(made, size):
    """Queries and keys of the picture's tokens after the norm and before they are turned, in one model call."""
    host = ComfyHost(made.model, made.prompt())
    latents = made.model.model.process_latent_in(made.latents(2, size))
    target = CaptureTarget(CaptureSpec({info.layer: "qk" for info in host.layers}))
    capture = Capture([target], [LEVEL], turned=False)
    with hooked(made) as expected:
        host.read(latents, LEVEL, capture)
    capture.check(2)
    tokens = -(-size[0] // host.layers[0].downscale), -(-size[1] // host.layers[0].downscale)
    for info in host.layers:
        if info.layer not in expected:
            assert info == host.layers[-1]  # the call ended there
            continue
        assert target.bank.grid(info.layer) == tokens
        for letter, modules in zip("qk", expected[info.layer], strict=True):
            found = target.bank.get(target.bank.sigmas[0], info.layer, letter)
            first = 0 if made.name not in ("Lumina 2", "Z-Image") else None
            if info.layer.block == "single":
                first = None
            number = tokens[0] * tokens[1]
            if first is None:  # the prompt's stand before them, and fillers behind
                filled = -(-number // 32) * 32 if made.name == "Z-Image" else number
                first = modules.shape[1] - filled
            wanted = modules[:, first : first + number].flatten(2)
            assert float((found - wanted).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max())), (info, letter)


def test_families_that_a_node_does_not_serve_are_named(made):
    with pytest.raises(
        ValueError, match=rf"Node: model: found .* \({network_of(made.model).family.name}\), expected a St"
    ):
        require_network(made.model, "Node")


def colored(made, count=1):
    """The MODEL under an edit that adds to the picture's attention, and what it makes alone."""

    def edit(call, earlier):
        return earlier(call) * 1.5

    return edited(made, edit), edit


def test_composes_with_a_lora(made):
    """Weights that a LoRA changes are those that the edit sees, in either order."""
    name, weight = next(
        (f"diffusion_model.{name}", p)
        for name, p in made.model.model.diffusion_model.named_parameters()
        if p.ndim == 2 and min(p.shape) > 8
    )
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(5)) * 0.3
    model, edit = colored(made)
    first, second = model.clone(), made.model.clone()
    for one in (first, second):
        assert one.add_patches({name: (change,)}) == [name]
    alone, both = sampled(made, second), sampled(made, first)
    second = edits.add_edit(second, edits.PlacedEdit("Test", edit, edits.layer_widths(made.model)))
    assert torch.equal(both, sampled(made, second))
    assert not torch.equal(both, alone) and not torch.equal(both, sampled(made, model))
    assert torch.equal(sampled(made, made.model.clone()), sampled(made))


def test_composes_with_another_packs_patches(made):
    """A patch of queries and keys before the edit, of what comes out after it, and an override of attention."""
    model, edit = colored(made)
    seen = []

    def patch(q, k, v, pe=None, attn_mask=None, extra_options=None):
        seen.append(extra_options["block_index"])
        return {"q": q * 0.5}

    def override(function, *args, **named):
        return function(*args, **named) * 1.25

    patched = made.model.clone()
    patched.set_model_attn1_patch(patch)
    patched.model_options["transformer_options"]["optimized_attention_override"] = override
    alone = sampled(made, patched)
    expected = bool(seen)  # families without such patches do not call them
    both = sampled(made, edits.add_edit(patched, edits.PlacedEdit("Test", edit, edits.layer_widths(made.model))))
    assert not torch.equal(both, alone) and not torch.equal(both, sampled(made, model))
    assert expected == (made.name not in ("Lumina 2", "Z-Image", "Stable Diffusion 3", "Stable Diffusion 3.5"))
    later = model.clone()
    later.set_model_attn1_patch(patch)
    later.model_options["transformer_options"]["optimized_attention_override"] = override
    assert torch.equal(sampled(made, later), both)


class Control:
    """What a ControlNet adds to the blocks' outputs, without a network."""

    def __init__(self, made):
        self.made = made

    def residuals(self, x):
        known = network_of(self.made.model)
        number = known.layers[0].tokens(x.shape)
        add = torch.randn(1, number, known.layers[0].channels, generator=torch.Generator().manual_seed(6)) * 0.5
        return {"input": [add, None], "output": [add, None]}


@pytest.mark.parametrize("edit_first", [True, False])
def test_composes_with_a_controlnet(made, edit_first):
    """What a ControlNet adds stands in the picture's tokens, whose attention the edit changes."""
    if made.name in ("Lumina 2", "Z-Image", "Anima"):
        pytest.skip("the family takes no ControlNet")
    model, edit = colored(made)
    control = Control(made)

    def controlled(apply_model, asked):
        more = {**asked["c"], "control": control.residuals(asked["input"])}
        return apply_model(asked["input"], asked["timestep"], **more)

    alone = made.model.clone()
    alone.set_model_unet_function_wrapper(controlled)
    if edit_first:
        both = model.clone()
        both.set_model_unet_function_wrapper(controlled)
    else:
        both = edits.add_edit(alone, edits.PlacedEdit("Test", edit, edits.layer_widths(made.model)))
    found = sampled(made, both)
    assert not torch.equal(found, sampled(made, alone)) and not torch.equal(found, sampled(made, model))
    assert bool(found.isfinite().all())


def test_a_call_with_another_number_of_tokens_is_left_alone(made, caplog):
    """Where another node changes what a layer gets, the edit steps aside with one warning and the rest runs."""
    if made.name not in ("Flux.1", "Flux.2", "Chroma", "Qwen-Image"):
        pytest.skip("the family has no patch that could")
    model, _ = colored(made)

    def fewer(q, k, v, pe=None, attn_mask=None, extra_options=None):
        return {"q": q, "k": k[:, :, :-3], "v": v[:, :, :-3]}

    model.set_model_attn1_patch(fewer)
    found = sampled(made, model)
    assert bool(found.isfinite().all())
    assert sum("Test steps aside" in record.getMessage() for record in caplog.records) == 1
