"""The doctor inside ComfyUI: good on the embedded model, a failed check is its own, nothing private in its JSON."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import folder_paths
import pytest
import torch

from comfyui_exemplar.hosts.comfy import front_end
from comfyui_exemplar.hosts.comfy.doctor import environment
from comfyui_exemplar.pipelines.doctor.machine import version_of

from .work import state_of

mm = comfy.model_management


def report_of(kit):
    """The last report, which is taken away."""
    folder = Path(folder_paths.get_output_directory()) / "exemplar_doctor"
    (path,) = folder.glob("*.json")
    text = path.read_text("utf-8")
    path.unlink()
    folder.rmdir()
    return json.loads(text), text


def verdicts(report):
    return {(check["group"], check["name"]): check["verdict"] for check in report["checks"]}


def examine(kit, **inputs):
    return kit.nodes("ExemplarDoctor", **{"quick": True, "embedded_files": False, **inputs})


def whole(kit):
    model, clip, vae, _ = kit.embedded
    return {"model": model, "clip": clip, "vae": vae}


def test_every_system_gives_here_what_was_recorded_on_the_command_line(kit):
    report, table, sheet = examine(kit, embedded_files=True)
    made, _ = report_of(kit)
    assert set(verdicts(made).values()) == {"good"}, [c for c in made["checks"] if c["verdict"] != "good"]
    assert len([1 for group, _ in verdicts(made) if group == "embedded"]) == 8
    for picture in (table, sheet):
        assert picture.ndim == 4 and picture.shape[-1] == 3 and picture.shape[1] > 100
        assert picture.isfinite().all() and float(picture.min()) >= 0 and float(picture.max()) <= 1
    facts = made["environment"]
    assert facts["host"] == "ComfyUI" and {"comfyui", "attention", "vram state", "torch", "pack"} <= set(facts)
    assert "exemplar colorization" in report and "good" in report


def test_the_front_end_is_the_one_that_is_served(monkeypatch, tmp_path):
    installed, folder = tmp_path / "comfyui_frontend_package" / "static", tmp_path / "build" / "web"
    release = tmp_path / "web_custom_versions" / "Comfy-Org_ComfyUI_frontend" / "1.50.2"
    about = tmp_path / "comfyui_frontend_package-1.58.1.dist-info"
    for made in (installed, folder, release, about):
        made.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: comfyui-frontend-package\nVersion: 1.58.1\n")
    told = {
        installed: "1.58.1",
        release: "1.50.2 of Comfy-Org_ComfyUI_frontend",
        folder: "a folder of its own (--front-end-root), which tells no version",
        None: version_of("comfyui-frontend-package"),
    }
    assert told[None]
    for place, version in told.items():
        monkeypatch.setattr(front_end.args, "front_end_root", place and str(place))
        assert environment()["front end"] == version
    server = SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(web_root=str(release))))
    monkeypatch.setitem(sys.modules, "server", server)
    assert environment()["front end"] == told[release]


def test_a_checkpoint_and_all_other_weights(kit):
    """The embedded model as though it were the user's; it is as it was afterward, and no folder is told."""
    lcad = dict(zip(("lcad_model", "lcad_clip", "lcad_vae"), kit.lcad, strict=True))
    before = state_of(kit)
    examine(kit, **whole(kit), **lcad, ddcolor=kit.ddcolor, deadiff=kit.deadiff)
    assert state_of(kit) == before
    made, text = report_of(kit)
    found = verdicts(made)
    assert found.pop(("checkpoint", "half beside single precision")) == "not_run"  # it is of no core loader
    assert set(found.values()) <= {"good", "look"}
    for name in ("bypass", "denoising", "round trip", "correspondence, mirrored", "correspondence, exchanged"):
        assert found["checkpoint", name] == "good", name
    assert {"DDColor", "L-CAD", "DEADiff"} <= {group for group, _ in found}
    for private in (str(Path.home()), folder_paths.base_path, str(Path(__file__).parents[3]), "custom_nodes"):
        assert private not in text


def test_where_memory_runs_out_is_said_and_the_others_go_on(kit):
    calls = []

    def scarce(_):
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with kit.watched("unet", scarce):
        examine(kit, **whole(kit))
    failed = [c for c in report_of(kit)[0]["checks"] if c["verdict"] == "failed"]
    assert [c["name"] for c in failed] == ["denoising"] and "memory ran out" in failed[0]["note"]
    assert "GiB" not in failed[0]["note"]


@pytest.mark.parametrize("at", [1, 9])
def test_cancel_ends_it_without_a_report(kit, at):
    calls, before = [], state_of(kit)

    def press(_):
        calls.append(1)
        if len(calls) == at:
            mm.interrupt_current_processing()

    try:
        with kit.watched("unet", press), pytest.raises(mm.InterruptProcessingException):
            examine(kit, **whole(kit))
    finally:
        mm.interrupt_current_processing(False)
    assert at <= len(calls) <= at + 1 and state_of(kit) == before
    assert not list((Path(folder_paths.get_output_directory()) / "exemplar_doctor").glob("*.json"))
    (Path(folder_paths.get_output_directory()) / "exemplar_doctor").rmdir()


def test_parts_of_a_model_are_refused(kit):
    model, clip, _, _ = kit.embedded
    with pytest.raises(ValueError, match="Doctor: vae: found nothing beside model, clip, expected"):
        examine(kit, model=model, clip=clip)
    with pytest.raises(ValueError, match="Doctor: model: found nothing beside clip"):
        examine(kit, clip=clip)
    with pytest.raises(ValueError, match="Doctor: ddcolor: found str, expected DDCOLOR"):
        examine(kit, ddcolor="x")


def test_models_of_the_other_kind_are_refused(kit):
    """Plain Stable Diffusion in L-CAD's place once was called good: it just leaves the gray picture out."""
    (model, clip, vae, _), (lcad_model, lcad_clip, lcad_vae) = kit.embedded, kit.lcad
    with pytest.raises(ValueError, match="Doctor: lcad_model: found BaseModel, expected the MODEL of Load L-CAD"):
        examine(kit, lcad_model=model, lcad_clip=lcad_clip, lcad_vae=lcad_vae)
    with pytest.raises(ValueError, match="Doctor: model: found an L-CAD MODEL, expected Stable Diffusion; connect it"):
        examine(kit, model=lcad_model, clip=clip, vae=vae)
