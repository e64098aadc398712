"""The two sides of the comparison: our pipeline, and the same mathematics done naively."""

from __future__ import annotations

import argparse
import contextlib

import torch

from comfyui_exemplar.attention.call import AttentionCall
from comfyui_exemplar.attention.capture import StorageSettings
from comfyui_exemplar.attention.dual import DualAttentionColor
from comfyui_exemplar.attention.dual_banks import DualBanks
from comfyui_exemplar.attention.dual_settings import DualAttentionSettings
from comfyui_exemplar.attention.layers import is_shallow, select_layers
from comfyui_exemplar.color import adain, desaturate, merge_luminance
from comfyui_exemplar.diffusion.schedule import inversion_plan
from comfyui_exemplar.hosts.diffusers.checkpoint import KLCodec, StandaloneModel, alphas_cumprod
from comfyui_exemplar.hosts.diffusers.denoiser import UNetDenoiser
from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings

from .machine import CPU, Machine, placed


def build(options: argparse.Namespace, machine: Machine = CPU) -> StandaloneModel:
    """Stable Diffusion 1.x's networks with random weights (a toy with ``--tiny``); the same on every machine."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    widths, context, vae_widths = (320, 640, 1280, 1280), 768, (128, 256, 512, 512)
    if options.tiny:
        widths, context, vae_widths = (32, 64, 64, 64), 32, (32, 32, 32, 32)
    unet = UNet2DConditionModel(block_out_channels=widths, cross_attention_dim=context, attention_head_dim=8)
    vae = AutoencoderKL(
        block_out_channels=vae_widths,
        layers_per_block=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    with torch.no_grad():
        unet.conv_out.weight *= 0.1  # a gentle prediction keeps the numbers in range
    # the autoencoder stays float32 beside half precision, as the loader has it
    full = torch.float32 if machine.dtype == torch.float16 else machine.dtype
    return StandaloneModel(
        unet=placed(unet.eval().requires_grad_(False), machine),
        vae=KLCodec(placed(vae.eval().requires_grad_(False), machine, full)),
        alphas_cumprod=alphas_cumprod(),
        prediction="epsilon",
        context=torch.randn(1, 77, context).to(machine.device, machine.dtype),
        added=None,
        name="bench",
        fingerprint="bench",
    )


class Meter:
    """Counts calls and rows of the UNet, and the time spent in the UNet and the VAE."""

    def __init__(self, model: StandaloneModel, machine: Machine = CPU) -> None:
        self.machine = machine
        self.reset()
        model.unet.register_forward_pre_hook(self._before)
        model.unet.register_forward_hook(self._after, always_call=True)  # a call that ends early, too
        model.unet.conv_in.register_forward_pre_hook(lambda _, x: self._count("entered", x))
        model.unet.conv_out.register_forward_pre_hook(lambda _, x: self._count("rows", x))
        self.codec = model.vae

    def reset(self) -> None:
        """Count anew."""
        self.calls = self.rows = self.entered = 0
        self.unet = self.vae = 0.0

    def _count(self, name: str, inputs: tuple) -> None:
        setattr(self, name, getattr(self, name) + inputs[0].shape[0])

    def _before(self, *_) -> None:
        self.calls += 1
        self._start = self.machine.now()

    def _after(self, *_) -> None:
        self.unet += self.machine.now() - self._start

    @contextlib.contextmanager
    def timing_vae(self):
        start = self.machine.now()
        yield
        self.vae += self.machine.now() - start


def pictures(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(1, options.size, options.size, 3, generator=generator) for _ in range(2))


def plain_run(host: DiffusersHost, options: argparse.Namespace) -> None:
    """What the model does by itself: two guided steps without the reference, and the picture."""
    plan = inversion_plan(host.sigma_table, 50, 2, "consistent")
    x = torch.randn(1, 4, options.size // 8, options.size // 8, generator=torch.Generator().manual_seed(1))
    for sigma in plan.sigmas[:-1]:
        host.denoiser.pair(x.to(host.device), torch.tensor([sigma]))
    host.decode(x.to(host.device))


class TimedHost(DiffusersHost):
    """The host with a stopwatch at the VAE."""

    meter: Meter

    def encode(self, image):
        with self.meter.timing_vae():
            return super().encode(image)

    def decode(self, latent):
        with self.meter.timing_vae():
            return super().decode(latent)


def ours(options: argparse.Namespace, machine: Machine) -> dict:
    model = build(options, machine)
    host, meter = TimedHost(model), Meter(model, machine)
    host.meter = meter
    image, reference = pictures(options)
    settings = ColorizeSettings(
        depth=options.depth, passes=options.passes, resolution=options.size, storage=StorageSettings("float16")
    )
    machine.forget_peak()
    plain_run(host, options)
    plain_peak = machine.peak()
    meter.reset()
    machine.forget_peak()
    start = machine.now()
    result = colorize(host, image, reference, settings)
    found = {
        "total": machine.now() - start,
        "calls": meter.calls,
        "rows": meter.rows,
        "entered": meter.entered,
        "unet": meter.unet,
        "vae": meter.vae,
        "peak": machine.peak(),
        "plain_peak": plain_peak,
        "kept": sum(i.bank.nbytes for i in (result.source, result.reference.color, result.reference.gray)) / 1e9,
    }
    # single calls, on what the flow left behind
    plan = result.source.plan
    x, sigma = result.source.noised().to(machine.device), torch.tensor([plan.sigmas[0]])
    layers = {i.layer: is_shallow(i, host.layers) for i in select_layers("color", host.layers)}
    edit = DualAttentionColor(
        settings.attention,
        layers,
        DualBanks(result.source.bank, result.reference.color.bank, result.reference.gray.bank),
    )
    edit.precompute({i.layer: i.heads for i in host.layers}, device=machine.device)
    denoiser = host.denoiser
    found["plain"] = machine.best(lambda: denoiser(x, sigma), options.repeat)
    found["plain_pair"] = machine.best(lambda: denoiser(torch.cat([x, x]), sigma.repeat(2)), options.repeat)
    with denoiser.edited(edit, tuple(layers)):
        found["injected"] = machine.best(lambda: denoiser(x, sigma), options.repeat)
        split = host._split_block(tuple(layers))
        found["guided"] = machine.best(lambda: denoiser(x, sigma, (1, 0), split), options.repeat)
    found.update(count_default_flow(options))
    return found


def count_default_flow(options: argparse.Namespace) -> dict:
    """Calls and rows at the default settings, counted on the toy: they do not depend on the network's size."""
    toy = argparse.Namespace(**{**vars(options), "tiny": True, "size": 64})
    model = build(toy)
    host, meter = DiffusersHost(model), Meter(model)
    settings = ColorizeSettings(resolution=64)
    result = colorize(host, *pictures(toy), settings)
    first = {"paper_calls": meter.calls, "paper_rows": meter.rows}
    colorize(host, *pictures(toy), settings, prepared=result.reference)
    return {**first, "further_rows": meter.rows - first["paper_rows"]}


def naive_attention(q, k, v, heads):
    """Attention by its definition: the whole map is built."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class NaiveEdit:
    """Plain attention with its map built; keeps everything, or injects colors, one map after another."""

    def __init__(self, shallow: dict, settings: DualAttentionSettings) -> None:
        self.shallow, self.settings = shallow, settings
        self.keep: dict | None = None
        self.features: dict | None = None

    def __call__(self, call: AttentionCall, _earlier) -> torch.Tensor:
        key = (round(call.sigma, 5), call.layer)
        if self.keep is not None and call.layer in self.shallow:
            self.keep[key] = (call.q.half(), call.k.half(), call.v.half())
        if self.features is None or call.layer not in self.shallow:
            return naive_attention(call.q, call.k, call.v, call.heads)
        gamma, beta = self.settings.weights(self.shallow[call.layer])
        (q_in, k_in, _), (_, k_ref, v_ref), (_, k_gray, _) = (
            [t.to(call.q) for t in self.features[role][key]] for role in ("input", "reference", "gray")
        )

        def split(t):
            return t.unflatten(-1, (call.heads, -1)).transpose(1, 2)

        scale = split(call.q).shape[-1] ** -0.5
        gray = split(q_in) @ split(k_gray).transpose(-1, -2) * scale
        color = split(call.q) @ split(k_ref).transpose(-1, -2) * scale
        out = (gamma * gray + (1 - gamma) * color).softmax(-1) @ split(v_ref)
        if beta:
            own = (split(q_in) @ split(k_in).transpose(-1, -2) * scale).softmax(-1) @ split(call.v)
            out = (1 - beta) * out + beta * own
        return out.transpose(1, 2).flatten(2)


def naive(options: argparse.Namespace, machine: Machine) -> dict:
    """Three inversions, one row a call, every feature kept, both branches called apart, every map built."""
    model = build(options, machine)
    denoiser, meter = UNetDenoiser(model), Meter(model, machine)
    image, reference = pictures(options)
    settings = DualAttentionSettings()
    infos = denoiser.layers
    shallow = {i.layer: is_shallow(i, infos) for i in select_layers("color", infos)}
    edit = NaiveEdit(shallow, settings)
    plan = inversion_plan(denoiser.sigma_table, 50, options.depth, "consistent")
    everywhere = tuple(info.layer for info in infos)

    def encode(picture):
        with meter.timing_vae():
            return model.vae.encode(picture)

    def climb(latent):
        x = plan.from_clean(latent)
        for here, there in zip(plan.levels[:-1], plan.levels[1:], strict=True):
            seen = x * ((1 + there**2) / (1 + here**2)) ** 0.5
            x = x + (seen - denoiser(seen, torch.tensor([there]))) / there * (there - here)
        return x

    machine.forget_peak()
    start = machine.now()
    gray_input, gray_reference = desaturate(image), desaturate(reference)
    with denoiser.edited(edit, everywhere):
        noised, kept = {}, {}
        for role, picture in (("input", gray_input), ("reference", reference), ("gray", gray_reference)):
            edit.keep = {}
            noised[role] = climb(encode(picture))
            kept[role] = edit.keep
        edit.keep = None
        x = adain(noised["input"], noised["reference"])
        for n in range(options.passes):
            for here, there in zip(plan.sigmas[:-1], plan.sigmas[1:], strict=True):
                sigma = torch.tensor([here])
                edit.features = kept
                color = denoiser(x, sigma)
                edit.features = None
                plain = denoiser(x, sigma)
                x = x + (x - (plain + 10 * (color - plain))) / here * (there - here)
            with meter.timing_vae():
                decoded = model.vae.decode(x).cpu()
            colored = merge_luminance(decoded, gray_input, statistics_from=reference)
            if n < options.passes - 1:
                x = climb(encode(colored))
        found = {
            "total": machine.now() - start,
            "calls": meter.calls,
            "rows": meter.rows,
            "peak": machine.peak(),
            "kept": sum(t.numel() * 2 for role in kept.values() for three in role.values() for t in three) / 1e9,
        }
        sigma, y = torch.tensor([plan.sigmas[0]]), noised["input"]
        found["plain"] = machine.best(lambda: denoiser(y, sigma), options.repeat)
        edit.features = kept
        found["guided"] = found["plain"] + machine.best(lambda: denoiser(y, sigma), options.repeat)
    return found


SIDES = {"naive": naive, "ours": ours}
