"""Write the embedded DDColor's one file, in the published form, and measure it on things that it was not taught."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from comfyui_exemplar.color import ab_error, desaturate, rgb_to_lab
from comfyui_exemplar.files.headers import RECOMMENDED_KEY
from comfyui_exemplar.files.output import whole
from comfyui_exemplar.files.saving import save_image
from comfyui_exemplar.networks.ddcolor.load import encoder_name, load_ddcolor
from comfyui_exemplar.networks.ddcolor.weights import color_decoder_names, published_shapes
from comfyui_exemplar.pipelines.ddcolor import AutoColorSettings, auto_color

from .automatic import MEAN, SIZES, STD, UNIT
from .baselines import with_chroma
from .drawings import SIDE, Drawings
from .export import CREDIT, LICENSE

KEY = "exemplar.ddcolor"
GRAY, ONE_COLOR, EMBEDDED = "gray", "mean of the training colors", "embedded DDColor"
#: Things of the training split that are measured beside the held-out ones; about as many.
EVERY_TRAINED = 24
_ENCODER, _COLOR = "encoder.arch.", "decoder.color_decoder."


def export_automatic(folder: Path, output: Path) -> None:
    """The averaged weights of ``folder/automatic.pt`` -> one safetensors file with the published names."""
    averaged = torch.load(folder / "automatic.pt", weights_only=True)["average"]
    # vectors are small, and norms want to be exact
    tensors = {name: t.half() if t.ndim > 1 else t for name, t in unfold(averaged).items()}
    about = {
        "what": "A small network of DDColor's architecture, made for this pack; none of the published weights are in "
        "it.",
        "depths": SIZES.depths,
        "widths": SIZES.widths,
    }
    metadata = {
        "format": "pt",
        KEY: json.dumps(about),
        RECOMMENDED_KEY: json.dumps({"ddcolor": {"resolution": SIDE}}),
        "exemplar.credit": CREDIT,
        "exemplar.license": LICENSE,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole(output) as beside:
        save_file({name: t.contiguous() for name, t in tensors.items()}, beside, metadata=metadata)
    print(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB, {sum(t.numel() for t in tensors.values()) / 1e6:.2f} M "
        "numbers"
    )


def unfold(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What ``networks.ddcolor.weights.fold`` undoes: the published form. Its spectral norms and layer scales change
    nothing.

    :param weights: of the network of automatic.py, which reads normalized pictures and gives (a, b) in units of
        ``UNIT``.
    :returns: tensors that ``load_ddcolor`` reads; the network that comes of them gives Lab units.
    """
    found: dict[str, Tensor] = {}
    for name, shape in published_shapes(SIZES).items():
        kind = name.rsplit(".", 1)[-1]
        found[name] = torch.full(shape, {"mean": MEAN, "std": STD, "gamma": 1.0}.get(kind, 0.0))
    for name in found:
        if name.startswith(_ENCODER):  # but for what is folded: gamma and the last norm
            found[name] = weights.get(f"encoder.{encoder_name(name.removeprefix(_ENCODER))}", found[name])
    for theirs, ours in color_decoder_names(SIZES):
        found |= {name: weights[ours + name[len(theirs) :]] for name in found if name.startswith(theirs)}
    for i in range(3):
        layer, ours = f"decoder.layers.{i}.", f"pixel_layers.{i}."
        found[f"{layer}shuf.conv.0.weight_orig"] = weights[f"{ours}enlarge.conv.weight"]
        found[f"{layer}conv.0.weight_orig"] = weights[f"{ours}conv.weight"]
        for theirs, norm in (("shuf.conv.1", "enlarge.norm"), ("bn", "skip_norm"), ("conv.2", "norm")):
            for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                found[f"{layer}{theirs}.{kind}"] = weights[f"{ours}{norm}.{kind}"]
        for kind in ("weight", "bias"):
            found[f"{_COLOR}input_proj.{i}.{kind}"] = weights[f"color.projections.{i}.{kind}"]
    places = (-1, SIZES.last)
    found["decoder.last_shuf.conv.0.weight_orig"] = (
        weights["enlarge.linear.weight"].unflatten(0, places).transpose(0, 1).flatten(0, 1)[..., None, None]
    )
    found["decoder.last_shuf.conv.0.bias"] = weights["enlarge.linear.bias"].unflatten(0, places).T.flatten()
    found["refine_net.0.0.weight_orig"] = UNIT * weights["refine.weight"][..., None, None]
    found["refine_net.0.0.bias"] = UNIT * weights["refine.bias"]
    for name in [name for name in found if name.endswith(".weight_orig")]:
        # the vectors of the largest singular value, the first one divided by it: what is read divides by 1
        u, sigma, v = torch.linalg.svd(found[name].flatten(1).double(), full_matrices=False)
        found[name.replace("_orig", "_u")] = (u[:, 0] / sigma[0]).float()
        found[name.replace("_orig", "_v")] = v[0].float()
    return found


def evaluate_automatic(folder: Path, model: Path, out: Path) -> None:
    """Mean error in (a, b) inside held-out things, each alone on white. Writes ``automatic.json`` and
    ``automatic.jpg``.

    The same for things that were trained, and of whole held-out photographs. A gray drawing has no single true color
    (of what is held out the other hands' drawings were held out too), so no way can come near to 0.
    """
    drawings = Drawings.load(folder / "drawings.npz")
    rows = {split: [r for rows in drawings.rows_by_name(split).values() for r in rows] for split in ("train", "test")}
    rows["train"] = rows["train"][::EVERY_TRAINED]
    mean = mean_chroma(drawings)
    network = load_ddcolor(model)
    settings = AutoColorSettings.resolve(network.recommended)
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        GRAY: lambda gray: gray,
        ONE_COLOR: lambda gray: with_chroma(gray, mean.expand(*gray.shape[:3], 2)),
        EMBEDDED: lambda gray: auto_color(network, gray, settings),
    }
    numbers: dict[str, dict[str, float]] = {}
    for split, label in (("test", "held-out drawings"), ("train", "trained drawings")):
        truth, mask = on_white(drawings, rows[split])
        numbers[label] = _errors(ways, truth, mask)
        if split == "test":
            _sheet(truth, ways, out / "automatic.jpg")
    photographs = torch.from_numpy(np.load(folder / "photographs-test.npy")).float() / 255
    numbers["held-out photographs"] = _errors(ways, photographs, torch.ones(photographs.shape[:3]))
    out.mkdir(parents=True, exist_ok=True)
    with whole(out / "automatic.json") as beside:
        beside.write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps(numbers, indent=1))


def mean_chroma(drawings: Drawings) -> Tensor:
    """Mean (a, b) of what is not transparent in the training drawings, (2,), Lab units."""
    rows = [r for rows in drawings.rows_by_name("train").values() for r in rows]
    total, count = torch.zeros(2), torch.zeros(())
    for start in range(0, len(rows), 256):
        pictures, mask = on_white(drawings, rows[start : start + 256], every=4)
        total += rgb_to_lab(pictures)[..., 1:][mask > 0].sum(0)
        count += mask.sum()
    return total / count


def on_white(drawings: Drawings, rows: list[int], every: int = 1) -> tuple[Tensor, Tensor]:
    """(pictures (n, S, S, 3) in 0..1, where the thing is (n, S, S) as 0 or 1); ``every`` second, third ... pixel."""
    pictures = torch.from_numpy(drawings.pictures[rows][:, ::every, ::every]).float() / 255
    alpha = pictures[..., 3:]
    return pictures[..., :3] * alpha + 1 - alpha, (alpha[..., 0] > 0.5).float()


def _errors(ways: dict[str, Callable[[Tensor], Tensor]], truth: Tensor, mask: Tensor) -> dict[str, float]:
    gray = desaturate(truth)
    found = {"pictures": float(len(truth)), "chroma of the truth": _chroma(truth, mask)}
    for name, color in ways.items():
        pictures = color(gray)
        found |= {name: float(ab_error(pictures, truth, mask).mean()), f"chroma, {name}": _chroma(pictures, mask)}
    return found


def _chroma(pictures: Tensor, mask: Tensor) -> float:
    """Mean distance of colors from gray, Lab units."""
    return float(ab_error(pictures, desaturate(pictures), mask).mean())


def _sheet(truth: Tensor, ways: dict[str, Callable[[Tensor], Tensor]], path: Path, columns: int = 12) -> None:
    """Gray, colored and true, one below the other, for drawings at equal distances."""
    chosen = truth[:: max(1, len(truth) // (2 * columns))][: 2 * columns]
    gray = desaturate(chosen)
    rows = []
    for half in (slice(None, columns), slice(columns, None)):
        rows += [torch.cat(list(p[half]), 1) for p in (gray, ways[EMBEDDED](gray), chosen) if len(p[half])]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(Image.fromarray((torch.cat(rows[:6]) * 255).round().byte().numpy()), path, quality=90)
