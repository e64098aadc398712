"""What a node says when memory runs out: one clear error, where the work below could not do with less."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

import torch

from ..color.batches import ran_out
from .widgets import title

if TYPE_CHECKING:
    from comfy_api.latest import io

_SMALLER = "use smaller pictures, or close what else needs memory"
_LIGHTER = "choose a lower precision, or close what else needs memory"
_CHECKPOINTING = "turn gradient_checkpointing on"

#: What helps, for nodes where it is more than smaller pictures.
_WHAT_TO_DO = {
    "ExemplarColorize": "lower resolution, set keep_on to cpu, or choose a lower precision",
    "ExemplarTranslate": f"lower resolution, or {_CHECKPOINTING}",
    "ExemplarDDIMInversion": "use a smaller picture, or keep fewer layers, on the cpu, in Attention Capture",
    "ExemplarConceptInversion": f"lower resolution, or {_CHECKPOINTING}",
    "ExemplarPivotInversion": f"{_CHECKPOINTING}, or invert a smaller picture",
    "ExemplarDualAttentionColor": "keep fewer layers, on the cpu, in Attention Capture, or use smaller pictures",
    "ExemplarAttentionMap": "choose coarser layers, or use smaller pictures",
    "ExemplarDDColor": "lower resolution, or use smaller pictures",
    "ExemplarLCADCondition": "lower resolution",
    "ExemplarLCADDecode": "lower resolution in L-CAD Condition, or use smaller pictures",
    "ExemplarDEADiffEncode": "choose a lower precision in Load DEADiff, or close what else needs memory",
    "ExemplarLoadDDColor": _LIGHTER,
    "ExemplarLoadDEADiff": _LIGHTER,
}


def telling(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node itself; when memory runs out in it, its error says so and what to lower.

    The error is torch's own class, at which ComfyUI lets go of all models.
    """
    execute = node.__dict__["execute"].__func__

    @wraps(execute)
    def told(cls: type[io.ComfyNode], *args: Any, **inputs: Any) -> io.NodeOutput:
        try:
            return execute(cls, *args, **inputs)
        except Exception as error:
            said = f"{title(cls)}: memory ran out"
            if not ran_out(error) or str(error).startswith(said):
                raise
            from ..hosts.comfy.memory import out_of_memory

            out_of_memory(error)
            advice = _WHAT_TO_DO.get(node.define_schema().node_id, _SMALLER)
            # without what it comes from: that is told, and would keep what the failed work holds
            raise torch.OutOfMemoryError(f"{said}, with as little at once as possible; {advice}.") from None

    node.execute = classmethod(told)
    return node
