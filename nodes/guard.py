"""What stands around the work of every node: its widgets are looked at first, and errors are told under its name."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch
from comfy_api.latest import io

from ..color.batches import ran_out
from .widgets import check_widgets, title

_SMALLER = "use smaller pictures, or close what else needs memory"
_LOWER = "lower resolution, or close what else needs memory"
_LIGHTER = "choose a lower precision, or close what else needs memory"

#: What helps where memory runs out, for nodes where it is more than smaller pictures.
_WHAT_TO_DO = {
    "ExemplarColorize": "lower resolution, set keep_on to cpu, or choose a lower precision",
    "ExemplarTranslate": _LOWER,
    "ExemplarColorFeatures": _LOWER,
    "ExemplarColorMemory": _LOWER,
    "ExemplarColorStrokes": _LOWER,
    "ExemplarMemoryColorize": _LOWER,
    "ExemplarColorizeVideo": _LOWER,
    "ExemplarDDIMInversion": "use a smaller picture, or keep fewer layers, on the cpu, in Attention Capture",
    "ExemplarConceptInversion": _LOWER,  # gradient_checkpointing has turned itself on
    "ExemplarPivotInversion": "invert a smaller picture, or close what else needs memory",
    "ExemplarDualAttentionColor": "keep fewer layers, on the cpu, in Attention Capture, or use smaller pictures",
    "ExemplarAttentionMap": "choose coarser layers, or use smaller pictures",
    "ExemplarDDColor": "lower resolution, or use smaller pictures",
    "ExemplarLCADCondition": "lower resolution",
    "ExemplarLCADDecode": "lower resolution in L-CAD Condition, or use smaller pictures",
    "ExemplarDEADiffEncode": "choose a lower precision in Load DEADiff, or close what else needs memory",
    "ExemplarLoadDDColor": _LIGHTER,
    "ExemplarLoadDEADiff": _LIGHTER,
}


def guarded(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node itself, its ``execute`` between a check of its widgets and a look at what it raises.

    Pipelines know what an input is called, not which node asks: what they refuse gets the node's name. Where memory ran
    out, the error says so and what to lower; it is torch's own class, at which ComfyUI lets go of all models.
    """
    execute = node.__dict__["execute"].__func__

    @wraps(execute)
    def around(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> io.NodeOutput:
        check_widgets(cls, inputs)
        try:
            return execute(cls, *args, **inputs)
        except Exception as error:
            if str(error).startswith(title(cls)):
                raise
            if ran_out(error):
                # without what it comes from: that is told, and would keep what the failed work holds
                raise _memory_ran_out(cls, error) from None
            # those of Python itself (a KeyError, a UnicodeDecodeError) are no refusals
            if type(error) not in (ValueError, LookupError):
                raise
            raise type(error)(f"{title(cls)}: {error}") from error

    node.execute = classmethod(around)
    return node


def _memory_ran_out(node: type[io.ComfyNode], error: Exception) -> torch.OutOfMemoryError:
    """What to say; what the failed work held is freed."""
    from ..hosts.comfy.memory import out_of_memory

    out_of_memory(error)
    advice = _WHAT_TO_DO.get(node.define_schema().node_id, _SMALLER)
    return torch.OutOfMemoryError(f"{title(node)}: memory ran out, with as little at once as possible; {advice}.")
