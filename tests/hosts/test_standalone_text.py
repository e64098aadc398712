"""Text encoders for learned vectors, of the families that the command line translates with."""

import pytest
import torch
from safetensors.torch import save_file

from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.vct import DiffusersTranslator
from comfyui_exemplar.hosts.diffusers.vct_text import load_concept_text, read_vectors, save_vectors
from comfyui_exemplar.pipelines.vct import TranslateSettings, learn, translate

BEGIN, END = 48, 49


@pytest.fixture(scope="module")
def path(tiny, tmp_path_factory):
    """A tiny SDXL checkpoint, with the text encoders that are in it."""
    _, _, text, keys = tiny.sources("sdxl")
    path = tmp_path_factory.mktemp("xl") / "xl.safetensors"
    save_file(keys, path)
    return path, text


@torch.no_grad()
def test_vectors_of_known_tokens_are_those_tokens(path):
    file, (small, large) = path
    text = load_concept_text(file)
    rows = [part.get_input_embeddings().weight[[5, 6]] for part in (small, large)]
    context, pooled = text(rows)
    ids = torch.full((2, text.columns), END)
    ids[1] = 0
    ids[:, :4] = torch.tensor([BEGIN, 5, 6, END])
    left = small(ids[:1], output_hidden_states=True).hidden_states[-2]
    right = large(ids[1:], output_hidden_states=True)
    torch.testing.assert_close(context, torch.cat([left, right.hidden_states[-2]], -1))
    torch.testing.assert_close(pooled, large.text_projection(right.last_hidden_state[:, 3]))
    assert text.names == ("l", "g") and text.widths == tuple(r.shape[1] for r in rows) and text.first == 1


@pytest.mark.slow
def test_both_encoders_learn_and_the_file_holds_both(path, tmp_path):
    file, _ = path
    text, model = load_concept_text(file), load_standalone(file)
    # the one word that is known without a tokenizer is not in a vocabulary of fifty
    text.rows = lambda _: tuple(part.encoder.get_input_embeddings().weight[[5]] for part in text.parts)
    host = DiffusersTranslator(model, text=text)
    few = TranslateSettings.resolve(
        {}, steps=2, resolution=16, updates=2, vectors=2, learning_rate=0.1, pivot_iterations=1, word="picture"
    )
    pictures = torch.rand(1, 16, 24, 3, generator=torch.Generator().manual_seed(1))
    concept = learn(host, pictures, few)
    for learned, rows in zip(concept.learned, text.rows(""), strict=True):
        assert float((learned - rows.repeat(2, 1)).abs().max()) > 1e-3
    save_vectors(tmp_path / "mine.safetensors", text, concept.learned)
    again = read_vectors(tmp_path / "mine.safetensors", text)
    assert all(torch.equal(a, b) for a, b in zip(again, concept.learned, strict=True))
    result = translate(host, pictures, concept, few)
    assert result.images.shape == pictures.shape and bool(torch.isfinite(result.images).all())
    # the pooled prompt counts, and only the target's rows have the concept's
    plain = type(concept)(**{**vars(concept), "pooled": None})
    assert not torch.equal(translate(host, pictures, plain, few).images, result.images)


def test_a_file_of_another_kind_is_named(tmp_path):
    save_file({"lora_unet_down_blocks_0.lora_down.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"holds a LoRA \(1 tensors\). Translation on the command line needs"):
        load_concept_text(tmp_path / "lora.safetensors")


def test_vectors_for_another_encoder(path, tmp_path):
    text = load_concept_text(path[0])
    save_file({"emb_params": torch.zeros(2, 7)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"emb_params \(2, 7\).*tensor"):
        read_vectors(tmp_path / "other.safetensors", text)
