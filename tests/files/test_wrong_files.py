"""Embeddings and concepts with one thing wrong in each: the right result, or one clear line."""

import pytest
import torch

from ..fixtures.weight_files import VECTORS, of_vectors
from ..fixtures.wrong_files import ODD_SHAPES, ODD_VALUES, Subject, outcome, wrong

EMBEDDINGS = {
    name: Subject(name, {key: VECTORS}, of_vectors, suffix=suffix, nest=nest, free=True)
    for name, key, suffix, nest in (
        ("emb_params", "emb_params", ".safetensors", ""),
        ("diffusers", "<style>", ".bin", ""),
        ("the web UI's", "*", ".pt", "string_to_param"),
        ("nested", "emb_params", ".pt", "state_dict"),
    )
}


@pytest.mark.parametrize("form", list(EMBEDDINGS))
def test_embeddings(tmp_path, form):
    subject = EMBEDDINGS[form]
    tried, bad = wrong(subject, tmp_path / f"odd{subject.suffix}", some=99)
    assert not bad and tried > 20


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("change", list(ODD_VALUES | ODD_SHAPES))
def test_a_tensor_alone(tmp_path, change, legacy):
    path = tmp_path / "a.pt"
    subject = EMBEDDINGS["diffusers"]
    torch.save((ODD_VALUES | ODD_SHAPES)[change](VECTORS), path, _use_new_zipfile_serialization=not legacy)
    assert outcome(subject, path, {"vectors": (VECTORS,)}, plausible=change in ODD_SHAPES) in (
        "refused",
        "same",
        "plausible",
    )


def test_concepts(tmp_path):
    from ..fixtures.weight_files import concept_subject

    tried, bad = wrong(concept_subject(tmp_path), tmp_path / "odd.safetensors", some=99)
    assert not bad and tried > 200


class Module(torch.nn.Module):
    """A network whose pickle says that it is inside itself."""


def test_a_network_inside_itself(tmp_path):
    from comfyui_exemplar.files.tensors import read_tensors

    module = Module()
    module._modules["again"] = module
    torch.save(module, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="more than 50 levels of modules"):
        read_tensors(tmp_path / "a.pt")
