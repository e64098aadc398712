"""Train a small DEADiff adapter for the embedded model: image trunk, two Q-Formers, and the second key/value
projections.

As in the paper (Qi et al. 2024, section 3.2), a reference is never the target: what the two share is all that a branch
can learn. The embedded model itself stays as it is.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from comfyui_exemplar.attention.image_tokens import SEMANTICS, STYLE, route
from comfyui_exemplar.attention.layers import Layer
from comfyui_exemplar.hosts.diffusers.layers import attention_layers
from comfyui_exemplar.networks.deadiff.load import new_encoder
from comfyui_exemplar.networks.deadiff.model import normalize, resize_floats
from comfyui_exemplar.networks.deadiff.weights import DEADiffSizes
from comfyui_exemplar.networks.embedded.autoencoder import LinearAutoencoder
from comfyui_exemplar.networks.embedded.words import tokenize
from comfyui_exemplar.pipelines.deadiff import BRANCH_OF

from .drawings import Drawings, world
from .model import Net, quick_precision, signal_levels
from .resumable import Resumable, learning_rate, stage_at
from .scenes import Scenes
from .styles import StylePairs, Styles
from .words import load_exported

SIZES = DEADiffSizes(
    width=128,
    blocks=3,
    patch=8,
    vectors=65,
    trunk_inner=384,
    hidden=128,
    layers=2,
    inner=256,
    vocabulary=5,
    positions=4,
    queries=4,
    projection=256,
    trunk_heads=2,
    heads=2,
)
#: Instruction words as ids of a vocabulary of five: padding, [CLS], [SEP] and the two words.
WORDS = {"style": (1, 3, 2), "content": (1, 4, 2)}
#: Layers for semantic and for style tokens. Not the published split: in the embedded model words decide little in
#: coarse layers. With the words themselves in the place of semantic tokens (24 things, the model of step 8,400), what
#: was drawn was nearest to the right thing in 16 of 24 when all layers heard them, in 13 of 24 with this split, and in
#: 6 of 24 when the whole finest decoder level was left to style.
SPLIT = ("rest", "input.1, output.5")
LEARNING_RATE, WARM_UP, LAST_SHARE = 1e-3, 40, 0.03
EMA = 0.98
#: Share of references that are dropped, as in the published configuration.
DROP = 0.15
_TEMPERATURE = 0.1


@dataclass(frozen=True)
class Stage:
    """``words`` rows teach the semantic branch the embedded model's words, without its UNet; the others are pairs.

    :param rate: see ``resumable.learning_rate``.
    :param taught: share of the rate for what knows the words before pairs come: the trunk, the semantic branch and the
        projections of its layers. At the full rate pairs make it forget them.
    """

    size: int
    steps: int
    words: int
    style: int = 0
    semantics: int = 0
    both: int = 0
    rate: float = 0.0
    taught: float = 1.0


STAGES = (
    Stage(64, 2500, 64),
    Stage(64, 1000, 16, 10, 10, 5, rate=1e-3, taught=0.03),
    Stage(128, 250, 16, 6, 5, 3, taught=0.03),
)


class Adapter(nn.Module):
    """What is trained: the encoder and two matrices a layer, which start as copies of the text's."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.encoder = new_encoder(SIZES, shared_trunk=True)
        self.infos = attention_layers(net.unet)
        self.routing = route(list(self.infos.values()), *SPLIT)
        self.projections = nn.ModuleDict()
        for name, info in self.infos.items():
            text = net.unet.get_submodule(cross_attention(name))
            pair = nn.ModuleDict()
            for letter, source in (("k", text.to_k), ("v", text.to_v)):
                pair[letter] = nn.Linear(source.in_features, source.out_features, bias=False)
                pair[letter].weight.data.copy_(source.weight.data)
            self.projections[key_of(info.layer)] = pair
        for branch in self.encoder.branches.values():
            nn.init.normal_(branch.query_tokens, std=0.5)
        self.encoder.eval()  # no dropout: it is far from learning anything by heart

    def tokens(self, pictures: Tensor, kind: str) -> Tensor:
        """References (n, 3, S, S) in 0..1 -> (n, queries, hidden) of one kind."""
        pixels = normalize(resize_floats(pictures, SIZES.side))
        branch = BRANCH_OF[kind]
        return self.encoder(pixels, {branch: torch.tensor(WORDS[branch])})[branch]


def key_of(layer: Layer) -> str:
    """A layer's name for a ModuleDict, which allows no dots."""
    return f"{layer.block}_{layer.index}_{layer.depth}"


def cross_attention(name: str) -> str:
    """The module of the cross-attention beside a self-attention processor."""
    return name.removesuffix("attn1.processor") + "attn2"


class TokenAttention:
    """Cross-attention with image tokens beside the text, for training: gradients reach the tokens and the
    projections."""

    def __init__(self, adapter: Adapter, layer: Layer, given: dict[str, Tensor]) -> None:
        self.pair = adapter.projections[key_of(layer)]
        self.kind, self.given = adapter.routing[layer], given

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        tokens = self.given[self.kind]
        k = torch.cat([attn.to_k(encoder_hidden_states), self.pair["k"](tokens)], 1)
        v = torch.cat([attn.to_v(encoder_hidden_states), self.pair["v"](tokens)], 1)
        split = [t.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for t in (attn.to_q(hidden_states), k, v)]
        return attn.to_out[0](F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))


def attach(net: Net, adapter: Adapter) -> dict[str, Tensor]:
    """Put the adapter into a frozen network; what it reads its tokens from is returned, to be filled before every
    call."""
    given: dict[str, Tensor] = {}
    processors = dict(net.unet.attn_processors)
    for name, info in adapter.infos.items():
        processors[f"{cross_attention(name)}.processor"] = TokenAttention(adapter, info.layer, given)
    net.unet.set_attn_processor(processors)
    net.requires_grad_(False)
    net.precision = quick_precision(torch.device("cpu"))
    return given


class Trainer(Resumable):
    """Everything that a checkpoint holds."""

    def __init__(self, folder: Path, net: Net, seed: int) -> None:
        self.checkpoint = folder / "adapter.pt"
        torch.manual_seed(seed)
        self.net = Adapter(net)
        encoder = self.net.encoder
        taught = [*encoder.trunks.parameters(), *encoder.branches[BRANCH_OF[SEMANTICS]].parameters()]
        others = [*encoder.branches[BRANCH_OF[STYLE]].parameters()]
        for layer, kind in self.net.routing.items():
            (taught if kind == SEMANTICS else others).extend(self.net.projections[key_of(layer)].parameters())
        groups = [{"params": taught}, {"params": others}]
        self.optimizer = torch.optim.AdamW(groups, LEARNING_RATE, betas=(0.9, 0.99), weight_decay=1e-2)
        self.average = {name: value.clone() for name, value in self.net.state_dict().items()}
        self.step = 0

    def learning_rate(self) -> float:
        return learning_rate(STAGES, self.step, LEARNING_RATE, WARM_UP, LAST_SHARE)

    def update(self, loss: Tensor, taught: float = 1.0) -> None:
        """One step; ``taught`` as in :class:`Stage`."""
        for group, share in zip(self.optimizer.param_groups, (taught, 1.0), strict=True):
            group["lr"] = share * self.learning_rate()
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        current = self.net.state_dict()
        keep = min(EMA, self.step / (self.step + 10))
        torch._foreach_lerp_([self.average[name] for name in current], list(current.values()), 1 - keep)


def total_steps() -> int:
    return sum(stage.steps for stage in STAGES)


def words_loss(adapter: Adapter, net: Net, pictures: Tensor, names: list[str]) -> Tensor:
    """How far semantic tokens are from the words for what is shown, and whether another name of the world is nearer.

    The embedded model knows its things by words only, and its adapter has minutes where the published one had days:
    this is how the semantic branch finds the words' space. The pairs then teach it the rest.
    """
    known = sorted({*(name.replace("-", " ") for name in world()), *names})
    ids = torch.tensor([tokenize(name, vocabulary=net.text.emb.num_embeddings, tokens=SIZES.queries) for name in known])
    words = net.text(ids).detach()
    middle, spread = words.mean(0), words.std()
    asked = torch.tensor([known.index(name) for name in names])
    tokens = adapter.tokens(pictures, SEMANTICS)
    likeness = F.normalize((tokens - middle).flatten(1), dim=1) @ F.normalize((words - middle).flatten(1), dim=1).T
    near = ((tokens - words[asked]) / spread).square().mean()
    return F.cross_entropy(likeness / _TEMPERATURE, asked) + near


def pairs_loss(
    adapter: Adapter,
    net: Net,
    given: dict[str, Tensor],
    autoencoder: LinearAutoencoder,
    levels: Tensor,
    pairs: StylePairs,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of the predicted v, mostly at the noise levels where words and tokens decide."""
    count = len(pairs.captions)

    def uniform() -> Tensor:
        return torch.rand(count, generator=generator)

    for kind, pictures, has in (
        ("style", pairs.style, pairs.has_style),
        (SEMANTICS, pairs.semantics, pairs.has_semantics),
    ):
        # a dropped reference is one of zeros, as in unconditional rows
        kept = has & (uniform() > DROP)
        tokens = pictures.new_zeros(count, SIZES.queries, SIZES.hidden)
        if kept.any():
            tokens = tokens.index_put((kept.nonzero()[:, 0],), adapter.tokens(pictures[kept], kind))
        given[kind] = tokens
    latents = autoencoder.encode(pairs.targets * 2 - 1)
    timesteps = torch.where(uniform() < 0.85, 350 + uniform() * 650, uniform() * 1000).long()
    a = levels[timesteps][:, None, None, None]
    noise = torch.randn(latents.shape, generator=generator)
    predicted = net(a.sqrt() * latents + (1 - a).sqrt() * noise, timesteps, pairs.captions)
    return (predicted - (a.sqrt() * noise - (1 - a).sqrt() * latents)).square().mean()


def train(folder: Path, model: Path, *, seed: int, threads: int | None = None) -> None:
    """Train to the end of the plan, from the folder's checkpoint if there is one. Writes ``adapter.pt`` and
    ``adapter.jsonl`` (running means).

    :param model: the embedded model's file.
    """
    if threads:
        torch.set_num_threads(threads)
    net, autoencoder = load_exported(model)
    trainer = Trainer(folder, net, seed)
    if trainer.checkpoint.exists():
        trainer.resume()
    given, levels = attach(net, trainer.net), signal_levels()
    # The step is part of the seed: a resumed run goes on with pictures that it has not seen in this order before.
    styles = Styles(Scenes(Drawings.load(folder / "drawings.npz"), seed=seed + trainer.step))
    generator = torch.Generator().manual_seed(seed + trainer.step)
    means: dict[str, float] = {}
    started = time.monotonic()
    with tqdm(total=total_steps(), initial=trainer.step, desc="adapter", mininterval=5) as progress:
        while trainer.step < total_steps():
            stage = stage_at(STAGES, trainer.step)
            parts = {}
            if stage.words:
                pictures, names = styles.named(stage.words, SIZES.side)
                parts["words"] = words_loss(trainer.net, net, pictures, names)
            if stage.style + stage.semantics + stage.both:
                pairs = styles.pairs(stage.style, stage.semantics, stage.both, stage.size)
                parts["pairs"] = pairs_loss(trainer.net, net, given, autoencoder, levels, pairs, generator)
            trainer.update(sum(parts.values()), stage.taught)
            for name, value in parts.items():
                means[name] = means.get(name, value.item()) * 0.97 + value.item() * 0.03
            progress.update()
            if trainer.step % 25 == 0:
                row = {"step": trainer.step, "size": stage.size, "seconds": round(time.monotonic() - started)} | {
                    name: round(value, 4) for name, value in means.items()
                }
                with (folder / "adapter.jsonl").open("a") as log:
                    log.write(json.dumps(row) + "\n")
            if trainer.step % 50 == 0 or trainer.step == total_steps():
                trainer.save()
