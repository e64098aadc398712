"""What the dual-attention edit says to banks that do not fit, and that it leaves them as they are."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.dual_settings import DualAttentionSettings

from . import naive
from .dual_edit import FIXED, FULL, KEYS, LAYERS, TOKENS, banks, call, check, edited, formula, make


class TestRefusals:
    @pytest.mark.parametrize("empty", [0, 1, 2])
    def test_an_inversion_without_features(self, empty):
        three = list(banks())
        three[empty] = FeatureBank()
        role = ("input", "reference", "gray")[empty]
        with pytest.raises(ValueError, match=rf"{role}_inversion: found no attention features.*Attention Capture"):
            make(FULL, three)

    @pytest.mark.parametrize("sigmas", [(2.0,), (2.0, 1.0, 0.5), (2.0, 1.001)])
    @pytest.mark.parametrize("which", [0, 2])
    def test_levels_that_differ(self, sigmas, which):
        three = list(banks(sigmas=(2.0, 1.0)))
        three[which] = banks(sigmas=sigmas)[which]
        role = {0: "input", 2: "gray"}[which]
        with pytest.raises(ValueError, match=rf"{role}_inversion: found features at {len(sigmas)} from 2.000"):
            make(FULL, three)

    def test_levels_that_differ_by_rounding_only(self):
        """One host counts in float32, another in float64: both captures belong to the same schedule."""
        three = list(banks(sigmas=(2.0,)))
        three[0] = banks(sigmas=(2.0 * (1 + 5e-7),))[0]
        make(FULL, three)

    @pytest.mark.parametrize(
        "which, letters, missing", [(0, "q", "k"), (0, "k", "q"), (1, "v", "k"), (1, "k", "v"), (2, "qv", "k")]
    )
    def test_captures_that_are_missing(self, which, letters, missing):
        three = list(banks())
        three[which] = banks(letters=letters)[which]
        with pytest.raises(LookupError, match=f"No '{missing}' of output.*was kept at sigma 1.0000; this inversion"):
            make(FULL, three)

    def test_only_what_the_settings_need_must_be_there(self):
        source, reference, gray = (banks(letters=letters)[i] for i, letters in enumerate(("q", "v", "k")))
        asked = call()
        found = edited(make(FIXED, (source, reference, gray)), asked)
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
        edit = make(settings, three)
        for layer in LAYERS:
            check(edited(edit, call(layer))[0], formula(settings, whole, call(layer), 0))

    def test_a_gray_reference_of_another_shape(self):
        source, reference, _ = banks(grid=(2, 4))
        with pytest.raises(ValueError, match=r"gray_inversion: found \(4, 2\) tokens at output.*, expected \(2, 4\)"):
            make(FULL, (source, reference, banks(grid=(4, 2))[2]))


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
    edit = make(settings, three, *masks, precomputed=True)
    for layer in LAYERS:
        for sigma in (2.0, 1.0):
            edited(edit, call(layer, branches=(1, 0), batch=2, sigma=sigma)).fill_(9.0)  # the host may work in place
    for bank, tensors, names in zip(three, before, keys, strict=True):
        assert [key for *key, _ in bank.items()] == names
        assert all(map(torch.equal, tensors, (tensor for *_, tensor in bank.items())))
