"""Memory under ComfyUI's model manager."""

from __future__ import annotations

import comfy.model_management

from ...color.batches import let_go, ran_out


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; if so, what can be freed is freed."""
    if not ran_out(error) and not comfy.model_management.is_oom(error):
        return False
    let_go(error)
    comfy.model_management.soft_empty_cache()
    return True
