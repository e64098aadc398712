"""A folder with pictures to color."""

import pytest

from ..fixtures.pictures import shapes


@pytest.fixture
def folder(tmp_path):
    shapes(48, 40, "L").save(tmp_path / "gray.png")
    shapes(64, 64).save(tmp_path / "reference.png")
    return tmp_path


@pytest.fixture
def place(folder, monkeypatch):
    """The folder of pictures as the working directory."""
    monkeypatch.chdir(folder)
    for name in ("scan.png", "scan.tif", "a.png", "a_colored.png", "b.png", "b_colored_sheet.png"):
        shapes(48, 40, "L").save(name)
    (folder / "sub").mkdir()
    shapes(48, 40, "L").save("sub/gray.png")
    (folder / "words.png").write_text("words")
    return folder
