"""Recorded numbers of latent AdaIN (Kosugi 2025)."""

from comfyui_exemplar.color import adain, match_mean_std


def test_adain(exemplar_set):
    tolerance = exemplar_set.tolerance("adain")
    tensors = exemplar_set.file("adain")
    cases = {name.split(".")[0] for name in tensors}
    assert len(cases) >= 2
    for case in cases:
        content, style, expected = (tensors[f"{case}.{part}"] for part in ("content", "style", "out"))
        found = adain(content, style)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= tolerance, case
        # The biased deviation, a typical mistake, must not pass.
        biased = match_mean_std(content, style, (2, 3))
        assert content.shape == style.shape or (biased - expected).abs().max() > tolerance, case
        # Statistics are each picture's own: a batch gives what single pictures give.
        assert adain(content.repeat(2, 1, 1, 1), style)[1:].equal(found), case
