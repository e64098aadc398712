"""Hosts on the tiny UNet of a parity set: the same weights under diffusers and under ComfyUI."""

import importlib.util

import torch

PREFIX = "model.diffusion_model."


def differentiable(parity):
    """The tiny UNet as ``predict(x, sigma, context)`` with gradients: ComfyUI's where that is, else diffusers'."""
    if importlib.util.find_spec("comfy") is None:
        from comfyui_exemplar.hosts.diffusers.gradients import DifferentiableUNet

        return DifferentiableUNet(diffusers_host(parity).model)
    from comfyui_exemplar.hosts.comfy.borrowed import gradients
    from comfyui_exemplar.hosts.comfy.gradients import DifferentiableUNet

    with gradients():
        return DifferentiableUNet(comfy_model(parity))


class LinearMaps:
    """The stand-in autoencoder of the recorded repetitions: means of square patches, then one matrix each way."""

    def __init__(self, encoder, decoder, scale, factor=8):
        self.encoder, self.decoder, self.scale, self.factor = encoder, decoder, scale, factor

    def encode(self, image):
        pooled = torch.nn.functional.avg_pool2d(image.movedim(-1, 1) * 2 - 1, self.factor)
        return self.scale * torch.einsum("oc,bchw->bohw", self.encoder, pooled)

    def decode(self, latent):
        small = torch.einsum("oc,bchw->bohw", self.decoder, latent / self.scale)
        large = small.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return ((large + 1) / 2).movedim(1, -1)


def diffusers_host(parity, vae=None):
    from comfyui_exemplar.hosts.diffusers.checkpoint import StandaloneModel
    from comfyui_exemplar.hosts.diffusers.host import DiffusersHost
    from comfyui_exemplar.hosts.diffusers.ldm import unet_from_ldm

    weights = {k.removeprefix(PREFIX): v.float() for k, v in parity.file("weights").items()}
    unet = unet_from_ldm(weights, heads=parity.manifest["unet"]["num_heads"])
    common = parity.file("common")
    return DiffusersHost(
        StandaloneModel(
            unet=unet.eval(),
            vae=vae or LinearMaps(None, None, 1.0),
            alphas_cumprod=common["alphas_cumprod"],
            prediction="epsilon",
            context=common["context"],
            added=None,
            name="parity",
            fingerprint="parity",
        )
    )


def comfy_host(parity, vae=None):
    from comfyui_exemplar.hosts.comfy.host import ComfyHost

    common = parity.file("common")
    return ComfyHost(comfy_model(parity), [[common["context"], {}]], ComfyVAE(vae))


class ComfyVAE:
    """What the pipeline asks of a ComfyUI VAE, on the stand-in; ComfyUI's own scale factor stays outside of it."""

    def __init__(self, maps):
        self.maps = maps

    def spacial_compression_encode(self):
        return self.maps.factor

    def encode(self, image):
        return self.maps.encode(image) / self.maps.scale

    def decode(self, latent):
        return self.maps.decode(latent * self.maps.scale)


def comfy_model(parity, patcher=None):
    """The tiny UNet as a ComfyUI MODEL."""
    import comfy.latent_formats
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models_base

    unet, schedule = parity.manifest["unet"], parity.manifest["schedule"]
    depth = unet["transformer_depth"]
    levels = len(unet["channel_mult"])
    with_attention = [2**level in unet["attention_resolutions"] for level in range(levels)]
    blocks = unet["num_res_blocks"]

    class Latent(comfy.latent_formats.LatentFormat):
        scale_factor = parity.manifest["golden"]["repeat_n3"]["scale_factor"]

    class Tiny(comfy.supported_models_base.BASE):
        unet_config = {
            "image_size": 32,
            "in_channels": unet["in_channels"],
            "out_channels": unet["out_channels"],
            "model_channels": unet["model_channels"],
            "num_res_blocks": [blocks] * levels,
            "channel_mult": unet["channel_mult"],
            "num_heads": unet["num_heads"],
            "num_head_channels": -1,
            "use_spatial_transformer": True,
            "use_linear_in_transformer": False,
            "legacy": False,
            "context_dim": unet["context_dim"],
            "adm_in_channels": None,
            "transformer_depth": [depth * a for a in with_attention for _ in range(blocks)],
            "transformer_depth_middle": depth,
            "transformer_depth_output": [depth * a for a in with_attention for _ in range(blocks + 1)],
        }
        unet_extra_config = {}
        latent_format = Latent
        sampling_settings = {
            "linear_start": schedule["beta_start"],
            "linear_end": schedule["beta_end"],
            "timesteps": schedule["num_train_timesteps"],
        }

    config = Tiny(Tiny.unet_config)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    weights = {k.removeprefix(PREFIX): v.float() for k, v in parity.file("weights").items()}
    model.diffusion_model.load_state_dict(weights, strict=True)
    model.eval().requires_grad_(False)
    core = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    device = comfy.model_management.get_torch_device()
    return (patcher or core)(model, load_device=device, offload_device=torch.device("cpu"))


def comfy_clip(parity):
    """VCT's recorded text encoder as a ComfyUI CLIP whose tokenizer knows the recorded words."""
    import comfy.sd
    import comfy.sd1_clip

    sizes = parity.meta["clip"]
    config, begin, end = sizes["config"], sizes["bos"], sizes["eos_and_pad"]

    class Tokenizer:
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            pass

        def tokenize_with_weights(self, text, return_word_ids=False, **_):
            row = [(begin, 1.0, 0), *((i, 1.0, 1) for i in sizes["ids_of"].get(text, ()))]
            row += [(end, 1.0, 0)] * (config["max_position_embeddings"] - len(row))
            return {"l": [row if return_word_ids else [token[:2] for token in row]]}

    class Target:
        params = {}
        tokenizer, clip = Tokenizer, comfy.sd1_clip.SD1ClipModel

    names = (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "hidden_act",
        "eos_token_id",
    )
    options = {"clip_l_model_config": {name: config[name] for name in names}, "dtype": torch.float32}
    clip = comfy.sd.CLIP(Target, embedding_directory=None, model_options=options)
    encoder = clip.cond_stage_model.clip_l
    encoder.special_tokens = {"start": begin, "end": end, "pad": end}
    weights = {name: tensor.clone() for name, tensor in parity.clip_weights().items()}
    (key,) = (name for name in weights if name.endswith("token_embedding.weight"))
    table = torch.zeros_like(encoder.transformer.get_input_embeddings().weight)
    table[: len(weights[key])] = weights[key]
    weights[key] = table
    missing, unexpected = encoder.transformer.load_state_dict(weights, strict=False)
    assert missing == ["text_projection.weight"] and not unexpected  # pooling, which nothing here reads
    torch.nn.init.zeros_(encoder.transformer.text_projection.weight)
    return clip
