"""Weights from disk: what training programs leave beside them, how names are wrapped, and in which precisions."""

import argparse
import collections
import datetime
import enum
import functools
import pathlib
import sys
import types
import typing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from comfyui_exemplar.files.headers import read_recommended
from comfyui_exemplar.files.ldm import describe
from comfyui_exemplar.files.names import averaged_name, plain_names
from comfyui_exemplar.files.pickles import is_data
from comfyui_exemplar.files.tensors import read_tensors

W = torch.arange(6.0).reshape(2, 3)


def as_if_from(module, kind):
    """A class as a pickle of another program names it: ``module.Kind``, gone again by the time of reading."""
    kind.__module__, kind.__qualname__ = module, kind.__name__
    return kind


class ModelCheckpoint:
    pass


class AttributeDict(dict):
    pass


class EasyDict(dict):
    def __init__(self, **items):
        super().__init__(items)
        self.depth = 3


class ListConfig(list):
    pass


class LitEma:
    def __init__(self):
        self.decay, self.shadow = 0.99, {"w": W}


class Precision(enum.Enum):
    HALF = 16


class Outer:
    class Inner:
        def work(self):
            raise AssertionError("nothing of a file runs")


def schedule(step):
    raise AssertionError("nothing of a file runs")


class Slots:
    __slots__ = ("a",)


class Activated(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.act = torch.nn.Linear(1, 1), torch.nn.functional.relu


def left_behind():
    """Objects that training programs of this field save beside weights, by what they are."""
    optimizer = torch.optim.Adam(torch.nn.Linear(2, 2).parameters())
    items = collections.defaultdict(list)
    items["loss"].append(1.0)
    slots = as_if_from("trainer.options", Slots)()
    slots.a = W
    checkpoint = as_if_from("pytorch_lightning.callbacks.model_checkpoint", ModelCheckpoint)
    return {
        "a class as key": {checkpoint: {"best_model_score": torch.tensor(1.0), "best_model_path": "a.ckpt"}},
        "an instance of it": checkpoint(),
        "settings of Lightning": as_if_from("pytorch_lightning.utilities.parsing", AttributeDict)(lr=1e-4),
        "a dict with attributes": as_if_from("easydict", EasyDict)(lr=1e-4),
        "a list of a class of its own": as_if_from("omegaconf.listconfig", ListConfig)([1, 2]),
        "averages": as_if_from("ldm.modules.ema", LitEma)(),
        "an enumeration": as_if_from("trainer.precision", Precision).HALF,
        "slots": slots,
        "a function that is mentioned": schedule,
        "a function's settings": functools.partial(schedule, 3),
        "a class within a class": Outer.Inner,
        "a method": checkpoint.__init__,
        "a network with a function": Activated(),
        "a type's description": dict[str, typing.Any],
        "defaultdict": items,
        "Counter": collections.Counter("abc"),
        "deque": collections.deque([1, 2]),
        "datetime": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
        "timedelta": datetime.timedelta(1),
        "Namespace": argparse.Namespace(lr=1e-4),
        "SimpleNamespace": types.SimpleNamespace(lr=1e-4),
        "a path": pathlib.PosixPath("/data"),
        "numpy scalar": np.float64(3),
        "numpy array": np.arange(3),
        "numpy strings": np.array(["a"]),
        "numpy dtype": np.dtype("float32"),
        "random state": np.random.RandomState(0).get_state(),
        "random generator": np.random.default_rng(0),
        "an optimizer": optimizer,
        "an optimizer's state": optimizer.state_dict(),
        "a scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3),
        "a network": torch.nn.Conv2d(1, 1, 1),
        "a frozenset": frozenset([1]),
    }


@pytest.fixture
def as_modules(monkeypatch):
    """The other programs, as far as pickling needs them; nothing of them is there when the file is read."""

    def put(*kinds):
        for kind in kinds:
            parts = kind.__module__.split(".")
            for i in range(len(parts)):
                name = ".".join(parts[: i + 1])
                monkeypatch.setitem(sys.modules, name, sys.modules.get(name, types.ModuleType(name)))
            monkeypatch.setattr(sys.modules[kind.__module__], kind.__name__, kind, raising=False)

    return put


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("what", list(left_behind()))
def test_what_training_programs_leave_beside_weights(tmp_path, monkeypatch, as_modules, what, legacy):
    if legacy and "a network" in what:
        pytest.skip("the old format writes a network's source along, which torch's reader takes for no storage")
    thing = left_behind()[what]
    as_modules(ModelCheckpoint, AttributeDict, EasyDict, ListConfig, LitEma, Precision, Slots)
    path = tmp_path / "last.ckpt"
    torch.save({"callbacks": thing, "state_dict": {"w": W}}, path, _use_new_zipfile_serialization=not legacy)
    monkeypatch.undo()
    before = set(sys.modules)
    assert read_tensors(path).keys() == {"w"} and torch.equal(read_tensors(path)["w"], W)
    # nothing was imported for it but a codec of Python's own
    assert not [name for name in set(sys.modules) - before if not name.startswith("encodings.")]


def test_all_of_it_at_once(tmp_path, as_modules):
    as_modules(ModelCheckpoint, AttributeDict, EasyDict, ListConfig, LitEma, Precision, Slots)
    torch.save({**left_behind(), "state_dict": {"w": W}}, tmp_path / "last.ckpt")
    assert torch.equal(read_tensors(tmp_path / "last.ckpt")["w"], W)


def test_what_another_program_told_torch_is_neither_used_nor_lost(tmp_path):
    """As in ComfyUI, which tells torch's reader numpy's real dtype, but not all that comes with it."""
    torch.save({"w": W, "loss": np.float32(3), "n": argparse.Namespace(a=1)}, tmp_path / "a.ckpt")
    told = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([np.dtype])
    try:
        assert read_tensors(tmp_path / "a.ckpt").keys() == {"w"}
        assert set(torch.serialization.get_safe_globals()) == {*told, np.dtype}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(told)


@pytest.mark.parametrize(
    "name", ["numpy.save", "trainer.run", "torch.load", "collections.namedtuple", "builtins.print", "subprocess.Popen"]
)
def test_functions_are_no_data(name):
    assert not is_data(name)


def called(what):
    raise AssertionError("nothing of a file runs")


class Calling:
    """What pickles as a call of a function, and of nothing else."""

    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return (self.function, ("a",))


@pytest.mark.parametrize(
    "function", [called, print, Outer.Inner.work], ids=["another program's", "Python's", "a method"]
)
def test_functions_are_not_called(tmp_path, capsys, function):
    torch.save({"state_dict": {"w": W}, "more": Calling(function)}, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match="pickle with code in it") as error:
        read_tensors(tmp_path / "a.ckpt")
    assert "\n" not in str(error.value) and not capsys.readouterr().out
    if function is called:
        assert ".called, which is refused" in str(error.value)


def test_a_network_that_was_pickled_whole(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    for content in (network, {"model": network, "epoch": 3}):
        torch.save(content, tmp_path / "whole.pth")
        found = read_tensors(tmp_path / "whole.pth")
        assert found.keys() == network.state_dict().keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in network.state_dict().items())


def test_a_class_of_settings_under_a_networks_name(tmp_path):
    torch.save({"model": argparse.Namespace(depth=3), "w": W}, tmp_path / "a.pth")
    assert read_tensors(tmp_path / "a.pth").keys() == {"w"}


NESTS = ["state_dict", "params", "params_ema", "model", "module", "net", "ema", "state_dict_ema", "anything"]


@pytest.mark.parametrize("nest", NESTS)
def test_weights_within_a_mapping(tmp_path, nest):
    torch.save({nest: {"a.w": W}}, tmp_path / "a.ckpt")
    assert torch.equal(read_tensors(tmp_path / "a.ckpt")["a.w"], W)
    torch.save({"state_dict": {nest: {"a.w": W}}, "epoch": 3, "global_step": torch.tensor(3)}, tmp_path / "a.ckpt")
    assert read_tensors(tmp_path / "a.ckpt").keys() == {"a.w"}


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "model.module."])
def test_names_that_a_program_wrapped(tmp_path, wrapper):
    save_file({wrapper + "a.w": W, wrapper + "b": W + 1}, tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors").keys() == {"a.w", "b"}
    # the same names that only some have are the model's own
    save_file({wrapper + "a.w": W, "b": W + 1}, tmp_path / "a.safetensors")
    assert read_tensors(tmp_path / "a.safetensors").keys() == {wrapper + "a.w", "b"}


def test_a_unet_keeps_its_prefix():
    names = ["model.diffusion_model.out.2.weight", "model.diffusion_model.out.2.bias"]
    assert plain_names(names) == dict(zip(names, names, strict=True))
    assert list(plain_names(["module." + name for name in names]).values()) == names


def test_averages_count_where_there_is_nothing_else(caplog):
    trained = "model.diffusion_model.input_blocks.11.0.in_layers.2.weight"
    averaged = "model_ema.diffusion_modelinput_blocks110in_layers2weight"
    assert plain_names([averaged, "model_ema.decay", "first_stage_model.a"]) == {
        averaged: trained,
        "first_stage_model.a": "first_stage_model.a",
    }
    assert "averaged weights" in caplog.text
    assert plain_names([averaged, trained]) == {trained: trained}


@pytest.mark.parametrize(
    "dotted",
    [
        "input_blocks.0.0.weight",
        "input_blocks.10.0.emb_layers.1.bias",
        "input_blocks.3.0.op.weight",
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
        "input_blocks.8.1.transformer_blocks.9.attn2.to_out.0.bias",
        "input_blocks.4.1.norm.weight",
        "input_blocks.4.1.proj_in.weight",
        "output_blocks.5.2.conv.weight",
        "output_blocks.11.0.skip_connection.weight",
        "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight",
        "output_blocks.11.1.transformer_blocks.0.ff.net.2.bias",
        "middle_block.0.out_layers.3.weight",
        "middle_block.1.transformer_blocks.0.norm3.weight",
        "time_embed.2.weight",
        "label_emb.0.2.bias",
        "out.0.weight",
        "out.2.bias",
    ],
)
def test_an_average_has_its_weights_name(dotted):
    flat = "model_ema." + ("diffusion_model." + dotted).replace(".", "")
    assert averaged_name(flat) == "model.diffusion_model." + dotted
    assert averaged_name("model_ema.diffusion_model." + dotted) == "model.diffusion_model." + dotted


def test_names_of_no_unet_have_no_average():
    assert averaged_name("model_ema.decay") is None and averaged_name("model_ema.diffusion_modelsurprise0") is None


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_what_was_read_is_no_part_of_the_file(tmp_path, suffix):
    """A tensor that maps a file ends the process once the file is cut off in place."""
    path = tmp_path / f"weights{suffix}"
    weights = {"w": torch.rand(300, 300), "b": torch.rand(300)}
    (save_file if suffix == ".safetensors" else torch.save)(weights, path)
    read = read_tensors(path)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(path) not in maps.read_text()
    path.write_bytes(b"")
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())


def test_what_a_file_recommends_whatever_its_name(tmp_path):
    save_file({"w": W}, tmp_path / "a.ckpt", metadata={"exemplar.recommended": '{"toy": {"radius": 3}}'})
    torch.save({"w": W}, tmp_path / "a.safetensors")
    assert read_recommended(tmp_path / "a.ckpt") == {"toy": {"radius": 3}}
    assert read_recommended(tmp_path / "a.safetensors") == {}


def test_an_embedding_is_called_one(tmp_path):
    vectors = torch.nn.ParameterDict({"*": torch.nn.Parameter(W)})
    torch.save({"string_to_token": {"*": 265}, "string_to_param": vectors, "name": "a"}, tmp_path / "a.pt")
    assert describe(read_tensors(tmp_path / "a.pt")) == "a textual inversion embedding"


def test_the_content_tells_the_format(tmp_path):
    save_file({"w": W}, tmp_path / "a.ckpt")
    torch.save({"w": W}, tmp_path / "a.safetensors")
    for name in ("a.ckpt", "a.safetensors"):
        assert torch.equal(read_tensors(tmp_path / name)["w"], W)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "a page of the web"),
        (b"\n <html lang=en>", "a page of the web"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a page of the web"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS"),
        (b"GGUF\x03\0\0\0", "a GGUF file"),
        (b"\x1f\x8b\x08\0", "a gzip archive"),
        (b"\xfd7zXZ\0", "an xz archive"),
        (b"\x89PNG\r\n\x1a\n", "a picture"),
        (b"\xff\xd8\xff\xe0", "a picture"),
        (b"RIFF\0\0\0\0WEBP", "a picture"),
        (b"\x93NUMPY", "an array of numpy"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"%PDF-1.7", "a PDF"),
    ],
)
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_other_files_are_named(tmp_path, content, said, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content + b"\0" * 600)
    with pytest.raises(ValueError, match=said) as error:
        read_tensors(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("said", ["AccessDenied", '{"error":"Invalid username or password."}', "Entry not found\r\n"])
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_an_answer_of_a_server_is_shown(tmp_path, said, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_text(said)
    with pytest.raises(ValueError, match=rf"a\.{suffix} .* it is a text, `.*{said[1:6]}.*`; download") as error:
        read_tensors(path)
    assert "\n" not in str(error.value)


def test_an_archive_of_other_things(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("model.safetensors", b"1")
    with pytest.raises(ValueError, match=r"zip archive \(with model.safetensors in it\)"):
        read_tensors(tmp_path / "a.ckpt")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_file_that_is_cut_off(tmp_path, legacy, share):
    path = tmp_path / "a.ckpt"
    torch.save(
        {"state_dict": {f"{i}.w": torch.rand(50, 50) for i in range(9)}},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ValueError, match="could not be read as plain weights") as error:
        read_tensors(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
