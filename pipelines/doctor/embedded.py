"""Every system on the files that come with the pack, held against what was recorded of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...color import ab_error, desaturate, luminance_error, merge_luminance
from ...files.pictures import load_picture
from ..ddcolor import AutoColorSettings, auto_color
from ..exemplar import colorize
from ..exemplar_settings import ColorizeSettings
from ..lcad import LCADSettings, describe
from ..memory import color_by_memory, write_references
from ..memory_features import ModelFeatures
from ..memory_settings import MemorySettings, WritingSettings
from ..transfer import TransferSettings, transfer_colors
from ..vct import TranslateSettings, learn, translate
from . import expected
from .checks import Check, Finding, NotRunError, share_verdict
from .subjects import AutoColor, Describer, Files, Model, Tokens

GROUP = "embedded"

#: What L-CAD is told of its example: things of which its embedded model knows the names.
WORDS = "green apple, blue umbrella"


@dataclass(frozen=True)
class Pictures:
    """The pictures that come with the pack.

    :param folder: where they are.
    """

    folder: Path

    def named(self, name: str) -> Tensor:
        """(1, H, W, 3) in 0..1 of a file."""
        return load_picture(self.folder / name)

    @cached_property
    def scene(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gray, reference, truth: two things that change places."""
        return self.named("scene-gray.png"), self.named("scene-reference.png"), self.named("scene-truth.png")

    @cached_property
    def photo(self) -> tuple[Tensor, Tensor]:
        """Gray, reference: a cat seen twice."""
        return self.named("photo-gray.png"), self.named("photo-reference.jpg")


@dataclass(frozen=True)
class Embedded:
    """Runs of all systems.

    :param pictures: what they run on.
    :param files: what runs.
    :param recorded: system -> numbers; those that are missing are none to compare with.
    :ivar found: system -> numbers of this run, to be recorded.
    """

    pictures: Pictures
    files: Files
    recorded: Mapping[str, list[float]]
    found: dict[str, list[float]] = field(default_factory=dict)

    def checks(self) -> list[Check]:
        """One a system."""
        made = [
            self._check("exemplar colorization", "the scene colored by its reference (Kosugi 2025)", self._exemplar),
            self._check("color memory", "the scene colored by a memory of its reference, in one pass", self._memory),
            self._check("DDColor", "the scene colored with no reference (Kang et al. 2023)", self._ddcolor),
            self._check("L-CAD", f"its example colored by '{WORDS}' (Chang et al. 2023)", self._lcad),
            self._check("VCT", "three updates of a concept, then the scene translated (Cheng et al. 2023)", self._vct),
            self._check("DEADiff", "tokens of the scene's reference (Qi et al. 2024)", self._deadiff),
        ]
        transfer = Check(
            GROUP,
            "transferred colors",
            "Distance of colors from the truth with a zoomed and shifted copy laid on, beside a plain merge of it.",
            "at most half of the plain merge's error",
            "the copy moved by a known zoom and shift, which registration has to find",
            self._transfer,
        )
        return [*made, transfer]

    def _check(self, system: str, does: str, run: Callable[[], tuple[list[float], Finding]]) -> Check:
        bound, half = (expected.bounds(system, dtype)[0] for dtype in (torch.float32, torch.bfloat16))
        listed = f"up to {bound:g} Lab units" + (f" (bfloat16 {half:g})" if half != bound else "")
        return Check(
            GROUP,
            system,
            f"Distance from the recorded result: {does}.",
            f"up to {bound:g}, relative" if system in expected.RELATIVE else listed,
            "recorded in float32 on a CPU; four times what half precision gave there, which rounds as TF32 does",
            lambda: self._held_against(system, run),
        )

    def _held_against(self, system: str, run: Callable[[], tuple[list[float], Finding]]) -> Finding:
        numbers, finding = run()
        self.found[system] = numbers
        if finding.verdict == "failed":
            return finding
        if system not in self.recorded:
            raise NotRunError("nothing is recorded to compare with.")
        apart = expected.distance(system, numbers, self.recorded[system])
        dtype = torch.float32 if system in expected.SINGLE else self._model().dtype
        verdict = share_verdict(apart, *expected.bounds(system, dtype))
        note = "" if verdict == "good" else "It does not compute here what it computed elsewhere; please report it."
        unit = "" if system in expected.RELATIVE else " Lab units"
        kind = str(dtype).removeprefix("torch.")
        shown = {"distance": apart, **finding.numbers}
        return Finding(f"{apart:.2g}{unit} in {kind}", verdict, note, shown, finding.pictures)

    def _model(self) -> Model:
        return self.files.model()

    @torch.no_grad()
    def _exemplar(self) -> tuple[list[float], Finding]:
        model: Model = self.files.model.first()
        gray, reference, truth = self.pictures.scene
        result = colorize(model.host, gray, reference, ColorizeSettings.resolve(model.exemplar)).images.cpu()
        kept = float(luminance_error(result, gray))
        numbers = {"lightness": kept, "from the truth": float(ab_error(result, truth))}
        pictures = (("scene", gray), ("its reference", reference), ("exemplar colorization", result))
        if kept > 0.5:
            return [], Finding(
                f"lightness off by {kept:.2f}", "failed", "The result's lightness is not the input's.", numbers
            )
        return expected.of_picture(result), Finding("", numbers=numbers, pictures=pictures)

    @torch.no_grad()
    def _memory(self) -> tuple[list[float], Finding]:
        model = self._model()
        gray, reference, truth = self.pictures.scene
        section = model.recommended.get("memory", {})
        asking, writing = MemorySettings.resolve(section), WritingSettings.resolve(section)
        network = ModelFeatures(model.host, asking.features)
        memory = write_references(network, reference, writing)
        result = color_by_memory(network, gray, memory, asking, device=model.host.device).images.cpu()
        numbers = {"from the truth": float(ab_error(result, truth))}
        return expected.of_picture(result), Finding("", numbers=numbers, pictures=(("color memory", result),))

    @torch.no_grad()
    def _ddcolor(self) -> tuple[list[float], Finding]:
        network: AutoColor = self.files.ddcolor.first()
        gray = self.pictures.scene[0]
        result = auto_color(network, gray, AutoColorSettings.resolve(network.recommended)).cpu()
        return expected.of_picture(result), Finding("", pictures=(("DDColor", result),))

    @torch.no_grad()
    def _lcad(self) -> tuple[list[float], Finding]:
        network: Describer = self.files.lcad.first()
        gray = self.pictures.named("words-gray.png")
        settings = LCADSettings.resolve(network.recommended, steps=8)
        result = describe(network, gray, WORDS, settings).cpu()
        return expected.of_picture(result), Finding("", pictures=((f"L-CAD: {WORDS}", result),))

    @torch.no_grad()
    def _vct(self) -> tuple[list[float], Finding]:
        model = self._model()
        content, reference, _ = self.pictures.scene
        section = {**model.recommended.get("vct", {}), "steps": 6, "resolution": 64}
        settings = TranslateSettings.resolve(section, updates=3, pivot_iterations=2, word="flower")
        concept = learn(model.host, reference, settings)
        result = translate(model.host, content, concept, settings)
        left = max(result.reconstruction_errors, default=0.0)
        shown = result.images.cpu()
        return expected.of_picture(shown), Finding("", numbers={"pivots": left}, pictures=(("VCT, hurried", shown),))

    @torch.no_grad()
    def _deadiff(self) -> tuple[list[float], Finding]:
        encode: Tokens = self.files.deadiff.first()
        return expected.of_tokens(encode(self.pictures.scene[1])), Finding("")

    @torch.no_grad()
    def _transfer(self) -> Finding:
        gray, _, truth = self.pictures.scene
        height, width = truth.shape[1:3]
        part = truth[:, 10 : height - 14, 8 : width - 20].movedim(-1, 1)
        edited = F.interpolate(part, (360, 480), mode="bilinear", antialias=True).movedim(1, -1)
        result = transfer_colors(gray, edited, TransferSettings.resolve())
        merged = merge_luminance(edited, desaturate(gray))
        apart, plain = (float(ab_error(each.cpu(), truth)) for each in (result.images, merged))
        verdict = share_verdict(apart, 0.5 * plain, plain)
        note = "" if verdict == "good" else "The copy was not found on the picture as it should be; please report it."
        return Finding(
            f"{apart:.2f} beside {plain:.2f} Lab units",
            verdict,
            note,
            {"transferred": apart, "plain merge": plain},
            (("an edit, moved", edited), ("transferred colors", result.images.cpu())),
        )
