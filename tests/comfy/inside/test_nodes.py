"""Every node: what it promises, at which sizes, on which models, and what it says to bad input."""

import comfy.samplers
import pytest
import torch

from comfyui_exemplar.attention.layers import select_layers
from comfyui_exemplar.color import ab_error, desaturate, luminance
from comfyui_exemplar.hosts.comfy import model as host
from comfyui_exemplar.hosts.comfy.host import ComfyHost

from . import models
from .sampling import Calls, difference, run


def invert(nodes, model, conditioning, samples, capture=True, **settings):
    if capture:
        (model,) = nodes("ExemplarAttentionCapture", model=model, layers="color", keep="everything (q, k, v)")
    return nodes(
        "ExemplarDDIMInversion",
        model=model,
        conditioning=conditioning,
        latent={"samples": samples},
        **{"depth": 3, "steps": 50, **settings},
    )


class TestFamilies:
    @pytest.mark.parametrize("family", models.FAMILIES)
    def test_layers_found_by_kind(self, family):
        infos = host.attention_layers(models.tiny(family))
        chosen = [info.layer.name for info in select_layers("color", infos)]
        if family == "sdxl":
            # three transformers in each of output.0-2, two in each of output.3-5
            assert chosen == [
                f"output.{i}{'' if d == 0 else f'.{d}'}" for i in range(6) for d in range(3 if i < 3 else 2)
            ]
        elif family == "sdxl-small":
            assert chosen == [f"output.{i}" for i in range(6)]  # the same levels, one transformer in each block
        else:
            assert chosen == [f"output.{i}" for i in range(6, 12)]

    @pytest.mark.parametrize("family", models.FAMILIES)
    @pytest.mark.parametrize("convention", ["consistent", "official"])
    def test_stages_run_and_act(self, nodes, family, convention):
        model, conditioning = models.tiny(family), models.prompt(family)
        generator = torch.Generator().manual_seed(1)
        latents = [torch.randn(1, 4, 24, 16, generator=generator) * 5 for _ in range(3)]
        made = [invert(nodes, model, conditioning, z, convention=convention) for z in latents]
        assert made[0][3] < 0.25, f"round trip error {made[0][3]}"
        (patched,) = nodes(
            "ExemplarDualAttentionColor",
            model=model,
            input_inversion=made[0][0],
            reference_inversion=made[1][0],
            gray_inversion=made[2][0],
            strength=1.0,
        )
        plain = run(model, conditioning, made[0][1], made[0][2])
        colored = run(patched, conditioning, made[0][1], made[0][2])
        assert torch.isfinite(colored).all()
        assert difference(plain, colored) > 1e-3 * float(plain.abs().max())

    def test_v_prediction_inverts_exactly_with_refinement(self, nodes):
        """The round trip of a v-prediction model converges as it does for noise prediction."""
        model, conditioning = models.tiny("sd2"), models.prompt("sd2")
        z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 5
        errors = [invert(nodes, model, conditioning, z, capture=False, refinements=r)[3] for r in (0, 4)]
        assert errors[1] < 0.2 * errors[0] and errors[1] < 1e-2, errors

    def test_another_family_is_named(self, nodes):
        class Flux:
            pass

        class Patcher:
            model = Flux()
            load_device = torch.device("cpu")

            def get_model_object(self, name):
                return torch.nn.Identity()

        for node, inputs in (
            ("ExemplarAttentionCapture", {"layers": "color", "keep": "everything (q, k, v)"}),
            (
                "ExemplarDDIMInversion",
                {"conditioning": [], "latent": {"samples": torch.zeros(1, 16, 8, 8)}, "depth": 5, "steps": 50},
            ),
        ):
            with pytest.raises(ValueError, match=r"Stable Diffusion 1\.x, 2\.x or SDXL.*Flux"):
                nodes(node, model=Patcher(), **inputs)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, nodes, dtype):
        full, half = models.tiny("sd1"), models.tiny("sd1", dtype)
        conditioning = models.prompt("sd1")
        generator = torch.Generator().manual_seed(1)
        latents = [torch.randn(1, 4, 16, 16, generator=generator) * 5 for _ in range(3)]
        results = []
        for model in (full, half):
            made = [invert(nodes, model, conditioning, z) for z in latents]
            (patched,) = nodes(
                "ExemplarDualAttentionColor",
                model=model,
                input_inversion=made[0][0],
                reference_inversion=made[1][0],
                gray_inversion=made[2][0],
                strength=1.0,
            )
            results.append(run(patched, conditioning, made[0][1], made[0][2]))
        assert torch.isfinite(results[1]).all()
        assert difference(*results) < 0.05 * float(results[0].abs().max())
        assert made[0][0].bank.get(made[0][0].bank.sigmas[0], made[0][0].bank.layers[0], "q").dtype == dtype


class TestInversion:
    def test_way_back_is_the_tail_of_ddim_uniform(self, nodes, embedded, scene):
        """Also where the step count does not divide 1000, and ComfyUI's schedule is longer than asked for."""
        model, _, vae, empty = embedded
        sampling = model.get_model_object("model_sampling")
        for steps, depth in ((50, 3), (12, 4), (7, 2), (33, 5)):
            z = vae.encode(scene[1])
            sigmas = invert(nodes, model, empty, z, capture=False, steps=steps, depth=depth, measure_round_trip=False)[
                2
            ]
            stock = comfy.samplers.calculate_sigmas(sampling, "ddim_uniform", steps)
            assert torch.allclose(sigmas, stock[-(depth + 1) :], rtol=1e-5)

    def test_round_trip(self, nodes, embedded, scene):
        model, _, vae, empty = embedded
        z = vae.encode(scene[1])
        errors = {r: invert(nodes, model, empty, z, capture=False, depth=10, refinements=r)[3] for r in (0, 2)}
        assert errors[2] < errors[0] < 0.1, errors
        assert invert(nodes, model, empty, z, capture=False, measure_round_trip=False)[3] == -1

    def test_sampling_the_noised_latent_plainly_returns_the_picture(self, nodes, embedded, scene):
        model, _, vae, empty = embedded
        z = vae.encode(scene[1])
        _, noised, sigmas, error = invert(nodes, model, empty, z, depth=5)
        back = run(model, empty, noised, sigmas, cfg=1.0)
        assert float((back - z).pow(2).mean().sqrt() / z.std()) == pytest.approx(error, rel=1e-3)

    def test_batch_equals_one_by_one(self, nodes, embedded, scene):
        model, _, vae, empty = embedded
        z = torch.cat([vae.encode(image) for image in scene])
        together = invert(nodes, model, empty, z)
        for i in range(2):
            alone = invert(nodes, model, empty, z[i : i + 1])
            assert difference(together[1]["samples"][i], alone[1]["samples"][0]) < 1e-4
            for s, at, name, tensor in alone[0].bank.items():
                assert difference(together[0].bank.get(s, at, name)[i], tensor[0]) < 1e-3

    def test_latent_keeps_its_other_entries(self, nodes, embedded, scene):
        model, _, vae, empty = embedded
        latent = {"samples": vae.encode(scene[0]), "noise_mask": torch.ones(1, 64, 64), "batch_index": [3]}
        noised = nodes("ExemplarDDIMInversion", model=model, conditioning=empty, latent=latent, depth=2, steps=50)[1]
        assert noised["batch_index"] == [3] and noised["noise_mask"] is latent["noise_mask"]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"depth": 51, "steps": 50}, "depth is 51.*1 to 50"),
            ({"depth": 50, "steps": 50, "convention": "official"}, "1 to 49"),
            ({"refinements": 1, "convention": "official"}, "consistent"),
        ],
    )
    def test_bad_settings(self, nodes, embedded, settings, message):
        with Calls(embedded[0]) as calls, pytest.raises(ValueError, match=message):
            invert(nodes, embedded[0], embedded[3], torch.zeros(1, 4, 16, 16), capture=False, **settings)
        assert not calls.entered

    def test_bad_latents(self, nodes, embedded):
        for samples, message in (
            (torch.full((1, 4, 16, 16), float("nan")), "NaN"),
            (torch.zeros(0, 4, 16, 16), "shape"),
            (torch.zeros(1, 4, 3, 16, 16), "shape"),
        ):
            with Calls(embedded[0]) as calls, pytest.raises(ValueError, match=message):
                invert(nodes, embedded[0], embedded[3], samples, capture=False)
            assert not calls.entered

    def test_early_check_of_the_widgets(self):
        from comfyui_exemplar.nodes.inversion import DDIMInversion

        assert "51" in DDIMInversion.validate_inputs(depth=51, steps=50)
        assert DDIMInversion.validate_inputs(depth=5, steps=50) is True
        assert DDIMInversion.validate_inputs() is True


class TestInjectionErrors:
    def inject(self, nodes, model, parts, **settings):
        return nodes(
            "ExemplarDualAttentionColor",
            model=model,
            input_inversion=parts[0],
            reference_inversion=parts[1],
            gray_inversion=parts[2],
            **{"strength": 1.0, **settings},
        )[0]

    def parts(self, inverted, **other):
        return [other.get(name, inverted[name][0]) for name in ("input", "reference", "gray")]

    def test_another_model(self, nodes, inverted):
        with pytest.raises(ValueError, match="another model"):
            self.inject(nodes, models.tiny("sd1"), self.parts(inverted))

    def test_without_captured_layers(self, nodes, embedded, inverted, scene):
        bare = invert(nodes, embedded[0], embedded[3], embedded[2].encode(scene[0]), capture=False, depth=4)[0]
        with pytest.raises(ValueError, match=r"kept no attention features.*Attention Capture"):
            self.inject(nodes, embedded[0], self.parts(inverted, input=bare))

    def test_too_little_captured(self, nodes, embedded, inverted, scene):
        model, _, vae, empty = embedded
        (marked,) = nodes("ExemplarAttentionCapture", model=model, layers="fine", keep="gray reference (k)")
        little = invert(nodes, marked, empty, vae.encode(scene[0]), capture=False, depth=4)[0]
        with pytest.raises(LookupError, match=r"No 'q' of output\.\d+ was kept"):
            self.inject(nodes, embedded[0], self.parts(inverted, input=little))

    def test_another_depth(self, nodes, embedded, inverted, scene):
        shallow = invert(nodes, embedded[0], embedded[3], embedded[2].encode(scene[0]), depth=2)[0]
        with pytest.raises(ValueError, match="same steps, depth and convention"):
            self.inject(nodes, embedded[0], self.parts(inverted, reference=shallow))

    def test_reference_and_gray_of_different_size(self, nodes, embedded, inverted):
        large = invert(nodes, embedded[0], embedded[3], embedded[2].encode(torch.rand(1, 96, 64, 3)), depth=4)[0]
        with pytest.raises(ValueError, match="same size"):
            self.inject(nodes, embedded[0], self.parts(inverted, gray=large))

    def test_reference_of_another_size_than_the_input(self, nodes, embedded, inverted):
        vae, empty = embedded[2], embedded[3]
        pair = [invert(nodes, embedded[0], empty, vae.encode(torch.rand(1, 96, 80, 3)), depth=4)[0] for _ in range(2)]
        model = self.inject(nodes, embedded[0], [inverted["input"][0], *pair])
        assert torch.isfinite(run(model, empty, inverted["input"][1], inverted["input"][2])).all()

    def test_batches(self, nodes, embedded, inverted):
        two = invert(nodes, embedded[0], embedded[3], torch.randn(2, 4, 16, 16), depth=4)[0]
        with pytest.raises(ValueError, match=r"1 input\(s\), 2 reference"):
            self.inject(nodes, embedded[0], [inverted["input"][0], two, two])

    def test_latent_of_another_size(self, nodes, embedded, inverted):
        model = self.inject(nodes, embedded[0], self.parts(inverted))
        with Calls(embedded[0]) as calls, pytest.raises(ValueError, match=r"20 x 16.*inverted at 16 x 16"):
            run(model, embedded[3], {"samples": torch.randn(1, 4, 16, 20)}, inverted["input"][2])
        assert not calls.entered

    def test_sampler_far_from_what_was_kept(self, nodes, embedded, inverted):
        model = self.inject(nodes, embedded[0], self.parts(inverted))
        with Calls(embedded[0]) as calls, pytest.raises(ValueError, match=r"visits sigmas 14\.000 to 7"):
            run(model, embedded[3], inverted["input"][1], torch.tensor([14.0, 10.0, 7.0]))
        assert not calls.entered

    def test_sampler_between_the_kept_levels_takes_the_nearest_and_says_so(self, nodes, embedded, inverted, caplog):
        model = self.inject(nodes, embedded[0], self.parts(inverted))
        between = inverted["input"][2] * 0.93
        with caplog.at_level("INFO"):
            result = run(model, embedded[3], inverted["input"][1], between)
        assert torch.isfinite(result).all() and "nearest kept features" in caplog.text

    def test_empty_reference_mask(self, nodes, embedded, inverted):
        with pytest.raises(ValueError, match="reference mask is empty"):
            self.inject(nodes, embedded[0], self.parts(inverted), reference_mask=torch.zeros(1, 64, 64))

    def test_unknown_layers(self, nodes, embedded, inverted):
        with pytest.raises(ValueError, match=r"output\.0,1,2,3,4,5"):
            self.inject(nodes, embedded[0], self.parts(inverted), layers="output.9")


RECOMMENDED = {
    "guidance": 3.0,
    "passes": 1,
    "depth": 15,
    "resolution": 64,
    "match_chroma": 0.0,
    "match_latents": 0.0,
    "beta_shallow": 0.0,
}


class TestColorize:
    def run(self, nodes, embedded, image, reference, **settings):
        model, _, vae, empty = embedded
        return nodes(
            "ExemplarColorize",
            model=model,
            vae=vae,
            conditioning=empty,
            image=image,
            reference=reference,
            **{**RECOMMENDED, "depth": 3, **settings},
        )

    @pytest.mark.parametrize("size", [(64, 64), (61, 103), (200, 34), (17, 17)])
    def test_own_size_and_own_luminance(self, nodes, embedded, scene, size):
        gray = torch.nn.functional.interpolate(scene[0].movedim(-1, 1), size).movedim(1, -1)
        (image, *_) = self.run(nodes, embedded, gray, scene[1])
        assert tuple(image.shape[1:3]) == size
        assert float((luminance(image) - luminance(gray)).abs().max()) < 0.2
        assert float(image.std(-1).mean()) > 1e-3, "no color came over"

    def test_official_and_consistent_differ(self, nodes, embedded, scene):
        found = [self.run(nodes, embedded, *scene, convention=c)[0] for c in ("consistent", "official")]
        assert difference(*found) > 1e-3

    def test_rows_of_the_default_flow(self, nodes, embedded, scene):
        """Budget at the paper's settings: 33 calls and 60 rows; 48 rows for a further input."""
        paper = {"guidance": 10.0, "passes": 3, "depth": 5, "convention": "official", "beta_shallow": 0.5}
        with Calls(embedded[0]) as first:
            made = self.run(nodes, embedded, *scene, **paper)
        assert len(first.left) <= 33 and sum(first.left) <= 60, (len(first.left), sum(first.left))
        with Calls(embedded[0]) as further:
            again = self.run(nodes, embedded, *scene, **paper, reference_inversion=made[2], gray_inversion=made[3])
        assert sum(further.left) <= 48, sum(further.left)
        assert difference(made[0], again[0]) < 1e-3
        assert sum(first.entered) < sum(first.left), "branches shared nothing"

    def test_batches_equal_one_by_one(self, nodes, embedded, scene):
        inputs = torch.cat([scene[0], scene[0].flip(1), scene[0].flip(2)])
        together = self.run(nodes, embedded, inputs, scene[1])[0]
        rounds = self.run(nodes, embedded, inputs, scene[1], batch=2)[0]
        assert difference(together, rounds) < 1e-3
        for i in range(3):
            alone = self.run(nodes, embedded, inputs[i : i + 1], scene[1])[0]
            assert difference(together[i], alone[0]) < 1e-3

    def test_pairwise(self, nodes, embedded, scene):
        inputs = torch.cat([scene[0], scene[0].flip(2)])
        references = torch.cat([scene[1], scene[1].flip(-1)])
        together = self.run(nodes, embedded, inputs, references)[0]
        rounds = self.run(nodes, embedded, inputs, references, batch=1)[0]
        alone = self.run(nodes, embedded, inputs[1:], references[1:])[0]
        assert difference(together, rounds) < 1e-3 and difference(together[1], alone[0]) < 1e-3

    def test_out_of_memory_halves_the_batch(self, nodes, embedded, scene, monkeypatch, caplog):
        from comfyui_exemplar.nodes import exemplar as node

        inputs = torch.cat([scene[0], scene[0].flip(2)])
        expected = self.run(nodes, embedded, inputs, scene[1])[0]
        real = node.colorize

        def scarce(runner, images, *args, **kwargs):
            if len(images) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory (test)")
            return real(runner, images, *args, **kwargs)

        monkeypatch.setattr(node, "colorize", scarce)
        with caplog.at_level("WARNING"):
            found = self.run(nodes, embedded, inputs, scene[1])[0]
        assert difference(found, expected) < 1e-3 and "1 picture(s) at once" in caplog.text

    def test_other_errors_are_not_taken_for_memory(self, nodes, embedded, scene, monkeypatch):
        from comfyui_exemplar.nodes import exemplar as node

        def broken(*_, **__):
            raise RuntimeError("something else")

        monkeypatch.setattr(node, "colorize", broken)
        with pytest.raises(RuntimeError, match="something else"):
            self.run(nodes, embedded, torch.cat([scene[0]] * 2), scene[1])

    def test_mask(self, nodes, embedded, scene):
        mask = torch.zeros(1, 64, 64)
        mask[..., :32] = 1
        image = self.run(nodes, embedded, *scene, mask=mask)[0]
        assert float(image[:, :, 40:].std(-1).max()) < 1e-3 < float(image[:, :, :28].std(-1).mean())

    def test_colored_input_is_desaturated_with_a_warning(self, nodes, embedded, scene, caplog):
        colored = scene[0] * torch.tensor([1.0, 0.8, 0.7])
        with caplog.at_level("WARNING"):
            found = self.run(nodes, embedded, colored, scene[1])[0]
        assert "only its luminance is used" in caplog.text
        assert difference(found, self.run(nodes, embedded, desaturate(colored), scene[1])[0]) < 1e-4

    def test_alpha(self, nodes, embedded, scene):
        alpha = torch.ones(1, 64, 64, 1)
        found = self.run(nodes, embedded, torch.cat([scene[0], alpha], -1), torch.cat([scene[1], alpha], -1))[0]
        assert difference(found, self.run(nodes, embedded, *scene)[0]) < 1e-4

    @pytest.mark.parametrize(
        ("image", "reference", "message"),
        [
            (torch.zeros(0, 8, 8, 3), torch.rand(1, 8, 8, 3), "image: found an empty batch"),
            (torch.zeros(1, 1, 1, 3), torch.rand(1, 8, 8, 3), "found 1 x 1 pixels"),
            (torch.full((1, 8, 8, 3), float("nan")), torch.rand(1, 8, 8, 3), "image: found NaN"),
            (torch.rand(1, 8, 8, 3), torch.full((1, 8, 8, 3), float("inf")), "reference: found NaN"),
            (torch.rand(3, 8, 8, 3), torch.rand(2, 8, 8, 3), r"3 input\(s\) and 2 reference"),
        ],
    )
    def test_bad_pictures(self, nodes, embedded, image, reference, message):
        with Calls(embedded[0]) as calls, pytest.raises(ValueError, match=message):
            self.run(nodes, embedded, image, reference)
        assert not calls.entered

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            ((3, 2, 1, 1), r"3 input\(s\) and 2 reference"),
            ((3, 1, 2, 1), "2 input masks for 3"),
            ((3, 3, 1, 2), "2 reference masks"),
        ],
    )
    def test_batches_are_checked_before_the_first_round(self, nodes, embedded, scene, counts, message):
        """Also when the first round alone would fit."""
        images, references, masks, reference_masks = (torch.ones(n, 64, 64, 3) * 0.5 for n in counts)
        with Calls(embedded[0]) as calls, pytest.raises(ValueError, match=message):
            self.run(
                nodes,
                embedded,
                images,
                references,
                batch=1,
                mask=masks[..., 0],
                reference_mask=reference_masks[..., 0] + 0.2,
            )
        assert not calls.entered

    def test_half_a_pair(self, nodes, embedded, scene, inverted):
        with pytest.raises(ValueError, match="both reference_inversion and gray_inversion"):
            self.run(nodes, embedded, *scene, reference_inversion=inverted["reference"][0])

    def test_pair_of_another_run(self, nodes, embedded, scene, inverted):
        pair = {"reference_inversion": inverted["reference"][0], "gray_inversion": inverted["gray"][0]}
        with pytest.raises(ValueError, match="inverted 4 of 50 steps deep"):
            self.run(nodes, embedded, *scene, **pair)

    def test_cancel_at_every_step(self, nodes, embedded, scene):
        """Whenever it happens, the next run is right."""
        import comfy.model_management as mm

        expected = self.run(nodes, embedded, *scene, passes=2)[0]
        with Calls(embedded[0]) as calls:
            self.run(nodes, embedded, *scene, passes=2)
        for stop in range(1, len(calls.left), 3):
            with Calls(embedded[0]) as made:

                def press_cancel(_module, _inputs, stop=stop, made=made):
                    if len(made.left) == stop:
                        mm.interrupt_current_processing()

                button = embedded[0].model.diffusion_model.out[2].register_forward_pre_hook(press_cancel)
                try:
                    with pytest.raises(mm.InterruptProcessingException):
                        self.run(nodes, embedded, *scene, passes=2)
                finally:
                    button.remove()
            assert stop <= len(made.left) <= stop + 1
        assert difference(self.run(nodes, embedded, *scene, passes=2)[0], expected) == 0


class TestSmallNodes:
    def test_match_latent_statistics(self, nodes):
        content, style = torch.randn(2, 4, 8, 8) * 2 + 1, torch.randn(1, 4, 6, 9) * 3 - 1
        latent = {"samples": content, "batch_index": [0, 1]}
        (out,) = nodes("ExemplarMatchLatentStatistics", latent=latent, reference={"samples": style}, strength=1.0)
        assert torch.allclose(out["samples"].mean((2, 3)), style.mean((2, 3)).expand(2, -1), atol=1e-4)
        assert torch.allclose(out["samples"].std((2, 3)), style.std((2, 3)).expand(2, -1), atol=1e-4)
        assert out["batch_index"] == [0, 1] and latent["samples"] is content
        (same,) = nodes("ExemplarMatchLatentStatistics", latent=latent, reference={"samples": style}, strength=0.0)
        assert torch.equal(same["samples"], content)
        with pytest.raises(ValueError, match="same channels"):
            three = {"samples": torch.randn(3, 4, 8, 8)}
            nodes("ExemplarMatchLatentStatistics", latent=latent, reference=three, strength=1.0)

    def test_desaturate_and_merge(self, nodes):
        color, gray = torch.rand(1, 20, 30, 3), torch.rand(1, 41, 61, 1).expand(-1, -1, -1, 3)
        (flat,) = nodes("ExemplarDesaturate", image=color, method="CIE lightness")
        assert float((luminance(flat) - luminance(color)).abs().max()) < 0.05
        (merged,) = nodes(
            "ExemplarMergeLuminance", color_image=color, gray_image=gray, match_statistics=0.0, chroma=1.0
        )
        assert merged.shape == gray.shape
        assert float((luminance(merged) - luminance(gray)).abs().max()) < 0.2
        (official,) = nodes(
            "ExemplarMergeLuminance",
            color_image=color,
            gray_image=gray,
            match_statistics=1.0,
            chroma=1.0,
            arithmetic="official 8 bit",
            reference=color,
        )
        assert official.shape == gray.shape and torch.equal((official * 255).round() / 255, official)
        with pytest.raises(ValueError, match="connect one"):
            nodes(
                "ExemplarMergeLuminance",
                color_image=color,
                gray_image=gray,
                match_statistics=1.0,
                chroma=1.0,
                arithmetic="official 8 bit",
            )

    def test_latent_luminance_exact(self, nodes, embedded, scene):
        _, _, vae, _ = embedded
        latent = {"samples": vae.encode(scene[1])}
        (out, model) = nodes("ExemplarLatentLuminance", vae=vae, gray_image=scene[0], strength=1.0, latent=latent)
        assert model is None
        before = (luminance(vae.decode(latent["samples"])) - luminance(scene[0])).abs().mean()
        after = (luminance(vae.decode(out["samples"])) - luminance(scene[0])).abs().mean()
        assert float(after) < 0.3 * float(before)
        (same, _) = nodes("ExemplarLatentLuminance", vae=vae, gray_image=scene[0], strength=0.0, latent=latent)
        assert torch.equal(same["samples"], latent["samples"])

    def test_latent_luminance_while_sampling(self, nodes, embedded, scene, inverted):
        model, _, vae, empty = embedded
        _, noised, sigmas, _ = inverted["reference"]
        (_, pulled) = nodes("ExemplarLatentLuminance", vae=vae, gray_image=scene[0], strength=1.0, model=model)
        errors = [
            float((luminance(vae.decode(run(m, empty, noised, sigmas))) - luminance(scene[0])).abs().mean())
            for m in (model, pulled)
        ]
        assert errors[1] < 0.5 * errors[0], errors
        (_, off) = nodes("ExemplarLatentLuminance", vae=vae, gray_image=scene[0], strength=0.0, model=model)
        assert torch.equal(run(off, empty, noised, sigmas), run(model, empty, noised, sigmas))
        with pytest.raises(ValueError, match="nothing to work on"):
            nodes("ExemplarLatentLuminance", vae=vae, gray_image=scene[0], strength=1.0)

    def test_attention_map(self, nodes, inverted, scene):
        inputs = {
            "input_inversion": inverted["input"][0],
            "reference_inversion": inverted["gray"][0],
            "image": scene[0],
            "reference": scene[1],
            "x": 0.5,
            "y": 0.5,
        }
        shown, heat, carried, confidence = nodes("ExemplarAttentionMap", **inputs)
        assert carried.shape == scene[0].shape and heat.shape == scene[1].shape[:3] == confidence.shape
        assert float(heat.max()) == pytest.approx(1.0) and shown.shape[2] > 2 * 64
        moved = nodes("ExemplarAttentionMap", **{**inputs, "x": 0.05, "y": 0.05})[1]
        assert difference(moved, heat) > 0.1, "another point looks elsewhere"
        mask = torch.zeros(1, 64, 64)
        mask[:, 30:34, 30:34] = 1
        assert difference(nodes("ExemplarAttentionMap", **inputs, mask=mask)[1], moved) > 0.1
        hard = nodes("ExemplarAttentionMap", **inputs, carry="hard")[2]
        assert difference(hard, carried) > 0.01
        with pytest.raises(ValueError, match="covers nothing"):
            nodes("ExemplarAttentionMap", **inputs, mask=mask * 0)
        with pytest.raises(ValueError, match=r"matches no attention layer|has both"):
            nodes("ExemplarAttentionMap", **inputs, layers="middle")


class TestEmbeddedModel:
    def test_prompts(self, embedded):
        _, clip, _, empty = embedded
        red = clip.encode_from_tokens_scheduled(clip.tokenize("red apple"))
        strong = clip.encode_from_tokens_scheduled(clip.tokenize("(red:2.0) apple"))
        assert red[0][0].shape == empty[0][0].shape
        assert difference(red[0][0][0, 1], strong[0][0][0, 1]) == 0 < difference(red[0][0][0, 0], strong[0][0][0, 0])

    def draw(self, embedded, prompt, size=128, seed=1):
        """What the stock nodes make of a prompt: (H, W, 3) in 0..1."""
        import nodes as stock

        model, clip, vae, empty = embedded
        words = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        latent = stock.EmptyLatentImage().generate(size, size, 1)[0]
        (out,) = stock.KSampler().sample(model, seed, 16, 4.0, "euler", "normal", words, empty, latent, 1.0)
        return vae.decode(out["samples"])[0]

    @pytest.mark.parametrize(
        "prompt, stronger, weaker", [("red heart", 0, 2), ("blue heart", 2, 0), ("green apple", 1, 2)]
    )
    def test_stock_nodes_draw_from_words(self, embedded, prompt, stronger, weaker):
        """One thing on white, in its color; the empty latent is the stock node's, an eighth of the size."""
        image = self.draw(embedded, prompt)
        assert image.shape == (128, 128, 3)
        corners = torch.stack([image[y, x] for y in (4, -5) for x in (4, -5)])
        assert float(corners.mean()) > 0.85  # white
        middle = image[40:88, 40:88].mean((0, 1))
        assert float(middle[stronger] - middle[weaker]) > 0.2, middle

    def test_latent_preview(self, embedded, scene):
        """The linear preview shows the picture."""
        model, _, vae, _ = embedded
        latent_format = model.model.latent_format
        z = vae.encode(scene[1])
        factors, bias = latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
        rgb = z.movedim(1, -1) @ torch.tensor(factors) + torch.tensor(bias)
        small = torch.nn.functional.avg_pool2d(scene[1].movedim(-1, 1), latent_format.spacial_downscale_ratio)
        assert float(((rgb + 1) / 2 - small.movedim(1, -1)).abs().mean()) < 0.05

    def test_agrees_with_the_other_host(self, embedded, scene):
        """The same pictures through diffusers, with the same weights."""
        diffusers = pytest.importorskip("diffusers")
        assert diffusers
        from comfyui_exemplar.attention.dual import DualAttentionSettings
        from comfyui_exemplar.demo import model_path
        from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
        from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
        from comfyui_exemplar.pipelines.exemplar import ColorizeSettings, colorize

        model, _, vae, empty = embedded
        settings = ColorizeSettings(
            guidance=3.0, passes=2, depth=4, resolution=64, attention=DualAttentionSettings(beta_shallow=0.25)
        )
        ours = colorize(ComfyHost(model, empty, vae), *scene, settings)
        theirs = colorize(DiffusersHost(load_standalone(model_path())), *scene, settings)
        assert difference(ours.latent, theirs.latent) < 1e-4
        assert float(ab_error(ours.images, theirs.images).mean()) < 0.05
