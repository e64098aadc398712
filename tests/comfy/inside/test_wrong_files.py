"""Embedded models with one thing wrong in each, through ComfyUI's loaders: the right models, or one clear line."""

import json

import pytest

pytest.importorskip("diffusers")  # it makes the small UNet

from comfyui_exemplar.hosts.comfy import embedded, lcad
from comfyui_exemplar.hosts.comfy.recommended import recommended

from ...fixtures.weight_files import CONFIG, header, small_embedded, small_embedded_lcad
from ...fixtures.wrong_files import Subject, wrong


def of_model(path):
    model, clip, vae = embedded.load_demo(path)
    return {
        "unet": dict(model.model.diffusion_model.state_dict()),
        "sigmas": model.model.model_sampling.sigmas,
        "words": dict(clip.cond_stage_model.state_dict()),
        "vae": dict(vae.first_stage_model.state_dict()),
        "recommended": {system: recommended(model, system) for system in ("exemplar", "vct")},
        "scale": model.model.latent_format.scale_factor,
    }


def of_lcad(path):
    model, clip, vae = lcad.load_file(path)
    return {
        "unet": dict(model.model.diffusion_model.state_dict()),
        "words": dict(clip.cond_stage_model.state_dict()),
        "vae": dict(vae.network.state_dict()),
        "recommended": vae.recommended,
    }


@pytest.mark.parametrize("system", ["model", "lcad"])
def test_embedded(tmp_path, system):
    tensors, config = (small_embedded(), CONFIG) if system == "model" else small_embedded_lcad()
    subject = Subject(system, tensors, of_model if system == "model" else of_lcad, header(config))
    tried, bad = wrong(subject, tmp_path / "odd.safetensors", some=1, every=17, stride=9)
    assert not bad and tried > 100


def test_sizes_that_the_tensors_do_not_have_take_no_memory(tmp_path):
    unet = CONFIG["unet"] | {"block_out_channels": [16384, 16384], "attention_head_dim": [8, 8], "layers_per_block": 16}
    subject = Subject("large", small_embedded(), of_model, header(CONFIG | {"unet": unet}))
    with pytest.raises(ValueError, match=r"the embedded UNet: |has weights that") as error:
        subject.load(subject.write(tmp_path / "large.safetensors"))
    assert json.dumps(str(tmp_path))[1:-1] in str(error.value)
