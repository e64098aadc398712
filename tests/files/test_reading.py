"""Weight files that change while they are in use, and the layout of safetensors files."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfyui_exemplar.files.layout import read_layout
from comfyui_exemplar.files.numbers import check_numbers
from comfyui_exemplar.files.plain_json import parse
from comfyui_exemplar.files.tensors import read_component, read_tensors

W = {"a.w": torch.rand(300, 300), "a.b": torch.rand(300), "unused": torch.rand(200, 200)}


def save(path: Path, kind: str) -> Path:
    if kind == "safetensors":
        save_file(W, path)
    else:
        torch.save({"state_dict": W}, path, _use_new_zipfile_serialization=kind == "zip")
    return path


KINDS = ["safetensors", "zip", "legacy"]


@pytest.mark.slow
def test_files_that_are_cut_off_after_loading(tmp_path):
    """In a process of its own: what is mapped ends it, without an error that could be caught."""
    program = f"""
        import shutil, torch
        from pathlib import Path
        from comfyui_exemplar import demo
        from comfyui_exemplar.files.embeddings import ConceptFile, read_concept, read_vectors, save_concept
        from comfyui_exemplar.files.tensors import read_component, read_tensors
        from comfyui_exemplar.diffusion.concept import ConceptState
        from comfyui_exemplar.networks.ddcolor.load import load_ddcolor
        from comfyui_exemplar.networks.deadiff.load import load_deadiff
        from comfyui_exemplar.networks.embedded.parts import read_embedded
        from comfyui_exemplar.networks.lcad.load import read_lcad

        folder, used = Path({str(tmp_path)!r}), []
        weights = {{f"{{i}}.w": torch.rand(300, 300) for i in range(3)}}
        for name, legacy in (("zip.ckpt", False), ("legacy.ckpt", True)):
            torch.save({{"state_dict": weights}}, folder / name, _use_new_zipfile_serialization=not legacy)
            used.append((folder / name, read_tensors(folder / name).values()))
        vectors = torch.rand(3, 4000)
        torch.save({{"<a>": vectors}}, folder / "a.pt")
        used.append((folder / "a.pt", read_vectors(folder / "a.pt", ("l",), (4000,))))
        save_concept(folder / "mine.safetensors", ConceptFile(("l",), ConceptState.fresh([vectors]), {{}}))
        used.append((folder / "mine.safetensors", read_concept(folder / "mine.safetensors").state.vectors))
        (folder / "unet").mkdir()
        shutil.copy(folder / "zip.ckpt", folder / "unet" / "diffusion_pytorch_model.bin")
        used.append((folder / "unet" / "diffusion_pytorch_model.bin", read_component(folder / "unet").values()))
        readers = {{
            "ddcolor": lambda path: load_ddcolor(path).network.state_dict().values(),
            "deadiff": lambda path: load_deadiff(path).encoder.state_dict().values(),
            "model": lambda path: read_embedded(path).unet.values(),
            "lcad": lambda path: [*(read := read_lcad(path)).unet.values(), *read.autoencoder.parameters()],
        }}
        for name, read in readers.items():
            path = folder / f"{{name}}.safetensors"
            shutil.copy(demo.model_path().parent / path.name, path)
            used.append((path, read(path)))
        for path, _ in used:
            path.write_bytes(b"")
        print(all(bool(torch.isfinite(t.float()).all()) for _, tensors in used for t in tensors))
        """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "True"), run.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_cut_off_while_it_is_read_is_an_error(tmp_path, kind):
    path = save(tmp_path / "a.bin", kind)

    def cut(name):  # it is asked which tensors are wanted before their numbers are read
        with path.open("r+b") as file:
            file.truncate(3000)
        return True

    if kind == "legacy":  # its numbers are there already
        assert torch.equal(read_tensors(path, cut)["a.w"], W["a.w"])
        return
    with pytest.raises(ValueError, match=r"could not be read as plain weights.*download it again") as error:
        read_tensors(path, cut)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_mapped(tmp_path, monkeypatch, kind):
    """ComfyUI's --disable-mmap needs no telling then."""
    path, load = save(tmp_path / "a.bin", kind), torch.load

    def watched(*args, **options):
        assert not options["mmap"]
        return load(*args, **options)

    monkeypatch.setattr(torch, "load", watched)
    monkeypatch.setattr("safetensors.safe_open", lambda *args, **options: pytest.fail("it maps the file"))
    maps, seen = Path("/proc/self/maps"), []

    def wanted(name):
        seen.append(maps.exists() and str(path) in maps.read_text())
        return name.startswith("a.")

    read = read_tensors(path, wanted)
    assert not any(seen) and read.keys() == {"a.w", "a.b"}
    assert all(torch.equal(read[name], W[name]) for name in read)


def test_what_nobody_wants_is_not_kept(tmp_path, monkeypatch):
    """Of a pickle all is read, as its reader does, but kept is only what was asked for."""
    path, load, given = save(tmp_path / "a.ckpt", "zip"), torch.load, []

    def watched(*args, **options):
        given.append(load(*args, **options))
        return given[-1]

    monkeypatch.setattr(torch, "load", watched)
    read_tensors(path, lambda name: name == "a.b")
    found = given[-1]["state_dict"]
    assert {name: tensor.is_meta for name, tensor in found.items()} == {"a.w": True, "a.b": False, "unused": True}


def test_what_shares_memory_in_a_pickle_does_not_afterwards(tmp_path):
    whole = torch.arange(12.0)
    torch.save({"a": whole[:6], "b": whole[6:], "c": whole, "again": whole}, tmp_path / "a.pth")
    read = read_tensors(tmp_path / "a.pth")
    assert torch.equal(read["b"], whole[6:]) and torch.equal(read["c"], whole)
    read["again"].zero_()
    assert torch.equal(read["c"], whole) and torch.equal(read["a"], whole[:6])
    assert read["a"].untyped_storage().nbytes() == 24


DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 1)])
def test_as_the_formats_own_reader(tmp_path, dtype, shape):
    made = (10 * torch.rand(shape)).to(getattr(torch, dtype))
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.rand(3), "y": made, "z": torch.rand(1).half()}, path, {"about": 'ä \\ " []{'})
    layout, expected = read_layout(path), load_file(path)
    assert layout.metadata == {"about": 'ä \\ " []{'} and layout.tensors.keys() == expected.keys()
    with path.open("rb") as file:
        for name, tensor in expected.items():
            found = layout.read(file, name)
            assert found.dtype == tensor.dtype and torch.equal(found, tensor)


@pytest.mark.parametrize("said", [b"", b'"__metadata__":null,', b'"__metadata__":{},'])
@pytest.mark.parametrize("behind", [b"", b" ", b" \n " * 9])
def test_headers_as_other_programs_write_them(tmp_path, said, behind):
    """Without metadata, and filled up so that the numbers begin where a processor likes it."""
    header = b"{" + said + b'"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}' + behind
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + torch.tensor([1.0, 2.0]).numpy().tobytes())
    assert read_layout(path).metadata == {} and torch.equal(read_tensors(path)["x"], torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: torch.zeros(2, 3, device="meta"), "its `x` is described without its numbers"),
        (lambda: torch.eye(3).to_sparse(), "its `x` is sparse"),
        (lambda: torch.ones(1, 1).expand(2**31, 768), r"its `x` has the shape \(2147483648, 768\), for which"),
    ],
)
def test_tensors_whose_numbers_are_not_there(tmp_path, made, said, legacy):
    content = {"w": torch.ones(2, 3), "x": made()}
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=said) as error:
        read_tensors(tmp_path / "a.pt")
    assert str(tmp_path / "a.pt") in str(error.value)
    assert torch.equal(read_tensors(tmp_path / "a.pt", lambda name: name == "w")["w"], torch.ones(2, 3)), (
        "nobody wants the other"
    )


def test_numbers_that_are_there_once_are_repeated(tmp_path):
    torch.save({"w": torch.arange(3.0).expand(4, 3)}, tmp_path / "a.pt")
    assert torch.equal(read_tensors(tmp_path / "a.pt")["w"], torch.arange(3.0).repeat(4, 1))


def test_json_with_limits():
    deep = "[" * 12 + '"]}[{"' + "]" * 12
    assert parse(deep) and parse('"[[["', depth=0) == "[[[" and parse(r'["\"[", "\\"]', depth=1) == ['"[', "\\"]
    assert parse(b'\xef\xbb\xbf{"a": 1e400}') == {"a": float("inf")}
    for text, said in (
        ("[" + deep + "]", "nested deeper than 12"),
        ('{"a": 1, "b": 2, "a": 3}', "the key `a` twice"),
        ("9" * 500, "more digits"),
        ("{", "not JSON"),
        ("", "not JSON"),
        (b"\xff", "no UTF-8"),
        ('"' + "\\" * 7, "not JSON"),
    ):
        with pytest.raises(ValueError, match=said):
            parse(text)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(dtype, bad):
    for size in (1, 7, 64, 1001):
        for place in {0, size // 2, size - 1}:
            tensor = torch.randn(size).to(dtype)
            check_numbers({"w": tensor, "empty": tensor[:0]})
            tensor[place] = bad
            with pytest.raises(ValueError, match=r"^a file: `net\.w` has NaN or infinite values"):
                check_numbers({"w": tensor}, "net.", "a file")


def test_numbers_are_finite_as_float32():
    largest = torch.finfo(torch.float32).max
    check_numbers({"w": torch.tensor([largest, -largest]), "v": torch.tensor([largest], dtype=torch.float64)})
    with pytest.raises(ValueError, match="has NaN or infinite values"):
        check_numbers({"w": torch.tensor([1e300], dtype=torch.float64)})


def test_what_counts_is_whole():
    counts = {"a.position_ids": torch.arange(3), "bn.num_batches_tracked": torch.tensor(3)}
    check_numbers(counts)
    with pytest.raises(ValueError, match=r"`net\.a\.weight` holds int64 numbers"):
        check_numbers({**counts, "a.weight": torch.arange(3)}, "net.")


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"weight_map": None},
        {"weight_map": []},
        {"weight_map": {}},
        {"weight_map": {"a": 3}},
        {"weight_map": {"a": None}},
        {"weight_map": {"a": ["model-1.safetensors"]}},
        {"weight_map": {"a": "gone.safetensors"}},
        {"weight_map": {"a": "../../etc/passwd"}},
        {"weight_map": {"a": ".."}},
        {"weight_map": {"a": ""}},
        {"weight_map": {"a": "model-1.safetensors", "b": "again.safetensors"}},
        [],
        3,
    ],
)
def test_an_index_of_shards_that_is_wrong(tmp_path, index):
    for name in ("model-1", "again"):
        save_file({"a": torch.rand(2)}, tmp_path / f"{name}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"[Dd]ownload the folder again") as error:
        read_component(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500
