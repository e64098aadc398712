"""ComfyUI's own nodes that change a MODEL, applied by their own classes, and what their guidance is by its formula."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch

import nodes as stock
from comfyui_exemplar.attention.call import UNKNOWN


def core(name, module=None):
    """A node of ComfyUI by its id; None where this version has none.

    :param module: of ``comfy_extras``, for nodes of the newer kind.
    """
    try:
        found = import_module(f"comfy_extras.{module}") if module else None
    except ImportError:
        return None
    if name in stock.NODE_CLASS_MAPPINGS:
        return stock.NODE_CLASS_MAPPINGS[name]
    if found is None:
        return None
    if name in getattr(found, "NODE_CLASS_MAPPINGS", {}):
        return found.NODE_CLASS_MAPPINGS[name]
    return next(
        (
            node
            for _, node in inspect.getmembers(found, inspect.isclass)
            if hasattr(node, "define_schema") and node.__module__ == found.__name__ and _id(node) == name
        ),
        None,
    )


def _id(node):
    return node.define_schema().node_id


def run_node(node, *args, **kw):
    """All outputs of a node of either kind."""
    if hasattr(node, "define_schema"):
        out = node.execute(*args, **kw)
        return getattr(out, "result", None) or getattr(out, "args", out)
    return getattr(node(), node.FUNCTION)(*args, **kw)


@dataclass(frozen=True)
class Neighbor:
    """A node of ComfyUI that changes a MODEL.

    :param key: of its row in the table of ``texts.crossings``.
    :param node: id, and its module in ``comfy_extras``.
    :param values: what it is called with beside the MODEL.
    :param guidance: (reference, cond, uncond, x, sigma) -> clean estimate, where its functions ask the model.
    :param denoise: (reference, x, sigma) -> clean estimate, where both prompts must be in one call.
    :param random: it draws from torch's global generator.
    """

    key: str
    node: str
    module: str
    values: dict[str, Any]
    guidance: Callable | None = None
    denoise: Callable | None = None
    random: bool = False

    @property
    def exists(self):
        return core(self.node, self.module) is not None

    def on(self, model):
        """The MODEL with the node behind it."""
        return run_node(core(self.node, self.module), model, **self.values)[0]


def perturbed(reference, cond, uncond, x, sigma):
    """Perturbed-attention guidance (Ahn et al. 2024) at its own scale: away from attention that is the identity."""

    def identity(options):
        tables = options["patches_replace"]
        tables["attn1"] = {**tables.get("attn1", {}), ("middle", 0): lambda q, k, v, _: v}

    weak = reference.conditional(x, sigma, under=[identity])
    return uncond + reference.cfg * (cond - uncond) + (cond - weak) * PAG["scale"]


def self_attention_guided(reference, cond, uncond, x, sigma):
    """Self-attention guidance (Hong et al. 2023): away from a picture that is blurred where the model looks."""
    from comfy_extras.nodes_sag import create_blur_map

    seen = {}

    def look(options):
        def replace(q, k, v, more):
            heads = more["n_heads"]
            by_head = [t.unflatten(-1, (heads, -1)).transpose(1, 2).double() for t in (q, k)]
            seen["map"] = (by_head[0] @ by_head[1].mT / by_head[0].shape[-1] ** 0.5).softmax(-1).flatten(0, 1)
            from .naive import attention

            return attention(q, k, v, more)

        options["patches_replace"]["attn1"] = {("middle", 0, 0): replace}

    reference.unconditional(x, sigma, under=[look])
    blurred = create_blur_map(uncond, seen["map"].float(), SAG["blur_sigma"], 1.0)
    weak = reference.unconditional(blurred + x - uncond, sigma)
    return uncond + reference.cfg * (cond - uncond) + (blurred - weak) * SAG["scale"]


def skipping_nothing(reference, cond, uncond, x, sigma):
    """Layers of a DiT are left out of the extra call: a UNet has none, so the two predictions are one."""
    return uncond + reference.cfg * (cond - uncond)


def perpendicular(reference, cond, uncond, x, sigma):
    """The PerpNeg patch (Armandpour et al. 2023): its empty prompt is one that no guider knows."""
    empty = reference.predict(x, sigma, PERP_NEG["empty_conditioning"][0], UNKNOWN)
    return perp_neg(cond, uncond, empty, PERP_NEG["neg_scale"], reference.cfg)


def perp_neg(cond, uncond, empty, scale, cfg):
    """The part of the negative that is perpendicular to the positive is taken away."""
    pos, neg = cond - empty, uncond - empty
    aside = neg - (neg * pos).sum() / pos.norm() ** 2 * pos
    return empty + cfg * (pos - scale * aside)


def normalized(reference, x, sigma):
    """Normalized attention guidance (Chen et al. 2025): positive rows of every self-attention's output are pushed away
    from the negative ones."""
    if hasattr(reference, "look"):  # the source of a pair goes first
        reference.shown = reference.shown if reference.way is None else reference.way(sigma).to(x)
        reference.look(sigma)
    reference.asked = {}
    outputs = []

    def keep(options):
        options["patches"]["attn1_output_patch"] = [lambda n, _: (outputs.append(n.clone()), n)[1]]

    def push(options):
        left = iter(outputs)

        def patch(n, _):
            far = NAG["nag_scale"] * n - (NAG["nag_scale"] - 1) * next(left)
            size, wanted = (t.norm(p=1, dim=-1, keepdim=True).clamp_min(1e-6) for t in (n, far))
            ratio = wanted / size
            far = far * ratio.clamp(max=NAG["nag_tau"]) / ratio
            return NAG["nag_alpha"] * far + (1 - NAG["nag_alpha"]) * n

        options["patches"]["attn1_output_patch"] = [patch]

    uncond = reference.unconditional(x, sigma, under=[keep])
    cond = reference.conditional(x, sigma, under=[push])
    return uncond + reference.cfg * (cond - uncond)


PAG = {"scale": 2.0}
SAG = {"scale": 0.7, "blur_sigma": 2.0}
NAG = {"nag_scale": 4.0, "nag_alpha": 0.5, "nag_tau": 1.5}
PERP_NEG = {"empty_conditioning": [[torch.zeros(1, 8, 128), {}]], "neg_scale": 0.5}
_SLG = {"double_layers": "1", "single_layers": "1", "scale": 3.0, "start_percent": 0.0, "end_percent": 1.0}
_SHRINK = {
    "block_number": 3,
    "downscale_factor": 2.0,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "downscale_after_skip": True,
    "downscale_method": "bilinear",
    "upscale_method": "bilinear",
}
_MULTIPLY = {"q": 1.2, "k": 1.0, "v": 1.0, "out": 0.8}
_FREEU = {"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}
_LCM = {"sampling": "lcm", "zsnr": False}
_TILES = {"swap_size": 1, "max_depth": 0, "scale_depth": False}

#: MODEL patches whose guidance functions are called on separate predictions, or follow a formula above.
NEIGHBORS = (
    Neighbor("RescaleCFG", "RescaleCFG", "nodes_model_advanced", {"multiplier": 0.7}),
    Neighbor("CFGZeroStar", "CFGZeroStar", "nodes_cfg", {}),
    Neighbor("CFGNorm", "CFGNorm", "nodes_cfg", {"strength": 0.9}),
    Neighbor("APG", "APG", "nodes_apg", {"eta": 0.5, "norm_threshold": 5.0, "momentum": 0.0}),
    Neighbor("TCFG", "TCFG", "nodes_tcfg", {}),
    Neighbor("FreSca", "FreSca", "nodes_fresca", {"scale_low": 1.0, "scale_high": 1.5, "freq_cutoff": 3}),
    Neighbor("Mahiro", "Mahiro", "nodes_mahiro", {}),
    Neighbor("PAG", "PerturbedAttentionGuidance", "nodes_pag", PAG, guidance=perturbed),
    Neighbor("SAG", "SelfAttentionGuidance", "nodes_sag", SAG, guidance=self_attention_guided),
    Neighbor("SLG", "SkipLayerGuidanceDiT", "nodes_slg", _SLG, guidance=skipping_nothing),
    Neighbor(
        "SLGSimple",
        "SkipLayerGuidanceDiTSimple",
        "nodes_slg",
        {"double_layers": "1", "single_layers": "1", "start_percent": 0.0, "end_percent": 1.0},
        guidance=skipping_nothing,
    ),
    Neighbor("NAG", "NAGuidance", "nodes_nag", NAG, denoise=normalized),
    Neighbor("PerpNeg", "PerpNeg", "nodes_perpneg", PERP_NEG, guidance=perpendicular),
    Neighbor("FreeU", "FreeU", "nodes_freelunch", _FREEU),
    Neighbor("FreeU_V2", "FreeU_V2", "nodes_freelunch", _FREEU),
    Neighbor("DeepShrink", "PatchModelAddDownscale", "nodes_model_downscale", _SHRINK),
    Neighbor("DeepShrinkFine", "PatchModelAddDownscale", "nodes_model_downscale", {**_SHRINK, "block_number": 1}),
    Neighbor("HyperTile", "HyperTile", "nodes_hypertile", {"tile_size": 32, **_TILES}),
    Neighbor("HyperTileWhole", "HyperTile", "nodes_hypertile", {"tile_size": 512, **_TILES}),
    Neighbor("ToMe", "TomePatchModel", "nodes_tomesd", {"ratio": 0.3}, random=True),
    Neighbor("AttentionBackend", "ModelAttentionBackend", "nodes_model_advanced", {"attention": "pytorch attention"}),
    Neighbor("ModelSampling", "ModelSamplingDiscrete", "nodes_model_advanced", _LCM),
    Neighbor(
        "AttentionMultiply",
        "UNetSelfAttentionMultiply",
        "nodes_attention_multiply",
        {"q": 1.2, "k": 1.0, "v": 1.0, "out": 0.8},
    ),
    Neighbor("DifferentialDiffusion", "DifferentialDiffusion", "nodes_differential_diffusion", {}),
)

_CACHE = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
CACHES = (
    Neighbor("EasyCache", "EasyCache", "nodes_easycache", _CACHE),
    Neighbor("LazyCache", "LazyCache", "nodes_easycache", _CACHE),
)
BY_KEY = {one.key: one for one in (*NEIGHBORS, *CACHES)}


def prepared(neighbor):
    """What a neighbor changes of a reference.

    A source that is sampled beside its target stays as it is: NAG knows the target's rows alone.
    """

    def prepare(reference):
        if neighbor.denoise is not None:
            reference.denoise = partial(neighbor.denoise, reference)

    return prepare


def need(neighbor):
    """Skip a test by the name of the node that this ComfyUI lacks."""
    if not neighbor.exists:
        pytest.skip(f"this ComfyUI has no {neighbor.node}")
