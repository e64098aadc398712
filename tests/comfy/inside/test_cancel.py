"""Cancel in every node, first, in the middle and last: it ends within a step, leaves everything as it was, and the next
run is that of nobody's cancel."""

import comfy.cli_args
import comfy.model_management
import pytest
import torch

from comfyui_exemplar.files.embeddings import read_concept
from comfyui_exemplar.nodes import NODES, common

from .work import RUNS, sampled, state_of, tensors_of

mm = comfy.model_management

#: Long work of a node's own: node, network, how many pictures, settings.
OWN = [
    ("ExemplarColorize", "unet", 1, {"depth": 1}),
    ("ExemplarColorize", "unet", 2, {"batch": 1, "depth": 1, "refinements": 1, "passes": 1}),
    ("ExemplarColorize", "vae encode", 1, {"depth": 1}),
    ("ExemplarColorize", "vae decode", 1, {"depth": 1}),
    ("ExemplarTranslate", "unet", 1, {"pivot_iterations": 1, "updates": 1}),
    ("ExemplarTranslate", "unet", 2, {"pivot_iterations": 0, "updates": 1}),
    ("ExemplarTranslate", "vae encode", 2, {"pivot_iterations": 0, "updates": 1}),
    ("ExemplarTranslate", "vae decode", 2, {"pivot_iterations": 0, "updates": 1}),
    ("ExemplarDDIMInversion", "unet", 2, {}),
    ("ExemplarDDIMInversion", "unet", 1, {"depth": 1, "refinements": 2}),
    ("ExemplarConceptInversion", "unet", 1, {"sample_every": 2}),
    ("ExemplarConceptInversion", "unet", 1, {"gradient_checkpointing": True, "updates": 1}),
    ("ExemplarConceptInversion", "vae encode", 1, {"updates": 1}),
    ("ExemplarConceptInversion", "vae decode", 1, {"updates": 2, "sample_every": 1}),
    ("ExemplarPivotInversion", "unet", 1, {"iterations": 1}),
    ("ExemplarPivotInversion", "unet", 1, {"variant": "economical", "iterations": 1}),
    ("ExemplarLatentLuminance", "vae decode", 2, {}),
    ("ExemplarLatentLuminance", "vae encode", 2, {}),
    ("ExemplarDDColor", "ddcolor", 3, {"batch": 1}),
    ("ExemplarDDColor", "ddcolor", 5, {"batch": 2, "steady": 1}),
    ("ExemplarDEADiffEncode", "deadiff", 17, {}),
    ("ExemplarColorize", "unet", 3, {"method": "memory", "batch": 1}),
    ("ExemplarColorFeatures", "unet", 9, {}),
    ("ExemplarColorMemory", "unet", 9, {}),
    ("ExemplarColorStrokes", "unet", 1, {}),
    ("ExemplarMemoryColorize", "unet", 3, {"batch": 1}),
    ("ExemplarMemoryColorize", "vae encode", 3, {"batch": 1}),
    ("ExemplarTransferColors", "unet", 2, {}),
    ("ExemplarColorizeVideo", "unet", 3, {"batch": 1}),
    ("ExemplarColorizeVideo", "unet", 2, {"batch": 1, "key_method": "thorough"}),
    ("ExemplarReferringMask", "referring", 2, {}),
    ("ExemplarLCADCondition", "lcad encode", 3, {}),
    ("ExemplarLCADDecode", "lcad decode", 3, {}),
]

#: What a node gives is at work while a sampler draws with it: node, network.
SAMPLED = {
    "ExemplarDualAttentionColor": "unet",
    "ExemplarColorGuidance": "unet",
    "ExemplarPublishedSampler": "unet",
    "ExemplarLCADInstances": "unet",
    "ExemplarConceptFusion": "unet",
    "ExemplarPromptControl": "unet",
    "ExemplarApplyDEADiff": "unet",
    "ExemplarAttentionCapture": "unet",
}
SAMPLED_TOO = {"ExemplarLCADCondition": "lcad unet"}

#: Nodes whose work on a picture takes a moment, and loaders, which ComfyUI has none to stop either.
SHORT = {
    "ExemplarMatchLatentStatistics",
    "ExemplarDesaturate",
    "ExemplarMergeLuminance",
    "ExemplarMatchColors",
    "ExemplarAttentionMap",
    "ExemplarLoadDDColor",
    "ExemplarConfidenceBlend",
    "ExemplarLoadLCAD",
    "ExemplarLoadCLIPSeg",
    "ExemplarLoadDEADiff",
    "ExemplarLoadDemoModel",
    "ExemplarLoadDemoPictures",
    "ExemplarLoadDemoFilm",
    "ExemplarLoadPhotograph",
    "ExemplarLoadPhotographFolder",
    "ExemplarSavePhotograph",
    "ExemplarColorPalette",
    "ExemplarMergeMemories",
    "ExemplarSaveMemory",
    "ExemplarLoadMemory",
    "ExemplarSaveInversion",
    "ExemplarLoadInversion",
    "ExemplarStageSettings",
    "ExemplarWorkingSize",
}
#: What a node gives are times, and a file: test_doctor.py. They go through no network, but take long: test_steady.py,
#: test_video.py, test_measure.py.
ELSEWHERE = {"ExemplarDoctor", "ExemplarSteadyColor", "ExemplarFindShots", "ExemplarMeasure"}
MOMENTS = ("first", "middle", "last")


def test_the_tables_name_every_node():
    own = {node for node, *_ in OWN}
    assert own | set(SAMPLED) | SHORT | ELSEWHERE == set(RUNS) == {node.define_schema().node_id for node in NODES}
    assert not (own | set(SAMPLED)) & SHORT
    assert len(MOMENTS) * (len(OWN) + len(SAMPLED) + len(SAMPLED_TOO)) + len(PREVIEWS) >= 59


class Button:
    """Presses cancel in one of a network's calls, and counts them."""

    def __init__(self, at=0):
        self.at, self.calls = at, 0

    def __call__(self, _rows=0):
        self.calls += 1
        if self.calls == self.at:
            mm.interrupt_current_processing()


@pytest.fixture(autouse=True)
def released():
    """The switch is off before and after."""
    mm.interrupt_current_processing(False)
    yield
    mm.interrupt_current_processing(False)


@pytest.fixture(scope="module")
def undisturbed():
    """Case -> (what a run gave, calls of its network), kept between tests."""
    return {}


def canceled(kit, undisturbed, case, network, work, moment):
    """Run, cancel, run again; everything is held against an undisturbed run."""
    if case not in undisturbed:
        count = Button()
        with kit.watched(network, count):
            undisturbed[case] = (work(), count.calls)
    expected, calls = undisturbed[case]
    at = {"first": 1, "middle": 1 + calls // 2, "last": calls}[moment]
    before, button = state_of(kit), Button(at)
    with kit.watched(network, button):
        try:
            work()
        except mm.InterruptProcessingException:
            stopped = True
        else:  # nothing of the network is left to do: ComfyUI ends before the next node
            stopped = mm.processing_interrupted() and at == calls
    assert stopped and at <= button.calls <= at + 1, (at, button.calls, calls)
    mm.interrupt_current_processing(False)
    assert state_of(kit) == before
    check_files(kit)
    found = work()
    assert len(found) == len(expected) > 0
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def check_files(kit):
    """What was learned so far is whole, and nothing half-written lies beside it. A film keeps its whole shots."""
    for path in kit.folder.iterdir():
        assert path.name == "thing.safetensors" and read_concept(path).state.updates > 0
    assert not [path for path in (kit.folder.parent / "output").iterdir() if path.suffix != ".parts"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", range(len(OWN)), ids=lambda i: f"{i}-{OWN[i][0]}-{OWN[i][1]}")
def test_a_node_s_own_work(kit, undisturbed, number, moment):
    node, network, pictures, settings = OWN[number]

    def work():
        return tensors_of(RUNS[node](kit, pictures, **settings))

    canceled(kit, undisturbed, number, network, work, moment)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("node", "network"), [*SAMPLED.items(), *SAMPLED_TOO.items()])
def test_while_a_sampler_draws(kit, undisturbed, node, network, moment):
    """One and the same guider or MODEL before and after: it keeps nothing of a run that was ended."""
    made = RUNS[node](kit, 1)
    canceled(kit, undisturbed, (node, network), network, lambda: [sampled(kit, made)], moment)


#: Where previews are drawn: node, what draws them, pictures, settings.
PREVIEWS = [
    ("ExemplarColorize", "step", 1, {}),
    ("ExemplarColorize", "frame", 3, {"method": "memory", "batch": 1}),
    ("ExemplarTranslate", "step", 1, {}),
    ("ExemplarDDIMInversion", "step", 1, {}),
    ("ExemplarConceptInversion", "chart", 1, {}),
    ("ExemplarPivotInversion", "chart", 1, {}),
    ("ExemplarMemoryColorize", "frame", 3, {"batch": 1}),
]


@pytest.mark.parametrize(("node", "kind", "pictures", "settings"), PREVIEWS)
def test_within_a_preview(kit, undisturbed, monkeypatch, node, kind, pictures, settings):
    """Pressed while a preview is drawn, the second one: the network is asked once more at most."""
    monkeypatch.setattr(comfy.cli_args.args, "preview_method", comfy.cli_args.LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(common.ChartProgress.__init__, "__defaults__", (0.0,))
    expected = tensors_of(RUNS[node](kit, pictures, **settings))
    before, drawn, calls = state_of(kit), Button(2), Button()
    press_in(monkeypatch, kind, drawn)
    with kit.watched("unet", lambda _: drawn.calls < 2 or calls()), pytest.raises(mm.InterruptProcessingException):
        RUNS[node](kit, pictures, **settings)
    assert drawn.calls == 2 and calls.calls <= 1
    assert state_of(kit) == before
    check_files(kit)
    found = tensors_of(RUNS[node](kit, pictures, **settings))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def press_in(monkeypatch, kind, button):
    if kind == "step":
        import latent_preview

        place, name = latent_preview.LatentPreviewer, "decode_latent_to_preview_image"
    elif kind == "frame":
        import PIL.Image

        place, name = PIL.Image, "fromarray"
    else:
        from comfyui_exemplar.nodes.vct_pivot import PivotChart
        from comfyui_exemplar.pipelines.vct_concept import ConceptRun

        for place in (PivotChart, ConceptRun):
            press_on(monkeypatch, place, "chart", button)
        return
    press_on(monkeypatch, place, name, button)


def press_on(monkeypatch, place, name, button):
    original = getattr(place, name)
    monkeypatch.setattr(place, name, lambda *args: button() or original(*args))
