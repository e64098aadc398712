"""Prompt-to-prompt control against its definition, spelled out with full maps."""

from dataclasses import replace

import pytest
import torch

from comfyui_exemplar.attention.call import CROSS, SELF, AttentionCall
from comfyui_exemplar.attention.control import SOURCE, TARGET, ControlledAttention, PromptControl, SourceFeatures
from comfyui_exemplar.attention.fused import sdpa
from comfyui_exemplar.attention.layers import Layer
from comfyui_exemplar.attention.map_edits import Refine, Replace, Reweight, split_columns
from comfyui_exemplar.attention.windows import cross_share, self_active
from comfyui_exemplar.attention.word_maps import BlendWords, WordMaps

from . import naive

COLUMNS = 5
SIGMAS = (8.0, 4.0, 2.0, 1.0, 0.0)
ALWAYS = {"cross_window": 1.0, "self_window": 1.0}


def call(kind, branches=(1, SOURCE, TARGET), batch=1, sigma=8.0, repeats=1, tokens=6):
    rows = batch * len(branches)
    made = naive.call(branches=branches, batch=batch, tokens=tokens, sigma=sigma)
    if kind == SELF:
        return made
    k, v = (naive.rand(rows, COLUMNS, naive.WIDTH, seed=seed).repeat(1, repeats, 1) for seed in (11, 12))
    return AttentionCall(**{**vars(made), "k": k, "v": v, "kind": CROSS})


def edited(control, asked, **kw):
    return ControlledAttention(control, SIGMAS, **kw)(asked, AttentionCall.plain)


def maps(asked):
    return naive.logits(asked.q, asked.k).softmax(-1)


def of(asked, branch, picture=0):
    return next(i for i in asked.rows_of(branch) if asked.pictures[i] == picture)


def close(found, wanted):
    assert float((found.double() - wanted.double()).abs().max()) < 1e-5


def check_target_only(asked, out, weights, picture=0):
    """The target's row is its edited map on its own values; every other row is plain."""
    target, plain = of(asked, TARGET, picture), asked.plain()
    close(out[target], naive.apply(weights[None], asked.v[target : target + 1])[0])
    for row in range(len(asked.rows)):
        if asked.branches[row] != TARGET:
            assert torch.equal(out[row], plain[row]) or (out[row] - plain[row]).abs().max() < 1e-6


class TestSelf:
    @pytest.mark.parametrize("branches", [(1, SOURCE, TARGET), (TARGET, 1, SOURCE), (3, SOURCE, 1, TARGET)])
    def test_source_map_on_own_values(self, branches):
        asked = call(SELF, branches)
        check_target_only(asked, edited(PromptControl((5, 5), **ALWAYS), asked), maps(asked)[of(asked, SOURCE)])

    def test_each_picture_follows_its_own_source(self):
        asked = call(SELF, batch=2)
        out = edited(PromptControl((5, 5), **ALWAYS), asked)
        for picture in (0, 1):
            check_target_only(asked, out, maps(asked)[of(asked, SOURCE, picture)], picture)

    def test_windows_layers_and_queries(self):
        asked = call(SELF, sigma=4.0)
        changed = edited(PromptControl((5, 5), self_window=0.5), asked)
        assert not torch.equal(changed, asked.plain())
        for control in (
            PromptControl((5, 5), self_window=0.25),  # this is the second step of four
            PromptControl((5, 5), self_window=(0.5, 1.0)),
            PromptControl((5, 5), most_queries=5, **ALWAYS),
            PromptControl((5, 5), self_layers=frozenset({Layer("middle", 0)}), **ALWAYS),
        ):
            assert torch.equal(edited(control, asked), asked.plain())

    def test_earlier_edits_see_the_sources_queries(self):
        """Whatever stood on the layer runs on what this edit hands it."""
        asked, seen = call(SELF), []

        def earlier(inner):
            seen.append(inner)
            return inner.plain()

        ControlledAttention(PromptControl((5, 5), **ALWAYS), SIGMAS)(asked, earlier)
        assert torch.equal(seen[0].q[of(asked, TARGET)], asked.q[of(asked, SOURCE)])
        assert torch.equal(seen[0].v, asked.v)


class TestCross:
    REFINE = Refine(torch.tensor([0, -1, 1, 2, 3]), torch.tensor([1.0, 0, 1, 1, 1]))
    SWAP = Replace(torch.eye(5).roll(1, 1))
    LOUDER = Reweight(torch.tensor([1.0, 2, 1, 1, 0.5]))

    def wanted(self, asked, *edits):
        source, target = (maps(asked)[of(asked, branch)] for branch in (SOURCE, TARGET))
        for edit in edits:
            if isinstance(edit, Refine):
                target = torch.where(edit.alphas > 0, source[..., edit.mapper.clamp_min(0)], target)
            elif isinstance(edit, Replace):
                target = source @ edit.mapper.double()
            else:
                target = target * edit.equalizer
        return target

    @pytest.mark.parametrize("edits", [(REFINE,), (SWAP,), (LOUDER,), (REFINE, LOUDER), (SWAP, LOUDER)])
    def test_edits_compose_in_order(self, edits):
        asked = call(CROSS)
        check_target_only(asked, edited(PromptControl((5, 5), edits, **ALWAYS), asked), self.wanted(asked, *edits))

    def test_repeated_prompts_are_the_same_prompt(self):
        once, thrice = call(CROSS), call(CROSS, repeats=3)
        control = PromptControl((5, 5), (self.REFINE, self.LOUDER), **ALWAYS)
        close(edited(control, thrice), edited(control, once))

    def test_words_have_windows_of_their_own(self):
        control = PromptControl((5, 5), (self.REFINE,), 1.0, 0.0, {2: 0.0, 3: (0.5, 1.0)})
        assert cross_share(0, 4, 1.0, 5, control.word_windows).tolist() == [1, 1, 0, 0, 1]
        assert cross_share(3, 4, 1.0, 5, control.word_windows).tolist() == [1, 1, 0, 1, 1]
        asked = call(CROSS)
        own, all_of_it = maps(asked)[of(asked, TARGET)], self.wanted(asked, self.REFINE)
        share = torch.tensor([1.0, 1, 0, 0, 1])
        check_target_only(asked, edited(control, asked), torch.where(share > 0, all_of_it, own))

    def test_outside_its_window_nothing_changes(self):
        asked = call(CROSS, sigma=2.0)
        assert torch.equal(edited(PromptControl((5, 5), (self.REFINE,), 0.4), asked), asked.plain())

    def test_a_prompt_of_fewer_columns_is_refused(self):
        with pytest.raises(ValueError, match="5 text columns"):
            edited(PromptControl((7, 7), (self.LOUDER,), **ALWAYS), call(CROSS))


@pytest.mark.parametrize("kind", [SELF, CROSS])
class TestSplitBatches:
    """A host may run the source in a call of its own."""

    CONTROL = PromptControl((5, 5), (TestCross.REFINE, TestCross.LOUDER), **ALWAYS)

    def test_source_first(self, kind):
        whole, features = call(kind), SourceFeatures()
        first = edited(self.CONTROL, whole.select([1]), source=features)
        second = edited(self.CONTROL, whole.select([0, 2]), source=features)
        together = edited(self.CONTROL, whole)
        close(torch.stack([second[0], first[0], second[1]]), together)
        assert not features.missed

    def test_target_first_is_noticed(self, kind):
        whole, features = call(kind), SourceFeatures()
        out = edited(self.CONTROL, whole.select([0, 2]), source=features)
        assert features.missed and torch.equal(out, whole.select([0, 2]).plain())
        features.clear()
        assert not features.missed

    @pytest.mark.parametrize("together", [False, True])
    def test_the_source_keeps_no_other_rows_alive(self, kind, together):
        whole, features = call(kind, branches=(1, SOURCE, TARGET, 3), batch=2), SourceFeatures()
        asked = whole if together else whole.select([0, 1, 2, 3, 6, 7])
        features.keep_all = together
        edited(self.CONTROL, asked, source=features)
        sources = whole.select(whole.rows_of(SOURCE))
        assert naive.memory(features._features) == sources.q.nbytes + sources.k.nbytes
        seen = features.as_seen().of(whole.select([4, 5]), keep=False)
        assert all(torch.equal(seen[picture][0], sources.q[picture]) for picture in (0, 1))

    def test_no_target_no_edit(self, kind):
        asked = call(kind, branches=(1, 0)).select([0])
        assert torch.equal(edited(self.CONTROL, asked), asked.plain())


def test_maps_of_words_are_gathered_and_let_go():
    """Of chosen layers alone, whether anything is edited there or not; clearing the edit clears them."""
    asked, words = call(CROSS), BlendWords((1,), (2,))
    asked = replace(asked, q=naive.rand(3, 6, naive.WIDTH, seed=3), grid=(2, 3))
    for layers, gathered in (({asked.layer}, True), ({Layer("input", 7)}, False)):
        for window in (0.0, 1.0):
            maps = WordMaps(words, layers)
            control = PromptControl((5, 5), (TestCross.LOUDER,), window, 0.0)
            edit = ControlledAttention(control, SIGMAS, words=maps)
            edit(asked, AttentionCall.plain)
            assert (maps.mask((4, 6)) is not None) == gathered
            edit.clear()
            assert maps.mask((4, 6)) is None


def test_shares_are_cut_off_as_published():
    assert [self_active(s, 4, 0.9) for s in range(4)] == [True, True, True, False]
    assert [bool(cross_share(s, 5, 0.2, 1)) for s in range(5)] == [True, False, False, False, False]


@pytest.mark.parametrize("window", [1.2, -0.1, (0.6, 0.4)])
def test_windows_are_checked(window):
    with pytest.raises(ValueError, match="must lie in"):
        PromptControl((5, 5), cross_window=window)
    with pytest.raises(ValueError, match="column 7"):
        PromptControl((5, 5), word_windows={7: 0.5})


def test_columns_behind_whole_repetitions_are_others():
    text, others = split_columns(torch.ones(1, 2, 6), 3)
    assert text.tolist() == [[[2.0] * 3] * 2] and others.shape == (1, 2, 0)
    text, others = split_columns(torch.arange(8.0).expand(1, 1, 8), 3)
    assert text.tolist() == [[[3.0, 5.0, 7.0]]] and others.tolist() == [[[6.0, 7.0]]]
    with pytest.raises(ValueError, match="2 text columns"):
        split_columns(torch.ones(1, 2, 2), 3)


def test_what_others_put_on_a_layer_stays_beside_a_cross_edit():
    """An earlier replacement that adds a picture's features: the edit's own change comes on top of them."""
    control = PromptControl((COLUMNS, COLUMNS), (TestCross.SWAP,), **ALWAYS)
    asked = call(CROSS)
    added = naive.rand(*asked.q.shape, seed=21)
    crowded = replace(asked, alone=False)

    def earlier(asked):
        return asked.plain() + added[list(asked.rows)]

    out = ControlledAttention(control, SIGMAS)(crowded, earlier)
    assert torch.allclose(out, edited(control, asked) + added, atol=1e-6)
    assert float((out - earlier(asked)).abs().max()) > 0.01


def test_keys_that_are_no_words_keep_what_they_had():
    """Image tokens behind the prompt's keys: an edit that changes no word changes nothing."""
    asked = call(CROSS)
    rows = len(asked.rows)
    more = {
        n: torch.cat([getattr(asked, n), naive.rand(rows, 3, naive.WIDTH, seed=31 + i)], 1) for i, n in enumerate("kv")
    }
    asked = replace(asked, **more)
    same = PromptControl((COLUMNS, COLUMNS), (Reweight(torch.ones(COLUMNS)),), **ALWAYS)
    assert torch.allclose(edited(same, asked), asked.plain(), atol=1e-6)
    louder = PromptControl((COLUMNS, COLUMNS), (Reweight(torch.full((COLUMNS,), 2.0)),), **ALWAYS)
    assert float((edited(louder, asked) - asked.plain())[asked.rows_of(TARGET)].abs().max()) > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    asked = call(CROSS)
    half = AttentionCall(**{**vars(asked), **{n: getattr(asked, n).to(dtype) for n in "qkv"}, "attend": sdpa})
    control = PromptControl((5, 5), (TestCross.REFINE,), **ALWAYS)
    out = edited(control, half)
    assert out.dtype == dtype and float((out.float() - edited(control, asked)).abs().max()) < 0.05
