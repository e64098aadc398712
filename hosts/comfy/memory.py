"""Memory under ComfyUI's model manager."""

from __future__ import annotations

import comfy.model_management

from ...color.batches import ran_out


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out; if so, what can be freed is freed."""
    if not comfy.model_management.is_oom(error) and not ran_out(error):
        return False
    comfy.model_management.soft_empty_cache()
    return True
