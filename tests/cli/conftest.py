"""A folder with pictures to color."""

import pytest

from ..fixtures.pictures import shapes


@pytest.fixture
def folder(tmp_path):
    shapes(48, 40, "L").save(tmp_path / "gray.png")
    shapes(64, 64).save(tmp_path / "reference.png")
    return tmp_path
