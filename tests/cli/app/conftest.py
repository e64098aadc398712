"""The embedded models, loaded once, and the page's jobs."""

from pathlib import Path

import pytest
import torch

from comfyui_exemplar.cli.app.jobs import Jobs
from comfyui_exemplar.cli.app.models import Models

PICTURES = Path(__file__).parents[3] / "demo" / "pictures"


@pytest.fixture(scope="session")
def models():
    placed = {"device": torch.device("cpu"), "dtype": torch.float32, "prediction": "auto", "vae": None}
    return Models.load(None, None, placed)


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path)
