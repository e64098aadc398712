"""Tiny random checkpoints of each family, as diffusers modules and in LDM naming, for the tests of this folder."""

import re
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

VOCABULARY, POSITIONS = 50, 12
RESNET = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
]
UNET_TOP = [
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_in", "input_blocks.0.0"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
]


def rename(name, table):
    for old, new in table:
        name = name.replace(old + ".", new + ".")
    return name


def unet_to_ldm(unet):
    """diffusers' UNet names -> LDM names, written from the two layouts, not from the converter under test."""
    n, out = unet.config.layers_per_block, {}
    for name, tensor in unet.state_dict().items():
        if m := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name):
            side, level, kind, j, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
            stem = "input_blocks" if side == "down" else "output_blocks"
            index = 1 + level * (n + 1) + j if side == "down" else level * (n + 1) + j
            if kind == "resnets":
                new = f"{stem}.{index}.0.{rename(rest, RESNET)}"
            elif kind == "attentions":
                new = f"{stem}.{index}.1.{rest}"
            elif kind == "downsamplers":
                new = f"input_blocks.{(level + 1) * (n + 1)}.0.{rest.replace('conv.', 'op.')}"
            else:
                place = 2 if unet.config.up_block_types[level].startswith("CrossAttn") else 1
                new = f"output_blocks.{level * (n + 1) + n}.{place}.{rest}"
        elif m := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", name):
            new = (
                f"middle_block.1.{m[3]}"
                if m[1] == "attentions"
                else f"middle_block.{2 * int(m[2])}.{rename(m[3], RESNET)}"
            )
        else:
            new = rename(name, UNET_TOP)
        out["model.diffusion_model." + new] = tensor.clone()
    return out


def vae_to_ldm(vae):
    levels, out = len(vae.config.block_out_channels), {}
    for name, tensor in vae.state_dict().items():
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample.", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{levels - 1 - int(m[1])}.block.", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f"up.{levels - 1 - int(m[1])}.upsample.", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if "mid_block.attentions.0" in new:
            table = [("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"), ("group_norm", "norm")]
            new = rename(new.replace("mid_block.attentions.0", "mid.attn_1"), table)
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        new = rename(new, [("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut")])
        out["first_stage_model." + new] = tensor.clone()
    return out


def bare(encoder):
    """The text encoder's weights without the wrapper's prefix (transformers before 5.6 has it everywhere)."""
    return {name.removeprefix("text_model."): tensor.clone() for name, tensor in encoder.state_dict().items()}


def clip_to_ldm(encoder, prefix):
    out = {f"{prefix}text_model.{name}": tensor for name, tensor in bare(encoder).items()}
    return out | {f"{prefix}text_model.embeddings.position_ids": torch.arange(POSITIONS)[None]}


def clip_to_open(encoder, prefix):
    w, out = bare(encoder), {}
    table = [
        ("layer_norm1", "ln_1"),
        ("layer_norm2", "ln_2"),
        ("fc1", "c_fc"),
        ("fc2", "c_proj"),
        ("self_attn", "attn"),
    ]
    for name, tensor in w.items():
        new = rename(name.replace("encoder.layers.", "transformer.resblocks."), table)
        if m := re.match(r"(.*)\.q_proj\.(weight|bias)$", new):
            joined = [w[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            out[f"{prefix}{m[1]}.in_proj_{m[2]}"] = torch.cat(joined)
        elif not re.search(r"[kv]_proj\.", new):
            new = new.replace("embeddings.token_embedding", "token_embedding").replace("final_layer_norm", "ln_final")
            new = new.replace("embeddings.position_embedding.weight", "positional_embedding")
            if new == "text_projection.weight":
                new, tensor = "text_projection", tensor.T.contiguous()
            out[prefix + new] = tensor
    return out | {prefix + "logit_scale": torch.tensor(4.6)}


def text_encoder(act, layers=2, projection=False, width=64):
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=96,
        num_hidden_layers=layers,
        hidden_act=act,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=POSITIONS,
        projection_dim=24,
        bos_token_id=48,
        eos_token_id=49,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def tiny_vae():
    return AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        latent_channels=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        sample_size=16,
    ).eval()


def tiny_unet(channels, depth_types, **kwargs):
    down = tuple("CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in depth_types)
    up = tuple("CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(depth_types))
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=channels, down_block_types=down, up_block_types=up, **kwargs
    ).eval()


def empty_ids(pad):
    return torch.tensor([[48, 49] + [pad] * (POSITIONS - 2)])


def sources(family):
    """(modules, LDM state dict) of a tiny random model of a family."""
    torch.manual_seed(7)
    vae = tiny_vae()
    if family == "sd1":
        unet = tiny_unet((32, 64, 64), (True, True, False), attention_head_dim=8, cross_attention_dim=64)
        text = [text_encoder("quick_gelu")]
        keys = clip_to_ldm(text[0], "cond_stage_model.transformer.")
    elif family == "sd2":
        unet = tiny_unet(
            (64, 128),
            (True, False),
            layers_per_block=1,
            attention_head_dim=(1, 2),
            cross_attention_dim=64,
            use_linear_projection=True,
        )
        text = [text_encoder("gelu", layers=3)]
        full = clip_to_open(text[0], "cond_stage_model.model.")
        # the layer that SD 2.x does not use, and the projection, are in the file
        last = {k.replace("resblocks.0.", "resblocks.3."): v + 1 for k, v in full.items() if "resblocks.0." in k}
        keys = full | last | {"cond_stage_model.model.text_projection": torch.randn(64, 24)}
    else:
        unet = tiny_unet(
            (64, 64, 128),
            (False, True, True),
            attention_head_dim=(1, 1, 2),
            cross_attention_dim=128,
            transformer_layers_per_block=(1, 1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=6 * 256 + 24,
        )
        text = [text_encoder("quick_gelu"), text_encoder("gelu", projection=True)]
        keys = clip_to_ldm(text[0], "conditioner.embedders.0.transformer.")
        keys |= clip_to_open(text[1], "conditioner.embedders.1.model.")
    return unet, vae, text, unet_to_ldm(unet) | vae_to_ldm(vae) | keys | {"model_ema.decay": torch.ones(())}


def save_folder(path, unet, vae, text, **scheduler):
    unet.save_pretrained(path / "unet")
    vae.save_pretrained(path / "vae")
    for i, encoder in enumerate(text):
        encoder.save_pretrained(path / ("text_encoder" if i == 0 else f"text_encoder_{i + 1}"))
    arguments = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"} | scheduler
    DDIMScheduler(**arguments).save_pretrained(path / "scheduler")


@pytest.fixture(scope="session")
def tiny():
    """The builders above (pytest's importlib mode cannot import from a neighboring file)."""
    return SimpleNamespace(
        sources=sources,
        unet_to_ldm=unet_to_ldm,
        save_folder=save_folder,
        unet=tiny_unet,
        bare=bare,
        rename=rename,
        empty_ids=empty_ids,
    )
