"""ComfyUI's own attention, as an edit asks for it: with what the running call says, and whatever newer cores pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from torch import Tensor

from ...attention.call import SELF
from ...attention.layers import Layer

#: What newer cores hand their attention functions beside the tensors: the kernel that a layer's file asks for.
PREFERRED = "preferred_attention"


def fused_attention(
    options: Mapping[str, Any], preferred: Any = None
) -> Callable[[Tensor, Tensor, Tensor, int], Tensor]:
    """ComfyUI's attention for the running call (with whatever override other packs set).

    :param options: of the call; empty outside of one.
    :param preferred: see :func:`keywords`.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        # On a CPU ComfyUI's choice builds attention maps in slices; torch's fused kernel is exact there and faster.
        function = attention_pytorch if q.device.type == "cpu" else optimized_attention
        return function(q, k, v, heads, **keywords(function, options, preferred))

    return attend


def plain_attention(q: Tensor, k: Tensor, v: Tensor, options: Mapping[str, Any], preferred: Any = None) -> Tensor:
    """What ComfyUI does on a layer that nobody replaced. q, k and v are (B, n, heads x width)."""
    return optimized_attention(q, k, v, options["n_heads"], **keywords(optimized_attention, options, preferred))


def keywords(function: Callable, options: Mapping[str, Any], preferred: Any = None) -> dict[str, Any]:
    """What an attention function of ComfyUI is called with beside q, k, v and the heads.

    :param preferred: what the layer itself prefers, see :func:`preference`; what the options say counts first.
    """
    said = {"attn_precision": options.get("attn_precision"), "transformer_options": options}
    preferred = options.get(PREFERRED, preferred)
    return {**said, PREFERRED: preferred} if preferred is not None and _takes(function, PREFERRED) else said


def attending(model: Any, function: Callable) -> Any:
    """A clone of a MODEL all of whose attention is one of the core's functions, by the core's own setter if it has one.

    :param function: such as ``attention_pytorch``.
    """
    patched = model.clone()
    setter = getattr(patched, "set_model_optimized_attention", None)
    if setter is not None:
        setter(function)
        return patched
    options = patched.model_options.setdefault("transformer_options", {})
    options["optimized_attention_override"] = lambda _chosen, *args, **named: function(*args, **named)
    return patched


def preference(attention: Any) -> Any:
    """What an attention layer of a newer core prefers, None where there is no such thing."""
    return getattr(attention, "comfy_attention", None)


def preference_of(unet: Any, layer: Layer, kind: str = SELF) -> Any:
    """The same for a layer of a MODEL's UNet, by its place; None where the UNet has no such layer.

    :param kind: self-attention or cross-attention.
    """
    blocks = [unet.middle_block] if layer.block == "middle" else getattr(unet, f"{layer.block}_blocks")
    stacks = (module for block in blocks[layer.index : layer.index + 1] for module in block)
    stack = next((module.transformer_blocks for module in stacks if hasattr(module, "transformer_blocks")), ())
    return preference(getattr(stack[layer.depth], kind)) if layer.depth < len(stack) else None


@lru_cache
def _takes(function: Callable, name: str) -> bool:
    """Whether a function has a parameter of this name, or takes any."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
