"""Concept Inversion on ComfyUI's models, and the files that it writes."""

import re

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_exemplar.files import writers
from comfyui_exemplar.files.embeddings import read_concept
from comfyui_exemplar.hosts.comfy.embedded import load_demo
from comfyui_exemplar.nodes.vct_concept import ConceptInversion

from .models import FlatVAE, text_encoder, tiny


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """models/embeddings of its own."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(tmp_path)], {".safetensors"}))
    return tmp_path


@pytest.fixture
def embedded(folder):
    return load_demo()


def learn(nodes, parts, reference, **settings):
    model, clip, vae = parts
    return nodes(
        "ExemplarConceptInversion",
        model=model,
        clip=clip,
        vae=vae,
        reference=reference,
        **{
            "name": "thing",
            "word": "flower",
            "vectors": 2,
            "updates": 4,
            "resolution": 32,
            "accumulation": 2,
            "sample_every": 0,
            **settings,
        },
    )


def encode(clip, text):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def same(a, b):
    (first, extras), (second, others) = a[0], b[0]
    pooled = [d.get("pooled_output") for d in (extras, others)]
    return torch.equal(first, second) and (pooled[0] is None or torch.equal(*pooled))


class Interrupted:
    """Cancels the next time it is asked once the progress bar has shown ``shown``; -1: the first time."""

    def __init__(self, monkeypatch, shown):
        self.shown, self.value = shown, -1
        monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", self)
        monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", self.update)

    def update(self, value, *_):
        self.value = value

    def __call__(self):
        if self.value >= self.shown:
            raise comfy.model_management.InterruptProcessingException


def test_embedded_model(nodes, embedded, folder, scene):
    """A file that the model's own CLIP knows by name, in a prompt with other words and weights too."""
    clip = embedded[1]
    conditioning, text, chart, samples = learn(nodes, embedded, scene[1])
    (path,) = folder.iterdir()
    ((key, vectors),) = load_file(path).items()
    assert path.name == "thing.safetensors" and key == "emb_params" and vectors.shape == (2, 128)
    assert text == "embedding:thing" and same(conditioning, encode(clip, text))
    assert samples.shape == (1, 32, 32, 3) and chart.std() > 0
    words = clip.cond_stage_model.words.emb.weight
    context = encode(clip, "red (embedding:thing:0.5), flower")[0][0][0]
    start = encode(clip, "red flower")[0][0][0]
    assert torch.equal(context[0], start[0]) and torch.equal(context[3], start[1])
    torch.testing.assert_close(context[1:3], torch.lerp(words[0].expand(2, -1), vectors, 0.5))


def test_unknown_and_unfit_embeddings_are_left_out(embedded, folder, caplog):
    clip = embedded[1]
    save_file({"emb_params": torch.ones(2, 768)}, folder / "wide.safetensors")
    plain = encode(clip, "red flower")
    assert same(encode(clip, "red embedding:missing flower"), plain)
    assert same(encode(clip, "red embedding:wide flower"), plain)
    assert "there is no such file" in caplog.text and "emb_params (2, 768)" in caplog.text


@pytest.mark.parametrize(
    "family, keys", [("sd1", {"emb_params"}), ("sd2", {"emb_params"}), ("sdxl-small", {"clip_g", "clip_l"})]
)
def test_stable_diffusion(nodes, folder, scene, family, keys):
    """Through a real text encoder, its attention included; the stock prompt finds the file."""
    clip = text_encoder(family, [str(folder)])
    parts = (tiny(family), clip, FlatVAE())
    conditioning, text, *_ = learn(nodes, parts, scene[1], updates=2, resolution=64)
    saved = load_file(folder / "thing.safetensors")
    assert set(saved) == keys
    assert same(conditioning, encode(clip, text))
    start = learn(nodes, parts, scene[1], updates=1, resolution=64, name="start", learning_rate=1e-6)[0]
    assert not same(conditioning, start)
    assert all(p.grad is None for p in clip.cond_stage_model.parameters())


def test_sd1_gradients_pass_through_the_text_encoder(folder):
    """Against finite differences of the CLIP itself."""
    from comfyui_exemplar.hosts.comfy.borrowed import gradients
    from comfyui_exemplar.hosts.comfy.gradients import DifferentiableText, clone_for_autograd

    clip = text_encoder("sd1", [str(folder)])
    with gradients():
        text = DifferentiableText(clip, "flower")
        vectors = clone_for_autograd(text.word_rows()[0]).repeat(2, 1).requires_grad_(True)
        weights = torch.randn(text([vectors])[0].shape, generator=torch.Generator().manual_seed(0))
        ((text([vectors])[0] * weights).sum()).backward()
        moved = torch.zeros_like(vectors)
        moved[1, 5] = 1e-2
        with torch.no_grad():
            ends = [(clip.encode_from_tokens(text.tokens([vectors + s * moved])) * weights).sum() for s in (1, -1)]
        assert float(vectors.grad[1, 5]) == pytest.approx(float(ends[0] - ends[1]) / 2e-2, rel=1e-2)


def test_each_distinct_picture_is_encoded_once(nodes, embedded, scene, folder):
    model, clip, vae = embedded
    seen = []

    class Counting:
        spacial_compression_encode, decode = vae.spacial_compression_encode, vae.decode

        @staticmethod
        def encode(image):
            seen.append(len(image))
            return vae.encode(image)

    batch = scene[1].repeat(3, 1, 1, 1)
    learn(nodes, (model, clip, Counting), batch, updates=3, mirror=False)
    assert sum(seen) == 1
    learn(nodes, (model, clip, Counting), batch, updates=3, mirror=True, name="two")
    assert sum(seen) == 3


def test_samples_on_the_way(nodes, embedded, scene):
    *_, samples = learn(nodes, embedded, scene[1], updates=3, sample_every=1)
    assert len(samples) == 3 and not torch.equal(samples[0], samples[2])


@pytest.mark.parametrize("shown, kept", [(-1, ()), (1, (1, 2)), (3, (3,))])
def test_cancel_keeps_what_was_learned(nodes, embedded, folder, scene, monkeypatch, shown, kept):
    """Before the first update, in the middle, in the last sample; taken up again the file is as if never stopped."""
    model = embedded[0]
    with monkeypatch.context() as patch:
        Interrupted(patch, shown)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            learn(nodes, embedded, scene[1], updates=3)
    assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
    assert not any(p.requires_grad or p.grad is not None for p in model.model.parameters())
    path = folder / "thing.safetensors"
    assert path.exists() == bool(kept)
    if kept:  # the model itself may be the next to ask
        assert read_concept(path).state.updates in kept
    learn(nodes, embedded, scene[1], updates=3)
    learn(nodes, embedded, scene[1], updates=3, name="whole")
    whole = folder / "whole.safetensors"
    assert torch.equal(load_file(path)["emb_params"], load_file(whole)["emb_params"])
    assert read_concept(path).losses == read_concept(whole).losses
    assert sorted(p.name for p in folder.iterdir()) == ["thing.safetensors", "whole.safetensors"]


def test_a_finished_file_is_not_learned_again(nodes, embedded, folder, scene):
    first = learn(nodes, embedded, scene[1])[0]
    written = (folder / "thing.safetensors").read_bytes()
    assert same(first, learn(nodes, embedded, scene[1])[0])
    assert (folder / "thing.safetensors").read_bytes() == written


def test_another_concept_is_not_overwritten(nodes, embedded, folder, scene):
    learn(nodes, embedded, scene[1], updates=1)
    with pytest.raises(ValueError, match=r"holds something else \(pictures\). Choose another name"):
        learn(nodes, embedded, scene[0], updates=1)
    with pytest.raises(ValueError, match=r"holds something else \(word, learning_rate\)"):
        learn(nodes, embedded, scene[1], updates=1, word="tree", learning_rate=1e-3)
    learn(nodes, embedded, scene[0], updates=1, when_the_file_exists="start over")


@pytest.mark.parametrize("mode", ["continue", "start over"])
@pytest.mark.parametrize(
    "file",
    ["bought.safetensors", "bought.pt", "bought.bin", "bought", "more/bought.pt", "more/bought.safetensors", "../b.pt"],
)
def test_what_another_program_made_is_not_replaced(nodes, embedded, folder, scene, file, mode, tmp_path_factory):
    """Nor hidden: ComfyUI looks for these under the same name, in all folders and those within."""
    if file.startswith(".."):
        other = tmp_path_factory.mktemp("other")
        folder_paths.folder_names_and_paths["embeddings"][0].append(str(other))
        path = other / "bought.pt"
    else:
        path = folder / file
        path.parent.mkdir(exist_ok=True)
    save_file({"emb_params": torch.ones(2, 128)}, path)
    before = path.read_bytes()
    said = r"is there already|would find"
    verdict = ConceptInversion.validate_inputs(name="bought")
    assert re.search(said, verdict) and path.name in verdict
    assert ConceptInversion.validate_inputs(name="another") is True
    with pytest.raises(ValueError, match=said):
        learn(nodes, embedded, scene[1], name="bought", when_the_file_exists=mode)
    assert path.read_bytes() == before and not list(folder.glob(".*"))


def test_one_folder_that_is_named_twice(nodes, embedded, folder, scene):
    """As where a configuration names what is there already."""
    folder_paths.folder_names_and_paths["embeddings"][0].append(str(folder / "." / "more" / ".."))
    (folder / "more").mkdir()
    for _ in range(2):
        learn(nodes, embedded, scene[0], updates=1)


def test_places_are_tried_before_learning(nodes, embedded, folder, scene, monkeypatch):
    (folder / "thing.safetensors").mkdir()
    assert "is a folder" in ConceptInversion.validate_inputs(name="thing")
    with pytest.raises(ValueError, match="is a folder"):
        learn(nodes, embedded, scene[0])
    places = folder_paths.folder_names_and_paths["embeddings"][0]
    places[0] = str(folder / "not" / "there")
    assert ConceptInversion.validate_inputs(name="thing") is True
    (folder / "file").touch()
    places[0] = str(folder / "file")
    assert "is no folder" in ConceptInversion.validate_inputs(name="thing")
    places[0] = str(folder)
    monkeypatch.setattr(
        writers, "new_folder", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    assert "may not be written to" in ConceptInversion.validate_inputs(name="other")
    with pytest.raises(ValueError, match="may not be written to"):
        learn(nodes, embedded, scene[0], name="other")


def test_bad_input(nodes, embedded, folder, scene):
    with pytest.raises(ValueError, match="cannot be the name of an embedding"):
        learn(nodes, embedded, scene[1], name="../evil")
    with pytest.raises(ValueError, match="vectors is 9, expected 1 to 8"):
        learn(nodes, embedded, scene[1], vectors=9)
    with pytest.raises(ValueError, match=r"initial word '\.\.\.' has no tokens"):
        learn(nodes, embedded, scene[1], word="...")
    assert not list(folder.iterdir())
