"""The pack in a real ComfyUI server: its workflows, cache, interruption, errors and texts."""

import copy
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_exemplar.color import ab_error, psnr, resize, rgb_to_lab

from ..small_ddcolor import small_weights
from .server import PACK, ROOT, check_inputs, descendants, load_workflow, needs_comfyui, only, to_prompt

needs_comfyui()

COLORING = ("exemplar_colorize_one_node", "exemplar_colorize_stages")
QUICK = (
    *COLORING,
    "embedded_model_words",
    "ddcolor",
    "lcad_words",
    "prompt_control",
    "deadiff_style",
    "deadiff_semantics",
)
WORKFLOWS = (*QUICK, "lcad_words_and_masks", "deadiff_style_and_color", "translate_one_node", "translate_stages")
NODES = {
    "ExemplarColorize",
    "ExemplarAttentionCapture",
    "ExemplarDDIMInversion",
    "ExemplarDualAttentionColor",
    "ExemplarColorGuidance",
    "ExemplarMatchLatentStatistics",
    "ExemplarDesaturate",
    "ExemplarMergeLuminance",
    "ExemplarLatentLuminance",
    "ExemplarAttentionMap",
    "ExemplarLoadDemoModel",
    "ExemplarLoadDemoPictures",
    "ExemplarLoadDDColor",
    "ExemplarDDColor",
    "ExemplarConfidenceBlend",
    "ExemplarLoadLCAD",
    "ExemplarLCADCondition",
    "ExemplarLCADDecode",
    "ExemplarLCADInstances",
    "ExemplarLoadCLIPSeg",
    "ExemplarReferringMask",
    "ExemplarLoadDEADiff",
    "ExemplarDEADiffEncode",
    "ExemplarApplyDEADiff",
    "ExemplarPivotInversion",
    "ExemplarConceptInversion",
    "ExemplarConceptFusion",
    "ExemplarPromptControl",
    "ExemplarTranslate",
    "ExemplarPublishedSampler",
}


@pytest.fixture(scope="module", autouse=True)
def ddcolor_file(server):
    """A tiny network of random numbers where a released one would be."""
    folder = server.base / "models" / "ddcolor"
    folder.mkdir(exist_ok=True)
    torch.save({"params": small_weights()}, folder / "ddcolor_modelscope.pth")


@pytest.fixture(scope="module")
def object_info(server, ddcolor_file):
    return server.get("/object_info")


@pytest.fixture
def one_node():
    return to_prompt(load_workflow("exemplar_colorize_one_node"))


@pytest.fixture
def stages():
    return to_prompt(load_workflow("exemplar_colorize_stages"))


def picture(path: Path) -> torch.Tensor:
    with Image.open(path) as file:
        return torch.from_numpy(np.asarray(file.convert("RGB"), dtype=np.float32) / 255)[None]


def demo_picture(name: str) -> torch.Tensor:
    return picture(next((ROOT / "demo" / "pictures").glob(f"{name}.*")))


def chroma(image: torch.Tensor) -> float:
    return float(rgb_to_lab(image)[..., 1:].norm(dim=-1).mean())


def saved(server, prompt: dict) -> torch.Tensor:
    """The picture that the prompt's Save Image writes."""
    run = server.run(prompt)
    assert run.status == "success", run.error
    (path,) = run.files[only(prompt, "SaveImage")]
    return picture(path)


def inversions(prompt: dict) -> dict[str, str]:
    """Ids of the DDIM Inversion nodes by the role in which color injection takes them."""
    inputs = prompt[only(prompt, "ExemplarDualAttentionColor")]["inputs"]
    return {role: inputs[f"{role}_inversion"][0] for role in ("input", "reference", "gray")}


# What is registered and served


def test_all_nodes_are_registered(server, object_info):
    log = server.log()
    assert f"(IMPORT FAILED): {server.base}/custom_nodes/{PACK}" not in log
    assert {name for name in object_info if name.startswith("Exemplar")} == NODES


def test_every_node_says_what_it_is(object_info):
    for name in NODES:
        info = object_info[name]
        assert info["display_name"] and info["description"] and info["search_aliases"], name
        assert info["category"].split("/")[0] == "exemplar", name
        assert info["python_module"] == f"custom_nodes.{PACK}", name
        assert len(info["output"]) == len(info["output_name"]) == len(info["output_tooltips"]), name
        for inputs in info["input"].values():
            for key, (_, options) in inputs.items():
                if "default" in options:  # widgets need an explanation; most sockets explain themselves
                    assert options.get("tooltip"), f"{name}.{key}"


@pytest.mark.parametrize("page", sorted(NODES))
def test_help_pages_are_served(server, page):
    # the page falls back from docs/ID/LANGUAGE.md to docs/ID.md; this one it always needs
    assert len(server.raw(f"/extensions/{PACK}/docs/{page}.md")) > 200


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_languages_are_served(server, language):
    texts = server.get("/api/i18n")[language]["nodeDefs"]
    assert set(texts) >= NODES
    assert texts["ExemplarColorize"]["display_name"] != "Exemplar Colorize"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_templates_are_listed_with_thumbnails(server, name):
    assert name in server.get("/workflow_templates")[PACK]
    assert json.loads(server.raw(f"/api/workflow_templates/{PACK}/{name}.json")) == load_workflow(name)
    thumbnail = server.raw(f"/api/workflow_templates/{PACK}/{name}.jpg")
    assert thumbnail.startswith(b"\xff\xd8") and len(thumbnail) <= 100_000


# The example workflows


def test_workflows_use_every_node():
    used = {node["type"] for name in WORKFLOWS for node in load_workflow(name)["nodes"]}  # muted ones too
    assert used >= NODES


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflow_fits_the_nodes(object_info, name):
    """Saved values go to widgets by position, so a node that gains or moves an input breaks saved workflows
    silently."""
    workflow = load_workflow(name)
    for node_id, body in to_prompt(workflow).items():
        check_inputs(object_info, node_id, body)
    for node in workflow["nodes"]:
        if node["type"].startswith("Exemplar"):
            named = dict(
                zip([s["name"] for s in node["inputs"] if "widget" in s], node.get("widgets_values", []), strict=True)
            )
            assert named == node.get("widgets_values_named", {})
            order = [*object_info[node["type"]]["input_order"].get("required", ())]
            order += object_info[node["type"]]["input_order"].get("optional", ())
            assert list(named) == [key for key in order if key in named]


def test_words_workflow_draws(server):
    """A red apple on white, four times, with stock nodes alone."""
    prompt = to_prompt(load_workflow("embedded_model_words"))
    run = server.run(prompt)
    assert run.status == "success", run.error
    pictures = torch.cat([picture(path) for path in run.files[only(prompt, "SaveImage")]])
    assert pictures.shape == (4, 128, 128, 3)
    assert float(pictures[:, :6, :6].mean()) > 0.85
    red, green, blue = pictures[:, 48:96, 40:88].mean((0, 1, 2)).tolist()
    assert red > max(green, blue) + 0.2


@pytest.mark.parametrize("name", COLORING)
def test_workflow_colors_the_picture(server, name):
    result = saved(server, to_prompt(load_workflow(name)))
    gray, truth = demo_picture("drawing-gray"), demo_picture("drawing-truth")
    assert result.shape == gray.shape
    assert chroma(gray) < 0.1 < 2 < chroma(result)
    # nearer to the drawing's true colors than without any, and as light as the gray picture to within 8 bit
    assert psnr(result, truth) > psnr(gray, truth) + 1
    assert float((rgb_to_lab(result)[..., 0] - rgb_to_lab(gray)[..., 0]).abs().max()) < 1


def pictures_of(server, prompt: dict) -> torch.Tensor:
    """All pictures that the prompt's Save Image writes."""
    run = server.run(prompt)
    assert run.status == "success", run.error
    return torch.cat([picture(path) for path in run.files[only(prompt, "SaveImage")]])


def test_style_of_a_reference(server):
    """The paper of the reference is in every picture; without the node, and at weight 0, the model is what it was."""
    prompt = to_prompt(load_workflow("deadiff_style"))
    apply = only(prompt, "ExemplarApplyDEADiff")
    paper = torch.tensor([0x55, 0xC2, 0xB8]) / 255
    styled = pictures_of(server, prompt)
    prompt[apply]["inputs"]["weight"] = 0
    plain = pictures_of(server, prompt)
    prompt[only(prompt, "KSampler")]["inputs"]["model"] = prompt[apply]["inputs"]["model"]
    assert torch.equal(pictures_of(server, prompt), plain)
    far, near = (float((p.mean((1, 2)) - paper).norm(dim=1).mean()) for p in (plain, styled))
    assert near < 0.75 * far


def test_style_tokens_beside_an_image_prompt_on_the_same_layers(server):
    """An IP-Adapter-style patch before or after Apply DEADiff: one result, in which both are."""
    prompt = to_prompt(load_workflow("deadiff_style"))
    apply, sampler = only(prompt, "ExemplarApplyDEADiff"), only(prompt, "KSampler")
    model = prompt[apply]["inputs"]["model"]
    alone = pictures_of(server, prompt)
    prompt["other"] = {"class_type": "TestImagePrompt", "inputs": {"model": [apply, 0]}}
    prompt[sampler]["inputs"]["model"] = ["other", 0]
    after = pictures_of(server, prompt)
    prompt["other"]["inputs"]["model"] = model
    without = pictures_of(server, prompt)
    prompt[apply]["inputs"]["model"] = ["other", 0]
    prompt[sampler]["inputs"]["model"] = [apply, 0]
    before = pictures_of(server, prompt)
    assert torch.equal(before, after)
    assert min(float((after - other).abs().mean()) for other in (alone, without)) > 0.01


def test_semantics_of_a_reference(server):
    """Two cut-outs of one picture, no word for either: things like the one that is cut out, in the color that is
    said."""
    from training.adapter_measure import shapes

    prompt = to_prompt(load_workflow("deadiff_semantics"))
    (save,) = (n for n, body in prompt.items() if body["inputs"].get("filename_prefix") == "exemplar/semantics")
    (crop,) = (n for n, body in prompt.items() if body["class_type"] == "ImageCropV2")
    (text,) = (n for n, body in prompt.items() if body["class_type"] == "CLIPTextEncode")
    whole = picture(ROOT / "demo" / "pictures" / "words-reference.png")
    boxes = [prompt[crop]["inputs"]["crop_region"], {"x": 126, "y": 24, "width": 128, "height": 128}]
    found, shown = [], []
    for box in boxes:
        prompt[crop]["inputs"]["crop_region"] = box
        run = server.run(prompt)
        assert run.status == "success", run.error
        found.append(torch.cat([picture(path) for path in run.files[save]]))
        shown.append(whole[:, box["y"] : box["y"] + box["height"], box["x"] : box["x"] + box["width"]])
    drawn, wanted = (torch.cat([shapes(part.movedim(-1, 1)) for part in parts]) for parts in (found, shown))
    likeness = drawn @ wanted.T
    own = torch.arange(len(boxes)).repeat_interleave(len(found[0]))
    assert likeness.argmax(1).eq(own).float().mean() > 0.7
    prompt[crop]["inputs"]["crop_region"] = boxes[0]
    prompt[text]["inputs"]["text"] = ""
    unsaid = torch.cat([picture(path) for path in server.run(prompt).files[save]])
    blue, red = (p[:, 40:90, 40:90].mean((0, 1, 2)) for p in (found[0], unsaid))
    assert blue[2] > blue[0] and red[0] > red[2]


def test_style_and_colors_on_one_picture(server):
    """Both act: the paper is the third picture's, and the thing has the reference's colors."""
    prompt = to_prompt(load_workflow("deadiff_style_and_color"))
    both = saved(server, prompt)
    guidance, apply = only(prompt, "ExemplarColorGuidance"), only(prompt, "ExemplarApplyDEADiff")
    colors = only(prompt, "ExemplarDualAttentionColor")
    prompt[guidance]["inputs"]["model"] = [colors, 0]
    without_style = saved(server, prompt)
    prompt[guidance]["inputs"]["model"] = [apply, 0]
    prompt[apply]["inputs"]["model"] = prompt[colors]["inputs"]["model"]
    without_colors = saved(server, prompt)
    folder = ROOT / "demo" / "pictures"
    gray, truth = (resize(picture(folder / f"drawing-{name}.png"), (128, 128)) for name in ("gray", "truth"))
    thing = gray[..., 0] < 0.97
    paper = torch.tensor([0xF2, 0xD1, 0x6B]) / 255
    ground = {
        name: float((p[~thing] - paper).norm(dim=-1).mean())
        for name, p in (("both", both), ("no style", without_style))
    }
    assert ground["both"] < 0.6 * ground["no style"]
    error = {
        name: float(ab_error(p, truth, thing.float())) for name, p in (("both", both), ("no colors", without_colors))
    }
    assert error["both"] < 0.7 * error["no colors"]


def test_a_missing_deadiff_is_said_before_anything_runs(server):
    prompt = to_prompt(load_workflow("deadiff_style"))
    for node in [node for node, body in prompt.items() if body["class_type"] == "PreviewImage"]:
        del prompt[node]
    prompt[only(prompt, "ExemplarLoadDEADiff")]["inputs"]["model_name"] = "deadiff_v1.ckpt"
    status, text = server.refusal(prompt)
    assert status == 400
    assert "no 'deadiff_v1.ckpt'" in text and "put it into models/deadiff" in text


def test_more_references_than_weights(server):
    prompt = to_prompt(load_workflow("deadiff_style"))
    prompt[only(prompt, "ExemplarDEADiffEncode")]["inputs"]["weights"] = "1, 0.5"
    run = server.run(prompt)
    assert run.status == "error" and "1 references and 2 weights" in str(run.error)


def automatic(server, prompt: dict) -> list[torch.Tensor]:
    """What the workflow of DDColor saves: colored with no reference, and blended."""
    run = server.run(prompt)
    assert run.status == "success", run.error
    return [picture(run.files[node][0]) for node, body in prompt.items() if body["class_type"] == "SaveImage"]


def test_automatic_color(server):
    results = automatic(server, to_prompt(load_workflow("ddcolor")))
    gray, truth = demo_picture("scene-gray"), demo_picture("scene-truth")
    assert len(results) == 2 and not torch.equal(*results)
    for result in results:
        assert result.shape == gray.shape and chroma(result) > 2
        assert float((rgb_to_lab(result)[..., 0] - rgb_to_lab(gray)[..., 0]).abs().max()) < 1
        assert float(ab_error(result, truth)) < float(ab_error(gray, truth))


def test_automatic_color_by_a_file_of_the_user(server, ddcolor_file):
    prompt = to_prompt(load_workflow("ddcolor"))
    embedded, _ = automatic(server, prompt)
    prompt[only(prompt, "ExemplarLoadDDColor")]["inputs"]["model_name"] = "ddcolor_modelscope.pth"
    found, _ = automatic(server, prompt)
    assert found.shape == embedded.shape and chroma(found) > 2
    assert not torch.equal(found, embedded)


def test_color_from_words(server):
    prompt = to_prompt(load_workflow("lcad_words"))
    gray = demo_picture("words-gray")
    first = saved(server, prompt)
    assert first.shape == gray.shape and chroma(first) > 2
    assert float((rgb_to_lab(first)[..., 0] - rgb_to_lab(gray)[..., 0]).abs().max()) < 1
    (words,) = [node for node, body in prompt.items() if body["inputs"].get("text")]
    prompt[words]["inputs"]["text"] = "a green apple, a blue umbrella"
    run = server.run(prompt)
    assert run.status == "success" and only(prompt, "ExemplarLoadLCAD") in run.cached
    (path,) = run.files[only(prompt, "SaveImage")]
    # the left half has the apple: less of a, which is green to red
    redness = [float(rgb_to_lab(each[:, 80:, :128])[..., 1].mean()) for each in (first, picture(path))]
    assert redness[1] < redness[0] - 5


def test_words_without_the_gray_picture(server):
    prompt = to_prompt(load_workflow("lcad_words"))
    condition = only(prompt, "ExemplarLCADCondition")
    plain = prompt[condition]["inputs"]["positive"]
    for body in prompt.values():
        if body["class_type"] == "KSampler":
            body["inputs"]["positive"] = plain
    assert "put L-CAD Condition between" in message(server, prompt)


def test_a_missing_network_is_said_before_anything_runs(server):
    prompt = to_prompt(load_workflow("ddcolor"))
    for node in [node for node, body in prompt.items() if body["class_type"] == "PreviewImage"]:
        del prompt[node]
    prompt[only(prompt, "ExemplarLoadDDColor")]["inputs"]["model_name"] = "ddcolor_artistic.pth"
    status, text = server.refusal(prompt)
    assert status == 400
    assert "no 'ddcolor_artistic.pth'" in text and "put it into models/ddcolor" in text


@pytest.mark.parametrize("pictures", ["scene", "photo"])
def test_other_pictures_keep_their_size(server, one_node, pictures):
    one_node[only(one_node, "ExemplarLoadDemoPictures")]["inputs"]["pictures"] = pictures
    result = saved(server, one_node)
    gray = demo_picture(f"{pictures}-gray")
    assert result.shape == gray.shape
    assert chroma(result) > chroma(gray) + 2


def test_blueprint_is_listed_and_fits_the_nodes(server, object_info):
    listed = server.get("/global_subgraphs")
    (found,) = [key for key, entry in listed.items() if entry["info"]["node_pack"] == f"custom_nodes.{PACK}"]
    blueprint = json.loads(server.get(f"/global_subgraphs/{found}")["data"])
    (path,) = (ROOT / "subgraphs").glob("*.json")
    assert listed[found]["name"] == path.stem and blueprint == json.loads(path.read_text("utf-8"))
    (subgraph,) = blueprint["definitions"]["subgraphs"]
    (outside,) = blueprint["nodes"]
    assert outside["type"] == subgraph["id"]
    assert [slot["name"] for slot in outside["inputs"]] == [slot["name"] for slot in subgraph["inputs"]]
    # the page's two ways to write links down: lists outside, objects with negative ids for the edge inside
    links = [[link[key] for key in ("id", "origin_id", "origin_slot")] for link in subgraph["links"]]
    prompt = to_prompt({"nodes": subgraph["nodes"], "links": links})
    for node_id, body in prompt.items():
        check_inputs(object_info, node_id, body)
    given = {slot["name"]: slot["type"] for slot in subgraph["inputs"]}
    for body in prompt.values():
        specs = object_info[body["class_type"]]["input"]
        for key, value in body["inputs"].items():
            if isinstance(value, list) and value[0] == "-10":
                (kind, *_) = {**specs["required"], **specs.get("optional", {})}[key]
                assert kind == list(given.values())[value[1]], key


# What is computed again


@pytest.mark.parametrize("name", QUICK)
def test_second_run_is_cached(server, name):
    prompt = to_prompt(load_workflow(name))
    assert server.run(prompt).status == "success"
    again = server.run(prompt)
    assert again.status == "success" and again.cached == set(prompt)


def test_changed_guidance_runs_only_what_depends_on_it(server, stages):
    before = saved(server, stages)
    guidance = only(stages, "ExemplarColorGuidance")
    stages[guidance]["inputs"]["weight"] += 1
    run = server.run(stages)
    assert run.status == "success"
    assert set(stages) - run.cached == descendants(stages, guidance)
    (path,) = run.files[only(stages, "SaveImage")]
    assert not torch.equal(before, picture(path))


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
    assert torch.equal(picture(path), expected)


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


# Interruption


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
    [(WORKFLOWS[0], long_one_node), (WORKFLOWS[1], long_inversion), (WORKFLOWS[1], long_sampling)],
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
    assert torch.equal(picture(path), expected)


# Errors: what was found, what was expected


def message(server, prompt: dict) -> str:
    run = server.run(prompt)
    assert run.status == "error", "a bad prompt ran"
    return run.error


@pytest.mark.parametrize("name", COLORING)
def test_depth_beyond_the_schedule_is_refused_at_once(server, name):
    prompt = to_prompt(load_workflow(name))
    for node in [node for node, body in prompt.items() if body["class_type"] == "PreviewImage"]:
        del prompt[node]  # ComfyUI refuses a prompt only when none of its outputs can be made
    for body in prompt.values():
        if "depth" in body["inputs"]:
            body["inputs"]["depth"] = 60
    status, text = server.refusal(prompt)
    assert status == 400
    assert "depth is 60" in text and "only 20 steps" in text


def test_inversions_of_different_depth(server, stages):
    stages[inversions(stages)["gray"]]["inputs"]["depth"] = 12
    text = message(server, stages)
    assert "do not visit the same levels" in text
    assert "gray has 12" in text and "reference 4" in text and "Use the same" in text


def test_inversions_of_different_size(server, stages):
    role = inversions(stages)["gray"]
    encode = stages[stages[role]["inputs"]["latent"][0]]
    small = {
        "image": encode["inputs"]["pixels"],
        "upscale_method": "area",
        "width": 64,
        "height": 64,
        "crop": "disabled",
    }
    stages["other size"] = {"class_type": "ImageScale", "inputs": small}
    encode["inputs"]["pixels"] = ["other size", 0]
    text = message(server, stages)
    assert "tokens" in text and "same size" in text


def test_inversion_without_kept_features(server, stages):
    stages[inversions(stages)["reference"]]["inputs"]["model"] = [only(stages, "ExemplarLoadDemoModel"), 0]
    text = message(server, stages)
    assert "reference kept no attention features" in text and "Attention Capture" in text


def test_inversion_without_the_asked_layers(server, stages):
    stages[only(stages, "ExemplarAttentionCapture")]["inputs"]["layers"] = "fine"
    text = message(server, stages)
    assert "kept" in text and "output." in text


def test_inversion_by_another_model(server, stages):
    stages["other"] = {"class_type": "TestOtherModel", "inputs": {}}
    stages[only(stages, "ExemplarDualAttentionColor")]["inputs"]["model"] = ["other", 0]
    text = message(server, stages)
    assert "another model" in text and "this one is" in text and "Invert the picture again" in text


def test_latent_of_another_size(server, stages):
    sampler = stages[only(stages, "SamplerCustomAdvanced")]["inputs"]
    stages["crop"] = {
        "class_type": "LatentCrop",
        "inputs": {"samples": sampler["latent_image"], "width": 128, "height": 64, "x": 0, "y": 0},
    }
    sampler["latent_image"] = ["crop", 0]
    text = message(server, stages)
    assert "The latent to sample is 16 x 8" in text and "inverted at 32 x 32" in text


def test_levels_that_were_never_kept(server, stages):
    stages["levels"] = {"class_type": "ManualSigmas", "inputs": {"sigmas": "14.0, 12.0, 10.0"}}
    stages[only(stages, "SamplerCustomAdvanced")]["inputs"]["sigmas"] = ["levels", 0]
    text = message(server, stages)
    assert (
        "visits sigmas 14.000 to 10.000" in text and "kept from" in text and "sigmas output of DDIM Inversion" in text
    )


def test_one_half_of_a_reference_pair(server, one_node):
    node = only(one_node, "ExemplarColorize")
    one_node["second"] = copy.deepcopy(one_node[node])
    one_node["second"]["inputs"]["reference_inversion"] = [node, 2]
    one_node[only(one_node, "SaveImage")]["inputs"]["images"] = ["second", 0]
    text = message(server, one_node)
    assert "both reference_inversion and gray_inversion" in text


def test_reference_of_another_depth(server, one_node):
    node = only(one_node, "ExemplarColorize")
    one_node["second"] = copy.deepcopy(one_node[node])
    one_node["second"]["inputs"].update(depth=9, reference_inversion=[node, 2], gray_inversion=[node, 3])
    one_node[only(one_node, "SaveImage")]["inputs"]["images"] = ["second", 0]
    text = message(server, one_node)
    assert "4 of 20" in text and "9 of 20" in text


def test_a_right_run_after_all_these(server, stages):
    assert chroma(saved(server, stages)) > 2
