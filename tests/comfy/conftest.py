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
