"""Tests against a real ComfyUI; without COMFYUI_PATH they are skipped."""

import importlib.util

import pytest

from . import server as comfy_server

# Those run within ComfyUI's own interpreter, where test_inside.py starts them.
collect_ignore = [] if importlib.util.find_spec("comfy") else ["inside"]


@pytest.fixture(scope="session")
def checkout():
    return comfy_server.comfyui_path()


@pytest.fixture(scope="session")
def server(checkout):
    running = comfy_server.Server(checkout, comfy_server.comfyui_python())
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def ddcolor_file(server):
    """A tiny network of random numbers where a released one would be."""
    import torch

    from ..fixtures.ddcolor import small_weights

    folder = server.base / "models" / "ddcolor"
    folder.mkdir(exist_ok=True)
    torch.save({"params": small_weights()}, folder / "ddcolor_modelscope.pth")
    return folder / "ddcolor_modelscope.pth"


@pytest.fixture(scope="session")
def object_info(server):
    return server.get("/object_info")


@pytest.fixture
def one_node():
    return workflow("Color by example")


@pytest.fixture
def stages():
    return workflow("Color by example, stage by stage")


def workflow(name):
    return comfy_server.to_prompt(comfy_server.load_workflow(name))
