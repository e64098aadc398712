"""The builders of tiny checkpoints as one fixture: they need transformers and diffusers, which not all tests have."""

from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def tiny():
    """The builders of ``tests.fixtures.checkpoints``."""
    from ..fixtures import checkpoints

    return SimpleNamespace(
        sources=checkpoints.sources,
        unet_to_ldm=checkpoints.unet_to_ldm,
        save_folder=checkpoints.save_folder,
        unet=checkpoints.tiny_unet,
        bare=checkpoints.bare,
        rename=checkpoints.rename,
        empty_ids=checkpoints.empty_ids,
    )
