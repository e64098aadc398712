"""CLIP's sizes from a configuration, and its tokenizer from words alone."""

import json

import pytest

from comfyui_exemplar.networks.clip.sizes import TEXT_DEFAULTS, text_configuration
from comfyui_exemplar.networks.clip.words import make_tokenizer, read_words

from ..fixtures.clipseg import save

SIZES = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3, "vocab_size": 50, "hidden_act": "gelu"}


@pytest.fixture
def config(tmp_path):
    def write(**content):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip_text_model", **SIZES, **content}))
        return tmp_path / "config.json"

    return write


def test_sizes(config):
    from transformers import CLIPTextConfig

    found = text_configuration(config(projection_dim=32))
    assert {name: getattr(found, name) for name in SIZES} == SIZES and found.projection_dim == 32
    plain = CLIPTextConfig()
    assert {name: getattr(plain, name) for name in TEXT_DEFAULTS} == TEXT_DEFAULTS, (
        "what is missing is transformers' own"
    )


def test_what_else_a_configuration_says(config):
    """Kernels of the hub, quantization and classes are passed over; so are marks, which are the tokenizer's."""
    away = {
        "attn_implementation": "kernels-community/flash-attn",
        "_attn_implementation": "kernels-community/flash-attn",
        "quantization_config": {"quant_method": "bitsandbytes"},
        "auto_map": {"AutoConfig": "someone/else--c.C"},
        "_name_or_path": "someone/else",
        "torch_dtype": "no_such",
        "output_attentions": True,
    }
    found, plain = text_configuration(config(**away)), text_configuration(config())
    assert found.to_dict() == plain.to_dict() and getattr(found, "quantization_config", None) is None
    assert found._attn_implementation == plain._attn_implementation


@pytest.mark.parametrize(
    "name, value",
    [
        ("hidden_size", "64"),
        ("hidden_size", 10**9),
        ("num_attention_heads", 3),
        ("num_attention_heads", None),
        ("num_hidden_layers", 2.5),
        ("layer_norm_eps", float("nan")),
        ("hidden_act", "no_such"),
        ("max_position_embeddings", 0),
    ],
)
def test_wrong_sizes(config, name, value):
    with pytest.raises(
        ValueError, match=rf"config\.json.*{name} (is|has).*; expected|it must.*Download the folder again"
    ):
        text_configuration(config(**{name: value}))


@pytest.mark.parametrize("text", ["a red car", "", "Çé 漢字 12,5!", "it's   they're\n"])
def test_the_tokenizer_is_transformers_own(tmp_path, text):
    from transformers import AutoTokenizer

    folder = save(tmp_path / "clipseg")
    own = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert make_tokenizer(read_words(folder))(text)["input_ids"] == own(text)["input_ids"]
