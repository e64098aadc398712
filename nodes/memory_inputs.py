"""Sockets that the nodes of color memories share."""

from __future__ import annotations

from comfy_api.latest import io

from .common import clip_input

#: For ComfyUI's search, beside a node's own.
ALIASES = ["color memory", "reference colorization"]


def network_input(*, optional: bool = False, about: str = "") -> io.MultiType.Input:
    """What looks at pictures.

    :param about: what it does for a node that works without one, too.
    """
    looks = (
        "What looks at pictures: Stable Diffusion 1.x, 2.x, SDXL or 3, the embedded model, another transformer (Flux, "
        "Chroma, Qwen-Image, Z-Image, Lumina 2, Anima), or a CLIP_VISION (DINOv2, DINOv3, SigLIP, CLIP)."
    )
    return io.MultiType.Input(
        "model",
        [io.Model, io.ClipVision],
        optional=optional,
        tooltip=f"{looks} {about or 'One and the same writes a memory and asks it.'}",
    )


def prompt_inputs() -> list[io.Input]:
    """What a MODEL needs beside itself; a CLIP_VISION needs none of it."""
    return [
        io.Vae.Input("vae", optional=True, tooltip="The VAE that belongs to a MODEL. A CLIP_VISION needs none."),
        io.Conditioning.Input(
            "conditioning",
            optional=True,
            tooltip="What a MODEL is told while it looks: best the empty prompt, and the same wherever a memory is "
            "written and asked. Left unconnected it is the empty prompt: by clip, or the embedded model's own; other "
            "models without clip are told nothing at all.",
        ),
        clip_input(),
    ]
