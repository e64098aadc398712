"""DEADiff's workflows in a real ComfyUI server: style, things, and both with other edits."""

import torch

from comfyui_exemplar.color import ab_error, resize
from comfyui_exemplar.files.pictures import load_picture

from .server import ROOT, load_workflow, needs_comfyui, only, to_prompt
from .workflows import STYLE, STYLE_AND_COLOR, THING, pictures_of, saved

needs_comfyui()


def test_style_of_a_reference(server):
    """The paper of the reference is in every picture; without the node, and at weight 0, the model is what it was."""
    prompt = to_prompt(load_workflow(STYLE))
    apply = only(prompt, "ExemplarApplyDEADiff")
    paper = torch.tensor([0xF2, 0xD1, 0x6B]) / 255
    styled = pictures_of(server, prompt)
    prompt[apply]["inputs"]["weight"] = 0
    plain = pictures_of(server, prompt)
    prompt[only(prompt, "KSampler")]["inputs"]["model"] = prompt[apply]["inputs"]["model"]
    assert torch.equal(pictures_of(server, prompt), plain)
    far, near = (float((p.mean((1, 2)) - paper).norm(dim=1).mean()) for p in (plain, styled))
    assert near < 0.75 * far


def test_style_tokens_beside_an_image_prompt_on_the_same_layers(server):
    """An IP-Adapter-style patch before or after Apply DEADiff: one result, in which both are."""
    prompt = to_prompt(load_workflow(STYLE))
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

    prompt = to_prompt(load_workflow(THING))
    (save,) = (n for n, body in prompt.items() if body["inputs"].get("filename_prefix") == "exemplar/semantics")
    (crop,) = (n for n, body in prompt.items() if body["class_type"] == "ImageCropV2")
    (text,) = (n for n, body in prompt.items() if body["inputs"].get("text") == "blue")
    whole = load_picture(ROOT / "demo" / "pictures" / "words-reference.png")
    boxes = [prompt[crop]["inputs"]["crop_region"], {"x": 126, "y": 24, "width": 128, "height": 128}]
    found, shown = [], []
    for box in boxes:
        prompt[crop]["inputs"]["crop_region"] = box
        run = server.run(prompt)
        assert run.status == "success", run.error
        found.append(torch.cat([load_picture(path) for path in run.files[save]]))
        shown.append(whole[:, box["y"] : box["y"] + box["height"], box["x"] : box["x"] + box["width"]])
    drawn, wanted = (torch.cat([shapes(part.movedim(-1, 1)) for part in parts]) for parts in (found, shown))
    likeness = drawn @ wanted.T
    own = torch.arange(len(boxes)).repeat_interleave(len(found[0]))
    assert likeness.argmax(1).eq(own).float().mean() > 0.7
    prompt[crop]["inputs"]["crop_region"] = boxes[0]
    prompt[text]["inputs"]["text"] = ""
    unsaid = torch.cat([load_picture(path) for path in server.run(prompt).files[save]])
    blue, red = (p[:, 40:90, 40:90].mean((0, 1, 2)) for p in (found[0], unsaid))
    assert blue[2] > blue[0] and red[0] > red[2]


def test_style_and_colors_on_one_picture(server):
    """Both act: the paper is the third picture's, and the thing has the reference's colors."""
    prompt = to_prompt(load_workflow(STYLE_AND_COLOR))
    both = saved(server, prompt)
    guidance, apply = only(prompt, "ExemplarColorGuidance"), only(prompt, "ExemplarApplyDEADiff")
    colors = only(prompt, "ExemplarDualAttentionColor")
    prompt[guidance]["inputs"]["model"] = [colors, 0]
    without_style = saved(server, prompt)
    prompt[guidance]["inputs"]["model"] = [apply, 0]
    prompt[apply]["inputs"]["model"] = prompt[colors]["inputs"]["model"]
    without_colors = saved(server, prompt)
    folder = ROOT / "demo" / "pictures"
    gray, truth = (resize(load_picture(folder / f"drawing-{name}.png"), (128, 128)) for name in ("gray", "truth"))
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
