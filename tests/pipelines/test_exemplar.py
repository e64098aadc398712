"""The whole flow on a tiny random model: what must hold whatever the colors turn out to be."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.capture import StorageSettings
from comfyui_exemplar.attention.dual import DualAttentionSettings
from comfyui_exemplar.color import desaturate, drop_alpha, luminance, resize, rgb_to_lab
from comfyui_exemplar.color.sizes import working_size
from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings

#: Small and quick; every term of the attention takes part.
QUICK = ColorizeSettings(
    passes=2,
    depth=2,
    resolution=32,
    guidance=3.0,
    attention=DualAttentionSettings(gamma_deep=0.7, beta_deep=0.2),
)


def picture(batch=1, height=32, width=32, channels=3, seed=0):
    """Smooth shapes away from black and white, with some grain."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(batch, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(rough, size=(height, width), mode="bilinear")
    grain = torch.rand(batch, channels, height, width, generator=generator)
    return (0.15 + 0.6 * smooth + 0.1 * grain).movedim(1, -1)


def muted(batch=1, seed=1):
    """A reference of so little color that no luminance of our pictures is too dark or too light for it.

    Colors beyond sRGB are pulled in by bisection, whose steps of 2^-14 hide how near two results really are.
    """
    return 0.5 + 0.15 * (picture(batch, seed=seed) - 0.5)


def quick(**changes):
    return dataclasses.replace(QUICK, **changes)


@pytest.fixture(scope="module")
def base(host):
    """The quick run that others are compared with."""
    return colorize(host, picture(), picture(seed=1), QUICK)


class TestShapesAndLuminance:
    @pytest.mark.parametrize(
        "size, reference_size",
        [
            ((32, 32), (32, 32)),
            ((48, 24), (24, 48)),
            ((33, 57), (41, 19)),  # odd
            ((70, 64), (32, 32)),  # larger than the model works at
            ((7, 5), (32, 32)),  # smaller
            ((2, 40), (32, 32)),  # thin
            ((40, 2), (2, 2)),
        ],
    )
    def test_the_result_has_the_input_s_own_size_and_luminance(self, host, size, reference_size):
        image, reference = picture(1, *size), picture(1, *reference_size, seed=1)
        result = colorize(host, image, reference, QUICK)
        assert result.images.shape == image.shape and result.images.dtype == image.dtype
        assert result.images.min() >= 0 and result.images.max() <= 1
        difference = (luminance(result.images) - luminance(image)).abs().max().item()
        assert difference < 0.01, f"CIE L differs by up to {difference} of 100"
        chroma = rgb_to_lab(result.images)[..., 1:].norm(dim=-1).mean().item()
        assert chroma > 1, f"mean chroma {chroma}: nothing was colored"

    def test_dark_and_light_ends_too(self, host):
        image = torch.linspace(0, 1, 32)[None, None, :, None].repeat(1, 32, 1, 3)
        result = colorize(host, image, picture(seed=1), QUICK)
        assert (luminance(result.images) - luminance(image)).abs().max() < 0.05

    def test_only_luminance_of_the_input_is_used(self, host):
        image, reference = picture(), picture(seed=1)
        colored, gray = (colorize(host, x, reference, QUICK).images for x in (image, desaturate(image)))
        torch.testing.assert_close(colored, gray, atol=2e-3, rtol=0)

    def test_a_reference_without_color_gives_a_picture_without_color(self, host):
        result = colorize(host, picture(), desaturate(picture(seed=1)), QUICK)
        assert rgb_to_lab(result.images)[..., 1:].abs().max() < 1.0

    def test_matched_chroma_has_the_reference_s_statistics(self, host):
        """Mean and deviation of (a, b), where no color had to be pulled into sRGB."""
        image, reference = picture(), 0.5 + 0.2 * (picture(seed=1) - 0.5)
        ours, theirs = (
            rgb_to_lab(x)[..., 1:].flatten(0, 2) for x in (colorize(host, image, reference, QUICK).images, reference)
        )
        torch.testing.assert_close(ours.mean(0), theirs.mean(0), atol=0.1, rtol=0)
        torch.testing.assert_close(ours.std(0), theirs.std(0), atol=0.3, rtol=0)

    def test_alpha_is_laid_on_white(self, host):
        image, reference = picture(channels=4), picture(channels=4, seed=1)
        result = colorize(host, image, reference, QUICK).images
        assert result.shape[-1] == 3
        assert torch.equal(result, colorize(host, drop_alpha(image), drop_alpha(reference), QUICK).images)

    def test_one_channel(self, host):
        image = picture(channels=1)
        result = colorize(host, image, picture(seed=1), QUICK).images
        assert torch.equal(result, colorize(host, image.repeat(1, 1, 1, 3), picture(seed=1), QUICK).images)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
    def test_other_dtypes_come_back_as_they_were(self, host, base, dtype):
        result = colorize(host, picture().to(dtype), picture(seed=1).to(dtype), QUICK).images
        assert result.dtype == dtype
        torch.testing.assert_close(result.float(), base.images, atol=0.02, rtol=0)

    def test_pictures_are_left_alone_and_runs_repeat_bit_for_bit(self, host, base):
        image, reference = picture(), picture(seed=1)
        assert torch.equal(colorize(host, image, reference, QUICK).images, base.images)
        assert torch.equal(image, picture()) and torch.equal(reference, picture(seed=1))


class TestBatches:
    @pytest.mark.parametrize("references, size", [(1, (24, 40)), (3, (32, 32))])
    def test_a_batch_equals_its_pictures_one_by_one(self, host, references, size):
        images, reference = picture(3, *size), muted(references)
        whole = colorize(host, images, reference, QUICK).images
        for i in range(3):
            alone = colorize(host, images[i : i + 1], reference[i % references][None], QUICK).images
            difference = (whole[i : i + 1] - alone).abs().max().item()
            assert difference < 1e-4, f"picture {i} differs by {difference}"
        assert (whole[0] - whole[1]).abs().max() > 0.01

    def test_each_input_listens_to_its_own_reference(self, host):
        images, reference = picture(1).repeat(2, 1, 1, 1), picture(2, seed=1)
        result = colorize(host, images, reference, QUICK).images
        assert (rgb_to_lab(result[:1]) - rgb_to_lab(result[1:])).abs().mean() > 1


class TestPrepared:
    @pytest.mark.parametrize("references", [1, 2])
    def test_the_same_as_fresh(self, host, references):
        images, reference = picture(2), muted(references)
        fresh = colorize(host, images, reference, QUICK)
        again = colorize(host, images, reference, QUICK, prepared=fresh.reference)
        torch.testing.assert_close(again.images, fresh.images, atol=1e-4, rtol=0)
        assert again.reference is fresh.reference

    def test_another_input_of_another_size(self, host):
        reference = muted()
        ready = colorize(host, picture(), reference, QUICK).reference
        other = picture(1, 24, 56, seed=2)
        fresh, again = (colorize(host, other, reference, QUICK, prepared=p).images for p in (None, ready))
        torch.testing.assert_close(again, fresh, atol=1e-4, rtol=0)

    def test_without_the_picture_when_nothing_asks_for_its_statistics(self, host):
        settings = quick(match_chroma=0.0)
        fresh = colorize(host, picture(), picture(seed=1), settings)
        again = colorize(host, picture(), None, settings, prepared=fresh.reference)
        torch.testing.assert_close(again.images, fresh.images, atol=1e-4, rtol=0)

    def test_use_does_not_change_it(self, host, base):
        ready = base.reference
        before = [tensor.clone() for part in (ready.color, ready.gray) for *_, tensor in part.bank.items()]
        colorize(host, picture(seed=5), picture(seed=1), QUICK, prepared=ready)
        after = [tensor for part in (ready.color, ready.gray) for *_, tensor in part.bank.items()]
        assert before and all(map(torch.equal, before, after))


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


class TestMasks:
    def test_color_only_where_the_source_mask_is(self, host):
        mask = torch.zeros(1, 32, 32)
        mask[:, :, 16:] = 1
        image = picture()
        found = rgb_to_lab(colorize(host, image, picture(seed=1), QUICK, source_mask=mask).images)[..., 1:]
        assert found[:, :, :16].abs().max() < 0.5 and found[:, :, 16:].norm(dim=-1).mean() > 1

    def test_a_mask_a_picture(self, host):
        masks = torch.stack([torch.ones(32, 32), torch.zeros(32, 32)])
        found = rgb_to_lab(colorize(host, picture(2), picture(seed=1), QUICK, source_mask=masks).images)[..., 1:]
        assert found[0].norm(dim=-1).mean() > 1 and found[1].abs().max() < 0.5

    def test_the_reference_mask_changes_where_color_comes_from(self, host, base):
        mask = torch.zeros(1, 32, 32)
        mask[:, :8, :8] = 1
        part, full = (
            colorize(host, picture(), picture(seed=1), QUICK, reference_mask=m).images
            for m in (mask, torch.ones(1, 32, 32))
        )
        assert torch.equal(base.images, full) and (base.images - part).abs().max() > 0.005


def nan_in(image):
    broken = image.clone()
    broken[0, 3, 3, 1] = float("nan")
    return broken


class TestRefusals:
    """Everything that cannot work is said before the model runs."""

    @pytest.mark.parametrize(
        "image, reference, message",
        [
            (nan_in(picture()), picture(), "input: found NaN"),
            (picture(), nan_in(picture()), "reference: found NaN"),
            (picture() / 0, picture(), "input: found NaN"),
            (picture()[:0], picture(), "input: found an empty batch"),
            (picture(), picture()[:0], "reference: found an empty batch"),
            (picture()[0], picture(), r"input: found a tensor of shape \(32, 32, 3\)"),
            (picture()[:, :0], picture(), "input: found an empty picture"),
            (picture(1, 1, 1), picture(), "found 1 x 1 pixels, expected at least 2"),
            (picture(1, 40, 1), picture(), "found 1 x 40 pixels, expected at least 2"),
            (picture(), picture(1, 1, 1), "found 1 x 1 pixels, expected at least 2"),
            (picture(channels=2), picture(), "2 channels"),
            (picture(channels=5), picture(), "5 channels"),
            ((picture() * 255).to(torch.uint8), picture(), "uint8"),
            (picture(2), picture(3), r"2 input\(s\) and 3 reference\(s\)"),
            (picture(1), picture(2), r"1 input\(s\) and 2 reference\(s\)"),
            (picture(), None, "There is no reference"),
        ],
    )
    def test_pictures(self, host, counted, image, reference, message):
        with pytest.raises(ValueError, match=message):
            colorize(host, image, reference, QUICK)
        assert counted.calls == 0

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"depth": 51}, "depth is 51"),
            ({"depth": 0}, "depth is 0"),
            ({"steps": 0}, "steps is 0"),
            ({"convention": "mine"}, "convention is 'mine'"),
            ({"attention": DualAttentionSettings(layers="outputs")}, "'outputs' names no layers"),
            ({"attention": DualAttentionSettings(layers="output.9")}, "'output.9' matches no attention layer"),
        ],
    )
    def test_settings_that_do_not_fit_the_model(self, host, counted, change, message):
        with pytest.raises(ValueError, match=message):
            colorize(host, picture(), picture(seed=1), quick(**change))
        assert counted.calls == 0

    def test_refinements_of_the_official_convention(self, host, counted):
        with pytest.raises(ValueError, match="read at the upper level"):
            colorize(host, picture(), picture(seed=1), quick(convention="official", refinements=1))
        assert counted.calls == 0

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"passes": 0}, "passes is 0"),
            ({"postprocess": "none"}, "postprocess is 'none'; expected one of exact, official"),
        ],
    )
    def test_settings_by_themselves(self, change, message):
        with pytest.raises(ValueError, match=message):
            quick(**change)

    def test_prepared_references_that_do_not_fit(self, host, counted):
        ready = colorize(host, picture(2), picture(2, seed=1), QUICK).reference
        counted.calls = 0
        other = dataclasses.replace(ready, gray=dataclasses.replace(ready.gray, model="other"))
        cases = [
            (quick(match_chroma=0.0), picture(3), ready, r"3 input\(s\) and 2 reference\(s\)"),
            (quick(match_chroma=0.0), picture(2), other, r"made with another model \(other; this one is tiny\)"),
            (quick(match_chroma=0.0, depth=3), picture(2), ready, "2 of 50 steps deep.*asks for 3 of 50"),
            (quick(match_chroma=0.0, convention="official"), picture(2), ready, r"\(consistent\).*\(official\)"),
            (QUICK, picture(2), ready, "Matching chroma statistics needs the reference picture"),
            (quick(match_chroma=0.0, postprocess="official"), picture(2), ready, "needs the reference picture"),
        ]
        for settings, images, prepared, message in cases:
            with pytest.raises(ValueError, match=message):
                colorize(host, images, None, settings, prepared=prepared)
        assert counted.calls == 0

    def test_empty_reference_mask(self, host, counted):
        with pytest.raises(ValueError, match="reference mask is empty"):
            colorize(host, picture(), picture(seed=1), QUICK, reference_mask=torch.zeros(1, 32, 32))
        assert counted.calls == 0

    def test_reference_masks_of_different_extent(self, host):
        """Each row looks at what its own mask leaves, however many tokens that is."""
        masks = torch.zeros(2, 32, 32)
        masks[0, :8], masks[1, :16] = 1, 1
        together = colorize(host, picture(2), picture(2, seed=1), QUICK, reference_mask=masks).latent
        for i in range(2):
            alone = colorize(
                host, picture(2)[i : i + 1], picture(2, seed=1)[i : i + 1], QUICK, reference_mask=masks[i : i + 1]
            ).latent
            torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=0)

    @pytest.mark.parametrize("name", ["source_mask", "reference_mask"])
    def test_masks_of_another_number(self, host, counted, name):
        with pytest.raises(ValueError):
            colorize(host, picture(3), picture(3, seed=1), QUICK, **{name: torch.ones(2, 32, 32)})
        assert counted.calls == 0

    def test_a_prepared_reference_that_kept_too_little(self, host, counted):
        """Made for γ = 1, which needs no keys of the reference; asked for γ = 0.5."""
        only_values = DualAttentionSettings(gamma_shallow=1.0, gamma_deep=1.0)
        ready = colorize(host, picture(), picture(seed=1), quick(attention=only_values)).reference
        counted.calls = 0
        with pytest.raises((ValueError, LookupError), match=r"did not keep 'k.*' of output"):
            colorize(host, picture(), picture(seed=1), QUICK, prepared=ready)
        assert counted.calls == 0


class TestSizes:
    @pytest.mark.parametrize(
        "size, resolution, expected",
        [
            ((512, 512), 512, (512, 512)),
            ((1024, 512), 512, (728, 360)),  # the same area: 724 x 362
            ((100, 400), 64, (32, 128)),
            ((2, 4000), 64, (8, 2864)),  # no side below the minimum
            ((45, 70), 0, (44, 72)),  # own size, rounded to what a latent covers
            ((3, 3), 0, (8, 8)),
        ],
    )
    def test_area_of_the_square_in_the_picture_s_aspect_ratio(self, size, resolution, expected):
        assert working_size(*size, resolution, 8, 4) == expected

    def test_resize_stays_in_range_and_keeps_what_fits(self):
        image = (picture() > 0.5).float()
        assert resize(image, (32, 32)) is image
        small = resize(image, (11, 70))
        assert small.shape == (1, 11, 70, 3) and small.min() >= 0 and small.max() <= 1
        flat = torch.full((1, 9, 7, 3), 0.3)
        torch.testing.assert_close(resize(flat, (20, 5)), torch.full((1, 20, 5, 3), 0.3))
