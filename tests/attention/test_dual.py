"""The dual-attention edit against its formula, spelled out row by row with full maps."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.attention.fused import sdpa

from . import naive
from .dual_edit import DEEP, FIXED, FULL, LAYERS, banks, call, check, edited, formula, make


@pytest.mark.parametrize("mix", ["before softmax", "after softmax"])
@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("layer", LAYERS)
def test_formula(mix, gamma, beta, layer):
    shallow = LAYERS[layer]
    settings = DualAttentionSettings(
        gamma_shallow=gamma if shallow else 0.9,
        gamma_deep=0.9 if shallow else gamma,
        beta_shallow=beta if shallow else 0.8,
        beta_deep=0.8 if shallow else beta,
        mix=mix,
    )
    three, asked = banks(), call(layer)
    check(edited(make(settings, three), asked)[0], formula(settings, three, asked, 0))


class TestRows:
    @pytest.mark.parametrize("branches", [(1, 0), (0, 1), (2, 0, 1), (1, 0, 0), (0,)])
    def test_every_row_gets_what_its_branch_asks_for(self, branches):
        three, asked = banks(inputs=2), call(branches=branches, batch=2)
        found = edited(make(FULL, three), asked)
        plain = asked.plain()
        for row, branch in enumerate(asked.branches):
            if branch == 0:
                check(found[row], formula(FULL, three, asked, row))
            else:
                assert torch.equal(found[row], plain[row])  # bit for bit

    def test_only_unconditional_rows(self):
        asked = call(branches=(1,), batch=2)
        assert torch.equal(edited(make(FULL, banks()), asked), asked.plain())

    def test_conditional_rows_do_not_depend_on_how_the_batch_is_split(self):
        edit, asked = make(FULL, banks(inputs=3)), call(branches=(1, 0), batch=3)
        whole = edited(edit, asked)
        for rows in ([3, 4, 5], [0, 1, 2], [4], [0, 3], [1, 2, 4, 5], [5, 0, 3, 1]):
            torch.testing.assert_close(edited(edit, asked.select(rows)), whole[rows], atol=1e-6, rtol=0)

    def test_an_edit_below_is_asked_for_the_other_rows(self):
        """Edits compose: what stood on the layer before keeps the unconditional rows."""
        asked = call(branches=(0, 1))
        found = make(FULL, banks())(asked, lambda below: torch.full_like(below.q, 7.0))
        assert torch.equal(found[1], torch.full_like(found[1], 7.0)) and not (found[0] == 7).any()

    def test_half_precision_calls_get_half_precision_answers(self):
        asked = call(branches=(1, 0))
        low = dataclasses.replace(asked, q=asked.q.bfloat16(), k=asked.k.bfloat16(), v=asked.v.bfloat16())
        edit = make(FULL, banks())
        found = edited(edit, low)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), edited(edit, asked), atol=0.06, rtol=0)


class TestStrength:
    @pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
    def test_from_plain_attention_to_the_edit(self, strength):
        three, asked = banks(), call(branches=(1, 0))
        edit = make(dataclasses.replace(FULL, strength=strength), three)
        expected = (1 - strength) * asked.plain()[1] + strength * formula(FULL, three, asked, 1)
        check(edited(edit, asked)[1], expected)

    def test_plain_attention_is_whatever_stood_there_before(self):
        settings = dataclasses.replace(FULL, strength=0.0)
        found = make(settings, banks())(call(), lambda below: torch.full_like(below.q, 7.0))
        assert torch.equal(found, torch.full_like(found, 7.0))


class TestWindow:
    SIGMAS = (8.0, 4.0, 2.0, 1.0)

    def acting(self, start, end, sigmas=SIGMAS):
        settings = dataclasses.replace(FULL, start=start, end=end)
        edit = make(settings, banks(sigmas=self.SIGMAS))
        changed = []
        for sigma in sigmas:
            asked = call(sigma=sigma)
            changed.append(not torch.equal(edited(edit, asked), asked.plain()))
        return changed

    @pytest.mark.parametrize(
        "start, end, expected",
        [
            (0.0, 1.0, [True, True, True, True]),
            (0.5, 1.0, [False, False, True, True]),
            (0.0, 0.5, [True, True, False, False]),
            (0.25, 0.75, [False, True, True, False]),
            (0.3, 0.6, [False, False, True, False]),
            (0.5, 0.5, [False] * 4),
        ],
    )
    def test_shares_count_kept_steps(self, start, end, expected):
        assert self.acting(start, end) == expected

    def test_other_sigmas_belong_to_the_nearest_kept_step(self):
        assert self.acting(0.5, 1.0, sigmas=(100.0, 3.0, 2.7, 0.0)) == [False, False, True, True]

    def test_features_come_from_the_nearest_kept_step(self):
        three = banks(sigmas=self.SIGMAS)
        edit, asked = make(FULL, three), call(sigma=2.2)
        check(edited(edit, asked)[0], formula(FULL, three, asked, 0, sigma=2.0))


class TestFixedOutputs:
    """γ = 1 and β = 0 leave nothing of the running picture: such layers are computed once, before sampling."""

    def test_equal_to_the_live_computation(self):
        three, asked = banks(inputs=2, sigmas=(2.0, 1.0)), call(branches=(1, 0), batch=2)
        live, fixed = (make(FIXED, three, precomputed=p) for p in (False, True))
        torch.testing.assert_close(edited(fixed, asked), edited(live, asked), atol=1e-6, rtol=0)
        check(edited(fixed, asked)[2], formula(FIXED, three, asked, 2))

    def test_independent_of_the_running_picture_and_not_computed_again(self):
        three = banks()
        edit = make(FIXED, three, precomputed=True)

        def refuse(*_):
            raise AssertionError("attention ran although the output was known")

        first, second = (dataclasses.replace(call(seed=seed), attend=refuse) for seed in (1, 2))
        assert torch.equal(edited(edit, first), edited(edit, second))
        assert torch.equal(
            edited(edit, second)[0],
            sdpa(
                three[0].get(1.0, naive.LAYER, "q"),
                three[2].get(1.0, naive.LAYER, "k"),
                three[1].get(1.0, naive.LAYER, "v"),
                naive.HEADS,
            )[0],
        )

    def test_other_layers_stay_live(self):
        settings = dataclasses.replace(FIXED, gamma_shallow=0.5)
        edit = make(settings, banks(), precomputed=True)
        shallow = [edited(edit, call(naive.LAYER, seed=seed)) for seed in (1, 2)]
        deep = [edited(edit, call(DEEP, seed=seed)) for seed in (1, 2)]
        assert not torch.equal(*shallow) and torch.equal(*deep)

    @pytest.mark.parametrize("beta", [0.0, 1e-3])
    def test_the_input_s_own_share_keeps_a_layer_live(self, beta):
        settings = dataclasses.replace(FIXED, beta_shallow=beta)
        edit = make(settings, banks(), precomputed=True)
        assert torch.equal(*(edited(edit, call(seed=seed)) for seed in (1, 2))) == (beta == 0)


class TestBatches:
    @pytest.mark.parametrize("settings", [FULL, FIXED])
    @pytest.mark.parametrize("inputs, references", [(1, 1), (3, 1), (3, 3)])
    def test_one_reference_for_all_or_one_for_each(self, settings, inputs, references):
        three, asked = banks(inputs, references), call(branches=(1, 0), batch=3)
        found = edited(make(settings, three, precomputed=True), asked)
        for row in asked.rows_of(0):
            check(found[row], formula(settings, three, asked, row))

    @pytest.mark.parametrize("settings", [FULL, FIXED])
    def test_a_latent_batch_that_repeats_the_pictures(self, settings):
        three, asked = banks(2, 2), call(batch=4)
        found = edited(make(settings, three, precomputed=True), asked)
        for row, picture in enumerate((0, 1, 0, 1)):
            same = dataclasses.replace(asked, pictures=(picture,) * 4)
            check(found[row], formula(settings, three, same, row))

    @pytest.mark.parametrize("inputs, references", [(1, 2), (2, 3), (3, 2)])
    def test_what_does_not_fit(self, inputs, references):
        with pytest.raises(ValueError, match=rf"found {references} reference\(s\).*{inputs} input\(s\)"):
            make(FULL, banks(inputs, references))

    def test_references_and_gray_references_that_differ(self):
        source, reference, _ = banks(2, 2)
        with pytest.raises(ValueError, match=r"2 reference\(s\), 1 gray"):
            make(FULL, (source, reference, banks(2, 1)[2]))


class TestSettings:
    @pytest.mark.parametrize(
        "name", ["gamma_shallow", "gamma_deep", "beta_shallow", "beta_deep", "strength", "start", "end"]
    )
    @pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
    def test_shares_lie_between_0_and_1(self, name, value):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            DualAttentionSettings(**{name: value})

    def test_mix_is_checked(self):
        with pytest.raises(ValueError, match="mix is 'both'; expected one of before softmax, after softmax"):
            DualAttentionSettings(mix="both")

    @pytest.mark.parametrize(
        "gamma, beta, needs",
        [
            (1.0, 0.0, ("q", "v", "k")),
            (0.0, 0.0, ("", "kv", "")),
            (0.5, 0.0, ("q", "kv", "k")),
            (0.0, 0.5, ("qk", "kv", "")),
            (1.0, 0.5, ("qk", "v", "k")),
        ],
    )
    def test_needs(self, gamma, beta, needs):
        found = DualAttentionSettings(gamma_shallow=gamma, beta_shallow=beta).needs(shallow=True)
        assert (found["input"], found["reference"], found["gray"]) == needs


@pytest.mark.parametrize("inputs", [1, 3])
def test_a_host_that_works_in_place_does_not_spoil_fixed_outputs(inputs):
    edit, asked = make(FIXED, banks(inputs), precomputed=True), call(batch=inputs)
    first = edited(edit, asked).clone()
    edited(edit, asked).mul_(0)
    assert torch.equal(edited(edit, asked), first)


def test_another_grid_than_the_inputs_is_a_misfit():
    """As many tokens in another shape, or fewer: the kept queries are of other places."""
    edit = make(FULL, banks())
    assert edit.misfit(call()) is None
    for grid in ((3, 2), (1, 3)):
        said = edit.misfit(dataclasses.replace(call(), grid=grid))
        assert said is not None and f"{grid[0]} x {grid[1]} tokens" in said and "2 x 3" in said
    running = DualAttentionSettings(gamma_shallow=0.0, gamma_deep=0.0, beta_shallow=0.0, beta_deep=0.0)
    assert make(running, banks()).misfit(dataclasses.replace(call(), grid=(1, 3))) is None, (
        "nothing of the input enters"
    )
