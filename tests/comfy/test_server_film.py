"""A film in color in a real ComfyUI server: the example workflow, what the page is told, and a canceled run."""

import json

import torch

from comfyui_exemplar.color import luminance_error, rgb_to_lab
from comfyui_exemplar.demo import FILM_KEYS, film_color_paths, film_path
from comfyui_exemplar.files.films import open_film
from comfyui_exemplar.files.pictures import load_picture

from .server import load_workflow, needs_comfyui, only, to_prompt

needs_comfyui()

FILM = "Color a film, key frames and reference"


def frames(path):
    return torch.stack([frame.picture for frame in open_film(path).frames()])


def test_the_film_goes_on_after_a_cancel_and_is_the_same(server):
    """Canceled while its second shot is at work; then again from the start, under another name."""
    prompt = to_prompt(load_workflow(FILM))
    node = only(prompt, "ExemplarColorizeVideo")
    asked = server.queue(prompt)
    server.wait_for_steps(asked, node, 8 + 30, seconds=300)
    server.raw("/interrupt", {})
    assert server.wait(asked).status == "interrupted"
    folder = server.base / "output" / "exemplar"
    (parts,) = folder.glob("film_*.parts")
    assert not list(folder.glob("film_*.mp4")) and len(list(parts.glob("shot_*"))) == 1
    run = server.run(prompt)
    assert run.status == "success", run.error
    (path,) = run.files[node]
    assert path.name == parts.name.removesuffix(".parts") and not parts.exists()
    check_film(path)
    prompt[node]["inputs"]["filename_prefix"] = "exemplar/other_film"
    again = server.run(prompt)
    assert again.status == "success", again.error
    assert again.files[node][0].read_bytes() == path.read_bytes()
    assert only(prompt, "ExemplarFindShots") in again.cached


def check_film(path):
    found, gray = frames(path), frames(film_path())
    assert found.shape == gray.shape
    assert float(luminance_error(found, gray).mean()) < 1.5
    for number, key in zip(FILM_KEYS, film_color_paths()[1:], strict=True):
        apart = rgb_to_lab(found[number][None])[..., 1:] - rgb_to_lab(load_picture(key))[..., 1:]
        assert float(apart.norm(dim=-1).mean()) < 4
    assert float(rgb_to_lab(found)[..., 1:].norm(dim=-1).mean()) > 10


def test_what_the_page_is_told(server):
    prompt = to_prompt(load_workflow(FILM))
    node = only(prompt, "ExemplarColorizeVideo")
    del prompt[only(prompt, "SaveVideo")]  # which takes no ProRes
    prompt[node]["inputs"] |= {"key_method": "none", "cuts": "0", "resolution": 64, "filename_prefix": "exemplar/told"}
    for codec, name in (("h264", "told_00001_.mp4"), ("prores", "told_00002_.mov")):
        prompt[node]["inputs"]["codec"] = codec
        history = json.loads(server.raw(f"/history/{wait_for(server, prompt)}"))
        (told,) = [found["outputs"][node] for found in history.values()]
        assert told["video"] == [{"filename": name, "subfolder": "exemplar", "type": "output"}]
        assert "animated" not in told and "images" not in told


def wait_for(server, prompt):
    asked = server.queue(prompt)
    run = server.wait(asked)
    assert run.status == "success", run.error
    return asked
