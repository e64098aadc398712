"""Words and weights of a CLIPSeg folder, wrong in every way: it loads right, or one clear error names file and
place."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_exemplar.networks.clipseg.load import load_referring

from .clipseg_folders import GONE, INFINITE, NAN, ODD, changed, copied, folder, nested, outcome, plain, scores, written

__all__ = ("copied", "folder", "plain")


def merged(folder, whole):
    """A vocabulary with three longer words, as two files or as one."""
    vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
    begin, end = vocabulary.pop("<|startoftext|>"), vocabulary.pop("<|endoftext|>")
    del begin, end
    pairs = [("r", "e"), ("re", "d</w>"), ("u", "p</w>")]
    words = [*vocabulary, *(a + b for a, b in pairs), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: at for at, word in enumerate(words)}
    config = json.loads((folder / "config.json").read_text("utf-8"))
    written(folder / "config.json", changed(config, ("text_config", "vocab_size"), len(words)))
    tensors = load_file(folder / "model.safetensors")
    table = "clip.text_model.embeddings.token_embedding.weight"
    tensors[table] = torch.cat([tensors[table], tensors[table][:3] + 0.1])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if not whole:
        written(folder / "vocab.json", vocabulary)
        (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs), "utf-8")
        return folder
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    model = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": vocabulary, "merges": [list(pair) for pair in pairs]}
    written(folder / "tokenizer.json", {"added_tokens": [], "model": model})
    return folder


class TestWords:
    @pytest.mark.parametrize("whole", [False, True])
    def test_longer_words(self, copied, whole):
        loaded = load_referring(merged(copied, whole))
        ids = loaded.tokenizer("red Cup")["input_ids"]
        words = [word.replace("</w>", "_") for word in loaded.tokenizer.convert_ids_to_tokens(ids)]
        assert words == ["<|startoftext|>", "red_", "c", "up_", "<|endoftext|>"]

    @pytest.mark.parametrize(
        "merges, named",
        [
            ("#version: 0.2\nr e\nre d</w>\n", "never makes 1 of the 3 longer words"),
            ("", "never makes 3 of the 3"),
            ("#version: 0.2\nr e x\n", "line 2"),
            ("#version: 0.2\nr\n", "line 2"),
            ("#version: 0.2\nq q\n", "has no 'qq'"),
            (b"#version: 0.2\nr e\n\xff\xfe\n", "is no text"),
        ],
    )
    def test_merges(self, copied, merges, named):
        path = merged(copied, False) / "merges.txt"
        path.write_bytes(merges if isinstance(merges, bytes) else merges.encode())
        assert outcome(copied, named) is None

    @pytest.mark.parametrize("odd", ["null", "text", "negative", "huge", "endless", "half", "NaN", "on", "list"])
    def test_ids(self, copied, odd):
        path = copied / "vocab.json"
        written(path, {**json.loads(path.read_text("utf-8")), "a": ODD[odd]})
        assert outcome(copied, "the id of 'a'", "vocab.json") is None

    @pytest.mark.parametrize(
        "change",
        [
            lambda words: {**words, "a": words["b"]},
            lambda words: {word: at for word, at in words.items() if word != "a"},
            lambda words: {word: at for word, at in words.items() if word != "a</w>"},
            lambda words: {word: at for word, at in words.items() if word != "<|endoftext|>"},
            lambda words: {word: at for word, at in words.items() if word != "<|startoftext|>"},
            lambda words: {**words, "a": 514},
            lambda words: {**words, "another": 514},
            lambda words: dict(list(words.items())[:20]),
            lambda words: {},
            lambda words: list(words),
            lambda words: nested(40),
        ],
    )
    def test_vocabularies(self, copied, change):
        path = copied / "vocab.json"
        written(path, change(json.loads(path.read_text("utf-8"))))
        assert outcome(copied, "vocab.json", "vocab_size", "merges.txt") is None

    @pytest.mark.parametrize(
        "keys, value",
        [
            (("model",), GONE),
            (("model",), "BPE"),
            (("model", "vocab"), GONE),
            (("model", "vocab"), []),
            (("model", "merges"), GONE),
            (("model", "merges"), "r e"),
            (("model", "merges"), [["r", "e"], 3]),
            (("model", "merges"), [["r"]]),
            (("model", "merges"), ["r e", "re d</w>"]),
            (("model", "end_of_word_suffix"), ""),
            (("added_tokens",), 3),
            (("added_tokens",), [{"id": 3}]),
            (("added_tokens",), [{"content": "new"}]),
            (("added_tokens",), [{"content": "new", "id": "x"}]),
        ],
    )
    def test_one_file(self, copied, keys, value):
        path = merged(copied, True) / "tokenizer.json"
        written(path, changed(json.loads(path.read_text("utf-8")), keys, value))
        assert outcome(copied, "tokenizer.json", "never makes") is None

    def test_rules_of_the_file_are_not_followed(self, copied):
        """Its expressions could take forever, and its classes are not CLIP's."""
        path = merged(copied, True) / "tokenizer.json"
        content = json.loads(path.read_text("utf-8"))
        content["normalizer"] = {"type": "Replace", "pattern": {"Regex": "."}, "content": "x"}
        content["post_processor"] = {"type": "NoSuch"}
        written(path, content)
        words = load_referring(copied).tokenizer
        assert words.convert_ids_to_tokens(words("red")["input_ids"])[1] == "red</w>"


class TestWeights:
    KEY = "decoder.film_mul.weight"

    def change(self, folder, change, key=KEY):
        tensors = load_file(folder / "model.safetensors")
        new = change(tensors[key])
        tensors = {name: tensor for name, tensor in tensors.items() if name != key}
        if new is not None:
            tensors[key] = new.contiguous()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    @pytest.mark.parametrize(
        "change",
        [
            lambda w: None,
            lambda w: w[:-1],
            lambda w: w[None],
            lambda w: w.T,
            lambda w: w.reshape(-1),
            lambda w: w[:0],
            lambda w: w * NAN,
            lambda w: torch.full_like(w, INFINITE),
            lambda w: w.to(torch.int8),
            lambda w: w > 0,
            lambda w: w.to(torch.complex64),
        ],
    )
    def test_one_is_wrong(self, copied, change):
        self.change(copied, change)
        assert outcome(copied, self.KEY, "int8") is None

    def test_one_more(self, copied):
        tensors = load_file(copied / "model.safetensors")
        save_file({**tensors, "decoder.more": torch.ones(3)}, copied / "model.safetensors")
        assert outcome(copied, "unexpected [decoder.more]") is None

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_floats(self, copied, plain, dtype):
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(copied / "model.safetensors").items()}
        save_file(tensors, copied / "model.safetensors")
        close = 1e-5 if dtype == torch.float64 else 0.2
        torch.testing.assert_close(scores(outcome(copied)), plain, atol=close, rtol=close)

    def test_positions_of_older_files(self, copied, plain):
        """The published file has these whole numbers."""
        tensors = load_file(copied / "model.safetensors")
        for part, count in (("text", 24), ("vision", 17)):
            tensors[f"clip.{part}_model.embeddings.position_ids"] = torch.arange(count)[None]
        save_file(tensors, copied / "model.safetensors", {"format": "pt"})
        assert torch.equal(scores(outcome(copied)), plain)

    def test_pickled_and_in_shards(self, copied, plain):
        tensors = load_file(copied / "model.safetensors")
        (copied / "model.safetensors").unlink()
        torch.save(tensors, copied / "pytorch_model.bin")
        assert torch.equal(scores(outcome(copied)), plain)
        (copied / "pytorch_model.bin").unlink()
        names = sorted(tensors)
        shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for shard, held in shards.items():
            save_file({name: tensors[name] for name in held}, copied / shard)
        index = {name: shard for shard, held in shards.items() for name in held}
        written(copied / "model.safetensors.index.json", {"weight_map": index})
        assert torch.equal(scores(outcome(copied)), plain)

    @pytest.mark.parametrize("shard", ["../outside.safetensors", "/outside.safetensors", "..", "", 3, None, ["x"], {}])
    def test_an_index_names_no_other_place(self, copied, shard):
        """The file outside is a whole one, so reading it would load."""
        outside = copied.parent / "outside.safetensors"
        (copied / "model.safetensors").rename(outside)
        index = {name: shard for name in load_file(outside)}
        written(copied / "model.safetensors.index.json", {"weight_map": index})
        assert outcome(copied, "index.json", "has no weights") is None

    @pytest.mark.parametrize("size", [0, 7, 100, 5000, 60_000])
    def test_cut_off(self, copied, size):
        path = copied / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])
        assert outcome(copied, "model.safetensors") is None
