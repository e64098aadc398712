"""L-CAD from a file, and the whole of it under diffusers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...attention.call import CONDITIONAL, UNCONDITIONAL, batch_layout
from ...attention.instances import Instance
from ...attention.phrases import PromptTokens, find_phrases
from ...diffusion.sampling import guide, sample_ddim
from ...diffusion.schedule import sigmas_from_alphas
from ...files.ldm import place
from ...files.tensors import reading
from ...networks.clip.words import MERGES, WORDS, has_words, make_tokenizer, read_words
from ...networks.embedded.words import NULL_TOKEN, HashedWords, tokenize
from ...networks.lcad.load import LCADFile, read_lcad
from ...networks.lcad.model import LCADAutoencoder
from ...networks.lcad.weights import TEXT
from ...pipelines.recommended import read_recommended
from .checkpoint import StandaloneModel, alphas_cumprod, embedded_alphas, embedded_unet, fingerprint
from .denoiser import UNetDenoiser
from .host import StepCallback
from .lcad_instances import guided_instances
from .ldm import unet_from_ldm
from .text_encoders import clip_from_ldm

if TYPE_CHECKING:
    from ...pipelines.lcad import LCADHost

#: The published text encoder's tokenizer, by its name on the hub.
TOKENIZER = "openai/clip-vit-large-patch14"
#: The state of it that is fetched.
REVISION = "32bd64288804d66eefd0ccbe215aa642df71cc41"
_CURE = f"give --tokenizer a folder with {WORDS} and {MERGES}, or the name {TOKENIZER} to fetch it from the hub."
SCALE = 0.18215  # of Stable Diffusion 1.x's latents


class LCADDenoiser(UNetDenoiser):
    """A diffusers UNet that reads gray features beside the latent, as ``denoiser(x, sigma, branches) -> x0``.

    :param gray: (B or 1, G, h, w), the gray encoder's last map, the same for all branches.
    :param contexts: the text of each branch, (B or 1, tokens, width); all with the same number of tokens.
    """

    def __init__(self, model: StandaloneModel, gray: Tensor, contexts: Mapping[int, Tensor]) -> None:
        super().__init__(model)
        self.gray, self.contexts = gray, dict(contexts)

    def guided(self, weight: float) -> Callable[[Tensor, Tensor], Tensor]:
        """``denoiser(x, sigma)`` under guidance between branches 0 and 1; weight 1 runs branch 0 only."""

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            if weight == 1:
                return self(x, sigma)
            conditional, plain = self.pair(x, sigma)
            return guide(conditional, plain, weight)

        return denoise

    def context(self, branches: Sequence[int], rows: int) -> Tensor:
        of_row, pictures = batch_layout(branches, rows)
        chosen = [self.contexts[branch] for branch in of_row]
        return torch.stack([text[picture % len(text)] for text, picture in zip(chosen, pictures, strict=True)])

    def unet_input(self, scaled: Tensor) -> Tensor:
        if scaled.shape[-2:] != self.gray.shape[-2:] or len(scaled) % len(self.gray):
            raise ValueError(
                f"The latent is {tuple(scaled.shape)}, the gray features {tuple(self.gray.shape)}: encode the gray "
                "picture at the latent's size, one picture or one for each row."
            )
        gray = self.gray.to(scaled).repeat(len(scaled) // len(self.gray), 1, 1, 1)
        return torch.cat([scaled, gray], 1)


@dataclass(eq=False)
class DiffusersLCAD:
    """What ``pipelines.lcad`` asks of a host, on models that diffusers and transformers hold.

    :param encode_text: a prompt -> (1, tokens, width).
    :param read_text: a prompt -> the tokens of what ``encode_text`` gives.
    :param scale: of the UNet's latents against the autoencoder's.
    :param recommended: settings that the file recommends for L-CAD.
    :param on_step: called with the clean estimate after every step.
    """

    model: StandaloneModel
    autoencoder: LCADAutoencoder
    encode_text: Callable[[str], Tensor]
    read_text: Callable[[str], PromptTokens]
    scale: float
    recommended: dict[str, Any]
    on_step: StepCallback | None = None

    @property
    def sigma_table(self) -> Tensor:
        return sigmas_from_alphas(self.model.alphas_cumprod)

    @property
    def channels(self) -> int:
        return self.autoencoder.sizes.latent

    @property
    def factor(self) -> int:
        return self.autoencoder.sizes.factor

    @property
    def multiple(self) -> int:
        return self.factor * 2 ** (len(self.model.unet.down_blocks) - 1)

    @torch.no_grad()
    def encode(self, image: Tensor) -> tuple[Tensor, ...]:
        """(1, H, W, 3) in 0..1 -> the gray maps."""
        return self.autoencoder.encode(image)

    def phrase_places(self, prompt: str, phrases: Sequence[str]) -> tuple[list[tuple[int, ...]], int]:
        """Places of phrases in a prompt's context, and the length of that context.

        :raises ValueError: phrases that the prompt doesn't contain, named.
        """
        words = self.read_text(prompt)
        return find_phrases(words, [self.read_text(phrase) for phrase in phrases]), words.length

    def sample(
        self,
        x: Tensor,
        sigmas: Tensor,
        gray: Tensor,
        prompt: str,
        negative: str,
        cfg: float,
        instances: Sequence[Instance] = (),
    ) -> Tensor:
        """DDIM sampling from ``sigmas[0]`` to ``sigmas[-1]``, phrases drawn into their masks; on the CPU."""
        denoiser = LCADDenoiser(
            self.model, gray, {CONDITIONAL: self.encode_text(prompt), UNCONDITIONAL: self.encode_text(negative)}
        )

        def note(step: dict[str, Any]) -> None:
            if self.on_step is not None:
                self.on_step(step["denoised"])

        x = x.to(self.model.unet.device)
        guided = guided_instances(denoiser, cfg, instances, self.factor) if instances else denoiser.guided(cfg)
        return sample_ddim(guided, x, sigmas, callback=note, disable=True).cpu()

    @torch.no_grad()
    def decode(self, latent: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """(B, C, h, w) in the UNet's scale -> (B, H, W, 3) in 0..1."""
        return self.autoencoder.decode(latent.to(maps[-1].device) / self.scale, maps).cpu()


def load_lcad(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    tokenizer: str | Path | None = None,
) -> DiffusersLCAD:
    """The embedded L-CAD or a published checkpoint, ready to run.

    :param dtype: of the UNet; gray encoder, decoder and text stay float32.
    :param tokenizer: for published checkpoints: a folder with CLIP's tokenizer, or :data:`TOKENIZER` to fetch that
        one from the hub. None takes what the hub's cache has.
    :raises FileNotFoundError: there is no such file.
    :raises ValueError: it is not L-CAD's, or there is no tokenizer.
    """
    path = Path(path)
    read, recommended = read_lcad(path), read_recommended(path)
    with reading(path, "give L-CAD's checkpoint"):
        return _build(path, read, recommended, torch.device(device), dtype, tokenizer)


def _build(
    path: Path,
    read: LCADFile,
    recommended: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    tokenizer: str | Path | None,
) -> DiffusersLCAD:
    """What :func:`load_lcad` gives, of what was read.

    :raises ValueError: the parts do not fit.
    """
    if read.config is None:
        unet, (encode, words_of) = unet_from_ldm(read.unet, dtype=None), _clip_text(read.text, tokenizer, device)
        alphas, prediction, scale = alphas_cumprod(), "epsilon", SCALE
    else:
        unet = embedded_unet(read.config, read.unet, "UNet")
        words = HashedWords.from_state_dict(read.text, tokens=read.config["text"]["tokens"]).to(device)
        encode, words_of = _hashed_text(words)
        scale, alphas = read.config["latent"]["scale_factor"], embedded_alphas(read.config)
        prediction = read.config["schedule"]["prediction"]
    identity = fingerprint(unet.conv_in.weight, unet.config)
    place(unet, device=device, dtype=dtype)
    model = StandaloneModel(
        unet=unet,
        vae=None,  # type: ignore[arg-type]  # its autoencoder needs the gray maps: DiffusersLCAD has it
        alphas_cumprod=alphas,
        prediction=prediction,
        context=encode(""),
        added=None,
        name=path.stem,
        fingerprint=identity,
    )
    return DiffusersLCAD(model, read.autoencoder.to(device), encode, words_of, scale, dict(recommended.get("lcad", {})))


#: A text encoder, a prompt -> (1, tokens, width), and its reading of a prompt.
_Text = tuple[Callable[[str], Tensor], Callable[[str], PromptTokens]]


def _hashed_text(words: HashedWords) -> _Text:
    """The embedded text encoder, and its reading of a text."""

    def encode(text: str) -> Tensor:
        return words.encode([text])

    def words_of(text: str) -> PromptTokens:
        ids = tokenize(text, vocabulary=words.emb.num_embeddings, tokens=words.tokens)
        return PromptTokens(text, tuple((i, at + 1 if i != NULL_TOKEN else 0) for at, i in enumerate(ids)))

    return encode, words_of


def _tokenizer_folder(place: str | Path | None) -> Path:
    """The folder with CLIP's words: the one that is named, or the published one, which is fetched if it is.

    :raises ValueError: there is none.
    """
    from huggingface_hub import snapshot_download

    try:
        if place is not None and Path(place).is_dir():
            folder = Path(place)
        elif place is None or str(place) == TOKENIZER:
            # without a token: the files are public
            found = snapshot_download(
                TOKENIZER,
                revision=REVISION,
                allow_patterns=[WORDS, MERGES],
                local_files_only=place is None,
                token=False,
            )
            folder = Path(found)
        else:
            raise ValueError(f"{place} is no folder")
        if not has_words(folder):
            raise ValueError(f"{folder} has no {WORDS} and {MERGES}")
    except (OSError, ValueError) as error:  # the network's errors are among them
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"CLIP's tokenizer was not found ({said}): {_CURE}") from error
    return folder


def _clip_text(weights: Mapping[str, Tensor], tokenizer: str | Path | None, device: str | torch.device) -> _Text:
    """A published text encoder, and its reading of a text, whose first word stands behind the begin mark.

    77 tokens padded with the end mark, no mask, the normed last layer.
    """
    if not weights:
        raise ValueError("the file has no text encoder (cond_stage_model.*): get the full checkpoint.")
    encoder = clip_from_ldm({TEXT + name: tensor for name, tensor in weights.items()}, TEXT).to(device)
    length, end = encoder.config.max_position_embeddings, encoder.config.vocab_size - 1
    words = make_tokenizer(read_words(_tokenizer_folder(tokenizer)))
    if words.eos_token_id != end:
        raise ValueError(
            f"CLIP's tokenizer was not found (the end mark of {tokenizer or TOKENIZER} is {words.eos_token_id}, "
            f"expected {end}): {_CURE}"
        )

    @torch.no_grad()
    def encode(text: str) -> Tensor:
        ids = words(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
        return encoder(input_ids=ids.to(device)).last_hidden_state

    def words_of(text: str) -> PromptTokens:
        ids = words(text, add_special_tokens=False).input_ids[: length - 2]
        padding = ((end, 0),) * (length - 1 - len(ids))
        # every token counts as a word: phrases are looked up token by token
        return PromptTokens(text, ((words.bos_token_id, 0), *((i, at + 1) for at, i in enumerate(ids)), *padding))

    return encode, words_of


if TYPE_CHECKING:  # the contract, checked
    _: type[LCADHost] = DiffusersLCAD
