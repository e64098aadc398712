"""The JSON files of a CLIPSeg folder, wrong in every way: it loads right, or one clear error names file and place."""

import json

import pytest
import torch

from comfyui_exemplar.networks.clipseg.load import load_referring

from .clipseg_folders import (
    INFINITE,
    NAN,
    ODD,
    changed,
    copied,
    folder,
    offline,
    outcome,
    plain,
    scores,
    transformers_scores,
    written,
)

__all__ = ("copied", "folder", "offline", "plain")

#: What may be left out: its default is transformers' own, and with these sizes the weights are not of it.
CONFIG_FIELDS = (
    *(
        ("text_config", name)
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
            "hidden_act",
            "layer_norm_eps",
        )
    ),
    *(
        ("vision_config", name)
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_channels",
            "image_size",
            "patch_size",
            "hidden_act",
            "layer_norm_eps",
        )
    ),
    ("projection_dim",),
    ("reduce_dim",),
    ("decoder_num_attention_heads",),
    ("decoder_intermediate_size",),
    ("conditional_layer",),
    ("use_complex_transposed_convolution",),
    ("extract_layers",),
    ("text_config",),
    ("vision_config",),
    ("model_type",),
)
PREPROCESSING_FIELDS = ("size", "image_mean", "image_std", "rescale_factor", "do_resize", "do_rescale", "do_normalize")


@pytest.mark.parametrize("odd", ODD)
def test_config(copied, plain, odd):
    path = copied / "config.json"
    good = json.loads(path.read_text("utf-8"))
    for keys in CONFIG_FIELDS:
        written(path, changed(good, keys, ODD[odd]))
        loaded = outcome(copied, keys[-1], "shapes differ", "missing [", "expected a CLIPSeg folder")
        if loaded is None:
            continue
        if odd == "missing":
            wanted = transformers_scores(copied)  # the default of the format
        else:
            assert ODD[odd] in (0, None, good.get(keys[0])), (keys, odd)  # conditional_layer is 0, and it is off
            wanted = plain
        torch.testing.assert_close(scores(loaded), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("odd", ODD)
def test_preprocessing(copied, plain, odd):
    path = copied / "preprocessor_config.json"
    good = json.loads(path.read_text("utf-8"))
    for key in PREPROCESSING_FIELDS:
        written(path, changed(good, (key,), ODD[odd]))
        loaded = outcome(copied, key, "side")
        if loaded is not None:
            assert odd == "missing" or (odd == "on" and key.startswith("do_")), (key, odd)
            if key != "size":  # without one, the published side
                torch.testing.assert_close(scores(loaded), plain)
            assert loaded.side == (352 if key == "size" else 48)


@pytest.mark.parametrize(
    "key, value",
    [
        ("image_std", [0.2, 0.0, 0.2]),
        ("image_std", [0.2, NAN, 0.2]),
        ("image_std", [58.4, 57.1, 57.4]),
        ("image_mean", [0.5, 0.5]),
        ("image_mean", [0.5, INFINITE, 0.5]),
        ("image_mean", [0.5, "0.5", 0.5]),
        ("image_mean", [123.7, 116.3, 103.5]),
        ("size", 50),
        ("size", {"height": 48, "width": 56}),
        ("size", {"height": "48", "width": 48}),
        ("size", {}),
        ("size", {"longest_edge": 48}),
        ("size", 8192),
        ("rescale_factor", 1.0),
    ],
)
def test_preprocessing_by_hand(copied, key, value):
    path = copied / "preprocessor_config.json"
    written(path, {**json.loads(path.read_text("utf-8")), key: value})
    assert outcome(copied, key, "side") is None


def test_preprocessing_as_transformers_5_saves_a_whole_processor(copied, plain):
    """It stands in processor_config.json then; the published side, 352, would be another network's."""
    beside, whole = copied / "preprocessor_config.json", copied / "processor_config.json"
    good = json.loads(beside.read_text("utf-8"))
    beside.unlink()
    written(whole, {"image_processor": good, "processor_class": "CLIPSegProcessor"})
    loaded = outcome(copied)
    assert loaded.side == 48
    torch.testing.assert_close(scores(loaded), plain)
    written(whole, {"image_processor": {**good, "image_std": [0.2, 0.0, 0.2]}})
    assert outcome(copied, "processor_config.json: image_std") is None
    written(whole, {"image_processor": [1]})
    assert outcome(copied, "processor_config.json: image_processor") is None


@pytest.mark.parametrize(
    "size",
    [48, 48.0, {"height": 48, "width": 48}, {"shortest_edge": 48}, {"height": 48, "width": 48, "shortest_edge": None}],
)
def test_ways_to_say_a_size(copied, plain, size):
    path = copied / "preprocessor_config.json"
    written(path, {**json.loads(path.read_text("utf-8")), "size": size})
    torch.testing.assert_close(scores(outcome(copied)), plain)


@pytest.mark.parametrize(
    "keys, value",
    [
        (("extract_layers",), [0, 1, 3]),
        (("extract_layers",), [0, 1, -1]),
        (("extract_layers",), [0, 1, "2"]),
        (("extract_layers",), []),
        (("extract_layers",), [0, 1]),  # weights of three
        (("conditional_layer",), 3),  # the words would be without effect
        (("decoder_num_attention_heads",), 3),
        (("text_config", "num_attention_heads"), 3),
        (("vision_config", "num_attention_heads"), 5),
        (("text_config", "vocab_size"), 513),
        (("text_config", "hidden_act"), "no_such"),
        (("vision_config", "patch_size"), 16),
        (("use_complex_transposed_convolution",), True),
        (("text_config_dict",), [1]),
        (("text_config_dict",), {"hidden_size": 32}),
    ],
)
def test_sizes_that_do_not_go_together(copied, keys, value):
    path = copied / "config.json"
    written(path, changed(json.loads(path.read_text("utf-8")), keys, value))
    assert outcome(copied, keys[-1], "shapes differ", "missing [") is None


#: What a configuration may say beside sizes: names of other files, classes, repositories, kernels, adapters.
BESIDE = {
    "attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation": "kernels-community/flash-attn",
    "_attn_implementation_internal": "flash_attention_2",
    "attn_implementation_internal": "flex_attention",
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "auto_map": {"AutoModel": "someone/else--modeling.Model", "AutoConfig": "modeling.Config"},
    "_name_or_path": "someone/else",
    "torch_dtype": "float16",
    "dtype": "no_such",
    "trust_remote_code": True,
    "tokenizer_class": "LlamaTokenizer",
    "architectures": ["GPT2LMHeadModel"],
    "adapter": "someone/else",
    "eos_token_id": 7,
    "id2label": {"x": "y"},
    "decoder_hidden_act": "no_such",
    "output_attentions": "yes",
}


def test_all_else_is_passed_over(copied, plain, offline):
    """Also the files that transformers would look for in such a folder, and follow."""
    path = copied / "config.json"
    config = json.loads(path.read_text("utf-8"))
    for part in (config, config["text_config"], config["vision_config"]):
        part.update(BESIDE)
    written(path, config)
    away = {"tokenizer_file": "../tokenizer.json", "vocab_file": "/x/vocab.json", "tokenizer_class": "LlamaTokenizer"}
    written(copied / "tokenizer_config.json", {**BESIDE, **away, "added_tokens_decoder": {"0": {"content": "red"}}})
    written(copied / "special_tokens_map.json", {"eos_token": "a"})
    written(copied / "added_tokens.json", {"red": 3})
    written(copied / "adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "someone/else"})
    written(copied / "generation_config.json", {"trust_remote_code": True})
    written(copied / "processor_config.json", {"auto_map": {"AutoProcessor": "someone/else--p.P"}})
    preprocessing = json.loads((copied / "preprocessor_config.json").read_text("utf-8"))
    written(copied / "preprocessor_config.json", {**preprocessing, **BESIDE, "image_processor_type": "NoSuch"})
    (copied / "modeling.py").write_text("raise SystemExit(3)")
    loaded = load_referring(copied)
    assert torch.equal(scores(loaded), plain)
    kept = loaded.network.config
    assert getattr(kept, "quantization_config", None) is None and kept._attn_implementation in ("sdpa", "eager")
    assert kept.text_config._attn_implementation in ("sdpa", "eager")
    assert type(loaded.tokenizer).__name__.startswith("CLIPTokenizer")
    assert {parameter.dtype for parameter in loaded.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "vocab.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "content", ["", "{", "null", "[]", "3", '"x"', "[" * 100_000, '{"a":' * 100_000, b"\xff\xfe{}"]
)
def test_json_that_is_none(copied, name, content):
    (copied / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert outcome(copied, name) is None
