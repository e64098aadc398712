"""Devices of every maker: the same questions, answered by stand-ins for torch's modules."""

import ast
import types
from pathlib import Path

import pytest
import torch

from comfyui_exemplar.color import devices
from comfyui_exemplar.color.devices import (
    best_device,
    check_dtype,
    device_name,
    empty_cache,
    find_device,
    forget_peak,
    free_memory,
    is_bfloat16_fast,
    peak_memory,
    wait_for,
)

ROOT = Path(__file__).parents[2]
CPU, CUDA, XPU, MPS, NPU = map(torch.device, ("cpu", "cuda:1", "xpu:0", "mps", "privateuseone:0"))


class Module(types.SimpleNamespace):
    """A torch module of a kind of device; remembers what it was asked."""

    def __init__(self, **answers):
        self.asked = []
        super().__init__(**{name: self._answering(name, answer) for name, answer in answers.items()})

    def _answering(self, name, answer):
        def answering(*about, **more):
            self.asked.append((name, *about, *more.items()))
            if isinstance(answer, Exception):
                raise answer
            return answer

        return answering


GIB = 2**30
MODULES = {
    "cuda": Module(
        is_available=True,
        device_count=2,
        get_device_name="Somebody's GPU",
        mem_get_info=(3 * GIB, 8 * GIB),
        memory_reserved=2 * GIB,
        memory_allocated=GIB,
        max_memory_allocated=GIB + 1,
        reset_peak_memory_stats=None,
        empty_cache=None,
        synchronize=None,
        is_bf16_supported=True,
    ),
    "xpu": Module(
        is_available=True,
        device_count=1,
        mem_get_info=RuntimeError("The device doesn't support querying the available free memory."),
        memory_reserved=0,
        memory_allocated=5,
        empty_cache=None,
        synchronize=RuntimeError("lost"),
    ),
    "mps": Module(
        is_available=True,
        device_count=1,
        recommended_max_memory=5 * GIB,
        current_allocated_memory=2 * GIB,
        empty_cache=None,
        synchronize=None,
    ),
}


@pytest.fixture
def present(monkeypatch):
    """Says which kinds of accelerators there are."""

    def set_present(*kinds):
        for module in MODULES.values():
            module.asked.clear()
        monkeypatch.setattr(devices, "_module", lambda kind: MODULES[kind] if kind in kinds else None)

    return set_present


@pytest.mark.parametrize(
    "kinds, names, best",
    [
        ((), ("cpu",), "cpu"),
        (("cuda",), ("cpu", "cuda:0", "cuda:1"), "cuda:0"),
        (("xpu",), ("cpu", "xpu:0"), "xpu:0"),
        (("mps",), ("cpu", "mps"), "mps"),
        (("mps", "xpu", "cuda"), ("cpu", "cuda:0", "cuda:1", "xpu:0", "mps"), "cuda:0"),
    ],
)
def test_which_there_are(present, kinds, names, best):
    present(*kinds)
    assert devices.devices() == names
    assert find_device("auto") == best_device() == torch.device(best)


def test_one_that_is_there_and_one_that_is_not():
    assert find_device("cpu") == CPU
    for name, reason in (("nonsense", "torch knows no such device"), ("meta", "no data"), ("cuda:99", "CUDA")):
        if name.startswith("cuda") and torch.cuda.is_available():
            continue
        with pytest.raises(ValueError, match=r"can't be used here \(.*\); torch finds cpu") as refused:
            find_device(name)
        assert reason in str(refused.value) and len(str(refused.value)) < 200


def test_a_package_that_a_kind_comes_with_is_imported(monkeypatch):
    asked = []
    monkeypatch.setattr(devices.importlib, "import_module", asked.append)
    for name in ("npu:0", "privateuseone:0"):
        with pytest.raises(ValueError, match="can't be used here"):
            find_device(name)
    assert asked == ["torch_npu", "torch_directml"]


def test_memory(present):
    present("cuda", "xpu", "mps")
    assert free_memory(CUDA) == 4 * GIB  # what the allocator keeps ready is free as well
    assert MODULES["cuda"].asked[0] == ("mem_get_info", CUDA), "of this one, not of the first"
    assert peak_memory(CUDA) == GIB + 1
    assert free_memory(MPS) == 3 * GIB
    assert peak_memory(MPS) is None
    assert (free_memory(XPU), peak_memory(XPU)) == (None, None)
    for nobody_knows in (CPU, NPU):
        assert (free_memory(nobody_knows), peak_memory(nobody_knows)) == (None, None)


def test_what_is_done_where_there_is_such_a_thing(present):
    present("cuda", "xpu", "mps")
    for device in (CPU, CUDA, MPS, NPU):
        empty_cache(device)
        wait_for(device)
        forget_peak(device)
    assert MODULES["cuda"].asked == [("empty_cache",), ("synchronize", CUDA), ("reset_peak_memory_stats", CUDA)]
    assert MODULES["mps"].asked == [("empty_cache",), ("synchronize",)]  # Metal's takes no device
    with pytest.raises(RuntimeError, match="lost"):  # what went wrong on a device is not swallowed
        wait_for(XPU)


def test_names(present):
    present("cuda", "xpu")
    assert device_name(CUDA) == "cuda:1 (Somebody's GPU)"
    assert device_name(XPU) == "xpu:0"
    assert device_name(CPU) == f"{torch.get_num_threads()} CPU thread(s)"


def test_bfloat16(present):
    present("cuda", "xpu", "mps")
    assert is_bfloat16_fast(CUDA)
    assert MODULES["cuda"].asked == [("is_bf16_supported", ("including_emulation", False))]
    assert not is_bfloat16_fast(XPU) and not is_bfloat16_fast(MPS) and not is_bfloat16_fast(NPU)


def test_dtypes():
    for dtype in (torch.float32, torch.bfloat16):
        check_dtype(CPU, dtype)
    with pytest.raises(ValueError, match=r"can't be used on cpu \("):
        check_dtype(CPU, torch.float8_e4m3fn)


PACK = ("attention", "cli", "color", "demo", "diffusion", "files", "hosts", "networks", "nodes", "pipelines")
SOURCES = [path for room in (*PACK, "bench", "training") for path in sorted((ROOT / room).rglob("*.py"))]
#: Functions that draw.
DRAW = ("randn", "rand", "randint", "randperm", "multinomial", "normal", "bernoulli")
#: Functions that draw where their tensor is, or without a generator of one's own.
DRAW_THERE = ("randn_like", "rand_like", "randint_like", "normal_", "uniform_", "bernoulli_", "random_", "exponential_")


#: The one place, and where torch is asked which of its own kernels it would take.
KNOWING = ("color/devices.py", "attention/fused.py")


def calls(path):
    """(name, call) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            function = node.func
            yield function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", ""), node


def of_torch(call):
    return isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "torch"


def test_chance_is_drawn_on_the_cpu():
    """The same noise for a seed on every device: no generator of a device, nothing drawn there."""
    for path in SOURCES:
        shipped = path.relative_to(ROOT).parts[0] in PACK
        for name, call in calls(path):
            given, at = {keyword.arg for keyword in call.keywords}, f"{path.relative_to(ROOT)}:{call.lineno}"
            if name == "Generator" and of_torch(call):
                assert not call.args and not given, f"{at}: a generator of a device"
            elif name in DRAW and of_torch(call):
                assert "device" not in given, f"{at}: drawn on a device"
                assert "generator" in given or not shipped, f"{at}: drawn without a generator"
            else:
                assert name not in DRAW_THERE or not shipped, f"{at}: {name} draws where its tensor is"


def test_one_place_knows_kinds_of_devices():
    """``torch.cuda`` and the like, and what is compared with their names."""
    for path in SOURCES:
        if path.relative_to(ROOT).as_posix() in KNOWING:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            found = set()
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "torch":
                found = {node.attr}
            elif isinstance(node, ast.Compare):
                found = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
            assert not found & set(devices.KINDS), f"{path.relative_to(ROOT)}:{node.lineno}: {found}"
