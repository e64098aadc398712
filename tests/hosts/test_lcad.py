"""L-CAD under diffusers, from a small checkpoint under the published names."""

import json

import pytest
import torch
from safetensors.torch import save_file

from comfyui_exemplar.hosts.diffusers.lcad import REVISION, TOKENIZER, load_lcad
from comfyui_exemplar.networks.lcad.load import read_lcad
from comfyui_exemplar.pipelines.lcad import LCADSettings, describe

from ..fixtures.lcad import VOCABULARY, small_checkpoint
from ..parity.conftest import parity_folder
from ..parity.lcad_set import LCADSet

SETTINGS = LCADSettings(steps=2, resolution=64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("lcad") / "small.safetensors"
    save_file(small_checkpoint(LCADSet(parity_folder("lcad")).weights), path)
    return path


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer that knows letters only, with CLIP's marks at the end."""
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = "abcdefghijklmnopqrstuvwxyz,"
    words = {**{c: i for i, c in enumerate(letters)}, **{c + "</w>": 50 + i for i, c in enumerate(letters)}}
    words |= {"<|startoftext|>": VOCABULARY - 2, "<|endoftext|>": VOCABULARY - 1}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return folder


@pytest.fixture(scope="module")
def host(checkpoint, tokenizer):
    return load_lcad(checkpoint, tokenizer=tokenizer)


def picture():
    return torch.linspace(0.2, 0.8, 72).expand(1, 48, 72)[..., None].repeat(1, 1, 1, 3)


def test_sizes(host):
    assert (host.channels, host.factor, host.multiple) == (4, 8, 32)
    assert host.encode_text("a red car").shape == (1, 77, 48)
    assert not torch.equal(host.encode_text("a red car"), host.encode_text("a blue car"))


def test_describes_a_picture(host):
    image, steps = picture(), []
    host.on_step = steps.append
    plain = describe(host, image, "", SETTINGS)
    assert plain.shape == image.shape and len(steps) == 2
    words = describe(host, image, "a red car", SETTINGS)
    assert float((words - plain).abs().max()) > 1e-3
    assert torch.equal(describe(host, image, "a red car", SETTINGS), words)


def test_without_a_tokenizer(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"CLIP's tokenizer was not found.*give --tokenizer a folder"):
        load_lcad(checkpoint, tokenizer=tmp_path)


class TestTokenizer:
    """Only a name of the hub is fetched, in one state of it; a folder that is not there is no name."""

    @pytest.fixture
    def asked(self, monkeypatch, tokenizer):
        import huggingface_hub

        asked = []

        def snapshot_download(name, **options):
            asked.append((name, options))
            return str(tokenizer)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    @pytest.mark.parametrize("place, local", [(None, True), (TOKENIZER, False)])
    def test_the_published_one(self, checkpoint, asked, place, local):
        load_lcad(checkpoint, tokenizer=place)
        files = ["vocab.json", "merges.txt"]
        wanted = {"revision": REVISION, "allow_patterns": files, "local_files_only": local, "token": False}
        assert asked == [(TOKENIZER, wanted)] and len(REVISION) == 40

    @pytest.mark.parametrize("place", ["someone/else", "gone", "openai/clip-vit-large-patch14/", "https://hub/x"])
    def test_another_name(self, checkpoint, asked, place):
        with pytest.raises(ValueError, match=r"CLIP's tokenizer was not found \(.* is no folder\): give --tokenizer"):
            load_lcad(checkpoint, tokenizer=place)
        assert asked == []

    def test_a_folder_is_not_looked_for_on_the_hub(self, checkpoint, tokenizer, asked):
        load_lcad(checkpoint, tokenizer=str(tokenizer))
        assert asked == []

    def test_damaged_words(self, checkpoint, tokenizer, tmp_path):
        words = json.loads((tokenizer / "vocab.json").read_text("utf-8"))
        (tmp_path / "vocab.json").write_text(json.dumps({**words, "a": -1}))
        (tmp_path / "merges.txt").write_text("")
        with pytest.raises(ValueError, match=r"vocab\.json: the id of 'a' is -1, expected a whole number"):
            load_lcad(checkpoint, tokenizer=tmp_path)


def test_other_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_lcad(tmp_path / "gone.safetensors")
    path = tmp_path / "other.safetensors"
    save_file({"lora_up.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"other\.safetensors: no tensor is named"):
        read_lcad(path)
    from comfyui_exemplar.demo import model_path

    with pytest.raises(ValueError, match="the embedded model of another system"):
        read_lcad(model_path())
