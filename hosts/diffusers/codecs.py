"""Autoencoders between pictures, (B, H, W, 3) in 0..1, and scaled latents, (B, C, H/f, W/f)."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ...networks.embedded.autoencoder import LinearAutoencoder


class KLCodec:
    """A diffusers AutoencoderKL between images (B, H, W, 3) in 0..1 and scaled latents (B, C, H/f, W/f)."""

    def __init__(self, vae: Any) -> None:
        self.vae = vae
        self.factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels: int = vae.config.latent_channels
        self.scale: float = vae.config.scaling_factor

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self.vae

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """The posterior's mean (not a sample: as ComfyUI does, and repeatable) times the scale factor, float32."""
        pixels = image.to(self.vae.device, self.vae.dtype).movedim(-1, 1) * 2 - 1
        return self.vae.encode(pixels).latent_dist.mode().float() * self.scale

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latent -> image in 0..1, float32."""
        pixels = self.vae.decode((latent / self.scale).to(self.vae.device, self.vae.dtype)).sample
        return (pixels.float() / 2 + 0.5).clamp(0, 1).movedim(1, -1)


class LinearCodec:
    """The embedded model's linear autoencoder between the same image and latent layouts."""

    def __init__(self, autoencoder: LinearAutoencoder, scale: float) -> None:
        self.autoencoder = autoencoder
        self.factor: int = autoencoder.factor
        self.channels: int = autoencoder.channels
        self.scale = scale

    @property
    def module(self) -> nn.Module:
        """The network."""
        return self.autoencoder

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Image (B, H, W, 3) in 0..1 -> scaled latent (B, C, H/f, W/f), float32."""
        return self.autoencoder.encode(image.to(self.autoencoder.enc_w).movedim(-1, 1) * 2 - 1).float() * self.scale

    @torch.no_grad()
    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latent -> image (B, H, W, 3) in 0..1, float32."""
        pixels = self.autoencoder.decode((latent / self.scale).to(self.autoencoder.dec_w))
        return (pixels.float() / 2 + 0.5).clamp(0, 1).movedim(1, -1)


class TinyCodec(KLCodec):
    """The same of a diffusers AutoencoderTiny (TAESD), whose latents are no distribution."""

    def __init__(self, vae: Any) -> None:
        super().__init__(vae)
        self.factor = 2 ** (len(vae.config.encoder_block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Image (B, H, W, 3) in 0..1 -> scaled latent (B, C, H/f, W/f), float32."""
        pixels = image.to(self.vae.device, self.vae.dtype).movedim(-1, 1) * 2 - 1
        return self.vae.encode(pixels).latents.float() * self.scale


Codec: TypeAlias = KLCodec | LinearCodec


def codec_of(vae: Any) -> KLCodec:
    """The codec of one of diffusers' autoencoders: AutoencoderKL or AutoencoderTiny."""
    return TinyCodec(vae) if hasattr(vae.config, "encoder_block_out_channels") else KLCodec(vae)
