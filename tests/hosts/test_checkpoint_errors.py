"""Wrong, incomplete and unreadable checkpoints are refused with one sentence that says what was found."""

import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone


def without(prefix):
    return lambda keys: {k: v for k, v in keys.items() if not k.startswith(prefix)}


def plus(**tensors):
    return lambda keys: keys | {k.replace("__", "."): torch.randn(v) for k, v in tensors.items()}


UNET, CONV = "model.diffusion_model.", "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    "family, change, match",
    [
        ("sd1", without("first_stage_model."), "no complete VAE"),
        ("sd1", without("cond_stage_model."), "without a text encoder"),
        ("sd1", without("model.diffusion_model."), "a VAE only"),
        ("sd1", without(UNET + "output_blocks.3.0.in_layers.2.bias"), r"missing \[up_blocks.1.resnets.0.conv1.bias\]"),
        ("sd1", without(UNET + "input_blocks.2.0.out_layers.3"), "missing `input_blocks.2.0"),
        ("sd1", without("first_stage_model.decoder.mid.attn_1.q.bias"), r"missing \[decoder.mid_block.*to_q.bias\]"),
        ("sd1", without("cond_stage_model.transformer.text_model.final"), r"missing \[(text_model\.)?final_layer"),
        ("sd1", plus(model__diffusion_model__surprise=(3,)), r"unexpected keys \[surprise\]"),
        ("sd1", plus(first_stage_model__surprise=(3,)), r"unexpected keys \[surprise\]"),
        ("sd2", plus(cond_stage_model__model__surprise=(3,)), r"unexpected keys \[surprise\]"),
        ("sd1", plus(model__diffusion_model__label_emb__weight=(3,)), r"unexpected keys \[label_emb.weight\]"),
        ("sd1", lambda k: k | {CONV: torch.randn(32, 9, 3, 3)}, "reads 9 .* inpainting"),
        ("sd1", lambda k: k | {UNET + "time_embed.0.bias": torch.randn(5)}, r"time_embedding.linear_1.bias \(5,\)"),
        ("sd1", plus(edm_mean=(4,)), "EDM"),
        ("sd1", plus(model__diffusion_model__input_blocks__1__1__time_stack__w=(4,)), "video"),
        ("sd1", lambda k: {n: v for n, v in k.items() if "input_blocks.1.1." not in n}, "transformer depths"),
        ("sdxl", without("conditioner.embedders.1.model.text_projection"), "missing .text_projection"),
        ("sdxl", without("conditioner.embedders.0."), "text encoder: missing"),
        ("sdxl", without(UNET + "label_emb."), "does not take SDXL's conditions"),
        ("sdxl", without(UNET + "label_emb.0.2.bias"), "label_emb.0.2.bias"),
        ("sdxl", lambda k: {n.replace("embedders.1.model", "embedders.0.model"): v for n, v in k.items()}, "refiner"),
    ],
)
def test_incomplete_and_different_checkpoints(tiny, tmp_path, family, change, match):
    path = tmp_path / "bad.safetensors"
    save_file(change(tiny.sources(family)[3]), path)
    with pytest.raises(ValueError, match=match) as error:
        load_standalone(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "names, match",
    [
        (["double_blocks.0.img_attn.qkv.weight", "img_in.weight"], "a Flux transformer"),
        (["model.diffusion_model.blocks.0.self_attn.q.weight", "patch_embedding.weight"], "a video model"),
        (["lora_unet_down_blocks_0.lora_down.weight"], "a LoRA"),
        (["decoder.conv_in.weight", "encoder.conv_in.weight"], "a VAE only"),
        (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (["text_model.encoder.layers.0.self_attn.q_proj.weight"], "a text encoder only"),
        (["layers.0.attention.qkv.weight"], "another diffusion transformer"),
        (["down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"], "one component in diffusers naming"),
        (["input_blocks.0.0.weight"], "an SD-like UNet"),
        (["emb_params"], "a textual inversion embedding"),
        (["something"], "tensors named like .'something'"),
        ([], "no tensors"),
    ],
)
def test_other_models_are_named(tmp_path, names, match):
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(1) for name in names}, path)
    with pytest.raises(ValueError, match=match):
        load_standalone(path)


def test_unreadable_files(tiny, tmp_path):
    _, _, _, keys = tiny.sources("sd1")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_standalone(tmp_path / "none.safetensors")
    for suffix, content in [("safetensors", b""), ("ckpt", b""), ("ckpt", b"hello"), ("safetensors", b"hello" * 99)]:
        path = tmp_path / f"bad.{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="could not be read"):
            load_standalone(path)
    save_file(keys, tmp_path / "bad.safetensors")
    torch.save(keys, tmp_path / "bad.ckpt")
    for path in (tmp_path / "bad.safetensors", tmp_path / "bad.ckpt"):
        path.write_bytes(path.read_bytes()[:200_000])
        with pytest.raises(ValueError, match="cut off"):
            load_standalone(path)
    torch.save({"state_dict": keys, "config": Evil()}, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match="code in it"):
        load_standalone(tmp_path / "bad.ckpt")
    assert not Evil.ran


class Evil:
    ran = False

    @staticmethod
    def run():
        Evil.ran = True

    def __reduce__(self):
        return (Evil.run, ())


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_bad_folders(tiny, tmp_path):
    unet, vae, text, _ = tiny.sources("sd1")
    good = tmp_path / "good"
    tiny.save_folder(good, unet, vae, text)
    (tmp_path / "flux" / "transformer").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no unet/config.json \(found \['transformer'\]\)"):
        load_standalone(tmp_path / "flux")

    def check(match, change):
        folder = tmp_path / "bad"
        shutil.copytree(good, folder)
        change(folder)
        with pytest.raises(ValueError, match=match):
            load_standalone(folder)
        shutil.rmtree(folder)

    check("is a `UNet3DConditionModel`", lambda f: edit(f / "unet/config.json", _class_name="UNet3DConditionModel"))
    check("is a `t5` model", lambda f: edit(f / "text_encoder/config.json", model_type="t5"))
    check(
        "FlowMatch",
        lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
    )
    check(
        "prediction_type is 'sample'; expected one of epsilon, v_prediction",
        lambda f: edit(f / "scheduler/scheduler_config.json", prediction_type="sample"),
    )
    check(
        "beta_schedule is 'cosine'; expected one of scaled_linear, linear",
        lambda f: edit(f / "scheduler/scheduler_config.json", beta_schedule="cosine"),
    )
    check("has no weights", lambda f: (f / "vae/diffusion_pytorch_model.safetensors").unlink())
    check("vae.config.json is missing", lambda f: shutil.rmtree(f / "vae"))
    check("scheduler_config.json is missing", lambda f: shutil.rmtree(f / "scheduler"))
    check("is not JSON", lambda f: (f / "unet/config.json").write_text("{"))
    check("shapes differ", lambda f: edit(f / "unet/config.json", cross_attention_dim=32))
    check("missing", lambda f: edit(f / "vae/config.json", layers_per_block=2))
    check(r"text_encoder: missing \[", lambda f: without_one(f / "text_encoder" / "model.safetensors"))
    check("class_embed_type is `timestep`, expected None", lambda f: wrong_condition(f, unet))
    check("64 wide but the UNet expects 32", lambda f: narrow(tiny, f))


def without_one(path):
    """transformers would fill in random numbers, and only warn."""
    weights = load_file(path)
    del weights[min(weights)]
    save_file(weights, path)


def wrong_condition(folder, unet):
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    UNet2DConditionModel(**config | {"class_embed_type": "timestep"}).save_pretrained(folder / "unet")


def narrow(tiny, folder):
    tiny.unet((32, 64), (True, True), attention_head_dim=8, cross_attention_dim=32).save_pretrained(folder / "unet")
