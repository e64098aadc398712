"""The diffusers host: a loaded UNet as a k-diffusion denoiser, and as a function to learn through.

Attention edits are attention processors here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...attention.call import CONDITIONAL, SELF, UNCONDITIONAL, AttentionCall, Edit, batch_layout
from ...attention.fused import sdpa
from ...attention.layers import Layer, LayerInfo
from ...diffusion.schedule import fractional_timestep, sigmas_from_alphas
from .layers import attention_layers

if TYPE_CHECKING:
    from .checkpoint import StandaloneModel


@dataclass
class _Running:
    """Where a model call is, for the processors that run inside it."""

    sigma: float
    branches: tuple[int, ...]
    pictures: tuple[int, ...]
    size: tuple[int, int]


class _EditedAttention:
    """A diffusers attention processor that asks an edit for the output of one attention layer."""

    def __init__(self, info: LayerInfo, edit: Edit, running: _Running, kind: str) -> None:
        self.info, self.edit, self.running, self.kind = info, edit, running, kind

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        call = AttentionCall(
            layer=self.info.layer,
            sigma=self.running.sigma,
            q=attn.to_q(hidden_states),
            k=attn.to_k(context),
            v=attn.to_v(context),
            heads=attn.heads,
            branches=self.running.branches,
            pictures=self.running.pictures,
            rows=tuple(range(len(self.running.branches))),
            grid=self.info.grid(self.running.size),
            attend=sdpa,
            kind=self.kind,
        )
        out = self.edit(call, AttentionCall.plain)
        return attn.to_out[1](attn.to_out[0](out))


class UNetDenoiser:
    """A diffusers UNet as ``denoiser(x, sigma, branches=(0,)) -> x0``.

    ``x`` is variance-exploding with unit-variance latents; ``branches`` says which branch each equal chunk of the batch
    is, as ComfyUI's ``cond_or_uncond`` does. Timesteps are the nearest ones on a logarithmic sigma scale, unless
    ``fractional``: then they lie between whole ones, as k-diffusion has them.
    """

    def __init__(self, model: StandaloneModel, *, fractional: bool = False) -> None:
        self.model, self.fractional = model, fractional
        self.sigma_table = sigmas_from_alphas(model.alphas_cumprod)
        self._layers = attention_layers(model.unet)
        self._running: _Running | None = None

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        return tuple(self._layers.values())

    @torch.no_grad()
    def __call__(
        self, x: Tensor, sigma: Tensor, branches: Sequence[int] = (CONDITIONAL,), split_at: int | None = None
    ) -> Tensor:
        """Clean estimate of every row.

        :param split_at: index of an up block. ``x`` then holds one chunk that stands for all branches: they are alike
            until that block and part there. The result has a chunk for each branch.
        """
        level = float(sigma.reshape(-1)[0])
        copies = 1 if split_at is None else len(branches)
        if self._running is not None:
            self._running.sigma = level
            self._running.branches, self._running.pictures = batch_layout(branches, x.shape[0] * copies)
            self._running.size = tuple(x.shape[-2:])
        context = self.context(branches, x.shape[0])
        with _parting(self.model.unet, copies, split_at):
            predicted = self.predict(x, level, self.timestep(level), context, self.added_conditions(branches, x))
        return clean_estimate(self.model.prediction, x.repeat(copies, 1, 1, 1), level, predicted)

    def pair(self, x: Tensor, sigma: Tensor, split_at: int | None = None) -> tuple[Tensor, Tensor]:
        """Conditional and unconditional clean estimate of the same latents, in one call: two (B, C, h, w).

        :param split_at: as in :meth:`__call__`.
        """
        both = (UNCONDITIONAL, CONDITIONAL)
        if split_at is None:
            estimates = self(torch.cat([x, x]), sigma.repeat(2), both)
        else:
            estimates = self(x, sigma, both, split_at)
        unconditional, conditional = estimates.chunk(2)
        return conditional, unconditional

    def predict(
        self,
        x: Tensor,
        sigma: float | Tensor,
        timestep: float | Tensor,
        context: Tensor,
        added: dict[str, Tensor] | None,
    ) -> Tensor:
        """What the network predicts, (B, C, h, w) in the dtype of ``x``; differentiable.

        :param sigma: of all rows, or of each, (B, 1, 1, 1).
        :param timestep: of all rows, or of each, (B,).
        :param context: (B, tokens, width); ``added`` as :meth:`added_conditions`.
        """
        unet = self.model.unet
        weight = unet.conv_in.weight  # cheaper to ask than the network, which walks all its parameters
        scaled = self.unet_input(x / (sigma**2 + 1) ** 0.5).to(weight.dtype)
        context = context.to(weight.device, weight.dtype)
        if not isinstance(timestep, Tensor):
            # filled on the device; a tensor made of a number on the CPU would have to be sent there
            timestep = torch.full((), timestep, dtype=torch.float32, device=weight.device)
        return unet(scaled, timestep, encoder_hidden_states=context, added_cond_kwargs=added).sample.to(x.dtype)

    def timestep(self, level: float) -> float:
        """The timestep at which the network is read at a sigma."""
        if self.fractional:
            return float(fractional_timestep(self.sigma_table, torch.tensor(level)))
        return int(nearest_timesteps(self.sigma_table, torch.tensor([level])))

    def context(self, branches: Sequence[int], rows: int) -> Tensor:
        """(rows, tokens, width): the text of every row; here one for all."""
        return self.model.context.expand(rows, -1, -1)

    def added_conditions(self, branches: Sequence[int], x: Tensor) -> dict[str, Tensor] | None:
        """What SDXL's UNet is told of every row of latents beside the text, the empty prompt's; None for others."""
        return self.model.added_conditions(x.shape[0], x.shape[-2:])

    def unet_input(self, scaled: Tensor) -> Tensor:
        """What the first convolution reads, from the latents at unit scale; here nothing else."""
        return scaled

    @contextmanager
    def edited(
        self, edit: Edit | None, layers: Sequence[Layer], kinds: Sequence[str] = (SELF,)
    ) -> Iterator[UNetDenoiser]:
        """Within this context the edit runs on the self-attention of those layers, or on the kinds given.

        Afterwards the UNet is as it was, whatever happened.
        """
        if edit is None:
            yield self
            return
        self._running = _Running(0.0, (), (), (0, 0))
        before: list[tuple[Any, Any]] = []
        try:
            for name, info in self._layers.items():
                for kind in kinds if info.layer in layers else ():
                    # the layers themselves: asking the network for its processors walks all that it is made of
                    path = name.removesuffix(".processor").replace(f".{SELF}", f".{kind}")
                    layer = self.model.unet.get_submodule(path)
                    before.append((layer, layer.get_processor()))
                    layer.set_processor(_EditedAttention(info, edit, self._running, kind))
            yield self
        finally:
            for layer, processor in reversed(before):
                layer.set_processor(processor)
            self._running = None


def clean_estimate(prediction: str, x: Tensor, sigma: float | Tensor, predicted: Tensor) -> Tensor:
    """x0 from what a network predicts at x: ``x − σ ε``, or ``x / (σ² + 1) − v σ / √(σ² + 1)``.

    :param prediction: "epsilon" or "v_prediction".
    :param x: (B, C, h, w), variance-exploding; ``predicted`` the same.
    :param sigma: of all rows, or of each, (B, 1, 1, 1).
    """
    if prediction == "v_prediction":
        scale = (sigma**2 + 1) ** 0.5
        return x / scale**2 - predicted * (sigma / scale)
    return x - sigma * predicted


def nearest_timesteps(sigma_table: Tensor, sigmas: Tensor) -> Tensor:
    """The training timesteps whose sigmas are nearest, on a logarithmic scale.

    :param sigma_table: (T,) ascending; ``sigmas`` (B,).
    :returns: (B,) whole numbers, on the table's device.
    """
    return (sigma_table.log()[None] - sigmas.to(sigma_table).log()[:, None]).abs().argmin(1)


@contextmanager
def _parting(unet: Any, copies: int, split_at: int | None) -> Iterator[None]:
    """Within this context the batch is repeated ``copies`` times on entry to up block ``split_at``."""
    if copies == 1:
        yield
        return

    def repeated(value: Any, rows: int) -> Any:
        if isinstance(value, tuple):
            return tuple(repeated(part, rows) for part in value)
        if isinstance(value, Tensor) and value.ndim and value.shape[0] == rows:
            return value.repeat(copies, *[1] * (value.ndim - 1))
        return value

    def repeat(_module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        # skip connections, embeddings and prompt always come with the rows of the shared part
        rows = kwargs["res_hidden_states_tuple"][0].shape[0]
        return repeated(args, rows), {name: repeated(value, rows) for name, value in kwargs.items()}

    hooks = [block.register_forward_pre_hook(repeat, with_kwargs=True) for block in unet.up_blocks[split_at:]]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
