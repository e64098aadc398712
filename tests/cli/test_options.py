"""Options that commands share, and which commands there are."""

import argparse
from pathlib import Path

import pytest

from comfyui_exemplar.cli import COMMANDS
from comfyui_exemplar.cli.options import add_checkpoint, add_model, checkpoint


def test_commands_are_found_by_themselves():
    names = {command.NAME for command in COMMANDS}
    assert names >= {"colorize", "auto", "translate", "describe", "extract-deadiff"} and len(names) == len(COMMANDS)


@pytest.mark.parametrize("required", [False, True])
def test_a_model_is_required_where_none_is_embedded(required, capsys):
    parser = argparse.ArgumentParser()
    add_model(parser, "Any file", required=required)
    assert parser.parse_args(["--model", "a.pth"]).model == Path("a.pth")
    if not required:
        assert parser.parse_args([]).model is None
        return
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "--model" in capsys.readouterr().err


@pytest.mark.parametrize("said", [None, "auto", "epsilon", "v"])
def test_what_a_checkpoint_predicts_can_be_said(said):
    parser = argparse.ArgumentParser()
    add_checkpoint(parser)
    options = parser.parse_args([] if said is None else ["--prediction", said])
    assert checkpoint(options)["prediction"] == (said or "auto")
    assert {"device", "dtype", "prediction", "vae"} == set(checkpoint(options))
