"""Every command, and every way to fail: a code, one line that names the option or the file, older results kept."""

import errno
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from comfyui_exemplar.cli import failures, main

from ..fixtures.pictures import run, shapes

#: A call of each command that would work; OUT is what it writes, over an older file.
COMMANDS = {
    "auto": ("auto", "gray.png", "--output", "old.png"),
    "colorize": ("colorize", "gray.png", "--reference", "reference.png", "--output", "old.png", "--no-sheet"),
    "describe": ("describe", "gray.png", "--prompt", "a cat", "--output", "old.png"),
    "match": ("match", "gray.png", "--reference", "reference.png", "--output", "old.png"),
    "recolor": (
        *("recolor", "gray.png", "--from", "reference.png", "--model", "source.safetensors"),
        *("--output", "old.png", "--no-sheet"),
    ),
    "translate": ("translate", "gray.png", "--reference", "reference.png", "--output", "old.png"),
    "extract-deadiff": ("extract-deadiff", "source.safetensors", "old.safetensors"),
}
#: Where each reads its weights, as (module, function).
READERS = {
    "auto": ("networks.ddcolor.load", "load_ddcolor"),
    "colorize": ("hosts.diffusers.checkpoint", "load_standalone"),
    "describe": ("hosts.diffusers.lcad", "load_lcad"),
    "match": ("pipelines.match", "match_colors"),  # it has no weights
    "recolor": ("hosts.diffusers.checkpoint", "load_standalone"),
    "translate": ("hosts.diffusers.vct_text", "load_concept_text"),
    "extract-deadiff": ("networks.deadiff.load", "read_own"),
}
WITH_PICTURES = [command for command in COMMANDS if command != "extract-deadiff"]


@pytest.fixture
def place(folder, monkeypatch):
    monkeypatch.chdir(folder)
    shapes(8, 8).save("old.png")
    save_file({"a": torch.zeros(2)}, "old.safetensors", metadata={"exemplar.deadiff": "{}"})
    save_file({"a": torch.zeros(2)}, "source.safetensors")
    (folder / "words.png").write_text("words")
    (folder / "sub").mkdir()
    return folder


def snapshot(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fail(arguments, capsys, place, *named, code=1):
    """One line that names something, a code, and nothing that changed."""
    before = snapshot(place)
    try:
        found = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        found = stop.code
    shown = capsys.readouterr()
    lines = [line for line in shown.err.splitlines() if line.strip() and "%|" not in line]
    lines = [line for line in lines if not line.startswith("warning")]
    assert found == code and len(lines) == 1 and lines[0].startswith("error: "), shown.err
    assert "Traceback" not in shown.err and shown.out == ""
    assert all(each in lines[0] for each in named), lines[0]
    assert snapshot(place) == before and not [path for path in place.rglob(".*")]
    return lines[0]


def replaced(command, old, new):
    return [new if part == old else part for part in COMMANDS[command]]


@pytest.mark.parametrize("command", COMMANDS)
class TestEveryCommand:
    @pytest.fixture
    def reader(self, command, monkeypatch):
        """Makes the reading of weights fail."""
        from importlib import import_module

        module, name = READERS[command]

        def set_error(error):
            def fails(*_, **__):
                raise error

            monkeypatch.setattr(import_module(f"comfyui_exemplar.{module}"), name, fails)

        return set_error

    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            MemoryError("Unable to allocate 3 GiB"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
            OSError(errno.ENOMEM, "Cannot allocate memory"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_memory(self, place, capsys, command, reader, error):
        reader(error)
        fail(COMMANDS[command], capsys, place, "memory ran out")

    @pytest.mark.parametrize(
        "error",
        [
            KeyError("unet.weight"),
            TypeError("unsupported operand"),
            IndexError(),
            RuntimeError("mat1 and mat2\nshapes cannot be multiplied"),
            AssertionError(),
            ZeroDivisionError("division by zero"),
            RecursionError("maximum recursion depth exceeded"),
            NotImplementedError("no kernel"),
            StopIteration(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_what_nobody_thought_of(self, place, capsys, command, reader, error):
        reader(error)
        if command == "extract-deadiff":  # its reader knows what damaged files raise, but not everything
            code = run(*COMMANDS[command])
            (line,) = capsys.readouterr().err.splitlines()
            assert code in (1, 3) and line.startswith("error: ")
            return
        line = fail(COMMANDS[command], capsys, place, f"unexpected {type(error).__name__}", code=3)
        assert "--traceback shows where" in line

    @pytest.mark.parametrize(
        "error, said",
        [
            (ModuleNotFoundError("No module named 'transformers'", name="transformers"), "package transformers"),
            (ImportError("libfoo.so: cannot open"), "libfoo.so"),
            (ValueError("two\nlines"), "two lines"),
            (PermissionError(13, "Permission denied", "weights.bin"), "weights.bin: Permission denied"),
            (ValueError(), "ValueError"),
        ],
    )
    def test_what_is_said(self, place, capsys, command, reader, error, said):
        if command == "extract-deadiff":
            error = OSError(said)  # its reader says the others in its own words
        reader(error)
        fail(COMMANDS[command], capsys, place, said)

    def test_stopped(self, place, capsys, command, reader):
        reader(KeyboardInterrupt())
        assert run(*COMMANDS[command]) == 130
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if line.strip() and "%|" not in line] == ["stopped"]

    def test_traceback(self, place, capsys, command, reader):
        """Where it is asked for, before the command or behind it."""
        reader(KeyboardInterrupt())
        for arguments in (("--traceback", *COMMANDS[command]), (*COMMANDS[command], "--traceback")):
            assert run(*arguments) == 130
            said = capsys.readouterr().err
            assert "Traceback" in said and "in fails" in said and said.endswith("stopped\n")

    @pytest.mark.parametrize("kind", ["missing", "folder", "words", "cut", "empty", "device"])
    def test_weights(self, place, capsys, command, kind):
        if command == "match":
            return
        (place / "weights.safetensors").write_bytes((place / "source.safetensors").read_bytes()[:-4])
        (place / "empty.safetensors").touch()
        names = {
            "missing": "none.safetensors",
            "folder": "sub",
            "words": "words.png",
            "cut": "weights.safetensors",
            "empty": "empty.safetensors",
            "device": "/dev/null",
        }
        if command == "extract-deadiff":
            arguments = replaced(command, "source.safetensors", names[kind])
        else:
            arguments = [*COMMANDS[command], "--model", names[kind]]
        fail(arguments, capsys, place, names[kind])

    @pytest.mark.parametrize("name", [".", "/", "..", "sub"])
    def test_a_folder_as_input(self, place, capsys, command, name):
        if command != "extract-deadiff":
            fail(replaced(command, "gray.png", name), capsys, place, f"{name} is a folder; an input is a picture")

    @pytest.mark.parametrize(
        "name, said",
        [
            ("words.png/new", "is no folder"),
            ("words.png/x/new", "is no folder"),
            ("x" * 300, "long"),
            ("dir", "is a folder"),
            ("new.xyz", "ends in '.xyz'; give a name that ends in"),
            ("pipe", "is no ordinary file"),
        ],
    )
    def test_destinations(self, place, capsys, command, name, said, monkeypatch):
        old = "old.safetensors" if command == "extract-deadiff" else "old.png"
        suffix = os.path.splitext(old)[1]
        if name == "dir":
            (place / f"dir{suffix}").mkdir()
            if command != "extract-deadiff":  # results go into a folder that is there
                (place / f"dir{suffix}" / "gray_colored.png").mkdir()
                (place / f"dir{suffix}" / "gray_matched.png").mkdir()
                (place / f"dir{suffix}" / "gray_translated.png").mkdir()
                (place / f"dir{suffix}" / "gray_recolored.png").mkdir()
        if name == "pipe":
            os.mkfifo(place / f"pipe{suffix}")
            monkeypatch.setattr(
                "pathlib.Path.read_bytes", lambda path: b"" if "pipe" in path.name else path.open("rb").read()
            )
        name = name if "." in name[3:] and name.endswith("xyz") else name + suffix
        fail(replaced(command, old, name), capsys, place, said)

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
    def test_a_folder_that_takes_nothing(self, place, capsys, command, number, monkeypatch):
        from comfyui_exemplar.files import writers

        def fails(_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(writers, "new_folder", fails)
        full = number in (errno.ENOSPC, errno.EDQUOT)
        fail(COMMANDS[command], capsys, place, "the disk is full" if full else "may not be written to")


@pytest.mark.parametrize("command", WITH_PICTURES)
class TestPictures:
    @pytest.mark.parametrize("kind", ["none.png", "words.png", "sub", "empty.png", "half.png", "/dev/null"])
    def test_inputs(self, place, capsys, command, kind):
        (place / "empty.png").touch()
        (place / "half.png").write_bytes((place / "gray.png").read_bytes()[:40])
        fail(replaced(command, "gray.png", kind), capsys, place, kind)

    def test_too_large_for_memory(self, place, capsys, command, monkeypatch):
        from comfyui_exemplar.files import room

        monkeypatch.setattr(room, "LARGE", 10)
        monkeypatch.setattr(room, "free_bytes", lambda: 1000)
        fail(COMMANDS[command], capsys, place, "gray.png", "GB of memory")

    def test_too_large_for_the_format(self, place, capsys, command, monkeypatch):
        from comfyui_exemplar.files import saving

        monkeypatch.setitem(saving.LONGEST, ".webp", 20)
        fail(replaced(command, "old.png", "new.webp"), capsys, place, "new.webp: .webp holds sides up to 20", "48 x 40")

    @pytest.mark.parametrize("device", ["nonsense", "meta", "cuda:99", "xpu"])
    def test_devices(self, place, capsys, command, device):
        fail([*COMMANDS[command], "--device", device], capsys, place, f"--device {device} can't be used here")


@pytest.mark.parametrize("command", ["colorize", "recolor", "translate"])
@pytest.mark.parametrize("name", ["words.png", "sub", "none.png"])
def test_the_reference(place, capsys, command, name):
    fail(replaced(command, "reference.png", name), capsys, place, name)


class TestConcept:
    BASE = ("translate", "gray.png", "--output", "old.png")

    def test_save_concept_replaces_its_own_only(self, place, capsys):
        foreign = (*self.BASE, "--reference", "reference.png", "--save-concept", "source.safetensors")
        fail(foreign, capsys, place, "source.safetensors is there already", "--save-concept made it")

    @pytest.mark.parametrize("name", ["sub", "words.png", "source.safetensors", "/dev/null"])
    def test_what_is_no_concept(self, place, capsys, name):
        fail((*self.BASE, "--concept", name), capsys, place, name)


class TestStreams:
    """As a process: standard output that is closed, full or read no further."""

    CODE = (
        "import sys; from comfyui_exemplar.networks.ddcolor import load\n"
        "from comfyui_exemplar.pipelines import ddcolor\n"
        "load.load_ddcolor = lambda *_, **__: type('Network', (), {'recommended': {}})()\n"
        "ddcolor.auto_color = lambda network, picture, *_, **__: picture\n"
        "from comfyui_exemplar.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    @pytest.mark.skipif(os.name == "nt", reason="a shell is needed")
    @pytest.mark.parametrize(
        "redirect, code, said",
        [
            ("| true", 1, "standard output cannot be written to (Broken pipe)"),
            (">/dev/full", 1, "standard output cannot be written to (No space left on device)"),
            (">&- 2>/dev/full", 0, ""),
            ("2>&-", 0, ""),
        ],
    )
    def test_standard_output(self, place, redirect, code, said):
        if "full" in redirect and not os.path.exists("/dev/full"):
            pytest.skip("no such file")
        script = f'"$PY" -c "$CODE" auto gray.png reference.png --output out {redirect}; exit ${{PIPESTATUS[0]}}'
        done = subprocess.run(
            ["bash", "-c", script],
            env={**os.environ, "PY": sys.executable, "CODE": self.CODE},
            capture_output=True,
            text=True,
            timeout=100,
        )
        lines = [line for line in done.stderr.splitlines() if "%|" not in line and line.strip()]
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
        assert done.returncode == code, done.stderr
        assert [said in line for line in lines] == [True] * bool(said), done.stderr
        assert (place / "out" / "gray_colored.png").is_file()


@pytest.mark.skipif(os.name == "nt", reason="signals are others there")
def test_a_wish_to_stop_that_an_import_takes_for_its_own_failure(place, capsys, monkeypatch):
    from comfyui_exemplar.networks.ddcolor import load

    def fails(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as error:
            raise ImportError("a part could not be imported") from error

    monkeypatch.setattr(load, "load_ddcolor", fails)
    before = signal.getsignal(signal.SIGINT)
    assert run(*COMMANDS["auto"]) == 130
    assert capsys.readouterr().err == "stopped\n" and signal.getsignal(signal.SIGINT) is before


def test_codes_are_documented(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for code in (failures.DONE, failures.FAILED, failures.USAGE, failures.UNEXPECTED, failures.STOPPED):
        assert f" {code} " in shown


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "\x1b[31mred", "x" * 9999, "\ud800"])
def test_a_line_is_one_line(text):
    line = failures.one_line(text)
    assert line.isprintable() and len(line) < 1600
