"""What learning through a diffusers model needs: its UNet and text encoder as differentiable functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...diffusion.schedule import sigmas_from_alphas

if TYPE_CHECKING:
    from .checkpoint import StandaloneModel


def differentiable_unet(model: StandaloneModel, checkpointing: bool = False) -> Callable[..., Tensor]:
    """``predict(x, sigma, context, pooled=None) -> clean estimate``, differentiable in context and pooled.

    x (B, C, h, w) variance-exploding, sigma a number or (B,), context (1 or B, tokens, width); pooled (1 or B, P) is
    SDXL's, the model's own (of the empty prompt) where it is not given.

    :param checkpointing: keep fewer activations for the backward pass and compute them again: less memory, about a
        third more time. Stays switched on in the UNet.
    """
    unet = model.unet.requires_grad_(False)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    table = sigmas_from_alphas(model.alphas_cumprod)
    logs = table.log()

    def predict(x: Tensor, sigma: float | Tensor, context: Tensor, pooled: Tensor | None = None) -> Tensor:
        levels = torch.as_tensor(sigma, dtype=torch.float32).reshape(-1).expand(len(x))
        timesteps = (logs[None] - levels.cpu().log()[:, None]).abs().argmin(1)
        levels = levels.to(x).view(-1, 1, 1, 1)
        scale = (levels**2 + 1).sqrt()
        weight = unet.conv_in.weight
        added = model.added_conditions(len(x), x.shape[-2:])
        if added is not None and pooled is not None:
            added = {**added, "text_embeds": pooled.to(weight.dtype).expand(len(x), -1)}
        predicted = unet(
            (x / scale).to(weight.dtype),
            timesteps.to(weight.device),
            encoder_hidden_states=context.to(weight.device, weight.dtype).expand(len(x), -1, -1),
            added_cond_kwargs=added,
        ).sample.to(x.dtype)
        if model.prediction == "v_prediction":
            return x / scale**2 - predicted * (levels / scale)
        return x - levels * predicted

    return predict


def encode_concept(
    encoder: Any, vectors: Tensor, begin: int, end: int, pad: int, layer: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """A CLIP text encoder's answer to a prompt of nothing but vectors: hidden states (1, tokens, width), and pooled (1,
    P) where it has a projection.

    The prompt is begin, n vectors, end, then padding. The vectors take the places of ``end`` tokens through a hook on
    the embedding table, which is removed again, so the encoder stays as it is and gradients reach the vectors.

    :param encoder: transformers' CLIPTextModel.
    :param vectors: (n, width), n at most two less than the encoder's positions.
    :param layer: None for the normed output of the last layer, else an index into all layers' outputs, not normed.
    """
    output = _run(encoder, vectors, begin, end, pad, layer is not None)
    hidden = output.last_hidden_state if layer is None else output.hidden_states[layer]
    projection = getattr(encoder, "text_projection", None)
    # pooling is at the end mark
    return hidden, None if projection is None else projection(output.last_hidden_state[:, 1 + len(vectors)])


def _run(encoder: Any, vectors: Tensor, begin: int, end: int, pad: int, layers: bool) -> Any:
    table = encoder.get_input_embeddings()
    positions = encoder.config.max_position_embeddings
    count = len(vectors)
    if not 1 <= count <= positions - 2:
        raise ValueError(f"This text encoder has room for 1 to {positions - 2} vectors; got {count}.")
    ids = torch.full((1, positions), pad, device=table.weight.device)
    ids[0, 0], ids[0, 1 : count + 2] = begin, end

    def put(_module: Any, _args: tuple, looked_up: Tensor) -> Tensor:
        placed = vectors.to(looked_up).unsqueeze(0)
        return torch.cat([looked_up[:, :1], placed, looked_up[:, 1 + count :]], dim=1)

    hook = table.register_forward_hook(put)
    try:
        return encoder(input_ids=ids, output_hidden_states=layers)
    finally:
        hook.remove()
