"""The ComfyUI host among ComfyUI's habits: row order, split calls, neighbors on the same layer, clones, caches."""

import comfy.controlnet
import comfy.model_management
import comfy.samplers
import pytest
import torch

from comfyui_exemplar.attention.layers import Layer
from comfyui_exemplar.hosts.comfy import calls, edits, sampling
from comfyui_exemplar.hosts.comfy.rows import Rows

from .sampling import Calls, difference, run, run_guider

TOLERANCE = 1e-4


def start(inverted):
    _, noised, sigmas, _ = inverted["input"]
    return noised, sigmas


class TestSampling:
    def test_stock_sampler_nodes_do_the_same(self, nodes, embedded, inverted, injected):
        """KSampler (Advanced) with cfg = w, on ComfyUI's own schedule, equals the guider on the inversion's sigmas."""
        import nodes as stock

        noised, sigmas = start(inverted)
        (guider,) = nodes("ExemplarColorGuidance", model=injected(), conditioning=embedded[3], guidance=3.0)
        ours = run_guider(guider, noised, sigmas)
        (theirs,) = stock.KSamplerAdvanced().sample(
            injected(),
            "disable",
            0,
            50,
            3.0,
            "euler",
            "ddim_uniform",
            embedded[3],
            embedded[3],
            noised,
            46,
            50,
            "disable",
        )
        assert difference(ours, theirs["samples"]) < TOLERANCE
        plain = run(embedded[0], embedded[3], noised, sigmas)
        assert difference(ours, plain) > 0.05, "the injection changed nothing"

    def test_the_model_passed_in_stays_as_it_was(self, embedded, inverted, injected):
        noised, sigmas = start(inverted)
        before = run(embedded[0], embedded[3], noised, sigmas)
        options = str(embedded[0].model_options)
        run(injected(), embedded[3], noised, sigmas)
        assert str(embedded[0].model_options) == options
        assert torch.equal(run(embedded[0], embedded[3], noised, sigmas), before)

    def test_strength_zero_is_the_plain_model_bit_for_bit(self, embedded, inverted, injected):
        noised, sigmas = start(inverted)
        plain = run(embedded[0], embedded[3], noised, sigmas)
        assert torch.equal(run(injected(strength=0.0), embedded[3], noised, sigmas), plain)

    def test_unconditional_prediction_is_untouched(self, embedded, inverted, injected):
        """With cfg 0 only the unconditional prediction counts."""
        noised, sigmas = start(inverted)
        plain = run(embedded[0], embedded[3], noised, sigmas, cfg=0.0)
        assert difference(run(injected(), embedded[3], noised, sigmas, cfg=0.0), plain) < TOLERANCE

    @pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "lcm"])
    def test_other_samplers(self, embedded, inverted, injected, sampler):
        noised, sigmas = start(inverted)
        result = run(injected(), embedded[3], noised, sigmas, sampler=sampler)
        assert torch.isfinite(result).all()
        assert difference(result, run(embedded[0], embedded[3], noised, sigmas, sampler=sampler)) > 0.01


class TestBatching:
    """Conditional and unconditional rows in one call or two, in any order, repeated."""

    def reference(self, embedded, inverted, injected):
        return run(injected(), embedded[3], *start(inverted))

    def test_two_calls_when_memory_is_short(self, embedded, inverted, injected, monkeypatch):
        expected = self.reference(embedded, inverted, injected)
        monkeypatch.setattr(embedded[0].model, "memory_required", lambda *_, **__: 1e30)
        with Calls(embedded[0]) as calls:
            found = self.reference(embedded, inverted, injected)
        assert set(calls.left) == {1} and len(calls.left) == 8
        assert difference(found, expected) < TOLERANCE

    def test_rows_in_the_other_order(self, embedded, inverted, injected):
        """A guider of its own asks for the positive prediction first."""
        expected = self.reference(embedded, inverted, injected)

        class Swapped(comfy.samplers.CFGGuider):
            def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
                # ComfyUI reverses the list on its way into a batch
                found = comfy.samplers.calc_cond_batch(
                    self.inner_model,
                    [self.conds["positive"], self.conds["negative"], self.conds["positive"]],
                    x,
                    timestep,
                    model_options,
                )
                assert found[2] is not None
                return found[1] + 3.0 * (found[0] - found[1])

        guider = Swapped(injected())
        guider.set_conds(embedded[3], embedded[3])
        assert difference(run_guider(guider, *start(inverted)), expected) < TOLERANCE

    def test_combined_prompts_give_several_conditional_rows(self, embedded, inverted, injected):
        expected = self.reference(embedded, inverted, injected)
        twice = [*embedded[3], *embedded[3]]
        found = run(injected(), twice, *start(inverted), negative=embedded[3])
        assert difference(found, expected) < TOLERANCE

    def test_prompts_of_different_length(self, embedded, inverted, injected):
        expected = self.reference(embedded, inverted, injected)
        long = [[torch.cat([embedded[3][0][0]] * 2, 1), embedded[3][0][1]]]
        assert difference(run(injected(), embedded[3], *start(inverted), negative=long), expected) < TOLERANCE

    def test_a_repeated_latent_repeats_the_result(self, embedded, inverted, injected):
        expected = self.reference(embedded, inverted, injected)
        noised, sigmas = start(inverted)
        found = run(injected(), embedded[3], {"samples": noised["samples"].repeat(3, 1, 1, 1)}, sigmas)
        for row in found:
            assert difference(row, expected[0]) < TOLERANCE


class TestSharing:
    """The part that both branches have in common runs once, and only when that is certain."""

    def rows(self, embedded, model, inverted, **kw):
        with Calls(embedded[0]) as calls:
            result = run(model, embedded[3], *start(inverted), **kw)
        return calls.entered, calls.left, result

    def test_shared_rows_and_equal_result(self, embedded, inverted, injected, monkeypatch):
        entered, left, shared = self.rows(embedded, injected(), inverted)
        assert set(entered) == {1} and set(left) == {2}
        from comfyui_exemplar.hosts.comfy import sharing as comfy_sharing

        monkeypatch.setattr(comfy_sharing, "parting_block", lambda options, placed: None)
        entered, left, full = self.rows(embedded, injected(), inverted)
        assert set(entered) == {2} and set(left) == {2}
        assert difference(shared, full) < TOLERANCE

    def test_steps_aside_for_another_patch(self, embedded, inverted, injected):
        model = injected().clone()
        seen = []
        model.set_model_attn2_patch(
            lambda n, k, v, eo: (seen.append((n.shape[0], len(eo["cond_or_uncond"]))), (n, k, v))[1]
        )
        entered, _, _ = self.rows(embedded, model, inverted)
        assert set(entered) == {2} and set(seen) == {(2, 2)}

    def test_steps_aside_for_different_prompts(self, embedded, inverted, injected):
        clip = embedded[1]
        other = clip.encode_from_tokens_scheduled(clip.tokenize("red apple"))
        entered, _, _ = self.rows(embedded, injected(), inverted, negative=other)
        assert set(entered) == {2}

    def test_steps_aside_for_edited_encoder_layers(self, embedded, inverted, nodes, scene):
        model, _, vae, empty = embedded
        (marked,) = nodes("ExemplarAttentionCapture", model=model, layers="all", keep="everything (q, k, v)")
        found = [
            nodes(
                "ExemplarDDIMInversion",
                model=marked,
                conditioning=empty,
                latent={"samples": vae.encode(image)},
                depth=4,
                steps=50,
                measure_round_trip=False,
            )[0]
            for image in (scene[0], scene[1])
        ]
        (patched,) = nodes(
            "ExemplarDualAttentionColor",
            model=model,
            input_inversion=found[0],
            reference_inversion=found[1],
            gray_inversion=found[1],
            strength=1.0,
            layers="all",
        )
        entered, _, result = self.rows(embedded, patched, inverted)
        assert set(entered) == {2} and torch.isfinite(result).all()


class TestNeighbors:
    """Other packs' replacements on the same layer."""

    @pytest.mark.parametrize("key", [("output", 3), ("output", 3, 0)])
    def test_earlier_replacement_is_chained(self, embedded, inverted, nodes, injected, key):
        """Half strength mixes with what stood there before, whichever of ComfyUI's two kinds of key it used."""
        batches = []

        def foreign(q, k, v, options):
            batches.append((q.shape[0], len(options["cond_or_uncond"])))
            return torch.zeros_like(q)

        theirs = embedded[0].clone()
        theirs.set_model_attn1_replace(foreign, *key)
        both = injected(model=theirs, strength=0.5, layers="output.3")
        layer, level = Layer("output", 3), float(inverted["input"][2][0])
        options = {
            "block": ("output", 3),
            "block_index": 0,
            "n_heads": 2,
            "cond_or_uncond": [1, 0],
            "sigmas": torch.tensor([level]),
            "activations_shape": [2, 1, 8, 8],
        }

        def patch(model, *tensors):
            options_of = model.model_options["transformer_options"]
            laid = calls.laid_over(options_of, edits.placed_edits(options_of), Rows((1, 0), (0, 0)), level)
            return laid["patches_replace"]["attn1"]["output", 3, 0](*tensors, options)

        heads_width = inverted["input"][0].bank.get(inverted["input"][0].bank.sigmas[0], layer, "q").shape[-1]
        q = torch.randn(2, 64, heads_width)
        out = patch(both, q, q, q)
        full = patch(injected(strength=1.0, layers="output.3"), q, q, q)
        assert difference(out[0], torch.zeros_like(out[0])) == 0, "unconditional row is the neighbor's"
        assert difference(out[1], 0.5 * full[1]) < 1e-6, "conditional row is half ours, half the neighbor's"
        assert set(batches) == {(2, 2)}, "the neighbor must see ComfyUI's own batch"

    def test_two_injections_with_masks_share_a_layer(self, embedded, inverted, injected):
        """Left half from one, right half from the other: each half is as if it were alone."""
        left = torch.zeros(1, 64, 64)
        left[..., :32] = 1
        first = injected(input_mask=left)
        both = injected(model=first, input_mask=1 - left, gamma_deep=0.0, gamma_shallow=0.0)
        result = run(both, embedded[3], *start(inverted))
        only_second = injected(input_mask=1 - left, gamma_deep=0.0, gamma_shallow=0.0)
        assert difference(result, run(only_second, embedded[3], *start(inverted))) > 0.01
        assert difference(result, run(first, embedded[3], *start(inverted))) > 0.01

    @pytest.mark.parametrize("key", [("output", 3), ("output", 3, 0)])
    def test_cross_attention(self, embedded, inverted, key):
        """An edit of the other kind sees the prompt's tokens, and what stood there before it."""
        seen = []

        def foreign(q, k, v, options):
            return torch.zeros_like(q)

        def edit(call, earlier):
            seen.append((call.kind, call.layer, call.k.shape[1]))
            return earlier(call)

        theirs = embedded[0].clone()
        theirs.set_model_attn2_replace(foreign, *key)
        noised, sigmas = start(inverted)
        widths = edits.layer_widths(theirs, [Layer("output", 3)])
        both = edits.add_edit(theirs, edits.PlacedEdit("edit", edit, widths, ("attn2",)))
        assert torch.equal(run(both, embedded[3], noised, sigmas), run(theirs, embedded[3], noised, sigmas))
        assert set(seen) == {("attn2", Layer("output", 3), embedded[3][0][0].shape[1])}
        assert (
            difference(run(theirs, embedded[3], noised, sigmas), run(embedded[0], embedded[3], noised, sigmas)) > 1e-4
        )

    def test_clone_keeps_the_same_edit(self, injected):
        """A clone costs nothing: its list is the same."""
        model = injected()
        again = model.clone().clone()
        here, there = (edits.placed_edits(m.model_options["transformer_options"]) for m in (model, again))
        assert here and here[0] is there[0]

    def test_lora_on_the_same_model(self, embedded, inverted, injected):
        noised, sigmas = start(inverted)
        with_lora = embedded[0].clone()
        key = "diffusion_model.output_blocks.4.1.transformer_blocks.0.attn2.to_out.0.weight"
        weight = embedded[0].model.state_dict()[key]
        assert with_lora.add_patches({key: ("diff", (torch.full_like(weight, 0.2),))}, 1.0)
        result = run(injected(model=with_lora), embedded[3], noised, sigmas)
        assert difference(result, run(injected(), embedded[3], noised, sigmas)) > 1e-3
        before = run(embedded[0], embedded[3], noised, sigmas)
        assert torch.equal(before, run(embedded[0], embedded[3], noised, sigmas))

    def test_controlnet_residuals(self, embedded, inverted, injected):
        """A control that adds to the middle block: rows are ComfyUI's, and the result follows it."""

        class Control(comfy.controlnet.ControlBase):
            def get_control(self, x, *_, **__):
                residual = torch.full((x.shape[0], 256, x.shape[2] // 4, x.shape[3] // 4), 3.0)
                return {"input": [], "middle": [residual], "output": []}

        control = Control()
        prompt = [[embedded[3][0][0], {**embedded[3][0][1], "control": control, "control_apply_to_uncond": True}]]
        noised, sigmas = start(inverted)
        with Calls(embedded[0]) as calls:
            found = run(injected(), prompt, noised, sigmas)
        assert set(calls.entered) == {2}
        assert difference(found, run(injected(), embedded[3], noised, sigmas)) > 1e-3


class TestState:
    def test_banks_are_not_changed_by_sampling(self, embedded, inverted, injected):
        bank = inverted["reference"][0].bank
        before = {(s, at, n): t.clone() for s, at, n, t in bank.items()}
        model = injected()
        first = run(model, embedded[3], *start(inverted))
        second = run(model, embedded[3], *start(inverted))
        after = {(s, at, n): t for s, at, n, t in bank.items()}
        assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
        assert torch.equal(first, second)

    def test_each_inversion_fills_a_store_of_its_own(self, nodes, embedded, scene):
        """ComfyUI caches the marked MODEL; two inversions with it must not meet."""
        model, _, vae, empty = embedded
        (marked,) = nodes("ExemplarAttentionCapture", model=model, layers="fine", keep="reference (k, v)")
        latent = {"samples": vae.encode(scene[1])}
        made = [
            nodes("ExemplarDDIMInversion", model=marked, conditioning=empty, latent=latent, depth=depth, steps=50)[0]
            for depth in (2, 3, 2)
        ]
        assert [len(m.bank.sigmas) for m in made] == [2, 3, 2]
        assert all(name in "kv" for _, _, name, _ in made[0].bank.items())
        for s, at, name, tensor in made[0].bank.items():
            assert torch.equal(tensor, made[2].bank.get(s, at, name))

    def test_cancel_in_the_middle_leaves_nothing_behind(self, embedded, inverted, injected):
        noised, sigmas = start(inverted)
        model = injected()
        expected = run(model, embedded[3], noised, sigmas)
        guider = sampling.color_guider(model, embedded[3], 3.0)

        def cancel(step, *_):
            if step == 1:
                raise comfy.model_management.InterruptProcessingException()

        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run_guider(guider, noised, sigmas, callback=cancel)
        assert difference(run(model, embedded[3], noised, sigmas), expected) == 0
        assert (
            difference(run(embedded[0], embedded[3], noised, sigmas), run(embedded[0], embedded[3], noised, sigmas))
            == 0
        )

    def test_exception_inside_the_edit(self, embedded, inverted, injected, monkeypatch):
        from comfyui_exemplar.attention import dual

        noised, sigmas = start(inverted)
        plain = run(embedded[0], embedded[3], noised, sigmas)
        model = injected()
        with monkeypatch.context() as patch:
            patch.setattr(dual.DualAttentionColor, "_attention", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run(model, embedded[3], noised, sigmas)
        assert torch.equal(run(embedded[0], embedded[3], noised, sigmas), plain)
        assert torch.isfinite(run(model, embedded[3], noised, sigmas)).all()
