"""Names that lead outside, given to the nodes themselves in a real ComfyUI: nothing elsewhere is opened."""

import os
import sys

import folder_paths
import pytest
import torch

from comfyui_exemplar.hosts.comfy import embeddings
from comfyui_exemplar.nodes import NODES

from ...fixtures.foreign_names import LOADERS, foreign, make

BY_ID = {node.define_schema().node_id: node for node in NODES}
INPUTS = {
    **dict.fromkeys(LOADERS, "model_name"),
    "ExemplarLoadMemory": "memory_name",
    "ExemplarLoadInversion": "inversion_name",
    "ExemplarLoadPhotograph": "image",
    "ExemplarLoadPhotographFolder": "folder",
}
#: What listens stays for good, so it is told when to.
HEARD, LISTENING = [], []


def listen(event, found):
    if not LISTENING:
        return
    if event.startswith(("socket.", "subprocess.")):
        HEARD.append((event, repr(found)))
    elif event.startswith(("open", "os.", "shutil.")):
        for path in found[:1] if event == "open" else found[:2]:
            if isinstance(path, (str, bytes, os.PathLike)):
                HEARD.append((event, os.fsdecode(path)))


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    sys.addaudithook(listen)
    return make(tmp_path_factory.mktemp("tree"))


@pytest.fixture(autouse=True)
def comfy_folders(places, monkeypatch):
    for name in ("input", "output", "temp", "user"):
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(places.base / name))
    for kind in (*LOADERS.values(), "embeddings", "checkpoints", "upscale_models"):
        kinds = set(folder_paths.supported_pt_extensions)
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(places.models(kind))], kinds))


@pytest.fixture
def elsewhere(places):
    """What was opened outside of ComfyUI's folders and of the program's own; empty it to listen anew."""
    program = [os.path.realpath(root) for root in (sys.prefix, sys.base_prefix, os.getcwd(), "/proc", "/sys")]
    program.append(os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", "..")))
    HEARD.clear()
    LISTENING.append(True)

    def told():
        return [
            (event, path)
            for event, path in HEARD
            if event.startswith(("socket.", "subprocess."))
            or (
                os.path.isabs(path) and not places.holds(path) and not os.path.realpath(path).startswith(tuple(program))
            )
        ]

    yield told
    LISTENING.clear()


def test_it_listens(places, elsewhere):
    (places.outside / "secret.png").read_bytes()
    assert elsewhere() == [("open", str(places.outside / "secret.png"))]


@pytest.mark.parametrize("node", INPUTS)
def test_names(places, nodes, elsewhere, node):
    for name in foreign(node, places):
        verdict = BY_ID[node].validate_inputs(**{INPUTS[node]: name})
        assert isinstance(verdict, str) or name == "CIDAS/clipseg-rd64-refined", name
        if hasattr(BY_ID[node], "fingerprint_inputs") and node not in LOADERS:
            assert BY_ID[node].fingerprint_inputs(**{INPUTS[node]: name}) == ""
        with pytest.raises(ValueError) as refused:
            nodes(node, **{INPUTS[node]: name})
        assert INPUTS[node] in str(refused.value) and "not for others" not in str(refused.value)
    assert elsewhere() == []


def test_what_is_written_stays_inside(places, elsewhere):
    before = sorted(places.outside.rglob("*"))
    HEARD.clear()
    written = refused = 0
    for name in foreign("ExemplarSavePhotograph", places):
        try:
            BY_ID["ExemplarSavePhotograph"].execute(images=torch.rand(1, 4, 4, 3), filename_prefix=name, workflow=False)
            written += 1
        except ValueError as error:
            assert "filename_prefix" in str(error)
            refused += 1
    assert written > 5 and refused > 15 and elsewhere() == []
    assert sorted(places.outside.rglob("*")) == before


def test_where_a_concept_goes(places, elsewhere):
    for name in foreign("ExemplarConceptInversion", places):
        verdict = BY_ID["ExemplarConceptInversion"].validate_inputs(name=name)
        assert (embeddings.check(name) is True) == (verdict is True)
        if verdict is True:
            assert embeddings.place(name).path.parent == places.models("embeddings")
    assert elsewhere() == []


def test_embeddings_in_texts(places, nodes, elsewhere):
    """Of the embedded model; ComfyUI's own encoders have their own rules."""
    _, clip, _ = nodes("ExemplarLoadDemoModel")[:3]
    clip.tokenizer.embeddings = [str(places.models("embeddings"))]
    HEARD.clear()
    for name in foreign("ExemplarConceptInversion", places):
        clip.tokenize(f"a embedding:{name} b")
    assert elsewhere() == []
