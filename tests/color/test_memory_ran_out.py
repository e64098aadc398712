"""When an error says that memory ran out, and work on fewer pictures after it."""

import errno
import gc
import weakref

import pytest
import torch

from comfyui_exemplar.color import batches
from comfyui_exemplar.color.batches import Batches, freed, in_batches, ran_out

#: What runs out, and how torch and what lies under it say so: texts of torch 2.13, of its libraries and of drivers.
TEXTS = {
    "CPU, Linux": "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
    "to "
    "allocate 281474976710656 bytes. Error code 12 (Cannot allocate memory)",
    "CPU, Windows": "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to "
    "allocate 281474976710656 bytes.",
    "CUDA": "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.69 GiB",
    "CUDA driver": "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    "cuBLAS": "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN 8": "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "cuDNN 9": "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "cuFFT": "cuFFT error: CUFFT_ALLOC_FAILED",
    "cuSOLVER": "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
    "HIP": "HIP out of memory. Tried to allocate 20.00 GiB",
    "HIP driver": "HIP error: out of memory",
    "hipBLAS": "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
    "rocBLAS": "rocblas_status_memory_error",
    "MPS": "MPS backend out of memory (MPS allocated: 17.95 GB, other allocations: 1.00 GB, max allowed: 18.13 GB)",
    "Metal": "Invalid buffer size: 24.00 GiB",
    "Metal heap": "Failed to allocate private MTLBuffer for size 3221225472",
    "XPU": "XPU out of memory. Tried to allocate 20.00 GiB",
    "Level Zero": "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
    "OpenCL": "Native API failed. Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES)",
    "DirectML": "Could not allocate tensor with 1073741824 bytes. There is not enough GPU video memory available!",
    "C++ library": "std::bad_alloc",
    "C++ library, Windows": "bad allocation",
}
ERRORS = {
    **{name: RuntimeError(text) for name, text in TEXTS.items()},
    "torch's class": torch.OutOfMemoryError("CUDA out of memory"),
    "Python's": MemoryError(),
    "numpy's": MemoryError("Unable to allocate 1.00 EiB for an array with shape (1152921504606846976,)"),
    "the system's": OSError(errno.ENOMEM, "Cannot allocate memory"),
}
OTHERS = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (77x768 and 1024x320)"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
    ValueError("scan 'out of memory.png' is no picture"),
    FileNotFoundError(errno.ENOENT, "out of memory.png"),
    KeyError("bad_alloc"),
    KeyboardInterrupt("out of memory"),
]


@pytest.mark.parametrize("name", ERRORS)
def test_what_counts(name):
    assert ran_out(ERRORS[name])


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_what_does_not(error):
    assert not ran_out(error)


def test_a_driver_s_error_by_its_number():
    error = torch.AcceleratorError("CUDA error: unknown")
    error.error_code = 2
    assert ran_out(error)
    error.error_code = 710
    assert not ran_out(error)


def test_what_torch_really_raises():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**46)
    assert ran_out(refused.value)


def scarce(most, error, log):
    def work(part):
        log.append(part.stop - part.start)
        if log[-1] > most:
            raise error
        return list(range(10))[part]

    return work


@pytest.mark.parametrize("name", ERRORS)
def test_halves_down_to_one_and_says_so_once(name, caplog):
    log, told = [], []
    with caplog.at_level("INFO"):
        done = list(in_batches(10, 8, scarce(1, ERRORS[name], log), freed, lambda *at: told.append(at)))
    assert [i for _, part in done for i in part] == list(range(10))
    assert log == [8, 4, 2] + [1] * 10 and told == [(0, 4), (0, 2), (0, 1)]
    assert [record.getMessage() for record in caplog.records] == ["Out of memory; going on with 1 picture(s) at once."]


def test_what_was_found_is_remembered(caplog):
    log, batches = [], Batches(4, freed, "phrases")
    for _ in range(3):
        assert [i for _, part in batches.of(4, scarce(2, MemoryError(), log)) for i in part] == [0, 1, 2, 3]
    assert log == [4, 2, 2, 2, 2, 2, 2] and len(caplog.records) == 1 and "2 phrases" in caplog.text


def test_one_is_too_much():
    log = []
    with pytest.raises(MemoryError):
        list(in_batches(3, 3, scarce(0, MemoryError(), log), freed))
    assert log == [3, 1]


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_another_error_is_raised_at_once(error):
    log = []
    with pytest.raises(type(error)):
        list(in_batches(3, 3, scarce(0, error, log), freed))
    assert log == [3]


def test_what_failed_is_let_go_before_it_is_tried_again(monkeypatch):
    """An error's frames would hold the tensors for which there was no room."""
    held, alive = [], []

    def work(part):
        large = torch.zeros(part.stop - part.start)
        held.append(weakref.ref(large))
        if len(large) > 1:
            try:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            finally:
                del part
        return large

    monkeypatch.setattr(batches, "empty_cache", lambda _: alive.append(held[-1]() is not None))

    gc.disable()
    try:
        assert len(list(in_batches(2, 2, work, lambda error: freed(error, torch.device("cpu"))))) == 2
    finally:
        gc.enable()
    assert alive == [False]


def test_a_result_is_let_go_before_the_next_one_is_made():
    """Where nobody else keeps it."""
    made, alive = [], []

    def work(part):
        alive.append([each() is not None for each in made])
        result = torch.zeros(1)
        made.append(weakref.ref(result))
        return result

    gc.disable()
    try:
        for _, result in in_batches(3, 1, work, freed):
            del result
    finally:
        gc.enable()
    assert alive == [[], [False], [False, False]]
