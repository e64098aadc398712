"""Values that mean what the plain one means: name -> the plain value -> the same in other clothes, and how near."""

from __future__ import annotations

import fractions

import numpy as np
import torch

from ....fixtures.odd import with_options


def _strided(tensor):
    """The same numbers, with the axes' order in memory turned."""
    return tensor.movedim(-1, 0).contiguous().movedim(0, -1)


def _grad(tensor):
    with torch.inference_mode(False):
        return torch.from_numpy(tensor.numpy().copy()).requires_grad_()


def _tensors(floats):
    """Of every tensor of floats."""
    return {
        "strided": (_strided, 0),
        "of a larger one": (lambda good: torch.cat([good, good])[: len(good)], 0),
        "with a gradient": (_grad, 0),
        "of double precision": (lambda good: good.double(), floats[0]),
        "of half precision": (lambda good: good.half(), floats[1]),
        "of bfloat16": (lambda good: good.bfloat16(), floats[2]),
    }


#: Half precision rounds the pictures that come back as well.
PICTURES = _tensors((1e-5, 2e-3, 2e-2)) | {
    "with an opaque alpha": (lambda good: torch.cat([good, torch.ones(*good.shape[:3], 1)], -1), 0),
}

#: Of gray pictures.
GRAY = {
    "one channel": (lambda good: good[..., :1], 1e-6),
    "expanded": (lambda good: good[..., :1].expand(good.shape), 0),
}

MASKS = _tensors((1e-5, 2e-3, 2e-2)) | {
    "without batch": (lambda good: good[0], 0),
    "channel first": (lambda good: good[:, None], 0),
    "channel last": (lambda good: good[..., None], 0),
    "expanded": (lambda good: good[:, :1].expand(good.shape), 0),
}

_SAMPLES = _tensors((1e-4, 2e-2, 2e-1))
LATENTS = {
    name: (lambda good, change=change: {**good, "samples": change(good["samples"])}, near)
    for name, (change, near) in _SAMPLES.items()
    if name not in ("of half precision", "of bfloat16")
} | {
    "with other keys": (lambda good: {**good, "downscale_ratio_spacial": 4, "x": object()}, 0),
    "with a mask of ones": (lambda good: {**good, "noise_mask": torch.ones(1, 1, 8, 8)}, 0),
    "without a mask": (lambda good: {**good, "noise_mask": None}, 0),
    "with its number": (lambda good: {**good, "batch_index": [0]}, 0),
    "with its number in an array": (lambda good: {**good, "batch_index": np.array([0])}, 0),
    "with its number in a tensor": (lambda good: {**good, "batch_index": torch.tensor([0])}, 0),
}


def _context(change):
    return lambda good: [[change(context), extras] for context, extras in good]


PROMPTS = {
    "in tuples": (lambda good: tuple((context, extras) for context, extras in good), 0),
    "with other options": (lambda good: with_options(good, x=object(), guidance=3.5), 0),
    "of strength 1": (lambda good: with_options(good, strength=1.0), 0),
    "of a numpy strength": (lambda good: with_options(good, strength=np.float32(1)), 0),
    "always": (lambda good: with_options(good, start_percent=0.0, end_percent=1.0), 1e-5),
    "strided": (_context(_strided), 1e-5),
    "with a gradient": (_context(_grad), 1e-5),
    "of double precision": (_context(lambda good: good.double()), 1e-4),
}


def numbers(entry, value):
    """Of a setting of numbers: the same number as other programs have it."""
    if entry.about.auto and value < 0:
        others = {"less": -7, "a share of 1": -0.5, "numpy's": np.float32(-1), "far less": -1e6}
        return {name: (lambda _, other=other: other, 0) for name, other in others.items()}
    made = {"double": np.float64(value)}
    if float(value).is_integer():
        made |= {"float": float(value), "numpy's float": np.float32(value), "numpy's int": np.int64(value)}
        made |= {"fraction": fractions.Fraction(int(value)), "int": int(value)}
        made |= {"minus zero": -0.0} if value == 0 else {}
    return {name: (lambda _, other=other: other, 0) for name, other in made.items()}


class Word(str):
    """A text of a class of its own."""


def words(_):
    """Of a choice or a text."""
    return {"numpy's": (lambda good: np.str_(good), 0), "of a class": (lambda good: Word(good), 0)}


def same(item, value):
    """Name -> (a plain value -> the same, how near the result must be), for an input."""
    kind, setting = item.get_io_type(), getattr(item, "setting", None)
    if kind in ("INT", "FLOAT"):
        return numbers(setting, value)
    if kind == "STRING" or (kind == "COMBO" and setting is not None):
        return words(value)
    if kind == "IMAGE":
        return PICTURES | GRAY if bool((value[..., :1] == value).all()) else PICTURES
    return {"MASK": MASKS, "LATENT": LATENTS, "CONDITIONING": PROMPTS}.get(kind, {})
