"""Inputs that were renamed: what an input was called before stands in its declaration, and nowhere else.

A declaration says so by ``extra_dict=renamed_from("gray_image")``; that of a setting's widget by the setting
(``formerly``). It is part of what ``/object_info`` says of the node, where ``web/js/renamed_inputs.js`` reads it: the
page renames in workflows before they load, the server in prompts before they are looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from comfy_api.latest import io

from ..settings import RENAMED_FROM

#: Node id -> former id of an input -> today's.
Renamed = Mapping[str, Mapping[str, str]]


def renamed_from(name: str) -> dict[str, str]:
    """An input's ``extra_dict`` that says what it was called."""
    return {RENAMED_FROM: name}


def renamed_inputs(nodes: Iterable[type[io.ComfyNode]]) -> dict[str, dict[str, str]]:
    """All inputs of some nodes that were renamed."""
    renamed: dict[str, dict[str, str]] = {}
    for schema in (node.define_schema() for node in nodes):
        former = {item.extra_dict[RENAMED_FROM]: item.id for item in schema.inputs if RENAMED_FROM in item.extra_dict}
        if former:
            renamed[schema.node_id] = former
    return renamed


def rename_inputs(prompt: Any, renamed: Renamed) -> None:
    """Give the inputs of a prompt in API format their names of today, in place.

    Where a node has an input under both names, today's stays. Whatever is no prompt is left to ComfyUI's own checks.
    """
    for node in prompt.values() if isinstance(prompt, dict) else ():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        kind = node.get("class_type") if isinstance(inputs, dict) else None
        for former, name in renamed.get(kind, {}).items() if isinstance(kind, str) else ():
            if former in inputs:
                value = inputs.pop(former)
                inputs.setdefault(name, value)


def rename_in_prompts(nodes: Iterable[type[io.ComfyNode]]) -> None:
    """From now on the server renames in every prompt that it is sent; nothing happens where there is no server."""
    try:
        from server import PromptServer
    except ImportError:
        return
    server = getattr(PromptServer, "instance", None)
    if server is None or not hasattr(server, "add_on_prompt_handler"):
        return
    renamed = renamed_inputs(nodes)

    def handler(request: dict[str, Any]) -> dict[str, Any]:
        rename_inputs(request.get("prompt"), renamed)
        return request

    server.add_on_prompt_handler(handler)
