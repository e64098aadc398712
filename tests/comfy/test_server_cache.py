"""What a real ComfyUI server computes again, what it leaves alone, and how fast a run can be ended."""

import copy
import time

import pytest
import torch

from comfyui_exemplar.files.pictures import load_picture

from ..test_renamed import RENAMED
from .server import descendants, load_workflow, needs_comfyui, only, to_prompt
from .workflows import ONE_NODE, QUICK, STAGES, inversions, saved

needs_comfyui()


@pytest.mark.parametrize("name", QUICK)
def test_second_run_is_cached(server, name):
    prompt = to_prompt(load_workflow(name))
    assert server.run(prompt).status == "success"
    again = server.run(prompt)
    assert again.status == "success" and again.cached == set(prompt)


def test_changed_guidance_runs_only_what_depends_on_it(server, stages):
    before = saved(server, stages)
    guidance = only(stages, "ExemplarColorGuidance")
    stages[guidance]["inputs"]["guidance"] += 1
    run = server.run(stages)
    assert run.status == "success"
    assert set(stages) - run.cached == descendants(stages, guidance)
    (path,) = run.files[only(stages, "SaveImage")]
    assert not torch.equal(before, load_picture(path))


def test_a_prompt_with_the_names_that_inputs_had(server, stages):
    """It is the same prompt: it passes the server's checks, and nothing runs again."""
    assert server.run(stages).status == "success"
    old = copy.deepcopy(stages)
    for body in old.values():
        former = {name: key for key, name in RENAMED.get(body["class_type"], {}).items()}
        body["inputs"] = {former.get(name, name): value for name, value in body["inputs"].items()}
    merge = only(old, "ExemplarMergeLuminance")
    assert {"gray_image", "match_statistics", "chroma"} <= old[merge]["inputs"].keys()
    run = server.run(old)
    assert run.status == "success" and run.cached == set(old)
    old[merge]["inputs"]["match_chroma"] = 0.5  # stands beside the former name, and counts
    assert set(old) - server.run(old).cached == descendants(old, merge)


def test_results_do_not_depend_on_what_ran_before(server, stages):
    """Cached inversions serve other settings and come back unharmed: the first run equals one from nothing."""
    expected = saved(server, stages)
    other = copy.deepcopy(stages)
    other[only(other, "ExemplarDualAttentionColor")]["inputs"].update(gamma_shallow=1.0, strength=0.5)
    assert not torch.equal(saved(server, other), expected)
    server.forget()
    run = server.run(stages)
    assert run.status == "success" and not run.cached
    (path,) = run.files[only(stages, "SaveImage")]
    assert torch.equal(load_picture(path), expected)


def test_plain_sampling_is_untouched(server, stages, one_node):
    """The MODEL that clones were made of and patched samples bit for bit as before."""

    def plain(repeats: int) -> bytes:
        # RepeatLatentBatch by 1 changes nothing but makes another prompt, so that the sampler runs again
        prompt = {
            "1": {"class_type": "ExemplarLoadDemoModel", "inputs": {}},
            "2": {"class_type": "ExemplarLoadDemoPictures", "inputs": {"pictures": "drawing"}},
            "3": {
                "class_type": "ImageScale",
                "inputs": {"image": ["2", 1], "upscale_method": "area", "width": 96, "height": 96, "crop": "disabled"},
            },
            "4": {"class_type": "VAEEncode", "inputs": {"pixels": ["3", 0], "vae": ["1", 2]}},
        }
        latent = "4"
        for i in range(repeats):
            prompt[f"repeat{i}"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": [latent, 0], "amount": 1}}
            latent = f"repeat{i}"
        prompt["5"] = {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["1", 3],
                "negative": ["1", 3],
                "latent_image": [latent, 0],
                "seed": 7,
                "steps": 6,
                "cfg": 3.0,
                "sampler_name": "dpmpp_2m",
                "scheduler": "karras",
                "denoise": 0.8,
            },
        }
        prompt["6"] = {"class_type": "SaveLatent", "inputs": {"samples": ["5", 0], "filename_prefix": "plain"}}
        run = server.run(prompt)
        assert run.status == "success" and "5" not in run.cached, run.error
        assert repeats == 0 or "1" in run.cached  # the same MODEL object as before
        (path,) = run.files["6"]
        stored = path.read_bytes()
        return stored[8 + int.from_bytes(stored[:8], "little") :]  # tensors only: the header holds the prompt

    server.forget()
    before = plain(0)
    for prompt in (stages, one_node):
        run = server.run(prompt)
        assert run.status == "success" and only(prompt, "ExemplarLoadDemoModel") in run.cached
    assert plain(1) == before and len(before) > 4096


def long_one_node(prompt):
    node = only(prompt, "ExemplarColorize")
    prompt[node]["inputs"].update(passes=10, depth=100, steps=200)
    return node


def long_inversion(prompt):
    node = inversions(prompt)["input"]
    prompt[node]["inputs"].update(depth=900, steps=999)
    return node


def long_sampling(prompt):
    for node in inversions(prompt).values():
        prompt[node]["inputs"].update(depth=15, steps=50)
    # up and down within the kept levels, so that only the sampler is long
    node = only(prompt, "SamplerCustomAdvanced")
    levels = ", ".join(f"{2 - 1.8 * i / 900:.5f}" for i in range(900)) + ", 0.0"
    prompt["levels"] = {"class_type": "ManualSigmas", "inputs": {"sigmas": levels}}
    prompt[node]["inputs"]["sigmas"] = ["levels", 0]
    return node


@pytest.mark.parametrize(
    ("name", "lengthen"),
    [(ONE_NODE, long_one_node), (STAGES, long_inversion), (STAGES, long_sampling)],
)
def test_interruption(server, name, lengthen):
    prompt = to_prompt(load_workflow(name))
    expected = saved(server, prompt)
    endless = copy.deepcopy(prompt)
    node = lengthen(endless)

    queued = server.queue(endless)
    server.wait_for_steps(queued, node, 3)
    asked = time.monotonic()
    server.raw("/interrupt", {})
    run = server.wait(queued)
    took = time.monotonic() - asked
    assert run.status == "interrupted" and run.node == node
    # hundreds of steps of about a tenth of a second were left
    assert took < 3, f"went on for {took:.1f} s"

    server.forget()
    after = server.run(prompt)
    assert after.status == "success" and not after.cached
    (path,) = after.files[only(prompt, "SaveImage")]
    assert torch.equal(load_picture(path), expected)
