"""Every option of every command with values that none can have: refused in one line, before anything is read."""

import argparse

import pytest

from comfyui_exemplar import cli

#: What a command needs beside the option that is tried; its inputs are missing, so that nothing is ever worked on.
NEEDED = {
    "measure": ["missing"],
    "reproduce": ["exemplar", "--data", "missing"],
    "app": ["--model", "missing.safetensors"],
    "doctor": ["--model", "missing.safetensors"],
    "archive": ["missing", "--output", "out"],
    "auto": ["missing.png"],
    "colorize": ["missing.png", "--reference", "missing-too.png"],
    "describe": ["missing.png"],
    "film": ["missing.mkv", "--reference", "missing-too.png"],
    "match": ["missing.png", "--reference", "missing-too.png"],
    "recolor": ["missing.png", "--from", "missing-too.png"],
    "translate": ["missing.png", "--reference", "missing-too.png"],
    "extract-deadiff": ["missing.ckpt", "adapter.safetensors"],
}
#: Commands that are given their pictures elsewhere.
WITHOUT_INPUTS = {"app", "doctor"}
#: Whose first word is one of a list.
WORD_FIRST = {"reproduce"}
NOT_FINITE = ("nan", "inf", "-inf")
HUGE = ("1e30", "-1e30", "9" * 400, "1e400", "9" * 5000)
WORDS = ("", " ", "words", "1,5", "0x10", "a\nb", "\N{SNOWMAN}", "x" * 3000)


def parsers():
    parser = cli.parser()
    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return commands.choices


def options(command):
    """The options of a command that take a value."""
    actions = [action for action in PARSERS[command]._actions if action.help != argparse.SUPPRESS]  # no former names
    return [action for action in actions if action.option_strings and action.nargs != 0]


PARSERS = parsers()
OPTIONS = [(command, action.option_strings[0]) for command in PARSERS for action in options(command)]


def call(arguments, capsys):
    """Return code and what was said, which is one line without a traceback."""
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    shown = capsys.readouterr()
    assert shown.out == "" and "Traceback" not in shown.err
    (line,) = shown.err.splitlines()
    assert line.startswith("error: ") and len(line) < 2000
    return code, line


def test_every_command_is_tried():
    assert set(NEEDED) == {command.NAME for command in cli.COMMANDS} == set(PARSERS)
    assert len(OPTIONS) > 60


@pytest.mark.parametrize("command, option", OPTIONS, ids=lambda value: value.removeprefix("--"))
def test_odd_values(command, option, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (action,) = [action for action in options(command) if option in action.option_strings]
    needed = NEEDED[command]
    if option == "--concept":  # it stands in the place of --reference
        needed = needed[:1]
    for value in (*NOT_FINITE, *HUGE, *WORDS):
        code, line = call([command, *needed, f"{option}={value}"], capsys)
        assert code in (1, 2)
        is_passed_on = "missing" in line  # nothing is wrong with the value itself
        if action.type in (int, float):
            # a negative number is auto, where there is auto
            is_auto = "the model's recommendation, else" in action.help and value == "-1e30"
            assert option in line or (is_auto and is_passed_on), (value, line)
            assert code == 2 or is_auto or "expected a " in line or "it must" in line, (value, line)
        elif action.choices:
            assert option in line and code == 2, (value, line)
        else:
            assert is_passed_on or option in line or value[:100] in line, (value, line)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [command for command in NEEDED if command not in (*WITHOUT_INPUTS, *WORD_FIRST)])
@pytest.mark.parametrize("value", ["", " "])
def test_names_that_are_none(command, value, capsys):
    code, line = call([command, value, *NEEDED[command][1:]], capsys)
    assert code == 2 and "is no name of a file or folder" in line


@pytest.mark.parametrize("command", NEEDED)
def test_help_says_what_is_taken(command, capsys):
    """Every option says its default, or that it is required, and stands in a group of its theme."""
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    shown = capsys.readouterr()
    assert stop.value.code == 0 and shown.err == "" and "return codes: 0 done; 1 refused" in " ".join(shown.out.split())
    groups = [group.title for group in PARSERS[command]._action_groups if group._group_actions]
    assert groups[:2] == ["options", "model" if command in WITHOUT_INPUTS else "input and output"]
    titles = [title for title in groups[1:] if "settings" in title or "regions" in title]
    assert titles == sorted(titles, key=lambda title: title.startswith("advanced")) or command == "describe"
    for action in PARSERS[command]._actions:
        if action.option_strings and action.dest != "help" and action.help != argparse.SUPPRESS:
            assert "(default: " in action.help or "required" in action.help or "or --reference" in action.help, action
    assert {action.dest for action in PARSERS[command]._action_groups[1]._group_actions} == {"help", "traceback"}


def test_settings_that_few_touch_stand_last():
    groups = [group.title for group in PARSERS["colorize"]._action_groups if group._group_actions]
    assert groups[1:4] == ["input and output", "model", "settings"]
    assert groups[-1].startswith("advanced settings") and "advanced settings, attention" in groups
    advanced = next(group for group in PARSERS["colorize"]._action_groups if group.title == "advanced settings")
    assert {"steps", "refinements"} <= {action.dest for action in advanced._group_actions}
    assert "guidance" not in {action.dest for action in advanced._group_actions}
