"""What is looked at without any model: versions, the device, its precisions and attention, color arithmetic."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from ...attention.call import Attend
from ...color import luminance_error, merge_luminance, rgb_to_lab
from ...color.devices import check_dtype, device_name, devices, free_memory
from ...files.room import free_bytes
from .checks import Check, Finding, NotRunError, Verdict, share_verdict

GIB = 2**30

#: Libraries whose versions are told where they are installed.
LIBRARIES = ("numpy", "pillow", "safetensors", "kornia", "einops", "transformers", "diffusers", "opencv-python", "av")
_OTHER_NAMES = {"opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")}

#: Widths of heads that edits ask for: those of SDXL and SD 2.x, SD 1.x's finest and coarsest, and those doubled.
WIDTHS = (40, 64, 80, 128, 160, 320)


def environment(device: torch.device) -> dict[str, str]:
    """Versions and the device, by what they are called; no names of people, computers or folders."""
    found = {
        "pack": pack_version(),
        "system": f"{platform.system()} {platform.release().split('-')[0]} ({platform.machine()})",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for name, version in (("cuda", torch.version.cuda), ("hip", torch.version.hip)):
        if version:
            found[name] = version
    found |= {name: version for name in LIBRARIES if (version := version_of(name))}
    free = free_bytes() if device.type == "cpu" else free_memory(device)
    found["devices"] = ", ".join(devices())
    found["device"] = device_name(device)
    found["free memory"] = "not told" if free is None else f"{free / GIB:.1f} GiB"
    return found


def version_of(package: str) -> str:
    """Of an installed library, whatever name its wheel has; "" where there is none."""
    for name in (package, *_OTHER_NAMES.get(package, ())):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def pack_version() -> str:
    """The pack's own: from its project file, which is there in ComfyUI, or from what was installed."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    try:
        found = re.search(r'^version = "(.+)"$', project.read_text("utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else version_of("exemplar") or "unknown"


def checks(device: torch.device, attend: Attend, attention: str) -> list[Check]:
    """Checks of a device.

    :param attend: the host's attention, as edits ask for it.
    :param attention: what the host's attention is called.
    """
    made = [
        Check(
            "machine",
            "versions",
            "Whether Python and torch are new enough.",
            "Python 3.10 or newer, torch 2.4 or newer",
            "what pyproject.toml asks for",
            _versions,
        ),
        Check(
            "machine",
            "color arithmetic",
            "Lightness of a picture after new colors were laid on it, with their statistics matched, on the device.",
            "within 0.05 of L (0 to 100)",
            "the merge keeps L exactly; sRGB of float32 rounds it by less than 0.01, a device of coarser powers more",
            lambda: _merge(device),
        ),
    ]
    for dtype, good, look, why in (
        (torch.float32, 2e-3, 2e-2, "float32 rounds at 1e-7; TF32 of NVIDIA GPUs at 1e-3"),
        (torch.float16, 5e-3, 5e-2, "float16 rounds at 5e-4; 8-bit kernels (SageAttention) at some 1e-2"),
        (torch.bfloat16, 2e-2, 1e-1, "bfloat16 rounds at 4e-3; 8-bit kernels (SageAttention) at some 1e-2"),
    ):
        kind = _short(dtype)
        made.append(
            Check(
                "machine",
                f"attention in {kind}",
                f"Attention of the host ({attention}) beside the same in float64, for heads of {WIDTHS} channels.",
                f"relative error up to {good:g}, to be looked at up to {look:g}",
                why,
                _attention(device, dtype, attend, good, look),
            )
        )
    return made


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _versions() -> Finding:
    python, version = sys.version_info[:2], tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    found = f"Python {python[0]}.{python[1]}, torch {torch.__version__}"
    if python < (3, 10) or version < (2, 4):
        return Finding(found, "failed", "Update Python or torch; the pack was not made for these.")
    return Finding(found)


def _merge(device: torch.device) -> Finding:
    generator = torch.Generator().manual_seed(1)
    rough = torch.rand(2, 3, 6, 8, generator=generator)
    color, other = torch.nn.functional.interpolate(rough, (48, 64), mode="bilinear").movedim(1, -1).split(1)
    gray = other.mean(-1, keepdim=True).expand_as(other).contiguous()
    color, gray, other = (t.to(device) for t in (color, gray, other))
    error = float(luminance_error(merge_luminance(color, gray, statistics_from=other), gray).max())
    chroma = float(rgb_to_lab(merge_luminance(color, gray))[..., 1:].norm(dim=-1).mean())
    verdict: Verdict = share_verdict(error, 0.05, 0.5) if chroma > 1 else "failed"
    note = "" if verdict == "good" else "Colors are not laid on truly here; please report it."
    return Finding(f"{error:.4f} of L", verdict, note, {"lightness": error, "chroma": chroma})


def _attention(
    device: torch.device, dtype: torch.dtype, attend: Attend, good: float, look: float
) -> Callable[[], Finding]:
    def run() -> Finding:
        try:
            check_dtype(device, dtype)
        except ValueError as error:
            raise NotRunError(f"{_short(dtype)} {error}.") from None
        errors = {width: _attention_error(device, dtype, attend, width) for width in WIDTHS}
        worst = max(errors, key=lambda width: errors[width] if errors[width] == errors[width] else float("inf"))
        verdict = share_verdict(errors[worst], good, look)
        note = ""
        if verdict != "good":
            note = f"Heads of {worst} channels are off; choose another attention (pytorch) and look again."
        numbers = {f"heads of {width}": error for width, error in errors.items()}
        return Finding(f"{errors[worst]:.1e} at worst", verdict, note, numbers)

    return run


def _attention_error(device: torch.device, dtype: torch.dtype, attend: Attend, width: int) -> float:
    """Relative root mean square error of two heads over 96 queries and 160 keys."""
    generator = torch.Generator().manual_seed(width)
    q, k, v = (torch.randn(1, n, 2 * width, generator=generator) for n in (96, 160, 160))
    q, k, v = (t.to(dtype) for t in (q, k, v))
    found = attend(q.to(device), k.to(device), v.to(device), 2).cpu().double()
    truth = _plain(q.double(), k.double(), v.double(), 2)
    return float((found - truth).pow(2).mean().sqrt() / truth.pow(2).mean().sqrt())


def _plain(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def told(facts: Mapping[str, str], names: Sequence[str] = ()) -> str:
    """Facts on one line, all or some."""
    return ", ".join(f"{name} {facts[name]}" for name in (names or facts) if name in facts)
