"""Every node of the pack at work on tiny models: how it is run."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import comfy.model_management
import comfy.samplers
import torch

from comfyui_exemplar.color.held import is_list
from comfyui_exemplar.hosts.comfy.folders import COLOR_MEMORIES, INVERSIONS
from comfyui_exemplar.memory.entries import ColorMemory
from comfyui_exemplar.pipelines.memory_features import PictureFeatures

from .pairs import encode

#: node -> kit, pictures, settings -> what it gives.
Run = Callable[..., tuple]


def _colorize(kit, pictures, **settings):
    model, _, vae, empty = kit.embedded
    few = {"guidance": 3.0, "passes": 2, "depth": 2, "steps": 50, "resolution": 64}
    inputs = {"model": model, "vae": vae, "conditioning": empty, "image": kit.grays(pictures)}
    return kit.nodes("ExemplarColorize", **{**inputs, "reference": kit.scene[1], **few, **settings})


def _translate(kit, pictures, **settings):
    model, clip, vae, _ = kit.embedded
    few = {
        "steps": 2,
        "pivot_iterations": 2,
        "resolution": 64,
        "updates": 2,
        "vectors": 2,
        "word": "flower",
        "cfg": 3.0,
    }
    inputs = {"model": model, "clip": clip, "vae": vae, "image": kit.colors(pictures)}
    return kit.nodes("ExemplarTranslate", **inputs, **{"reference": kit.scene[1], **few, **settings})


def invert(kit, pictures, **settings):
    model, _, _, empty = kit.embedded
    (marked,) = kit.nodes("ExemplarAttentionCapture", model=model, layers="color", keep="everything (q, k, v)")
    inputs = {"model": marked, "conditioning": empty, "latent": kit.latent(pictures)}
    return kit.nodes("ExemplarDDIMInversion", **{**inputs, "depth": 3, "steps": 50, **settings})


def _learn(kit, _, **settings):
    model, clip, vae, _ = kit.embedded
    for path in kit.folder.iterdir():
        path.unlink()
    few = {"name": "thing", "word": "flower", "vectors": 2, "updates": 3, "resolution": 32, "accumulation": 4}
    inputs = {"model": model, "clip": clip, "vae": vae, "reference": kit.scene[1]}
    return kit.nodes("ExemplarConceptInversion", **inputs, **{**few, "sample_every": 0, **settings})


def _pivots(kit, _, **settings):
    inputs = {"model": kit.model, "conditioning": kit.embedded[3], "inversion": kit.source[0]}
    return kit.nodes("ExemplarPivotInversion", **inputs, **{"cfg": 3.0, "iterations": 2, **settings})


def _exact_luminance(kit, pictures, **settings):
    vae = kit.embedded[2]
    inputs = {"vae": vae, "image": kit.scene[0], "latent": kit.latent(pictures)}
    return kit.nodes("ExemplarLatentLuminance", **inputs, **settings)


def _ddcolor(kit, pictures, **settings):
    return kit.nodes("ExemplarDDColor", ddcolor=kit.ddcolor, image=kit.grays(pictures), **{"batch": 5, **settings})


def _encode_references(kit, pictures, **settings):
    return kit.nodes("ExemplarDEADiffEncode", deadiff=kit.deadiff, image=kit.colors(pictures), **settings)


def _refer(kit, pictures, **settings):
    phrases = "\n".join(("red cup", "a hat", "blue heart on the left", "x", "flower")[:pictures])
    many = {"image": kit.colors(2), "phrases": phrases, "threshold": 0.0, "exclusive": False}
    return kit.nodes("ExemplarReferringMask", referring=kit.referring, **{**many, **settings})


def _condition(kit, pictures, **settings):
    clip = kit.lcad[1]
    prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("red heart", "")]
    inputs = {"positive": prompts[0], "negative": prompts[1], "image": kit.grays(pictures), "lcad_vae": kit.lcad[2]}
    return kit.nodes("ExemplarLCADCondition", **{**inputs, "resolution": 64, **settings})


def _decode(kit, pictures, **settings):
    latent = torch.randn(pictures, 4, 16, 16, generator=torch.Generator().manual_seed(4)) * 0.1
    latent = latent[:, : kit.lcad[2].channels]
    inputs = {"latent": {"samples": latent}, "image": kit.grays(pictures), "lcad_vae": kit.lcad[2]}
    return kit.nodes("ExemplarLCADDecode", **inputs, **settings)


def _loader(node_id):
    return lambda kit, _, **settings: kit.nodes(node_id, **{"model_name": "embedded", **settings})


def _plain(node_id, **inputs):
    """A node that only takes things: each input is made of the kit and a number of pictures."""

    def made(kit, pictures, **settings):
        return kit.nodes(node_id, **{name: make(kit, pictures) for name, make in inputs.items()}, **settings)

    return made


def _as(index):
    return lambda kit, _: kit.embedded[index]


def _of(name):
    return lambda kit, _: kit.inverted[name][0]


def _mask(_, pictures):
    return torch.ones(pictures, 64, 64)


def _look(kit, pictures, **settings):
    model, _, vae, empty = kit.embedded
    inputs = {"model": model, "vae": vae, "conditioning": empty, "image": kit.grays(pictures), "resolution": 64}
    return kit.nodes("ExemplarColorFeatures", **inputs, **settings)


def _remember(kit, pictures, **settings):
    model, _, vae, empty = kit.embedded
    inputs = {"model": model, "vae": vae, "conditioning": empty, "references": kit.colors(pictures), "resolution": 64}
    return kit.nodes("ExemplarColorMemory", **inputs, **settings)


def _strokes(kit, _, **settings):
    model, _, vae, empty = kit.embedded
    gray = kit.grays(1)
    marks = gray.clone()
    marks[:, 20:24, 20:30] = torch.tensor([0.8, 0.1, 0.1])
    inputs = {"model": model, "vae": vae, "conditioning": empty, "image": gray, "marks": marks, "resolution": 64}
    return kit.nodes("ExemplarColorStrokes", **inputs, **settings)


def _by_memory(kit, pictures, **settings):
    model, _, vae, empty = kit.embedded
    inputs = {"model": model, "vae": vae, "conditioning": empty, "image": kit.grays(pictures), "resolution": 64}
    return kit.nodes("ExemplarMemoryColorize", **inputs, memory=kit.memory, **settings)


def _transfer(kit, pictures, **settings):
    model, _, vae, empty = kit.embedded
    looking = {"model": model, "vae": vae, "conditioning": empty}
    inputs = {"original": kit.grays(pictures), "edited": kit.colors(pictures), **looking}
    return kit.nodes("ExemplarTransferColors", **{**inputs, **settings})


def _examine(kit, _, **settings):
    model, clip, vae, _ = kit.embedded
    few = {"quick": True, "embedded_files": False}
    return kit.nodes("ExemplarDoctor", model=model, clip=clip, vae=vae, **{**few, **settings})


def _load_memory(kit, _, **settings):
    if not COLOR_MEMORIES.choices():
        kit.nodes("ExemplarSaveMemory", memory=kit.memory, filename_prefix="color_memories/memory")
    return kit.nodes("ExemplarLoadMemory", memory_name=COLOR_MEMORIES.choices()[-1], **settings)


def _save_inversion(kit, *_, **settings):
    pair = {"inversion": kit.inverted["reference"][0], "gray_inversion": kit.inverted["gray"][0]}
    return kit.nodes("ExemplarSaveInversion", **pair, **settings) or ()


def _load_inversion(kit, _, **settings):
    if not INVERSIONS.choices():
        _save_inversion(kit, filename_prefix="inversions/inversion")
    inputs = {"inversion_name": INVERSIONS.choices()[-1], "model": kit.embedded[0]}
    return kit.nodes("ExemplarLoadInversion", **inputs, **settings)


def _film(kit, pictures):
    """A VIDEO of so many frames, gray."""
    from comfy_api.latest import InputImpl, Types

    return InputImpl.VideoFromComponents(Types.VideoComponents(images=kit.grays(pictures), frame_rate=Fraction(12)))


def _color_film(kit, pictures, **settings):
    """The film's frames, read again, and what else the node gives; the file goes."""
    from comfyui_exemplar.files.films import open_film

    model, _, vae, empty = kit.embedded
    inputs = {"model": model, "vae": vae, "conditioning": empty, "video": _film(kit, pictures)}
    few = {"resolution": 64, "cuts": "0", "key_method": "none", "codec": "ffv1", "filename_prefix": "film"}
    video, *more = kit.nodes("ExemplarColorizeVideo", **inputs, **{"reference": kit.scene[1], **few, **settings})
    path = Path(video.get_stream_source())
    frames = torch.stack([frame.picture for frame in open_film(path).frames()])
    path.unlink()
    return frames, *more


def _save(kit, pictures, **settings):
    return kit.nodes("ExemplarSavePhotograph", images=kit.colors(pictures), **settings) or ()


#: Every node of the pack, run as in a workflow.
RUNS: dict[str, Run] = {
    "ExemplarColorize": _colorize,
    "ExemplarTranslate": _translate,
    "ExemplarAttentionCapture": _plain("ExemplarAttentionCapture", model=_as(0)),
    "ExemplarDDIMInversion": invert,
    "ExemplarConceptInversion": _learn,
    "ExemplarPivotInversion": _pivots,
    "ExemplarDualAttentionColor": _plain(
        "ExemplarDualAttentionColor",
        model=_as(0),
        input_inversion=_of("input"),
        reference_inversion=_of("reference"),
        gray_inversion=_of("gray"),
    ),
    "ExemplarColorGuidance": _plain("ExemplarColorGuidance", model=_as(0), conditioning=_as(3)),
    "ExemplarMatchLatentStatistics": _plain(
        "ExemplarMatchLatentStatistics",
        latent=lambda kit, n: kit.latent(n),
        reference=lambda kit, _: kit.latent(1),
    ),
    "ExemplarStageSettings": _plain("ExemplarStageSettings", model=_as(0)),
    "ExemplarWorkingSize": _plain("ExemplarWorkingSize", image=lambda kit, n: kit.colors(n), model=_as(0), vae=_as(2)),
    "ExemplarPublishedSampler": _plain("ExemplarPublishedSampler", model=_as(0)),
    "ExemplarDesaturate": _plain("ExemplarDesaturate", image=lambda kit, n: kit.colors(n)),
    "ExemplarMergeLuminance": _plain(
        "ExemplarMergeLuminance", color_image=lambda kit, n: kit.colors(n), image=lambda kit, n: kit.grays(n)
    ),
    "ExemplarLatentLuminance": _exact_luminance,
    "ExemplarAttentionMap": _plain(
        "ExemplarAttentionMap",
        input_inversion=_of("input"),
        reference_inversion=_of("gray"),
        image=lambda kit, n: kit.grays(n),
        reference=lambda kit, n: kit.colors(n),
    ),
    "ExemplarLoadDDColor": _loader("ExemplarLoadDDColor"),
    "ExemplarDDColor": _ddcolor,
    "ExemplarConfidenceBlend": _plain(
        "ExemplarConfidenceBlend",
        color_image=lambda kit, _: kit.colors(1),
        fallback=lambda kit, _: kit.grays(1),
        input_inversion=_of("input"),
        reference_inversion=_of("gray"),
    ),
    "ExemplarLoadLCAD": _loader("ExemplarLoadLCAD"),
    "ExemplarLCADCondition": _condition,
    "ExemplarLCADDecode": _decode,
    "ExemplarLCADInstances": _plain(
        "ExemplarLCADInstances",
        model=_as(0),
        clip=_as(1),
        masks=_mask,
        prompt=lambda *_: "red heart",
        phrases=lambda *_: "red heart",
    ),
    "ExemplarLoadCLIPSeg": lambda kit, _, **settings: kit.nodes("ExemplarLoadCLIPSeg", model_name="tiny", **settings),
    "ExemplarReferringMask": _refer,
    "ExemplarConceptFusion": _plain(
        "ExemplarConceptFusion",
        model=_as(0),
        inversion=lambda kit, _: kit.source[0],
        concept=lambda kit, _: encode(kit.embedded, "blue heart"),
        source=_as(3),
    ),
    "ExemplarPromptControl": _plain(
        "ExemplarPromptControl",
        model=_as(0),
        clip=_as(1),
        source=lambda *_: "red heart",
        target=lambda *_: "blue heart",
        negative=_as(3),
    ),
    "ExemplarLoadDEADiff": _loader("ExemplarLoadDEADiff"),
    "ExemplarDEADiffEncode": _encode_references,
    "ExemplarApplyDEADiff": _plain("ExemplarApplyDEADiff", model=_as(0), tokens=lambda kit, _: kit.tokens),
    "ExemplarLoadDemoModel": _plain("ExemplarLoadDemoModel"),
    "ExemplarLoadDemoPictures": _plain("ExemplarLoadDemoPictures"),
    "ExemplarLoadDemoFilm": _plain("ExemplarLoadDemoFilm"),
    "ExemplarFindShots": _plain("ExemplarFindShots", video=_film),
    "ExemplarColorizeVideo": _color_film,
    "ExemplarLoadPhotograph": lambda kit, _, **settings: kit.nodes("ExemplarLoadPhotograph", image="a.png", **settings),
    "ExemplarLoadPhotographFolder": lambda kit, _, **settings: kit.nodes(
        "ExemplarLoadPhotographFolder", folder="scans", **settings
    ),
    "ExemplarSavePhotograph": _save,
    "ExemplarColorFeatures": _look,
    "ExemplarColorMemory": _remember,
    "ExemplarColorStrokes": _strokes,
    "ExemplarColorPalette": _plain("ExemplarColorPalette", image=lambda kit, n: kit.colors(n)),
    "ExemplarMergeMemories": _plain(
        "ExemplarMergeMemories", memory_1=lambda kit, _: kit.memory, memory_2=lambda kit, _: kit.memory
    ),
    "ExemplarMemoryColorize": _by_memory,
    "ExemplarSaveMemory": lambda kit, *_, **settings: (
        kit.nodes("ExemplarSaveMemory", memory=kit.memory, **settings) or ()
    ),
    "ExemplarLoadMemory": _load_memory,
    "ExemplarDoctor": _examine,
    "ExemplarSaveInversion": _save_inversion,
    "ExemplarLoadInversion": _load_inversion,
    "ExemplarTransferColors": _transfer,
    "ExemplarSteadyColor": _plain(
        "ExemplarSteadyColor", color_image=lambda kit, n: kit.colors(n), image=lambda kit, n: kit.grays(n)
    ),
    "ExemplarMeasure": _plain("ExemplarMeasure", color_image=lambda kit, n: kit.colors(n)),
    "ExemplarMatchColors": _plain(
        "ExemplarMatchColors", image=lambda kit, n: kit.grays(n), reference=lambda kit, _: kit.colors(1)
    ),
}


def _as_the_server(*_):
    """What the sampler nodes' progress bars do at every step."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def sampled(kit, made):
    """What a sampler draws with what a node gave: a MODEL, a GUIDER, a SAMPLER, or L-CAD's prompts with their
    latent."""
    first, noised, sigmas = made[0], *kit.source[1:3]
    model = kit.lcad[0] if isinstance(first, list) else kit.model
    guider, sampler = comfy.samplers.CFGGuider(model), comfy.samplers.sampler_object("euler")
    guider.set_conds(kit.embedded[3], kit.embedded[3])
    latent = noised["samples"]
    if isinstance(first, comfy.samplers.CFGGuider):
        guider = first
    elif isinstance(first, list):
        guider.set_conds(*made[:2])
        latent = torch.randn(made[2]["samples"].shape, generator=torch.Generator().manual_seed(3)) * float(sigmas[0])
    elif isinstance(first, comfy.samplers.KSAMPLER):
        sampler, sigmas = first, made[1][-5:]
    else:
        latent, sigmas = kit.inverted["input"][1]["samples"], kit.inverted["input"][2]
        guider = comfy.samplers.CFGGuider(first)
        guider.set_conds(kit.embedded[3], kit.embedded[3])
    guider.set_cfg(3.0)
    return guider.sample(
        torch.zeros_like(latent), latent, sampler, sigmas, callback=_as_the_server, disable_pbar=True, seed=0
    )


def tensors_of(value):
    """All tensors of what a node gave, in order, detached copies."""
    if isinstance(value, torch.Tensor):
        return [value.detach().clone()]
    if isinstance(value, dict):
        return [t for each in value.values() for t in tensors_of(each)]
    if is_list(value):
        return [t for each in value for t in tensors_of(each)]
    if isinstance(value, (ColorMemory, PictureFeatures)):
        return [tensor.detach().clone() for tensor in value]
    for name in ("trajectory", "contexts", "tokens", "maps"):
        if hasattr(value, name):
            return tensors_of(getattr(value, name))
    return []


def state_of(kit):
    """Everything of the models that a run must leave as it was: weights bit by bit, patches, options, attachments."""
    model, clip, vae, _ = kit.embedded
    patchers = [model, clip.patcher, vae.patcher, kit.lcad[0], kit.lcad[1].patcher]
    patchers += [each.patcher for each in (kit.lcad[2], kit.ddcolor, kit.deadiff, kit.referring)]
    inversions = [kit.source[0], *(made[0] for made in kit.inverted.values())]
    kept = [tensor for each in inversions for tensor in (each.trajectory, *(entry[3] for entry in each.bank.items()))]
    shared = [*kit.scene, *kept, *kit.latents.values(), *kit.tokens.tokens.values(), kit.embedded[3][0][0]]
    return [[_patcher_state(patcher) for patcher in patchers], [_bits(tensor) for tensor in shared]]


def _patcher_state(patcher):
    weights = {name: _bits(tensor) for name, tensor in patcher.model.state_dict().items()}
    hooks = sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in patcher.model.modules())
    names = ("patches", "object_patches", "model_options", "attachments", "additional_models", "callbacks", "wrappers")
    more = {name: _shape_of(getattr(patcher, name, None)) for name in (*names, "injections", "hook_patches")}
    return {"weights": weights, "hooks": hooks, "training": patcher.model.training, **more}


def _bits(tensor):
    """A number of a tensor's bits, and of every third part of them; fast, as it is made of all weights again and
    again."""
    flat = tensor.detach().cpu().reshape(-1)
    kind = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    bits = flat.contiguous().view(kind)
    return tuple(tensor.shape), int(bits.sum()), int(bits[::3].sum())


def _shape_of(value):
    """Containers as they are, and which objects stand in them."""
    if isinstance(value, dict):
        return {str(key): _shape_of(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shape_of(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else id(value)
