"""Translation and prompt control in a real ComfyUI server: workflows, and canceling in every phase."""

import copy
import time

import pytest
import torch

from comfyui_exemplar.files.pictures import load_picture

from .server import load_workflow, needs_comfyui, only, to_prompt
from .workflows import CONCEPT, CONCEPT_STAGES, PROMPTS

needs_comfyui()


def quick(name):
    """A workflow with as little to do as it can have."""
    prompt = to_prompt(load_workflow(name))
    small = {
        "updates": 2,
        "steps": 2,
        "depth": 2,
        "iterations": 1,
        "pivot_iterations": 1,
        "resolution": 32,
        "width": 32,
        "height": 32,
    }
    for body in prompt.values():
        body["inputs"].update({key: value for key, value in small.items() if key in body["inputs"]})
    return prompt


@pytest.mark.parametrize("name", [CONCEPT, CONCEPT_STAGES, PROMPTS])
def test_workflows_run(server, name):
    prompt = quick(name)
    run = server.run(prompt)
    assert run.status == "success", run.error
    for path in run.files[only(prompt, "SaveImage")]:
        picture = load_picture(path)
        assert bool(torch.isfinite(picture).all()) and float(picture.std()) > 0.01


LONG = {
    "concept": {"updates": 5000},
    "pivots": {"steps": 100, "pivot_iterations": 500},
    "fusion": {"steps": 100, "pivot_iterations": 0, "updates": 1},
}


@pytest.mark.parametrize("phase", LONG)
def test_canceling_in_every_phase(server, phase):
    """It ends within a step, and the next run is as if it had never begun."""
    prompt = quick(CONCEPT)
    node = only(prompt, "ExemplarTranslate")
    server.forget()
    before = server.run(prompt)
    assert before.status == "success", before.error
    endless = copy.deepcopy(prompt)
    endless[node]["inputs"].update(LONG[phase])
    # the climb of 100 steps comes before pivots and fusion
    reached = {"concept": 3, "pivots": 2 + 100 + 3, "fusion": 1 + 100 + 3}[phase]
    queued = server.queue(endless)
    server.wait_for_steps(queued, node, reached, seconds=240)
    asked = time.monotonic()
    server.raw("/interrupt", {})
    run = server.wait(queued)
    assert run.status == "interrupted" and run.node == node
    assert time.monotonic() - asked < 10
    server.forget()
    after = server.run(prompt)
    assert after.status == "success" and not after.cached
    pictures = [load_picture(run.files[only(prompt, "SaveImage")][0]) for run in (before, after)]
    assert torch.equal(*pictures)


def test_what_is_missing_is_said(server):
    prompt = quick(CONCEPT)
    node = only(prompt, "ExemplarTranslate")
    del prompt[node]["inputs"]["reference"]
    run = server.run(prompt)
    assert run.status == "error" and "expected either a reference picture" in run.error
