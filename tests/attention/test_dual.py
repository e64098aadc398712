"""The dual-attention edit against its formula, spelled out row by row with full maps."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.call import AttentionCall
from comfyui_exemplar.attention.dual import DualAttentionColor, DualAttentionSettings
from comfyui_exemplar.attention.fused import sdpa
from comfyui_exemplar.attention.layers import Layer

from . import naive

DEEP = Layer("output", 0)
LAYERS = {naive.LAYER: True, DEEP: False}
HEADS = {layer: naive.HEADS for layer in LAYERS}
#: Every term takes part.
FULL = DualAttentionSettings(gamma_shallow=0.4, gamma_deep=0.4, beta_shallow=0.3, beta_deep=0.3)
FIXED = DualAttentionSettings(gamma_shallow=1.0, beta_shallow=0.0, gamma_deep=1.0, beta_deep=0.0)
TOKENS, KEYS = 6, 8  # the reference has another size than the input


def banks(inputs=1, references=1, sigmas=(1.0,), grid=(2, 4), letters="qkv"):
    """input, reference, gray reference."""
    return (
        naive.bank(inputs, TOKENS, sigmas, LAYERS, letters, (2, 3), seed=100),
        naive.bank(references, KEYS, sigmas, LAYERS, letters, grid, seed=400),
        naive.bank(references, KEYS, sigmas, LAYERS, letters, grid, seed=700),
    )


def call(layer=naive.LAYER, **kwargs):
    return naive.call(layer=layer, tokens=TOKENS, grid=(2, 3), **kwargs)


def edited(edit, asked):
    return edit(asked, AttentionCall.plain)


def formula(settings, three, asked, row, sigma=1.0, key_tokens=None):
    """The module's two equations for one conditional row, in float64: (N, H·d)."""
    gamma, beta = settings.weights(LAYERS[asked.layer])

    def kept(which, letter):
        bank = three[which]
        tensor = bank.get(sigma, asked.layer, letter)
        return tensor[asked.pictures[row] % len(tensor)][None]

    def keys(which, letter):
        tensor = kept(which, letter)
        return tensor if key_tokens is None else tensor[:, key_tokens]

    gray = naive.logits(kept(0, "q"), keys(2, "k"))
    color = naive.logits(asked.q[row : row + 1], keys(1, "k"))
    if settings.mix == "before softmax":
        weights = (gamma * gray + (1 - gamma) * color).softmax(-1)
    else:
        weights = gamma * gray.softmax(-1) + (1 - gamma) * color.softmax(-1)
    out = naive.apply(weights, keys(1, "v"))
    own = naive.attention(kept(0, "q"), kept(0, "k"), asked.v[row : row + 1])
    return ((1 - beta) * out + beta * own)[0]


def check(found, expected):
    torch.testing.assert_close(found.double(), expected.double(), atol=2e-6, rtol=0)


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
    check(edited(DualAttentionColor(settings, LAYERS, *three), asked)[0], formula(settings, three, asked, 0))


class TestRows:
    @pytest.mark.parametrize("branches", [(1, 0), (0, 1), (2, 0, 1), (1, 0, 0), (0,)])
    def test_every_row_gets_what_its_branch_asks_for(self, branches):
        three, asked = banks(inputs=2), call(branches=branches, batch=2)
        found = edited(DualAttentionColor(FULL, LAYERS, *three), asked)
        plain = asked.plain()
        for row, branch in enumerate(asked.branches):
            if branch == 0:
                check(found[row], formula(FULL, three, asked, row))
            else:
                assert torch.equal(found[row], plain[row])  # bit for bit

    def test_only_unconditional_rows(self):
        asked = call(branches=(1,), batch=2)
        assert torch.equal(edited(DualAttentionColor(FULL, LAYERS, *banks()), asked), asked.plain())

    def test_conditional_rows_do_not_depend_on_how_the_batch_is_split(self):
        edit, asked = DualAttentionColor(FULL, LAYERS, *banks(inputs=3)), call(branches=(1, 0), batch=3)
        whole = edited(edit, asked)
        for rows in ([3, 4, 5], [0, 1, 2], [4], [0, 3], [1, 2, 4, 5], [5, 0, 3, 1]):
            torch.testing.assert_close(edited(edit, asked.select(rows)), whole[rows], atol=1e-6, rtol=0)

    def test_an_edit_below_is_asked_for_the_other_rows(self):
        """Edits compose: what stood on the layer before keeps the unconditional rows."""
        asked = call(branches=(0, 1))
        found = DualAttentionColor(FULL, LAYERS, *banks())(asked, lambda below: torch.full_like(below.q, 7.0))
        assert torch.equal(found[1], torch.full_like(found[1], 7.0)) and not (found[0] == 7).any()

    def test_half_precision_calls_get_half_precision_answers(self):
        asked = call(branches=(1, 0))
        low = dataclasses.replace(asked, q=asked.q.bfloat16(), k=asked.k.bfloat16(), v=asked.v.bfloat16())
        edit = DualAttentionColor(FULL, LAYERS, *banks())
        found = edited(edit, low)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), edited(edit, asked), atol=0.06, rtol=0)


class TestStrength:
    @pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
    def test_from_plain_attention_to_the_edit(self, strength):
        three, asked = banks(), call(branches=(1, 0))
        edit = DualAttentionColor(dataclasses.replace(FULL, strength=strength), LAYERS, *three)
        expected = (1 - strength) * asked.plain()[1] + strength * formula(FULL, three, asked, 1)
        check(edited(edit, asked)[1], expected)

    def test_plain_attention_is_whatever_stood_there_before(self):
        settings = dataclasses.replace(FULL, strength=0.0)
        found = DualAttentionColor(settings, LAYERS, *banks())(call(), lambda below: torch.full_like(below.q, 7.0))
        assert torch.equal(found, torch.full_like(found, 7.0))


class TestWindow:
    SIGMAS = (8.0, 4.0, 2.0, 1.0)

    def acting(self, start, end, sigmas=SIGMAS):
        settings = dataclasses.replace(FULL, start=start, end=end)
        edit = DualAttentionColor(settings, LAYERS, *banks(sigmas=self.SIGMAS))
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
        edit, asked = DualAttentionColor(FULL, LAYERS, *three), call(sigma=2.2)
        check(edited(edit, asked)[0], formula(FULL, three, asked, 0, sigma=2.0))


class TestSourceMask:
    def test_color_only_there(self):
        mask = torch.zeros(1, 4, 6)  # two pixels a token each way
        mask[:, :, 2:4] = 1  # the middle column of tokens
        three, asked = banks(), call(branches=(1, 0))
        found = edited(DualAttentionColor(FULL, LAYERS, *three, source_mask=mask), asked)
        inside = torch.tensor([False, True, False] * 2)
        check(found[1][inside], formula(FULL, three, asked, 1)[inside])
        assert torch.equal(found[1][~inside], asked.plain()[1][~inside])
        assert torch.equal(found[0], asked.plain()[0])

    def test_soft_edges_and_strength_multiply(self):
        mask = torch.full((1, 2, 3), 0.5)
        three, asked = banks(), call()
        settings = dataclasses.replace(FULL, strength=0.5)
        found = edited(DualAttentionColor(settings, LAYERS, *three, source_mask=mask), asked)
        check(found[0], 0.75 * asked.plain()[0] + 0.25 * formula(FULL, three, asked, 0))

    def test_one_mask_a_picture(self):
        mask = torch.stack([torch.zeros(2, 3), torch.ones(2, 3)])
        three, asked = banks(inputs=2), call(batch=2)
        found = edited(DualAttentionColor(FULL, LAYERS, *three, source_mask=mask), asked)
        assert torch.equal(found[0], asked.plain()[0])
        check(found[1], formula(FULL, three, asked, 1))


class TestReferenceMask:
    @pytest.mark.parametrize("settings", [FULL, dataclasses.replace(FULL, mix="after softmax"), FIXED])
    def test_same_as_attention_over_the_selected_keys(self, settings):
        mask = torch.zeros(1, 2, 4)
        mask[0, 0, 1] = mask[0, 1, 2:] = 1
        three, asked = banks(), call()
        edit = DualAttentionColor(settings, LAYERS, *three, reference_mask=mask, heads=HEADS)
        check(edited(edit, asked)[0], formula(settings, three, asked, 0, key_tokens=[1, 6, 7]))

    def test_a_full_mask_changes_nothing(self):
        three, asked = banks(), call()
        masked = DualAttentionColor(FULL, LAYERS, *three, reference_mask=torch.ones(1, 5, 9))
        assert torch.equal(edited(masked, asked), edited(DualAttentionColor(FULL, LAYERS, *three), asked))

    def test_a_region_smaller_than_a_token_keeps_the_token_it_is_in(self):
        mask = torch.zeros(1, 40, 80)
        mask[0, 25, 70] = 1  # one pixel of the 400 of token 7
        three, asked = banks(), call()
        edit = DualAttentionColor(FULL, LAYERS, *three, reference_mask=mask)
        check(edited(edit, asked)[0], formula(FULL, three, asked, 0, key_tokens=[7]))

    @pytest.mark.parametrize("value", [0.0, 0.5])
    def test_an_empty_mask(self, value):
        with pytest.raises(ValueError, match="The reference mask is empty"):
            DualAttentionColor(FULL, LAYERS, *banks(), reference_mask=torch.full((1, 4, 4), value))

    def test_one_empty_mask_of_two(self):
        masks = torch.stack([torch.ones(4, 4), torch.zeros(4, 4)])
        with pytest.raises(ValueError, match="The reference mask is empty"):
            DualAttentionColor(FULL, LAYERS, *banks(2, 2), reference_mask=masks)

    def test_different_masks_a_reference(self):
        masks = torch.zeros(2, 2, 4)
        masks[0, 0, :2] = masks[1, 1, 2:] = 1
        three, asked = banks(2, 2), call(branches=(1, 0), batch=2)
        found = edited(DualAttentionColor(FULL, LAYERS, *three, reference_mask=masks), asked)
        check(found[2], formula(FULL, three, asked, 2, key_tokens=[0, 1]))
        check(found[3], formula(FULL, three, asked, 3, key_tokens=[6, 7]))

    def test_masks_of_different_sizes_in_one_batch(self):
        masks = torch.zeros(2, 2, 4)
        masks[0, 0, :2] = masks[1, 1, 1:] = 1
        three = banks(2, 2)
        asked = call(batch=2)
        found = edited(DualAttentionColor(FULL, LAYERS, *three, reference_mask=masks), asked)
        check(found[0], formula(FULL, three, asked, 0, key_tokens=[0, 1]))
        check(found[1], formula(FULL, three, asked, 1, key_tokens=[5, 6, 7]))

    def test_one_mask_for_each_reference_or_for_all(self):
        with pytest.raises(ValueError, match=r"2 reference masks for 1 reference"):
            DualAttentionColor(FULL, LAYERS, *banks(2, 1), reference_mask=torch.ones(2, 4, 4))


class TestFixedOutputs:
    """γ = 1 and β = 0 leave nothing of the running picture: such layers are computed once, before sampling."""

    def test_equal_to_the_live_computation(self):
        three, asked = banks(inputs=2, sigmas=(2.0, 1.0)), call(branches=(1, 0), batch=2)
        live, fixed = (DualAttentionColor(FIXED, LAYERS, *three, heads=h) for h in (None, HEADS))
        torch.testing.assert_close(edited(fixed, asked), edited(live, asked), atol=1e-6, rtol=0)
        check(edited(fixed, asked)[2], formula(FIXED, three, asked, 2))

    def test_independent_of_the_running_picture_and_not_computed_again(self):
        three = banks()
        edit = DualAttentionColor(FIXED, LAYERS, *three, heads=HEADS)

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
        edit = DualAttentionColor(settings, LAYERS, *banks(), heads=HEADS)
        shallow = [edited(edit, call(naive.LAYER, seed=seed)) for seed in (1, 2)]
        deep = [edited(edit, call(DEEP, seed=seed)) for seed in (1, 2)]
        assert not torch.equal(*shallow) and torch.equal(*deep)

    @pytest.mark.parametrize("beta", [0.0, 1e-3])
    def test_the_input_s_own_share_keeps_a_layer_live(self, beta):
        settings = dataclasses.replace(FIXED, beta_shallow=beta)
        edit = DualAttentionColor(settings, LAYERS, *banks(), heads=HEADS)
        assert torch.equal(*(edited(edit, call(seed=seed)) for seed in (1, 2))) == (beta == 0)


class TestBatches:
    @pytest.mark.parametrize("settings", [FULL, FIXED])
    @pytest.mark.parametrize("inputs, references", [(1, 1), (3, 1), (3, 3)])
    def test_one_reference_for_all_or_one_for_each(self, settings, inputs, references):
        three, asked = banks(inputs, references), call(branches=(1, 0), batch=3)
        found = edited(DualAttentionColor(settings, LAYERS, *three, heads=HEADS), asked)
        for row in asked.rows_of(0):
            check(found[row], formula(settings, three, asked, row))

    @pytest.mark.parametrize("settings", [FULL, FIXED])
    def test_a_latent_batch_that_repeats_the_pictures(self, settings):
        three, asked = banks(2, 2), call(batch=4)
        found = edited(DualAttentionColor(settings, LAYERS, *three, heads=HEADS), asked)
        for row, picture in enumerate((0, 1, 0, 1)):
            same = dataclasses.replace(asked, pictures=(picture,) * 4)
            check(found[row], formula(settings, three, same, row))

    @pytest.mark.parametrize("inputs, references", [(1, 2), (2, 3), (3, 2)])
    def test_what_does_not_fit(self, inputs, references):
        with pytest.raises(ValueError, match=rf"{inputs} input\(s\), {references} reference\(s\).*one reference"):
            DualAttentionColor(FULL, LAYERS, *banks(inputs, references))

    def test_references_and_gray_references_that_differ(self):
        source, reference, _ = banks(2, 2)
        with pytest.raises(ValueError, match=r"2 reference\(s\), 1 gray"):
            DualAttentionColor(FULL, LAYERS, source, reference, banks(2, 1)[2])


class TestRefusals:
    @pytest.mark.parametrize("empty", [0, 1, 2])
    def test_an_inversion_without_features(self, empty):
        three = list(banks())
        three[empty] = FeatureBank()
        role = ("input", "reference", "gray")[empty]
        with pytest.raises(ValueError, match=rf"inversion of the {role} kept no attention features.*Attention Capture"):
            DualAttentionColor(FULL, LAYERS, *three)

    @pytest.mark.parametrize("sigmas", [(2.0,), (2.0, 1.0, 0.5), (2.0, 1.001)])
    @pytest.mark.parametrize("which", [0, 2])
    def test_levels_that_differ(self, sigmas, which):
        three = list(banks(sigmas=(2.0, 1.0)))
        three[which] = banks(sigmas=sigmas)[which]
        role = {0: "input", 2: "gray"}[which]
        with pytest.raises(ValueError, match=rf"do not visit the same levels: the {role} has {len(sigmas)} from 2.000"):
            DualAttentionColor(FULL, LAYERS, *three)

    def test_levels_that_differ_by_rounding_only(self):
        """One host counts in float32, another in float64: both captures belong to the same schedule."""
        three = list(banks(sigmas=(2.0,)))
        three[0] = banks(sigmas=(2.0 * (1 + 5e-7),))[0]
        DualAttentionColor(FULL, LAYERS, *three)

    @pytest.mark.parametrize(
        "which, letters, missing", [(0, "q", "k"), (0, "k", "q"), (1, "v", "k"), (1, "k", "v"), (2, "qv", "k")]
    )
    def test_captures_that_are_missing(self, which, letters, missing):
        three = list(banks())
        three[which] = banks(letters=letters)[which]
        with pytest.raises(LookupError, match=f"No '{missing}' of output.*was kept at sigma 1.0000; this inversion"):
            DualAttentionColor(FULL, LAYERS, *three)

    def test_only_what_the_settings_need_must_be_there(self):
        source, reference, gray = (banks(letters=letters)[i] for i, letters in enumerate(("q", "v", "k")))
        asked = call()
        found = edited(DualAttentionColor(FIXED, LAYERS, source, reference, gray), asked)
        check(found[0], formula(FIXED, banks_like(source, reference, gray), asked, 0))

    @pytest.mark.parametrize(
        "settings",
        [
            DualAttentionSettings(0.0, 0.4, 0.3, 0.3),
            DualAttentionSettings(0.0, 0.0, 0.0, 0.0),
            DualAttentionSettings(1.0, 1.0, 1.0, 1.0),
        ],
    )
    def test_banks_as_a_capture_for_these_settings_leaves_them(self, settings):
        """What ``needs`` asks for must be enough, layer by layer."""
        whole, three = banks(), (FeatureBank(), FeatureBank(), FeatureBank())
        for role, full, part in zip(("input", "reference", "gray"), whole, three, strict=True):
            for layer, shallow in LAYERS.items():
                kept = {letter: full.get(1.0, layer, letter) for letter in settings.needs(shallow)[role]}
                if kept:
                    part.put(1.0, layer, full.grid(layer), **kept)
        edit = DualAttentionColor(settings, LAYERS, *three)
        for layer in LAYERS:
            check(edited(edit, call(layer))[0], formula(settings, whole, call(layer), 0))

    def test_a_gray_reference_of_another_shape(self):
        source, reference, _ = banks(grid=(2, 4))
        with pytest.raises(ValueError, match=r"reference has \(2, 4\) tokens at output.* gray version \(4, 2\)"):
            DualAttentionColor(FULL, LAYERS, source, reference, banks(grid=(4, 2))[2])


def banks_like(source, reference, gray):
    """The same banks with zeros where nothing was kept, for the formula's terms of weight 0."""
    three = []
    for bank, tokens in ((source, TOKENS), (reference, KEYS), (gray, KEYS)):
        whole = FeatureBank()
        for layer in LAYERS:
            letters = {a: torch.zeros(1, tokens, naive.WIDTH) for a in "qkv"}
            letters |= {a: bank.get(1.0, layer, a) for a in "qkv" if bank.has(1.0, layer, a)}
            whole.put(1.0, layer, bank.grid(layer), **letters)
        three.append(whole)
    return three


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


@pytest.mark.parametrize(
    "settings",
    [
        dataclasses.replace(FULL, gamma_deep=1.0, beta_deep=0.0),
        FIXED,
        DualAttentionSettings(beta_shallow=1.0),
        dataclasses.replace(FULL, gamma_shallow=0.0, gamma_deep=0.0),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_the_banks_are_never_changed_by_use(settings, masked):
    three = banks(2, 2, sigmas=(2.0, 1.0))
    before = [[tensor.clone() for *_, tensor in bank.items()] for bank in three]
    keys = [[key for *key, _ in bank.items()] for bank in three]
    masks = (torch.ones(1, 4, 6), torch.ones(2, 4, 4)) if masked else ()
    edit = DualAttentionColor(settings, LAYERS, *three, *masks, heads=HEADS)
    for layer in LAYERS:
        for sigma in (2.0, 1.0):
            edited(edit, call(layer, branches=(1, 0), batch=2, sigma=sigma)).fill_(9.0)  # the host may work in place
    for bank, tensors, names in zip(three, before, keys, strict=True):
        assert [key for *key, _ in bank.items()] == names
        assert all(map(torch.equal, tensors, (tensor for *_, tensor in bank.items())))


@pytest.mark.parametrize("inputs", [1, 3])
def test_a_host_that_works_in_place_does_not_spoil_fixed_outputs(inputs):
    edit, asked = DualAttentionColor(FIXED, LAYERS, *banks(inputs), heads=HEADS), call(batch=inputs)
    first = edited(edit, asked).clone()
    edited(edit, asked).mul_(0)
    assert torch.equal(edited(edit, asked), first)
