"""How far every sampler of ComfyUI takes exemplar colorization from the true colors, by stages, within ComfyUI.

Run it with ComfyUI's Python, in ComfyUI's folder:

    python PACK/bench/samplers.py                             every sampler, guidance 1, 3 and 10: 4 of 20 steps
    python PACK/bench/samplers.py --step-limit                the same under the step limit of Colorization Guidance
    python PACK/bench/samplers.py --ratio 0.85                more levels between the inversion's, for sampling alone
    python PACK/bench/samplers.py --samplers euler dpmpp_2m   some of them
    python PACK/bench/samplers.py --gain                      what the guided estimate answers to colors in the latent

The embedded model, three of the example pictures as one batch: the drawing, the scene from its reference back, and the
photograph's own reference, mirrored. A number is the mean distance in (a, b) of CIE Lab between what the VAE decodes
and the true picture; "worst" the largest ratio to euler's on the same picture.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import logging
import os
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ("drawing", "scene, back", "photo")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="samplers.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--samplers", nargs="*", help="names; default: all")
    parser.add_argument("--weights", nargs="*", type=float, default=[1.0, 3.0, 10.0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--size", type=int, default=128, help="side of the square pictures in pixels")
    parser.add_argument("--ratio", type=float, default=0.0, help="closer_sigmas of DDIM Inversion")
    parser.add_argument("--step-limit", action="store_true")
    parser.add_argument("--seeds", action="store_true", help="also with another seed, to tell which draw noise")
    parser.add_argument("--gain", action="store_true")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: the accelerator of ComfyUI")
    options = parser.parse_args()
    sys.argv = sys.argv[:1]  # ComfyUI reads the command line on import
    _start_comfyui(options.device == "cpu")
    logging.getLogger("comfyui_exemplar").setLevel(logging.ERROR)  # warnings of what is measured here
    import torch

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = Flow(options)
        (_gains if options.gain else _table)(flow, options)
    return 0


def _start_comfyui(cpu: bool) -> None:
    """ComfyUI's modules from the current folder, and the pack under its name as a package.

    :param cpu: whether it leaves an accelerator alone.
    """
    sys.path.insert(0, os.getcwd())
    for stub in filter(None, os.environ.get("COMFYUI_STUB", "").split(",")):
        importlib.import_module(stub)
    from comfy.cli_args import args  # pyright: ignore[reportMissingImports]

    spec = importlib.util.spec_from_file_location(
        "comfyui_exemplar", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    sys.modules["comfyui_exemplar"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["comfyui_exemplar"])
    from comfyui_exemplar.color.devices import best_device

    args.cpu = cpu or best_device().type == "cpu"  # before ComfyUI asks for it


class Flow:
    """The stages, as the nodes run them, up to the sampler."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch

        from comfyui_exemplar.hosts.comfy.embedded import load_demo
        from comfyui_exemplar.nodes import NODES

        self.options = options
        self._nodes = {node.define_schema().node_id: node for node in NODES}
        self.model, clip, self.vae = load_demo()
        self.prompt = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        drawing, reference = self._picture("drawing-truth.png"), self._picture("drawing-reference.png")
        scene, photo = self._picture("scene-reference.png"), self._picture("photo-reference.jpg")
        self.truth = torch.cat([drawing, scene, photo])
        references = torch.cat([reference, self._picture("scene-truth.png"), photo.flip(2)])
        inputs = torch.cat([self._picture("drawing-gray.png"), scene, photo])
        made = [
            self._inverted(self._run("ExemplarDesaturate", image=inputs)[0]),
            self._inverted(references),
            self._inverted(self._run("ExemplarDesaturate", image=references)[0]),
        ]
        self.start, self.sigmas = made[0][1]["samples"], made[0][2]
        (self.injected,) = self._run(
            "ExemplarDualAttentionColor",
            model=self.model,
            input_inversion=made[0][0],
            reference_inversion=made[1][0],
            gray_inversion=made[2][0],
        )

    def _run(self, name: str, **inputs: Any) -> tuple:
        return self._nodes[name].execute(**inputs).result

    def _picture(self, name: str) -> Any:
        import torch

        from comfyui_exemplar.files.pictures import load_picture

        size = (self.options.size, self.options.size)
        picture = load_picture(ROOT / "demo" / "pictures" / name).movedim(-1, 1)
        return torch.nn.functional.interpolate(picture, size=size, mode="area").movedim(1, -1)

    def _inverted(self, pictures: Any) -> tuple:
        (marked,) = self._run("ExemplarAttentionCapture", model=self.model, layers="color", keep="everything (q, k, v)")
        return self._run(
            "ExemplarDDIMInversion",
            model=marked,
            conditioning=self.prompt,
            latent={"samples": self.vae.encode(pictures)},
            depth=self.options.depth,
            steps=self.options.steps,
            measure_round_trip=False,
            closer_sigmas=self.options.ratio,
        )

    def sample(self, sampler: Any, weight: float, model: Any = None, seed: int = 0) -> Any:
        """(B, C, h, w) from the noised latents."""
        import comfy.samplers  # pyright: ignore[reportMissingImports]
        import torch

        (guider,) = self._run(
            "ExemplarColorGuidance",
            model=self.injected if model is None else model,
            conditioning=self.prompt,
            guidance=weight,
            step_limit=self.options.step_limit,
        )
        made = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else comfy.samplers.KSAMPLER(sampler)
        sigmas = self.sigmas.clone()  # uni_pc writes into what it is given
        return guider.sample(torch.zeros_like(self.start), self.start, made, sigmas, disable_pbar=True, seed=seed)

    def error(self, latents: Any) -> Any:
        """(B,) distances in (a, b) from the true pictures."""
        from comfyui_exemplar.color.metrics import ab_error

        return ab_error(self.vae.decode(latents).clamp(0, 1), self.truth)


def _table(flow: Flow, options: argparse.Namespace) -> None:
    import comfy.samplers  # pyright: ignore[reportMissingImports]

    names = options.samplers or [n for n in comfy.samplers.SAMPLER_NAMES if not n.endswith("_gpu")]
    plain = flow.error(flow.sample("euler", 1.0, flow.model))
    print("levels " + ", ".join(f"{s:.3f}" for s in flow.sigmas.tolist()))
    print("plain  " + ", ".join(f"{name} {error:.1f}" for name, error in zip(PICTURES, plain.tolist(), strict=True)))
    heads = [f"w {weight:g}: {', '.join(PICTURES)} | worst" for weight in options.weights]
    print("\n| sampler | draws noise | " + " | ".join(heads) + " |\n|" + " --- |" * (2 + 2 * len(heads)), flush=True)
    euler = [flow.error(flow.sample("euler", weight)) for weight in options.weights]
    for name in names:
        results = [flow.sample(name, weight) for weight in options.weights]
        noisy = ""
        if options.seeds:
            other = flow.sample(name, options.weights[0], seed=1)
            noisy = "yes" if float((other - results[0]).abs().max()) > 1e-3 else "no"
        cells = []
        for result, known in zip(results, euler, strict=True):
            error = flow.error(result)
            cells += [", ".join(f"{e:.1f}" for e in error.tolist()), f"{float((error / known).max()):.2f}"]
        print(f"| {name} | {noisy} | " + " | ".join(cells) + " |", flush=True)


def _gains(flow: Flow, options: argparse.Namespace) -> None:
    """What the guided estimate answers to a fifth of the true colors, added to euler's latents, level by level."""
    base = flow.model.model
    gray = flow._run("ExemplarDesaturate", image=flow.truth)[0]
    color = base.process_latent_in(flow.vae.encode(flow.truth)) - base.process_latent_in(flow.vae.encode(gray))
    for weight in options.weights:
        print(f"w {weight:g}")

        def measured(model, x, sigmas, extra_args=None, callback=None, disable=None):
            shift, ones = 0.2 * color.to(x), x.new_ones(len(x))
            for here, there in pairwise(sigmas):
                estimate = model(x, here * ones, **extra_args)
                moved = model(x + shift, here * ones, **extra_args) - estimate
                gain = (moved * shift).flatten(1).sum(1) / shift.square().flatten(1).sum(1)
                share = float(there / here)
                left = share + (1 - share) * gain
                print(
                    f"  sigma {float(here):.3f}: gain {', '.join(f'{g:.2f}' for g in gain.tolist())}; a step to "
                    f"{float(there):.3f} leaves {', '.join(f'{v:.2f}' for v in left.tolist())}"
                )
                x = x + (x - estimate) / here * (there - here)
            return x

        flow.sample(measured, weight)


if __name__ == "__main__":
    sys.exit(main())
