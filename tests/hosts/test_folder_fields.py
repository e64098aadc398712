"""What configurations of diffusers folders say beside the sizes: nothing that counts, or it is refused by name."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_exemplar.hosts.diffusers.folder import load_unet


@pytest.fixture
def unet(tiny, tmp_path):
    made = tiny.sources("sd1")[0]
    made.save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


def say(unet, **said):
    file = unet / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    return load_unet(unet.parent)


@pytest.mark.parametrize(
    "said",
    [
        # as in the published folders of SD 2.x and SDXL, and as JSON of other programs has them
        {"dual_cross_attention": False, "num_class_embeds": None, "only_cross_attention": False},
        {"addition_embed_type_num_heads": 64, "time_embedding_type": "positional", "attention_type": "default"},
        {"resnet_out_scale_factor": 1, "conv_in_kernel": 3.0, "mid_block_scale_factor": 1.0},
        {"only_cross_attention": [False, False, False], "mid_block_only_cross_attention": False},
        {"decay": 0.9999, "optimization_step": 37000, "_diffusers_version": "0.6.0", "_name_or_path": "x"},
        {"reverse_transformer_layers_per_block": None, "class_embeddings_concat": None},
    ],
)
def test_fields_that_say_nothing(unet, said):
    plain = load_unet(unet.parent).state_dict()
    found = say(unet, **said).state_dict()
    assert found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("resnet_out_scale_factor", 2),
        ("resnet_out_scale_factor", True),
        ("only_cross_attention", [True, True, False]),
        ("only_cross_attention", 0),
        ("num_class_embeds", 1000),
        ("encoder_hid_dim", [None, 8]),
        ("conv_in_kernel", [[[3]]] * 9),
        ("time_embedding_type", "fourier"),
        ("class_embed_type", ""),
    ],
)
def test_fields_that_say_something(unet, name, value):
    with pytest.raises(ValueError, match=rf"unet/config\.json: {name} is ") as refused:
        say(unet, **{name: value})
    assert "\n" not in str(refused.value)


def test_nine_channels_are_an_inpainting_model(tiny, tmp_path):
    from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone

    tiny.save_folder(tmp_path, *tiny.sources("sd1")[:3])
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    first = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.cat([first, torch.zeros(len(first), 5, 3, 3)], 1)
    save_file(weights, file)
    say(tmp_path / "unet", in_channels=9)
    with pytest.raises(ValueError, match=r"reads 9 and writes 4 channels .* inpainting"):
        load_standalone(tmp_path)
