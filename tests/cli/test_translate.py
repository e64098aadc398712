"""The command translate: the concept of a reference."""

import torch

from comfyui_exemplar.files.pictures import load_picture

from ..fixtures.pictures import run, size_of


class TestTranslate:
    QUICK = ("--steps", "2", "--resolution", "32", "--updates", "1", "--pivot-iterations", "1")

    def test_a_concept_is_learned_kept_and_used_again(self, folder, capsys, monkeypatch):
        monkeypatch.chdir(folder)
        kept = folder / "concept.safetensors"
        assert (
            run("translate", "reference.png", "--reference", "reference.png", *self.QUICK, "--save-concept", kept) == 0
        )
        assert capsys.readouterr().out.split() == [str(kept), "reference_translated.png"]
        first = load_picture(folder / "reference_translated.png")
        assert size_of(folder / "reference_translated.png") == (64, 64)
        assert run("translate", "reference.png", "--concept", kept, *self.QUICK, "--output", "again.png") == 0
        assert torch.equal(load_picture(folder / "again.png"), first)

    def test_what_cannot_be(self, folder, capsys, monkeypatch):
        monkeypatch.chdir(folder)
        for arguments, message in (
            (("--reference", "nothing.png"), "no picture nothing.png"),
            (("--reference", "reference.png", "--word", "?"), "no word that the embedded model reads"),
            (("--reference", "reference.png", "--self-ratio", "2"), "--self-ratio is 2.0; it must lie between 0 and 1"),
            (("--concept", "reference.png"), "reference.png"),
        ):
            assert run("translate", "reference.png", *arguments, *self.QUICK) == 1
            assert message in capsys.readouterr().err
