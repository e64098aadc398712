"""Model families as values: what differs between them for everything that looks at attention.

A UNet of Stable Diffusion attends among the picture's tokens and adds noise, ``x = x0 + sigma · noise``. Transformers
mix, ``x = (1 - t) · x0 + t · noise``, with the level ``sigma = t``; most attend among the prompt's and the picture's
tokens at once (*joint*), and most turn queries and keys by their tokens' places (*rotary*, RoPE, arXiv 2104.09864).

Hosts find the family of a model by what it is made of, and give its layers; see ``hosts/comfy/families``.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..diffusion.schedule import rescale

#: Timesteps into which the noise levels of a flow are counted, as those of a UNet's training.
TIMESTEPS = 1000


@dataclass(frozen=True)
class Family:
    """One family.

    :param name: as users write it.
    :param blocks: kinds of its layers, in network order: the part of a layer's name before the dot.
    :param flow: noise levels are times of flow matching, 0 (clean) to 1 (noise).
    :param joint: the prompt's tokens stand in the picture's attention.
    :param rotary: queries and keys are turned by place.
    """

    name: str
    blocks: tuple[str, ...]
    flow: bool = True
    joint: bool = True
    rotary: bool = True

    def at_level(self, clean: Tensor, level: float) -> Tensor:
        """Clean latents, (B, C, ...), at a noise level without any noise, as the model expects the picture's part."""
        return clean * (1 - level) if self.flow else rescale(clean, 0.0, level)

    def level(self, table: Tensor, timestep: int) -> float:
        """The noise level of a timestep.

        :param table: (train timesteps,) ascending levels of a model that is no flow.
        :param timestep: 0 to 999; of a flow thousandths of its time, whatever its schedule makes of them.
        """
        return (timestep + 1) / TIMESTEPS if self.flow else float(table[timestep])

    def timestep(self, table: Tensor, level: float) -> int:
        """The timestep whose noise level is nearest."""
        if self.flow:
            return min(max(round(level * TIMESTEPS) - 1, 0), TIMESTEPS - 1)
        return int((table - level).abs().argmin())

    def timesteps(self, table: Tensor) -> int:
        """How many there are."""
        return TIMESTEPS if self.flow else len(table)


UNET = Family("Stable Diffusion 1.x, 2.x or SDXL", ("input", "middle", "output"), flow=False, joint=False, rotary=False)
FLUX_1 = Family("Flux.1", ("double", "single"))
FLUX_2 = Family("Flux.2", ("double", "single"))
CHROMA = Family("Chroma", ("double", "single"))
QWEN_IMAGE = Family("Qwen-Image", ("double",))
Z_IMAGE = Family("Z-Image", ("double",))
LUMINA_2 = Family("Lumina 2", ("double",))
SD3 = Family("Stable Diffusion 3", ("double",), rotary=False)
ANIMA = Family("Anima", ("block",), joint=False)

TRANSFORMERS = (FLUX_1, FLUX_2, CHROMA, QWEN_IMAGE, Z_IMAGE, LUMINA_2, SD3, ANIMA)
EVERY = (UNET, *TRANSFORMERS)
