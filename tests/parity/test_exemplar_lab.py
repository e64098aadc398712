"""Recorded numbers of the published program's 8-bit Lab post-processing (Kosugi 2025), compared to the level."""

import numpy as np
import pytest
import torch

from comfyui_exemplar.color import merge_luminance, official_merge
from comfyui_exemplar.color.official import _combine, _lose_shadow_level, _shrink, truncate_decoded

from .levels import check_levels


@pytest.fixture(scope="module")
def manifest(exemplar_set):
    return exemplar_set.manifest


@pytest.fixture(scope="module")
def golden(manifest):
    return manifest["golden"]["lab_postprocess"]


@pytest.fixture(scope="module")
def cases(exemplar_set, golden):
    """Case id -> its tensors, the shared ones of the first case filled in where a case has none of its own."""
    tensors = exemplar_set.file("lab_postprocess")
    ids = [case["id"] for case in golden["cases"]]
    assert ids, "the manifest lists no case"

    def of(case):
        return {name.split(".", 1)[1]: value for name, value in tensors.items() if name.startswith(case + ".")}

    shared = {name: of(ids[0])[name] for name in ("decoded", "ref_rgb")}
    return {case: {**shared, **of(case)} for case in ids}


def largest_difference(found, expected):
    assert found.shape == expected.shape
    return int((found.int() - expected.int()).abs().max())


def test_final_pictures(manifest, golden, cases):
    tolerance = manifest["suggested_max_abs_tolerance"]["lab_postprocess_uint8"]
    for case, t in cases.items():
        assert t["final_rgb"].shape == (golden["image_size"], golden["image_size"], 3)
        found = official_merge(t["decoded"], t["input_rgb"][None], t["ref_rgb"][None])
        assert largest_difference(found[0], t["final_rgb"]) <= tolerance, case


def test_intermediates(golden, cases):
    seen = dict.fromkeys(("color_rgb_u8", "ref_small", "lab_combined"), 0)
    size = golden["image_size"]
    for case, t in cases.items():
        color = truncate_decoded(t["decoded"])[0]
        found = {
            "color_rgb_u8": color,
            "ref_small": _shrink(_lose_shadow_level(t["ref_rgb"].numpy()), size, size),
            "lab_combined": _combine(color.numpy(), t["input_rgb"].numpy(), t["ref_rgb"].numpy(), wrap=True),
        }
        assert found["ref_small"].shape[0] == golden["ref_small_size"]
        for name in seen.keys() & t.keys():
            assert largest_difference(torch.as_tensor(found[name]), t[name]) == 0, (case, name)
            seen[name] += 1
    assert all(seen.values()), f"an intermediate was never compared: {seen}"


def test_wrapping_shows_only_where_the_manifest_counts_it(golden, cases):
    counts = []
    for case in golden["cases"]:
        t = cases[case["id"]]
        pictures = (truncate_decoded(t["decoded"])[0], t["input_rgb"], t["ref_rgb"])
        color, photo, reference = (picture.numpy() for picture in pictures)
        wrapped, clipped = (_combine(color, photo, reference, wrap) for wrap in (True, False))
        for channel, name in ((1, "a"), (2, "b")):
            expected = case["stats"][name]["n_wrapped"]
            assert int(np.count_nonzero(wrapped[..., channel] != clipped[..., channel])) == expected, (case["id"], name)
            counts.append(expected)
    assert 0 in counts and max(counts) > 0


def test_repetitions(exemplar_set, manifest):
    """The same step inside the recorded repeat-and-refine run, at another size and with its invented linear VAE."""
    golden = manifest["golden"]["repeat_n3"]
    t = exemplar_set.file("repeat_n3")
    size, compared = golden["image_size"], 0
    photo = t["input_gray"].reshape(1, size, size, 1).repeat(1, 1, 1, 3)
    reference = t["ref_rgb"].reshape(1, size, size, 3)
    for n in range(golden["params"]["N"]):
        if f"iter{n}.final_rgb" not in t:
            continue
        decoded = torch.einsum("oc,bchw->bohw", t["vae_dec"].float(), t[f"iter{n}.final"] / golden["scale_factor"])
        decoded = torch.nn.functional.interpolate(decoded, scale_factor=size // decoded.shape[-1], mode="nearest")
        found = official_merge(decoded, photo, reference)[0]
        expected = t[f"iter{n}.final_rgb"].reshape(size, size, 3)
        check_levels(found, expected, manifest["suggested_max_abs_tolerance"]["repeat_n3_uint8"], f"pass {n}")
        compared += 1
    assert compared >= 2


def test_float_merge_agrees_with_the_8_bit_one_where_nothing_wraps(golden, cases):
    """The pack's own merge is the same method without the quirks: close to, not equal to, the recorded picture."""
    compared = 0
    for case in golden["cases"]:
        if any(channel["n_wrapped"] for channel in case["stats"].values()):
            continue
        t = cases[case["id"]]
        color = ((t["decoded"].float() + 1) / 2).clamp(0, 1).movedim(1, -1)
        found = merge_luminance(
            color, t["input_rgb"][None] / 255, statistics_from=t["ref_rgb"][None] / 255, gamut="clip"
        )
        difference = (found[0] * 255 - t["final_rgb"]).abs()
        # Levels: 8-bit Lab steps, one shadow level (Q2) and statistics from an unblurred reference.
        assert difference.mean() < 3, case["id"]
        compared += 1
    assert compared
