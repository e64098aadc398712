"""Phrases in masks on ComfyUI MODELs: which tokens, which rows, how many calls, beside which neighbors."""

import comfy.controlnet
import comfy.samplers
import comfy.sd1_clip
import comfy.sdxl_clip
import pytest
import torch

from comfyui_exemplar.attention.call import CROSS
from comfyui_exemplar.hosts.comfy import edits
from comfyui_exemplar.hosts.comfy.lcad_instances import phrase_places, prompt_tokens, reuse_logits

from . import models
from .sampling import Calls, difference, run

TOLERANCE = 1e-4
CUPS = "the blue cup, the red cup, the yellow cup"


class Words:
    """A CLIP that only tokenizes."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def tokenize(self, text, return_word_ids=False):
        return self.tokenizer.tokenize_with_weights(text, return_word_ids)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def words(request):
    kinds = {"sd1": comfy.sd1_clip.SD1Tokenizer, "sdxl": comfy.sdxl_clip.SDXLTokenizer}
    return Words(kinds[request.param]())


@pytest.fixture(scope="module")
def masks():
    """Two masks, left and right."""
    left = torch.zeros(2, 64, 64)
    left[0, :, :32] = left[1, :, 32:] = 1
    return left


@pytest.fixture
def drawn(nodes, embedded, masks):
    """The node on the embedded model: call it with settings -> MODEL; the prompt is ``prompt``."""

    def make(**settings):
        wanted = {
            "model": embedded[0],
            "clip": embedded[1],
            "masks": masks,
            "prompt": "red apple, blue car",
            **settings,
        }
        return nodes("ExemplarLCADInstances", **wanted)[0]

    return make


@pytest.fixture(scope="module")
def prompt(embedded):
    clip = embedded[1]
    return clip.encode_from_tokens_scheduled(clip.tokenize("red apple, blue car"))


def start(batch=1, height=12, width=12):
    latent = torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(1))
    return {"samples": 8 * latent}, torch.tensor([8.0, 4.0, 2.0, 1.0])


def sampled(model, prompt, embedded, at=None, **kwargs):
    return run(model, prompt, *(at or start()), negative=kwargs.pop("negative", embedded[3]), **kwargs)


class TestPhrases:
    def test_parts_between_commas(self, words):
        names, places, length = phrase_places(words, CUPS, [])
        assert places == [(1, 2, 3), (5, 6, 7), (9, 10, 11)] and length == 77
        assert names == ["the blue cup", "the red cup", "the yellow cup"]

    def test_phrases_as_they_stand(self, words):
        _, places, _ = phrase_places(words, CUPS, ["red cup", "Blue", "cup", "cup"])
        assert places == [(6, 7), (2,), (3,), (7,)]

    def test_weights_are_no_words(self, words):
        assert phrase_places(words, "the (blue cup:1.3), the red cup", ["blue cup"])[1] == [(2, 3)]

    def test_a_prompt_of_two_chunks(self, words):
        long = ", ".join(["the blue cup"] * 20) + ", a yellow hat"
        (places,), length = phrase_places(words, long, ["yellow hat"])[1:]
        assert length == 154
        assert [token for token, at in zip(*_words(words, long), strict=True) if at in places] == list(
            prompt_tokens(words, "yellow hat").tokens
        )
        assert min(places) > 77

    def test_words_that_the_embedded_model_does_not_read(self, embedded):
        names, places, length = phrase_places(embedded[1], "the red apple, the blue car", [])
        assert names == ["the red apple", "the blue car"] and places == [(0, 1), (2, 3)]
        assert length == embedded[3][0][0].shape[1]

    def test_wrong_phrases_are_named(self, words):
        with pytest.raises(ValueError, match=r"does not contain 'green cup', 'cup blue'"):
            phrase_places(words, CUPS, ["green cup", "red cup", "cup blue"])

    def test_an_empty_part(self, words):
        with pytest.raises(ValueError, match="Part 2 of the prompt's 2 parts is empty"):
            phrase_places(words, "a cup,", [])


def _words(clip, text):
    found = prompt_tokens(clip, text)
    return found.tokens, found.places


class TestSampling:
    def test_stock_nodes_and_what_comes_with_the_model(self, embedded, drawn, prompt, nodes, masks):
        import nodes as stock

        model, positive = nodes(
            "ExemplarLCADInstances", model=embedded[0], clip=embedded[1], masks=masks, prompt="red apple, blue car"
        )
        assert torch.equal(positive[0][0], prompt[0][0])
        latent, _ = start()
        how = (5, 3, 4.0, "euler", "normal")
        with_masks, without = (
            stock.KSampler().sample(m, *how, positive, embedded[3], latent)[0]["samples"] for m in (model, embedded[0])
        )
        assert torch.isfinite(with_masks).all() and difference(with_masks, without) > 0.05

    @pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m"])
    def test_other_samplers(self, embedded, drawn, prompt, sampler):
        found = sampled(drawn(), prompt, embedded, sampler=sampler)
        assert torch.isfinite(found).all()
        assert difference(found, sampled(embedded[0], prompt, embedded, sampler=sampler)) > 0.01

    def test_the_model_passed_in_stays_as_it_was(self, embedded, drawn, prompt):
        before, options = sampled(embedded[0], prompt, embedded), str(embedded[0].model_options)
        sampled(drawn(), prompt, embedded)
        assert torch.equal(sampled(embedded[0], prompt, embedded), before)
        assert str(embedded[0].model_options) == options

    def test_strength_zero_is_the_plain_model_bit_for_bit(self, embedded, drawn, prompt):
        assert torch.equal(sampled(drawn(strength=0.0), prompt, embedded), sampled(embedded[0], prompt, embedded))

    @pytest.mark.parametrize("schedule", ["one pass", "official"])
    def test_unconditional_prediction_is_untouched(self, embedded, drawn, prompt, schedule):
        """With cfg 0 only the unconditional prediction counts."""
        plain = sampled(embedded[0], prompt, embedded, cfg=0.0)
        assert difference(sampled(drawn(schedule=schedule), prompt, embedded, cfg=0.0), plain) < TOLERANCE

    def test_cost(self, embedded, drawn, prompt):
        """One pass costs nothing extra; two passes one row more a picture, and no graph in either."""
        with Calls(embedded[0]) as calls:
            sampled(drawn(), prompt, embedded)
        assert calls.entered == [2, 2, 2]
        with Calls(embedded[0]) as calls:
            found = sampled(drawn(schedule="official", step="official"), prompt, embedded)
        assert calls.entered == [2, 1, 2, 1, 2, 1]
        assert not found.requires_grad

    def test_the_published_step_is_hardly_seen(self, embedded, drawn, prompt):
        plain = sampled(embedded[0], prompt, embedded)
        official = difference(sampled(drawn(step="official"), prompt, embedded), plain)
        assert 0 < official < 0.02 * difference(sampled(drawn(), prompt, embedded), plain)

    def test_part_of_the_way(self, embedded, drawn, prompt):
        plain, whole = sampled(embedded[0], prompt, embedded), sampled(drawn(), prompt, embedded)
        sampling = embedded[0].get_model_object("model_sampling")
        # as a share of the sampling, between the second and the third level
        share = 1 - sampling.timestep(torch.tensor(3.0)).item() / 999
        early, late = (sampled(drawn(**{k: share}), prompt, embedded) for k in ("end_percent", "start_percent"))
        assert torch.equal(sampled(drawn(start_percent=1.0), prompt, embedded), plain)
        for part in (early, late):
            assert difference(part, plain) > 1e-3 and difference(part, whole) > 1e-3


class TestBatching:
    @pytest.fixture(params=["one pass", "official"])
    def schedule(self, request):
        return request.param

    def test_two_calls_when_memory_is_short(self, embedded, drawn, prompt, schedule, monkeypatch):
        expected = sampled(drawn(schedule=schedule), prompt, embedded)
        monkeypatch.setattr(embedded[0].model, "memory_required", lambda *_, **__: 1e30)
        assert difference(sampled(drawn(schedule=schedule), prompt, embedded), expected) < TOLERANCE

    def test_prompts_of_different_length(self, embedded, drawn, prompt, schedule):
        """ComfyUI repeats the shorter one."""
        expected = sampled(drawn(schedule=schedule), prompt, embedded)
        long = [[torch.cat([embedded[3][0][0]] * 2, 1), {}]]
        found = sampled(drawn(schedule=schedule), prompt, embedded, negative=long)
        assert difference(found, expected) < TOLERANCE

    def test_combined_prompts(self, embedded, drawn, prompt, schedule):
        expected = sampled(drawn(schedule=schedule), prompt, embedded)
        assert difference(sampled(drawn(schedule=schedule), [*prompt, *prompt], embedded), expected) < TOLERANCE

    def test_pictures_have_masks_of_their_own(self, embedded, drawn, prompt, schedule, masks):
        latent, sigmas = start(2, 8, 12)
        swapped = masks.flip(0)
        both = sampled(drawn(masks=torch.cat([masks, swapped]), schedule=schedule), prompt, embedded, (latent, sigmas))
        for i, own in enumerate((masks, swapped)):
            one = {"samples": latent["samples"][i : i + 1]}
            alone = sampled(drawn(masks=own, schedule=schedule), prompt, embedded, (one, sigmas))
            assert difference(both[i], alone[0]) < TOLERANCE

    def test_masks_that_do_not_fit_the_batch(self, embedded, drawn, prompt, masks):
        model = drawn(masks=torch.cat([masks] * 2))
        with pytest.raises(ValueError, match=r"latent: found 3 picture\(s\), expected 2, as a phrase has masks"):
            sampled(model, prompt, embedded, start(3))

    @pytest.mark.parametrize("family", models.FAMILIES)
    def test_families_and_odd_sizes(self, nodes, embedded, family, schedule):
        """77 tokens are looked up with a real tokenizer; SDXL has stacks of transformers and labels."""
        model, positive = models.tiny(family), models.prompt(family)
        from comfyui_exemplar.attention.instances import Instance, InstanceSettings
        from comfyui_exemplar.hosts.comfy.lcad_instances import add_instances

        mask = torch.zeros(1, 40, 40)
        mask[:, :, :20] = 1
        patched = add_instances(model, [Instance("phrase", (1, 2), 77, mask, InstanceSettings(3.0, schedule=schedule))])
        latent = {"samples": torch.randn(2, 4, 15, 17, generator=torch.Generator().manual_seed(2)) * 5}
        sigmas = torch.tensor([5.0, 2.0, 0.5])
        found, plain = run(patched, positive, latent, sigmas), run(model, positive, latent, sigmas)
        assert torch.isfinite(found).all() and difference(found, plain) > 1e-3 * float(plain.abs().max())


class TestNeighbors:
    def test_chained_nodes_are_one(self, drawn, embedded, prompt, masks):
        first = drawn(masks=masks[:1], phrases="red apple")
        both = drawn(model=first, masks=masks[1:], phrases="blue car")
        assert torch.equal(sampled(both, prompt, embedded), sampled(drawn(), prompt, embedded))
        only = drawn(masks=masks[:1], phrases="red apple")
        assert torch.equal(sampled(first, prompt, embedded), sampled(only, prompt, embedded)), "the first is as it was"
        with Calls(embedded[0]) as calls:
            sampled(both, prompt, embedded)
        assert calls.entered == [2, 2, 2]

    @pytest.mark.parametrize("order", ["before", "after"])
    @pytest.mark.parametrize("schedule", ["one pass", "official"])
    def test_another_packs_replacement(self, embedded, drawn, prompt, order, schedule):
        """What it makes of the layer stays, and the masks' change comes on top, whichever node came first."""
        key = ("output", 4)

        def foreign(q, k, v, options):
            shape = (len(options["cond_or_uncond"]), q.shape[0])
            seen.add(shape)
            return 0.5 * torch.nn.functional.scaled_dot_product_attention(q, k, v) + 1

        seen = set()
        if order == "before":
            theirs = embedded[0].clone()
            theirs.set_model_attn2_replace(foreign, *key)
            model = drawn(model=theirs, schedule=schedule)
        else:
            model = drawn(schedule=schedule).clone()
            model.set_model_attn2_replace(foreign, *key)
            theirs = embedded[0].clone()
            theirs.set_model_attn2_replace(foreign, *key)
        found = sampled(model, prompt, embedded)
        assert difference(found, sampled(theirs, prompt, embedded)) > 0.01
        assert difference(found, sampled(drawn(schedule=schedule), prompt, embedded)) > 0.01
        assert seen == ({(2, 2)} if schedule == "one pass" else {(2, 2), (1, 1)})

    def test_with_color_injection(self, embedded, inverted, injected, drawn, prompt):
        at = inverted["input"][1:3]
        found = sampled(drawn(model=injected()), prompt, embedded, at)
        assert difference(found, sampled(injected(), prompt, embedded, at)) > 1e-3
        assert difference(found, sampled(drawn(), prompt, embedded, at)) > 1e-3

    @pytest.mark.parametrize("schedule", ["one pass", "official"])
    def test_controlnet_residuals(self, embedded, drawn, prompt, schedule, monkeypatch):
        """Residuals are there in both passes, for the rows that each has."""

        class Control(comfy.controlnet.ControlBase):
            def get_control(self, x, *_, **__):
                residual = torch.full((x.shape[0], 256, x.shape[2] // 4, x.shape[3] // 4), 3.0)
                return {"input": [], "middle": [residual], "output": []}

        controlled = [[prompt[0][0], {"control": Control(), "control_apply_to_uncond": True}]]
        found = sampled(drawn(schedule=schedule), controlled, embedded)
        assert difference(found, sampled(drawn(schedule=schedule), prompt, embedded)) > 1e-3
        # a second pass without residuals would be another picture
        monkeypatch.setattr(embedded[0].model, "memory_required", lambda *_, **__: 1e30)
        assert difference(sampled(drawn(schedule=schedule), controlled, embedded), found) < TOLERANCE


class TestStaleLogits:
    def test_every_run_begins_without_any(self, embedded, prompt):
        model = reuse_logits(embedded[0])
        first = sampled(model, prompt, embedded)
        assert torch.equal(sampled(model, prompt, embedded), first)
        assert difference(first, sampled(embedded[0], prompt, embedded)) > 0.01

    def test_one_step_is_fresh_and_the_next_is_not(self, embedded, prompt):
        """Over one step nothing is reused; what a second step sees of the first are its logits."""
        latent, sigmas = start()
        for steps, same in ((2, True), (3, False)):
            at = (latent, sigmas[:steps])
            stale, fresh = (sampled(m, prompt, embedded, at) for m in (reuse_logits(embedded[0]), embedded[0]))
            assert (difference(stale, fresh) < TOLERANCE) == same

    def test_split_rows_find_theirs(self, embedded, prompt, monkeypatch):
        expected = sampled(reuse_logits(embedded[0]), prompt, embedded)
        monkeypatch.setattr(embedded[0].model, "memory_required", lambda *_, **__: 1e30)
        assert difference(sampled(reuse_logits(embedded[0]), prompt, embedded), expected) < TOLERANCE


class TestBadInput:
    def test_number_of_masks(self, drawn, masks):
        with pytest.raises(ValueError, match=r"masks: found 3 for 2 phrase\(s\) \(red apple, blue car\)"):
            drawn(masks=torch.cat([masks, masks[:1]]))

    def test_empty_mask(self, drawn, masks):
        with pytest.raises(ValueError, match="masks: found nothing above one half in that of 'blue car'"):
            drawn(masks=masks * torch.tensor([1.0, 0.0])[:, None, None])

    def test_wrong_phrase(self, drawn):
        with pytest.raises(ValueError, match="'red apple, blue car' does not contain 'green car'"):
            drawn(phrases="red apple\ngreen car")

    def test_another_prompt_at_the_sampler(self, embedded, drawn):
        other = [[embedded[3][0][0][:, :5], {}]]
        with pytest.raises(ValueError, match="positive prompt has 5 tokens"):
            sampled(drawn(), other, embedded, negative=other)

    def test_another_family_is_named(self, drawn):
        class Other:
            model = "flux"

            def get_model_object(self, name):
                return object()

        with pytest.raises(ValueError, match=r"L-CAD Instances: model: found .*, expected a Stable Diffusion"):
            drawn(model=Other())

    def test_cross_attention_is_what_is_edited(self, embedded, drawn, prompt):
        """Self-attention runs as it is in one pass."""
        seen = []

        def look(call, earlier):
            seen.append((call.kind, call.k.shape[1]))
            return earlier(call)

        layers = edits.layer_widths(embedded[0])
        both = edits.add_edit(drawn(), edits.PlacedEdit("look", look, layers, (CROSS,)))
        found = sampled(both, prompt, embedded)
        assert difference(found, sampled(drawn(), prompt, embedded)) < TOLERANCE
        assert {kind for kind, _ in seen} == {CROSS}
