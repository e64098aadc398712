"""Models with one thing wrong in each: the right model under diffusers, or one clear line."""

import json

import pytest

from ..fixtures.weight_files import checkpoint_subject, embedded_subjects, folder_subject
from ..fixtures.wrong_files import ODD_TEXTS, odd_values, outcome, wrong


@pytest.mark.parametrize(("name", "every"), [("model", 37), ("model's words", 97), ("lcad", 61)])
def test_embedded(tmp_path, name, every):
    subject = next(each for each in embedded_subjects() if each.name == name)
    tried, bad = wrong(subject, tmp_path / "odd.safetensors", some=1, every=every, stride=30)
    assert not bad and tried > 100


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_checkpoints(tmp_path, family):
    subject = checkpoint_subject(family)
    tried, bad = wrong(subject, tmp_path / f"odd{subject.suffix}", some=1, stride=25)
    assert not bad and tried > 12


@pytest.mark.parametrize("file", ["unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler"])
def test_folders(tmp_path, file):
    subject = folder_subject(tmp_path)
    right, path = subject.load(tmp_path), tmp_path / file.replace("scheduler", "scheduler/scheduler_config.json")
    content, bad = path.read_text(), []
    for place, (label, odd, fits) in enumerate(odd_values(json.loads(content))):
        if place % 9 == 0:
            path.write_text(json.dumps(odd))
            bad.append((label, outcome(subject, tmp_path, right, plausible=fits)))
    for label, odd in ODD_TEXTS.items():
        path.write_text(odd)
        bad.append((label, outcome(subject, tmp_path, right)))
    assert len(bad) > 15
    assert not [each for each in bad if each[1] not in ("same", "refused", "plausible")]
