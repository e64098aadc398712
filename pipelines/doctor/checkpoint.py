"""A user's Stable Diffusion: its autoencoder, its noise, the way there and back, the bypass, where attention looks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...attention.dual import DualAttentionColor
from ...attention.dual_banks import DualBanks
from ...color import ab_error, desaturate, luminance_error, psnr, resize
from ...color.devices import wait_for
from ...color.sizes import size_of, working_size
from ...diffusion.inversion import round_trip_error
from ...diffusion.schedule import InversionPlan, inversion_plan
from ..exemplar import colorize
from ..exemplar_inversion import Inverter, color_layers
from ..exemplar_settings import ColorizeSettings
from .checks import UNKNOWN, Check, Finding, NotRunError, Verdict, share_verdict
from .correspondence import mirrored, places_changed
from .embedded import Pictures
from .subjects import Checkpoint, Model

GROUP = "checkpoint"

#: Side of the square whose area is worked at, and how many steps deep, where it is to be quick.
QUICK_SIDE, QUICK = 256, {"steps": 10, "depth": 2, "passes": 1}

#: A difference of colors that eyes just notice (Mahy et al. 1994, CIE 1976 L*a*b*).
NOTICED = 2.3

#: Noise level at which denoising is looked at: as much noise as there is picture.
EVEN = 1.0

_WEIGHTS = "These weights look random, or untrained, or predict something else than is thought"


@dataclass
class Examination:
    """One checkpoint under examination. What several checks need is made once.

    :param pictures: what comes with the pack.
    :param checkpoint: the user's.
    :param quick: small and few steps.
    """

    pictures: Pictures
    checkpoint: Checkpoint
    quick: bool
    _kept: dict[str, Tensor] = field(default_factory=dict)

    def checks(self) -> list[Check]:
        """From its file to a whole coloring."""
        rows: list[tuple[str, str, str, str, Callable[[], Finding]]] = [
            (
                "file",
                "Whether the file is read, and what it holds.",
                "Stable Diffusion 1.x, 2.x or SDXL",
                "the families whose attention the methods know",
                self._file,
            ),
            (
                "autoencoder",
                "PSNR of a photograph, encoded and decoded.",
                "19.6 dB or more; published means on COCO 2017 are 23.4 (SD 1.x), 24.5 (its ft-MSE), 24.7 (SDXL)",
                "the published mean of SD 1.x less its spread of 3.8 dB; this photograph: " + UNKNOWN,
                self._autoencoder,
            ),
            (
                "denoising",
                "What is left of the noise after one prediction, with as much noise as there is picture.",
                "below 0.7 of the noise; a network that learned nothing leaves 1 or more",
                "a model that predicts noise at all removes a good part of it in one step",
                self._denoising,
            ),
            (
                "round trip",
                "Error of DDIM inversion and back, relative to the picture's spread, as DDIM Inversion gives it.",
                "below 0.1",
                "what the node calls good; released weights: " + UNKNOWN,
                self._round_trip,
            ),
            (
                "bypass",
                "Plain sampling before an edit, under an edit of strength 0, and after a real edit.",
                "the same bits; a real edit changes them",
                "an edit is a value in a clone; nothing shared is changed",
                self._bypass,
            ),
            (
                "correspondence, mirrored",
                "Share of places of a photograph that find themselves in its mirrored copy, within two places.",
                "0.25 or more, and thrice chance, which is said. Released weights: " + UNKNOWN,
                "the truth is known exactly; a decoder that tells things apart is far above chance",
                lambda: mirrored(self._model(), self.pictures.photo[0], self._side),
            ),
            (
                "correspondence, exchanged",
                "Share of the places of two drawn things that look at the same thing in a picture where they changed "
                "sides.",
                "0.65 or more; chance is 0.5. Released weights: " + UNKNOWN,
                "position is no clue there, only what things look like",
                lambda: places_changed(self._model(), self.pictures.scene, self._side),
            ),
            (
                "one row of the UNet",
                "Seconds of one prediction of one picture.",
                UNKNOWN,
                "it depends on the device alone",
                self._row,
            ),
            (
                "a whole coloring",
                "The photograph colored by its reference, with the settings that the model recommends.",
                "its own lightness, within 0.5 of L; seconds and memory: " + UNKNOWN,
                "the merge keeps lightness whatever the model does",
                self._coloring,
            ),
            (
                "half beside single precision",
                "Distance of the colors of the same coloring in float16 or bfloat16 and in float32.",
                f"up to {NOTICED} Lab units; released weights: {UNKNOWN}",
                "what eyes just notice (Mahy et al. 1994)",
                self._precision,
            ),
        ]
        return [Check(GROUP, *row) for row in rows]

    def _model(self) -> Model:
        return self.checkpoint.model()

    @cached_property
    def _settings(self) -> ColorizeSettings:
        recommended: dict[str, Any] = dict(self._model().exemplar)
        if self.quick:
            recommended |= {**QUICK, "resolution": min(QUICK_SIDE, recommended.get("resolution", QUICK_SIDE))}
        return ColorizeSettings.resolve(recommended)

    @property
    def _side(self) -> int:
        return self._settings.resolution

    def _plan(self, **changes: int) -> InversionPlan:
        settings = replace(self._settings, **changes)
        return inversion_plan(self._model().host.sigma_table, settings.steps, settings.depth)

    @cached_property
    def _latent(self) -> Tensor:
        """(1, C, h, w) of the colored photograph at working size."""
        host = self._model().host
        return host.encode(self._seen(self.pictures.photo[1]))

    def _seen(self, picture: Tensor) -> Tensor:
        host = self._model().host
        return resize(picture, working_size(*size_of(picture), self._side, host.size_multiple, host.factor))

    def _file(self) -> Finding:
        model: Model = self.checkpoint.model.first()
        layers = len(model.host.layers)
        kind = str(model.dtype).removeprefix("torch.")
        name = f"{self.checkpoint.name}: " if self.checkpoint.name else ""
        return Finding(f"{name}{model.family}, {model.about}, {layers} layers, {kind}", numbers={"layers": layers})

    @torch.no_grad()
    def _autoencoder(self) -> Finding:
        host, picture = self._model().host, self._seen(self.pictures.photo[1])
        back = host.decode(self._latent).cpu()[:, : picture.shape[1], : picture.shape[2]]
        if not bool(back.isfinite().all()):
            return Finding("no numbers", "failed", "The autoencoder overflows; load it in float32 or bfloat16.")
        back = back.clamp(0, 1)
        value = float(psnr(back, picture))
        shown = (("photograph", picture), ("encoded and decoded", back))
        verdict: Verdict = "good" if value >= 19.6 else "look"
        note = ""
        if verdict != "good":
            note = "This may be another model's VAE, or one of random weights; connect or name the one made for it."
        return Finding(f"{value:.1f} dB", verdict, note, {"psnr": value}, shown)

    @torch.no_grad()
    def _denoising(self) -> Finding:
        host, clean = self._model().host, self._latent.float().cpu()
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        table = host.sigma_table
        level = float(table[int((table - EVEN).abs().argmin())])
        one = InversionPlan("consistent", 1, 1, (0.0, level), (level,), (level, 0.0))
        # a single step of DDIM down to 0 ends at the clean estimate itself
        estimate = host.sample((clean + level * noise).to(clean), one, None, (), 1.0).float().cpu()
        left = float((estimate - clean).pow(2).mean().sqrt() / (level * noise.pow(2).mean().sqrt()))
        if not math.isfinite(left):
            return Finding("no numbers", "failed", "The UNet overflows in this precision; use bfloat16 or float32.")
        verdict: Verdict = "good" if left < 0.7 else "look"
        note = "" if verdict == "good" else f"{_WEIGHTS} (v or epsilon)."
        return Finding(f"{left:.2f} of the noise is left", verdict, note, {"left": left, "sigma": level})

    @torch.no_grad()
    def _round_trip(self) -> Finding:
        host, plan = self._model().host, self._plan()
        trajectory = host.invert(self._latent, plan, None, 0)
        returned = plan.to_clean(host.sample(plan.to_sampling(trajectory[-1]), plan, None, (), 1.0))
        error = round_trip_error(self._latent, returned)
        if not math.isfinite(error):
            return Finding("no numbers", "failed", "The way back overflows; use bfloat16 or float32.")
        verdict = share_verdict(error, 0.1, math.inf)
        note = "" if verdict == "good" else f"{_WEIGHTS}; or raise steps or refinements of DDIM Inversion."
        return Finding(f"{error:.3f}, {plan.depth} of {plan.steps} steps", verdict, note, {"error": error})

    @torch.no_grad()
    def _bypass(self) -> Finding:
        host, settings = self._model().host, replace(self._settings, depth=min(2, self._settings.depth))
        plan = inversion_plan(host.sigma_table, settings.steps, settings.depth)
        layers = color_layers(host.layers, settings.attention.layers)
        gray, reference = self._seen(desaturate(self.pictures.photo[0])), self.pictures.photo[1]
        source, pair = Inverter(host, plan, layers, settings).invert(gray, reference)
        banks, start = DualBanks(source.bank, pair.color.bank, pair.gray.bank), source.noised()

        def plainly() -> Tensor:
            return host.sample(start, plan, None, (), 1.0)

        def under(strength: float) -> Tensor:
            edit = DualAttentionColor(replace(settings.attention, strength=strength), layers, banks)
            if strength > 0:
                edit.precompute({i.layer: i.heads for i in host.layers}, host.attend, host.device, host.out_of_memory)
            try:
                return host.sample(start, plan, edit, tuple(layers), 1.0)
            finally:
                edit.forget()

        first, again, none, real = plainly(), plainly(), under(0.0), under(1.0)
        after = plainly()
        changed = float((real - first).abs().max())
        numbers = {
            "plain twice": float((again - first).abs().max()),
            "strength 0": float((none - first).abs().max()),
            "after an edit": float((after - first).abs().max()),
            "a real edit": changed,
        }
        if not torch.equal(first, again):
            note = "This device gives other bits for the same sampling without any edit, so that nothing can be said."
            return Finding("plain sampling does not repeat itself", "look", note, numbers)
        off = [name for name, made in (("strength 0", none), ("after an edit", after)) if not torch.equal(made, first)]
        if off:
            return Finding(f"other bits: {', '.join(off)}", "failed", "An edit left something; report it.", numbers)
        if not changed > 0:
            return Finding("a real edit changes nothing", "failed", "Edits do not reach the model.", numbers)
        return Finding(f"the same bits; a real edit changes {changed:.2g}", numbers=numbers)

    @torch.no_grad()
    def _row(self) -> Finding:
        import time

        model = self._model()
        host, plan = model.host, self._plan(depth=min(4, self._settings.steps))
        host.sample(self._latent, self._plan(depth=1), None, (), 1.0)  # warms up
        wait_for(host.device)
        begun = time.perf_counter()
        host.sample(self._latent, plan, None, (), 1.0)
        wait_for(host.device)
        seconds = (time.perf_counter() - begun) / plan.depth
        rows, columns = (side * host.factor for side in self._latent.shape[-2:])
        return Finding(f"{seconds:.3g} s at {columns} x {rows}", numbers={"seconds": seconds, "pixels": rows * columns})

    def _colored(self, model: Model) -> Tensor:
        gray, reference = self.pictures.photo
        return colorize(model.host, gray, reference, self._settings).images.cpu()

    @torch.no_grad()
    def _coloring(self) -> Finding:
        gray, reference = self.pictures.photo
        colored = self._kept["colored"] = self._colored(self._model())
        if not bool(colored.isfinite().all()):
            return Finding("no numbers", "failed", "The model overflows in this precision; use bfloat16 or float32.")
        kept = float(luminance_error(colored, gray))
        chroma = float(ab_error(colored, desaturate(gray)))
        verdict = share_verdict(kept, 0.5, 2.0)
        shown = (("to color", gray), ("its reference", reference), ("colored by this checkpoint", colored))
        numbers = {"lightness": kept, "colorfulness": chroma, "resolution": float(self._side)}
        note = "" if verdict == "good" else "The result's lightness is not the input's; please report it."
        if verdict == "good" and chroma < 1:
            verdict, note = "look", "It is hardly in color; look at the picture, and at the checks above."
        settings = f"{self._side}, {self._settings.passes} pass(es), guidance {self._settings.guidance:g}"
        return Finding(f"L within {kept:.2f}, colorfulness {chroma:.1f} ({settings})", verdict, note, numbers, shown)

    @torch.no_grad()
    def _precision(self) -> Finding:
        model = self._model()
        if "colored" not in self._kept:
            raise NotRunError("there is no whole coloring to compare with, see above.")
        other: Model = self.checkpoint.other()
        again = self._colored(other)
        apart = float(ab_error(again, self._kept["colored"]))
        names = [str(each.dtype).removeprefix("torch.") for each in (model, other)]
        if not math.isfinite(apart):
            return Finding(
                "no numbers", "failed", f"It overflows in {names[0]} or {names[1]}; use bfloat16 or float32."
            )
        verdict: Verdict = "good" if apart <= NOTICED else "look"
        note = "" if verdict == "good" else "Colors differ visibly between precisions; compare the pictures."
        return Finding(
            f"{apart:.2f} Lab units, {names[0]} and {names[1]}",
            verdict,
            note,
            {"distance": apart},
            ((f"the same in {names[1]}", again),),
        )
