"""Generators run to their end."""

import pytest

from comfyui_exemplar.diffusion.learning import drain


def count(stop):
    yield from range(stop)
    return "done"


def test_items_and_value():
    seen = []
    assert drain(count(3), seen.append) == "done" and seen == [0, 1, 2]
    assert drain(count(0), seen.append) == "done" and seen == [0, 1, 2]


@pytest.mark.parametrize("error", [RuntimeError, StopIteration])
def test_what_the_listener_raises_ends_it(error):
    def refuse(_):
        raise error

    with pytest.raises(error):
        drain(count(3), refuse)
