"""The embedded model's image autoencoder: linear both ways, fitted in closed form, no training.

Encoding is one strided convolution: every patch of ``factor x factor`` pixels becomes ``channels`` numbers (mean Y,
Cb and Cr, and the strongest detail of luma). Decoding is the least-squares map from a neighborhood of latents back to
the patch. Gray pictures therefore stay gray, and encoding costs nothing next to the UNet.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NAMES = ("enc_w", "enc_b", "dec_w", "dec_b")


class LinearAutoencoder(nn.Module):
    """Linear patches-to-latents map and its least-squares inverse; pictures are (B, 3, H, W) in -1..1.

    Buffers, f = factor, C = channels, n = neighborhood: ``enc_w`` (C, 3, f, f), ``enc_b`` (C,),
    ``dec_w`` (3 f f, C, n, n), ``dec_b`` (3 f f,). They are buffers because a closed-form fit has nothing to train.
    """

    def __init__(self, factor: int, channels: int, neighborhood: int) -> None:
        """Sizes of an untrained one.

        :param factor: pixels per latent and side, 1 or more.
        :param channels: of the latent.
        :param neighborhood: latents per side, odd.
        :raises ValueError: sizes below 1 or an even neighborhood (it would have no center).
        """
        super().__init__()
        if min(factor, channels, neighborhood) < 1 or neighborhood % 2 == 0:
            raise ValueError(
                f"a linear autoencoder got factor {factor}, channels {channels}, neighborhood {neighborhood}, but "
                "needs positive sizes and an odd neighborhood: read them with LinearAutoencoder.from_state_dict."
            )
        self.factor, self.channels, self.neighborhood = factor, channels, neighborhood
        patch = 3 * factor * factor
        self.register_buffer("enc_w", torch.zeros(channels, 3, factor, factor))
        self.register_buffer("enc_b", torch.zeros(channels))
        self.register_buffer("dec_w", torch.zeros(patch, channels, neighborhood, neighborhood))
        self.register_buffer("dec_b", torch.zeros(patch))

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Tensor]) -> LinearAutoencoder:
        """Build from the four tensors named in the class (no prefix), as float32; sizes come from their shapes.

        :raises ValueError: keys are missing or unexpected, or shapes do not fit each other; they are named.
        """
        missing = sorted(set(_NAMES) - set(state_dict))
        unexpected = sorted(set(state_dict) - set(_NAMES))
        if missing or unexpected:
            raise ValueError(
                f"linear autoencoder weights: missing {missing}, unexpected {unexpected}, expected exactly "
                f"{list(_NAMES)}: pass the file's tensors with their `vae.` prefix removed."
            )
        shapes = {name: tuple(state_dict[name].shape) for name in _NAMES}
        encoder, decoder = shapes["enc_w"], shapes["dec_w"]
        # Only the ranks and these two sizes are free; the rest follows and is compared below.
        if len(encoder) == 4 and len(decoder) == 4 and decoder[2] % 2:
            model = cls(factor=encoder[2], channels=encoder[0], neighborhood=decoder[2])
            if shapes == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}:
                model.load_state_dict({name: state_dict[name].float() for name in _NAMES}, strict=True)
                return model.eval()
        raise ValueError(
            f"linear autoencoder weights have shapes {shapes}, expected enc_w (C, 3, f, f), enc_b (C,), dec_w (3ff, C, "
            "n, n) with odd n and dec_b (3ff,): the file is damaged or is another model's."
        )

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in -1..1, H and W multiples of ``factor`` (a remainder is cut off) -> (B, C, H/f, W/f)."""
        return F.conv2d(images, self.enc_w, self.enc_b, stride=self.factor)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 3, h f, w f), clamped to -1..1."""
        reach = self.neighborhood // 2
        padded = F.pad(latents, (reach, reach, reach, reach), mode="replicate")
        return F.pixel_shuffle(F.conv2d(padded, self.dec_w, self.dec_b), self.factor).clamp(-1, 1)


def preview_factors(autoencoder: LinearAutoencoder) -> tuple[Tensor, Tensor]:
    """The decoder reduced to one color per latent, for previews: (factors (C, 3), bias (3,)), float32.

    ``rgb = latent @ factors + bias`` in -1..1, which is the convention of ComfyUI's ``latent_rgb_factors``. On a
    constant latent this is exactly the mean color of the decoded patch (before clamping): with equal neighbors the
    decoder's taps just add up.
    """
    taps = autoencoder.dec_w.detach().float().sum(dim=(2, 3))  # (3ff, C)
    # pixel_shuffle wants the channel order (rgb, row, column), so one color's patch is one contiguous run.
    factors = taps.reshape(3, autoencoder.factor**2, autoencoder.channels).mean(dim=1).T.contiguous()
    bias = autoencoder.dec_b.detach().float().reshape(3, autoencoder.factor**2).mean(dim=1)
    return factors, bias
