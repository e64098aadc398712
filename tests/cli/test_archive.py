"""The command: a folder tree through auto, memory and describe; what it refuses before any work."""

import json
import re
import shutil
import sys

import pytest
import torch

from comfyui_exemplar import cli
from comfyui_exemplar.demo import pictures_path
from comfyui_exemplar.files.archive.xmp import SOURCE_TYPE, read_xmp
from comfyui_exemplar.files.pictures import load_picture, read_photograph, save_picture


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "sub/b.jpg", "sub/c.tif")):
        save_picture(torch.rand(1, 24, 20 + number, 1).expand(-1, -1, -1, 3), root / name)
    return root


def call(capsys, *arguments):
    code = cli.main(["archive", *map(str, arguments)])
    shown = capsys.readouterr()
    return (
        code,
        shown.out,
        "\n".join(line for line in re.split("[\r\n]", shown.err) if ": " in line and "|" not in line),
    )


SMALL = ("--with", "--resolution 32")


def test_a_tree_by_auto_and_what_is_added(tree, tmp_path, capsys):
    out = tmp_path / "out"
    code, said, _ = call(capsys, tree, "--output", out, *SMALL)
    assert code == 0 and said.strip() == str(out / "report.html")
    assert load_picture(out / "sub" / "b.png").shape == (1, 24, 21, 3)
    assert SOURCE_TYPE in read_xmp(out / "a.png")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    save_picture(torch.rand(1, 8, 8, 1).expand(-1, -1, -1, 3), tree / "d.png")
    code, _, notes = call(capsys, tree, "--output", out, *SMALL)
    assert code == 0 and "4 pictures, 3 done before" in notes
    assert (out / "d.png").is_file() and {path: path.stat().st_mtime_ns for path in before} == before
    assert not list((out / ".exemplar-archive").glob("receipts-*"))


def test_the_same_bytes_as_the_single_command_but_for_what_it_says_of_itself(tree, tmp_path, capsys):
    call(capsys, tree, "--output", tmp_path / "out", *SMALL)
    cli.main(["auto", str(tree / "a.png"), "--output", str(tmp_path / "one.png"), "--resolution", "32"])
    assert torch.equal(load_picture(tmp_path / "one.png"), load_picture(tmp_path / "out" / "a.png"))


def test_resolution_and_capture_metadata_stay(tree, tmp_path, capsys):
    from PIL import Image

    exif = Image.Exif()
    exif[315] = "Ann"
    with Image.open(tree / "sub" / "b.jpg") as image:
        image.save(tree / "e.jpg", exif=exif, dpi=(300, 300))
    call(capsys, tree, "--output", tmp_path / "out", "--format", "tif", "--bits", "16", *SMALL)
    facts = read_photograph(tmp_path / "out" / "e.tif").facts
    assert facts.resolution == (300, 300) and facts.bits == 16 and b"Ann" in facts.exif


def test_failed_files_are_told_and_the_rest_is_done(tree, tmp_path, capsys):
    (tree / "bad.jpg").write_bytes(b"none")
    code, _, said = call(capsys, tree, "--output", tmp_path / "out", *SMALL)
    assert code == 1 and "1 picture failed and stay without result" in said
    report = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert report.index("bad.jpg") < report.index("a.png") and "is not a picture that can be read" in report


def test_a_journal_of_other_settings_is_refused(tree, tmp_path, capsys):
    call(capsys, tree, "--output", tmp_path / "out", *SMALL)
    code, _, said = call(capsys, tree, "--output", tmp_path / "out", "--with", "--resolution 64")
    assert code == 1 and "--resolution (32, now 64) differ" in said
    code, _, said = call(capsys, tree, "--output", tmp_path / "out", *SMALL, "--format", "jpg")
    assert code == 1 and "format (png, now jpg) differ" in said


def test_names_that_collide_are_found_before_work(tree, tmp_path, capsys):
    shutil.copy(tree / "sub" / "b.jpg", tree / "sub" / "c.jpg")
    code, _, said = call(capsys, tree, "--output", tmp_path / "out", *SMALL)
    assert code == 1 and "sub/c.jpg and sub/c.tif" in said and not list((tmp_path / "out").rglob("*.png"))
    code, _, said = call(capsys, tree, "--output", tmp_path / "out", *SMALL, "--names", "whole")
    assert code == 0 and (tmp_path / "out" / "sub" / "c.tif.png").is_file()
    assert "1 of them have the same content" in said


def test_colors_of_a_folder(tmp_path, capsys):
    """A reference beside the pictures gives their colors, is no picture to be colored, and tells how sure it is."""
    root = tmp_path / "in"
    root.mkdir()
    shutil.copy(pictures_path() / "scene-gray.png", root / "gray.png")
    shutil.copy(pictures_path() / "scene-reference.png", root / "colors.png")
    (root / "exemplar.json").write_text(json.dumps({"reference": "colors.png"}))
    code, _, _ = call(capsys, root, "--output", tmp_path / "out", "--method", "memory")
    assert code == 0 and [path.name for path in (tmp_path / "out").glob("*.png")] == ["gray.png"]
    assert re.search(r'class="sure">0\.\d\d<', (tmp_path / "out" / "report.html").read_text("utf-8"))
    one = [str(root / "gray.png"), "--reference", str(root / "colors.png"), "--output", str(tmp_path / "one.png")]
    cli.main(["colorize", *one, "--method", "memory", "--no-sheet"])
    assert torch.equal(load_picture(tmp_path / "one.png"), load_picture(tmp_path / "out" / "gray.png"))


def test_words_of_a_folder(tmp_path, capsys):
    root = tmp_path / "in"
    root.mkdir()
    shutil.copy(pictures_path() / "words-gray.png", root / "gray.png")
    (root / "exemplar.json").write_text(json.dumps({"prompt": "a red house"}))
    arguments = ("--steps", "2")
    code, _, _ = call(capsys, root, "--output", tmp_path / "out", "--method", "describe", "--with", "--steps 2")
    assert code == 0
    cli.main(
        [
            "describe",
            str(root / "gray.png"),
            "--prompt",
            "a red house",
            "--output",
            str(tmp_path / "one.png"),
            *arguments,
        ]
    )
    assert torch.equal(load_picture(tmp_path / "one.png"), load_picture(tmp_path / "out" / "gray.png"))


def test_memory_without_colors(tree, tmp_path, capsys):
    code, _, _ = call(capsys, tree, "--output", tmp_path / "out", "--method", "memory")
    assert code == 1 and "nothing says what the colors are" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_two_processes(tree, tmp_path, capsys):
    code, _, _ = call(capsys, tree, "--output", tmp_path / "two", "--workers", "2", *SMALL)
    assert code == 0
    call(capsys, tree, "--output", tmp_path / "one", *SMALL)
    for path in (tmp_path / "one").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


@pytest.mark.parametrize(
    "arguments, told",
    [
        (("--with", "--steady 2"), "--with: --steady is not for an archive"),
        (("--with", "more.png"), "--with: found 'more.png', expected options of auto alone"),
        (("--with", "--nonsense 2"), "--with: unrecognized arguments: --nonsense"),
        (("--with=--help",), "--with: it asks for help"),
        (("--with", "'"), "--with: No closing quotation"),
        (("--with", "--model missing.pth"), "missing.pth does not exist"),
        (("--workers", "0"), "--workers is 0; it must be from 1 to 4096"),
        (("--format", "exr"), "choose 16 bits"),
        (("--format", "jpg", "--bits", "16"), "choose 8 bits"),
    ],
)
def test_what_is_refused_before_anything_is_written(tree, tmp_path, capsys, arguments, told):
    code, _, said = call(capsys, tree, "--output", tmp_path / "out", *arguments)
    assert code == 1 and told in said and not (tmp_path / "out").exists()


def test_inputs_that_are_none(tree, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for source, told in (
        (tree / "a.png", "is a picture; an archive is a folder"),
        (tmp_path / "missing", "does not exist"),
        (tmp_path / "empty", "has no pictures"),
    ):
        code, _, said = call(capsys, source, "--output", tmp_path / "out")
        assert code == 1 and told in said
    code, _, said = call(capsys, tree, "--output", tree)
    assert code == 1 and "is the folder of the pictures" in said


def test_results_within_the_tree_are_no_pictures_of_it(tree, capsys):
    call(capsys, tree, "--output", tree / "colored", *SMALL)
    code, _, said = call(capsys, tree, "--output", tree / "colored", *SMALL)
    assert code == 0 and "3 pictures, 3 done before" in said


def test_a_cluster_without_ray(tree, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, said = call(capsys, tree, "--output", tmp_path / "out", "--address", "auto", *SMALL)
    assert code == 1 and 'Ray is not installed, which --address asks; pip install "exemplar[cluster]"' in said
