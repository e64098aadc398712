"""What the doctor looks at on the command line: models that diffusers and transformers hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import demo
from ...attention.fused import sdpa
from ...files.headers import is_embedded
from ...networks.ddcolor.load import load_ddcolor
from ...networks.deadiff.load import load_deadiff
from ...pipelines.deadiff import encode
from ...pipelines.doctor.subjects import Checkpoint, Files, Model, Once, Tokens, family_of, other_precision
from ...pipelines.recommended import SYSTEMS
from .checkpoint import StandaloneModel, load_standalone
from .lcad import load_lcad
from .vct import DiffusersTranslator
from .vct_text import load_concept_text

#: What the attention of this host is called.
ATTENTION = "torch's scaled_dot_product_attention"
attend = sdpa

#: Instruction words of the kinds of tokens.
_WORDS = {"style": "style", "semantics": "content"}


def embedded_files(device: torch.device, dtype: torch.dtype) -> Files:
    """The pack's own files.

    :param dtype: of the UNets; DDColor and DEADiff, whose files are float32, run in that.
    """
    placed = {"device": device, "dtype": dtype}
    return Files(
        Once(lambda: load_model(demo.model_path(), **placed), "the embedded model"),
        ddcolor_of(demo.ddcolor_path(), device),
        lcad_of(demo.lcad_path(), **placed),
        deadiff_of(demo.deadiff_path(), device),
    )


def checkpoint_of(path: Path, device: torch.device, dtype: torch.dtype, **more: Any) -> Checkpoint:
    """A user's Stable Diffusion, in the asked precision and in another.

    :param more: of ``checkpoint.load_standalone``.
    """
    other = other_precision(dtype, device)
    return Checkpoint(
        path.name or path.resolve().name,
        Once(lambda: load_model(path, device=device, dtype=dtype, **more), "the checkpoint"),
        Once(lambda: load_model(path, device=device, dtype=other, **more), "the checkpoint in another precision"),
    )


def ddcolor_of(path: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Once:
    """A DDColor file."""
    return Once(lambda: load_ddcolor(path, device=device, dtype=dtype, systems=SYSTEMS), "DDColor's file")


def lcad_of(path: Path, device: torch.device, dtype: torch.dtype, tokenizer: str | None = None) -> Once:
    """An L-CAD checkpoint."""
    return Once(lambda: load_lcad(path, device=device, dtype=dtype, tokenizer=tokenizer), "L-CAD's file")


def deadiff_of(path: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Once:
    """A DEADiff checkpoint or adapter, as a function that makes tokens."""

    def load() -> Tokens:
        adapter = load_deadiff(path, dtype=dtype)
        adapter.encoder.to(device)

        def tokens(pictures: Tensor) -> Mapping[str, Tensor]:
            return encode(adapter, pictures, _WORDS, device=device)

        return tokens

    return Once(load, "DEADiff's file")


def load_model(path: Path, **placed: Any) -> Model:
    """A model as the doctor looks at it.

    :raises ValueError: it is none that the methods know; raises as ``load_standalone``.
    """
    model = load_standalone(path, **placed)
    text = load_concept_text(path, placed["device"])
    numbers = sum(parameter.numel() for parameter in model.unet.parameters())
    about = f"{numbers / 1e6:.0f} M numbers, predicts {'v' if model.prediction == 'v_prediction' else 'epsilon'}"
    host = DiffusersTranslator(model, text=text)
    family = "the embedded model" if path.is_file() and is_embedded(path) else _family(model)
    return Model(host, model.recommended, family, model.unet.dtype, about)


def _family(model: StandaloneModel) -> str:
    if model.added is not None:
        return "SDXL"
    return family_of(int(model.unet.config.cross_attention_dim))
