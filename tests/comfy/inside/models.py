"""Tiny random MODELs of the families that ComfyUI tells apart."""

import comfy.cldm.cldm
import comfy.controlnet
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import torch

#: Per family: transformers per level (encoder; the decoder has one more block a level), prompt width, label width.
FAMILIES = {
    "sd1": ([1, 1, 1, 0], 64, None),
    "sd2": ([1, 1, 1, 0], 64, None),
    "sdxl": ([0, 2, 3], 64, 2816),
    "sdxl-small": ([0, 1, 1], 64, 32 + 6 * 256),  # labels for a text encoder 32 wide
}


def tiny(family, dtype=torch.float32):
    """A MODEL of 32 channels with a family's layout; the last layer is small, so that inversion converges."""

    class Config(comfy.supported_models_base.BASE):
        unet_config = {}
        unet_extra_config = {}
        latent_format = comfy.latent_formats.SDXL if family.startswith("sdxl") else comfy.latent_formats.SD15

        def model_type(self, state_dict, prefix=""):
            kinds = comfy.model_base.ModelType
            return kinds.V_PREDICTION if family == "sd2" else kinds.EPS

        def get_model(self, state_dict, prefix="", device=None):
            kind = comfy.model_base.SDXL if family.startswith("sdxl") else comfy.model_base.BaseModel
            return kind(self, model_type=self.model_type(state_dict), device=device)

    config = Config(_unet_config(family))
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    _fill(model.diffusion_model, seed=7)
    model.eval().requires_grad_(False)
    core = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return core(model, load_device=torch.device("cpu"), offload_device=torch.device("cpu"))


def control_net(family, size):
    """A ControlNet of a family's layout with random weights, as the loader node gives it, with a picture to follow.

    :param size: (height, width) in pixels.
    """
    net = comfy.cldm.cldm.ControlNet(
        **{name: value for name, value in _unet_config(family).items() if name != "out_channels"},
        hint_channels=3,
        dtype=torch.float32,
        device=torch.device("cpu"),
        operations=comfy.ops.disable_weight_init,
    )
    _fill(net, seed=11)
    net.eval().requires_grad_(False)
    hint = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(8))
    return comfy.controlnet.ControlNet(net, load_device=torch.device("cpu")).set_cond_hint(hint, 0.5)


def under_control(conditioning, net):
    """CONDITIONING that a ControlNet acts on, as the applying node writes it."""
    return [
        [context, {**options, "control": net, "control_apply_to_uncond": False}] for context, options in conditioning
    ]


def _unet_config(family):
    depths, context, labels = FAMILIES[family]
    levels = len(depths)
    return {
        "image_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": [2] * levels,
        "channel_mult": [1, 2, 2, 2][:levels],
        "num_heads": 4,
        "num_head_channels": -1,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": family != "sd1",
        "legacy": False,
        "context_dim": context,
        "adm_in_channels": labels,
        "num_classes": "sequential" if labels else None,
        "transformer_depth": [d for d in depths for _ in range(2)],
        "transformer_depth_middle": max(depths),
        "transformer_depth_output": [d for d in depths for _ in range(3)],
    }


def _fill(network, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
                parameter.copy_(noise * (0.1 if name.startswith("out.2") else 1.0))
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)


def prompt(family):
    _, width, labels = FAMILIES[family]
    generator = torch.Generator().manual_seed(3)
    # SDXL's labels are six sizes of 256 numbers each, and the pooled text
    extra = {"pooled_output": torch.randn(1, labels - 6 * 256, generator=generator)} if labels else {}
    return [[torch.randn(1, 77, width, generator=generator), extra]]


def text_encoder(family, folders=None):
    """A tiny random CLIP of a family's kind, with ComfyUI's own tokenizer and encoder.

    :param folders: of embedding files.
    """
    sizes = {"intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
    if family == "sdxl-small":
        kinds = (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
        options = {f"clip_{key}_model_config": {**sizes, "hidden_size": 32, "projection_dim": 32} for key in "lg"}
    else:
        kinds = (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
        options = {"clip_l_model_config": {**sizes, "hidden_size": 64, "projection_dim": 64}}

    class Target:
        params = {}
        tokenizer, clip = kinds

    clip = comfy.sd.CLIP(Target, embedding_directory=folders, model_options={**options, "dtype": torch.float32})
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in clip.cond_stage_model.named_parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
            elif parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return clip


class FlatVAE:
    """Means of 8 x 8 pixels, as a VAE."""

    def spacial_compression_encode(self):
        return 8

    def encode(self, image):
        small = torch.nn.functional.avg_pool2d(image.movedim(-1, 1), 8) * 2 - 1
        return torch.cat([small, small.mean(1, keepdim=True)], 1)

    def decode(self, latent):
        return (latent[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2).movedim(1, -1) / 2 + 0.5).clamp(0, 1)
