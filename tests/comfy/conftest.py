"""Tests against a real ComfyUI; without COMFYUI_PATH they are skipped."""

import importlib.util

import pytest

from . import server as comfy_server

# Those run within ComfyUI's own interpreter, where test_inside.py starts them.
collect_ignore = [] if importlib.util.find_spec("comfy") else ["inside"]


@pytest.fixture(scope="session")
def checkout():
    path = comfy_server.comfyui_path()
    if path is None:
        pytest.skip(comfy_server.NEEDS_COMFYUI)
    return path


@pytest.fixture(scope="session")
def server(checkout):
    running = comfy_server.Server(checkout, comfy_server.comfyui_python())
    try:
        running.start()
        yield running
    finally:
        running.stop()
