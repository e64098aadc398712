"""CLIP text encoders of Stable Diffusion: loading them, the empty prompt's embedding, and that of learned vectors.

Both spellings of their weights are read: transformers' (SD 1.x, SDXL's first, diffusers folders) and OpenCLIP's (SD
2.x and SDXL's second in single files). Sizes come from the shapes; heads are always 64 wide.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ...files.ldm import (
    Family,
    check_source,
    clip_sizes,
    count,
    listed,
    load_strictly,
    part,
    size,
    text_family,
    text_sizes,
)
from ...files.numbers import check_numbers

_BEGIN, _END = 49406, 49407  # CLIP's marks for the begin and end of a text, the last two of its 49,408 ids
_OPENCLIP_H_LAYERS = 24  # SD 2.x's text encoder, whose last layer is not used


def clip_model(config: Any, weights: Mapping[str, Tensor], what: str, *, projection: bool = False) -> Any:
    """A CLIP text encoder from a CLIPTextConfig and tensors, whose names may or may not begin with ``text_model.``.

    transformers dropped that prefix from CLIPTextModel in 5.6, and old checkpoints lack it too, so both spellings are
    brought to the installed version's.

    :returns: float32, eval mode, no gradients.
    :raises ValueError: tensors that are missing, unexpected or of another shape.
    """
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    inner = model.text_model if hasattr(model, "text_model") else model
    prefix = "" if inner is model else "text_model."
    # Not weights of the text encoder: an index buffer, and parts of full CLIP that some programs save along.
    ignored = {"embeddings.position_ids", "logit_scale"} | (set() if projection else {"text_projection.weight"})
    bare = {name.removeprefix("text_model."): tensor for name, tensor in weights.items()}
    named = {
        name if name == "text_projection.weight" else prefix + name: tensor
        for name, tensor in bare.items()
        if name not in ignored
    }
    load_strictly(model, named, what)
    check_numbers(named, called=what)
    # The index buffer is not in the state dict, so it is still on the meta device.
    inner.embeddings.position_ids = torch.arange(config.max_position_embeddings)[None]
    return model.float()


def clip_from_ldm(state_dict: Mapping[str, Tensor], prefix: str) -> Any:
    """OpenAI's CLIP text encoder (SD 1.x; SDXL's first): transformers names behind ``prefix``. float32."""
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint
    from transformers import CLIPTextConfig

    check_source(_used(part(state_dict, prefix)), prefix)
    weights = convert_ldm_clip_checkpoint({name: t for name, t in state_dict.items() if name.startswith(prefix)})
    config = CLIPTextConfig(**clip_sizes(weights, prefix), hidden_act="quick_gelu")
    return clip_model(config, weights, f"text encoder {prefix}*")


def open_clip_from_ldm(state_dict: Mapping[str, Tensor], prefix: str, *, projection: bool) -> Any:
    """OpenCLIP's text encoder (SD 2.x; SDXL's second, with ``projection``): OpenCLIP names behind ``prefix``. float32.

    Without ``projection`` the last layer is left off: SD 2.x reads the layer before it. (A file made from a diffusers
    folder lacks it already, and then has 23 layers instead of 24.)
    """
    from diffusers.loaders.single_file_utils import DIFFUSERS_TO_LDM_MAPPING, convert_open_clip_checkpoint
    from transformers import CLIPTextConfig

    weights = part(state_dict, prefix)
    layers = count(weights, "transformer.resblocks.")
    sizes = text_sizes(
        weights, "token_embedding.weight", "positional_embedding", "transformer.resblocks.0.mlp.c_fc.weight", prefix
    )
    if not projection:
        if layers != _OPENCLIP_H_LAYERS - 1:
            layers -= 1
        last = f"transformer.resblocks.{layers}."
        weights = {name: t for name, t in weights.items() if not name.startswith(last) and name != "text_projection"}
    elif "text_projection" not in weights:
        raise ValueError(f"text encoder {prefix}*: missing [text_projection]: get the full SDXL checkpoint.")
    # The converter passes everything under transformer.* on (so a strict load sees it) and drops the unknown rest.
    known = {*DIFFUSERS_TO_LDM_MAPPING["openclip"]["layers"].values(), "logit_scale", "attn_mask"}
    unexpected = [name for name in weights if not name.startswith("transformer.") and name not in known]
    if unexpected:
        raise ValueError(f"text encoder {prefix}*: unexpected keys {listed(unexpected)}: use the plain checkpoint.")
    check_source(_used(weights), prefix)
    config = CLIPTextConfig(
        **sizes,
        num_hidden_layers=layers,
        hidden_act="gelu",
        projection_dim=size(weights, "text_projection", 1, 2, prefix) if projection else sizes["hidden_size"],
    )
    # A neutral prefix: the converter has a list of SD 2.x keys, by full name, that it leaves out on its own.
    converted = convert_open_clip_checkpoint(
        SimpleNamespace(config=config), {"openclip." + name: tensor for name, tensor in weights.items()}, "openclip."
    )
    return clip_model(config, converted, f"text encoder {prefix}*", projection=projection)


def _used(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a text encoder's tensors is read: not the places, the scale of similarities and the mask of full CLIP."""
    return {n: t for n, t in weights.items() if not n.endswith(("position_ids", "logit_scale", "attn_mask"))}


def text_encoders(state_dict: Mapping[str, Tensor]) -> tuple[Family, list[Any]]:
    """The text encoders of a checkpoint in LDM naming, one or SDXL's two, float32, and the family that they tell.

    :raises ValueError: there is none, or one is incomplete.
    """
    family = text_family(state_dict)
    if family is None:
        raise ValueError("a UNet without a text encoder was found.")
    name, prefixes = family
    if name == "sd2":
        return name, [open_clip_from_ldm(state_dict, prefixes[0], projection=False)]
    encoders = [clip_from_ldm(state_dict, prefixes[0])]
    if name == "sdxl":
        encoders.append(open_clip_from_ldm(state_dict, prefixes[1], projection=True))
    return name, encoders


def encode_empty(encoder: Any, device: torch.device, *, layer: int | None, pad_with_end: bool) -> tuple[Tensor, Any]:
    """Run a CLIP text encoder in float32 on "": (hidden states (1, tokens, width), pooled (1, P) or None).

    :param layer: None for the normed output of the last layer, else an index into all layers' outputs, not normed.
    :param pad_with_end: OpenAI's CLIP fills up with the end mark, OpenCLIP with 0; there is no attention mask.
    """
    config = encoder.config
    # Test models have small vocabularies; the two marks are always the last two ids.
    begin, end = (_BEGIN, _END) if config.vocab_size > _END else (config.vocab_size - 2, config.vocab_size - 1)
    ids = torch.full((1, config.max_position_embeddings), end if pad_with_end else 0)
    ids[0, 0], ids[0, 1] = begin, end
    encoder.to(device)
    with torch.no_grad():
        # pooling is at the end mark, which is at 1 by construction; a config's eos_token_id is often wrong
        return _hidden_and_pooled(encoder, ids.to(device), layer, 1)


def encode_concept(
    encoder: Any, vectors: Tensor, begin: int, end: int, pad: int, layer: int | None = None
) -> tuple[Tensor, Tensor | None]:
    """A CLIP text encoder's answer to a prompt of vectors alone: hidden states (1, tokens, width), pooled (1, P).

    Pooled is None where it has no projection. The prompt is begin, n vectors, end, then padding. The vectors take
    the places of ``end`` tokens through a hook on the embedding table, which is removed again, so the encoder stays
    as it is and gradients reach the vectors.

    :param encoder: transformers' CLIPTextModel.
    :param vectors: (n, width), n at most two less than the encoder's positions.
    :param layer: None for the normed output of the last layer, else an index into all layers' outputs, not normed.
    :raises ValueError: more vectors than there is room for, or none.
    """
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
        return _hidden_and_pooled(encoder, ids, layer, 1 + count)
    finally:
        hook.remove()


def _hidden_and_pooled(encoder: Any, ids: Tensor, layer: int | None, end: int) -> tuple[Tensor, Tensor | None]:
    """Run a text encoder: (hidden states (1, tokens, width), pooled (1, P) or None).

    :param ids: (1, tokens).
    :param layer: None for the normed output of the last layer, else an index into all layers' outputs, not normed.
    :param end: place of the end mark, where a projection reads.
    """
    output = encoder(input_ids=ids, output_hidden_states=layer is not None)
    hidden = output.last_hidden_state if layer is None else output.hidden_states[layer]
    projection = getattr(encoder, "text_projection", None)
    return hidden, None if projection is None else projection(output.last_hidden_state[:, end])


def encode_empty_sdxl(first: Any, second: Any, device: torch.device) -> tuple[Tensor, dict[str, Tensor]]:
    """SDXL joins the last but one layers of both encoders, and pools the second's projection."""
    left, _ = encode_empty(first, device, layer=-2, pad_with_end=True)
    right, pooled = encode_empty(second, device, layer=-2, pad_with_end=False)
    return torch.cat([left, right], dim=-1), {"text_embeds": pooled}
