"""Settings of exemplar colorization: what each changes, what it costs, and recommendations."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.capture import StorageSettings
from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.color import luminance, resize, rgb_to_lab
from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings

from ..fixtures.exemplar import QUICK, picture, quick


class TestCost:
    DEFAULT = ColorizeSettings(resolution=32, convention="official")

    def test_the_default_is_the_paper_s(self):
        settings = ColorizeSettings()
        assert (settings.depth, settings.passes, settings.guidance, settings.steps) == (5, 3, 10.0, 50)

    def test_default_settings_fresh(self, host, counted):
        colorize(host, picture(), picture(seed=1), self.DEFAULT)
        # three pictures climb 6 steps in one batch, 3 passes of 5 steps, 2 climbs of the picture alone
        assert counted.calls == 6 + 3 * 5 + 2 * 6 <= 33
        assert counted.rows_in == 3 * 6 + 3 * 5 + 2 * 6
        assert counted.rows_out == 3 * 6 + 2 * 3 * 5 + 2 * 6 <= 60

    def test_a_further_input_with_a_prepared_reference(self, host, counted):
        ready = colorize(host, picture(), picture(seed=1), self.DEFAULT).reference
        counted.calls = counted.rows_in = counted.rows_out = 0
        colorize(host, picture(seed=2), picture(seed=1), self.DEFAULT, prepared=ready)
        assert counted.calls == 6 + 3 * 5 + 2 * 6
        assert counted.rows_in == 6 + 3 * 5 + 2 * 6
        assert counted.rows_out == 6 + 2 * 3 * 5 + 2 * 6 <= 48

    @pytest.mark.parametrize("convention, passes, refinements", [("consistent", 2, 2), ("official", 2, 0)])
    @pytest.mark.parametrize("ready, one_size", [(False, True), (False, False), (True, True), (True, False)])
    def test_announced_calls_are_made(self, host, counted, convention, passes, refinements, ready, one_size):
        settings = quick(convention=convention, passes=passes, refinements=refinements)
        image, reference = picture(1, 32, 32 if one_size else 64), picture(seed=1)
        prepared = colorize(host, picture(), reference, settings).reference if ready else None
        counted.calls = 0
        colorize(host, image, reference, settings, prepared=prepared)
        assert counted.calls == settings.model_calls(ready, one_size)

    def test_guidance_1_runs_the_colored_branch_only(self, host, counted):
        colorize(host, picture(), picture(seed=1), quick(guidance=1.0, passes=1))
        assert counted.rows_out == counted.rows_in == 3 * 2 + 2

    @pytest.mark.parametrize("precision", ["model", "float16"])
    @pytest.mark.parametrize(
        "attention, letters",  # kept a layer: (shallow, deep) of input, reference and gray reference
        [
            (DualAttentionSettings(), {"input": (2, 1), "reference": (2, 1), "gray": (1, 1)}),  # the paper's
            (DualAttentionSettings(0.5, 0.5, 0.5, 0.5), {"input": (2, 2), "reference": (2, 2), "gray": (1, 1)}),
        ],
    )
    def test_kept_bytes(self, host, attention, letters, precision):
        """Steps x layers x kept letters x tokens x channels x pictures x size of a number."""
        settings = quick(attention=attention, storage=StorageSettings(precision), passes=1, depth=3)
        images, reference = picture(2, 32, 48), picture(seed=1)
        result = colorize(host, images, reference, settings)
        size = 2 if precision == "float16" else 4
        latent = {"input": (6, 10, 2), "reference": (8, 8, 1), "gray": (8, 8, 1)}
        banks = {"input": result.source, "reference": result.reference.color, "gray": result.reference.gray}
        for role, inversion in banks.items():
            rows, columns, count = latent[role]
            assert inversion.size == (rows, columns), role
            shallow, deep = letters[role]
            a_step = 2 * shallow * rows * columns * 32 + 2 * deep * (rows // 2) * (columns // 2) * 64
            assert inversion.bank.nbytes == 3 * count * size * a_step, role

    def test_half_precision_features_give_nearly_the_same(self, host, base):
        half = colorize(host, picture(), picture(seed=1), quick(storage=StorageSettings("float16"))).images
        assert 0 < (base.images - half).abs().max() < 0.02


class TestSettings:
    def chroma(self, host, settings, **kwargs):
        return rgb_to_lab(colorize(host, picture(), picture(seed=1), settings, **kwargs).images)[..., 1:]

    @pytest.mark.parametrize(
        "change",
        [
            {"guidance": 5.0},
            {"passes": 1},
            {"depth": 3},
            {"steps": 20},
            {"convention": "official"},
            {"refinements": 2},
            {"match_latents": 0.0},
            {"match_chroma": 0.0},
            {"attention": dataclasses.replace(QUICK.attention, layers="fine")},
            {"resolution": 64},
            {"attention": dataclasses.replace(QUICK.attention, gamma_shallow=0.1)},
            {"attention": dataclasses.replace(QUICK.attention, mix="after softmax", beta_deep=0.9)},
        ],
        ids=lambda change: ", ".join(change),
    )
    def test_each_one_matters(self, host, base, change):
        plain, changed = rgb_to_lab(base.images)[..., 1:], self.chroma(host, quick(**change))
        assert (plain - changed).abs().max() > 0.02

    @pytest.mark.parametrize("name", ["gamma_shallow", "gamma_deep"])
    def test_no_gray_correspondence_in_some_layers(self, host, name):
        found = self.chroma(host, quick(attention=dataclasses.replace(QUICK.attention, **{name: 0.0})))
        assert bool(torch.isfinite(found).all())

    def test_no_gray_correspondence_at_all(self, host):
        """Plain key and value injection: neither the input nor the gray reference has to keep anything."""
        found = self.chroma(host, quick(attention=DualAttentionSettings(0.0, 0.0, 0.0, 0.0)))
        assert bool(torch.isfinite(found).all())

    def test_without_the_edit_guidance_has_nothing_to_do(self, host):
        off = [dataclasses.replace(QUICK.attention, strength=0.0), dataclasses.replace(QUICK.attention, start=1.0)]
        found = [self.chroma(host, quick(attention=a, guidance=w)) for a, w in zip(off, (1.0, 3.0), strict=True)]
        for other in found[1:]:
            torch.testing.assert_close(other, found[0], atol=0.02, rtol=0)

    def test_one_pass_does_not_invert_again(self, host, counted):
        colorize(host, picture(), picture(seed=1), quick(passes=1))
        assert counted.calls == 2 + 2

    def test_resolution_0_works_at_the_picture_s_own_size(self, host):
        result = colorize(host, picture(1, 45, 70), picture(1, 32, 24, seed=1), quick(resolution=0))
        assert result.latent.shape[-2:] == (11, 18)  # 44 x 72, the nearest multiples of the 4 pixels of a latent
        assert result.reference.color.size == (8, 6)
        assert result.images.shape == (1, 45, 70, 3)

    def test_official_postprocessing(self, host):
        pytest.importorskip("cv2")
        image, reference = picture(1, 40, 56), picture(1, 32, 24, seed=1)
        seen = []
        settings = quick(postprocess="official", convention="official")
        result = colorize(host, image, reference, settings, on_pass=lambda n, shown: seen.append((n, shown.shape)))
        size = (24, 40)  # the published program leaves the picture at working size
        assert result.images.shape == (1, *size, 3) and [s for _, s in seen] == [(1, *size, 3)] * 2
        levels = result.images * 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)  # 8-bit
        difference = luminance(result.images) - luminance(resize(image, size))
        assert difference.abs().median() < 2

    def test_refinements_bring_the_way_back_nearer(self, host):
        """The plain way back of the input's own inversion, without color."""
        from comfyui_exemplar.diffusion.inversion import round_trip_error

        errors = []
        for refinements in (0, 6):
            source = colorize(host, picture(), picture(seed=1), quick(passes=1, refinements=refinements)).source
            back = host.sample(source.noised(), source.plan, None, (), 1.0)
            errors.append(round_trip_error(source.trajectory[0], source.plan.to_clean(back)))
        assert errors[1] < 0.5 * errors[0], errors

    def test_on_pass_gets_every_pass(self, host):
        seen = []
        result = colorize(
            host, picture(1, 40, 56), picture(seed=1), quick(passes=3), on_pass=lambda n, shown: seen.append((n, shown))
        )
        assert [n for n, _ in seen] == [0, 1, 2]
        assert torch.equal(seen[-1][1], result.images)
        assert [tuple(shown.shape) for _, shown in seen] == [(1, 24, 40, 3)] * 2 + [(1, 40, 56, 3)]

    def test_an_exception_in_on_pass_leaves_the_model_as_it_was(self, host, base, model):
        processors = model.unet.attn_processors

        def stop(n, shown):
            raise InterruptedError("canceled")

        with pytest.raises(InterruptedError):
            colorize(host, picture(), picture(seed=1), QUICK, on_pass=stop)
        assert all(a is b for a, b in zip(processors.values(), model.unet.attn_processors.values(), strict=True))
        assert torch.equal(colorize(host, picture(), picture(seed=1), QUICK).images, base.images)

    def test_recommendations(self):
        model = {
            "depth": 15,
            "guidance": 3,
            "passes": 1,
            "gamma_shallow": 0.5,
            "gamma_deep": 1.0,
            "beta_shallow": 0.1,
            "beta_deep": 0.2,
            "match_latents": 0.0,
            "steps": 40,
            "resolution": 96,
            "unknown": 7,
        }
        assert ColorizeSettings.resolve(model, depth=7, beta_deep=0.3, passes=-1) == ColorizeSettings(
            depth=7,
            guidance=3,
            passes=1,
            match_latents=0.0,
            steps=40,
            resolution=96,
            attention=DualAttentionSettings(gamma_shallow=0.5, gamma_deep=1.0, beta_shallow=0.1, beta_deep=0.3),
        )
        assert ColorizeSettings.resolve({}) == ColorizeSettings()
