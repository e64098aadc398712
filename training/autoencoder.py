"""Fit the linear autoencoder in closed form: patches to latents, and the least-squares way back.

A latent is (mean Y, mean Cb, mean Cr, strongest detail of Y), each of unit variance over the training scenes; chroma
has no offset, so that a gray picture has none and stays gray. No gradient step is taken: a minute on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from comfyui_exemplar.networks.embedded.autoencoder import LinearAutoencoder

FACTOR, CHANNELS, NEIGHBORHOOD = 4, 4, 5
# ITU-R BT.601: rows Y, Cb, Cr of R, G, B
YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@torch.no_grad()
def fit(pictures: Tensor) -> LinearAutoencoder:
    """:param pictures: (n, 3, H, W) in -1..1, H and W multiples of FACTOR; some hundreds are plenty."""
    model = LinearAutoencoder(FACTOR, CHANNELS, NEIGHBORHOOD)
    ycbcr = torch.tensor(YCBCR)
    for channel in range(3):
        model.enc_w[channel] = ycbcr[channel][:, None, None] / FACTOR**2
    model.enc_w[3] = ycbcr[0][:, None, None] * _strongest_detail(pictures, ycbcr[0])

    latents = model.encode(pictures)
    deviation, mean = latents.std((0, 2, 3)), latents.mean((0, 2, 3))
    mean[1:] = 0  # an offset of chroma would color gray pictures
    model.enc_w /= deviation[:, None, None, None]
    model.enc_b.copy_(-mean / deviation)

    # Luma may use every latent, chroma only chroma latents and no constant: gray pictures come back gray.
    every = torch.arange(CHANNELS)
    _fit_decoder(model, pictures, ycbcr, outputs=[0], inputs=every, constant=True)
    _fit_decoder(model, pictures, ycbcr, outputs=[1, 2], inputs=every[1:3], constant=False)
    # so far the decoder gives Y, Cb and Cr
    patches = model.dec_w.reshape(3, FACTOR**2, *model.dec_w.shape[1:])
    to_rgb = torch.linalg.inv(ycbcr)
    model.dec_w.copy_(torch.einsum("rc,cpknm->rpknm", to_rgb, patches).reshape(model.dec_w.shape))
    model.dec_b.copy_((to_rgb @ model.dec_b.reshape(3, FACTOR**2)).flatten())
    return model.eval()


def _fit_decoder(
    model: LinearAutoencoder, pictures: Tensor, ycbcr: Tensor, *, outputs: list[int], inputs: Tensor, constant: bool
) -> None:
    """Least squares from the neighborhoods of some latent channels to patches of some of Y, Cb and Cr."""
    reach, taps = NEIGHBORHOOD // 2, NEIGHBORHOOD**2
    size = len(inputs) * taps + constant
    gram = torch.zeros(size, size, dtype=torch.float64)
    moment = torch.zeros(size, len(outputs) * FACTOR**2, dtype=torch.float64)
    for part in pictures.split(64):
        latents = F.pad(model.encode(part)[:, inputs], (reach,) * 4, mode="replicate")
        known = F.unfold(latents, NEIGHBORHOOD).transpose(1, 2).flatten(0, 1).double()
        if constant:
            known = torch.cat([known, torch.ones_like(known[:, :1])], 1)
        wanted = torch.einsum("oc,nchw->nohw", ycbcr[outputs], part)
        wanted = F.pixel_unshuffle(wanted, FACTOR).permute(0, 2, 3, 1).flatten(0, 2).double()
        gram += known.T @ known
        moment += known.T @ wanted
    # a whisper of ridge: directions that the pictures never show stay at zero
    gram += 1e-7 * gram.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    solved = torch.linalg.solve(gram, moment).float()
    weights = solved[: len(inputs) * taps].T.reshape(len(outputs), FACTOR**2, len(inputs), NEIGHBORHOOD, NEIGHBORHOOD)
    decoder = model.dec_w.reshape(3, FACTOR**2, CHANNELS, NEIGHBORHOOD, NEIGHBORHOOD)  # a view
    bias = model.dec_b.reshape(3, FACTOR**2)
    for i, output in enumerate(outputs):
        decoder[output][:, inputs] = weights[i]
        if constant:
            bias[output] = solved[-1].reshape(len(outputs), FACTOR**2)[i]


def _strongest_detail(pictures: Tensor, luma: Tensor) -> Tensor:
    """First principal component (FACTOR, FACTOR) of luma patches without their means."""
    y = torch.einsum("c,nchw->nhw", luma, pictures)[:, None]
    patches = F.unfold(y, FACTOR, stride=FACTOR).transpose(1, 2).flatten(0, 1)
    patches = patches - patches.mean(1, keepdim=True)
    _, vectors = torch.linalg.eigh(patches.T @ patches)
    detail = vectors[:, -1].reshape(FACTOR, FACTOR)
    detail = detail - detail.mean()
    return detail * -detail[0, 0].sign()  # eigenvectors come with either sign; a corner is far from 0
