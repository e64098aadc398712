"""Latents and levels that only a sampling meets: name -> (a good latent, good levels) -> an odd pair."""

from __future__ import annotations

import torch

from ....fixtures.odd import INFINITE, NAN, spoiled


def _latent(change):
    return lambda latent, sigmas: (change(latent), sigmas)


def _sigmas(change):
    return lambda latent, sigmas: (latent, change(sigmas))


#: Refused whatever is on the MODEL.
ODD = {
    "latent of NaN": _latent(lambda latent: latent * NAN),
    "one NaN in the latent": _latent(lambda latent: spoiled(latent, NAN)),
    "infinite latent": _latent(lambda latent: latent + INFINITE),
    "huge latent": _latent(lambda latent: torch.full_like(latent, 1e30)),
    "empty latent": _latent(lambda latent: latent[:0]),
    "latent of video": _latent(lambda latent: latent[:, :, None]),
    "latent of three axes": _latent(lambda latent: latent[0]),
    "latent of 16 channels": _latent(lambda latent: latent.repeat(1, 4, 1, 1)),
    "latent of one channel": _latent(lambda latent: latent[:, :1]),
    "sigmas of NaN": _sigmas(lambda sigmas: sigmas * NAN),
    "one NaN in sigmas": _sigmas(lambda sigmas: spoiled(sigmas, NAN, 1)),
    "infinite sigmas": _sigmas(lambda sigmas: spoiled(sigmas, INFINITE, 0)),
    "huge sigmas": _sigmas(lambda sigmas: spoiled(sigmas, 1e30, 0)),
    "negative sigmas": _sigmas(lambda sigmas: sigmas - 1),
    "sigmas that rise from 0": _sigmas(lambda sigmas: sigmas.flip(0)),
    "0 among sigmas": _sigmas(lambda sigmas: torch.cat([sigmas, sigmas[-1:]])),
    "sigmas of two axes": _sigmas(lambda sigmas: sigmas[None]),
    "whole sigmas": _sigmas(lambda sigmas: torch.arange(3, -1, -1)),
    "sigmas on and off": _sigmas(lambda sigmas: sigmas > 0),
}

#: Of what makes sense downward only; others noise a picture by them, as plain sampling does.
RISING = {
    "rising sigmas": _sigmas(lambda sigmas: sigmas.flip(0).clamp_min(1e-4)),  # as FlipSigmas does
    "sigmas that rise once": _sigmas(lambda sigmas: torch.cat([sigmas[:2], sigmas[:1], sigmas[2:]])),
}

#: Of what hangs on an inversion of the latent.
OF_ANOTHER = {
    "larger latent": _latent(lambda latent: latent.repeat(1, 1, 2, 2)),
    "smaller latent": _latent(lambda latent: latent[..., :8, :8]),
    "sideways latent": _latent(lambda latent: latent[..., :8]),
    "tiny latent": _latent(lambda latent: latent[..., :1, :1]),
}

#: Nothing is sampled: what comes back is what came.
NOTHING_TO_DO = {"no sigmas": _sigmas(lambda sigmas: sigmas[:0])}
