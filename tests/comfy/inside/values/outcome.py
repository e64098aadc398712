"""What a run gave, as numbers that can be compared, and what it was given, to see that it is left alone."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import comfy.samplers
import folder_paths
import torch
from torch import Tensor

from comfyui_exemplar.color.held import is_list

from ..sampling import run as sample
from ..sampling import run_guider
from .right import BY_ID

#: Of loaders: what they give is tried by the other nodes.
_LOADED = ("ComfyDDColor", "ComfyDEADiff", "ComfyReferring", "ComfyLCADVAE", "CLIP", "VAE")


def _content(path: pathlib.Path) -> Tensor:
    """What is in a file: a film's frames, averaged over what H.264 itself blurs, or bytes."""
    if path.suffix != ".mp4":
        return torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    from comfyui_exemplar.files.films import open_film

    frames = torch.stack([frame.picture for frame in open_film(path).frames()])
    return torch.nn.functional.avg_pool2d(frames.movedim(-1, 1), 4).movedim(1, -1)


class Outcome:
    """A node's run, made comparable.

    :ivar parts: name -> tensor of everything that it gave; a MODEL, GUIDER or SAMPLER by what it draws.
    :ivar pictures: those parts that are pictures or masks.
    """

    def __init__(self, right, node_id: str, inputs: Mapping[str, Any], draw: bool = True) -> None:
        self.right, self.inputs, self.parts, self.pictures = right, inputs, {}, set()
        # what a loader gives may need prompts of its own
        self.draw, self.drawing = draw and not node_id.startswith("ExemplarLoad"), None
        schema = BY_ID[node_id].define_schema()
        made = BY_ID[node_id].execute(**inputs)
        for output, value in zip(schema.outputs, made.result or (), strict=True):
            self._take(output.display_name, value, output.get_io_type())
        for shown in (made.ui or {}).get("images", ()) if isinstance(made.ui, dict) else ():
            if shown["type"] == "temp":  # a preview of what it gave
                continue
            path = pathlib.Path(folder_paths.get_output_directory()) / shown["subfolder"] / shown["filename"]
            # the number in a name counts up
            self.parts[f"file {len(self.parts)}"] = _content(path)

    def _take(self, name: str, value: Any, kind: str) -> None:
        if isinstance(value, Tensor):
            self.parts[name] = value
            if kind in ("IMAGE", "MASK"):
                self.pictures.add(name)
        elif kind in ("MODEL", "GUIDER", "SAMPLER") and value is not None:
            self.drawing = (kind, value)
            if self.draw:
                latent, sigmas = self.start()
                self.parts[name] = self.sampled(latent["samples"], sigmas)
        elif is_list(value):
            for index, item in enumerate(value):
                self._take(f"{name} {index}", item, kind)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self._take(f"{name} {key}", item, "")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            self.parts[name] = torch.tensor(float(value))
        elif dataclasses.is_dataclass(value) and type(value).__name__ in ("Inversion", "Pivots", "DEADiffTokens"):
            kept = {"trajectory", "contexts", "levels", "tokens", "reconstruction_error"}
            for field in dataclasses.fields(value):
                if field.name in kept:
                    self._take(f"{name} {field.name}", getattr(value, field.name), "")

    def start(self):
        """A latent and levels that what the node gave can sample from."""
        inversion = self.inputs.get("inversion", self.inputs.get("input_inversion"))
        if inversion is None:
            inversion = self.right.whole[0]
        model = self.right.sockets["MODEL"].model
        return {"samples": model.process_latent_out(inversion.noised())}, torch.tensor(inversion.plan.sigmas)

    def sampled(self, latent: Tensor, sigmas: Tensor) -> Tensor:
        """(B, C, h, w): what the MODEL, GUIDER or SAMPLER that the node gave draws from there."""
        kind, value = self.drawing
        prompt = self.right.sockets["CONDITIONING"]
        if kind == "MODEL":
            return sample(value, prompt, {"samples": latent}, sigmas)
        if kind == "GUIDER":
            return run_guider(value, {"samples": latent}, sigmas)
        guider = comfy.samplers.CFGGuider(self.right.sockets["MODEL"])
        guider.set_conds(prompt, prompt)
        guider.set_cfg(2.0)
        noise = torch.zeros_like(latent)
        return guider.sample(noise, latent, value, sigmas, disable_pbar=True, seed=0)

    def flaw(self) -> str:
        """What can be wrong with any result: NaN, infinite, or pictures that are none. "" for nothing."""
        for name, part in self.parts.items():
            if part.is_floating_point() and not bool(torch.isfinite(part).all()):
                return f"{name} is not finite"
            if part.is_floating_point() and bool((part.abs() > 1e6).any()):
                return f"{name} reaches {float(part.abs().max()):.3g}"
            if name in self.pictures:
                if part.ndim != (4 if part.shape[-1:] == (3,) and part.ndim > 3 else 3):
                    return f"{name} has shape {tuple(part.shape)}"
                if float(part.min()) < 0 or float(part.max()) > 1:
                    return f"{name} goes from {float(part.min()):.3g} to {float(part.max()):.3g}"
        return ""

    def difference(self, other: Outcome) -> tuple[float, str]:
        """The largest difference to another outcome, and where; infinite where shapes differ, or a part is missing.

        What this one has beside, such as a LATENT's other keys, is handed on as it came.
        """
        missing = sorted(other.parts.keys() - self.parts.keys())
        if missing:
            return float("inf"), f"{missing}"
        worst = (0.0, "")
        for name, theirs in other.parts.items():
            part = self.parts[name]
            if part.shape != theirs.shape:
                return float("inf"), f"{name}: {tuple(part.shape)} is not {tuple(theirs.shape)}"
            if part.numel():
                apart = (part.double() - theirs.double()).abs() / theirs.double().abs().clamp_min(1)
                worst = max(worst, (float(apart.max()), name))
        return worst


class Snapshot:
    """Inputs as they were."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.inputs, self.before = inputs, self._look(inputs)

    def changed(self) -> str:
        """Which input was changed, "" for none."""
        now = self._look(self.inputs)
        for name, value in self.before.items():
            if name not in now or not _same(value, now[name]):
                return name
        return next(iter(now.keys() - self.before.keys()), "")

    def _look(self, inputs):
        seen: dict[str, Any] = {}
        for name, value in inputs.items():
            _look_at(name, value, seen)
        return seen


def _look_at(name: str, value: Any, seen: dict[str, Any], depth: int = 0) -> None:
    if isinstance(value, Tensor):
        seen[name] = (value.detach().clone(), value._version if not value.is_inference() else None)
    elif isinstance(value, Mapping) and depth < 6:
        seen[f"{name} keys"] = tuple(map(str, value))
        for key, item in value.items():
            _look_at(f"{name}[{key}]", item, seen, depth + 1)
    elif is_list(value) and depth < 6:
        seen[f"{name} length"] = len(value)
        for index, item in enumerate(value):
            _look_at(f"{name}[{index}]", item, seen, depth + 1)
    elif hasattr(value, "model_options"):
        _look_at(f"{name} options", value.model_options, seen, depth + 1)
        for part in ("patches", "object_patches", "attachments", "wrappers", "callbacks", "additional_models"):
            seen[f"{name} {part}"] = repr(sorted(map(str, getattr(value, part, {}))))
        weights = value.model.state_dict()
        seen[f"{name} weights"] = torch.stack([w.double().sum() for w in weights.values()])
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _look_at(f"{name}.{field.name}", getattr(value, field.name), seen, depth + 1)
    elif type(value).__name__ == "FeatureBank":
        for sigma, layer, letter, kept in value.items():
            _look_at(f"{name} {sigma} {layer.name} {letter}", kept, seen, depth + 1)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and one and isinstance(one[0], Tensor):
        return one[0].shape == other[0].shape and torch.equal(one[0].nan_to_num(), other[0].nan_to_num())
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other
