"""What the nodes of the pack work on: tiny models, pictures and inversions, in folders of their own."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import folder_paths
import torch

from comfyui_exemplar.files.pictures import save_picture
from comfyui_exemplar.hosts.comfy import vct_concept
from comfyui_exemplar.hosts.comfy.folders import CLIPSEG

from ...fixtures.clipseg import save as save_clipseg


@dataclass
class Kit:
    """What the runs work on. ``pictures`` is how many pictures, references, latents or phrases there are."""

    nodes: Callable
    embedded: tuple
    scene: tuple
    source: tuple
    inverted: dict
    lcad: tuple
    ddcolor: Any
    deadiff: Any
    tokens: Any
    referring: Any
    folder: Path
    latents: dict = field(default_factory=dict)
    memory: Any = None

    @property
    def model(self):
        return self.embedded[0]

    def latent(self, pictures):
        """A LATENT of colored pictures, encoded before anything is watched."""
        if pictures not in self.latents:
            self.latents[pictures] = self.embedded[2].encode(self.colors(pictures))
        return {"samples": self.latents[pictures]}

    def grays(self, pictures):
        return turned(self.scene[0], pictures)

    def colors(self, pictures):
        return turned(self.scene[1], pictures)

    def networks(self):
        """Name -> the module that long work goes through, and the name of what is called of it."""
        model, _, vae, _ = self.embedded
        gray = self.lcad[2].network
        return {
            "unet": (model.model.diffusion_model, "forward"),
            "vae encode": (vae.first_stage_model, "encode"),
            "vae decode": (vae.first_stage_model, "decode"),
            "lcad unet": (self.lcad[0].model.diffusion_model, "forward"),
            "lcad encode": (gray, "encode"),
            "lcad decode": (gray, "decode"),
            "ddcolor": (self.ddcolor.network, "forward"),
            "deadiff": (self.deadiff.network, "forward"),
            "referring": (self.referring.loaded.network, "forward"),
        }

    @contextmanager
    def watched(self, name, before):
        """Call ``before`` with the number of rows of every call of a network; what learns through it is watched too."""
        module, method = self.networks()[name]
        if method == "forward":
            hook = module.register_forward_pre_hook(
                lambda _, args, kw: before(rows_of(args, kw)) and None, with_kwargs=True
            )
            try:
                yield
            finally:
                hook.remove()
            return
        original = getattr(module, method)

        def watched(*args, **kw):
            before(rows_of(args, kw))
            return original(*args, **kw)

        setattr(module, method, watched)
        try:
            yield
        finally:
            delattr(module, method)


@contextmanager
def kit_in(folder, nodes, embedded, scene, source, inverted):
    """A kit in a folder of its own, which ComfyUI takes for its own meanwhile."""
    places = {name: folder / name for name in ("embeddings", "clipseg", "input", "output", "temp")}
    for path in places.values():
        path.mkdir()
    before = {name: getattr(folder_paths, f"get_{name}_directory")() for name in ("input", "output", "temp")}
    known = dict(folder_paths.folder_names_and_paths)
    for name in before:
        getattr(folder_paths, f"set_{name}_directory")(str(places[name]))
    for name in ("embeddings", CLIPSEG.name):
        folder_paths.folder_names_and_paths[name] = ([str(places[name])], {".safetensors"})
    with torch.inference_mode(False), torch.no_grad():
        save_clipseg(places["clipseg"] / "tiny")
    (places["input"] / "scans").mkdir()
    for path in (places["input"] / "a.png", places["input"] / "scans" / "b.png"):
        save_picture(scene[1], path)
    steps, vct_concept.SAMPLE_STEPS = vct_concept.SAMPLE_STEPS, 3
    (deadiff,) = nodes("ExemplarLoadDEADiff", model_name="embedded")
    made = Kit(
        nodes,
        embedded,
        scene,
        source,
        inverted,
        nodes("ExemplarLoadLCAD", model_name="embedded"),
        nodes("ExemplarLoadDDColor", model_name="embedded")[0],
        deadiff,
        nodes("ExemplarDEADiffEncode", deadiff=deadiff, image=scene[1])[0],
        nodes("ExemplarLoadCLIPSeg", model_name="tiny")[0],
        places["embeddings"],
    )
    for pictures in range(1, 6):
        made.latent(pictures)
    model, _, vae, empty = embedded
    look = {"model": model, "vae": vae, "conditioning": empty, "resolution": 64}
    (made.memory,) = nodes("ExemplarColorMemory", references=scene[1], **look)
    try:
        yield made
    finally:
        vct_concept.SAMPLE_STEPS = steps
        folder_paths.folder_names_and_paths.update(known)
        for name, path in before.items():
            getattr(folder_paths, f"set_{name}_directory")(path)


def turned(picture, count):
    """(count, H, W, 3): a picture and others like it."""
    others = [picture, picture.flip(1), picture.flip(2), picture.flip(1).flip(2), picture * 0.8 + 0.1]
    return torch.cat([others[i % 5] for i in range(count)])


def rows_of(args, kw):
    first = next(value for value in (*args, *kw.values()) if isinstance(value, torch.Tensor))
    return len(first)
