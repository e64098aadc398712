"""Loading for the diffusers host: every source gives the modules that it was made from."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_exemplar import demo
from comfyui_exemplar.files import headers
from comfyui_exemplar.hosts.diffusers.checkpoint import alphas_cumprod, load_standalone, unet_from_ldm
from comfyui_exemplar.hosts.diffusers.layers import attention_layers
from comfyui_exemplar.pipelines.recommended import read_recommended


@torch.no_grad()
def expected_context(tiny, family, text):
    if family == "sd1":
        return text[0](tiny.empty_ids(49)).last_hidden_state
    if family == "sd2":
        return text[0](tiny.empty_ids(0)).last_hidden_state
    first = text[0](tiny.empty_ids(49), output_hidden_states=True).hidden_states[-2]
    second = text[1](tiny.empty_ids(0), output_hidden_states=True).hidden_states[-2]
    return torch.cat([first, second], -1)


@torch.no_grad()
def check_same(tiny, model, unet, vae, family, text):
    # as loaded ones are: torch multiplies in another way, with other last bits, where a weight wants a gradient
    unet.requires_grad_(False)
    vae.requires_grad_(False)
    for ours, theirs in ((model.unet, unet), (model.vae.vae, vae)):
        assert {k: v.shape for k, v in ours.state_dict().items()} == {
            k: v.shape for k, v in theirs.state_dict().items()
        }
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
    assert not model.unet.training and not any(p.requires_grad for p in model.unet.parameters())
    torch.testing.assert_close(model.context, expected_context(tiny, family, text))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    added = model.added_conditions(2, x.shape[-2:])
    call = {"encoder_hidden_states": model.context.expand(2, -1, -1), "added_cond_kwargs": added}
    assert torch.equal(model.unet(x, t, **call).sample, unet(x, t, **call).sample)  # heads are in no weight
    if family == "sdxl":
        pooled = text[1](tiny.empty_ids(0)).text_embeds
        torch.testing.assert_close(model.added["text_embeds"], pooled)
        assert added["time_ids"].tolist() == [[16, 16, 0, 0, 16, 16]] * 2 and added["text_embeds"].shape == (2, 24)
    else:
        assert model.added is None and added is None
    image = torch.rand(1, 16, 24, 3)
    latent = model.vae.encode(image)
    mean = vae.encode(image.movedim(-1, 1) * 2 - 1).latent_dist.mean * model.vae.scale
    torch.testing.assert_close(latent, mean)
    assert latent.shape == (1, 4, 8, 12) and (model.vae.factor, model.vae.channels) == (2, 4)
    decoded = model.vae.decode(latent)
    assert decoded.shape == image.shape and decoded.min() >= 0 and decoded.max() <= 1
    torch.testing.assert_close(
        decoded.movedim(-1, 1), (vae.decode(mean / model.vae.scale).sample / 2 + 0.5).clamp(0, 1)
    )


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_single_file(tiny, tmp_path, family, suffix):
    unet, vae, text, keys = tiny.sources(family)
    path = tmp_path / f"tiny.{suffix}"
    if suffix == "ckpt":
        torch.save({"state_dict": keys, "global_step": 3}, path)
    else:
        save_file(keys, path)
    model = load_standalone(path)
    check_same(tiny, model, unet, vae, family, text)
    assert model.name == "tiny" and model.prediction == "epsilon"
    native = {} if family != "sdxl" else {system: {"resolution": 1024} for system in ("exemplar", "memory", "vct")}
    assert model.recommended == native
    assert model.vae.scale == (0.13025 if family == "sdxl" else 0.18215)
    assert torch.equal(model.alphas_cumprod, alphas_cumprod())


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_folder(tiny, tmp_path, family):
    unet, vae, text, keys = tiny.sources(family)
    tiny.save_folder(tmp_path / "folder", unet, vae, text, prediction_type="v_prediction")
    model = load_standalone(tmp_path / "folder")
    check_same(tiny, model, unet, vae, family, text)
    assert model.prediction == "v_prediction" and model.name == "folder"
    assert torch.equal(model.alphas_cumprod, alphas_cumprod())
    save_file(keys, tmp_path / "tiny.safetensors")
    assert load_standalone(tmp_path / "tiny.safetensors").fingerprint == model.fingerprint


def test_folder_shards_pickles_and_old_names(tiny, tmp_path):
    unet, vae, text, _ = tiny.sources("sd1")
    tiny.save_folder(tmp_path, unet, vae, text)
    shutil.rmtree(tmp_path / "unet")
    unet.save_pretrained(tmp_path / "unet", max_shard_size="500KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {tiny.rename(k, names.items()): v for k, v in vae.state_dict().items()}
    assert old.keys() != vae.state_dict().keys()
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(old, tmp_path / "vae" / "diffusion_pytorch_model.bin")
    prefixed = {"text_model." + k: v for k, v in tiny.bare(text[0]).items()}
    save_file(
        prefixed | {"text_model.embeddings.position_ids": torch.arange(12)[None]},
        tmp_path / "text_encoder" / "model.safetensors",
    )
    check_same(tiny, load_standalone(tmp_path), unet, vae, "sd1", text)


def test_prediction_of_single_files(tiny, tmp_path):
    _, _, _, keys = tiny.sources("sd2")
    bias = "model.diffusion_model.output_blocks.3.1.transformer_blocks.0.norm1.bias"
    assert bias in keys
    keys[bias] = torch.linspace(-1, 1, 64) * 0.5
    save_file(keys, tmp_path / "v.safetensors")
    assert load_standalone(tmp_path / "v.safetensors").prediction == "v_prediction"
    _, _, _, keys = tiny.sources("sdxl")
    save_file(keys | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "xl.safetensors")
    model = load_standalone(tmp_path / "xl.safetensors")
    assert model.prediction == "v_prediction" and 0 < model.alphas_cumprod[-1] < 1e-7
    assert model.alphas_cumprod[0] == pytest.approx(float(alphas_cumprod()[0]), abs=1e-6)


def test_the_prediction_can_be_said(tiny, tmp_path):
    unet, vae, text, keys = tiny.sources("sd1")
    path = tmp_path / "one.safetensors"
    save_file(keys, path)
    tiny.save_folder(tmp_path / "folder", unet, vae, text, prediction_type="v_prediction")
    for source, own in ((path, "epsilon"), (tmp_path / "folder", "v_prediction")):
        found = {said: load_standalone(source, prediction=said).prediction for said in ("auto", "epsilon", "v")}
        assert found == {"auto": own, "epsilon": "epsilon", "v": "v_prediction"}
    # a header says it, too
    for said, expected in (("v", "v_prediction"), ("epsilon", "epsilon"), ("sample", "epsilon")):
        save_file(keys, path, metadata={"modelspec.prediction_type": said})
        assert load_standalone(path).prediction == expected


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_averages_alone_are_the_model(tiny, tmp_path, family):
    """Names without dots find their places again, all of them: the UNet is loaded strictly."""
    keys = tiny.sources(family)[3]
    prefix = "model.diffusion_model."
    flat = {
        "model_ema." + n.removeprefix("model.").replace(".", ""): t for n, t in keys.items() if n.startswith(prefix)
    }
    rest = {name: tensor for name, tensor in keys.items() if not name.startswith(prefix)}
    path = tmp_path / "averages.safetensors"
    save_file(rest | flat, path)
    averaged = load_standalone(path)
    save_file(keys, path)
    plain = load_standalone(path)
    assert averaged.fingerprint == plain.fingerprint
    weights = averaged.unet.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in plain.unet.state_dict().items())
    # with both, the trained ones count, as in ComfyUI
    save_file(keys | {name: tensor + 1 for name, tensor in flat.items()}, path)
    assert load_standalone(path).fingerprint == plain.fingerprint


def test_a_checkpoint_in_eight_bit_floats(tiny, tmp_path):
    keys = tiny.sources("sd1")[3]
    weight = "model.diffusion_model.out.2.weight"
    eight = {n: t.to(torch.float8_e4m3fn) if t.is_floating_point() else t for n, t in keys.items()}
    save_file(eight, tmp_path / "eight.safetensors")
    model = load_standalone(tmp_path / "eight.safetensors")
    assert torch.equal(model.unet.conv_out.weight, eight[weight].float())


def test_dtypes(tiny, tmp_path):
    _, _, _, keys = tiny.sources("sd1")
    save_file({k: v.half() if v.is_floating_point() else v for k, v in keys.items()}, tmp_path / "half.safetensors")
    save_file(keys, tmp_path / "full.safetensors")
    full = load_standalone(tmp_path / "full.safetensors", dtype=torch.bfloat16)
    half = load_standalone(tmp_path / "half.safetensors", dtype=torch.float16)
    assert full.fingerprint == half.fingerprint  # whatever the file's and the asked precision
    assert half.unet.dtype == half.context.dtype == torch.float16 and half.vae.vae.dtype == torch.float32
    assert full.unet.dtype == full.vae.vae.dtype == torch.bfloat16
    assert full.vae.encode(torch.rand(1, 8, 8, 3)).dtype == torch.float32
    keys["model.diffusion_model.input_blocks.0.0.weight"] += 0.01
    save_file(keys, tmp_path / "other.safetensors")
    assert load_standalone(tmp_path / "other.safetensors").fingerprint != full.fingerprint


@torch.no_grad()
def test_embedded():
    model = load_standalone(demo.model_path())
    config = headers.read_config(demo.model_path())
    assert model.unet.config.block_out_channels == config["unet"]["block_out_channels"]
    assert model.unet.config.norm_num_groups == 32
    heads = {info.layer.name: info.channels // info.heads for info in attention_layers(model.unet).values()}
    assert set(heads.values()) == {64}, heads
    stored = load_file(demo.model_path())
    assert all(torch.equal(v, stored["unet." + k].float()) for k, v in model.unet.state_dict().items())
    assert torch.equal(model.context, stored["text.emb.weight"][0].float().expand(1, 8, 128))
    assert (model.prediction, model.added, model.vae.factor, model.vae.channels) == ("v_prediction", None, 4, 4)
    assert model.recommended == read_recommended(demo.model_path())
    assert all(section["resolution"] == config["image_size"] == 128 for section in model.recommended.values())
    assert torch.equal(model.alphas_cumprod, alphas_cumprod()) and re.fullmatch("[0-9a-f]{12}", model.fingerprint)
    y, x = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 96), indexing="ij")
    image = torch.stack([x, y, 1 - x], -1)[None]
    latent = model.vae.encode(image)
    assert -10 * (model.vae.decode(latent) - image).square().mean().log10() > 40
    # It is a denoiser: at a low noise level it finds most of the noise.
    noise, alpha = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)), model.alphas_cumprod[301]
    noised = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
    v = model.unet(noised, 301, encoder_hidden_states=model.context).sample
    found = (1 - alpha).sqrt() * noised + alpha.sqrt() * v
    assert (found - noise).square().mean() < 0.25


def test_embedded_header(tmp_path):
    metadata = headers.read_metadata(demo.model_path())
    assert metadata["exemplar.format"] == "1" and "CC-BY-4.0" in metadata["exemplar.credit"]
    with pytest.raises(FileNotFoundError):
        headers.read_config(tmp_path / "none.safetensors")
    path = tmp_path / "x.safetensors"
    for content, match in [
        ({"a": "b"}, "not an embedded"),
        ({"exemplar.format": "2", "exemplar.config": "{}"}, "format `2`"),
        ({"exemplar.format": "1", "exemplar.config": "{}"}, "lacks the sections"),
        ({"exemplar.format": "1", "exemplar.config": "{"}, "not JSON"),
    ]:
        save_file({"t": torch.zeros(1)}, path, metadata=content)
        with pytest.raises(ValueError, match=match):
            headers.read_config(path)
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="does not start with"):
        headers.read_config(path)
    assert not headers.is_embedded(path)
    whole = demo.model_path().read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"bytes and \d+ are there.*cut off, damaged"):
        load_standalone(path)


def test_heads_of_a_unet(tiny):
    keys = tiny.sources("sd2")[3]
    by_width = unet_from_ldm(keys, head_dim=32)
    assert tuple(by_width.config.attention_head_dim) == (2, 4)
    assert unet_from_ldm(keys, heads=4).config.attention_head_dim == 4
    with pytest.raises(ValueError, match="one of the two"):
        unet_from_ldm(keys, heads=4, head_dim=32)
    with pytest.raises(ValueError, match="cannot be split into 7 heads"):
        unet_from_ldm(keys, heads=7)
    with pytest.raises(ValueError, match="a LoRA"):
        unet_from_ldm({"x.lora_down.weight": torch.zeros(1)})


SD1 = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
SD2 = SD1 | {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


@pytest.mark.parametrize(
    "attention, published",
    [((True, True, True, False), SD1), ((True, True, True, False), SD2), ((False, True, True), SDXL)],
    ids=["sd1", "sd2", "sdxl"],
)
def test_published_sizes(tiny, attention, published):
    """At full size, on the meta device: the configuration is the one of the published diffusers folders."""
    with torch.device("meta"):
        unet = tiny.unet(published["block_out_channels"], attention, **published_rest(published))
        loaded = unet_from_ldm(tiny.unet_to_ldm(unet))
    assert {k: v.shape for k, v in loaded.state_dict().items()} == {k: v.shape for k, v in unet.state_dict().items()}
    assert {key: loaded.config[key] for key in published} == published
    assert loaded.config.layers_per_block == 2 and loaded.config.norm_num_groups == 32


def published_rest(published):
    return {key: value for key, value in published.items() if key != "block_out_channels"}
