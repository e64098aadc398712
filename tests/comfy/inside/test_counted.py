"""That ComfyUI's cache of outputs, which lets the largest go first when memory is short, sees what ours cost."""

from dataclasses import dataclass

import psutil
import pytest
import torch
from comfy_execution import caching

from ...fixtures.deadiff import save_small

MEGABYTE = 1 << 20


@dataclass
class Entry:
    """What the cache keeps of a node."""

    outputs: list


class Available:
    """A computer whose memory is short until enough is let go."""

    def __init__(self, available):
        self.available = available


def freed(outputs, monkeypatch, least=0):
    """What the cache itself says that it let go, in bytes, of a node with these outputs."""
    cache = caching.RAMPressureCache(caching.CacheKeySetInputSignature)
    cache.cache, cache.used_generation, cache.timestamps = {"node": Entry(outputs)}, {"node": 0}, {"node": 0.0}
    cache.generation = 1
    monkeypatch.setattr(psutil, "virtual_memory", lambda: Available(0))
    gone = cache.ram_release(MEGABYTE, free_active=True, min_entry_size=least)
    assert ("node" not in cache.cache) == (gone > 0)
    return gone


def bytes_of(*tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.fixture
def counts(monkeypatch):
    """Whether the cache counts outputs as so many bytes, beside its own flat rate."""

    def check(outputs, expected):
        assert expected > 10_000
        assert abs(freed([outputs], monkeypatch) - expected) < 1
        assert freed([outputs], monkeypatch, least=expected + 10) == 0
        return True

    return check


def test_an_inversion(counts, inverted):
    made = inverted["input"][0]
    assert counts([made], bytes_of(made.trajectory, *(tensor for *_, tensor in made.bank.items())))


def test_pivots(counts, nodes, embedded, source):
    pivots = nodes(
        "ExemplarPivotInversion",
        model=embedded[0],
        inversion=source[0],
        conditioning=embedded[3],
        cfg=4.0,
        iterations=1,
    )[0]
    assert counts([pivots], bytes_of(pivots.contexts, pivots.trajectory))


def test_tokens(counts, nodes, tmp_path, monkeypatch):
    import folder_paths

    save_small(tmp_path / "counted.safetensors")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "deadiff", ([str(tmp_path)], {".safetensors"}))
    (loaded,) = nodes("ExemplarLoadDEADiff", model_name="counted.safetensors")
    (tokens,) = nodes("ExemplarDEADiffEncode", deadiff=loaded, image=torch.rand(1, 20, 30, 3))
    weights = [weight for pair in tokens.projections.values() for weight in pair]
    assert counts([tokens], bytes_of(*tokens.tokens.values(), *weights))


def test_beside_other_outputs(counts, inverted):
    """A node has several outputs, and a list of values in each."""
    made, picture = inverted["input"][0], torch.zeros(1, 64, 64, 3)
    assert counts([[made, made], [picture]], 2 * bytes_of(*made) + bytes_of(picture))


def test_an_inversion_is_no_conditioning(nodes, embedded, inverted):
    """Though it is a tuple, it is named for what it is."""
    with pytest.raises(ValueError, match="conditioning: found Inversion, expected a CONDITIONING"):
        nodes(
            "ExemplarDDIMInversion",
            model=embedded[0],
            conditioning=inverted["input"][0],
            latent={"samples": torch.zeros(1, 4, 16, 16)},
            depth=4,
        )
