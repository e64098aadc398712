"""L-CAD's published checkpoint: which keys there are, which sizes they tell, and what is left out on purpose.

One file holds a UNet and a CLIP text encoder, both with Stable Diffusion 1.5's names, and an autoencoder with two
encoders: the ordinary one, which coloring never runs, and the gray one. What is not needed is still accounted for: a
key that nobody expects means that the file is another model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ...files.ldm import count, listed, size
from ...files.numbers import check_numbers
from .model import LCADSizes

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer."
GRAY = "first_stage_model.g_encoder."
DECODER = "first_stage_model.decoder."
LATENT_IN = "first_stage_model.post_quant_conv."
ENCODER = "first_stage_model.encoder."
LATENT_OUT = "first_stage_model.quant_conv."

#: The training schedule, stored by the published program. It is a formula (``diffusion.schedule``), so it may be
#: missing.
SCHEDULE = frozenset(
    (
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "logvar",
    )
)

#: Layers of the gray encoder that exist in the file and are never used.
_UNUSED = ("norm_out.", "conv_out.")
_WANTED = "expected an L-CAD checkpoint; choose that file"


@dataclass(frozen=True)
class LCADParts:
    """A checkpoint taken apart, prefixes removed.

    :param unet: the UNet's tensors, in the names of the LDM programs.
    :param text: the text encoder's, in transformers' names; empty where a file has none.
    :param gray: the gray encoder's; ``decoder`` the enhanced decoder's, with ``post_quant_conv``.
    """

    unet: dict[str, Tensor]
    text: dict[str, Tensor]
    gray: dict[str, Tensor]
    decoder: dict[str, Tensor]
    sizes: LCADSizes


def take_apart(weights: Mapping[str, Tensor]) -> LCADParts:
    """Sort a checkpoint's tensors, and see that there is nothing else among them.

    The names inside UNet, text encoder, gray encoder and decoder are checked where they are loaded. The ordinary
    encoder may be missing as a whole (a trimmed file), but not in part.

    :raises ValueError: another model's tensors, an ordinary Stable Diffusion checkpoint, or an incomplete encoder.
    """
    parts: dict[str, dict[str, Tensor]] = {
        name: {} for name in (UNET, TEXT, GRAY, DECODER, LATENT_IN, ENCODER, LATENT_OUT)
    }
    unexpected = []
    for name, tensor in weights.items():
        prefix = next((prefix for prefix in parts if name.startswith(prefix)), None)
        if prefix is not None:
            parts[prefix][name.removeprefix(prefix)] = tensor
        elif name not in SCHEDULE:
            unexpected.append(name)
    if not parts[GRAY]:
        found = f"tensors named like {sorted(weights)[:3]}" if weights else "no tensors"
        raise ValueError(f"no tensor is named `{GRAY}*` ({found}): this is not L-CAD's; {_WANTED}.")
    if unexpected:
        raise ValueError(f"unexpected {listed(unexpected)}: {_WANTED}.")
    sizes = read_sizes(parts[GRAY], parts[DECODER])
    check_channels(size(parts[UNET], "input_blocks.0.0.weight", 1, 4, UNET), sizes)
    _check_encoder(parts[ENCODER], parts[LATENT_OUT], parts[GRAY])
    gray = {name: tensor for name, tensor in parts[GRAY].items() if not name.startswith(_UNUSED)}
    for prefix, used in ((UNET, parts[UNET]), (TEXT, parts[TEXT]), (GRAY, gray), (DECODER, parts[DECODER])):
        check_numbers(used, prefix)
    check_numbers(parts[LATENT_IN], LATENT_IN)
    decoder = parts[DECODER] | {f"post_quant_conv.{name}": tensor for name, tensor in parts[LATENT_IN].items()}
    return LCADParts(parts[UNET], parts[TEXT], gray, decoder, sizes)


def read_sizes(gray: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> LCADSizes:
    """The sizes of a gray encoder and its decoder, from the shapes of their tensors (names without prefix).

    :raises ValueError: a tensor that tells a size is missing.
    """
    levels = count(gray, "down.")
    blocks = count(gray, "down.0.block.")
    telling = [f"down.{level}.block.0.conv1.weight" for level in range(levels)]
    missing = [GRAY + name for name in telling if name not in gray]
    missing += [DECODER + name for name in ("conv_in.weight", "conv_out.weight") if name not in decoder]
    if missing or not blocks:
        raise ValueError(f"missing {missing or GRAY + 'down.*'}: the file is incomplete; download it again.")
    return LCADSizes(
        widths=tuple(size(gray, name, 0, 4, GRAY) for name in telling),
        blocks=blocks,
        latent=size(decoder, "conv_in.weight", 1, 4, DECODER),
        pictures=size(decoder, "conv_out.weight", 0, 4, DECODER),
    )


def check_channels(found: int, sizes: LCADSizes) -> None:
    """Whether a UNet's first convolution reads latent and gray features.

    :raises ValueError: it reads other channels.
    """
    wanted = sizes.latent + sizes.features
    if found != wanted:
        raise ValueError(
            f"the UNet's first convolution reads {found} channels, but latent and gray features together are {wanted}: "
            "the parts are from different models; get the original file."
        )


def _check_encoder(encoder: Mapping[str, Tensor], quant: Mapping[str, Tensor], gray: Mapping[str, Tensor]) -> None:
    """The ordinary encoder has the layers of the gray one, less the emitting ones."""
    if not encoder and not quant:
        return
    wanted = {name for name in gray if "zero_conv" not in name}
    odd = sorted(wanted ^ encoder.keys()) + sorted({"weight", "bias"} ^ quant.keys())
    if odd:
        raise ValueError(
            f"the ordinary encoder ({ENCODER}*, {LATENT_OUT}*) has other tensors than it should: {listed(odd)}; "
            "the file is incomplete or another model's."
        )
