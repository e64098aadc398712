"""Weights in fewer bits: eight-bit floats are read, other ways of packing are named."""

import pytest
import torch
from safetensors.torch import save_file

from comfyui_exemplar.files.tensors import read_tensors

W = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_eight_bit_floats_are_exact_in_float16(tmp_path, dtype):
    # all values that there are
    eight = torch.arange(256, dtype=torch.uint8).view(dtype)
    finite = torch.isfinite(eight.float())
    save_file({"w": eight, "b": W}, tmp_path / "a.safetensors")
    read = read_tensors(tmp_path / "a.safetensors")
    assert read["w"].dtype == torch.float16 and read["b"].dtype == torch.float32
    assert torch.equal(read["w"][finite].float(), eight.float()[finite]) and int(finite.sum()) >= 248


@pytest.mark.parametrize(
    ("scale", "marks"),
    [
        ("scale_weight", {"model.diffusion_model.scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}),
        ("weight_scale", {"a.comfy_quant": torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)}),
    ],
)
@pytest.mark.parametrize("each_row", [False, True])
def test_scaled_ones_are_multiplied(tmp_path, scale, marks, each_row):
    eight = torch.tensor([[1.0, 2.0], [3.0, -4.0]]).to(torch.float8_e4m3fn)
    by = torch.tensor([[0.5], [2.0]]) if each_row else torch.tensor(0.25)
    stored = {"a.weight": eight, f"a.{scale}": by, "a.input_scale": torch.tensor(1.0), "a.bias": W, **marks}
    save_file(stored, tmp_path / "a.safetensors")
    for wanted in (lambda name: True, lambda name: name == "a.weight"):
        read = read_tensors(tmp_path / "a.safetensors", wanted)
        assert torch.equal(read["a.weight"].float(), eight.float() * by)
    assert read.keys() == {"a.weight"}
    assert read_tensors(tmp_path / "a.safetensors").keys() == {"a.weight", "a.bias"}


def test_a_scaled_value_that_float16_does_not_hold(tmp_path):
    save_file({"a.weight": W.to(torch.float8_e4m3fn), "a.scale_weight": torch.tensor(1e5)}, tmp_path / "a.safetensors")
    read = read_tensors(tmp_path / "a.safetensors")["a.weight"]
    assert read.dtype == torch.float32 and torch.equal(read, W * 1e5)


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ({"a.weight.quant_state.bitsandbytes__nf4": torch.zeros(3)}, "nf4"),
        ({"a.weight.quant_state.bitsandbytes__fp4": torch.zeros(3)}, "fp4"),
        ({"a.weight.absmax": torch.zeros(3)}, "bitsandbytes"),
        ({"a.SCB": torch.zeros(3)}, "int8"),
        ({"a.qweight": torch.zeros(3, dtype=torch.int32)}, "GPTQ"),
        ({"a.wscales": torch.zeros(3)}, "SVDQuant"),
        ({"b.weight": torch.zeros(3, 3, dtype=torch.int8)}, "int8"),
        ({"a.comfy_quant": torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)}, "nvfp4"),
    ],
)
def test_other_ways_are_named(tmp_path, beside, said):
    path = tmp_path / "a.safetensors"
    save_file({"a.weight": W, **beside}, path)
    with pytest.raises(ValueError, match=f"quantized to .*{said}.*get the weights in one of these") as error:
        read_tensors(path)
    assert str(error.value).startswith(str(path))
