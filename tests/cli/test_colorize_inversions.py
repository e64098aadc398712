"""colorize --save-inversion and --inversion: a reference that is inverted once."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_exemplar.files.inversions import Inversions, load_inversions, save_inversions
from comfyui_exemplar.files.pictures import load_picture

from ..fixtures.pictures import QUICK, run, shapes


def color(folder, *arguments, name="out.png", reference="reference.png"):
    named = [] if reference is None else ["--reference", folder / reference]
    output = ["--output", folder / name, "--no-sheet"]
    return run("colorize", folder / "gray.png", *named, *output, *QUICK, *arguments)


@pytest.fixture
def kept(folder):
    """A file of the reference, and the picture that was colored while it was made."""
    path = folder / "kept.safetensors"
    assert color(folder, "--save-inversion", path, name="first.png") == 0
    return path


def test_a_file_colors_as_the_reference_does(folder, kept, capsys):
    found = load_inversions(kept)
    assert [len(found.color), len(found.gray)] == [1, 1] and found.color[0].pictures == 1
    assert color(folder, "--save-inversion", kept) == 0  # its own file may be replaced
    assert str(kept) in capsys.readouterr().out
    assert color(folder, "--inversion", kept) == 0
    # one 8-bit step: the reference shared its model calls with the input in the first run
    assert (load_picture(folder / "out.png") - load_picture(folder / "first.png")).abs().max() < 1.5 / 255
    # the file again is the same bytes again
    assert color(folder, "--inversion", kept, name="again.png") == 0
    assert (folder / "again.png").read_bytes() == (folder / "out.png").read_bytes()


def test_the_picture_is_needed_for_its_statistics_only(folder, kept, capsys):
    assert color(folder, "--inversion", kept, "--match-chroma", "0", reference=None) == 0
    assert color(folder, "--inversion", kept, "--match-chroma", "0", name="named.png") == 0
    assert (folder / "out.png").read_bytes() == (folder / "named.png").read_bytes()
    capsys.readouterr()
    assert color(folder, "--inversion", kept, "--match-chroma", "1", reference=None) == 1
    said = capsys.readouterr().err
    assert f"--inversion {kept}: reference: found nothing beside its inversions" in said
    assert "name it by --reference, or set --match-chroma to 0" in said


def test_several_references_of_several_sizes_in_one_file(folder):
    shapes(64, 32).save(folder / "wide.png")
    more = ("--reference", folder / "wide.png", "--method", "attention")
    path = folder / "two.safetensors"
    assert color(folder, *more, "--save-inversion", path, name="first.png") == 0
    assert len(load_inversions(path).color) == 2
    assert color(folder, *more, "--inversion", path) == 0
    assert (folder / "out.png").read_bytes() == (folder / "first.png").read_bytes()
    assert color(folder, "--inversion", path, "--match-chroma", "0", reference=None) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--depth", "3"), r"reference_inversion: found one 2 of 20 steps deep \(consistent\), expected 3 of 20"),
        (("--layers", "all"), "expected it to have been kept"),
        (("--reference", "reference.png"), "expected as many|found 2 picture"),
        (("--save-inversion", "other.safetensors"), "--save-inversion would copy the file of --inversion"),
        (("--method", "memory"), "--method memory does not take .*--inversion"),
        (("--strokes", "reference.png"), "--method attention alone takes .*--inversion, --method memory alone --strok"),
    ],
)
def test_what_does_not_fit_is_one_line(folder, kept, capsys, monkeypatch, arguments, said):
    import re

    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert color(folder, "--inversion", kept, *arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and re.search(said, errors[0]), lines
    assert not (folder / "out.png").exists() and not (folder / "other.safetensors").exists()


def test_another_model_s_file_and_a_picture_s_alone(folder, kept, capsys):
    from dataclasses import replace

    pair = load_inversions(kept)
    other = [replace(each, model="0123456789ab") for each in pair.all]
    save_inversions(kept, Inversions((other[0],), (other[1],)))
    assert color(folder, "--inversion", kept) == 1
    assert "made with another model (0123456789ab), expected one of this model" in capsys.readouterr().err
    save_inversions(kept, Inversions(pair.color))
    assert color(folder, "--inversion", kept) == 1
    assert "found a picture's inversion alone" in capsys.readouterr().err


def test_another_maker_s_file_stays(folder, capsys):
    path = folder / "kept.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    assert color(folder, "--save-inversion", path) == 1
    assert "is not replaced" in capsys.readouterr().err and list(load_file(path)) == ["x"]
    assert color(folder, "--inversion", path) == 1
    assert "holds no inversion" in capsys.readouterr().err


def test_another_picture_is_told_of(folder, kept, capsys, caplog):
    shapes(48, 48).transpose(0).save(folder / "other.png")
    assert color(folder, "--inversion", kept, "--match-chroma", "1", reference="other.png") == 0
    assert any("is of another picture than --reference 1" in record.message for record in caplog.records)
    caplog.clear()
    assert color(folder, "--inversion", kept, "--match-chroma", "1") == 0
    assert not [record for record in caplog.records if "another picture" in record.message]
