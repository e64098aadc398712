"""Inversions saved and loaded within ComfyUI: what comes out is what would have, and another model's is refused."""

import os

import folder_paths
import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker

from comfyui_exemplar.files.inversions import Inversions, load_inversions, save_inversions
from comfyui_exemplar.hosts.comfy.folders import INVERSIONS
from comfyui_exemplar.nodes import NODES

from . import models
from .sampling import invert, run

BY_ID = {node.define_schema().node_id: node for node in NODES}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """ComfyUI's output folder and its folder of inversions, empty."""
    for name in ("output", "models"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    known = {"inversions": ([str(tmp_path / "models")], {".safetensors"})}
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "inversions", known["inversions"])
    return tmp_path


def kept(nodes, *pair, **more):
    """What Load Inversion gives of what Save Inversion wrote."""
    inputs = dict(zip(("inversion", "gray_inversion"), pair, strict=False))
    nodes("ExemplarSaveInversion", **inputs, filename_prefix="inversions/kept")
    return nodes("ExemplarLoadInversion", inversion_name=INVERSIONS.choices()[-1], **more)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_stages_color_as_with_the_live_one(nodes, family, dtype):
    """DDIM Inversion -> save -> load -> Dual-Attention Color Injection -> sampling, bit for bit."""
    model, conditioning = models.tiny(family, dtype), models.prompt(family)
    generator = torch.Generator().manual_seed(1)
    latents = [torch.randn(1, 4, 16, 24, generator=generator) * 5 for _ in range(3)]
    source, reference, gray = (invert(nodes, model, conditioning, z) for z in latents)
    loaded = kept(nodes, reference[0], gray[0], model=model)
    assert torch.equal(loaded[2]["samples"], reference[1]["samples"]) and torch.equal(loaded[3], reference[2])

    def colored(color, colorless):
        (patched,) = nodes(
            "ExemplarDualAttentionColor",
            model=model,
            input_inversion=source[0],
            reference_inversion=color,
            gray_inversion=colorless,
            strength=1.0,
        )
        return run(patched, conditioning, source[1], source[2])

    live, again = colored(reference[0], gray[0]), colored(*loaded[:2])
    assert torch.isfinite(live).all() and torch.equal(live, again)
    precision = {tensor.dtype for tensor in loaded[0].bank.tensors}
    assert precision == {dtype}


@pytest.mark.parametrize("precision", ["model", "float16", "bfloat16"])
def test_exemplar_colorize_takes_a_file_for_its_reference(nodes, embedded, scene, precision):
    model, _, vae, empty = embedded
    inputs = {"model": model, "vae": vae, "conditioning": empty, "image": scene[0], "resolution": 64, "depth": 2}
    inputs |= {"steps": 20, "guidance": 3.0, "passes": 2, "match_chroma": 0.0, "precision": precision}
    first = nodes("ExemplarColorize", reference=scene[1], **inputs)
    color, gray, _, _ = kept(nodes, first[2], first[3])
    live = nodes("ExemplarColorize", **inputs, reference_inversion=first[2], gray_inversion=first[3])[0]
    again = nodes("ExemplarColorize", **inputs, reference_inversion=color, gray_inversion=gray)[0]
    assert torch.equal(live, again)
    assert (again - first[0]).abs().max() < 2e-3  # the reference shared its model calls with the input there


def test_without_a_pair_or_a_model_what_is_missing_is_said(nodes, inverted):
    color, gray, start, _ = kept(nodes, inverted["reference"][0])
    assert color.pictures == 1
    assert isinstance(gray, ExecutionBlocker) and "gray_inversion" in gray.message
    assert isinstance(start, ExecutionBlocker) and "connect the MODEL" in start.message


def test_another_model_is_refused_as_the_live_one_is(nodes, embedded, inverted):
    other = models.tiny("sd1")
    with pytest.raises(ValueError, match=r"^Load Inversion: inversion_name: found an inversion made with another mod"):
        kept(nodes, inverted["reference"][0], model=other)
    loaded = kept(nodes, inverted["reference"][0], inverted["gray"][0])
    for color in (inverted["reference"][0], loaded[0]):
        with pytest.raises(ValueError, match=r"^Dual-Attention Color Injection: .*made with another model"):
            nodes(
                "ExemplarDualAttentionColor",
                model=other,
                input_inversion=color,
                reference_inversion=color,
                gray_inversion=color,
            )


def test_two_models_are_not_kept_in_one_file(nodes, inverted):
    model = models.tiny("sd1")
    other = invert(nodes, model, models.prompt("sd1"), torch.randn(1, 4, 16, 16))[0]
    with pytest.raises(ValueError, match=r"^Save Inversion: gray_inversion: found one of another model"):
        kept(nodes, inverted["reference"][0], other)
    assert INVERSIONS.choices() == []


def test_references_of_several_sizes_are_of_the_command_line(nodes, embedded, inverted, folders):
    model, _, _, empty = embedded
    small = invert(nodes, model, empty, torch.randn(1, 4, 6, 6))[0]
    path = folders / "models" / "two.safetensors"
    save_inversions(path, Inversions((inverted["reference"][0], small), (inverted["gray"][0], small)))
    with pytest.raises(ValueError, match=r"^Load Inversion: inversion_name: found references of 2 sizes"):
        nodes("ExemplarLoadInversion", inversion_name="two.safetensors")


def test_nothing_is_replaced_and_the_list_follows(nodes, inverted, folders):
    names = []
    for _ in range(2):
        kept(nodes, inverted["reference"][0])
        names = INVERSIONS.choices()
    assert names == ["kept_00001_.safetensors [output]", "kept_00002_.safetensors [output]"]
    load = BY_ID["ExemplarLoadInversion"]
    assert all(load.validate_inputs(inversion_name=name) is True for name in names)
    assert "Write one with Save Inversion" in load.validate_inputs(inversion_name="kept_00003_.safetensors [output]")


def test_a_changed_file_is_loaded_anew(nodes, inverted, folders):
    kept(nodes, inverted["reference"][0])
    (name,) = INVERSIONS.choices()
    load, path = BY_ID["ExemplarLoadInversion"], folders / "output" / "inversions" / "kept_00001_.safetensors"
    before = load.fingerprint_inputs(inversion_name=name)
    assert before == load.fingerprint_inputs(inversion_name=name, model="any")
    save_inversions(path, Inversions((inverted["gray"][0],)))
    os.utime(path, ns=(1, 1))
    assert load.fingerprint_inputs(inversion_name=name) not in ("", before)
    assert load.fingerprint_inputs(inversion_name="none.safetensors") == ""


def test_the_cache_counts_what_was_loaded(nodes, inverted):
    live, loaded = inverted["reference"][0], kept(nodes, inverted["reference"][0])[0]
    assert sum(each.nbytes for each in loaded) == sum(each.nbytes for each in live) > 0
    assert load_inversions(INVERSIONS.path(INVERSIONS.choices()[0])).nbytes == sum(each.nbytes for each in live)
