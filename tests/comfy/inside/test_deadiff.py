"""DEADiff's nodes: references to tokens, tokens into a MODEL, beside whatever else stands on the same layers."""

import folder_paths
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention

from comfyui_exemplar.hosts.comfy import deadiff as comfy_deadiff
from comfyui_exemplar.hosts.comfy.folders import DEADIFF
from comfyui_exemplar.nodes.deadiff import LoadDEADiff

from ...fixtures.deadiff import save_small, small_weights
from . import models
from .replacements import IPAdapterStyle, Naive
from .sampling import difference, run

SIGMAS = torch.tensor([6.0, 2.0, 0.7, 0.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that the user of ComfyUI added for DEADiff's files, with one in it."""
    path = tmp_path_factory.mktemp("deadiff")
    save_small(path / "small.safetensors")
    folder_paths.add_model_folder_path("deadiff", str(path))
    yield path
    folder_paths.folder_names_and_paths["deadiff"][0].remove(str(path))


@pytest.fixture
def loaded(nodes, folder):
    return nodes("ExemplarLoadDEADiff", model_name="small.safetensors")[0]


@pytest.fixture(scope="module")
def sd1():
    return models.tiny("sd1")


@pytest.fixture(scope="module")
def prompts():
    generator = torch.Generator().manual_seed(5)
    return [[[torch.randn(1, 77, 64, generator=generator), {}]] for _ in range(2)]


@pytest.fixture(scope="module")
def latent():
    return {"samples": 3 * torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(1))}


@pytest.fixture
def pictures():
    return torch.rand(3, 20, 30, 3, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def tokens(nodes, loaded, pictures):
    """Call it with what to take -> DEADIFF_TOKENS of the first picture."""

    def make(take="style", image=None, **settings):
        image = pictures[:1] if image is None else image
        return nodes("ExemplarDEADiffEncode", deadiff=loaded, image=image, take=take, **settings)[0]

    return make


@pytest.fixture
def applied(nodes, sd1):
    def make(tokens, model=None, weight=1.0, **settings):
        return nodes("ExemplarApplyDEADiff", model=model or sd1, tokens=tokens, weight=weight, **settings)[0]

    return make


@pytest.fixture
def sampled(prompts, latent):
    def make(model, cfg=3.0, latent=latent, positive=None, negative=None, sigmas=SIGMAS):
        return run(model, positive or prompts[0], latent, sigmas, cfg, negative or prompts[1])

    return make


class TestFiles:
    def test_both_folders_are_listed(self, folder, tmp_path):
        folder_paths.add_model_folder_path("checkpoints", str(tmp_path))
        try:
            torch.save({"state_dict": small_weights(1)}, tmp_path / "deadiff_in_checkpoints.ckpt")
            assert {"small.safetensors", "deadiff_in_checkpoints.ckpt"} <= set(DEADIFF.files())
            found = comfy_deadiff.load("deadiff_in_checkpoints.ckpt", torch.float32)
            assert found.adapter.name == "deadiff_in_checkpoints.ckpt" and found.adapter.text_tokens == 77
        finally:
            folder_paths.folder_names_and_paths["checkpoints"][0].remove(str(tmp_path))

    def test_a_missing_file_is_said_early(self, folder):
        assert LoadDEADiff.validate_inputs(model_name="small.safetensors") is True
        assert LoadDEADiff.validate_inputs() is True
        said = LoadDEADiff.validate_inputs(model_name="deadiff_v1.ckpt")
        assert "no 'deadiff_v1.ckpt' in models/deadiff" in said and "small.safetensors" in said and "Download" in said
        with pytest.raises(FileNotFoundError, match=r"no 'gone\.ckpt'"):
            comfy_deadiff.load("gone.ckpt", torch.float32)

    def test_another_model(self, nodes, folder):
        torch.save({"model.diffusion_model.out.2.bias": torch.zeros(4)}, folder / "sd.ckpt")
        with pytest.raises(ValueError, match=r"sd.ckpt: these are not DEADiff's weights.*out\.2\.bias"):
            nodes("ExemplarLoadDEADiff", model_name="sd.ckpt")

    def test_the_embedded_one_is_the_first_choice(self, nodes):
        (choice,) = (i for i in LoadDEADiff.GET_SCHEMA().inputs if i.id == "model_name")
        assert choice.default == choice.options[0] == "embedded"
        assert LoadDEADiff.validate_inputs(model_name="embedded") is True
        assert nodes("ExemplarLoadDEADiff", model_name="embedded")[0].patcher.model_size() < 2e7


class TestEncode:
    def test_kinds(self, tokens):
        both = tokens("style & semantics")
        assert set(both.tokens) == {"style", "semantics"}
        for take, kind in (("style", "style"), ("semantics", "semantics")):
            alone = tokens(take).tokens
            assert set(alone) == {kind} and torch.equal(alone[kind], both.tokens[kind])
        assert both.tokens["style"].shape == (1, 16, 64) and difference(*both.tokens.values()) > 0.1

    def test_combinations(self, tokens, pictures):
        single = [tokens(image=pictures[i : i + 1]).tokens["style"] for i in range(3)]
        average = tokens(image=pictures, weights="1, 0.5, 0").tokens["style"]
        torch.testing.assert_close(average, (single[0] + 0.5 * single[1]) / 1.5)
        together = tokens(image=pictures, weights="1, 0.5, 0", combine="together").tokens["style"]
        torch.testing.assert_close(together, torch.cat([single[0], 0.5 * single[1], 0 * single[2]], 1))
        each = tokens(image=pictures, combine="one each").tokens["style"]
        torch.testing.assert_close(each, torch.cat(single))

    def test_bad_input(self, nodes, loaded, tokens, pictures):
        for weights, said in (
            ("1, 2", "found 2 .* for 3 reference"),
            ("strong", "expected numbers"),
            ("0", "above 0"),
            ("1, -1, 1", "from 0 to 100"),
        ):
            with pytest.raises(ValueError, match=said):
                tokens(image=pictures, weights=weights)
        with pytest.raises(ValueError, match="empty batch"):
            tokens(image=pictures[:0])
        with pytest.raises(ValueError, match="The instruction is 'painting'; this file knows style, content"):
            tokens("semantics", semantic_word="painting")

    def test_style_from_one_and_semantics_from_another(self, tokens, pictures):
        semantics = tokens("semantics", image=pictures[1:2])
        both = tokens("style", tokens=semantics)
        assert torch.equal(both.tokens["semantics"], semantics.tokens["semantics"]) and "style" in both.tokens
        with pytest.raises(ValueError, match="tokens: found style in both sets"):
            tokens("style & semantics", tokens=tokens("style"))
        with pytest.raises(ValueError, match="2 and 3 pictures"):
            two = tokens("semantics", image=pictures[:2], combine="one each")
            tokens("style", image=pictures, combine="one each", tokens=two)


class TestApply:
    def test_the_formula(self, tokens, applied, sampled, sd1):
        """Guidance, both kinds, against the naive replacement."""
        from comfyui_exemplar.attention.image_tokens import route
        from comfyui_exemplar.hosts.comfy.model import attention_layers

        routing = route(attention_layers(sd1))
        for take, weights in (("style", (1.0,)), ("semantics", (0.0,)), ("style & semantics", (0.6, 1.5))):
            made = tokens(take)
            for weight in weights:
                found = sampled(applied(made, weight=weight, weighting="official"))
                expected = sampled(Naive(made, routing, weight).install(sd1))
                assert difference(found, expected) < 2e-4, (take, weight)
        # above 1 both weightings are one
        assert difference(sampled(applied(made, weight=1.5)), expected) < 2e-4
        assert difference(expected, sampled(sd1)) > 0.05

    def test_removed_it_is_plain_and_so_it_is_at_0(self, tokens, applied, sampled, sd1):
        plain, made = sampled(sd1), tokens("style & semantics")
        moved = sampled(applied(made))
        assert difference(plain, moved) > 0.05
        assert torch.equal(sampled(sd1), plain)
        assert torch.equal(sampled(applied(made, weight=0.0)), plain)
        assert torch.equal(sampled(applied(made, start_percent=0.5, end_percent=0.5)), plain)
        assert not torch.equal(sampled(applied(made, weight=0.0, weighting="official")), plain)
        half = sampled(applied(made, weight=0.5))
        little = sampled(applied(made, weight=0.01))
        assert difference(plain, little) < 0.1 * difference(plain, moved)
        assert difference(plain, half) > difference(plain, little)

    def test_nothing_is_left_in_the_model(self, tokens, applied, sd1):
        """No table of replacements that another pack could run into, and nothing at all in the MODEL that came in."""
        patched = applied(tokens())
        assert not patched.model_options["transformer_options"].get("patches_replace")
        assert any(patched.wrappers.values()) and not any(sd1.wrappers.values())

    def test_unconditional_rows_hear_zeros(self, tokens, applied, sampled, prompts):
        """The same wherever rows stand and whichever text they have; a token of zeros is not no token."""
        made = tokens("style & semantics")
        patched = applied(made)
        seen = []

        def watch(q, k, v, options):
            seen.append((options["cond_or_uncond"], k, v))
            return optimized_attention(q, k, v, options["n_heads"])

        watched = patched.clone()
        watched.set_model_attn2_replace(watch, "output", 9)
        sampled(watched)
        assert seen
        for entries, k, v in seen:
            for entry, row_k, row_v in zip(entries, k.chunk(len(entries)), v.chunk(len(entries)), strict=True):
                assert k.shape[1] == 77 + 16
                assert bool((row_k[:, 77:] == 0).all()) == bool((row_v[:, 77:] == 0).all()) == (entry == 1)

    def test_start_and_end(self, tokens, applied, sampled, sd1):
        """Between two shares of the way, by ComfyUI's own measure."""
        made, ms = tokens(), sd1.get_model_object("model_sampling")
        half = float(ms.percent_to_sigma(0.5))
        above, below = torch.tensor([half * 2, half * 1.2]), torch.tensor([half * 0.8, half * 0.4])
        plain = [sampled(sd1, sigmas=s) for s in (above, below)]
        late, early = applied(made, start_percent=0.5), applied(made, end_percent=0.5)
        assert torch.equal(sampled(late, sigmas=above), plain[0])
        assert not torch.equal(sampled(late, sigmas=below), plain[1])
        assert torch.equal(sampled(early, sigmas=below), plain[1])
        assert not torch.equal(sampled(early, sigmas=above), plain[0])

    def test_batches(self, tokens, applied, sampled, pictures, latent):
        """A picture of a batch is what it is alone, with its own tokens; a longer batch starts over."""
        two = {"samples": torch.cat([latent["samples"], latent["samples"].flip(-1)])}
        each = applied(tokens(image=pictures[:2], combine="one each"))
        found = sampled(each, latent=two)
        for i in range(2):
            alone = sampled(applied(tokens(image=pictures[i : i + 1])), latent={"samples": two["samples"][i : i + 1]})
            assert difference(found[i : i + 1], alone) < 1e-4
        four = sampled(each, latent={"samples": two["samples"].repeat(2, 1, 1, 1)})
        assert difference(four, found.repeat(2, 1, 1, 1)) < 1e-4
        mixed = applied(tokens("style", image=pictures[:2], combine="one each", tokens=tokens("semantics")))
        assert torch.isfinite(sampled(mixed, latent=two)).all()

    def test_prompts_of_other_lengths(self, tokens, applied, sampled, prompts, latent):
        """ComfyUI repeats the shorter prompt where two share a batch; the tokens keep their share."""
        patched = applied(tokens("style & semantics"))
        (short, _), (negative, _) = prompts[0][0], prompts[1][0]
        twice = [[torch.cat([short, short], 1), {}]]  # the same prompt, as long as two
        expected = sampled(patched)
        assert difference(sampled(patched, positive=twice), expected) < 1e-4
        assert difference(sampled(patched, positive=twice, negative=[[negative, {}]]), expected) < 1e-4
        assert difference(sampled(patched, negative=[[torch.cat([negative, negative], 1), {}]]), expected) < 1e-4

    def test_masks(self, tokens, applied, sampled, sd1, latent):
        """Outside of its mask a reference acts through what is inside only."""
        made = tokens()
        plain, full = sampled(sd1), sampled(applied(made))
        assert torch.equal(sampled(applied(made, mask=torch.zeros(1, 40, 30))), plain)
        assert difference(sampled(applied(made, mask=torch.ones(1, 40, 30))), full) < 1e-4
        left = torch.zeros(1, 16, 12)
        left[..., :6] = 1
        sigmas = torch.tensor([2.0, 0.0])
        masked = sampled(applied(made, mask=left, style_layers="output.11"), sigmas=sigmas)
        moved = (masked - sampled(sd1, sigmas=sigmas)).abs().amax((0, 1, 2))
        # after the last cross-attention only convolutions of 3 pixels and the norm's statistics carry further
        assert float(moved[:5].min()) > 1.5 * float(moved[8:].max())

    def test_layers_can_be_edited(self, tokens, applied, sampled, sd1):
        made = tokens("style & semantics")
        usual = sampled(applied(made))
        named = applied(made, semantic_layers="input.7-8, middle, output.3-4")
        assert torch.equal(sampled(named), usual)
        assert not torch.equal(sampled(applied(made, semantic_layers="middle")), usual)
        assert not torch.equal(sampled(applied(made, style_layers="output.9-11")), usual)
        for settings, said in (
            ({"semantic_layers": "output.99"}, "matches no attention layer"),
            ({"style_layers": "middle"}, "middle.0 would listen to style and to semantics"),
            ({"semantic_layers": "rest"}, "both 'rest'"),
        ):
            with pytest.raises(ValueError, match=said):
                applied(made, **settings)

    def test_cfg_1(self, tokens, applied, sampled, sd1):
        made = tokens()
        assert difference(sampled(applied(made), cfg=1.0), sampled(sd1, cfg=1.0)) > 0.01

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, nodes, folder, tokens, applied, sampled, dtype):
        loaded = nodes("ExemplarLoadDEADiff", model_name="small.safetensors", precision=str(dtype).split(".")[-1])[0]
        found = tokens()
        half = nodes("ExemplarDEADiffEncode", deadiff=loaded, image=torch.rand(1, 20, 30, 3), take="style")[0]
        assert half.tokens["style"].dtype == torch.float32 and torch.isfinite(half.tokens["style"]).all()
        moved = sampled(applied(found, model=models.tiny("sd1", dtype)))
        assert torch.isfinite(moved).all()

    def test_fractional_timesteps(self, tokens, applied, sampled, sd1):
        """Whole ones are where ComfyUI's are; the rest lies between."""
        ms = sd1.get_model_object("model_sampling")
        patched = applied(tokens(), timesteps="fractional").get_model_object("model_sampling")
        whole = ms.sigmas[[0, 10, 500, 999]]
        assert difference(patched.timestep(whole), torch.tensor([0.0, 10.0, 500.0, 999.0])) < 1e-2
        between = (ms.sigmas[500] * ms.sigmas[501]).sqrt()
        assert float(patched.timestep(between)) == pytest.approx(500.5, abs=1e-3)
        assert float(patched.percent_to_sigma(0.5)) == float(ms.percent_to_sigma(0.5))
        assert torch.isfinite(sampled(applied(tokens(), timesteps="fractional"))).all()

    @pytest.mark.parametrize("family", ["sdxl"])
    def test_another_family_is_named(self, tokens, applied, family):
        with pytest.raises(
            ValueError, match=r"Apply DEADiff: tokens: found some for a model with 16 .*this MODEL \(SDXL\)"
        ):
            applied(tokens(), model=models.tiny(family))

    def test_embedded_tokens_want_the_embedded_model(self, nodes, sd1, embedded, scene):
        loaded = nodes("ExemplarLoadDEADiff", model_name="embedded")[0]
        made = nodes("ExemplarDEADiffEncode", deadiff=loaded, image=scene[1], take="style")[0]
        with pytest.raises(ValueError, match=r"prompts 128 wide, expected .* prompts 64 wide for this MODEL"):
            nodes("ExemplarApplyDEADiff", model=sd1, tokens=made, weight=1.0)
        nodes("ExemplarApplyDEADiff", model=embedded[0], tokens=made, weight=1.0)


class TestTogether:
    def test_with_an_ip_adapter_in_any_order(self, tokens, applied, sampled, sd1):
        made = tokens("style & semantics")
        before = applied(made, model=IPAdapterStyle.install(sd1, 1))
        after = IPAdapterStyle.install(applied(made), 1)
        found = sampled(before)
        assert torch.equal(found, sampled(after))
        alone = [sampled(IPAdapterStyle.install(sd1, 1)), sampled(applied(made)), sampled(sd1)]
        assert min(difference(found, other) for other in alone) > 0.01
        # two of its own kind around ours: they find each other
        both = IPAdapterStyle.install(applied(made, model=IPAdapterStyle.install(sd1, 1)), 2)
        assert difference(sampled(both), found) > 0.01
        # and by the formula: ours is in what it calls its text
        at_zero = applied(made, model=IPAdapterStyle.install(sd1, 1), weight=0.0)
        assert torch.equal(sampled(at_zero), alone[0])

    def test_two_references_on_one_model(self, tokens, applied, sampled, pictures, sd1):
        first, second = tokens(image=pictures[:1]), tokens(image=pictures[1:2])
        chained = sampled(applied(second, model=applied(first)))
        other = sampled(applied(first, model=applied(second)))
        assert difference(chained, other) < 1e-4  # side by side in one softmax
        together = sampled(applied(tokens(image=pictures[:2], combine="together")))
        assert difference(chained, together) < 1e-4

    def test_with_a_lora(self, tokens, applied, sampled, sd1):
        def with_lora(model):
            patched = model.clone()
            unet = patched.model.diffusion_model
            weight = unet.output_blocks[9][1].transformer_blocks[0].attn2.to_v.weight
            delta = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4))
            key = "diffusion_model.output_blocks.9.1.transformer_blocks.0.attn2.to_v.weight"
            assert patched.add_patches({key: ("diff", (delta,))}, 1.0) == [key]
            return patched

        made = tokens()
        found = sampled(with_lora(applied(made)))
        assert torch.equal(found, sampled(applied(made, model=with_lora(sd1))))
        assert difference(found, sampled(applied(made))) > 1e-3 and difference(found, sampled(with_lora(sd1))) > 1e-3

    def test_with_a_control_net(self, tokens, applied, sampled, sd1, prompts, latent):
        """A real ControlNet of the model's layout: its residuals and the tokens are both there, as each is alone."""
        height, width = (8 * side for side in latent["samples"].shape[-2:])
        net = models.control_net("sd1", (height, width))
        guided = [models.under_control(prompt, net) for prompt in prompts]
        made = tokens("style & semantics")
        found = sampled(applied(made), positive=guided[0], negative=guided[1])
        alone = [sampled(sd1, positive=guided[0], negative=guided[1]), sampled(applied(made)), sampled(sd1)]
        assert min(difference(found, other) for other in alone) > 0.01
        removed = sampled(applied(made, weight=0.0), positive=guided[0], negative=guided[1])
        assert torch.equal(removed, alone[0])

    def test_with_colors_by_dual_attention(self, nodes, embedded, inverted, injected, scene):
        """Style tokens in the cross-attentions, a reference's colors in the self-attentions."""
        loaded = nodes("ExemplarLoadDEADiff", model_name="embedded")[0]
        made = nodes("ExemplarDEADiffEncode", deadiff=loaded, image=scene[1], take="style")[0]
        _, noised, sigmas, _ = inverted["input"]

        def with_tokens(model):
            return nodes("ExemplarApplyDEADiff", model=model, tokens=made, weight=1.0)[0]

        empty, colored = embedded[3], injected()
        plain = run(embedded[0], empty, noised, sigmas)
        found = [
            run(m, empty, noised, sigmas) for m in (with_tokens(colored), injected(model=with_tokens(embedded[0])))
        ]
        assert torch.equal(*found)
        alone = [run(colored, empty, noised, sigmas), run(with_tokens(embedded[0]), empty, noised, sigmas), plain]
        assert min(difference(found[0], other) for other in alone) > 1e-3
        assert torch.equal(run(embedded[0], empty, noised, sigmas), plain)
