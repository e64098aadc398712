"""Models with one thing wrong in each: the right model under diffusers, or one clear line."""

import json

import pytest

from ..fixtures.weight_files import checkpoint_subjects, embedded_subjects, folder_subject
from ..fixtures.wrong_files import ODD_TEXTS, odd_values, outcome, wrong


@pytest.mark.parametrize(("name", "every"), [("model", 13), ("model's words", 61), ("lcad", 29)])
def test_embedded(tmp_path, name, every):
    subject = next(each for each in embedded_subjects() if each.name == name)
    tried, bad = wrong(subject, tmp_path / "odd.safetensors", some=1, every=every, stride=9)
    assert not bad and tried > 110


@pytest.mark.parametrize("name", ["sd1.safetensors", "sd2.ckpt", "sdxl.safetensors"])
def test_checkpoints(tmp_path, name):
    subject = next(each for each in checkpoint_subjects() if each.name == name)
    tried, bad = wrong(subject, tmp_path / f"odd{subject.suffix}", some=1, stride=8)
    assert not bad and tried > 20


@pytest.mark.parametrize("file", ["unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler"])
def test_folders(tmp_path, file):
    subject = folder_subject(tmp_path)
    right, path = subject.load(tmp_path), tmp_path / file.replace("scheduler", "scheduler/scheduler_config.json")
    content, bad = path.read_text(), []
    for place, (label, odd, fits) in enumerate(odd_values(json.loads(content))):
        if place % 4 == 0:
            path.write_text(json.dumps(odd))
            bad.append((label, outcome(subject, tmp_path, right, plausible=fits)))
    for label, odd in ODD_TEXTS.items():
        path.write_text(odd)
        bad.append((label, outcome(subject, tmp_path, right)))
    assert len(bad) > 30
    assert not [each for each in bad if each[1] not in ("same", "refused", "plausible")]
