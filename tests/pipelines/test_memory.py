"""Coloring by a memory, start to end, on a tiny random model: one model call a picture, and what each part does."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.color import desaturate, luminance_error, merge_chroma, rgb_to_lab
from comfyui_exemplar.memory.features import joined_keys, joined_queries
from comfyui_exemplar.memory.keys import Keys
from comfyui_exemplar.memory.lookup import look_up
from comfyui_exemplar.pipelines.memory import (
    color_by_memory,
    color_in_batches,
    confidence,
    write_palette,
    write_references,
    write_strokes,
)
from comfyui_exemplar.pipelines.memory_features import ModelFeatures
from comfyui_exemplar.pipelines.memory_settings import FeatureSettings, MemorySettings, WritingSettings
from comfyui_exemplar.pipelines.recommended import SYSTEMS
from comfyui_exemplar.settings import entries

from ..fixtures.exemplar import muted, picture

FEATURES = FeatureSettings(resolution=32, context=0.5)
WRITING = WritingSettings(FEATURES, keys="float32")
ASKING = MemorySettings(FEATURES, coherence=0.0)


@pytest.fixture
def network(host):
    return ModelFeatures(host, FEATURES)


@pytest.fixture
def memory(network):
    return write_references(network, muted(), WRITING)


def asking(**changes):
    return dataclasses.replace(ASKING, **changes)


def chroma(pictures):
    return rgb_to_lab(pictures)[..., 1:]


def test_the_layers_are_one_coarse_and_two_fine(network):
    assert [space.name for space in network.spaces] == ["output.1", "output.2", "output.3"]
    assert [space.fine for space in network.spaces] == [False, True, True]
    assert all(space.level == pytest.approx(float(network.host.sigma_table[1])) for space in network.spaces)


def test_features_are_what_an_inversion_keeps_at_its_lowest_level(host, network):
    from comfyui_exemplar.attention.capture import Capture, CaptureSpec, CaptureTarget
    from comfyui_exemplar.diffusion.schedule import inversion_plan

    gray = desaturate(picture(2))
    found = network.features(gray)
    plan = inversion_plan(host.sigma_table, 20, 1)
    layers = [info.layer for info in host.layers if info.layer.name in ("output.1", "output.2", "output.3")]
    target = CaptureTarget(CaptureSpec(dict.fromkeys(layers, "qk")))
    host.invert(host.encode(gray), plan, Capture([target], plan.kept_sigmas))
    for i, layer in enumerate(layers):
        for letter, side in (("q", found.queries), ("k", found.keys)):
            kept = target.bank.get(plan.kept_sigmas[0], layer, letter)
            torch.testing.assert_close(side[i], kept, rtol=1e-5, atol=1e-6)


def test_one_row_a_picture(network, memory, counted):
    color_by_memory(network, picture(3), memory, ASKING)
    assert (counted.calls, counted.rows_in) == (1, 3)
    write_references(network, picture(2), WRITING)
    assert (counted.calls, counted.rows_in) == (2, 5)
    assert counted.rows_out == 0, "the network ends with the last layer that is read"


def test_a_picture_takes_its_own_colors_back(network):
    """With a cold lookup every place finds itself: features are queries of one and keys of the same picture."""
    truth = muted()
    features = network.features(desaturate(truth))
    alike = dataclasses.replace(features, queries=features.keys)
    unit = [k / k.norm(dim=-1, keepdim=True) for k in alike.keys]
    itself = dataclasses.replace(alike, queries=tuple(unit), keys=tuple(unit))

    class Itself:
        fingerprint, name, spaces = network.fingerprint, network.name, network.spaces

        @staticmethod
        def features(_pictures):
            return itself

    plain = dataclasses.replace(FEATURES, context=0.0)
    memory = write_references(Itself, truth, dataclasses.replace(WRITING, features=plain))
    cold = asking(features=plain, temperature_coarse=0.05, temperature_fine=0.05, top=1)
    result = color_by_memory(Itself, desaturate(truth), memory, cold)
    off = (chroma(result.images) - chroma(truth)).norm(dim=-1)
    assert off.mean() < 0.3 * chroma(truth).norm(dim=-1).mean()  # 8 x 8 places of 32 x 32 pixels
    assert result.confidence.min() == 1  # one match has no spread


def test_lightness_is_the_input_s(network, memory):
    inputs = picture(2, 40, 56)
    result = color_by_memory(network, inputs, memory, ASKING)
    assert result.images.shape == inputs.shape and result.confidence.shape == (2, 40, 56)
    assert luminance_error(result.images, desaturate(inputs)).max() < 0.05
    assert chroma(result.images).norm(dim=-1).mean() > 0.5


def test_each_picture_of_a_batch_as_if_alone(network, memory):
    inputs = picture(3)
    together = color_by_memory(network, inputs, memory, ASKING)
    for i in range(3):
        alone = color_by_memory(network, inputs[i : i + 1], memory, ASKING)
        torch.testing.assert_close(together.images[i], alone.images[0], rtol=0, atol=1e-4)
    batches = list(color_in_batches(network, inputs, memory, asking(batch=2), lambda error: False))
    assert [len(b.images) for b in batches] == [2, 1]
    torch.testing.assert_close(torch.cat([b.images for b in batches]), together.images, rtol=0, atol=1e-4)


def test_with_its_features_a_changed_memory_needs_no_model_call(network, memory, counted):
    inputs = picture()
    first = color_by_memory(network, inputs, memory, ASKING)
    other = memory.merged(write_references(network, muted(seed=9), WRITING))
    calls = counted.calls
    again = color_by_memory(network, inputs, other, ASKING, features=first.features)
    assert counted.calls == calls
    assert torch.equal(again.images, color_by_memory(network, inputs, other, ASKING).images)


def test_references_of_one_batch_are_merged_single_ones(network):
    references = muted(2)
    both = write_references(network, references, WRITING, weights=(1.0, 2.0), names=("a", "b"))
    parts = [
        write_references(network, references[i : i + 1], WRITING, weights=(w,), names=(n,))
        for i, w, n in ((0, 1.0, "a"), (1, 2.0, "b"))
    ]
    merged = parts[0].merged(parts[1])
    assert merged.sources == both.sources
    torch.testing.assert_close(merged.keys.floats(), both.keys.floats(), rtol=1e-4, atol=1e-5)
    assert torch.equal(merged.chroma, both.chroma) and torch.equal(merged.weight, both.weight)


def test_source_says_which_reference(network):
    red, blue = (0.5 + 0.2 * torch.tensor(c).expand(1, 32, 32, 3) * picture() for c in ([1.0, 0, 0], [0, 0, 1.0]))
    memory = write_references(network, red, WRITING, weights=(1e-4,)).merged(write_references(network, blue, WRITING))
    result = color_by_memory(network, picture(), memory, ASKING)
    assert (result.source == 1).all()
    torch.testing.assert_close(
        result.images,
        color_by_memory(network, picture(), write_references(network, blue, WRITING), ASKING).images,
        rtol=0,
        atol=0.01,
    )


def test_a_mask_of_the_reference_is_as_if_there_were_nothing_else(network):
    reference = muted()
    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1
    other = reference.clone()
    other[:, 16:] = other[:, 16:].flip(-1)  # other colors where the mask is not
    kept = [
        color_by_memory(network, picture(), write_references(network, r, WRITING, masks=mask), ASKING)
        for r in (reference, other)
    ]
    # its lightness changes a little, and the network sees that
    assert (chroma(kept[0].images) - chroma(kept[1].images)).norm(dim=-1).mean() < 1.0
    assert len(write_references(network, reference, WRITING, masks=mask)) == 32


@pytest.mark.parametrize("setting", ["temperature_coarse", "temperature_fine"])
def test_a_cold_lookup_is_surer_than_a_warm_one(network, memory, setting):
    spreads = [
        float(color_by_memory(network, picture(), memory, asking(**{setting: t})).confidence.mean())
        for t in (0.05, 20.0)
    ]
    assert spreads[0] > spreads[1]


def test_coherence_is_the_share_of_the_picture_s_own_attention(network, memory):
    plain, half, full = (color_by_memory(network, muted(seed=3), memory, asking(coherence=c)) for c in (0.0, 0.5, 1.0))
    features = plain.features
    queries = joined_queries(features, context=0.5)[0]
    p = (queries @ joined_keys(features, 0.5)[0].T).softmax(-1)
    found = look_up(queries, memory).chroma
    for share, result in ((0.5, half), (1.0, full)):
        chroma = torch.lerp(found, p @ found, share).view(1, *features.grid, 2)
        expected = merge_chroma(chroma, desaturate(muted(seed=3)))
        torch.testing.assert_close(result.images, expected, rtol=0, atol=2e-3)
    assert torch.equal(plain.confidence, full.confidence)


def test_agreement_is_neutral_at_zero_and_tells_above_it(network, memory):
    both = write_references(network, picture(2), WRITING)
    plain, zero, changed = (
        color_by_memory(network, muted(seed=3), both, asking(**kw)).images
        for kw in ({}, {"agreement": 0.0}, {"agreement": 5.0})
    )
    assert torch.equal(plain, zero)
    assert bool(changed.isfinite().all()) and not torch.equal(changed, plain)


def test_one_source_has_none_to_agree_with(network, memory):
    plain, agreed = (color_by_memory(network, muted(seed=3), memory, asking(agreement=a)) for a in (0.0, 20.0))
    assert torch.equal(plain.images, agreed.images)


def test_saturation_is_a_factor_and_zero_is_gray(network, memory):
    plain, half, none = (
        color_by_memory(network, muted(seed=3), memory, asking(saturation=s)).images for s in (1.0, 0.5, 0.0)
    )
    torch.testing.assert_close(chroma(half), 0.5 * chroma(plain), rtol=0, atol=0.02)
    torch.testing.assert_close(none, desaturate(muted(seed=3)), rtol=0, atol=1e-4)


def test_a_mask_says_where_color_may_go(network, memory):
    mask = torch.zeros(1, 32, 32)
    mask[:, :, 16:] = 1
    plain = color_by_memory(network, picture(), memory, ASKING).images
    masked = color_by_memory(network, picture(), memory, ASKING, mask=mask).images
    torch.testing.assert_close(masked[:, :, 16:], plain[:, :, 16:])
    torch.testing.assert_close(masked[:, :, :16], desaturate(picture())[:, :, :16], rtol=0, atol=1e-4)


def test_the_fallback_steps_in_where_the_memory_is_not_sure(network, memory):
    inputs, other = muted(seed=3), muted(seed=4)
    plain = color_by_memory(network, inputs, memory, ASKING).images
    never = color_by_memory(network, inputs, memory, asking(fallback_below=0.0), fallback=other).images
    assert torch.equal(never, plain)
    palette_only = write_palette(torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(0)))
    always = color_by_memory(network, inputs, palette_only, ASKING, fallback=other)
    torch.testing.assert_close(chroma(always.images), chroma(other), rtol=0, atol=0.1)
    assert always.confidence.max() == 0 and (always.source == -1).all()


def test_confidence_falls_with_spread():
    torch.testing.assert_close(confidence(torch.tensor([0.0, 20.0, 60.0])), torch.tensor([1.0, 0.5, 0.1]))


def painted(gray):
    marks = gray.clone()
    marks[:, 4:9, 4:9] = torch.tensor([0.6, 0.4, 0.4])
    return marks


def test_a_stroke_holds_on_its_own_picture(network, memory):
    gray = desaturate(muted(seed=5))
    marks = painted(gray)
    strokes = write_strokes(network, gray, marks, WRITING)
    result = color_by_memory(network, gray, memory.merged(strokes), ASKING)
    wanted = chroma(marks)[:, 4:9, 4:9]
    assert (chroma(result.images)[:, 4:9, 4:9] - wanted).norm(dim=-1).max() < 0.5
    assert (result.source[:, 4:9, 4:9] == 1).all() and (result.confidence[:, 4:9, 4:9] == 1).all()
    by_mask = torch.zeros(1, 32, 32)
    by_mask[:, 4:9, 4:9] = 1
    again = write_strokes(network, gray, marks, WRITING, mask=by_mask)
    assert torch.equal(again.marks[0].place, strokes.marks[0].place) and torch.equal(again.chroma, strokes.chroma)


def test_without_reach_a_stroke_changes_nothing_else(network, memory):
    gray = desaturate(muted(seed=5))
    both = memory.merged(write_strokes(network, gray, painted(gray), WRITING))
    plain, marked = (color_by_memory(network, gray, m, asking(reach=0.0)).images for m in (memory, both))
    changed = (plain - marked).abs().amax(-1)[0] > 1e-4
    assert changed[4:9, 4:9].all() and changed.sum() == 25


def test_strokes_alone_leave_the_rest_gray_and_are_entries_elsewhere(network):
    gray = desaturate(muted(seed=5))
    strokes = write_strokes(network, gray, painted(gray), WRITING)
    alone = color_by_memory(network, gray, strokes, asking(reach=0.0)).images
    outside = chroma(alone).norm(dim=-1)[0].clone()
    outside[4:9, 4:9] = 0
    assert outside.max() < 0.05
    elsewhere = color_by_memory(network, desaturate(muted(seed=6)), strokes, ASKING)
    assert chroma(elsewhere.images).norm(dim=-1).min() > 5 and (elsewhere.source == 0).all()


def test_a_palette_bounds_every_pixel(network, memory):
    colors = torch.tensor([[0.6, 0.45, 0.4], [0.55, 0.5, 0.42]])[None, None]
    both = memory.merged(write_palette(colors))
    found = chroma(color_by_memory(network, muted(seed=3), both, ASKING).images)
    ends = chroma(colors)[0, 0]
    side = ends[1] - ends[0]
    along = ((found - ends[0]) @ side / side.square().sum()).clamp(0, 1)
    assert (found - (ends[0] + along[..., None] * side)).norm(dim=-1).max() < 0.05


def test_recommendations_of_a_file_are_judged(network):
    names = {name for settings in SYSTEMS["memory"] for name in entries(settings)}
    assert {"layers", "timestep", "context", "temperature_coarse", "temperature_fine", "resolution", "keys"} <= names
    assert MemorySettings.resolve({"timestep": 5, "temperature_fine": 0.8}).features.timestep == 5


def test_neutral_precision(network):
    memory = write_references(network, muted(), WRITING)
    assert isinstance(memory.keys, Keys) and memory.keys.precision == "float32"
    small = write_references(network, muted(), dataclasses.replace(WRITING, keys="int8"))
    plain, rounded = (color_by_memory(network, picture(), m, ASKING).images for m in (memory, small))
    assert (chroma(plain) - chroma(rounded)).norm(dim=-1).mean() < 0.2


def test_temperatures_are_those_of_the_queries(network):
    features = network.features(desaturate(picture()))
    warm = joined_queries(features, 4.0, 2.0)
    plain = joined_queries(features)
    width = network.spaces[0].width
    torch.testing.assert_close(warm[..., :width], plain[..., :width] / 4)
    torch.testing.assert_close(warm[..., width:], plain[..., width:] / 2)


class TestRefused:
    def test_a_memory_of_another_model(self, host, network, memory):
        foreign = dataclasses.replace(memory, made=dataclasses.replace(memory.made, fingerprint="abc", name="that"))
        with pytest.raises(ValueError, match=r"memory of the model that \(abc\), expected one of tiny"):
            color_by_memory(network, picture(), foreign, ASKING)

    def test_the_message_names_both(self, host, network, memory):
        named = ModelFeatures(host, FEATURES, "mine")
        assert write_references(named, muted(), WRITING).made.name == "mine"
        foreign = dataclasses.replace(memory, made=dataclasses.replace(memory.made, fingerprint="abc", name="that"))
        with pytest.raises(ValueError, match=r"model that \(abc\), expected one of mine \(tiny"):
            color_by_memory(named, picture(), foreign, ASKING)

    def test_other_layers_level_or_context(self, host, memory):
        for other in (FeatureSettings("fine"), FeatureSettings(timestep=5), dataclasses.replace(FEATURES, context=0.0)):
            with pytest.raises(ValueError, match=r"found keys of .* expected .*write it again"):
                color_by_memory(ModelFeatures(host, other), picture(), memory, MemorySettings(other))

    def test_a_timestep_that_the_model_lacks(self, host):
        short = dataclasses.replace(FEATURES, timestep=999)
        ModelFeatures(host, short)
        host = type("Short", (), {"sigma_table": torch.zeros(10), "layers": host.layers, "family": host.family})
        with pytest.raises(ValueError, match="must be below 10"):
            ModelFeatures(host, short)

    def test_layers_that_there_are_not(self, host):
        with pytest.raises(ValueError, match="matches no attention layer"):
            ModelFeatures(host, FeatureSettings("output.9"))

    def test_references_without_color(self, network, caplog):
        with pytest.raises(ValueError, match="no color in any of them"):
            write_references(network, desaturate(picture(2)), WRITING)
        write_references(network, torch.cat([picture(), desaturate(picture())]), WRITING)
        assert "Reference 2 has no color" in caplog.text

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"weights": (1.0, 2.0, 3.0)}, "found 3 for 2 reference"),
            ({"weights": (-1.0,)}, "above 0"),
            ({"masks": torch.zeros(1, 32, 32)}, "covers nothing of reference 1"),
            ({"masks": torch.ones(3, 32, 32)}, "masks: found 3 for 2"),
        ],
    )
    def test_what_does_not_fit_references(self, network, wrong, message):
        with pytest.raises(ValueError, match=message):
            write_references(network, picture(2), WRITING, **wrong)

    def test_marks(self, network):
        gray = desaturate(picture())
        with pytest.raises(ValueError, match="found none that cover anything"):
            write_strokes(network, gray, gray, WRITING)
        with pytest.raises(ValueError, match="found none that cover anything"):
            write_strokes(network, gray, painted(gray), WRITING, mask=torch.zeros(1, 32, 32))
        with pytest.raises(ValueError, match=r"^marks: .* expected one size"):
            write_strokes(network, gray, picture(1, 16, 16), WRITING)
        with pytest.raises(ValueError, match=r"^image: found 2 pictures, expected one"):
            write_strokes(network, picture(2), picture(1), WRITING)

    def test_palettes(self):
        with pytest.raises(ValueError, match="nothing but gray"):
            write_palette(torch.full((1, 4, 4, 3), 0.5))

    def test_inputs(self, network, memory):
        for wrong, message in (
            ({"mask": torch.ones(3, 32, 32)}, "mask: found 3"),
            ({"fallback": picture(3)}, "fallback: found 3"),
            ({"features": network.features(desaturate(picture()))}, r"features: found those of 1"),
        ):
            with pytest.raises(ValueError, match=message):
                color_by_memory(network, picture(2), memory, ASKING, **wrong)
        nothing = dataclasses.replace(memory.take(torch.arange(0)), made=None, keys=None)
        with pytest.raises(ValueError, match="found nothing in it"):
            color_by_memory(network, picture(), nothing, ASKING)
