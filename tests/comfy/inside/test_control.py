"""Concept Fusion inside ComfyUI: its batches, its samplers, its other nodes."""

import comfy.controlnet
import comfy.ldm.modules.attention
import pytest
import torch

from comfyui_exemplar.attention.control import PromptControl
from comfyui_exemplar.attention.map_edits import Refine
from comfyui_exemplar.hosts.comfy import model as host
from comfyui_exemplar.hosts.comfy.vct_control import pair_guider
from comfyui_exemplar.pipelines.vct_pair import Fusion

from .models import prompt, tiny
from .pairs import STEPS, TOLERANCE, encode, sample
from .sampling import Calls, difference, run, run_guider


@pytest.fixture
def fusion(nodes, embedded, source):
    """Concept Fusion on the embedded model: call it with settings -> GUIDER."""

    def make(model=None, concept="blue heart", **settings):
        concept = encode(embedded, concept) if isinstance(concept, str) else concept
        return nodes(
            "ExemplarConceptFusion",
            model=model or embedded[0],
            inversion=source[0],
            concept=concept,
            source=embedded[3],
            **{"cfg": 4.0, "cross_ratio": 0.5, "self_ratio": 0.5, "vectors": 2, "concept_weight": 1.0, **settings},
        )[0]

    return make


class TestFusion:
    def test_three_rows_a_step(self, embedded, source, fusion):
        with Calls(embedded[0]) as calls:
            out = sample(fusion(), source)
        assert calls.entered == [3] * STEPS and out.shape == source[1]["samples"].shape
        with Calls(embedded[0]) as calls:
            sample(fusion(cfg=1.0), source)
        assert calls.entered == [2] * STEPS

    @pytest.mark.parametrize("shares", [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)])
    def test_both_kinds_of_control_act(self, source, fusion, shares):
        free = sample(fusion(cross_ratio=0.0, self_ratio=0.0), source)
        assert difference(sample(fusion(cross_ratio=shares[0], self_ratio=shares[1]), source), free) > 0.01

    def test_without_control_it_is_plain_guidance(self, embedded, source, fusion):
        plain = run(embedded[0], encode(embedded, "blue heart"), source[1], source[2], 4.0, embedded[3])
        assert difference(sample(fusion(cross_ratio=0.0, self_ratio=0.0), source), plain) < TOLERANCE

    def test_the_model_passed_in_stays_as_it_was(self, embedded, source, fusion):
        before, options = run(embedded[0], embedded[3], source[1], source[2]), str(embedded[0].model_options)
        guider = fusion()
        first = sample(guider, source)
        assert torch.equal(run(embedded[0], embedded[3], source[1], source[2]), before)
        assert str(embedded[0].model_options) == options
        assert torch.equal(sample(guider, source), first), "a guider keeps nothing between runs"

    @pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m_sde"])
    def test_other_samplers(self, source, fusion, sampler):
        assert torch.isfinite(sample(fusion(), source, sampler)).all()

    def test_a_mask_leaves_the_rest_exactly(self, embedded, source, fusion, scene):
        mask = torch.zeros(1, 64, 64)
        mask[..., :32] = 1
        original = embedded[2].encode(scene[1])
        for sampler in ("euler", "dpmpp_2m"):
            out = sample(fusion(mask=mask, self_ratio=0.0), source, sampler)
            assert difference(out[..., 8:], original[..., 8:]) < TOLERANCE
            assert difference(out[..., :8], original[..., :8]) > 0.1

    def test_a_repeated_latent(self, source, fusion):
        one = sample(fusion(), source)
        many = run_guider(fusion(), {"samples": source[1]["samples"].repeat(2, 1, 1, 1)}, source[2])
        assert len(many) == 2 and all(difference(row, one[0]) < TOLERANCE for row in many)

    def test_sampling_the_source_too(self, embedded, source, fusion):
        """Four rows. Where the source can't be told apart from its replay, neither can the target: at the first
        step."""
        with Calls(embedded[0]) as calls:
            out = sample(fusion(source_stream="sampled"), source)
        assert calls.entered == [4] * STEPS and out.shape == source[1]["samples"].shape
        first = {}
        for stream in ("sampled", "replayed"):
            sample(
                fusion(source_stream=stream),
                source,
                callback=lambda step, denoised, x, total, at=stream: first.setdefault(at, denoised),
            )
        assert difference(*first.values()) < TOLERANCE

    def test_other_latents_and_levels_are_refused(self, embedded, source, fusion):
        with pytest.raises(ValueError, match="latent: found one of 8 x 8"):
            run_guider(fusion(), {"samples": torch.ones(1, 4, 8, 8)}, source[2])
        with pytest.raises(ValueError, match="sigmas: found a first level"):
            run_guider(fusion(), source[1], source[2][1:])

    def test_bad_input(self, embedded, fusion, nodes, source):
        with pytest.raises(ValueError, match="expected 1 to 8"):
            fusion(vectors=9)
        with pytest.raises(ValueError, match="area"):
            fusion(concept=[[embedded[3][0][0], {"area": (8, 8, 0, 0)}]])
        model = tiny("sd1")
        with pytest.raises(ValueError, match="another model"):
            fusion(model=model)
        model.model.diffusion_model.input_blocks = None
        with pytest.raises(ValueError, match=r"Concept Fusion: model: found .*, expected a Stable Diffusion"):
            del model.model.diffusion_model.input_blocks
            fusion(model=model)


class TestSplitBatches:
    """Whatever ComfyUI makes of the batch, the result is the same."""

    def test_one_row_a_call(self, embedded, source, fusion, monkeypatch):
        expected = sample(fusion(), source)
        monkeypatch.setattr(embedded[0].model, "memory_required", lambda *_, **__: 1e30)
        with Calls(embedded[0]) as calls:
            found = sample(fusion(), source)
        assert calls.entered == [1] * 3 * STEPS
        assert difference(found, expected) < TOLERANCE

    def test_a_longer_concept_repeats_the_others(self, embedded, source, fusion):
        """16 columns beside 8: ComfyUI repeats the shorter prompts; the columns behind are nobody's."""
        blue = encode(embedded, "blue heart")
        long = [[torch.cat([blue[0][0], embedded[3][0][0]], 1), blue[0][1]]]
        with Calls(embedded[0]) as calls:
            assert torch.isfinite(sample(fusion(concept=long), source)).all()
        assert calls.entered == [3] * STEPS

    def test_the_target_runs_before_its_source(self, embedded, source, fusion):
        """Prompts that can't share a batch: the first step is asked for twice, the others source first."""
        blue = encode(embedded, "blue heart")
        # 72 columns beside 8: too many repetitions for one batch
        long = [[blue[0][0].repeat(1, 9, 1), blue[0][1]]]
        with Calls(embedded[0]) as calls:
            found = sample(fusion(concept=long), source)
        assert calls.entered[:2] == [1, 2] and len(calls.entered) == 2 + 3 * STEPS
        # nine copies of a word have its attention together; weights of columns would tell them apart, so there are none
        plain = run(embedded[0], long, source[1], source[2], 4.0, embedded[3])
        assert difference(found, plain) > 0.05

    def test_split_by_a_control_net_alike(self, embedded, source, fusion):
        """With a ControlNet the source runs by itself, so that the net sees the source's latents."""
        guider = fusion()
        expected, seen = sample(guider, source), []

        class Net(comfy.controlnet.ControlBase):
            """Adds nothing, and notes which latents it is shown."""

            def get_control(self, x, *_):
                seen.append(x.shape[0])

        concept = encode(embedded, "blue heart")
        guided = [[concept[0][0], {**concept[0][1], "control": Net(), "control_apply_to_uncond": False}]]
        found = sample(fusion(concept=guided), source)
        assert len(seen) == STEPS and difference(found, expected) < TOLERANCE


class TestNeighbors:
    @pytest.mark.parametrize("kind", ["attn1", "attn2"])
    def test_an_earlier_replacement_stays(self, embedded, source, fusion, kind):
        theirs, seen = embedded[0].clone(), []

        def foreign(q, k, v, options):
            seen.append(q.shape[0])
            return v.mean(1, keepdim=True).expand(-1, q.shape[1], -1).contiguous()

        getattr(theirs, f"set_model_{kind}_replace")(foreign, "middle", 0)
        out = sample(fusion(model=theirs), source)
        assert set(seen) == {3} and difference(out, sample(fusion(), source)) > 1e-3

    def test_image_features_stay_beside_a_cross_edit(self, embedded, source, fusion):
        """What an IP-Adapter pack adds to a layer of the prompt is added under control as well, on every row alike."""
        theirs = embedded[0].clone()

        def adapter(q, k, v, options):
            image = torch.randn(1, 4, q.shape[-1], generator=torch.Generator().manual_seed(2)).expand(len(q), -1, -1)
            attend = comfy.ldm.modules.attention.optimized_attention
            return attend(q, k, v, options["n_heads"]) + attend(q, image, image, options["n_heads"])

        for place in (("middle", 0), ("output", 5)):
            theirs.set_model_attn2_replace(adapter, *place)
        control = {"cross_ratio": 1.0, "self_ratio": 0.0}
        found = sample(fusion(model=theirs, **control), source)
        assert difference(found, sample(fusion(**control), source)) > 0.05
        assert difference(found, sample(fusion(model=theirs, cross_ratio=0.0, self_ratio=0.0), source)) > 1e-3

    def test_image_tokens_stay_beside_a_cross_edit(self, nodes, embedded, source, fusion, scene):
        """DEADiff's tokens are keys behind the prompt's; the control is of the prompt's."""
        loaded = nodes("ExemplarLoadDEADiff", model_name="embedded")[0]
        style = nodes("ExemplarDEADiffEncode", deadiff=loaded, image=scene[1].flip(-1), take="style")[0]
        theirs = nodes("ExemplarApplyDEADiff", model=embedded[0], tokens=style, weight=1.0)[0]
        control = {"cross_ratio": 1.0, "self_ratio": 0.0}
        found = sample(fusion(model=theirs, **control), source)
        assert difference(found, sample(fusion(**control), source)) > 0.01
        assert difference(found, sample(fusion(model=theirs, cross_ratio=0.0, self_ratio=0.0), source)) > 1e-3

    def test_guidance_hooks_run(self, embedded, source, fusion):
        theirs, seen = embedded[0].clone(), []
        theirs.set_model_sampler_cfg_function(lambda a: (seen.append(a["cond_scale"]), a["cond"])[1])
        out = sample(fusion(model=theirs), source)
        assert seen == [4.0] * STEPS
        assert difference(out, sample(fusion(cfg=1.0), source)) < TOLERANCE


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_families(family):
    """The guider's four rows equal two separate plain samplings when nothing is edited, and differ when something
    is."""
    model, text = tiny(family), prompt(family)
    other = [[text[0][0].flip(1), text[0][1]]]
    latent = {"samples": torch.randn(1, 4, 9, 8, generator=torch.Generator().manual_seed(5)) * 5}
    sigmas = torch.tensor([5.0, 2.0, 0.5, 0.0])

    def guided(edits, ratio):
        control = PromptControl((77, 77), edits, ratio, ratio, most_queries=None)
        guider = pair_guider(model, Fusion(control, 3.0), other, text, text, both=True)
        return run_guider(guider, latent, sigmas)

    free = guided((), 0.0)
    assert difference(free[0], run(model, other, latent, sigmas, negative=text)[0]) < TOLERANCE
    assert difference(free[1], run(model, text, latent, sigmas)[0]) < TOLERANCE
    held = guided((Refine(torch.arange(77), torch.ones(77)),), 1.0)
    assert difference(held[1], free[1]) < TOLERANCE and difference(held[0], free[0]) > 1e-4
    assert len(host.attention_layers(model)) > 0
