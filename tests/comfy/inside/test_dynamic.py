"""Hosts that page weights in and out ("dynamic VRAM"): what they ask of a loader, with patchers that say they do it.

The real ones need an NVIDIA GPU. What hosts do on the CPU is the same up to the weights: they make clones whose weights
stay where they are, by the factory that a loader registered.
"""

import inspect

import comfy.hooks
import comfy.model_patcher
import comfy.sd
import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from comfyui_exemplar.hosts.comfy import managed
from comfyui_exemplar.hosts.comfy.borrowed import BorrowedNetworks, gradients
from comfyui_exemplar.hosts.comfy.embedded import load_demo

from ...fixtures.lcad import small_checkpoint
from ...parity.conftest import parity_folder
from ...parity.lcad_set import LCADSet
from .models import tiny
from .sampling import difference, run

pytestmark = pytest.mark.skipif(
    "disable_dynamic" not in inspect.signature(comfy.model_patcher.ModelPatcher.clone).parameters,
    reason="this host knows nothing of dynamic VRAM",
)


def paged(patcher):
    """The same patcher as one that says it is dynamic."""

    class Paged(type(patcher)):
        def is_dynamic(self):
            return True

        def set_in_use_by_current_prompt(self, in_use):
            pass

        def get_non_dynamic_delegate(self):
            return self.clone(disable_dynamic=True)

    patcher.__class__ = Paged
    return patcher


@pytest.fixture
def embeddings(tmp_path, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(tmp_path)], {".safetensors"}))


def dynamic_parts():
    model, clip, vae = load_demo()
    for patcher in (model, clip.patcher, vae.patcher):
        paged(patcher)
    return model, clip, vae


@pytest.fixture
def parts(embeddings):
    """The embedded loader's MODEL, CLIP and VAE on such a host."""
    return dynamic_parts()


def published(nodes, path):
    """What Load L-CAD gives for a file under the published names."""
    save_file(small_checkpoint(LCADSet(parity_folder("lcad")).weights), path / "small.safetensors")
    folder_paths.add_model_folder_path("lcad", str(path))
    try:
        return nodes("ExemplarLoadLCAD", model_name="small.safetensors")
    finally:
        folder_paths.folder_names_and_paths["lcad"][0].remove(str(path))


@pytest.mark.parametrize("loader", ["embedded", "L-CAD embedded", "L-CAD published", "official"])
def test_every_loader_says_how_to_read_again(nodes, tmp_path, loader):
    if loader == "embedded":
        model, clip, vae, *_ = nodes("ExemplarLoadDemoModel")
        patchers = [model, clip.patcher, vae.patcher]
    elif loader == "official":
        model, clip, _ = nodes("ExemplarLoadLCAD", model_name="embedded", attention="official")
        patchers = [model, clip.patcher]
    else:
        found = nodes("ExemplarLoadLCAD", model_name="embedded") if "embedded" in loader else published(nodes, tmp_path)
        patchers = [found[0], found[1].patcher]
    for patcher in patchers:
        again = paged(patcher).clone(disable_dynamic=True)
        assert type(again) is comfy.model_patcher.ModelPatcher and not again.is_dynamic()
        assert again.model is not patcher.model
        before, after = patcher.model.state_dict(), again.model.state_dict()
        # Stable Diffusion 1.x has no projection of its text; ComfyUI leaves its memory as it found it
        given = [name for name in before if not name.endswith(("text_projection.weight", "logit_scale"))]
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in given)
        assert again.attachments == patcher.attachments  # what the file recommends
        assert type(again.model) is type(patcher.model)


def test_patches_go_along(nodes):
    model = paged(load_demo()[0])
    name = "diffusion_model.out.2.weight"
    weight = model.model.state_dict()[name]
    model.add_patches({name: ("diff", (torch.ones_like(weight),))})
    again = model.clone(disable_dynamic=True)
    with gradients():
        copied = BorrowedNetworks().add(model)
    assert list(again.patches) == [name]
    changed = dict(copied.named_parameters())[name].float() - weight.float()
    torch.testing.assert_close(changed, torch.ones_like(changed), rtol=0, atol=1e-3)


def test_a_loader_that_does_not_say_how(nodes):
    said = r"a loader that does not say how it is read again.*--disable-dynamic-vram"
    with pytest.raises(ValueError, match=said), gradients():
        BorrowedNetworks().add(paged(tiny("sd1")))


def test_networks_of_plain_layers_are_never_paged(monkeypatch):
    """Paging fetches a host's own layers one by one; a network of others would be copied whole at every load."""

    class Core(comfy.model_patcher.ModelPatcher):
        def is_dynamic(self):
            return True

    monkeypatch.setattr(comfy.model_patcher, "CoreModelPatcher", Core)
    cpu = torch.device("cpu")
    assert not managed.managed(torch.nn.Linear(1, 1), cpu, cpu).is_dynamic()
    model, _, vae = load_demo()
    assert model.is_dynamic() and not vae.patcher.is_dynamic()


class TestOnSuchAHost:
    """Each flow gives what it gives elsewhere."""

    def both(self, run_with):
        return run_with(load_demo()), run_with(dynamic_parts())

    def test_concept_inversion(self, nodes, embeddings, scene):
        names = []
        settings = {"word": "flower", "vectors": 2, "updates": 2, "resolution": 32, "accumulation": 1}

        def learn(parts):
            model, clip, vae = parts
            names.append(model)
            return nodes(
                "ExemplarConceptInversion",
                model=model,
                clip=clip,
                vae=vae,
                reference=scene[1],
                name=f"thing-{len(names)}",
                sample_every=0,
                **settings,
            )

        plain, dynamic = self.both(learn)
        assert difference(plain[0][0][0], dynamic[0][0][0]) == 0

    def test_pivot_inversion(self, nodes, embeddings, scene):
        def search(parts):
            model, clip, vae = parts
            empty = clip.encode_from_tokens_scheduled(clip.tokenize(""))
            latent = {"samples": vae.encode(scene[1])}
            inversion, *_ = nodes(
                "ExemplarDDIMInversion", model=model, conditioning=empty, latent=latent, depth=2, steps=2
            )
            return nodes(
                "ExemplarPivotInversion",
                model=model,
                conditioning=empty,
                inversion=inversion,
                cfg=4.0,
                iterations=2,
            )

        plain, dynamic = self.both(search)
        assert difference(plain[0].contexts, dynamic[0].contexts) == 0

    def test_translate(self, nodes, embeddings, scene):
        def translate(parts):
            model, clip, vae = parts
            return nodes(
                "ExemplarTranslate",
                model=model,
                clip=clip,
                vae=vae,
                image=scene[1],
                reference=scene[1],
                updates=2,
                resolution=32,
                steps=2,
                pivot_iterations=1,
                vectors=2,
                word="red",
            )

        plain, dynamic = self.both(translate)
        assert difference(plain[0], dynamic[0]) == 0

    def test_prompts_with_hooks(self, embeddings, scene):
        """A sampler asks a paged MODEL for one whose weights stay where they are, CLIP hooks a CLIP."""

        def sample(parts):
            model, clip, vae = parts
            weight = model.model.state_dict()["diffusion_model.out.2.weight"]
            hooks = comfy.hooks.create_hook_model_as_lora(
                {"diffusion_model.out.2.weight": weight.clone()}, {}, 0.5, 0.0
            )
            patched = clip.clone(disable_dynamic=True)
            patched.patcher.forced_hooks = hooks.clone()
            prompt = patched.encode_from_tokens_scheduled(patched.tokenize("a red flower"))
            hooked = comfy.hooks.set_hooks_for_conditioning(prompt, hooks)
            latent = {"samples": vae.encode(scene[1])}
            return run(model, hooked, latent, torch.tensor([2.0, 1.0, 0.0]), negative=prompt)

        plain, dynamic = self.both(sample)
        assert difference(plain, dynamic) == 0
