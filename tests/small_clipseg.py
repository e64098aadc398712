"""A tiny CLIPSeg folder with random weights and a tokenizer that knows single letters."""

import json

import torch


def save(folder, side=48):
    """Write config, weights, tokenizer and preprocessing; about 130 kB."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    folder.mkdir(parents=True, exist_ok=True)
    letters = [
        chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 324))
    ]  # CLIP's stand-ins for bytes
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    begin, end = len(words) - 2, len(words) - 1
    torch.manual_seed(0)
    network = CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config={
                "vocab_size": len(words),
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "max_position_embeddings": 24,
                "projection_dim": 16,
                "bos_token_id": begin,
                "eos_token_id": end,
                "pad_token_id": end,
            },
            vision_config={
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 3,
                "num_attention_heads": 2,
                "image_size": 32,
                "patch_size": 8,
                "projection_dim": 16,
            },
            projection_dim=16,
            extract_layers=[0, 1, 2],
            reduce_dim=8,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=16,
            conditional_layer=0,
        )
    )
    for parameter in network.parameters():  # transformers' own scale leaves all scores alike
        torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(folder)
    files = {
        "vocab.json": {word: i for i, word in enumerate(words)},
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": 24,
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
        },
        "preprocessor_config.json": {
            "size": {"height": side, "width": side},
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    return folder
