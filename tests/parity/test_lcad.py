"""L-CAD's recorded numbers: luminance input, gray encoder, decoder, and the UNet with its extra input channels."""

import json

import pytest
import torch

from comfyui_exemplar.hosts.diffusers.ldm import unet_from_ldm
from comfyui_exemplar.networks.lcad.load import build_autoencoder
from comfyui_exemplar.networks.lcad.model import LCADSizes, luminance_input, official_square
from comfyui_exemplar.networks.lcad.weights import SCHEDULE, take_apart

from .lcad_set import close, diffusers_denoiser

# the tolerances that the set's description suggests
MAPS = HIDDEN = DECODED = 1e-4
FIRST = LUMINANCE = 1e-5

UP = {"diffusers": "up_blocks", "ldm": "output_blocks"}


def test_luminance(lcad_set):
    recorded = lcad_set.file("preprocess")
    image = recorded["image_u8_hwc"][None].float() / 255
    square = official_square(image, lcad_set.meta["preprocess"]["img_size"])
    close((square[0] * 255).round(), recorded["resized_u8_hwc"], 0, "squeezed picture", rows=0)
    gray = luminance_input(square)
    assert torch.equal(gray[:, :1].expand(-1, 3, -1, -1), gray)
    close(gray[0, 0], recorded["hint_channel"], LUMINANCE, "luminance")


def test_sizes_are_read_from_the_file(lcad_set):
    config, sizes = lcad_set.meta["config"], lcad_set.parts.sizes
    vae = config["vae"]
    assert sizes == LCADSizes(tuple(vae["ch"] * m for m in vae["ch_mult"]), vae["num_res_blocks"])
    assert sizes.features == config["unet"]["gray_channels"]
    unet = unet_from_ldm(lcad_set.parts.unet, heads=lcad_set.heads)
    assert unet.config.in_channels == sizes.latent + sizes.features


def test_every_published_key_is_accounted_for(lcad_set):
    """A full-size file has these keys and no others; sizes come out as the description says."""
    shapes = json.loads((lcad_set.folder / "keys_official.json").read_text("utf-8"))
    with torch.device("meta"):
        weights = {name: torch.empty(shape) for name, shape in shapes.items()}
    parts = take_apart(weights)
    assert parts.sizes == LCADSizes((128, 256, 512, 512), 2)
    unused = {
        name for name in shapes if name.startswith(("first_stage_model.encoder.", "first_stage_model.quant_conv."))
    }
    unused |= {name for name in shapes if ".g_encoder.norm_out." in name or ".g_encoder.conv_out." in name}
    kept = sum(map(len, (parts.unet, parts.text, parts.gray, parts.decoder)))
    assert kept == len(shapes) - len(unused) - len(SCHEDULE & shapes.keys())
    autoencoder = build_autoencoder(parts)
    assert sum(p.numel() for p in autoencoder.decoder.parameters()) == 49_490_179 + 20  # with post_quant_conv


@pytest.mark.parametrize("case", ["a", "b"])
@torch.no_grad()
def test_gray_maps(lcad_set, case):
    recorded = lcad_set.file("vae")
    listed = [name for name in recorded if name.startswith(f"gray_z.{case}.")]
    if not listed:
        pytest.skip("this set has no such case")
    maps = lcad_set.autoencoder.encoder(recorded[f"gray_in.{case}"])
    assert len(maps) == lcad_set.parts.sizes.maps
    for name in listed:
        close(maps[int(name.rpartition(".")[2])], recorded[name], MAPS, name)


@pytest.mark.parametrize("name", ["image.a", "image.b", "image_noscale.a", "image_nogray.a"])
@torch.no_grad()
def test_decoder(lcad_set, name):
    recorded = lcad_set.file("vae")
    if name not in recorded:
        pytest.skip("this set has no such case")
    kind, case = name.split(".")
    scale = lcad_set.meta["scale_factor"] if kind == "image" else 1.0
    autoencoder = lcad_set.autoencoder
    maps = None if kind == "image_nogray" else autoencoder.encoder(recorded[f"gray_in.{case}"])
    for _ in range(2):  # the published list is used up by decoding; ours can be used again
        close(autoencoder(recorded[f"z.{case}"] / scale, maps), recorded[name], DECODED, name)


@torch.no_grad()
def test_unet(lcad_set):
    """Every block's output, by diffusers' own layers under the published weights."""
    recorded = lcad_set.file("unet")
    unet = unet_from_ldm(lcad_set.parts.unet, heads=lcad_set.heads)
    seen, handles = {}, []

    def keep(name, module):
        handles.append(module.register_forward_hook(lambda _m, _a, out: seen.__setitem__(name, out)))

    keep("time_embed", unet.time_embedding)
    keep("input_blocks.0", unet.conv_in)
    keep("middle_block", unet.mid_block)
    per_level = unet.config.layers_per_block
    for level, block in enumerate(unet.down_blocks):
        for i in range(per_level):
            layer = block.attentions[i] if hasattr(block, "attentions") else block.resnets[i]
            keep(f"input_blocks.{1 + level * (per_level + 1) + i}", layer)
        if block.downsamplers:
            keep(f"input_blocks.{(level + 1) * (per_level + 1)}", block.downsamplers[0])
    for level, block in enumerate(unet.up_blocks):
        for i in range(per_level + 1):
            layer = block.attentions[i] if hasattr(block, "attentions") else block.resnets[i]
            last = i == per_level and block.upsamplers
            keep(f"output_blocks.{level * (per_level + 1) + i}", block.upsamplers[0] if last else layer)
    joined = torch.cat([recorded["x"], recorded["gray"]], 1)
    eps = unet(joined, recorded["timesteps"], encoder_hidden_states=recorded["context"]).sample
    for handle in handles:
        handle.remove()
    close(eps, recorded["eps"], HIDDEN, "eps")
    hidden = [name for name in recorded if name.startswith("h.")]
    assert hidden
    for name in hidden:
        found = seen[name.removeprefix("h.")]
        found = found[0] if isinstance(found, tuple) else getattr(found, "sample", found)
        close(found, recorded[name], FIRST if name == "h.input_blocks.0" else HIDDEN, name)
    second = torch.cat([recorded["x2"], recorded["gray"]], 1)
    eps = unet(second, recorded["timesteps2"], encoder_hidden_states=recorded["context2"]).sample
    close(eps, recorded["eps2_fresh"], HIDDEN, "eps2_fresh")


@torch.no_grad()
def test_denoiser_joins_gray_features_and_texts_by_branch(lcad_set):
    """The host's denoiser, with the two rows as two branches in an order of their own."""
    recorded = lcad_set.file("unet")
    for row, timestep in enumerate(recorded["timesteps"].tolist()):
        texts = {0: recorded["context"][row : row + 1], 1: recorded["context2"][:1]}
        denoiser = diffusers_denoiser(lcad_set, recorded["gray"][row : row + 1], texts)
        sigma = denoiser.sigma_table[timestep]
        x = recorded["x"][row : row + 1] * (1 + sigma**2) ** 0.5
        for branches in ((1, 0), (0, 1)):
            x0 = denoiser(x.repeat(2, 1, 1, 1), sigma.repeat(2), branches)[branches.index(0)]
            close((x[0] - x0) / sigma, recorded["eps"][row], HIDDEN, f"row {row}, branches {branches}")
