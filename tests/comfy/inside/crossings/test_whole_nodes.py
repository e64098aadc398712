"""Exemplar Colorize and Exemplar Translate on a MODEL with a neighbor."""

import pytest

from ..sampling import difference
from ..test_nodes_colorize import SETTINGS
from ..test_translate import TestTranslate as Translate
from .cells import told
from .neighbors import BY_KEY, need
from .test_weights import STRENGTH, changed, lora  # noqa: F401  fixtures
from .test_windows import windows


def colorize(nodes, embedded, scene, model, depth=2):
    settings = {**SETTINGS, "depth": depth, "beta_shallow": 0.5}
    images = {"image": scene[0], "reference": scene[1]}
    return nodes("ExemplarColorize", model=model, vae=embedded[2], conditioning=embedded[3], **images, **settings)[0]


@pytest.mark.parametrize(
    ("key", "says"),
    [("HyperTile", "HyperTile"), ("ToMe", "Token Merging"), ("LazyCache", "LazyCache"), ("EasyCache", "EasyCache")],
)
def test_refused_at_the_inversion(nodes, embedded, scene, key, says):
    need(BY_KEY[key])
    with pytest.raises(ValueError, match=says) as error:
        colorize(nodes, embedded, scene, BY_KEY[key].on(embedded[0]), depth=4)
    assert "MODEL" in str(error.value)


def test_windows_are_refused(nodes, embedded, scene):
    with pytest.raises(ValueError, match="context windows"):
        colorize(nodes, embedded, scene, windows(embedded[0]))


def test_a_lora_is_like_other_weights(nodes, embedded, scene, changed, lora, caplog):  # noqa: F811
    import nodes as stock

    made = stock.LoraLoaderModelOnly().load_lora_model_only(embedded[0], lora[0], STRENGTH)[0]
    found, plain = (colorize(nodes, embedded, scene, model) for model in (made, embedded[0]))
    assert difference(found, colorize(nodes, embedded, scene, changed(STRENGTH))) < 1e-3
    assert difference(found, plain) > 5e-3 and not told(caplog)


def test_an_extra_call_runs_under_the_edit(nodes, embedded, scene, caplog):
    """Skip Layer Guidance asks a UNet for the same prediction once more: the difference is nothing, in every phase."""
    found, plain = (colorize(nodes, embedded, scene, m) for m in (BY_KEY["SLG"].on(embedded[0]), embedded[0]))
    assert difference(found, plain) < 1e-3 and not told(caplog)


def test_translate_beside_hypertile(nodes, embedded, scene, caplog):
    Translate().run(nodes, (BY_KEY["HyperTile"].on(embedded[0]), *embedded[1:]), scene)
    (warning,) = told(caplog)
    assert warning.startswith("Exemplar Translate steps aside") and "HyperTile" in warning
