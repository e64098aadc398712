"""The example workflows by short names, and what tests read off them and off what they save."""

import torch

from comfyui_exemplar.color import rgb_to_lab
from comfyui_exemplar.files.pictures import load_picture
from texts.schemas import read

from .server import ROOT, only

ONE_NODE, STAGES = "Color by example", "Color by example, stage by stage"
AUTOMATIC = "Automatic color (DDColor)"
WORDS, WORDS_AND_MASKS = "Color by words (L-CAD)", "Color by words and masks (L-CAD)"
TEXT_TO_IMAGE, PROMPTS = "Text to image (embedded model)", "Edit by prompt (prompt-to-prompt)"
CONCEPT, CONCEPT_STAGES = "Concept of a reference (VCT)", "Concept of a reference, stage by stage (VCT)"
STYLE, THING = "Style of a reference (DEADiff)", "Thing of a reference (DEADiff)"
STYLE_AND_COLOR = "Style of one picture, colors of another"
MEMORY, PALETTE = "Color memory, two references and strokes", "A page in the colors of a palette"
TWO_REFERENCES = "Color by two references, with masks"
STEADY = "Steady color over frames"

COLORING = (ONE_NODE, STAGES)
QUICK = (*COLORING, TEXT_TO_IMAGE, AUTOMATIC, WORDS, PROMPTS, STYLE, THING, MEMORY, PALETTE, TWO_REFERENCES)
WORKFLOWS = tuple(sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json")))
NODES = set(read())


def demo_picture(name: str) -> torch.Tensor:
    """A picture that comes with the pack, (1, H, W, 3)."""
    return load_picture(next((ROOT / "demo" / "pictures").glob(f"{name}.*")))


def chroma(image: torch.Tensor) -> float:
    return float(rgb_to_lab(image)[..., 1:].norm(dim=-1).mean())


def saved(server, prompt: dict) -> torch.Tensor:
    """The picture that the prompt's Save Image writes."""
    run = server.run(prompt)
    assert run.status == "success", run.error
    (path,) = run.files[only(prompt, "SaveImage")]
    return load_picture(path)


def pictures_of(server, prompt: dict) -> torch.Tensor:
    """All pictures that the prompt's Save Image writes."""
    run = server.run(prompt)
    assert run.status == "success", run.error
    return torch.cat([load_picture(path) for path in run.files[only(prompt, "SaveImage")]])


def inversions(prompt: dict) -> dict[str, str]:
    """Ids of the DDIM Inversion nodes by the role in which color injection takes them."""
    inputs = prompt[only(prompt, "ExemplarDualAttentionColor")]["inputs"]
    return {role: inputs[f"{role}_inversion"][0] for role in ("input", "reference", "gray")}


def message(server, prompt: dict) -> str:
    """What the node that refuses a prompt says."""
    run = server.run(prompt)
    assert run.status == "error", "a bad prompt ran"
    return run.error
