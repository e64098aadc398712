import json
import os

import pytest

from comfyui_exemplar.files.archive.finding import pictures_listed, pictures_of
from comfyui_exemplar.files.archive.folders import FolderFiles


def listed(root, skip="nowhere"):
    notes = []
    return list(pictures_of(root, root / skip, notes.append)), notes


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_a_tree_in_order(tmp_path):
    touch(
        tmp_path, "b.png", "a.TIF", "sub/c.jpg", "out/d.png", ".hidden/e.png", "._a.TIF", "notes.txt", "sub/deep/f.exr"
    )
    assert listed(tmp_path, "out") == (["a.TIF", "b.png", "sub/c.jpg", "sub/deep/f.exr"], [])


@pytest.mark.skipif(os.name == "nt", reason="links need rights")
def test_links_in_circles_end(tmp_path):
    touch(tmp_path, "a/x.png", "b/y.png")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "b" / "other").symlink_to("../a")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "self.png").symlink_to("self.png")
    names, notes = listed(tmp_path)
    assert names == ["self.png", "a/x.png", "b/y.png"]
    assert len(notes) == 2 and all("is looked at already" in each for each in notes)


def test_a_list(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\ufeffa.png\n\n./sub/b.png\r\n", "utf-8")
    assert list(pictures_listed(path)) == ["a.png", "sub/b.png"]


@pytest.mark.parametrize(
    "text, told",
    [
        ("a.png\n../b.png", "line 2 leads out of the list's folder"),
        ("a.png\nsub/../a.png", "line 2 names a.png a second time"),
        ("a\0.png", "line 1 is no name of a file"),
    ],
)
def test_lists_that_are_none(tmp_path, text, told):
    path = tmp_path / "list.txt"
    path.write_text(text, "utf-8")
    with pytest.raises(ValueError, match=told):
        list(pictures_listed(path))


def split(text):
    picture, _, mask = text.partition("@")
    return tmp(picture), tmp(mask) if mask else None, ""


def tmp(text):
    from pathlib import Path

    return Path(text)


def test_the_nearest_file_counts(tmp_path):
    touch(tmp_path, "a/b/x.png", "a/ref.png", "a/m.png", "y.png")
    (tmp_path / "a" / "exemplar.json").write_text('{"reference": "ref.png@m.png", "prompt": "a red house"}')
    files = FolderFiles(tmp_path, split)
    plain, inner = files.of("y.png"), files.of("a/b/x.png")
    assert not plain.said and plain.digest == ""
    assert inner.said == {"reference", "prompt"} and inner.prompt == "a red house"
    assert inner.reference == (f"{tmp_path / 'a' / 'ref.png'}@{tmp_path / 'a' / 'm.png'}",)
    assert {os.path.basename(name) for name in files.named} == {"ref.png", "m.png"}
    before = inner.digest
    (tmp_path / "a" / "m.png").write_bytes(b"other")
    assert FolderFiles(tmp_path, split).of("a/b/x.png").digest != before


@pytest.mark.parametrize(
    "said, told",
    [
        ({"references": []}, "has the key `references`; expected reference, prompt"),
        ({"prompt": 3}, "prompt is `3`; expected a text"),
        ({"reference": ["missing.png"]}, "names `missing.png`, which is no file there"),
        ({"reference": [""]}, "has an empty text"),
        ({"regions": []}, "regions is "),
        ([], "expected an object"),
        ("[" * 50, "expected an object"),
    ],
)
def test_files_of_folders_are_read_strictly(tmp_path, said, told):
    (tmp_path / "exemplar.json").write_text(json.dumps(said))
    with pytest.raises(ValueError, match=told):
        FolderFiles(tmp_path, split).of("a.png")
