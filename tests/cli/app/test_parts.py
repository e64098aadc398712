"""What is shown as HTML is text, whatever a file is called."""

import torch

from comfyui_exemplar.cli.app.parts import legend, path_of, said, thumbnails, told
from comfyui_exemplar.cli.app.pictures import Dropped
from comfyui_exemplar.cli.app.work import Made, Outcome, Source
from comfyui_exemplar.files.pictures import FileFacts

EVIL = "<img src=x onerror=alert(1)>.png"


def dropped(*notes):
    return Dropped(torch.rand(1, 8, 12, 3), FileFacts("PNG", 16, True, notes=notes), EVIL)


def test_names_are_text_everywhere():
    made = Made(torch.rand(1, 8, 12, 3), None, None, (), f"From {EVIL}.")
    shown = [said(EVIL), legend([Source(EVIL, "#ffffff", 0.5)]), thumbnails([dropped()])]
    shown.append(told(Outcome(dropped(EVIL), made.image, made, 1.0), [EVIL]))
    for text in shown:
        assert "<img src=x" not in text and "&lt;img src=x" in text


def test_what_was_done_is_told_with_its_notes_once():
    made = Made(torch.rand(1, 8, 12, 3), None, None, (), "By memory.")
    text = told(Outcome(dropped("two pages"), made.image, made, 1.24), ["two pages", "no color"])
    assert "1.2 s, " in text and "12 × 8, 16 bits. By memory." in text
    assert text.count("two pages") == 1 and text.count("<p ") == 3


def test_no_sources_have_no_legend():
    assert legend(()) == "" and "50%" in legend([Source("a", "#fff", 0.5)])
    assert path_of(None) is None and path_of("a.png").name == "a.png"
