"""L-CAD's nodes on a small checkpoint under the published names: files, conditions, samplers, LoRA, decoding."""

import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from comfyui_exemplar.color import luminance
from comfyui_exemplar.demo import lcad_path
from comfyui_exemplar.hosts.comfy import lcad as comfy_lcad
from comfyui_exemplar.hosts.comfy.folders import LCAD
from comfyui_exemplar.networks.embedded.words import HashedWords
from comfyui_exemplar.networks.lcad.load import read_lcad
from comfyui_exemplar.networks.lcad.model import GrayEncoder
from comfyui_exemplar.nodes.lcad import LoadLCAD

from ...fixtures.lcad import small_checkpoint
from ...parity.conftest import parity_folder
from ...parity.lcad_set import LCADSet
from .sampling import difference, run


@pytest.fixture(scope="module")
def tiny():
    return small_checkpoint(LCADSet(parity_folder("lcad")).weights)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny):
    """A folder that the user of ComfyUI added for L-CAD's files, with one in it."""
    path = tmp_path_factory.mktemp("lcad")
    save_file(tiny, path / "small.safetensors")
    folder_paths.add_model_folder_path("lcad", str(path))
    yield path
    folder_paths.folder_names_and_paths["lcad"][0].remove(str(path))


@pytest.fixture(scope="module")
def loaded(nodes, folder):
    """(MODEL, CLIP, LCAD_VAE)"""
    with torch.inference_mode():
        return nodes("ExemplarLoadLCAD", model_name="small.safetensors")


def text(clip, words):
    return clip.encode_from_tokens_scheduled(clip.tokenize(words))


def condition(nodes, loaded, image, words="a red car", **settings):
    _, clip, vae = loaded
    return nodes(
        "ExemplarLCADCondition",
        positive=text(clip, words),
        negative=text(clip, ""),
        image=image,
        lcad_vae=vae,
        **{"resolution": 64, "variations": 1, **settings},
    )


def sampled(model, conditioned, cfg=3.0, seed=3):
    positive, negative, latent = conditioned
    noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(seed))
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "ddim_uniform", 3)
    start = {**latent, "samples": noise * float(sigmas[0])}
    return {**latent, "samples": run(model, positive, start, sigmas, cfg, negative)}


def decode(nodes, loaded, latent, image, exact_luminance=0.0):
    return nodes("ExemplarLCADDecode", latent=latent, image=image, lcad_vae=loaded[2], exact_luminance=exact_luminance)[
        0
    ]


@pytest.fixture(scope="module")
def latent(nodes, loaded, scene):
    with torch.inference_mode():
        return sampled(loaded[0], condition(nodes, loaded, scene[0]))


class TestFiles:
    def test_both_folders_are_listed(self, folder, tmp_path):
        folder_paths.add_model_folder_path("checkpoints", str(tmp_path))
        try:
            (tmp_path / "another.safetensors").write_bytes(b"")
            listed = LCAD.files()
            assert listed.index("small.safetensors") < listed.index("another.safetensors")
        finally:
            folder_paths.folder_names_and_paths["checkpoints"][0].remove(str(tmp_path))

    def test_a_missing_file_is_said_early(self, folder):
        assert LoadLCAD.validate_inputs(model_name="small.safetensors") is True
        assert LoadLCAD.validate_inputs() is True and LoadLCAD.validate_inputs(model_name="embedded") is True
        said = LoadLCAD.validate_inputs(model_name="gone.ckpt")
        assert "no 'gone.ckpt' in models/lcad or models/checkpoints" in said and "small.safetensors" in said
        with pytest.raises(FileNotFoundError, match=r"no 'gone\.ckpt'"):
            comfy_lcad.load("gone.ckpt")

    def test_parts(self, loaded):
        model, clip, vae = loaded
        assert type(model.model).__name__ == "LCADModel"
        assert model.get_model_object("diffusion_model").input_blocks[0][0].weight.shape[1] == 4 + 64
        assert text(clip, "a red car")[0][0].shape == (1, 77, 48)
        assert (vae.factor, vae.channels, vae.multiple, vae.name) == (8, 4, 32, "small.safetensors")

    @pytest.mark.parametrize(
        "change, said",
        [
            ("ordinary", r"g_encoder\.\*.*not L-CAD's"),
            ("extra", r"unexpected \[control_model.x\]"),
            ("no text", "no text encoder"),
            ("text key", r"text encoder.*missing \[text_model.final_layer_norm.bias\]"),
            ("unet key", "UNet: missing"),
            ("gray key", "gray encoder: missing"),
            ("half an encoder", "ordinary encoder"),
            ("plain unet", "latent and gray features together are 68"),
        ],
    )
    def test_other_files_are_refused(self, tiny, tmp_path, change, said):
        weights = dict(tiny)
        if change == "ordinary":
            weights = {name: tensor for name, tensor in tiny.items() if "g_encoder" not in name}
        elif change == "no text":
            weights = {name: tensor for name, tensor in tiny.items() if "cond_stage" not in name}
        elif change == "extra":
            weights["control_model.x"] = torch.zeros(1)
        elif change == "plain unet":
            first = "model.diffusion_model.input_blocks.0.0.weight"
            weights[first] = weights[first][:, :4].clone()
        else:
            suffix = {
                "text key": "text_model.final_layer_norm.bias",
                "unet key": "diffusion_model.out.0.bias",
                "gray key": "zero_conv_mid1.bias",
                "half an encoder": "first_stage_model.encoder.conv_in.bias",
            }[change]
            (name,) = [name for name in weights if name.endswith(suffix)]
            del weights[name]
        path = tmp_path / "other.safetensors"
        save_file(weights, path)
        with pytest.raises(ValueError, match=said) as found:
            comfy_lcad.load_file(path)
        assert str(path) in str(found.value)


class TestCondition:
    @pytest.mark.parametrize("size, expected", [((64, 64), (8, 8)), ((50, 130), (4, 12)), ((130, 50), (12, 4))])
    def test_any_size(self, nodes, loaded, scene, size, expected):
        gray = torch.nn.functional.interpolate(scene[0].movedim(-1, 1), size).movedim(1, -1)
        positive, negative, latent = condition(nodes, loaded, gray)
        assert latent["samples"].shape == (1, 4, *expected) and not latent["samples"].any()
        for each in (positive, negative):
            assert each[0][1][comfy_lcad.GRAY_KEY].shape == (1, 64, *expected)
        square = condition(nodes, loaded, gray, shape="official square")[2]
        assert square["samples"].shape[-2:] == (8, 8)

    def test_the_prompts_stay_as_they_are(self, nodes, loaded, scene):
        prompt = text(loaded[1], "a red car")
        before = dict(prompt[0][1])
        nodes(
            "ExemplarLCADCondition",
            positive=prompt,
            negative=prompt,
            image=scene[0],
            lcad_vae=loaded[2],
            resolution=64,
            variations=1,
        )
        assert prompt[0][1].keys() == before.keys()

    def test_what_is_missing_is_said(self, nodes, loaded, embedded, scene):
        model, clip, _ = loaded
        positive, negative, latent = condition(nodes, loaded, scene[0])
        with pytest.raises(ValueError, match="expected those of L-CAD Condition; put it between"):
            sampled(model, (text(clip, "x"), negative, latent))
        with pytest.raises(ValueError, match="connect the latent of L-CAD Condition"):
            sampled(model, (positive, negative, {"samples": torch.zeros(1, 4, 8, 12)}))
        wrong = comfy_lcad.with_gray(positive, torch.zeros(1, 32, 8, 8))
        with pytest.raises(ValueError, match="found gray features of 32 channels, expected 64"):
            sampled(model, (wrong, negative, latent))

    @pytest.mark.parametrize(
        "image, match",
        [
            (torch.zeros(0, 8, 8, 3), "image: found an empty batch"),
            (torch.full((1, 8, 8, 3), float("nan")), "image: found NaN"),
        ],
    )
    def test_bad_pictures(self, nodes, loaded, image, match):
        with pytest.raises(ValueError, match=match):
            condition(nodes, loaded, image)


class TestSampling:
    def test_gray_and_words_count(self, nodes, loaded, scene):
        first = sampled(loaded[0], condition(nodes, loaded, scene[0]))["samples"]
        assert torch.equal(sampled(loaded[0], condition(nodes, loaded, scene[0]))["samples"], first)
        other = sampled(loaded[0], condition(nodes, loaded, scene[0].flip(2)))["samples"]
        assert difference(first, other) > 1e-3
        words = sampled(loaded[0], condition(nodes, loaded, scene[0], "a blue house"))["samples"]
        assert difference(first, words) > 1e-3

    def test_rows_of_a_batch_belong_to_their_pictures(self, nodes, loaded, scene):
        """Two pictures, two variations each, on one batch of noise."""
        pair = torch.cat([scene[0], scene[0].flip(2)])
        conditioned = condition(nodes, loaded, pair, variations=2)
        assert conditioned[2]["samples"].shape[0] == 4
        together = sampled(loaded[0], conditioned)
        noise = torch.randn(together["samples"].shape, generator=torch.Generator().manual_seed(3))
        sigmas = comfy.samplers.calculate_sigmas(loaded[0].get_model_object("model_sampling"), "ddim_uniform", 3)
        for row in range(4):
            positive, negative, _ = condition(nodes, loaded, pair[row % 2 : row % 2 + 1])
            start = {"samples": noise[row : row + 1] * float(sigmas[0])}
            alone = run(loaded[0], positive, start, sigmas, 3.0, negative)
            assert difference(together["samples"][row], alone[0]) < 2e-3, row
        decoded = decode(nodes, loaded, together, pair)
        assert decoded.shape == (4, 64, 64, 3)
        single = {"samples": together["samples"][1:2]}
        assert difference(decoded[1:2], decode(nodes, loaded, single, pair[1:])) < 1e-4

    def test_one_encode_a_run(self, nodes, loaded, scene, monkeypatch):
        calls, forward = [], GrayEncoder.forward
        monkeypatch.setattr(GrayEncoder, "forward", lambda self, gray: calls.append(1) or forward(self, gray))
        latent = sampled(loaded[0], condition(nodes, loaded, scene[0]))
        carried = decode(nodes, loaded, latent, scene[0])
        assert len(calls) == 1
        # without what the latent carries, the picture is encoded again, to the same end
        assert difference(decode(nodes, loaded, {"samples": latent["samples"]}, scene[0]), carried) < 1e-5
        assert len(calls) == 2
        decode(nodes, loaded, latent, scene[0].flip(2))
        assert len(calls) == 3

    def test_the_published_attention_is_a_choice(self, nodes, loaded, scene):
        """Fresh attention is the model as it is; official is another picture, from the second step on, every time
        alike."""
        conditioned = condition(nodes, loaded, scene[0])
        fresh, stale = (
            nodes("ExemplarLoadLCAD", model_name="small.safetensors", attention=name)[0]
            for name in ("fresh", "official")
        )
        usual, other = sampled(fresh, conditioned)["samples"], sampled(stale, conditioned)["samples"]
        assert torch.equal(usual, sampled(loaded[0], conditioned)["samples"])
        assert difference(usual, other) > 1e-3 and torch.equal(other, sampled(stale, conditioned)["samples"])

    def test_lora(self, nodes, loaded, scene):
        """ComfyUI's own loader finds the layers by their usual names."""
        model, clip, _ = loaded
        unet = model.get_model_object("diffusion_model")
        weight = unet.input_blocks[1][1].transformer_blocks[0].attn2.to_k.weight
        name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
        lora = {
            f"{name}.lora_down.weight": torch.ones(2, weight.shape[1]),
            f"{name}.lora_up.weight": torch.ones(weight.shape[0], 2),
            f"{name}.alpha": torch.tensor(2.0),
        }
        changed, _ = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
        conditioned = condition(nodes, loaded, scene[0])
        plain = sampled(model, conditioned)["samples"]
        assert difference(sampled(changed, conditioned)["samples"], plain) > 1e-3
        assert torch.equal(sampled(model, conditioned)["samples"], plain)


class TestDecode:
    def test_own_size_and_lightness(self, nodes, loaded, scene):
        gray = torch.nn.functional.interpolate(scene[0].movedim(-1, 1), (45, 90)).movedim(1, -1)
        latent = sampled(loaded[0], condition(nodes, loaded, gray))
        exact = decode(nodes, loaded, latent, gray, 1.0)
        assert exact.shape == gray.shape
        assert float((luminance(exact) - luminance(gray)).abs().max()) < 0.05
        free = decode(nodes, loaded, latent, gray)
        assert free.shape == gray.shape and difference(free, exact) > 1e-3
        half = decode(nodes, loaded, latent, gray, 0.5)
        assert difference(half, (free + exact) / 2) < 1e-5

    def test_the_gray_picture_guides(self, nodes, loaded, scene, latent):
        bare = {"samples": latent["samples"]}
        assert difference(decode(nodes, loaded, bare, scene[0]), decode(nodes, loaded, bare, scene[0].flip(2))) > 1e-3

    def test_a_larger_latent_is_guided_at_its_size(self, nodes, loaded, scene, latent):
        grown = {**latent, "samples": torch.nn.functional.interpolate(latent["samples"], scale_factor=2)}
        assert decode(nodes, loaded, grown, scene[0]).shape == scene[0].shape

    def test_the_model_manager_holds_it(self, nodes, loaded, scene, latent):
        before = decode(nodes, loaded, latent, scene[0])
        patcher = loaded[2].patcher
        assert any(entry.model is patcher for entry in comfy.model_management.current_loaded_models)
        comfy.model_management.unload_all_models()
        assert torch.equal(decode(nodes, loaded, latent, scene[0]), before)

    def test_another_models_latent(self, nodes, loaded, scene):
        with pytest.raises(ValueError, match=r"16 channels, expected 4 for small\.safetensors"):
            decode(nodes, loaded, {"samples": torch.zeros(1, 16, 8, 8)}, scene[0])


@pytest.mark.parametrize("text", ["", "red apple", "green apple, blue umbrella"])
def test_embedded_words_hear_their_neighbors(nodes, text):
    """The same prompt is the same numbers as on the command line, where each word hears those beside it."""
    _, clip, _ = nodes("ExemplarLoadLCAD", model_name="embedded")
    read = read_lcad(lcad_path())
    words = HashedWords.from_state_dict(read.text, tokens=read.config["text"]["tokens"])
    found = clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]
    assert torch.equal(found, words.encode([text]))
    alone = words.emb.weight[clip.tokenize(text)["words"][0][0][0]]
    assert torch.equal(found[0, 0], alone) == (text == "")
