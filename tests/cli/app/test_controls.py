"""Settings as widgets: what stands on the page is the settings' own, and what is typed comes back checked."""

import pytest

from comfyui_exemplar.cli.app.controls import chosen, controls
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.memory_settings import MemorySettings
from comfyui_exemplar.pipelines.transfer import TransferSettings
from comfyui_exemplar.settings import entries

CLASSES = (ColorizeSettings, MemorySettings, TransferSettings)


def one(settings, name, recommended=None):
    (control,) = controls(settings, recommended or {}, only=(name,))
    return control


@pytest.mark.parametrize("settings", CLASSES)
def test_every_setting_has_a_widget_with_its_help(settings):
    made = {control.name: control for control in controls(settings, {})}
    assert list(made) == list(entries(settings))
    for name, entry in entries(settings).items():
        control = made[name]
        assert control.info.startswith(entry.about.help) and control.label == name.replace("_", " ")
        if control.kind == "slider":
            assert (control.low, control.high, control.value) == (entry.about.low, entry.about.high, entry.default)
        assert (control.kind == "choice") == bool(entry.options)


@pytest.mark.parametrize("settings", CLASSES)
def test_what_is_left_alone_is_the_default(settings):
    made = controls(settings, {})
    values = [control.value_shown if control.kind == "number" else control.value for control in made]
    found = chosen(settings, made, values)
    assert settings.resolve(**found) == settings.resolve()
    assert not [name for name in found if entries(settings)[name].about.auto]


def test_auto_shows_what_the_model_recommends():
    control = one(ColorizeSettings, "guidance", {"guidance": 3.5})
    assert (control.kind, control.value_shown, control.placeholder) == ("number", "", "auto (3.5)")
    assert one(ColorizeSettings, "guidance").placeholder == "auto (10)"
    assert one(MemorySettings, "resolution", {"resolution": 128}).placeholder == "auto (128)", "a nested one"


@pytest.mark.parametrize(
    "typed, found",
    [
        ("", {}),
        (None, {}),
        (" ", {}),
        ("2", {"guidance": 2}),
        ("2,5", {"guidance": 2.5}),
        ("-1", {}),
        ("1e1", {"guidance": 10}),
    ],
)
def test_what_is_typed(typed, found):
    assert chosen(ColorizeSettings, [one(ColorizeSettings, "guidance")], [typed]) == found


@pytest.mark.parametrize("typed", ["abc", "300", "nan", "inf"])
def test_what_is_typed_wrongly_is_refused_by_name(typed):
    with pytest.raises(ValueError, match=r"^guidance is .*(expected|must lie)"):
        chosen(ColorizeSettings, [one(ColorizeSettings, "guidance")], [typed])


def test_names_of_two_words_are_told_as_they_stand_on_the_page():
    with pytest.raises(ValueError, match=r"^fallback below is"):
        chosen(MemorySettings, [one(MemorySettings, "fallback_below")], [3])
