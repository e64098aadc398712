"""Tensors' names as training programs spell them: what wraps a model, and averages of its weights."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

log = logging.getLogger(__name__)

UNET = "model.diffusion_model."
#: Where LDM's programs keep averages of the weights that they sample with, under names without dots.
_AVERAGES = "model_ema."
#: What programs put before all names of a model: on several GPUs, compiled, or as a part of the trained whole.
_WRAPPERS = ("module.", "_orig_mod.", "model.", "ema_model.")

#: The pieces of a UNet's names in the LDM programs, longer ones first where one begins like another. Blocks carry two
#: numbers, of which the second is a single digit; all others carry one or none.
_TWO_NUMBERS = r"(?:input_blocks|output_blocks|label_emb)"
_PIECE = re.compile(
    rf"(?P<block>{_TWO_NUMBERS})(?P<first>\d+)(?P<second>\d)"
    r"|(?P<name>diffusion_model|transformer_blocks|middle_block|time_embed|skip_connection|in_layers|out_layers"
    r"|emb_layers|proj_in|proj_out|i_to_k|i_to_v|to_out|to_q|to_k|to_v|attn[12]|norm[123]|norm|proj|conv|net|ff|op|out)"
    r"(?P<number>\d*)"
    r"|(?P<last>weight|bias)$"
)


def plain_names(names: Iterable[str]) -> dict[str, str]:
    """What is read of a file: stored names -> those without wrappers. Averages count where there is nothing else."""
    plain = {name: name for name in names}
    while plain and (found := _wrapper(plain.values())):
        plain = {name: said[len(found) :] for name, said in plain.items()}
    trained = {name: said for name, said in plain.items() if not said.startswith(_AVERAGES)}
    if any(said.startswith(UNET) for said in trained.values()):
        return trained
    averages = {name: averaged for name, said in plain.items() if (averaged := averaged_name(said)) is not None}
    if averages:
        log.warning("The file holds a model's averaged weights (%s*) only; these are used.", _AVERAGES)
    return trained | averages


def _wrapper(names: Iterable[str]) -> str | None:
    """What all names begin with that is no part of a model."""
    names = list(names)
    for wrapper in _WRAPPERS:
        if all(name.startswith(wrapper) for name in names) and not any(
            name.startswith((UNET, _AVERAGES)) for name in names
        ):
            return wrapper
    return None


def averaged_name(name: str) -> str | None:
    """The name of the weight that an average is of: ``model_ema.`` and a name of a UNet, with or without its dots.

    None for every other name.
    """
    if name.startswith(f"{_AVERAGES}diffusion_model."):
        return "model." + name[len(_AVERAGES) :]
    if not name.startswith(_AVERAGES + "diffusion_model"):
        return None
    rest, pieces = name[len(_AVERAGES) :], []
    while rest:
        piece = _PIECE.match(rest)
        if piece is None:
            return None
        found = piece.groupdict()
        parts = [found[key] for key in ("block", "first", "second", "name", "number", "last")]
        pieces += [part for part in parts if part]
        rest = rest[piece.end() :]
    return "model." + ".".join(pieces)
