"""Networks' files with one thing wrong in each: the right network, or one clear line."""

import pytest

from ..fixtures.weight_files import lcad_checkpoint, light_subjects
from ..fixtures.wrong_files import wrong
from ..parity.conftest import parity_folder
from ..parity.lcad_set import LCADSet


@pytest.mark.parametrize("name", ["ddcolor", "ddcolor.pth", "deadiff", "deadiff.ckpt"])
def test_networks(tmp_path, name):
    subject = next(each for each in light_subjects(tmp_path) if each.name == name)
    tried, bad = wrong(subject, tmp_path / f"odd{subject.suffix}", some=1, every=5, stride=2)
    assert not bad and tried > 60


def test_lcad(tmp_path):
    subject = lcad_checkpoint(LCADSet(parity_folder("lcad")).weights)
    tried, bad = wrong(subject, tmp_path / "odd.ckpt", some=1, stride=17)
    assert not bad and tried > 18
