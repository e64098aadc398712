"""Memory runs out in every node, in every form: what can be halved is, to the same result, and else one clear error."""

import logging
import re
import sys

import comfy.utils
import pytest
import torch

from comfyui_exemplar.nodes import NODES

from . import work
from .sampling import difference, run
from .work import RUNS, state_of, tensors_of

#: Forms in which memory runs out. The first one ComfyUI's VAE answers by itself, with tiles.
FORMS = {
    "CUDA": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "CPU": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate"),
    "Python": MemoryError,
    "cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}
CPU = "CPU"

#: What is halved: node, network, pictures (phrases), the most rows for which there is memory, settings, form.
#: At a guidance of 1 rounding is not amplified, which shows where colors leave the gamut.
#: Of the private copies that learn: noised copies of an update, and both predictions of a sample.
HALVED = [
    ("ExemplarColorize", "unet", 4, 4, {"guidance": 1.0, "passes": 1}, "CUDA"),
    ("ExemplarColorize", "unet", 3, 3, {"guidance": 1.0, "batch": 2}, "Python"),
    ("ExemplarColorize", "vae encode", 3, 1, {"guidance": 1.0, "passes": 1}, "CPU"),
    ("ExemplarColorize", "vae decode", 3, 1, {"guidance": 1.0, "passes": 1}, "cuBLAS"),
    ("ExemplarTranslate", "unet", 3, 3, {"pivot_iterations": 0}, "CUDA"),
    ("ExemplarTranslate", "vae encode", 3, 1, {"pivot_iterations": 0}, "Python"),
    ("ExemplarTranslate", "vae decode", 3, 2, {"pivot_iterations": 0}, "CPU"),
    ("ExemplarDDIMInversion", "unet", 5, 2, {}, "CUDA"),
    ("ExemplarDDIMInversion", "unet", 4, 3, {}, "cuBLAS"),
    ("ExemplarDDIMInversion", "unet", 3, 1, {"refinements": 1}, "Python"),
    ("ExemplarConceptInversion", "unet", 1, 1, {}, "CPU"),
    ("ExemplarConceptInversion", "unet", 1, 2, {"gradient_checkpointing": True}, "CUDA"),
    ("ExemplarLatentLuminance", "vae decode", 5, 2, {}, "CPU"),
    ("ExemplarLatentLuminance", "vae encode", 3, 1, {"strength": 0.5}, "Python"),
    ("ExemplarDDColor", "ddcolor", 5, 2, {}, "CUDA"),
    ("ExemplarDDColor", "ddcolor", 5, 1, {"steady": 2}, "CPU"),
    ("ExemplarDDColor", "ddcolor", 5, 2, {"arithmetic": "official"}, "Python"),
    ("ExemplarDEADiffEncode", "deadiff", 9, 3, {"take": "style & semantics"}, "CUDA"),
    ("ExemplarDEADiffEncode", "deadiff", 3, 1, {}, "CPU"),
    ("ExemplarColorize", "unet", 3, 2, {"method": "memory"}, "CUDA"),
    ("ExemplarColorFeatures", "unet", 5, 2, {}, "CUDA"),
    ("ExemplarColorFeatures", "vae encode", 3, 1, {}, "Python"),
    ("ExemplarColorMemory", "unet", 5, 2, {"keys": "float32"}, "CPU"),
    ("ExemplarMemoryColorize", "unet", 5, 2, {}, "CUDA"),
    ("ExemplarMemoryColorize", "vae encode", 3, 1, {}, "cuBLAS"),
    ("ExemplarColorizeVideo", "unet", 5, 2, {"batch": 4}, "CUDA"),
    ("ExemplarReferringMask", "referring", 5, 2, {}, "CUDA"),
    ("ExemplarReferringMask", "referring", 3, 1, {"threshold": 0.4}, "Python"),
]

#: What works on one picture after another, or on one at all, through a network.
ONE_BY_ONE = {
    "ExemplarPivotInversion": "unet",
    "ExemplarColorStrokes": "unet",
    "ExemplarTransferColors": "unet",
    "ExemplarLCADCondition": "lcad encode",
    "ExemplarLCADDecode": "lcad decode",
}

#: What goes through no network: arithmetic on one picture after another, files, and nodes that only put things
#: together. Of these Dual-Attention Color Injection computes attention, see below; MODELs and guiders are sampled by
#: other nodes, where ComfyUI splits batches by itself.
WITHOUT = {
    "ExemplarAttentionCapture",
    "ExemplarDualAttentionColor",
    "ExemplarColorGuidance",
    "ExemplarMatchLatentStatistics",
    "ExemplarPublishedSampler",
    "ExemplarDesaturate",
    "ExemplarMergeLuminance",
    "ExemplarMatchColors",
    "ExemplarSteadyColor",
    "ExemplarMeasure",  # with files of networks: test_measure.py
    "ExemplarAttentionMap",
    "ExemplarLoadDDColor",
    "ExemplarConfidenceBlend",
    "ExemplarLoadLCAD",
    "ExemplarLCADInstances",
    "ExemplarLoadCLIPSeg",
    "ExemplarConceptFusion",
    "ExemplarPromptControl",
    "ExemplarLoadDEADiff",
    "ExemplarApplyDEADiff",
    "ExemplarLoadDemoModel",
    "ExemplarLoadDemoPictures",
    "ExemplarLoadDemoFilm",
    "ExemplarFindShots",
    "ExemplarLoadPhotograph",
    "ExemplarLoadPhotographFolder",
    "ExemplarSavePhotograph",
    "ExemplarColorPalette",
    "ExemplarMergeMemories",
    "ExemplarSaveMemory",
    "ExemplarLoadMemory",
    "ExemplarSaveInversion",
    "ExemplarLoadInversion",
    "ExemplarDoctor",  # whose report says where it ran out, see test_doctor.py
    "ExemplarStageSettings",
    "ExemplarWorkingSize",
}
#: Loaders that have no settings, and what they call.
WITHOUT_SETTINGS = {
    "ExemplarLoadDemoModel": ("comfyui_exemplar.hosts.comfy.embedded", "load_demo"),
    "ExemplarLoadDemoFilm": ("comfyui_exemplar.hosts.comfy.videos", "video_of"),
    "ExemplarLoadMemory": ("comfyui_exemplar.files.memories", "load_memory"),
    "ExemplarLoadInversion": ("comfyui_exemplar.files.inversions", "load_inversions"),
}
NAMES = {node.define_schema().node_id: node.define_schema().display_name for node in NODES}


def test_the_tables_name_every_node():
    halved = {node for node, *_ in HALVED}
    assert halved | set(ONE_BY_ONE) | WITHOUT == set(RUNS) == set(NAMES)
    assert not (halved & set(ONE_BY_ONE) or (halved | set(ONE_BY_ONE)) & WITHOUT)


class Scarce:
    """Memory for some rows of a network, and how many each of its calls had."""

    def __init__(self, most, form):
        self.most, self.error, self.rows = most, FORMS[form], []

    def __call__(self, rows):
        self.rows.append(rows)
        if rows > self.most:
            raise self.error()


@pytest.fixture
def bar(monkeypatch):
    """What ComfyUI's progress bars were told: (value, total, whether with a preview)."""
    told, original = [], comfy.utils.ProgressBar.update_absolute

    def update(bar, value, total=None, preview=None):
        told.append((value, total))
        original(bar, value, total, preview)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update)
    return told


def check_bar(told):
    """Never back, never beyond the end, and at the end at last."""
    values = [value for value, _ in told]
    assert values == sorted(values) and all(value <= total for value, total in told)
    assert not told or told[-1][0] == told[-1][1]


@pytest.mark.parametrize(("node", "network", "pictures", "most", "settings", "form"), HALVED)
def test_fewer_at_once_and_the_same_result(kit, bar, caplog, node, network, pictures, most, settings, form):
    expected = tensors_of(RUNS[node](kit, pictures, **settings))
    check_bar(bar)
    before, scarce = state_of(kit), Scarce(most, form)
    bar.clear()
    caplog.clear()
    with caplog.at_level(logging.WARNING), kit.watched(network, scarce):
        found = tensors_of(RUNS[node](kit, pictures, **settings))
    assert max(scarce.rows) > most, "memory never ran out"
    said = [text for text in caplog.messages if text.startswith("Out of memory; going on with")]
    assert said and len(said) == len({text.split()[-3] for text in said}), said
    if node == "ExemplarColorize":  # its input_inversion is that of the first round
        expected[1] = expected[1][:, : found[1].shape[1]]
    assert [t.shape for t in found] == [t.shape for t in expected]
    # sums are rounded in another order where a batch has another size
    for one, other in zip(expected, found, strict=True):
        assert difference(one, other) < 1e-4 * max(1.0, float(one.float().abs().max()))
    check_bar(bar)
    assert state_of(kit) == before


@pytest.mark.parametrize(
    ("node", "network", "form"),
    [(*at, form) for at, form in dict.fromkeys((case[:2], case[5]) for case in HALVED)]
    + [(*at, form) for at in ONE_BY_ONE.items() for form in FORMS],
)
def test_one_is_too_much(kit, node, network, form):
    before = state_of(kit)
    with kit.watched(network, Scarce(0, form)), pytest.raises(torch.OutOfMemoryError) as refused:
        RUNS[node](kit, 2)
    said = str(refused.value)
    assert said.startswith(f"{NAMES[node]}: memory ran out") and "; " in said
    assert not any(raw in said for raw in ("CUDA", "Allocator", "CUBLAS", "GiB")) and refused.value.__suppress_context__
    assert state_of(kit) == before


@pytest.mark.parametrize("node", ONE_BY_ONE)
def test_one_after_another(kit, node):
    scarce = Scarce(1, CPU)
    with kit.watched(ONE_BY_ONE[node], scarce):
        RUNS[node](kit, 3)
    assert set(scarce.rows) == {1}


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_wherever_it_runs_out_the_node_says_so(kit, node, monkeypatch):
    """Also in what comes before any work, and in nodes that only put things together."""
    schema, module, name = node.define_schema(), sys.modules[node.__module__], "resolved"
    if schema.node_id in WITHOUT_SETTINGS:
        place, name = WITHOUT_SETTINGS[schema.node_id]
        module = sys.modules[place]
    original, form = getattr(module, name), iter(list(FORMS) * 2)

    def fail(asking, *args, **kw):
        if name == "resolved" and not issubclass(asking, node):
            return original(asking, *args, **kw)
        raise FORMS[next(form)]()

    if name != "resolved":
        monkeypatch.setattr(module, name, lambda *_: fail(None))
    else:
        monkeypatch.setattr(module, name, fail)
    for _ in FORMS:
        with pytest.raises(torch.OutOfMemoryError, match=f"^{re.escape(schema.display_name)}: memory ran out, .*; "):
            RUNS[schema.node_id](kit, 1)


def test_attention_that_is_computed_before_sampling(kit, monkeypatch):
    """Dual-Attention Color Injection, with what the running picture does not enter: for two pictures one by one."""
    from comfyui_exemplar.hosts.comfy import exemplar

    twice, noised, sigmas, _ = work.invert(kit, 2)
    deep = {"gamma_shallow": 1.0, "gamma_deep": 1.0, "beta_shallow": 0.0, "beta_deep": 0.0}
    three = {"input_inversion": twice, "reference_inversion": twice, "gray_inversion": twice}

    def colored():
        (model,) = kit.nodes("ExemplarDualAttentionColor", model=kit.model, **three, **deep)
        return run(model, kit.embedded[3], noised, sigmas)

    expected, fused, scarce = colored(), exemplar.fused_attention, Scarce(1, CPU)

    def attention(options):
        attend = fused(options)
        return lambda q, k, v, heads: scarce(len(q)) or attend(q, k, v, heads)

    monkeypatch.setattr(exemplar, "fused_attention", attention)
    assert difference(expected, colored()) < 1e-4 and scarce.rows.count(2) == 1
