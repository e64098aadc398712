"""Color memories to files and from files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from ..hosts.comfy import changes, output
from ..hosts.comfy.folders import COLOR_MEMORIES
from ..pipelines.memory_settings import SaveMemorySettings
from .common import CATEGORY_MEMORY, ColorMemory
from .inputs import choice, expect
from .memory_inputs import ALIASES
from .widgets import announce, later_widgets, resolved, widgets

if TYPE_CHECKING:
    from ..memory.entries import ColorMemory as Memory


class SaveMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarSaveMemory",
            display_name="Save Color Memory",
            category=CATEGORY_MEMORY,
            description="Saves a color memory to ComfyUI's output folder as a safetensors file that says what made it.",
            search_aliases=["save memory", "export memory", *ALIASES],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
            inputs=[
                ColorMemory.Input("memory", tooltip="The memory to save."),
                *widgets(SaveMemorySettings, "filename_prefix"),
                *later_widgets(SaveMemorySettings),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None) -> bool | str:
        return output.check_prefix(filename_prefix)

    @classmethod
    def execute(cls, memory: Memory, **values: Any) -> io.NodeOutput:
        from ..files.memories import save_new_memory

        settings = resolved(cls, SaveMemorySettings, {}, values)
        expect(cls, memory=memory)
        folder, stem, number, inside = output.destination(settings.filename_prefix, 0, 0)
        path = save_new_memory(folder, stem, number, memory)
        announce(cls, f"{path.name}, {len(memory)} entries, {memory.nbytes / 2**20:.1f} MB")
        return io.NodeOutput(ui={"memories": [{"filename": path.name, "subfolder": inside, "type": "output"}]})


class LoadMemory(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ExemplarLoadMemory",
            display_name="Load Color Memory",
            category=CATEGORY_MEMORY,
            description="Loads a color memory that Save Color Memory or the command line wrote.",
            search_aliases=["load memory", "open memory", *ALIASES],
            inputs=[
                io.Combo.Input(
                    "memory_name",
                    options=COLOR_MEMORIES.choices(),
                    tooltip="A file in models/color_memories, or, with [output] behind its name, in color_memories of "
                    "the output folder, where Save Color Memory puts them.",
                )
            ],
            outputs=[
                ColorMemory.Output(
                    display_name="memory", tooltip="To be asked with the model that it was written with."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, memory_name: str | None = None) -> bool | str:
        return COLOR_MEMORIES.check(memory_name)

    @classmethod
    def fingerprint_inputs(cls, memory_name: str | None = None) -> str:
        known = memory_name is not None and COLOR_MEMORIES.check(memory_name) is True
        return changes.fingerprint([COLOR_MEMORIES.path(memory_name)]) if known else ""

    @classmethod
    def execute(cls, memory_name: str) -> io.NodeOutput:
        from ..files.memories import load_memory

        return io.NodeOutput(load_memory(choice(cls, "memory_name", memory_name, COLOR_MEMORIES.path)))


NODES = [SaveMemory, LoadMemory]
