"""Numbers that no setting can have are refused before anything is read, whatever the command."""

import pytest

from comfyui_exemplar import cli


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e30"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("auto", "--saturation"),
        ("auto", "--strength"),
        ("colorize", "--reference", "reference.png", "--guidance"),
        ("colorize", "--reference", "reference.png", "--match-chroma"),
        ("translate", "--reference", "reference.png", "--guidance"),
        ("describe", "--prompt", "an apple", "--guidance"),
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-1]}",
)
def test_not_finite(arguments, number, capsys, tmp_path):
    command, *rest = arguments
    code = cli.main([command, str(tmp_path / "missing.png"), *rest[:-1], f"{rest[-1]}={number}"])
    said = capsys.readouterr().err
    assert code != 0 and rest[-1].removeprefix("--").replace("-", "_") in said.replace("-", "_"), said
    assert "expected a finite number" in said or "it must" in said
