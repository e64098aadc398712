"""Gradients through a MODEL and a CLIP under ComfyUI's inference mode.

What is learned through are modules of their own around the weights that ComfyUI has loaded, see ``borrowed``; the MODEL
and the CLIP that came in are not touched.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import TimestepBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...attention.backward import kept_bytes
from ...diffusion.learning import SPARED
from .attention import attending
from .borrowed import BorrowedNetworks
from .edits import placed_edits
from .model import attention_layers
from .runs import say, stop_if_canceled


def clone_for_autograd(tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """A copy of a node's tensor that may take part in differentiation. Call it inside :func:`.borrowed.gradients`."""
    return tensor.detach().clone().to(device or tensor.device)


class DifferentiableUNet:
    """``predict(x, sigma, context, pooled=None) -> clean estimate``, differentiable in context and pooled.

    x (B, C, h, w), sigma a number or (B,), context and pooled of 1 or B rows. Rows count as conditional for patches
    that other packs installed. Attention is torch's, whatever was chosen for sampling: not every kernel has a backward
    pass.

    :param extras: the rest of a CONDITIONING entry (SDXL's sizes and pooled prompt).
    :param checkpointing: keep fewer activations and compute them again: less memory, about a third more time. Without
        it that happens where memory is short.
    :param shape: (B, C, h, w) of the latents in a call, at most; room for that is made, as far as there is any.
    :param networks: what else is needed along with it; nothing else by default.
    """

    def __init__(
        self,
        model: Any,
        extras: dict[str, Any] | None = None,
        checkpointing: bool = False,
        shape: Sequence[int] | None = None,
        networks: BorrowedNetworks | None = None,
    ) -> None:
        self.networks = networks or BorrowedNetworks()
        self.checkpointing = False
        if shape is not None:
            self.networks.room = working_bytes(model, shape, recomputed=checkpointing)
        self.base = self.networks.add(model)
        self.base.model_sampling = copy.deepcopy(model.get_model_object("model_sampling")).to(model.load_device)
        self.device: torch.device = model.load_device
        self.factor: int = model.model.latent_format.spacial_downscale_ratio
        self.half = self.base.get_dtype_inference() == torch.float16
        self.options = dict(attending(model, attention_pytorch).model_options["transformer_options"])
        if names := dict.fromkeys(placed.name for placed in placed_edits(self.options)):
            say(f"What {', '.join(names)} put into this MODEL takes no part in learning, only in sampling.")
        self.extras = {
            name: clone_for_autograd(value, self.device) if isinstance(value, Tensor) else value
            for name, value in (extras or {}).items()
            if name not in ("control", "hooks", "area", "mask", "gligen")
        }
        if checkpointing:
            self._recompute()
        elif shape is not None:
            # as many rows as memory allows is up to whoever asks; a single one is the least
            least = working_bytes(model, (1, *shape[1:]))
            if least > comfy.model_management.get_free_memory(self.device):
                self.spare()

    def spare(self) -> bool:
        """Need less memory from now on, and say so; False where that is so already."""
        if self.checkpointing:
            return False
        self._recompute()
        say(SPARED)
        return True

    def _recompute(self) -> None:
        self.checkpointing = True
        recompute(self.base.diffusion_model)

    def __call__(self, x: Tensor, sigma: float | Tensor, context: Tensor, pooled: Tensor | None = None) -> Tensor:
        stop_if_canceled()
        self.networks.load()
        rows = len(x)
        if not isinstance(sigma, Tensor):
            sigma = torch.full((rows,), sigma, device=self.device)  # made there: nothing is sent
        sigmas = sigma.to(self.device, torch.float32).reshape(-1).expand(rows)
        extras = dict(self.extras)
        if pooled is not None:
            extras["pooled_output"] = pooled
        height, width = (side * self.factor for side in x.shape[2:])
        conditions = self.base.extra_conds(
            **{"width": width, "height": height, "prompt_type": "positive", **extras},
            device=self.device,
            noise=x,
            cross_attn=context,
        )
        conditions = {
            name: c.process_cond(batch_size=rows, area=None, device=self.device).cond for name, c in conditions.items()
        }
        conditions["c_crossattn"] = context.to(self.device).expand(rows, -1, -1)
        options = {**self.options, "cond_or_uncond": [0], "sigmas": sigmas}
        return self.base.apply_model(x, sigmas, transformer_options=options, **conditions)


class DifferentiableText:
    """A CLIP as ``encode(vectors) -> (context, pooled or nothing)`` for a prompt that is nothing but vectors.

    :param word: the initial word; its tokens give way to the vectors, and its rows are where they start.
    :param networks: what else is needed along with it; nothing else by default.
    :raises ValueError: an encoder without a token table, or a word without tokens.
    """

    def __init__(self, clip: Any, word: str, networks: BorrowedNetworks | None = None) -> None:
        self.clip = clip
        self.networks = networks or BorrowedNetworks()
        self.module = self.networks.add(clip.patcher)
        for norm in self.module.modules():
            if isinstance(norm, nn.LayerNorm):
                # ComfyUI adds to a layer's input in place; the backward pass of the norm needs it as it was
                norm.register_forward_pre_hook(lambda _, args: (args[0].clone(), *args[1:]))
        self.rows = clip.tokenize(word, return_word_ids=True)
        self.tables = {key: _token_table(self.module, key) for key in self.rows}
        self.places = {key: [i for i, token in enumerate(rows[0]) if token[2]] for key, rows in self.rows.items()}
        if not all(self.places.values()):
            raise ValueError(
                f"The initial word '{word}' has no tokens in this text encoder: give a word that it knows."
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Encoders in the order of their vectors: ("l",), ("h",), ("g", "l"), ("words",)."""
        return tuple(self.rows)

    @property
    def room(self) -> int:
        """Most vectors a prompt can hold."""
        # what has a mark at its beginning has one at its end
        return min(len(rows[0]) - 2 * self.places[key][0] for key, rows in self.rows.items())

    def word_rows(self) -> tuple[Tensor, ...]:
        """(m, width) of the initial word for each encoder."""
        self.networks.load()
        return tuple(
            self.tables[key][[self.rows[key][0][i][0] for i in self.places[key]]].float() for key in self.names
        )

    def tokens(self, vectors: Sequence[Tensor]) -> dict[str, list]:
        """The prompt as the CLIP's own tokens: weighted vectors between its marks and padding."""
        tokens = {}
        for key, group in zip(self.names, vectors, strict=True):
            row = [token[:2] for token in self.rows[key][0]]
            first, last = self.places[key][0], self.places[key][-1]
            filled = [*row[:first], *((vector, 1.0) for vector in group), *row[last + 1 :]]
            filled += [row[-1]] * (len(row) - len(filled))
            tokens[key] = [filled[: len(row)]]
        return tokens

    def __call__(self, vectors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return self._encode(self.tokens(vectors))

    def nothing(self) -> tuple[Tensor, ...]:
        """The empty prompt."""
        return self._encode(self.clip.tokenize(""))

    def _encode(self, tokens: dict[str, list]) -> tuple[Tensor, ...]:
        self.networks.load()
        module, clip = self.module, self.clip
        module.reset_clip_options()
        if clip.layer_idx is not None:
            module.set_clip_options({"layer": clip.layer_idx})
        module.set_clip_options({"execution_device": clip.patcher.load_device})
        context, pooled = module.encode_token_weights(tokens)[:2]
        return (context,) if pooled is None else (context, pooled)


def working_bytes(model: Any, shape: Sequence[int], *, recomputed: bool = False) -> int:
    """What a call of a MODEL's UNet and its backward pass need beside the weights, in bytes.

    :param shape: (B, C, h, w) of the latents.
    :param recomputed: whether activations are computed again instead of kept.
    """
    base, unet = model.model, model.get_model_object("diffusion_model")
    number = base.get_dtype_inference().itemsize
    kept = kept_bytes(attention_layers(model), unet.model_channels, shape, number, recomputed=recomputed)
    if getattr(base, "manual_cast_dtype", None) is not None and not recomputed:
        kept += number * sum(weight.numel() for weight in unet.parameters())  # each as it was cast for this call
    return kept + int(model.memory_required(list(shape)))


def _token_table(module: nn.Module, key: str) -> Tensor:
    """(vocabulary, width) of the encoder that reads the tokens under ``key``."""
    inner = getattr(module, f"clip_{key}", None)
    if inner is not None and hasattr(inner, "transformer"):
        return inner.transformer.get_input_embeddings().weight
    words = getattr(module, key, None)
    if words is not None and hasattr(words, "emb"):
        return words.emb.weight
    raise ValueError(
        f"Concept Inversion needs the CLIP of Stable Diffusion 1.x, 2.x or SDXL; this one ({type(module).__name__}) "
        f"reads its tokens '{key}' in another way."
    )


class _Recomputed(nn.Module):
    """A block whose activations are computed again on the way back."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kw: Any) -> Tensor:
        # options say where in the network a call is; by the time of the backward pass the shared dict says otherwise
        fixed = {name: dict(value) if isinstance(value, dict) else value for name, value in kw.items()}
        return checkpoint(self.inner, *args, use_reentrant=False, **fixed)


class _RecomputedResBlock(_Recomputed, TimestepBlock):
    """ComfyUI asks what a layer is before it hands it the time embedding."""


def recompute(unet: nn.Module) -> None:
    """Put every transformer and residual block of a private UNet into a block that recomputes it."""
    for module in list(unet.modules()):
        for name, child in list(module.named_children()):
            kind = type(child).__name__
            if kind == "BasicTransformerBlock":
                module.add_module(name, _Recomputed(child))
            elif kind == "ResBlock":
                module.add_module(name, _RecomputedResBlock(child))
