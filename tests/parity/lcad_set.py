"""L-CAD's recorded set, and its tiny networks under both hosts.

The committed set is the full one with redundant cases left out; of some large maps and pictures only the first rows are
kept, and gray pictures have one channel. Tests compare what is there (:func:`close`).
"""

import json
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file


class LCADSet:
    """One folder; sizes, steps and cases come from its ``meta.json``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {}

    @cached_property
    def meta(self) -> dict:
        return self.json("meta")

    def json(self, name: str) -> dict:
        return json.loads((self.folder / f"{name}.json").read_text("utf-8"))

    def file(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of ``golden_<name>``; gray pictures with three channels."""
        if name not in self._files:
            tensors = load_file(self.folder / f"golden_{name}.safetensors")
            for key in ("hint", "gray_in.a", "gray_in.b"):
                if key in tensors:
                    tensors[key] = tensors[key].expand(-1, 3, -1, -1).contiguous()
            self._files[name] = tensors
        return self._files[name]

    @cached_property
    def weights(self) -> dict[str, torch.Tensor]:
        """The tiny networks' weights under the published names, float32."""
        tensors = load_file(self.folder / "weights_tiny.safetensors")
        return {name: tensor.float() for name, tensor in tensors.items()}

    @cached_property
    def parts(self):
        from comfyui_exemplar.networks.lcad.weights import take_apart

        return take_apart(self.weights)

    @cached_property
    def autoencoder(self):
        """Gray encoder and decoder, float32."""
        from comfyui_exemplar.networks.lcad.load import build_autoencoder

        return build_autoencoder(self.parts)

    @property
    def heads(self) -> int:
        return self.meta["num_heads"]

    @cached_property
    def alphas_cumprod(self) -> torch.Tensor:
        from comfyui_exemplar.hosts.diffusers.checkpoint import alphas_cumprod

        meta = self.meta
        return alphas_cumprod("scaled_linear", meta["linear_start"], meta["linear_end"], meta["timesteps"])


def diffusers_denoiser(parity: LCADSet, gray: torch.Tensor, contexts: dict[int, torch.Tensor]):
    """The tiny UNet under diffusers: ``denoiser(x, sigma, branches) -> x0``.

    :param contexts: the text of each branch (0 conditional, 1 unconditional).
    """
    from comfyui_exemplar.hosts.diffusers.checkpoint import StandaloneModel
    from comfyui_exemplar.hosts.diffusers.lcad import LCADDenoiser
    from comfyui_exemplar.hosts.diffusers.ldm import unet_from_ldm

    model = StandaloneModel(
        unet=unet_from_ldm(parity.parts.unet, heads=parity.heads),
        vae=None,
        alphas_cumprod=parity.alphas_cumprod,
        prediction="epsilon",
        context=contexts[0],
        added=None,
        name="parity",
        fingerprint="parity",
    )
    return LCADDenoiser(model, gray, contexts)


def comfy_model(parity: LCADSet):
    """The tiny UNet as a ComfyUI MODEL; its conditions must carry gray features (:func:`comfy_conditioning`)."""
    from comfyui_exemplar.hosts.comfy.lcad import load_unet

    return load_unet(parity.parts.unet, heads=parity.heads)


def comfy_conditioning(context: torch.Tensor, gray: torch.Tensor) -> list:
    """A CONDITIONING for :func:`comfy_model`."""
    from comfyui_exemplar.hosts.comfy.lcad import with_gray

    return with_gray([[context, {}]], gray)


def close(found: torch.Tensor, recorded: torch.Tensor, tolerance: float, what: str = "", *, rows: int = -2) -> None:
    """Assert closeness; of a map the record may hold the first rows only.

    :param rows: the axis that may be cut.
    """
    rows %= recorded.ndim
    found = found.narrow(rows, 0, recorded.shape[rows])
    assert found.shape == recorded.shape, f"{what}: {tuple(found.shape)} instead of {tuple(recorded.shape)}"
    error = float((found.double() - recorded.double()).abs().max())
    assert error <= tolerance, f"{what}: off by {error}, allowed {tolerance}"
