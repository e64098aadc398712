"""All nodes again and again: nothing is left behind."""

import gc
import os
import sys
from pathlib import Path

import comfy.model_management
import pytest
import torch

from .work import RUNS, sampled, tensors_of

#: Times that all nodes run before counting begins, and after.
WARM_UP, ROUNDS = 1, 4

#: Nodes whose MODELs and guiders are sampled too.
SAMPLED = ("ExemplarDualAttentionColor", "ExemplarConceptFusion", "ExemplarApplyDEADiff", "ExemplarLCADInstances")

#: Smaller settings where a run is long.
SETTINGS = {
    "ExemplarColorize": {"depth": 1, "passes": 1},
    "ExemplarTranslate": {"updates": 1, "pivot_iterations": 1},
    "ExemplarConceptInversion": {"updates": 1, "when_the_file_exists": "start over"},
    "ExemplarPivotInversion": {"iterations": 1},
    "ExemplarDDIMInversion": {"depth": 1},
}


def everything(kit):
    """Every node once; the number of runs."""
    for node, run in RUNS.items():
        made = run(kit, 1, **SETTINGS.get(node, {}))
        tensors_of(made)
        if node in SAMPLED:
            sampled(kit, made)
    for path in (kit.folder.parent / "output").rglob("*"):
        if path.is_file():
            path.unlink()
    return len(RUNS) + len(SAMPLED)


def counted(kit):
    """What must not grow, exactly."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [each for each in objects if issubclass(type(each), torch.Tensor)]
    files = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.exists()]
    hooks = [
        len(module._forward_pre_hooks) + len(module._forward_hooks)
        for network in {id(each[0]): each[0] for each in kit.networks().values()}.values()
        for module in network.modules()
    ]
    own = [module for name, module in sys.modules.items() if name.startswith("comfyui_exemplar")]
    caches = [value for module in own for value in vars(module).values() if hasattr(value, "cache_info")]
    return {
        "tensors": len(tensors),
        "bytes of tensors": sum(each.numel() * each.element_size() for each in tensors if each.layout == torch.strided),
        "modules": sum(issubclass(type(each), torch.nn.Module) for each in objects),
        "open files": len(files),
        "loaded models": len(comfy.model_management.current_loaded_models),
        "hooks": sum(hooks),
        "cached": sum(cache.cache_info().currsize for cache in caches),
        "own objects": sum(str(type(each).__module__).startswith("comfyui_exemplar") for each in objects),
    }


def resident():
    """Bytes of memory that the process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts what Linux says of a process")
def test_nothing_grows(kit):
    for _ in range(WARM_UP):
        everything(kit)
    before, memory, runs = counted(kit), [resident()], 0
    for _ in range(ROUNDS):
        runs += everything(kit)
        assert counted(kit) == before
        memory.append(resident())
    assert runs >= 120
    # allocators round up: a round may cost a few pages, but all tensors of a run are about 40 MB
    assert memory[-1] - memory[1] < 2**24, memory
