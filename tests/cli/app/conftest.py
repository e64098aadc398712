"""The embedded models, loaded once, and a desk."""

from pathlib import Path

import pytest
import torch

from comfyui_exemplar.cli.app.desk import Desk
from comfyui_exemplar.cli.app.models import Models

PICTURES = Path(__file__).parents[3] / "demo" / "pictures"


@pytest.fixture(scope="session")
def models():
    placed = {"device": torch.device("cpu"), "dtype": torch.float32, "prediction": "auto", "vae": None}
    return Models.load(None, None, placed)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)
