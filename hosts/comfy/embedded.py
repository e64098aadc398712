"""The embedded model as ComfyUI's MODEL, CLIP and VAE, through doors that ComfyUI offers.

The UNet is ComfyUI's own; prompt and autoencoder are small modules behind ComfyUI's CLIP and VAE, which load, offload
and count them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.ldm.models.autoencoder
import comfy.model_base
import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.utils
import folder_paths
import torch
from torch import Tensor, nn

from ... import demo
from ...files.embeddings import read_vectors
from ...files.tensors import reading
from ...networks.embedded.autoencoder import LinearAutoencoder, preview_factors
from ...networks.embedded.parts import read_embedded
from ...networks.embedded.words import NULL_TOKEN, HashedWords, tokenize
from ...pipelines.recommended import read_recommended
from .embeddings import embedding_file
from .empty_prompt import attach_empty_prompt
from .managed import clip_options, managed, reloadable
from .recommended import recommend
from .unet import build_model, model_config, unet_options

log = logging.getLogger(__name__)

_EMBEDDING = re.compile(r"\bembedding:([\w.-]*\w)")

_PREDICTIONS = {
    "epsilon": comfy.model_base.ModelType.EPS,
    "v_prediction": comfy.model_base.ModelType.V_PREDICTION,
}


def load_demo(path: Path | None = None, *, disable_dynamic: bool = False) -> tuple[Any, Any, Any]:
    """(MODEL, CLIP, VAE) of the embedded model.

    :param disable_dynamic: weights stay where they are, see :func:`.managed.reloadable`.
    :raises ValueError: a file that is not an embedded model, or one whose tensors do not fit its configuration.
    """
    path = path or demo.model_path()
    read, recommended = read_embedded(path), read_recommended(path)
    with reading(path, "reinstall the pack to restore it"):
        model = load_unet(read.config, read.unet, read.autoencoder, paged=not disable_dynamic)
    recommend(model, recommended)
    clip = load_clip(read.words, disable_dynamic=disable_dynamic)
    attach_empty_prompt(model, _empty_prompt(clip))
    vae = _load_vae(read.autoencoder)
    for index, patcher in enumerate((model, clip.patcher, vae.patcher)):
        reloadable(patcher, _reload, path, index)
    return model, clip, vae


def _empty_prompt(clip: Any) -> list:
    """What ``clip`` gives of no text, without ComfyUI's model manager: a file may be read while that is at work."""
    with torch.no_grad():
        context, pooled = clip.cond_stage_model.encode_token_weights(clip.tokenize(""))
    return [[context, {"pooled_output": pooled}]]


def _reload(path: Path, index: int, disable_dynamic: bool = False) -> Any:
    """The patcher of one part of a file, fresh."""
    model, clip, vae = load_demo(path, disable_dynamic=disable_dynamic)
    return (model, clip.patcher, vae.patcher)[index]


def load_unet(
    config: Mapping[str, Any],
    weights: dict[str, Tensor],
    autoencoder: LinearAutoencoder,
    model_class: type[comfy.model_base.BaseModel] = comfy.model_base.BaseModel,
    *,
    paged: bool = True,
) -> Any:
    """A MODEL from an embedded file's configuration and its UNet's tensors, in diffusers' names.

    :param paged: see :func:`.managed.managed`.
    :raises ValueError: tensors that do not fit the configuration.
    """
    schedule = config["schedule"]
    factors, bias = preview_factors(autoencoder)

    class EmbeddedLatent(comfy.latent_formats.LatentFormat):
        scale_factor = config["latent"]["scale_factor"]
        latent_channels = config["latent"]["channels"]
        spacial_downscale_ratio = autoencoder.factor
        latent_rgb_factors = factors.tolist()
        latent_rgb_factors_bias = bias.tolist()

    made = model_config(
        unet_options(config["unet"]),
        latent_format=EmbeddedLatent,
        schedule={
            "beta_schedule": "linear" if schedule["type"] == "scaled_linear" else schedule["type"],
            "linear_start": schedule["beta_start"],
            "linear_end": schedule["beta_end"],
            "timesteps": schedule["steps"],
        },
        prediction=_PREDICTIONS[schedule["prediction"]],
        model_class=model_class,
    )
    return build_model(_rename(weights, made.unet_config), made, "the embedded UNet", paged=paged)


def _rename(weights: dict[str, Tensor], unet_config: dict[str, Any]) -> dict[str, Tensor]:
    names = comfy.utils.unet_to_diffusers(unet_config)
    unknown = sorted(set(weights) - set(names))
    if unknown:
        raise ValueError(f"The embedded UNet has weights that its configuration does not name: {unknown[:5]}.")
    return {names[name]: tensor for name, tensor in weights.items()}


def load_clip(words: HashedWords, *, disable_dynamic: bool = False) -> Any:
    """A CLIP around the word table of an embedded file.

    :param disable_dynamic: weights stay where they are, see :func:`.managed.reloadable`.
    """

    class Target:
        params: dict[str, Any] = {}

        @staticmethod
        def clip(dtype=None, device=None, model_options=None) -> WordsEncoder:
            return WordsEncoder(words)

        @staticmethod
        def tokenizer(embedding_directory=None, tokenizer_data=None) -> WordsTokenizer:
            return WordsTokenizer(words.emb.num_embeddings, words.tokens, words.emb.embedding_dim, embedding_directory)

    folders = folder_paths.get_folder_paths("embeddings")
    return comfy.sd.CLIP(Target, embedding_directory=folders, **clip_options(disable_dynamic))


class WordsTokenizer:
    """Prompts to weighted word ids, with ComfyUI's (word:1.2) and embedding:name syntax.

    :param width: of a word's vector.
    :param embeddings: folders of embedding files; None where there are none.
    """

    def __init__(self, vocabulary: int, tokens: int, width: int = 0, embeddings: list[str] | None = None) -> None:
        self.vocabulary, self.tokens, self.width, self.embeddings = vocabulary, tokens, width, embeddings

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list]:
        pairs: list[tuple] = []
        word = 0
        parts = comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0)
        for phrase, weight in parts:
            # the odd pieces are names of files: split keeps what stands in the parentheses
            for i, piece in enumerate(_EMBEDDING.split(phrase)):
                groups = [self._embedding(piece)] if i % 2 else [[token] for token in self._words(piece)]
                for group in groups:
                    word += 1
                    pairs += [(token, weight, word) for token in group]
        if len(pairs) > self.tokens:
            log.info("The embedded model reads %d words; the prompt has %d.", self.tokens, len(pairs))
        pairs = pairs[: self.tokens] + [(NULL_TOKEN, 1.0, 0)] * (self.tokens - len(pairs))
        return {"words": [pairs if return_word_ids else [pair[:2] for pair in pairs]]}

    def _words(self, text: str) -> list[int]:
        found = tokenize(text, vocabulary=self.vocabulary, tokens=self.tokens)
        return [token for token in found if token != NULL_TOKEN]

    def _embedding(self, name: str) -> list[Tensor]:
        """The vectors of an embedding file; none, with a line in the log, where it is missing or another model's."""
        path = embedding_file(name, self.embeddings or [])
        try:
            if path is None:
                raise ValueError("there is no such file")
            (found,) = read_vectors(path, ("words",), (self.width,))
        except ValueError as error:
            log.warning("The embedding '%s' is left out: %s", name, error)
            return []
        return list(found)

    def untokenize(self, pairs: list) -> list:
        return [(pair, str(pair[0])) for pair in pairs]

    def state_dict(self) -> dict:
        return {}


class WordsEncoder(nn.Module):
    """The word table behind the interface that ComfyUI's CLIP drives."""

    def __init__(self, words: HashedWords) -> None:
        super().__init__()
        self.words = words
        self.dtypes = {words.emb.weight.dtype}

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """The table has no layers to skip."""

    def reset_clip_options(self) -> None:
        """Nothing was set."""

    def load_sd(self, weights: dict[str, Tensor]) -> Any:
        return self.load_state_dict(weights)

    def encode_token_weights(self, tokens: dict[str, list]) -> tuple[Tensor, Tensor]:
        """(1, tokens, width) and its mean; a weight scales a word's distance from "no word", as ComfyUI's CLIP does."""
        table = self.words.emb.weight
        rows = [[pair[0] for pair in row] for row in tokens["words"]]
        vectors = torch.stack(
            [torch.stack([t.to(table) if isinstance(t, Tensor) else table[t] for t in row]) for row in rows]
        )
        said = [[isinstance(token, Tensor) or token != NULL_TOKEN for token in row] for row in rows]
        vectors = self.words.heard(vectors, torch.tensor(said, device=table.device))
        weight = torch.tensor([[float(pair[1]) for pair in row] for row in tokens["words"]]).unsqueeze(-1)
        vectors = torch.lerp(table[NULL_TOKEN].expand_as(vectors), vectors, weight.to(vectors))
        vectors = vectors.to(comfy.model_management.intermediate_device())
        return vectors, vectors.mean(1)


def _load_vae(autoencoder: LinearAutoencoder) -> Any:
    """ComfyUI's VAE around the linear autoencoder.

    ComfyUI builds its VAE from known architectures only, so the smallest one is built and handed ours to hold.
    """
    smallest = {
        "embed_dim": autoencoder.channels,
        "ddconfig": {
            "double_z": True,
            "z_channels": autoencoder.channels,
            "resolution": 32,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 32,
            "ch_mult": [1],
            "num_res_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
    }
    shell = comfy.ldm.models.autoencoder.AutoencoderKL(**smallest)
    vae = comfy.sd.VAE(sd=shell.state_dict(), config={"params": smallest}, dtype=torch.float32)
    vae.first_stage_model = _VAEModule(autoencoder).eval().requires_grad_(False)
    vae.patcher = managed(vae.first_stage_model, vae.device, comfy.model_management.vae_offload_device())
    vae.downscale_ratio = vae.upscale_ratio = autoencoder.factor
    vae.latent_channels = autoencoder.channels
    # activations of the two convolutions, in bytes
    vae.memory_used_encode = lambda shape, dtype: 8 * 4 * shape[2] * shape[3]
    vae.memory_used_decode = lambda shape, dtype: 16 * 4 * shape[2] * shape[3] * autoencoder.factor**2
    vae.size = None
    vae.model_size()
    return vae


class _VAEModule(nn.Module):
    """(B, 3, H, W) in -1..1 to latents and back, as ComfyUI's VAE calls it."""

    def __init__(self, autoencoder: LinearAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def encode(self, pixels: Tensor, **_: Any) -> Tensor:
        return self.autoencoder.encode(pixels)

    def decode(self, latent: Tensor, **_: Any) -> Tensor:
        return self.autoencoder.decode(latent)
