"""A second source of color where attention finds no match: the confidence, the share, and the whole flow."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.layers import Layer, LayerInfo
from comfyui_exemplar.color import chroma_of, luminance, rgb_to_lab
from comfyui_exemplar.diffusion.inversion import Inversion
from comfyui_exemplar.diffusion.schedule import inversion_plan
from comfyui_exemplar.pipelines import confidence
from comfyui_exemplar.pipelines.attention_map import attention_maps
from comfyui_exemplar.pipelines.confidence import SOFTNESS, blended_chroma, match_confidence, trust
from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings

COARSE, FINE = Layer("output", 0), Layer("output", 1)
INFOS = (LayerInfo(COARSE, 16, 1, 2), LayerInfo(FINE, 16, 1, 1))
PLAN = inversion_plan(torch.arange(1.0, 1001.0) / 100, 50, 2)

QUICK = ColorizeSettings(passes=1, depth=2, resolution=32, guidance=3.0, fallback_below=0.3)


def inversion(tokens, letters="qk", layers=(COARSE,), grid=(4, 4)):
    """Features (pictures, 16, 16) kept on a 4 x 4 grid."""
    bank = FeatureBank()
    for sigma in PLAN.kept_sigmas:
        for layer in layers:
            bank.put(sigma, layer, grid, **dict.fromkeys(letters, tokens))
    return Inversion(PLAN, torch.zeros(3, len(tokens), 4, 8, 8), bank, "tiny", INFOS)


def own_places(sharp):
    """A token each, which finds itself where ``sharp`` is set and nothing elsewhere: (16,) -> (1, 16, 16)."""
    return (20.0 * torch.eye(16) * sharp[:, None])[None]


HALF = (torch.arange(16) < 8).float()


class TestConfidence:
    def test_sure_where_there_is_a_match(self):
        sure = match_confidence(inversion(own_places(HALF)), inversion(own_places(torch.ones(16))))
        assert sure.shape == (1, 4, 4)
        assert sure[0, :2].min() > 0.99 and sure[0, 2:].max() < 0.01

    def test_every_picture_of_a_batch(self):
        both = torch.cat([own_places(HALF), own_places(1 - HALF)])
        target = inversion(own_places(torch.ones(16)))
        sure = match_confidence(inversion(both), target)
        assert sure[0, :2].min() > 0.99 and sure[1, :2].max() < 0.01
        for i in range(2):
            assert torch.equal(sure[i : i + 1], match_confidence(inversion(both[i : i + 1]), target))

    @pytest.mark.parametrize("most", [1, 5])
    def test_fewer_tokens_at_once_and_the_same_values(self, monkeypatch, most):
        source, target = inversion(own_places(HALF)), inversion(own_places(torch.ones(16)))
        expected, asked, original = match_confidence(source, target), [], confidence.confidence

        def short(q, k, heads, bias=None):
            asked.append(len(q))
            if len(q) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return original(q, k, heads, bias)

        monkeypatch.setattr(confidence, "confidence", short)
        torch.testing.assert_close(match_confidence(source, target), expected)
        assert max(asked) == 16 and asked[-1] <= most

    def test_the_same_as_the_attention_map_s(self):
        """So that a look at Attention Map tells which threshold to take."""
        torch.manual_seed(0)
        source, target = inversion(3 * torch.randn(1, 16, 16)), inversion(3 * torch.randn(1, 16, 16))
        picture = torch.rand(1, 4, 4, 3)
        shown = attention_maps(source, target, picture, picture).confidence
        torch.testing.assert_close(match_confidence(source, target), shown)

    def test_coarse_layers_match_things(self):
        tokens = own_places(HALF)
        both = inversion(tokens, layers=(COARSE, FINE))
        for sigma in PLAN.kept_sigmas:
            both.bank.put(sigma, FINE, (4, 4), q=torch.zeros(1, 16, 16))
        target = inversion(own_places(torch.ones(16)), layers=(COARSE, FINE))
        assert torch.equal(match_confidence(both, target), match_confidence(inversion(tokens), target))
        # without coarse ones, those that there are
        fine = inversion(tokens, layers=(FINE,))
        assert match_confidence(fine, target)[0, :2].min() > 0.99

    def test_outside_of_the_reference_mask_nothing_matches(self):
        mask = torch.zeros(1, 4, 4)
        mask[:, :1] = 1  # the first four tokens
        source, target = inversion(own_places(torch.ones(16))), inversion(own_places(torch.ones(16)))
        sure = match_confidence(source, target, mask)
        assert sure[0, :1].min() > 0.99 and sure[0, 1:].max() < 0.01

    def test_nothing_kept(self):
        with pytest.raises(ValueError, match="found none of them"):
            match_confidence(inversion(own_places(HALF), "k"), inversion(own_places(HALF)))


def test_trust_rises_to_the_threshold():
    sure = torch.tensor([0.0, 0.4 * (1 - SOFTNESS), 0.35, 0.4, 1.0])
    share = trust(sure, 0.4)
    assert share[:2].tolist() == [0, 0] and share[3:].tolist() == [1, 1] and 0.3 < share[2] < 0.7
    assert trust(sure, 0.0).tolist() == [1] * 5
    assert bool((trust(torch.linspace(0, 1, 50), 0.4).diff() >= 0).all())


def test_blended_chroma():
    color, fallback = (0.45 + 0.1 * torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    share = torch.zeros(1, 8, 8)
    share[:, :4] = 1
    share[:, 7] = 0.25
    found = blended_chroma(color, fallback, share)
    ours, theirs = chroma_of(color), chroma_of(fallback)
    torch.testing.assert_close(found[:, :4], ours[:, :4])
    torch.testing.assert_close(found[:, 4:7], theirs[:, 4:7])
    torch.testing.assert_close(found[:, 7], theirs[:, 7] + 0.25 * (ours - theirs)[:, 7])


def picture(batch=1, height=32, width=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(batch, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(rough, size=(height, width), mode="bilinear")
    return (0.3 + 0.4 * smooth).movedim(1, -1)


def purple(image):
    """A fallback of one color, so that it can be told where it came in."""
    return (image.mean(-1, keepdim=True) * torch.tensor([1.1, 0.9, 1.1])).clamp(0, 1)


class TestFlow:
    @pytest.mark.parametrize("fallback", [None, purple(picture())])
    def test_off_is_bit_for_bit_what_it_was(self, host, fallback):
        off = dataclasses.replace(QUICK, fallback_below=0.0)
        plain = colorize(host, picture(), picture(seed=1), off)
        found = colorize(host, picture(), picture(seed=1), off, fallback=fallback)
        assert torch.equal(found.images, plain.images) and found.from_reference is None

    def test_without_a_fallback_the_threshold_means_nothing(self, host):
        off = dataclasses.replace(QUICK, fallback_below=0.0)
        found = colorize(host, picture(), picture(seed=1), QUICK)
        assert torch.equal(found.images, colorize(host, picture(), picture(seed=1), off).images)

    def test_nothing_is_sure_enough(self, host):
        """At 1 a random model trusts nothing, so the colors are the fallback's, on the input's own lightness."""
        image = picture(height=48)
        never = dataclasses.replace(QUICK, fallback_below=1.0)
        result = colorize(host, image, picture(seed=1), never, fallback=purple(image))
        assert float(result.from_reference.max()) < 0.01
        torch.testing.assert_close(
            rgb_to_lab(result.images)[..., 1:], rgb_to_lab(purple(image))[..., 1:], atol=3, rtol=0
        )
        assert (luminance(result.images) - luminance(image)).abs().max() < 0.01

    def test_between(self, host):
        """A threshold in the middle of what this model's confidence is: some of each."""
        image, reference = picture(), picture(seed=1)
        plain = colorize(host, image, reference, QUICK)
        sure = match_confidence(plain.source, plain.reference.gray)
        settings = dataclasses.replace(QUICK, fallback_below=float(sure.median()))
        result = colorize(host, image, reference, settings, fallback=purple(image))
        assert torch.equal(result.from_reference, trust(sure, settings.fallback_below))
        assert result.from_reference.min() < 0.9 < result.from_reference.max()
        assert (result.images - plain.images).abs().max() > 0.01

    def test_batches_and_prepared_references(self, host):
        images, reference = picture(2), picture(seed=1)
        settings = dataclasses.replace(QUICK, match_chroma=0.0, fallback_below=0.05)
        whole = colorize(host, images, reference, settings, fallback=purple(images))
        again = colorize(host, images[1:], None, settings, prepared=whole.reference, fallback=purple(images)[1:])
        torch.testing.assert_close(again.images, whole.images[1:], atol=1e-4, rtol=0)
        torch.testing.assert_close(again.from_reference, whole.from_reference[1:], atol=1e-3, rtol=0)

    @pytest.mark.parametrize(
        "change, fallback, match",
        [
            ({}, picture(3), r"fallback: found 3 for 2 picture"),
            ({}, picture(2)[:0], "fallback: found an empty batch"),
            ({"postprocess": "official"}, picture(2), "expected exact beside a fallback"),
        ],
    )
    def test_refusals(self, host, counted, change, fallback, match):
        with pytest.raises(ValueError, match=match):
            colorize(host, picture(2), picture(seed=1), dataclasses.replace(QUICK, **change), fallback=fallback)
        assert counted.calls == 0

    def test_a_threshold_out_of_range(self):
        with pytest.raises(ValueError, match=r"fallback_below is 1.5; it must lie between 0 and 1"):
            dataclasses.replace(QUICK, fallback_below=1.5)
