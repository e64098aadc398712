"""ComfyUI's own attention, as an edit asks for it: with what the running call says, and whatever newer cores pass.

An edit's attention may be wider than the layer's (doubled heads), scaled in its own way, and have values that are
narrower than its keys. Not every function of the core serves that, so :data:`KERNELS` says what each can do. What the
user chose runs where it can; else torch's own attention, which takes everything.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from comfy.ldm.modules.attention import attention_pytorch, optimized_attention
from torch import Tensor

from ...attention.call import HALVES, SELF, Attend
from ...attention.fused import by_head, takes_narrow, torchs_own, widened, with_factor
from ...attention.layers import Layer

#: What newer cores hand their attention functions beside the tensors: the kernel that a layer's file asks for.
PREFERRED = "preferred_attention"

#: Where the core's attention functions are defined.
CORE = "comfy.ldm.modules.attention"

#: The function of a call's options that runs in place of the core's.
OVERRIDE = "optimized_attention_override"


@dataclass(frozen=True)
class Kernel:
    """What an attention function can do with the tensors of an edit.

    :param widths: of heads, for which it runs its kernel; beyond them it raises, or logs an error a call. None is any.
    :param scales: it multiplies the logits with a ``scale`` that it is handed, in float32.
    :param halves: it runs in half precision only.
    """

    widths: Collection[int] | None = None
    scales: bool = True
    halves: bool = False


#: What the core's functions can do, by name, read in ComfyUI 0.28 and 0.33 and in the kernels that they call.
KERNELS = {
    "attention_pytorch": Kernel(),
    # these three build maps, whole or in slices; the last multiplies the queries, which rounds them
    "attention_basic": Kernel(),
    "attention_split": Kernel(),
    "attention_sub_quad": Kernel(scales=False),
    "attention_xformers": Kernel(range(257)),
    "attention_flash": Kernel(range(257), halves=True),
    "attention_sage": Kernel(range(129), halves=True),
    # ignores a scale; and wants widths that are powers of two
    "attention3_sage": Kernel((64, 128), scales=False, halves=True),
    "attention_comfy_kitchen_int8": Kernel(range(257)),
}

#: What is expected of a function of another pack: no kernel but torch's goes beyond this width, and what is not known
#: to heed a scale may ignore it without a word, or raise.
FOREIGN = Kernel(range(257), scales=False)


def fused_attention(options: Mapping[str, Any], preferred: Any = None) -> Attend:
    """ComfyUI's attention for the running call (with whatever override other packs set).

    :param options: of the call; empty outside of one.
    :param preferred: see :func:`keywords`.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float | None = None) -> Tensor:
        # On a CPU ComfyUI's choice builds attention maps in slices; torch's fused kernel is exact there and faster.
        function = attention_pytorch if k.device.type == "cpu" else optimized_attention
        said = keywords(function, options, preferred)
        running = runs(function, said)
        width, values = q.shape[-1] // heads, v.shape[-1] // heads
        kernel = serving(running, width, k.device.type, k.dtype)
        if kernel is None:
            function, said, running, kernel = attention_pytorch, {}, attention_pytorch, Kernel()
        if scale is not None and kernel.scales and torchs_own():
            said["scale"] = scale
        elif scale is not None:
            q = with_factor(q, scale * math.sqrt(width))
        q = q.to(k.dtype)
        if values == width:
            return function(q, k, v, heads, **said)
        if running is attention_pytorch and takes_narrow(k.device, k.dtype, width, values):
            q, k, v = (by_head(t, heads) for t in (q, k, v))
            out = function(q, k, v, heads, skip_reshape=True, skip_output_reshape=True, **said)
            return out.transpose(1, 2).flatten(2)
        out = function(q, k, widened(v, heads, width), heads, **said)
        return out.unflatten(-1, (heads, -1))[..., :values].flatten(2)

    return attend


def serving(running: Callable, width: int, device: str, dtype: torch.dtype) -> Kernel | None:
    """What an attention function can do for a call; None where it can't run it and torch's attention has to.

    Only SD1.x and L-CAD have heads, of their coarsest layers, that doubled (320) are too wide for all kernels but
    torch's memory-efficient one on NVIDIA. Elsewhere torch builds maps of them, which are small: such a layer has 1024
    tokens at most for a picture of 1024 x 1024.

    :param running: see :func:`runs`.
    :param width: of a head's queries and keys.
    :param device: its type. On a CPU whatever is chosen is asked: limits are those of kernels for GPUs.
    """
    kernel = _kernel(running)
    if device == "cpu":
        return kernel
    fits = kernel.widths is None or width in kernel.widths
    return kernel if fits and (dtype in HALVES or not kernel.halves) else None


def runs(function: Callable, said: Mapping[str, Any]) -> Callable:
    """The function that will compute when one of the core's is called: an override, a preference, or the function.

    :param said: its keywords, see :func:`keywords`.
    """
    override = (said.get("transformer_options") or {}).get(OVERRIDE)
    if override is not None:
        return _behind(override)
    preferred = said.get(PREFERRED)
    return function if preferred is None else getattr(preferred, "function", preferred) or function


def _behind(override: Callable) -> Callable:
    """The function that the core's own setter, or :func:`attending`, hands everything on to; else the override."""
    if isinstance(override, _Always):
        return override.function
    code = getattr(override, "__code__", None)
    if code is None or getattr(override, "__module__", "") != "comfy.model_patcher":
        return override
    held = dict(zip(code.co_freevars, override.__closure__ or (), strict=True)).get("optimized_attention")
    return override if held is None else held.cell_contents


def _kernel(function: Callable) -> Kernel:
    """What a function can do: the core's by name, any other that has a parameter ``scale`` heeds it."""
    if getattr(function, "__module__", "") == CORE:
        return KERNELS.get(getattr(function, "__name__", ""), FOREIGN)
    code = getattr(function, "__code__", None)
    named = () if code is None else code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return replace(FOREIGN, scales="scale" in named)


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


@dataclass(frozen=True)
class _Always:
    """An override that hands everything on to one function."""

    function: Callable

    def __call__(self, _chosen: Callable, *args: Any, **named: Any) -> Tensor:
        """Attention by the function, whatever was chosen."""
        return self.function(*args, **named)


def attending(model: Any, function: Callable) -> Any:
    """A clone of a MODEL all of whose attention is one of the core's functions, by the core's own setter if it has one.

    :param function: such as ``attention_pytorch``.
    """
    patched = model.clone()
    setter = getattr(patched, "set_model_optimized_attention", None)
    if setter is not None:
        setter(function)
        return patched
    patched.model_options.setdefault("transformer_options", {})[OVERRIDE] = _Always(function)
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
