"""The diffusers host: layers found, edits put in and taken out, branches that share a call, conventions of the UNet."""

import dataclasses
import re

import pytest
import torch

from comfyui_exemplar.attention.call import AttentionCall
from comfyui_exemplar.attention.capture import Capture, CaptureSpec, CaptureTarget
from comfyui_exemplar.attention.layers import Layer, select_layers
from comfyui_exemplar.diffusion.sampling import guide
from comfyui_exemplar.diffusion.schedule import inversion_plan
from comfyui_exemplar.hosts.diffusers.denoiser import UNetDenoiser
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.hosts.diffusers.layers import attention_layers

from ..fixtures.diffusers_models import FAMILIES, build, model_on


@pytest.fixture(scope="module")
def models(tiny):
    return {family: model_on(build(tiny, family), family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def model(request, models):
    return models[request.param]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def strange(call, earlier):
    """An edit that every conditional row shows, and that tells pictures apart."""
    out = earlier(call).clone()
    for row in call.rows_of(0):
        out[row] = 0.5 * out[row] + (1 + call.pictures[row]) * call.v[row].flip(0)
    return out


def broken(call, earlier):
    raise RuntimeError("edit failed")


def hooks(unet):
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in unet.modules())


SIGMA = torch.tensor([1.5])


class TestLayers:
    def test_numbers_are_those_of_the_ldm_names(self, tiny, model):
        """Against the conversion of this folder's conftest, which knows nothing of our numbering."""
        expected = {}
        for name, tensor in tiny.unet_to_ldm(model.unet).items():
            pattern = r"(input|output|middle)_blocks?\.(?:(\d+)\.)?1\.transformer_blocks\.(\d+)\.attn1\.to_q"
            if match := re.search(pattern, name):
                expected[Layer(match[1], int(match[2] or 0) * (match[1] != "middle"), int(match[3]))] = tensor.shape[1]
        found = attention_layers(model.unet)
        assert {info.layer: info.channels for info in found.values()} == expected
        assert len(found) == len(expected) > 6

    def test_they_are_processors_of_self_attentions(self, model):
        found = attention_layers(model.unet)
        assert set(found) == {name for name in model.unet.attn_processors if ".attn1." in name}

    @pytest.mark.parametrize(
        "family, encoder, decoder, color",
        [
            ("sd1", {1, 2, 4, 5, 7, 8}, set(range(3, 12)), set(range(6, 12))),
            ("sd2", {1, 2, 4, 5, 7, 8}, set(range(3, 12)), set(range(6, 12))),
            ("sdxl", {4, 5, 7, 8}, set(range(6)), set(range(6))),
        ],
    )
    def test_blocks_of_the_families(self, models, family, encoder, decoder, color):
        layers = UNetDenoiser(models[family]).layers
        assert {info.layer.index for info in select_layers("encoder", layers)} == encoder
        assert {info.layer.index for info in select_layers("decoder", layers)} == decoder
        assert {info.layer.index for info in select_layers("color", layers)} == color
        assert {info.layer.index for info in select_layers("middle", layers)} == {0}
        stacks = {info.layer.index: 0 for info in select_layers("decoder", layers)}
        for info in select_layers("decoder", layers):
            stacks[info.layer.index] += 1
        assert stacks == ({0: 10, 1: 10, 2: 10, 3: 2, 4: 2, 5: 2} if family == "sdxl" else dict.fromkeys(decoder, 1))

    def test_network_order_is_encoder_middle_decoder(self, model):
        blocks = [info.layer.block for info in UNetDenoiser(model).layers]
        assert blocks == sorted(blocks, key=("input", "middle", "output").index)

    @pytest.mark.parametrize("size", [(8, 8), (16, 8), (9, 13), (8, 1), (3, 20)])
    def test_grids_channels_and_heads_are_those_that_the_call_has(self, model, size):
        seen = {}

        def look(call, earlier):
            seen[call.layer] = call
            return earlier(call)

        denoiser = UNetDenoiser(model)
        with denoiser.edited(look, [info.layer for info in denoiser.layers]):
            denoiser(noise(1, 4, *size), SIGMA)
        assert set(seen) == {info.layer for info in denoiser.layers}
        for info in denoiser.layers:
            call = seen[info.layer]
            assert call.q.shape == (1, call.grid[0] * call.grid[1], info.channels), info
            assert call.heads == info.heads and call.sigma == SIGMA.item()

    def test_an_uneven_unet_is_refused(self, tiny):
        unet = tiny.unet((32, 32), (True, False), layers_per_block=(1, 2), attention_head_dim=4, cross_attention_dim=16)
        with pytest.raises(ValueError, match="residual blocks a level; expected one number"):
            attention_layers(unet)


class TestEdited:
    def test_plain_attention_as_an_edit_changes_nothing(self, model):
        denoiser, x = UNetDenoiser(model), noise(2, 4, 8, 8)
        before = denoiser(x, SIGMA)
        with denoiser.edited(lambda call, earlier: earlier(call), [info.layer for info in denoiser.layers]):
            torch.testing.assert_close(denoiser(x, SIGMA), before, atol=1e-5, rtol=1e-5)

    def test_afterwards_everything_is_as_it_was(self, model):
        denoiser, x = UNetDenoiser(model), noise(2, 4, 8, 8)
        processors, before = model.unet.attn_processors, denoiser(x, SIGMA)
        with denoiser.edited(strange, [info.layer for info in denoiser.layers]):
            assert not torch.allclose(denoiser(x, SIGMA), before, atol=1e-3)
        self.check_restored(denoiser, processors, x, before)

    @pytest.mark.parametrize("inside", ["edit", "body"])
    def test_also_after_an_exception(self, model, inside):
        denoiser, x = UNetDenoiser(model), noise(2, 4, 8, 8)
        processors, before = model.unet.attn_processors, denoiser(x, SIGMA)
        edit = broken if inside == "edit" else strange
        with pytest.raises(RuntimeError, match="failed"), denoiser.edited(edit, [denoiser.layers[-1].layer]):
            denoiser(x, SIGMA)
            raise RuntimeError("body failed")
        self.check_restored(denoiser, processors, x, before)

    @staticmethod
    def check_restored(denoiser, processors, x, before):
        after = denoiser.model.unet.attn_processors
        assert after.keys() == processors.keys() and all(after[name] is processors[name] for name in after)
        assert torch.equal(denoiser(x, SIGMA), before)
        assert hooks(denoiser.model.unet) == 0

    def test_only_the_named_layers_are_edited(self, model):
        denoiser, seen = UNetDenoiser(model), []

        def look(call, earlier):
            seen.append(call.layer)
            return earlier(call)

        wanted = [denoiser.layers[0].layer, denoiser.layers[-1].layer]
        with denoiser.edited(look, wanted):
            denoiser(noise(1, 4, 8, 8), SIGMA)
        assert seen == wanted

    @pytest.mark.parametrize("kinds", [("attn2",), ("attn1", "attn2")])
    def test_kinds_of_layers(self, model, kinds):
        """Cross-attention layers have the prompt's tokens as keys, and a plain one is what it was."""
        denoiser, x, seen = UNetDenoiser(model), noise(2, 4, 8, 8), []
        before = denoiser(x, SIGMA)

        def look(call, earlier):
            seen.append((call.layer, call.kind, call.k.shape[1]))
            return earlier(call)

        with denoiser.edited(look, [info.layer for info in denoiser.layers], kinds):
            torch.testing.assert_close(denoiser(x, SIGMA), before, atol=1e-5, rtol=1e-5)
        assert [(layer, kind) for layer, kind, _ in seen] == [
            (i.layer, kind) for i in denoiser.layers for kind in kinds
        ]
        assert {tokens for _, kind, tokens in seen if kind == "attn2"} == {model.context.shape[1]}
        with denoiser.edited(lambda call, _: -call.plain(), [denoiser.layers[0].layer], ("attn2",)):
            assert not torch.allclose(denoiser(x, SIGMA), before, atol=1e-3)
        assert torch.equal(denoiser(x, SIGMA), before)

    def test_no_edit(self, model):
        denoiser, processors = UNetDenoiser(model), model.unet.attn_processors
        with denoiser.edited(None, ()) as same:
            assert same is denoiser
            assert all(a is b for a, b in zip(processors.values(), model.unet.attn_processors.values(), strict=True))

    @pytest.mark.parametrize("branches", [(0,), (1, 0), (0, 1), (1, 0, 0)])
    def test_calls_know_their_rows(self, models, branches):
        denoiser, seen = UNetDenoiser(models["sd1"]), []

        def look(call, earlier):
            seen.append((call.branches, call.pictures, call.rows))
            return earlier(call)

        rows = 2 * len(branches)
        with denoiser.edited(look, [denoiser.layers[-1].layer]):
            denoiser(noise(rows, 4, 8, 8), SIGMA.repeat(rows), branches)
        expected = tuple(branch for branch in branches for _ in range(2))
        assert seen == [(expected, (0, 1) * len(branches), tuple(range(rows)))]


class TestSharing:
    """The branches of guidance are computed as one row until the up block where they part."""

    def unshared(self, denoiser, x, branches):
        return denoiser(x.repeat(len(branches), 1, 1, 1), SIGMA.repeat(len(branches) * len(x)), branches)

    @pytest.mark.parametrize("batch, branches", [(1, (1, 0)), (3, (0, 1)), (2, (2, 1, 0))])
    def test_equals_the_whole_computation_at_every_block(self, model, batch, branches):
        denoiser, x = UNetDenoiser(model), noise(batch, 4, 8, 16)
        per_block = model.unet.config.layers_per_block + 1
        for block in range(len(model.unet.up_blocks)):
            layers = [i.layer for i in select_layers("decoder", denoiser.layers) if i.layer.index >= block * per_block]
            with denoiser.edited(strange, layers):
                shared = denoiser(x, SIGMA, branches, split_at=block)
                assert hooks(model.unet) == 0
                torch.testing.assert_close(shared, self.unshared(denoiser, x, branches), atol=1e-5, rtol=1e-5)
            plain, color = (shared.chunk(len(branches))[branches.index(branch)] for branch in (1, 0))
            assert torch.allclose(plain, color, atol=1e-4) == (not layers)  # the edit did show

    def test_odd_sizes(self, model):
        denoiser, x = UNetDenoiser(model), noise(2, 4, 9, 13)
        layers = [info.layer for info in select_layers("fine", denoiser.layers)]
        block = min(layer.index for layer in layers) // 3
        with denoiser.edited(strange, layers):
            shared = denoiser(x, SIGMA, (1, 0), split_at=block)
            torch.testing.assert_close(shared, self.unshared(denoiser, x, (1, 0)), atol=1e-5, rtol=1e-5)

    def test_the_shared_part_runs_once_a_picture(self, model):
        denoiser, rows = UNetDenoiser(model), {}
        watched = {"in": model.unet.conv_in, "middle": model.unet.mid_block, "out": model.unet.conv_out}
        handles = [
            module.register_forward_hook(lambda _, __, out, name=name: rows.update({name: len(out)}))
            for name, module in watched.items()
        ]
        denoiser(noise(3, 4, 8, 8), SIGMA, (1, 0), split_at=1)
        for handle in handles:
            handle.remove()
        assert rows == {"in": 3, "middle": 3, "out": 6}

    def test_no_hooks_are_left_after_an_exception(self, model):
        denoiser = UNetDenoiser(model)
        with pytest.raises(RuntimeError, match="edit failed"), denoiser.edited(broken, [denoiser.layers[-1].layer]):
            denoiser(noise(1, 4, 8, 8), SIGMA, (1, 0), split_at=0)
        assert hooks(model.unet) == 0

    @pytest.mark.parametrize(
        "expression, block",
        [
            ("color", 2),
            ("fine", 3),
            ("coarse", 2),
            ("decoder", 1),
            ("output.8,11", 2),
            ("all", None),
            ("middle", None),
            ("input.7, fine", None),
        ],
    )
    def test_where_it_may_part(self, models, expression, block):
        host = DiffusersHost(models["sd1"])
        layers = [info.layer for info in select_layers(expression, host.layers)]
        assert host._split_block(layers) == block


class TestSample:
    @pytest.mark.parametrize("expression", ["color", "all"])
    @pytest.mark.parametrize("weight", [0.0, 1.0, 3.0])
    def test_guidance_between_the_edited_and_the_plain_prediction(self, models, expression, weight):
        """One step, against two separate model calls and the formula."""
        host, x = DiffusersHost(models["sd1"]), noise(2, 4, 8, 8)
        plan = dataclasses.replace(inversion_plan(host.sigma_table, 50, 2), sigmas=(1.5, 0.5))
        layers = tuple(info.layer for info in select_layers(expression, host.layers))
        plain = host.denoiser(x, SIGMA.repeat(2))
        with host.denoiser.edited(strange, layers):
            color = host.denoiser(x, SIGMA.repeat(2))
        clean = guide(color, plain, weight)
        expected = x + (x - clean) / 1.5 * (0.5 - 1.5)
        torch.testing.assert_close(host.sample(x, plan, strange, layers, weight), expected, atol=1e-5, rtol=1e-5)

    def test_steps_are_reported(self, models):
        steps = []
        host = DiffusersHost(models["sd1"], on_step=lambda clean: steps.append(clean.shape))
        plan = inversion_plan(host.sigma_table, 50, 3)
        trajectory = host.invert(noise(2, 4, 8, 8), plan, None)
        assert len(steps) == 3 and trajectory.shape == (4, 2, 4, 8, 8)
        host.sample(trajectory[-1], plan, None, (), 3.0)
        assert len(steps) == 6 and set(steps) == {(2, 4, 8, 8)}

    def test_a_capture_sees_every_kept_level(self, models):
        host = DiffusersHost(models["sd1"])
        plan = inversion_plan(host.sigma_table, 50, 3, "official")
        target = CaptureTarget(CaptureSpec({host.layers[-1].layer: "kv"}))
        host.invert(noise(2, 4, 8, 8), plan, Capture([target], plan.kept_sigmas))
        assert target.bank.sigmas == plan.kept_sigmas and target.bank.pictures == 2
        assert target.bank.grid(host.layers[-1].layer) == (8, 8)

    def test_sizes_that_pictures_should_have(self, models):
        assert [DiffusersHost(models[f]).size_multiple for f in FAMILIES] == [64, 64, 32]


class TestConventions:
    def raw(self, model, x, sigma, timestep):
        """The UNet's own output for a variance-preserving latent, without our wrapper."""
        added = model.added_conditions(len(x), x.shape[-2:])
        context = model.context.expand(len(x), -1, -1)
        z = x / (1 + sigma**2) ** 0.5
        return z, model.unet(z, timestep, encoder_hidden_states=context, added_cond_kwargs=added).sample

    @pytest.mark.parametrize("timestep", [0, 81, 999])
    def test_epsilon_and_v_give_the_clean_estimates_of_their_papers(self, model, timestep):
        x, alpha = noise(2, 4, 8, 8), model.alphas_cumprod[timestep].double()
        sigma = float(((1 - alpha) / alpha).sqrt())
        z, out = self.raw(model, x, sigma, timestep)
        z, out = z.double(), out.double()
        eps = (z - (1 - alpha).sqrt() * out) / alpha.sqrt()
        v = alpha.sqrt() * z - (1 - alpha).sqrt() * out
        for prediction, expected in (("epsilon", eps), ("v_prediction", v)):
            denoiser = UNetDenoiser(dataclasses.replace(model, prediction=prediction))
            found = denoiser(x, torch.full((2,), sigma))
            torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=2e-5)

    def test_nearest_timestep_on_a_logarithmic_scale(self, models):
        model, read = models["sd1"], []
        denoiser = UNetDenoiser(model)
        table = denoiser.sigma_table.double()
        handle = model.unet.register_forward_pre_hook(lambda _, args: read.append(int(args[1])))
        middle = float((table[0] * table[1]).sqrt())  # at the low end it is 2 % below the arithmetic one
        asked = {
            float(table[0]): 0,
            float(table[81]): 81,
            float(table[999]): 999,
            middle * 0.995: 0,
            middle * 1.005: 1,
            float(table[0]) / 10: 0,
            float(table[999]) * 10: 999,
        }
        for sigma in asked:
            denoiser(noise(1, 4, 8, 8), torch.tensor([sigma]))
        handle.remove()
        assert read == list(asked.values())

    def test_batched_equals_one_by_one(self, model):
        denoiser, x = UNetDenoiser(model), noise(3, 4, 8, 8)
        whole = denoiser(x, SIGMA.repeat(3))
        for i in range(3):
            torch.testing.assert_close(denoiser(x[i : i + 1], SIGMA), whole[i : i + 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_runs_and_stays_finite(tiny, models, family, dtype):
    """Latents stay float32, only the network is cast; kept features have its dtype; the edit runs in it."""
    model = models[family]
    added = model.added and {key: value.to(dtype) for key, value in model.added.items()}
    low = dataclasses.replace(model, unet=build(tiny, family).to(dtype), context=model.context.to(dtype), added=added)
    host, exact = DiffusersHost(low), DiffusersHost(model)
    plan = inversion_plan(host.sigma_table, 50, 2)
    layers = tuple(info.layer for info in select_layers("fine", host.layers))
    target = CaptureTarget(CaptureSpec(dict.fromkeys(layers, "kv")))
    trajectory = host.invert(noise(1, 4, 8, 8), plan, Capture([target], plan.kept_sigmas))
    assert {tensor.dtype for *_, tensor in target.bank.items()} == {dtype}
    back = host.sample(trajectory[-1], plan, strange, layers, 3.0)
    assert back.dtype == torch.float32 and bool(torch.isfinite(back).all())
    expected = exact.sample(exact.invert(noise(1, 4, 8, 8), plan)[-1], plan, strange, layers, 3.0)
    assert (back - expected).abs().max() < 0.1 * expected.abs().max()


def test_plain_is_the_edit_s_earlier(models):
    """Whatever stands below an edit is the host's plain attention."""
    denoiser, given = UNetDenoiser(models["sd1"]), []

    def look(call, earlier):
        given.append(torch.equal(earlier(call), AttentionCall.plain(call)))
        return earlier(call)

    with denoiser.edited(look, [denoiser.layers[-1].layer]):
        denoiser(noise(1, 4, 8, 8), SIGMA)
    assert given == [True]
