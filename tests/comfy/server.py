"""A real ComfyUI server for tests: started in a throw-away folder, spoken to over HTTP, stopped for certain."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACK = "ComfyUI-Exemplar"

# Runs ComfyUI's main.py, and ends it when the pipe to the tests closes: also a killed test run leaves no server behind.
_BOOT = """
import importlib, os, runpy, sys, threading
def end_with_the_tests():
    os.read(0, 1)
    os._exit(1)
threading.Thread(target=end_with_the_tests, daemon=True).start()
for name in filter(None, os.environ.get("COMFYUI_STUB", "").split(",")):
    importlib.import_module(name)
sys.path.insert(0, os.getcwd())
runpy.run_path("main.py", run_name="__main__")
"""

# A second model without downloading one: the embedded one with its first layer changed. And a look at how far the
# running node is, which the server otherwise tells over a websocket only.
_HELPER_PACK = """
import nodes
import torch
from aiohttp import web
from comfy.ldm.modules.attention import optimized_attention
from comfy_execution.progress import get_progress_state
from server import PromptServer

@PromptServer.instance.routes.get("/test/progress")
async def progress(request):
    now = get_progress_state()
    return web.json_response({"prompt": now.prompt_id, **{node: state["value"] for node, state in now.nodes.items()}})

class OtherModel:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "load", "testing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        model = nodes.NODE_CLASS_MAPPINGS["ExemplarLoadDemoModel"].execute().result[0]
        next(model.model.diffusion_model.input_blocks[0].parameters()).data.mul_(1.5)
        return (model,)

class ImagePrompt:
    # what IP-Adapter packs do: an attention of their own, added to the prompt's on the same layers
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "testing"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def patch(self, model):
        def replace(q, k, v, options):
            image = torch.randn(1, 4, q.shape[-1], generator=torch.Generator().manual_seed(1))
            image = image.to(q).expand(len(q), -1, -1)
            text = optimized_attention(q, k, v, options["n_heads"])
            return text + 0.3 * optimized_attention(q, image, image, options["n_heads"])

        patched = model.clone()
        for place in (("input", 1), ("input", 3), ("middle", 0), ("output", 4), ("output", 5)):
            patched.set_model_attn2_replace(replace, *place)
        return (patched,)

NODE_CLASS_MAPPINGS = {"TestOtherModel": OtherModel, "TestImagePrompt": ImagePrompt}
"""


def needs_comfyui() -> None:
    """Skip the calling module where no ComfyUI is named."""
    if not os.environ.get("COMFYUI_PATH"):
        pytest.skip(
            "needs ComfyUI: set COMFYUI_PATH to a checkout (and COMFYUI_PYTHON to the Python that runs it)",
            allow_module_level=True,
        )


def comfyui_path() -> Path:
    """The checkout that COMFYUI_PATH names."""
    path = Path(os.environ["COMFYUI_PATH"])
    if not (path / "main.py").is_file():
        raise FileNotFoundError(f"COMFYUI_PATH is {path}, but there is no main.py; set it to a ComfyUI checkout.")
    return path


def comfyui_python() -> str:
    return os.environ.get("COMFYUI_PYTHON") or sys.executable


@dataclass
class Run:
    """What became of a prompt.

    :param status: ``success``, ``error`` or ``interrupted``.
    :param error: message of the node that failed.
    :param node: id of the node that failed or was interrupted.
    :param cached: ids of nodes that did not run because their result was there.
    :param files: files that output nodes wrote, by node id. ``texts``: what they show as text.
    """

    status: str
    error: str
    node: str | None
    cached: set[str]
    files: dict[str, list[Path]]
    texts: dict[str, list[str]]


class Server:
    """The server process, and the requests that tests make."""

    def __init__(self, checkout: Path, python: str) -> None:
        self.checkout, self.python = checkout, python
        self.base = Path(tempfile.mkdtemp(prefix="comfyui-exemplar-test-"))
        self.process: subprocess.Popen | None = None
        self.url = ""
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy

    def start(self, seconds: float = 240) -> None:
        for name in ("custom_nodes/test_helpers", "input", "output", "temp", "user", "models/checkpoints"):
            (self.base / name).mkdir(parents=True)
        shutil.copy(self.checkout / "input" / "example.png", self.base / "input")  # every installation has it
        (self.base / "custom_nodes" / PACK).symlink_to(ROOT, target_is_directory=True)
        (self.base / "custom_nodes" / "test_helpers" / "__init__.py").write_text(_HELPER_PACK, "utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        arguments = [
            "--listen",
            "127.0.0.1",
            "--port",
            str(port),
            "--base-directory",
            str(self.base),
            "--database-url",
            "sqlite:///:memory:",
            "--disable-auto-launch",
            "--disable-api-nodes",
        ]
        if not self._has_cuda():
            arguments.append("--cpu")
        with (self.base / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                [self.python, "-c", _BOOT, *arguments],
                cwd=self.checkout,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
            )
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"ComfyUI ended with status {self.process.returncode} on start:\n{self.log()[-4000:]}"
                )
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.3)
        raise TimeoutError(f"ComfyUI did not answer within {seconds:.0f} s:\n{self.log()[-4000:]}")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
            self.process.stdin.close()
        shutil.rmtree(self.base, ignore_errors=True)

    def _has_cuda(self) -> bool:
        code = "import torch; print(torch.cuda.is_available())"
        return (
            subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
            == "True"
        )

    def log(self) -> str:
        return (self.base / "server.log").read_text("utf-8", "replace")

    def raw(self, path: str, data: Any = None) -> bytes:
        body = None if data is None else json.dumps(data).encode()
        address = self.url + urllib.parse.quote(path, safe="/?&=")
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"} if body else {})
        with self._opener.open(request, timeout=60) as answer:
            return answer.read()

    def get(self, path: str) -> Any:
        return json.loads(self.raw(path))

    def queue(self, prompt: dict) -> str:
        """Queue an API prompt.

        :returns: its id.
        :raises urllib.error.HTTPError: it was refused; the body says why.
        """
        return json.loads(self.raw("/prompt", {"prompt": prompt}))["prompt_id"]

    def refusal(self, prompt: dict) -> tuple[int, str]:
        """HTTP status and body for a prompt that must be refused."""
        try:
            self.queue(prompt)
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        return 200, ""

    def wait(self, prompt_id: str, seconds: float = 600) -> Run:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI died:\n{self.log()[-4000:]}")
            found = self.get(f"/history/{prompt_id}").get(prompt_id)
            if found:
                return self._read(found)
            time.sleep(0.05)
        self.raw("/interrupt", {})
        raise TimeoutError(f"No result within {seconds:.0f} s:\n{self.log()[-2000:]}")

    def run(self, prompt: dict) -> Run:
        return self.wait(self.queue(prompt))

    def wait_for_steps(self, prompt_id: str, node: str, steps: int, seconds: float = 60) -> None:
        """Until a node of a prompt has made some steps."""
        ends = time.monotonic() + seconds
        while True:
            now = self.get("/test/progress")
            if now["prompt"] == prompt_id and now.get(node, 0) >= steps:
                return
            if time.monotonic() > ends:
                raise TimeoutError(f"Node {node} made no {steps} steps in {seconds:.0f} s:\n{self.log()[-2000:]}")
            time.sleep(0.02)

    def forget(self, seconds: float = 30) -> None:
        """Drop cached results and loaded models, so that the next prompt runs as in a new server."""
        probe = {
            "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        }
        self.run(probe)
        # the server only takes note, and does it some time later
        self.raw("/free", {"unload_models": True, "free_memory": True})
        ends = time.monotonic() + seconds
        while self.run(probe).cached:
            if time.monotonic() > ends:
                raise TimeoutError(f"ComfyUI kept its cache for {seconds:.0f} s after /free.")
            time.sleep(0.1)

    def _read(self, found: dict) -> Run:
        messages = dict(found["status"]["messages"])
        failure = messages.get("execution_error") or messages.get("execution_interrupted") or {}
        status = "interrupted" if "execution_interrupted" in messages else found["status"]["status_str"]
        files = {}
        for node, output in found["outputs"].items():
            items = [
                item for group in output.values() for item in group if isinstance(item, dict) and "filename" in item
            ]
            files[node] = [self.base / item["type"] / item["subfolder"] / item["filename"] for item in items]
        return Run(
            status,
            failure.get("exception_message", ""),
            failure.get("node_id"),
            set(messages.get("execution_cached", {}).get("nodes", ())),
            files,
            {node: output.get("text", []) for node, output in found["outputs"].items()},
        )


VIRTUAL = {"Note", "MarkdownNote"}
UPLOAD = "IMAGEUPLOAD"  # a button of the page, which no prompt has
LIST = "COMFY_AUTOGROW_V3"  # sockets that grow, each named after the input
NESTED = "COMFY_DYNAMICCOMBO_V3"  # a choice with inputs of its own, named behind a dot
MUTED = 2  # a node that the page leaves out of the prompt


def to_prompt(workflow: dict) -> dict:
    """A saved workflow (the page's format) as the prompt that the page would queue.

    Widgets are stored by position: the n-th value belongs to the n-th input that has a widget. A seed is followed by
    what the page does with it after a run, and a box by its numbers one by one, which are no inputs.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    muted = {str(node["id"]) for node in workflow["nodes"] if node.get("mode") == MUTED}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in VIRTUAL or str(node["id"]) in muted:
            continue
        widgets = [slot["name"] for slot in node["inputs"] if "widget" in slot]
        values = list(node.get("widgets_values") or [])
        for seed in {"seed", "noise_seed"} & set(widgets):
            del values[widgets.index(seed) + 1]
        for place, value in [*enumerate(values)][::-1]:
            if isinstance(value, dict):
                del values[place + 1 : place + 1 + len(value)]
        inputs = dict(zip(widgets, values, strict=True))
        for slot in node["inputs"]:
            if slot["type"] == UPLOAD:
                del inputs[slot["name"]]
        links = {slot["name"]: slot["link"] for slot in node["inputs"] if slot["link"] is not None}
        inputs.update({name: sources[link] for name, link in links.items() if sources[link][0] not in muted})
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def load_workflow(name: str) -> dict:
    return json.loads((ROOT / "example_workflows" / f"{name}.json").read_text("utf-8"))


def check_inputs(object_info: dict, node_id: str, body: dict) -> None:
    """A node of a prompt names inputs that exist, has the required ones, and values that they take."""
    info = object_info[body["class_type"]]
    specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    where = f"node {node_id} ({body['class_type']})"
    named = {key: key if key in specs else key.split(".")[0] for key in body["inputs"]}  # a list's are masks.mask0 ...
    assert set(named.values()) <= set(specs), where
    assert all(key == whole or specs[whole][0] in (LIST, NESTED) for key, whole in named.items()), where
    assert set(info["input"].get("required", {})) <= set(named.values()), where
    for key, value in body["inputs"].items():
        kind, options = (*specs[named[key]], {})[:2]
        if isinstance(value, list) or key == "ckpt_name":  # checkpoints are the user's own
            continue
        if kind == NESTED:  # its choices have inputs of their own
            options = {"options": [option["key"] for option in options["options"]]}
        choices = kind if isinstance(kind, list) else options.get("options")
        assert choices is None or value in choices, f"{where}.{key}"
        if "min" in options:
            assert options["min"] <= value <= options["max"], f"{where}.{key}"


def only(prompt: dict, class_type: str) -> str:
    """Id of the one node of a type."""
    (found,) = [node for node, body in prompt.items() if body["class_type"] == class_type]
    return found


def descendants(prompt: dict, start: str) -> set[str]:
    """A node and everything that depends on it."""
    found = {start}
    while True:
        more = {
            node
            for node, body in prompt.items()
            if any(isinstance(value, list) and value[0] in found for value in body["inputs"].values())
        }
        if more <= found:
            return found
        found |= more
