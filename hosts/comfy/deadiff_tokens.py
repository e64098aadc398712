"""Image tokens in a MODEL: extra keys and values in its text cross-attentions.

Whatever other packs put on those layers (IPAdapter's replacements are such) is handed the longer keys and values.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...attention.call import CROSS
from ...attention.image_tokens import ImageTokens
from ...attention.layers import Layer
from ...diffusion.schedule import fractional_timestep
from .edits import PlacedEdit, Sampling, add_edit, layer_widths
from .families.found import require_network
from .model import attention_layers


def check_model(model: Any, widths: dict[Layer, int], token_width: int, node: str) -> None:
    """Whether a MODEL is one that these projections belong to.

    :param widths: layer -> channels of its projections.
    :param token_width: of the tokens, which is that of prompts.
    :raises ValueError: another family.
    """
    require_network(model, node)
    unet = model.get_model_object("diffusion_model")
    found = {info.layer: info.channels for info in attention_layers(model)}
    prompts = {
        module.attn2.to_k.in_features
        for module in unet.modules()
        if type(module).__name__ == "BasicTransformerBlock" and getattr(module, "attn2", None) is not None
    }
    if found != widths or prompts != {token_width}:
        wide = ", ".join(map(str, sorted(prompts)))
        raise ValueError(
            f"{node}: tokens: found some for a model with {_described(widths)} and prompts {token_width} wide, "
            f"expected {_described(found)} and prompts {wide} wide for this MODEL ({type(model.model).__name__}). "
            "DEADiff's own belong to Stable Diffusion 1.x, the embedded ones to the embedded model: use such a MODEL, "
            "or load the other file."
        )


def _described(widths: dict[Layer, int]) -> str:
    channels = sorted(set(widths.values()))
    return f"{len(widths)} cross-attention layers of {', '.join(map(str, channels))} channels"


def install_tokens(model: Any, edit: ImageTokens, start_percent: float, end_percent: float) -> Any:
    """A clone of the MODEL whose cross-attentions see image tokens between two shares of the sampling.

    What the edit keeps of a run is let go when the run ends, however it ends.
    """
    sampling = model.get_model_object("model_sampling")
    first, last = (float(sampling.percent_to_sigma(share)) for share in (start_percent, end_percent))

    def check(run: Sampling) -> None:
        count = run.shape[0]
        for what, pictures in (("tokens", edit.pictures), ("masks", 1 if edit.mask is None else len(edit.mask))):
            if count % pictures:
                raise ValueError(
                    f"latent: found {count} picture(s), expected {pictures}, as there are {what}, or a multiple; use "
                    "as many, or one for all."
                )

    placed = PlacedEdit(
        "Apply DEADiff",
        edit,
        layer_widths(model, edit.layers),
        (CROSS,),
        acts=lambda sigma: last <= sigma <= first,
        whole_pictures=edit.mask is not None,
        alike=edit.pictures == 1 and (edit.mask is None or len(edit.mask) == 1),
        check=check,
        release=edit.forget,
    )
    return add_edit(model, placed)


def fractional_timesteps(model: Any) -> Any:
    """A clone of the MODEL that reads its UNet at exact timesteps where ComfyUI takes the nearest whole one.

    k-diffusion's way, which DEADiff's Euler sampler goes: a sigma between two training sigmas has a timestep between
    theirs, linear in log sigma.
    """
    patched = model.clone()
    given = model.get_model_object("model_sampling")

    class FractionalTimesteps(type(given)):
        def timestep(self, sigma: Tensor) -> Tensor:
            return fractional_timestep(self.sigmas, sigma)

    made = FractionalTimesteps(model.model.model_config)
    made.set_sigmas(given.sigmas)
    made.sigma_data = given.sigma_data
    patched.add_object_patch("model_sampling", made)
    return patched
