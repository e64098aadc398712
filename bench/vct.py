"""What translation costs: passes through the UNet and peak memory, beside the naive schedule, in one run.

    python -m bench.vct                                    the embedded model, 128 x 128
    python -m bench.vct --sd --size 256 --steps 2          Stable Diffusion 1.x size (random weights): memory
    python -m bench.vct --sd --size 512 --device cuda      the same on a GPU, in fp32
    python -m bench.vct --tiny                             a toy, to see that it works

A pass is one row (one latent) forward or backward through the UNet; a call may hold several. The sides:

naive       both branches of guidance in every iteration, one noised copy a call, four rows a step of the fusion
released    as the published program: the conditional prediction once a step
ours        the same numbers: also reused where the latent advances, copies in one call, the content's way replayed
economical  ours, looking at the loss before going back (see Pivot Inversion): other numbers, fewer passes
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from comfyui_exemplar import demo
from comfyui_exemplar.attention.alignment import concept_control
from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.call import UNCONDITIONAL
from comfyui_exemplar.attention.control import SOURCE, SOURCE_UNCONDITIONAL, TARGET
from comfyui_exemplar.diffusion.concept import ConceptOptions, ConceptState, draw_copies, learn_concept
from comfyui_exemplar.diffusion.inversion import Inversion
from comfyui_exemplar.diffusion.learning import drain
from comfyui_exemplar.diffusion.pivot import PivotOptions, search_pivots
from comfyui_exemplar.diffusion.replay import Replay
from comfyui_exemplar.diffusion.schedule import InversionPlan, inversion_plan
from comfyui_exemplar.files.pictures import load_picture
from comfyui_exemplar.hosts.diffusers.checkpoint import StandaloneModel, load_standalone
from comfyui_exemplar.hosts.diffusers.gradients import DifferentiableUNet
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.hosts.diffusers.vct_control import PairDenoiser, sample_pair
from comfyui_exemplar.pipelines.vct_pair import ControlledRun, Fusion

from . import machine as machines
from . import sides as networks
from .machine import Machine
from .naive_vct import advance_and_search

SIDES = ("naive", "released", "ours", "economical")
VECTORS, ACCUMULATION, WINDOWS = 3, 4, {"cross_window": 0.2, "self_window": 0.9}


@dataclass
class Passes:
    """Rows and calls that went through a UNet, counted at its ends."""

    forward: int = 0
    backward: int = 0
    calls: int = 0

    @contextmanager
    def counted(self, unet) -> Iterator[None]:
        def enter(_module, args) -> None:
            self.forward += len(args[0])
            self.calls += 1

        def leave(_module, _into, out) -> None:
            self.backward += len(out[0])
            self.calls += 1

        hooks = [unet.conv_in.register_forward_pre_hook(enter), unet.conv_out.register_full_backward_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.vct", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sd", action="store_true", help="Stable Diffusion 1.x's UNet with random weights")
    parser.add_argument("--tiny", action="store_true", help="a toy network and 64 x 64 pictures")
    parser.add_argument("--size", type=int, default=128, help="side of the square pictures in pixels")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=10, help="most updates a step of the pivots")
    parser.add_argument("--updates", type=int, default=5, help="of the concept")
    parser.add_argument("--cfg", type=float, default=7.5)
    parser.add_argument("--stop-below", type=float, default=1e-5, help="the published 1e-5; 0 never stops early")
    parser.add_argument("--checkpointing", action="store_true", help="ours and economical compute activations twice")
    machines.add_options(parser)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tiny:
        options.size, options.steps, options.iterations, options.updates = 64, 2, 2, 1
    machine = machines.of(options, lambda dtype: _needs(options, dtype))
    if options.side:
        print(json.dumps(measure(options.side, options, machine)))
        return 0
    found = {side: _in_its_own_process(side) for side in SIDES}
    _report(found, options, machine)
    return 0


def _needs(options: argparse.Namespace, dtype: torch.dtype) -> tuple[int, int]:
    """(weights, what a step of learning needs beside them) in bytes."""
    from .memory import Shape, measure_gradients

    found = measure_gradients(Shape("sd15" if options.sd else "toy", options.size, 1, dtype), 1)
    return found["weights"], found["gradients"]


def _in_its_own_process(side: str) -> dict:
    print(f"measuring {side} ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "bench.vct", *sys.argv[1:], "--side", side],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _setting(options: argparse.Namespace, machine: Machine) -> tuple[StandaloneModel, Tensor, Tensor]:
    """(model, latents of content and concept, (1, tokens, width) start of the concept's context)."""
    torch.manual_seed(0)
    if options.sd or options.tiny:
        model = networks.build(options, machine)
        latents = torch.randn(2, 4, options.size // 8, options.size // 8)
    else:
        model = load_standalone(demo.model_path(), device=machine.device, dtype=machine.dtype)
        pictures = Path(demo.__file__).resolve().parent / "pictures"
        images = [load_picture(pictures / name) for name in ("scene-truth.png", "drawing-reference.png")]
        host, size = DiffusersHost(model), (options.size, options.size)
        resized = [
            torch.nn.functional.interpolate(i.movedim(-1, 1), size=size, mode="area").movedim(1, -1) for i in images
        ]
        latents = torch.cat([host.encode(i) for i in resized])
    start = torch.randn_like(model.context[:, :VECTORS].float().cpu()).to(machine.device)  # of one seed everywhere
    return model, latents.to(machine.device), start * model.context.float().std()


def measure(side: str, options: argparse.Namespace, machine: Machine) -> dict:
    model, latents, vectors = _setting(options, machine)
    model.unet.requires_grad_(False)
    machine.forget_peak()
    before = machine.peak()
    ours = side in ("ours", "economical")
    predict = DifferentiableUNet(model, ours and options.checkpointing)
    plan = inversion_plan(DiffusersHost(model).sigma_table, options.steps, options.steps, "diffusers")
    phases, began = {}, machine.now()
    for phase in ("concept", "pivots", "fusion"):
        phases[phase] = Passes()
    with phases["concept"].counted(model.unet):
        context = _learn(predict, model, latents[1:], vectors, ACCUMULATION if ours else 1, options)
    host = DiffusersHost(model)
    inversion = Inversion(plan, host.invert(latents[:1], plan), FeatureBank(), model.fingerprint, host.layers)
    with phases["pivots"].counted(model.unet):
        contexts, trajectory, error = _search(side, predict, model, inversion, options)
    with phases["fusion"].counted(model.unet), torch.no_grad():
        result = _fuse(model, inversion, plan, contexts, trajectory if ours else None, context, options)
    return {
        **{name: asdict(passes) for name, passes in phases.items()},
        "seconds": machine.now() - began,
        "peak": machine.peak() - before,
        "error": error,
        "contexts": _packed(torch.cat(list(contexts))),
        "result": _packed(result),
    }


def _learn(predict, model, latents: Tensor, vectors: Tensor, rows: int, options: argparse.Namespace) -> Tensor:
    """The concept's context, its vectors in the first columns behind where a begin mark would be."""
    empty = model.context.float()

    def encode(groups):
        return (torch.cat([empty[:, :1], groups[0][None], empty[:, 1 + VECTORS :]], dim=1),)

    chosen = ConceptOptions(updates=options.updates, accumulation=ACCUMULATION, rows=rows)
    copies = draw_copies(latents, DiffusersHost(model).sigma_table, ACCUMULATION, 0)
    state = ConceptState.fresh([vectors[0]])
    state = drain(learn_concept(predict, encode, state, copies, chosen), lambda _: None)
    return encode(state.vectors)[0]


def _search(side: str, predict, model, inversion: Inversion, options: argparse.Namespace):
    """Contexts, one a step; where guided sampling stands with them; reconstruction error."""
    chosen = PivotOptions(
        cfg=options.cfg,
        advance_cfg=options.cfg,
        iterations=options.iterations,
        stop_below=options.stop_below,
    )
    empty = model.context.float()
    if side in ("naive", "released"):
        return advance_and_search(predict, inversion, empty, chosen, share_conditional=side == "released")
    search = search_pivots(predict, inversion, empty, options=replace(chosen, keep_last_update=side == "ours"))
    pivots = drain(search, lambda _: None)
    return [c[None] for c in pivots.contexts], Replay.of_pivots(pivots), pivots.reconstruction_error


def _fuse(model, inversion, plan: InversionPlan, contexts, replay: Replay | None, concept: Tensor, options) -> Tensor:
    tokens = model.context.shape[1]
    control = concept_control((tokens, tokens), VECTORS, 1, **WINDOWS)
    levels = torch.tensor(plan.sigmas[:-1])

    def plain(sigma: float) -> Tensor:
        return contexts[int((levels - sigma).abs().argmin())]

    texts = {UNCONDITIONAL: plain, SOURCE_UNCONDITIONAL: plain, SOURCE: model.context, TARGET: concept}
    denoiser = PairDenoiser(model, texts)
    run = ControlledRun(Fusion(control, options.cfg, replay), plan.sigmas, denoiser.layers)
    return sample_pair(denoiser, run, inversion.noised())[:1]


def _packed(tensor: Tensor) -> str:
    buffer = io.BytesIO()
    torch.save(tensor.float().cpu(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _unpacked(text: str) -> Tensor:
    return torch.load(io.BytesIO(base64.b64decode(text)), weights_only=True)


def _report(found: dict[str, dict], options: argparse.Namespace, machine: Machine) -> None:
    print(
        f"\nTranslation, {options.size} x {options.size}, {options.updates} updates of {ACCUMULATION} copies, "
        f"{options.steps} steps, at most {options.iterations} iterations, cfg {options.cfg}, "
        f"{machine}\n"
    )
    print("| | " + " | ".join(found) + " | naive / ours | naive / economical |\n|" + " --- |" * (len(found) + 3))

    def row(name: str, values: dict[str, float], digits: int = 0) -> None:
        ratios = [values["naive"] / values[side] if values[side] else float("nan") for side in ("ours", "economical")]
        cells = [f"{value:.{digits}f}" for value in values.values()] + [f"{ratio:.2f}x" for ratio in ratios]
        print(f"| {name} | " + " | ".join(cells) + " |")

    phases = ("concept", "pivots", "fusion")
    for phase in phases:
        row(f"{phase}: passes", {s: f[phase]["forward"] + f[phase]["backward"] for s, f in found.items()})
        row(f"{phase}: calls", {s: f[phase]["calls"] for s, f in found.items()})
    row("all passes", {s: sum(f[p]["forward"] + f[p]["backward"] for p in phases) for s, f in found.items()})
    row("all calls", {s: sum(f[p]["calls"] for p in phases) for s, f in found.items()})
    row("seconds", {s: f["seconds"] for s, f in found.items()}, 1)
    row("peak memory beyond the model, GiB", {s: f["peak"] for s, f in found.items()}, 2)
    row("reconstruction error", {s: f["error"] for s, f in found.items()}, 4)
    for side in ("released", "ours"):
        off = {
            key: float((_unpacked(found[side][key]) - _unpacked(found["naive"][key])).abs().max())
            for key in ("contexts", "result")
        }
        print(
            f"\n{side} against naive, largest difference: contexts {off['contexts']:.1e}, translated latent "
            f"{off['result']:.1e}."
        )


if __name__ == "__main__":
    sys.exit(main())
