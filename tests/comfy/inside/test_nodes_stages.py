"""The stages of exemplar colorization: families of models, inversion, injection."""

import comfy.samplers
import pytest
import torch

from comfyui_exemplar.attention.layers import select_layers
from comfyui_exemplar.hosts.comfy import model as host

from . import models
from .sampling import Calls, difference, invert, run


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
            with pytest.raises(ValueError, match=r"found Flux \(Identity\), expected one of Stable Diffusion 1\.x"):
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
        assert DDIMInversion.validate_inputs(depth=51, steps=-1) is True  # auto is chosen when the node runs
        assert DDIMInversion.validate_inputs(depth=-1, steps=50) is True


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
        with pytest.raises(ValueError, match=r"found no attention features.*Attention Capture"):
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
        with pytest.raises(ValueError, match=r"found 2 reference\(s\).* 1 input\(s\)"):
            self.inject(nodes, embedded[0], [inverted["input"][0], two, two])

    def test_latent_of_another_size(self, nodes, embedded, inverted):
        model = self.inject(nodes, embedded[0], self.parts(inverted))
        with (
            Calls(embedded[0]) as calls,
            pytest.raises(ValueError, match=r"latent: found one of 20 x 16, expected 16 x 16"),
        ):
            run(model, embedded[3], {"samples": torch.randn(1, 4, 16, 20)}, inverted["input"][2])
        assert not calls.entered

    def test_sampler_far_from_what_was_kept(self, nodes, embedded, inverted):
        model = self.inject(nodes, embedded[0], self.parts(inverted))
        with Calls(embedded[0]) as calls, pytest.raises(ValueError, match=r"sigmas: found 14\.000 to 7"):
            run(model, embedded[3], inverted["input"][1], torch.tensor([14.0, 10.0, 7.0]))
        assert not calls.entered

    def test_sampler_between_the_kept_levels_takes_the_nearest_and_says_so(self, nodes, embedded, inverted, caplog):
        model = self.inject(nodes, embedded[0], self.parts(inverted))
        between = inverted["input"][2] * 0.93
        with caplog.at_level("INFO"):
            result = run(model, embedded[3], inverted["input"][1], between)
        assert torch.isfinite(result).all() and "nearest kept features" in caplog.text

    def test_empty_reference_mask(self, nodes, embedded, inverted):
        with pytest.raises(ValueError, match="reference_mask: found a mask with nothing above one half"):
            self.inject(nodes, embedded[0], self.parts(inverted), reference_mask=torch.zeros(1, 64, 64))

    def test_unknown_layers(self, nodes, embedded, inverted):
        with pytest.raises(ValueError, match=r"output\.0,1,2,3,4,5"):
            self.inject(nodes, embedded[0], self.parts(inverted), layers="output.9")
