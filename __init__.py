"""ComfyUI-Exemplar: color, restyle and translate pictures by example.

ComfyUI imports this file under a name made of the folder's path; everything inside therefore imports relatively.
Without ComfyUI the pack is an ordinary package, ``comfyui_exemplar``, whose layers below ``nodes`` need no ComfyUI.
"""

import importlib.util
import sys

WEB_DIRECTORY = "./web"

# find_spec, not try/except: a real import error inside the nodes must reach ComfyUI's log as itself.
if "comfy_api" in sys.modules or importlib.util.find_spec("comfy_api") is not None:
    from comfy_api.latest import ComfyExtension

    from .nodes import NODES
    from .nodes.renamed import rename_in_prompts

    class ExemplarExtension(ComfyExtension):
        """The pack, as ComfyUI asks for it."""

        async def get_node_list(self):
            """All nodes of the pack."""
            return list(NODES)

        async def on_load(self) -> None:
            """Prompts with inputs' former names are understood."""
            rename_in_prompts(NODES)

    async def comfy_entrypoint() -> ComfyExtension:
        """What ComfyUI calls when it has imported this file."""
        return ExemplarExtension()
