"""What lives on the pretended device while a test runs."""

import gc

import pytest

from ..fixtures.pretended_gpu import MEMORY


@pytest.fixture
def lives():
    """Call it for the bytes that the test has on the device: (now, at the peak). In the end there must be none."""
    gc.collect()
    before = MEMORY.now
    MEMORY.reset()
    yield lambda: (MEMORY.now - before, MEMORY.peak - before)
    gc.collect()
    assert MEMORY.now == before
