"""Prints every schema of the pack as JSON, read through the stand-in: ``python tests/stand_in/dump.py``."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def plain(value: Any) -> Any:
    """Attributes of schemas, inputs and outputs, down to what JSON knows."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if hasattr(value, "about"):  # a setting's entry
        about = value.about
        return {"default": value.default, "auto": about.auto, "published": about.published}
    attributes = {key: plain(part) for key, part in vars(value).items() if not key.startswith("_")}
    return attributes | ({"type": value.get_io_type()} if hasattr(value, "get_io_type") else {})


def schemas(nodes: Iterable[Any], widget: type) -> dict[str, dict[str, Any]]:
    """Node ids with all that their schemas say; ``widget`` tells the inputs that have one."""
    found = {}
    for node in nodes:
        schema = node.GET_SCHEMA()
        inputs = [plain(item) | {"widget": isinstance(item, widget)} for item in schema.inputs]
        found[schema.node_id] = plain(schema) | {"inputs": inputs, "file": node.__module__.rpartition(".")[2]}
    return found


def read() -> dict[str, dict[str, Any]]:
    """Schemas of the pack, without ComfyUI."""
    sys.path.insert(0, str(HERE))
    spec = importlib.util.spec_from_file_location(
        "comfyui_exemplar", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["comfyui_exemplar"] = package
    spec.loader.exec_module(package)

    from comfy_api.latest import io

    return schemas(package.NODES, io.WidgetInput)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(read(), ensure_ascii=False))
