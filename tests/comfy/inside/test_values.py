"""What may come through a link, tried on every input of every node: one clear error that names node and input."""

import math

import pytest
import torch
from comfy_api.latest import io

from comfyui_exemplar.nodes import NODES

NAN, INFINITE = float("nan"), float("inf")

#: Of a picture, a mask, a latent and a prompt, what is none.
PICTURES = {
    "NaN": lambda good: good * NAN,
    "huge": lambda good: torch.full_like(good, 1e30),
    "0..255": lambda good: good * 255,
    "8 bit": lambda good: (good * 255).to(torch.uint8),
    "two channels": lambda good: good[..., :2],
    "five axes": lambda good: good[None],
    "no batch": lambda good: good[0],
    "empty": lambda good: good[:0],
    "a list": lambda good: [good],
}
MASKS = {
    "NaN": lambda good: good * NAN,
    "infinite": lambda good: good / 0,
    "0..255": lambda good: good * 255,
    "whole numbers": lambda good: good.long(),
    "a picture": lambda good: good[..., None].expand(*good.shape, 3),
    "four axes": lambda good: good[:, None].expand(-1, 2, -1, -1),
    "empty": lambda good: good[:0],
    "no height": lambda good: good[:, :0],
    "a list": lambda good: [good],
}
LATENTS = {
    "nothing": lambda good: {},
    "no dictionary": lambda good: good["samples"],
    "NaN": lambda good: {"samples": good["samples"] * NAN},
    "huge": lambda good: {"samples": torch.full_like(good["samples"], 1e30)},
    "no batch": lambda good: {"samples": good["samples"][0]},
    "five axes": lambda good: {"samples": good["samples"][None]},
    "empty": lambda good: {"samples": good["samples"][:0]},
    "whole numbers": lambda good: {"samples": good["samples"].long()},
}


def with_options(conditioning, **options):
    return [[context, {**extras, **options}] for context, extras in conditioning]


PROMPTS = {
    "no entry": lambda good: [],
    "a tensor": lambda good: good[0][0],
    "half an entry": lambda good: [good[0][:1]],
    "NaN": lambda good: [[good[0][0] * NAN, good[0][1]]],
    "huge": lambda good: [[torch.full_like(good[0][0], 1e30), good[0][1]]],
    "two axes": lambda good: [[good[0][0][0], good[0][1]]],
    "no tokens": lambda good: [[good[0][0][:, :0], good[0][1]]],
    "a NaN range": lambda good: with_options(good, start_percent=NAN),
}
#: Of prompts that must be for the whole picture all the time, and for the MODEL.
PARTIAL = {
    "an area": lambda good: with_options(good, area=(8, 8, 0, 0)),
    "mask bounds": lambda good: with_options(good, mask=torch.ones(1, 16, 16), set_area_to_bounds=True),
    "half a mask": lambda good: with_options(good, mask=torch.ones(1, 16, 16).triu()),
    "an empty mask": lambda good: with_options(good, mask=torch.zeros(1, 16, 16)),
    "never": lambda good: with_options(good, start_percent=0.5, end_percent=0.5),
    "no strength": lambda good: with_options(good, strength=0.0),
    "another width": lambda good: [[good[0][0].repeat(1, 1, 2), good[0][1]]],
}
#: Samplers draw with what L-CAD Condition gives, so parts of a picture are fine there.
ORDINARY = {"ExemplarLCADCondition"}

#: Of inputs of which either may be given.
INSTEAD = {("ExemplarTranslate", "concept"): "reference"}


def odd_numbers(widget):
    odd = {"NaN": NAN, "infinite": INFINITE, "a text": "3", "on": True, "nothing": None, "a list": [1]}
    odd["above"] = widget.max + 1
    if widget.setting.about.auto:
        odd["below all"] = -INFINITE
    else:
        odd["below"] = widget.min - 1
    return odd | ({"a half": 2.5} if widget.get_io_type() == "INT" else {})


def odd_values(node_id, item):
    """Name -> a good value -> an odd one, for an input; {} for what is tried elsewhere."""
    kind = item.get_io_type()
    if kind in ("INT", "FLOAT"):
        return {name: lambda _, value=value: value for name, value in odd_numbers(item).items()}
    plain = {
        "COMBO": {"unknown": "no such word", "a number": 3, "nothing": None},
        "BOOLEAN": {"a number": 1, "a text": "on", "nothing": None},
        "STRING": {"a number": 3, "nothing": None, "a list": ["x"]},
    }
    if kind in plain:
        return {name: lambda _, value=value: value for name, value in plain[kind].items()}
    nothing = {} if item.optional else {"nothing": lambda _: None}
    if kind not in ("IMAGE", "MASK", "LATENT", "CONDITIONING"):
        return nothing | {"another thing": lambda _: object(), "a text": lambda _: "x"}
    prompts = PROMPTS if node_id in ORDINARY else PROMPTS | PARTIAL
    return {"IMAGE": PICTURES, "MASK": MASKS, "LATENT": LATENTS, "CONDITIONING": prompts}[kind] | nothing


def every_case():
    for node in NODES:
        schema = node.define_schema()
        for item in schema.inputs:
            if item.get_io_type() == "COMBO" and not hasattr(item, "setting"):
                continue  # names of files: see the tests of their loaders
            for name in odd_values(schema.node_id, item):
                yield pytest.param(node, item.id, name, id=f"{schema.node_id}-{item.id}-{name}")


class ComfyReferring:
    """Stands in for a segmenter, which is asked last."""


@pytest.fixture(scope="module")
def sockets(nodes, embedded, inverted, source, scene):
    """Something right for every socket type; what only later work would look at is a mere object."""
    model, clip, vae, empty = embedded
    with torch.inference_mode():
        lcad = nodes("ExemplarLoadLCAD", model_name="embedded")
        (ddcolor,) = nodes("ExemplarLoadDDColor", model_name="embedded")
        (deadiff,) = nodes("ExemplarLoadDEADiff", model_name="embedded")
        (tokens,) = nodes("ExemplarDEADiffEncode", deadiff=deadiff, image=scene[1])
        return {
            "MODEL": model,
            "CLIP": clip,
            "VAE": vae,
            "CONDITIONING": empty,
            "IMAGE": scene[1],
            "MASK": torch.ones(1, 64, 64),
            "LATENT": {"samples": vae.encode(scene[1])},
            "INVERSION": inverted["input"][0],
            "REFERRING": ComfyReferring(),
            "DDCOLOR": ddcolor,
            "DEADIFF": deadiff,
            "DEADIFF_TOKENS": tokens,
            "LCAD_VAE": lcad[2],
        }


def right_inputs(node, sockets, source, wanted):
    """Right values for a node's required inputs, and for one that is wanted."""
    schema = node.define_schema()
    made = {}
    for item in schema.inputs:
        kind = item.get_io_type()
        if isinstance(item, io.WidgetInput):
            made[item.id] = item.default
        elif kind in sockets and (not item.optional or item.id == wanted):
            made[item.id] = sockets[kind]
    if schema.node_id == "ExemplarConceptFusion":
        made["inversion"] = source[0]  # over the whole schedule
    if schema.node_id == "ExemplarTranslate" and wanted != "concept":
        made["reference"] = sockets["IMAGE"]
    made.pop(INSTEAD.get((schema.node_id, wanted)), None)
    return made


@pytest.mark.parametrize(("node", "name", "odd"), list(every_case()))
def test_refused_by_name(sockets, source, node, name, odd):
    schema = node.define_schema()
    (item,) = (item for item in schema.inputs if item.id == name)
    inputs = right_inputs(node, sockets, source, name)
    inputs[name] = odd_values(schema.node_id, item)[odd](inputs.get(name))
    with pytest.raises(ValueError) as refused:
        node.execute(**inputs)
    said = str(refused.value)
    assert said.startswith(f"{schema.display_name}: {name}") and ("found" in said or " is " in said), said
    assert "expected" in said or "it must" in said, said


class TestPrompts:
    """What is legitimate is not refused, and what is not is told apart."""

    def invert(self, nodes, embedded, scene, conditioning, **settings):
        model, _, vae, _ = embedded
        return nodes(
            "ExemplarDDIMInversion",
            model=model,
            conditioning=conditioning,
            latent={"samples": vae.encode(scene[1])},
            **{"depth": 3, "steps": 50, **settings},
        )

    def test_masks_that_cover_the_picture_together(self, nodes, embedded, scene):
        empty, left = embedded[3], torch.zeros(1, 64, 64)
        left[..., :24] = 1
        plain = self.invert(nodes, embedded, scene, empty)
        halves = with_options(empty, mask=left) + with_options(empty, mask=1 - left)
        covered = self.invert(nodes, embedded, scene, halves)
        assert torch.allclose(covered[1]["samples"], plain[1]["samples"], rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match="prompts for a part of the picture only"):
            self.invert(nodes, embedded, scene, halves[:1])

    def test_ranges_are_held_against_the_levels(self, nodes, embedded, scene):
        """Three of fifty steps are the last six percent."""
        empty = embedded[3]
        plain = self.invert(nodes, embedded, scene, empty)
        late = self.invert(nodes, embedded, scene, with_options(empty, start_percent=0.5))
        assert torch.equal(late[1]["samples"], plain[1]["samples"])
        early = with_options(empty, end_percent=0.96)
        with pytest.raises(ValueError, match=r"found no prompt that acts at sigma \d"):
            self.invert(nodes, embedded, scene, early)
        both = early + with_options(empty, start_percent=0.95)
        assert math.isfinite(self.invert(nodes, embedded, scene, both)[3])

    def test_guidance_looks_at_the_levels_when_they_are_known(self, nodes, embedded, inverted):
        from .sampling import run_guider

        model, _, _, empty = embedded
        _, noised, sigmas, _ = inverted["input"]
        plain = run_guider(nodes("ExemplarColorGuidance", model=model, conditioning=empty)[0], noised, sigmas)
        late = with_options(empty, start_percent=0.5)
        (guider,) = nodes("ExemplarColorGuidance", model=model, conditioning=late)
        assert torch.equal(run_guider(guider, noised, sigmas), plain)
        (guider,) = nodes("ExemplarColorGuidance", model=model, conditioning=with_options(empty, end_percent=0.96))
        with pytest.raises(
            ValueError,
            match=r"Colorization Guidance: conditioning: found no prompt that acts at "
            r"sigma",
        ):
            run_guider(guider, noised, sigmas)

    def test_parts_go_on_to_the_sampler(self, nodes, embedded, sockets, scene):
        empty = embedded[3]
        area = with_options(empty, area=(8, 8, 0, 0), start_percent=0.2)
        positive, _, _ = nodes(
            "ExemplarLCADCondition", positive=area, negative=empty, image=scene[0], lcad_vae=sockets["LCAD_VAE"]
        )
        assert positive[0][1]["area"] == (8, 8, 0, 0) and positive[0][1]["start_percent"] == 0.2


class TestMasks:
    """Shapes that mean masks give what the plain shape gives."""

    @pytest.mark.parametrize("shape", [(64, 64), (1, 1, 64, 64), (1, 64, 64, 1)])
    def test_luminance_merge(self, nodes, scene, shape):
        mask = torch.linspace(0, 1, 64)[None, None, :].expand(1, 64, 64).contiguous()
        inputs = {"color_image": scene[1], "gray_image": scene[0]}
        plain = nodes("ExemplarMergeLuminance", **inputs, mask=mask)[0]
        assert torch.equal(nodes("ExemplarMergeLuminance", **inputs, mask=mask.reshape(shape))[0], plain)
        on = nodes("ExemplarMergeLuminance", **inputs, mask=mask > 0.5)[0]
        assert torch.equal(on, nodes("ExemplarMergeLuminance", **inputs, mask=(mask > 0.5).float())[0])


def test_more_pictures_than_latents(nodes, sockets, scene):
    with pytest.raises(ValueError, match=r"L-CAD Decode: image: found 3 picture\(s\) for 1 latent"):
        nodes(
            "ExemplarLCADDecode",
            latent=sockets["LATENT"],
            image=scene[0].expand(3, -1, -1, -1),
            lcad_vae=sockets["LCAD_VAE"],
        )


def test_whole_numbers_and_words_as_they_come(nodes, scene):
    """2.0 is 2, and a numpy number is a number."""
    import numpy as np

    (ddcolor,) = nodes("ExemplarLoadDDColor", model_name="embedded")
    plain = nodes("ExemplarDDColor", ddcolor=ddcolor, image=scene[0], batch=2, saturation=1.0)[0]
    same = nodes("ExemplarDDColor", ddcolor=ddcolor, image=scene[0], batch=2.0, saturation=np.float32(1))[0]
    assert torch.equal(plain, same)
