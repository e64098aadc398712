"""The doctor's example workflow in a real ComfyUI server: its table is shown, its report lies in the output folder."""

import json

from .server import load_workflow, needs_comfyui, only, to_prompt

needs_comfyui()

DOCTOR = "Doctor, is everything as it should be"


def test_the_workflow_gives_a_good_report(server):
    """On the connected embedded model; the pack's own files are looked at in ``inside/test_doctor.py``."""
    prompt = to_prompt(load_workflow(DOCTOR))
    node = only(prompt, "ExemplarDoctor")
    prompt[node]["inputs"]["embedded_files"] = False
    run = server.run(prompt)
    assert run.status == "success", run.error
    (made,) = [path for path in run.files[node] if path.suffix == ".json"]
    text = made.read_text("utf-8")
    assert {check["verdict"] for check in json.loads(text)["checks"]} <= {"good", "not_run"}
    assert str(made.parents[2]) not in text
