"""Prompt Control inside ComfyUI: two prompts, and the tokens that they are made of."""

import comfy.samplers
import pytest
import torch

from comfyui_exemplar.hosts.comfy.prompts import prompt_tokens

from .pairs import STEPS, TOLERANCE, encode, sample
from .sampling import Calls, difference, run, run_guider


class TestPromptControl:
    def make(self, nodes, embedded, **settings):
        return nodes(
            "ExemplarPromptControl",
            model=embedded[0],
            clip=embedded[1],
            negative=embedded[3],
            **{
                "source": "red heart",
                "target": "blue heart",
                "cfg": 4.0,
                "cross_ratio": 0.8,
                "self_ratio": 0.8,
                **settings,
            },
        )[0]

    def noise(self, seed=3):
        return {"samples": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) * 14.6}

    def sigmas(self, embedded):
        return comfy.samplers.calculate_sigmas(embedded[0].get_model_object("model_sampling"), "normal", STEPS)

    def test_both_streams_from_noise(self, nodes, embedded):
        """The source is what its prompt draws alone; the target shares its layout."""
        noise, sigmas = self.noise(), self.sigmas(embedded)
        both = run_guider(self.make(nodes, embedded, both_pictures=True), noise, sigmas)
        alone = run(embedded[0], encode(embedded, "red heart"), noise, sigmas, 4.0, embedded[3])
        assert both.shape[0] == 2 and difference(both[1], alone[0]) < TOLERANCE
        only = run_guider(self.make(nodes, embedded), noise, sigmas)
        assert only.shape[0] == 1 and torch.equal(only[0], both[0])

    def test_same_prompt_twice_is_the_source(self, nodes, embedded):
        guider = self.make(nodes, embedded, target="red heart", both_pictures=True)
        both = run_guider(guider, self.noise(), self.sigmas(embedded))
        assert difference(both[0], both[1]) < TOLERANCE

    @pytest.mark.parametrize(
        "settings",
        [
            {"words": "replace"},
            {"words": "reweight only", "weights": "blue=2"},
            {"target": "big blue heart", "weights": "big=0, blue=2"},
            {"words": "replace", "word_ratios": "blue=0.2"},
            {"self_layers": "all but the finest"},
        ],
    )
    def test_options_change_the_target_only(self, nodes, embedded, settings):
        noise, sigmas = self.noise(), self.sigmas(embedded)
        usual = run_guider(self.make(nodes, embedded, both_pictures=True), noise, sigmas)
        other = run_guider(self.make(nodes, embedded, both_pictures=True, **settings), noise, sigmas)
        assert difference(usual[1], other[1]) < TOLERANCE and difference(usual[0], other[0]) > 1e-3

    def test_local_blend(self, nodes, embedded):
        """Away from the words the target is the source, at the last step exactly."""
        noise = {"samples": torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(3)) * 14.6}
        settings = {"both_pictures": True, "self_ratio": 0.0, "blend_words": "heart", "blend_threshold": 0.9}
        target, source = run_guider(self.make(nodes, embedded, **settings), noise, self.sigmas(embedded))
        same = (target - source).abs().amax(0) < TOLERANCE
        assert 0.1 < float(same.float().mean()) < 0.98

    def test_previews_show_the_target(self, nodes, embedded):
        shapes = []
        run_guider(
            self.make(nodes, embedded),
            self.noise(),
            self.sigmas(embedded),
            callback=lambda step, denoised, x, total: shapes.append(denoised.shape[0]),
        )
        assert shapes == [1] * STEPS

    def test_an_inverted_picture(self, nodes, embedded, source):
        with Calls(embedded[0]) as calls:
            sample(self.make(nodes, embedded, source="", inversion=source[0]), source)
        assert calls.entered == [3] * STEPS

    @pytest.mark.parametrize(
        "settings, message",
        [
            ({"weights": "green=2"}, "has no 'green'"),
            ({"weights": "blue"}, "needs a number"),
            ({"weights": "blue=x"}, "write word=number"),
            ({"blend_words": "moon"}, "Neither prompt has the blend word 'moon'"),
            ({"words": "replace", "target": "big blue heart"}, "replace swaps word for word"),
            ({"word_ratios": "blue=3"}, "must lie between 0 and 1"),
        ],
    )
    def test_bad_input(self, nodes, embedded, settings, message):
        with pytest.raises(ValueError, match=message):
            self.make(nodes, embedded, **settings)


def test_words_and_their_columns(embedded):
    clip = embedded[1]
    tokens = prompt_tokens(clip, "red heart with a red leaf")
    assert tokens.first == 0 and len(tokens.ids) == 4  # the embedded model drops 'with' and 'a'
    assert tokens.columns_of(prompt_tokens(clip, "red")) == (0, 2)
    assert tokens.columns_of(prompt_tokens(clip, "red leaf")) == (2, 3)
    assert prompt_tokens(clip, "").ids == ()


def test_words_of_stable_diffusion():
    """Begin and end marks, and learned vectors in the middle of a text."""
    import comfy.sd1_clip

    tokenizer = comfy.sd1_clip.SD1Tokenizer()

    class Clip:
        @staticmethod
        def tokenize(text, return_word_ids=False):
            made = tokenizer.tokenize_with_weights(text, return_word_ids)
            if "mine" in text:
                made["l"][0] = [(torch.full((4,), 7.0), w, i) if i == 2 else (t, w, i) for t, w, i in made["l"][0]]
            return made

    empty, words = prompt_tokens(Clip, ""), prompt_tokens(Clip, "a cat")
    assert empty.first == 1 and len(empty.ids) == 2 and len(words.ids) == 4
    assert words.words[0] == words.words[-1] == 0 and words.columns_of(prompt_tokens(Clip, "cat")) == (2,)
    assert min(prompt_tokens(Clip, "a (mine:1.0)").ids) < 0
