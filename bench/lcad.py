"""What color by words costs: plain sampling with attention maps built, beside ours, on the same random weights.

    python -m bench.lcad                      full size, one picture of 256 x 256, 50 steps counted, 2 timed, fp32
    python -m bench.lcad --device cuda --dtype float16    on a GPU
    python -m bench.lcad --tiny --size 64     a toy, to see that it works

Ratios count, not seconds: machines differ. With masks: bench.lcad_instances.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch import Tensor

from comfyui_exemplar.attention.phrases import PromptTokens
from comfyui_exemplar.hosts.diffusers.checkpoint import StandaloneModel, alphas_cumprod
from comfyui_exemplar.hosts.diffusers.lcad import SCALE, DiffusersLCAD
from comfyui_exemplar.networks.lcad.model import GrayEncoder, GuidedDecoder, LCADAutoencoder, LCADSizes
from comfyui_exemplar.pipelines.lcad import LCADSettings, describe

from . import machine as machines
from .machine import CPU, Machine, placed

PROMPT, GUIDANCE, PUBLISHED_STEPS = "a green apple", 4.5, 50


class BuiltAttention:
    """A diffusers attention processor that keeps the logits and builds the map, as the published program does."""

    def __init__(self) -> None:
        self.logits: Tensor | None = None

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        self.logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        out = self.logits.softmax(-1) @ v
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


class Counts:
    """How often the networks run, and with how many rows."""

    def __init__(self, host: DiffusersLCAD) -> None:
        self.encodes = self.decodes = self.calls = self.rows = 0
        host.autoencoder.encoder.register_forward_pre_hook(lambda *_: self._add("encodes"))
        host.autoencoder.decoder.register_forward_pre_hook(lambda *_: self._add("decodes"))
        host.model.unet.register_forward_pre_hook(lambda _, x: (self._add("calls"), self._add("rows", len(x[0])))[0])

    def _add(self, name: str, count: int = 1) -> None:
        setattr(self, name, getattr(self, name) + count)


def build(tiny: bool, machine: Machine = CPU) -> DiffusersLCAD:
    """L-CAD's networks with random weights (a toy with ``tiny``)."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    widths, context = ((32, 64, 64, 64), 32) if tiny else ((320, 640, 1280, 1280), 768)
    sizes = LCADSizes((32, 32, 32, 64) if tiny else (128, 256, 512, 512), 2)
    unet = UNet2DConditionModel(
        in_channels=sizes.latent + sizes.features,
        out_channels=sizes.latent,
        block_out_channels=widths,
        cross_attention_dim=context,
        attention_head_dim=8,
    )
    with torch.no_grad():
        unet.conv_out.weight *= 0.1  # a gentle prediction keeps the numbers in range
    texts = {prompt: torch.randn(1, 77, context).to(machine.device) for prompt in (PROMPT, "")}
    model = StandaloneModel(
        unet=placed(unet.eval().requires_grad_(False), machine),
        vae=None,
        alphas_cumprod=alphas_cumprod(),
        prediction="epsilon",
        context=texts[""],
        added=None,
        name="bench",
        fingerprint="bench",
    )
    autoencoder = LCADAutoencoder(GrayEncoder(sizes), GuidedDecoder(sizes)).eval().requires_grad_(False)
    autoencoder = placed(autoencoder, machine, torch.float32)  # as the loader has it
    return DiffusersLCAD(model, autoencoder, texts.__getitem__, lambda _: PromptTokens((), (), 77), SCALE, {})


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.lcad", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="toy networks")
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--steps", type=int, default=2, help="sampling steps that are timed")
    parser.add_argument("--repeat", type=int, default=2, help="how often each side is timed; the best counts")
    machines.add_options(parser)
    options = parser.parse_args()
    machine = machines.of(options, machines.unet_needs(options))
    with torch.inference_mode():
        _report(options, _measure(options, machine), _count(), machine)
    return 0


def _measure(options: argparse.Namespace, machine: Machine) -> dict[str, float]:
    host = build(options.tiny, machine)
    image = torch.rand(1, options.size, options.size, 1, generator=torch.Generator().manual_seed(1)).expand(
        -1, -1, -1, 3
    )
    settings = LCADSettings(steps=options.steps, cfg=GUIDANCE, resolution=options.size)
    unet, fused = host.model.unet, host.model.unet.attn_processors
    built = {name: BuiltAttention() for name in fused}

    def run(processors) -> None:
        unet.set_attn_processor(dict(processors))
        describe(host, image, PROMPT, settings)

    maps = host.encode(image)
    latent = torch.randn(1, host.channels, *maps[-1].shape[-2:]).to(machine.device)
    sides = {
        "built": lambda: run(built),
        "ours": lambda: run(fused),
        "gray encoder": lambda: host.encode(image),
        "decoder": lambda: host.decode(latent, maps),
    }
    found: dict[str, float] = {}
    for attempt in range(options.repeat + 1):  # in turn, so that a busy hour of the machine meets all sides
        for side, go in sides.items():
            seconds, worked = machine.seconds(go)
            took = {side: seconds, f"{side}, processor": worked}
            if attempt:  # the first one warms up
                found |= {name: min(seconds, found.get(name, seconds)) for name, seconds in took.items()}
    return found


def _count() -> Counts:
    """At the published 50 steps, counted on the toy: they do not depend on the networks' size."""
    host = build(tiny=True)
    counts = Counts(host)
    image = torch.full((1, 32, 32, 3), 0.5)
    describe(host, image, PROMPT, LCADSettings(steps=PUBLISHED_STEPS, cfg=GUIDANCE, resolution=32))
    return counts


def _report(options: argparse.Namespace, found: dict[str, float], counts: Counts, machine: Machine) -> None:
    kind = "toy networks" if options.tiny else "full size"
    print(
        f"\nL-CAD, plain sampling ({kind}), one picture of {options.size} x {options.size}, {options.steps} steps "
        f"timed, {machine}\n"
    )
    print("| | attention maps built | ours | ratio |\n| --- | --- | --- | --- |")
    around = found["gray encoder"] + found["decoder"]
    per = [(found[side] - around) / options.steps for side in ("built", "ours")]
    print(f"| one step, both texts in one call | {per[0]:.2f} s | {per[1]:.2f} s | {per[0] / per[1]:.2f}x |")
    worked = [found[f"{side}, processor"] for side in ("built", "ours")]
    print(f"| whole run in processor seconds | {worked[0]:.2f} | {worked[1]:.2f} | {worked[0] / worked[1]:.2f}x |")
    share = around / (around + PUBLISHED_STEPS * per[1])
    print(
        f"\nAt {PUBLISHED_STEPS} steps: {counts.encodes} gray encode, {counts.calls} UNet calls of "
        f"{counts.rows / counts.calls:.0f} rows, {counts.decodes} decode. The gray encoder takes "
        f"{found['gray encoder']:.2f} s, the decoder {found['decoder']:.2f} s, together {share:.1%} of such "
        "a run."
    )


if __name__ == "__main__":
    sys.exit(main())
