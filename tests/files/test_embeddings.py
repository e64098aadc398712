"""Embedding files of other programs, in all the forms that they have."""

import pytest
import torch
from safetensors.torch import save_file

from comfyui_exemplar.diffusion.concept import ConceptState
from comfyui_exemplar.files.embeddings import ConceptFile, check_name, read_concept, read_vectors, save_concept

WIDTH = 6
VECTORS = torch.arange(2.0 * WIDTH).reshape(2, WIDTH)


def web_ui(**more):
    """What the web UI's own training writes beside the vectors."""
    return {
        "string_to_token": {"*": torch.tensor(265)},
        "name": "style",
        "step": 500,
        "sd_checkpoint": "a1b2",
        "sd_checkpoint_name": "model",
        **more,
    }


def parameters(vectors):
    return torch.nn.ParameterDict({"*": torch.nn.Parameter(vectors)})


PICKLES = {
    "string_to_param": lambda v: web_ui(string_to_param={"*": v}),
    "a ParameterDict": lambda v: web_ui(string_to_param=parameters(v)),
    "parameters that want gradients": lambda v: web_ui(string_to_param={"*": torch.nn.Parameter(v)}),
    "several of string_to_param, of which the first counts": lambda v: web_ui(string_to_param={"*": v, "+": v + 1}),
    "diffusers": lambda v: {"<style>": v},
    "emb_params": lambda v: {"emb_params": v},
    "a tensor alone": lambda v: v,
    "a list": lambda v: [{"<style>": v}],
    "names beside other tensors": lambda v: {"step": torch.tensor(3), "<style>": v},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("form", list(PICKLES))
@pytest.mark.parametrize("suffix", ["pt", "bin"])
def test_pickled(tmp_path, form, suffix, legacy):
    if legacy and form == "a ParameterDict":
        pytest.skip("the format of before 2020 writes a module's source along, which torch's reader refuses")
    path = tmp_path / f"style.{suffix}"
    torch.save(PICKLES[form](VECTORS), path, _use_new_zipfile_serialization=not legacy)
    (read,) = read_vectors(path, ("l",), (WIDTH,))
    assert torch.equal(read, VECTORS) and read.dtype == torch.float32 and not read.requires_grad


@pytest.mark.parametrize("name", ["emb_params", "<style>", "clip_l"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_safetensors(tmp_path, name, dtype):
    save_file({name: VECTORS.to(dtype)}, tmp_path / "style.safetensors")
    (read,) = read_vectors(tmp_path / "style.safetensors", ("l",), (WIDTH,))
    assert torch.equal(read, VECTORS.to(dtype).float()) and read.dtype == torch.float32


@pytest.mark.parametrize("shape", [(WIDTH,), (1, WIDTH), (3, WIDTH), (1, 3, WIDTH)])
def test_vectors_are_rows(tmp_path, shape):
    stored = torch.rand(shape)
    torch.save({"<style>": stored}, tmp_path / "style.bin")
    (read,) = read_vectors(tmp_path / "style.bin", ("l",), (WIDTH,))
    assert torch.equal(read, stored.reshape(-1, WIDTH))


@pytest.mark.parametrize("names", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
def test_both_encoders_of_sdxl(tmp_path, names):
    wide = torch.rand(2, 10)
    save_file(dict(zip(names, (VECTORS, wide), strict=True)), tmp_path / "xl.safetensors")
    torch.save(dict(zip(names, (VECTORS, wide), strict=True)), tmp_path / "xl.pt")
    for file in ("xl.safetensors", "xl.pt"):
        small, large = read_vectors(tmp_path / file, ("l", "g"), (WIDTH, 10))
        assert torch.equal(small, VECTORS) and torch.equal(large, wide)
    # a model with one of the two encoders takes its half
    assert torch.equal(read_vectors(tmp_path / "xl.pt", ("l",), (WIDTH,))[0], VECTORS)


def test_names_count_before_widths(tmp_path):
    save_file({"a": VECTORS + 1, "clip_g": VECTORS, "clip_l": VECTORS + 2}, tmp_path / "xl.safetensors")
    small, large = read_vectors(tmp_path / "xl.safetensors", ("l", "g"), (WIDTH, WIDTH))
    assert torch.equal(large, VECTORS) and torch.equal(small, VECTORS + 2)


def test_which_of_several_is_used_is_said(tmp_path, caplog):
    save_file({"<a>": VECTORS, "<b>": VECTORS + 1}, tmp_path / "two.safetensors")
    assert torch.equal(read_vectors(tmp_path / "two.safetensors", ("l",), (WIDTH,))[0], VECTORS)
    assert "<a>, <b>" in caplog.text and "<a> is used" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"<style>": torch.zeros(2, 7)}, r"has the vectors <style> \(2, 7\).*one tensor 6 wide"),
        (web_ui(string_to_param={}), "has the vectors none"),
        ({"name": "style"}, "has the vectors none"),
        ("text", "has the vectors none"),
        ({"<style>": torch.full((1, WIDTH), float("nan"))}, "NaN"),
    ],
)
def test_what_is_no_embedding_for_this_model(tmp_path, content, said):
    path = tmp_path / "style.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=said) as error:
        read_vectors(path, ("l",), (WIDTH,))
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_one_of_two_encoders_is_missing(tmp_path):
    save_file({"clip_l": VECTORS}, tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match="6 and 10 wide"):
        read_vectors(tmp_path / "half.safetensors", ("l", "g"), (WIDTH, 10))


def test_what_was_read_is_no_part_of_the_file(tmp_path):
    for file, save in (("style.safetensors", save_file), ("style.pt", torch.save)):
        path = tmp_path / file
        save({"emb_params": VECTORS}, path)
        (read,) = read_vectors(path, ("l",), (WIDTH,))
        path.write_bytes(b"")
        assert torch.equal(read, VECTORS)


def test_damaged_concepts_are_one_line(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_concept(path, ConceptFile(("l",), ConceptState.fresh([VECTORS]), {"word": "red"}))
    assert torch.equal(read_concept(path).state.vectors[0], VECTORS)
    assert torch.equal(read_vectors(path, ("l",), (WIDTH,))[0], VECTORS)
    whole = path.read_bytes()
    headers = [
        "{",
        "[]",
        "{}",
        '{"encoders": ["l", "g"]}',
        '{"encoders": ["l"], "first": [], "second": [], "updates": 1, "settings": {}, "losses": []}',
    ]
    for header in headers:
        save_file({"emb_params": VECTORS}, path, metadata={"exemplar": header})
        with pytest.raises(ValueError, match="Learn it anew") as error:
            read_concept(path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    for share in (0.1, 0.6, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match="could not be read as plain weights"):
            read_concept(path)
    save_file({"emb_params": VECTORS}, path)
    assert read_concept(path) is None


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_network_is_no_embedding(tmp_path, suffix):
    """Even where some of its weights are as wide as the model's vectors."""
    path, weights = tmp_path / f"model{suffix}", {f"blocks.{i}.weight": VECTORS + i for i in range(3)}
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    with pytest.raises(ValueError, match="is no embedding: it holds 3 weights of a network's layers"):
        read_vectors(path, ["l"], [WIDTH])


@pytest.mark.parametrize("name", ["nul", "Con", "aux.v2", "com1"])
def test_a_device_is_no_name(name):
    with pytest.raises(ValueError, match=f"'{name}' .* on Windows it is a device"):
        check_name(name)
    check_name(f"a-{name}")
