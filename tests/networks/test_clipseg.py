"""CLIPSeg from a folder: what it computes, and what it says about a bad folder."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_exemplar.networks.clipseg.load import load_referring
from comfyui_exemplar.networks.clipseg.model import working_bytes

from ..fixtures.clipseg import save

PHRASES = ["red cup", "a hat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("clipseg") / "tiny")


@pytest.fixture(scope="module")
def loaded(folder):
    return load_referring(folder)


def pictures(count=1, height=60, width=40):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(3))


class TestScores:
    def test_equal_to_the_network_given_texts(self, folder, loaded):
        """A picture of the network's own side needs no resize; texts go in as tokens."""
        from transformers import CLIPTokenizer

        image = pictures(1, 48, 48)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = ((image - mean) / std).movedim(-1, 1)
        tokens = CLIPTokenizer.from_pretrained(folder)(PHRASES, padding=True, return_tensors="pt")
        with torch.no_grad():
            wanted = loaded.network(pixel_values=pixels.repeat(2, 1, 1, 1), **tokens).logits
        torch.testing.assert_close(loaded.scores(image, PHRASES)[0], wanted, atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("height, width", [(48, 48), (33, 90), (200, 17)])
    def test_any_size_and_batch(self, loaded, height, width):
        images = pictures(3, height, width)
        found = loaded.scores(images, PHRASES)
        assert found.shape == (3, 2, 48, 48)
        for i in range(3):
            alone = loaded.scores(images[i : i + 1], PHRASES[1:])
            torch.testing.assert_close(found[i, 1], alone[0, 0], atol=1e-4, rtol=1e-4)

    def test_phrases_and_pictures_matter(self, loaded):
        found = loaded.scores(pictures(2), PHRASES)
        assert (found[:, 0] - found[:, 1]).abs().max() > 1e-3
        assert (found[0] - found[1]).abs().max() > 1e-3

    def test_long_texts_are_cut(self, loaded):
        assert torch.isfinite(loaded.scores(pictures(), ["very " * 40])).all()

    def test_memory_grows_with_phrases(self, loaded):
        assert working_bytes(loaded.network, 48, 3) == 3 * working_bytes(loaded.network, 48, 1) > 0


class TestBadFolders:
    @pytest.fixture
    def copy(self, folder, tmp_path):
        return shutil.copytree(folder, tmp_path / "copy")

    def test_no_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"holds no config\.json, expected a CLIPSeg folder"):
            load_referring(tmp_path / "nowhere")

    def test_another_model(self, copy):
        (copy / "config.json").write_text(json.dumps({"model_type": "clip"}))
        with pytest.raises(ValueError, match="a model of the type clip, expected a CLIPSeg folder"):
            load_referring(copy)

    def test_no_weights(self, copy):
        (copy / "model.safetensors").unlink()
        with pytest.raises(ValueError, match=r"has no weights \(found .*'config\.json'"):
            load_referring(copy)

    def test_no_tokenizer(self, copy):
        (copy / "vocab.json").unlink()
        with pytest.raises(ValueError, match=r"lacks vocab\.json or merges\.txt"):
            load_referring(copy)

    def test_damaged_tokenizer(self, copy):
        (copy / "vocab.json").write_text("{", encoding="utf-8")
        with pytest.raises(ValueError, match=r"vocab\.json is not JSON"):
            load_referring(copy)

    def test_cut_off_weights(self, copy):
        whole = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="could not be read as plain weights"):
            load_referring(copy)

    def test_missing_and_unexpected_keys_are_named(self, copy):
        tensors = load_file(copy / "model.safetensors")
        tensors["decoder.film_other.weight"] = tensors.pop("decoder.film_mul.weight")
        save_file(tensors, copy / "model.safetensors", {"format": "pt"})
        named = r"missing \[decoder\.film_mul\.weight\], unexpected \[decoder\.film_other\.weight\]"
        with pytest.raises(ValueError, match=named):
            load_referring(copy)

    def test_a_side_of_no_whole_patches(self, copy):
        (copy / "preprocessor_config.json").write_text(json.dumps({"size": 50}))
        with pytest.raises(ValueError, match="side 50 are no whole number of patches of 8"):
            load_referring(copy)

    def test_pickled_code_is_refused(self, copy, tmp_path):
        import pickle

        class Evil:
            def __reduce__(self):
                return (open, (str(tmp_path / "was-here"), "w"))

        (copy / "model.safetensors").unlink()
        (copy / "pytorch_model.bin").write_bytes(pickle.dumps({"clip.logit_scale": Evil()}))
        with pytest.raises(ValueError, match="could not be read as plain weights"):
            load_referring(copy)
        assert not (tmp_path / "was-here").exists()
