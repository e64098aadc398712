"""ComfyUI as a pipeline's host: MODEL, VAE and CONDITIONING behind ``pipelines.host.Host``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...attention.call import CONDITIONAL, Edit
from ...attention.capture import Capture
from ...attention.ending import Enough, ReadUpTo
from ...attention.families import UNET
from ...attention.layers import Layer, LayerInfo
from ...diffusion.sampling import invert_ddim, sample_ddim
from ...diffusion.schedule import InversionPlan
from . import edits, sampling
from .attention import fused_attention
from .families.found import network_of
from .memory import out_of_memory, resting_place
from .model import attention_layers, fingerprint, sigma_table
from .prompt_rows import for_part
from .room import held_by, place_features
from .rows import Part
from .runs import stop_if_canceled

if TYPE_CHECKING:
    from ...pipelines.host import Host
    from .calls import UNetCall


def with_captured(model: Any, capture: Capture, name: str, held: int = 0, ends: bool = False) -> Any:
    """A clone of a MODEL that fills a capture's banks; what can't be kept truly is refused while it runs.

    :param name: of the node, for messages.
    :param held: bytes that are kept on the device, at most.
    :param ends: nothing else is wanted of the UNet: each call of it ends at the last layer, and predicts no noise.
    """

    def check(run: edits.Sampling) -> None:
        run.refuse_windows(
            f"{name} keeps the attention of all pictures of a batch at once",
            "Take the context windows off the MODEL that inverts; sampling may have them.",
        )

    def reading(unet: Callable[[UNetCall], Tensor], call: UNetCall) -> Tensor:
        # caught next to the UNet: what stands around it sees a call like any other
        try:
            return unet(call)
        except Enough:
            return torch.zeros_like(call.x[:, : model.model.latent_format.latent_channels])

    placed = edits.PlacedEdit(
        name,
        ReadUpTo(capture) if ends else capture,
        edits.layer_widths(model, capture.layers),
        branches=frozenset({CONDITIONAL}),
        whole_pictures=True,
        strict=True,
        check=check,
        around=reading if ends else None,
        holds=lambda *_: held,
    )
    return edits.add_edit(model, placed)


def reads_films(model: Any) -> bool:
    """Whether a MODEL's latents have an axis of frames, which a picture has one of."""
    return model.model.latent_format.latent_dimensions == 3


def from_latent(model: Any, samples: Tensor) -> Tensor:
    """Samples of a LATENT, with or without an axis of frames -> (B, C, h, w) in the model's own scale."""
    return _framed(model.model.process_latent_in(_framed(samples, reads_films(model))), False)


def as_latent(model: Any, latent: Tensor) -> Tensor:
    """(B, C, h, w) in the model's own scale -> samples of a LATENT as the MODEL's samplers and VAE take them."""
    return model.model.process_latent_out(_framed(latent, reads_films(model)))


def _framed(latent: Tensor, framed: bool) -> Tensor:
    """Latents of pictures with an axis of one frame, or without."""
    if framed == (latent.ndim == 5):
        return latent
    return latent.unsqueeze(2) if framed else latent.squeeze(2)


class ComfyHost:
    """One MODEL with its VAE and prompt.

    :param vae: may be None where only latents are handled.
    :param on_step: called with the clean estimate after every model call.
    :param name: of the node, for messages.
    """

    def __init__(
        self,
        model: Any,
        conditioning: list,
        vae: Any = None,
        on_step: Callable[[Tensor], None] | None = None,
        name: str = "Exemplar Colorize",
    ) -> None:
        self.model, self.conditioning, self.vae, self.on_step, self.name = model, conditioning, vae, on_step, name
        known = network_of(model)
        self.family = UNET if known is None else known.family
        self.layers: tuple[LayerInfo, ...] = attention_layers(model)
        self.sigma_table = sigma_table(model)
        self.fingerprint = fingerprint(model)
        self.device: torch.device = model.load_device
        self.attend = fused_attention({})

    @property
    def size_multiple(self) -> int:
        """Pixels that a picture's sides should be multiples of, so that no level of the UNet has to round."""
        known = network_of(self.model)
        return self.factor * (1 if known is None else known.multiple)

    @property
    def factor(self) -> int:
        """Pixels a latent covers."""
        return self.vae.spacial_compression_encode()

    def encode(self, image: Tensor) -> Tensor:
        """(B, H, W, 3) in 0..1 -> (B, C, h, w) in the model's latent scale."""
        stop_if_canceled()
        pictures = [image[..., :3]]
        if getattr(self.vae, "latent_dim", 2) == 3:
            pictures = pictures[0].split(1)  # a batch would be the frames of one film
        return from_latent(self.model, torch.cat([self.vae.encode(one) for one in pictures]))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, H, W, 3) in 0..1."""
        stop_if_canceled()
        made = self.vae.decode(as_latent(self.model, latent))
        return made.flatten(0, -4)  # of films one frame each

    def only(self, part: slice, pictures: int) -> ComfyHost:
        """The same host for some pictures of a batch.

        :param pictures: of the whole batch, for whose prompts ``prompt_rows.why_together`` says nothing.
        """
        host = copy.copy(self)
        host.model = edits.for_pictures(self.model, Part(tuple(range(pictures)[part]), pictures))
        host.conditioning = for_part(self.conditioning, part, pictures)
        return host

    def invert(
        self,
        latent: Tensor,
        plan: InversionPlan,
        capture: Capture | None = None,
        refinements: int = 0,
        way: Callable[..., Tensor] | None = None,
    ) -> Tensor:
        """Climb; returns the trajectory, (K+1, B, C, h, w), where ComfyUI keeps intermediates.

        Features stay on the device if there is room for all of them, else they go to main memory a level at a time.

        :param way: another one up than DDIM's, with the same head and ``visit``.
        """
        model = self.model
        if capture is not None:
            held = place_features(model, capture, latent.shape, len(plan.kept_sigmas))
            model = with_captured(model, capture, self.name, held)
        trajectory: list[Tensor] = []

        def climb(denoiser, x, sigmas, extra_args=None, callback=None, disable=None):
            def visit(latent: Tensor) -> None:
                trajectory.append(_framed(latent, False).float())

            start = plan.from_clean(x)
            if way is not None:
                return way(denoiser, start, sigmas, extra_args, callback, disable, visit=visit)
            return invert_ddim(
                denoiser,
                start,
                sigmas,
                extra_args,
                callback,
                disable,
                reads=plan.reads,
                read_as=plan.read_as,
                refinements=refinements,
                visit=visit,
            )

        # weight 1: one branch only, the conditional one
        guider = sampling.color_guider(model, self.conditioning, 1.0)
        sampling.run_sampler(guider, self._framed(latent), climb, torch.tensor(plan.levels), self.on_step)
        if capture is not None:
            capture.finish()
        # at the end: the device is not waited for on the way
        return torch.stack(trajectory).to(resting_place())

    def read(self, latent: Tensor, sigma: float, capture: Capture) -> None:
        """One model call on clean latents at a noise level, for what the capture keeps. The UNet ends there."""
        model = with_captured(self.model, capture, self.name, ends=True)

        def once(denoiser, x, sigmas, extra_args=None, callback=None, disable=None):
            hat = self.family.at_level(x, sigma)
            denoised = denoiser(hat, sigma * x.new_ones([len(x)]), **(extra_args or {}))
            if callback is not None:
                callback({"x": x, "i": 0, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
            return x

        guider = sampling.color_guider(model, self.conditioning, 1.0)
        # up from clean latents to the one level, as the first step of an inversion
        sampling.run_sampler(guider, self._framed(latent), once, torch.tensor([0.0, sigma]), self.on_step)
        capture.finish()

    def sample(
        self,
        x: Tensor,
        plan: InversionPlan,
        edit: Edit | None,
        layers: Sequence[Layer],
        weight: float,
        back: Callable[..., Tensor] = sample_ddim,
    ) -> Tensor:
        """Come back under colorization guidance; returns the latent at the last level.

        :param back: the sampler.
        """
        model = self.model
        if edit is not None:
            placed = edits.PlacedEdit(
                self.name,
                edit,
                edits.layer_widths(model, layers),
                branches=frozenset({CONDITIONAL}),
                whole_pictures=True,
                release=getattr(edit, "forget", None),
                holds=held_by(edit),
            )
            model = edits.add_edit(model, placed)
        guider = sampling.color_guider(model, self.conditioning, weight)
        start = self._framed(plan.as_given(x))
        return _framed(sampling.run_sampler(guider, start, back, torch.tensor(plan.sigmas), self.on_step), False)

    def _framed(self, latent: Tensor) -> Tensor:
        return _framed(latent, reads_films(self.model))

    def out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out; if so, what can be freed is freed."""
        return out_of_memory(error)


if TYPE_CHECKING:  # the contract, checked
    _: type[Host] = ComfyHost
