"""A DEADiff of a few thousand numbers, in published names."""

import torch

from comfyui_exemplar.networks.deadiff.weights import DEADiffSizes, projection_name, published_shapes

SIZES = DEADiffSizes(
    width=12,
    blocks=2,
    patch=8,
    vectors=17,
    trunk_inner=20,
    hidden=64,
    layers=2,
    inner=24,
    vocabulary=7,
    positions=5,
    queries=16,
    projection=40,
    trunk_heads=1,
    heads=1,
)

#: What its header says beside the tensors.
ABOUT = {"words": {"style": [1, 3, 2], "content": [1, 4, 2]}}

#: Layers of Stable Diffusion 1.x's layout as (block, index), with the width of ``comfy.inside.models.tiny("sd1")``.
WIDTHS = {
    **{("input", i): width for i, width in ((1, 32), (2, 32), (4, 64), (5, 64), (7, 64), (8, 64))},
    ("middle", 0): 64,
    **{("output", i): 64 if i < 9 else 32 for i in range(3, 12)},
}


def small_weights(seed: int = 0, widths=None, shared_trunk: bool = False, hidden: int = 64):
    """All tensors of a file. Queries and projections are large, so that tokens differ and are heard."""
    import dataclasses

    sizes = dataclasses.replace(SIZES, hidden=hidden)
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in published_shapes(sizes, shared_trunk=shared_trunk).items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            made[name] = noise * (1.0 if "query_tokens" in name else noise[0].numel() ** -0.5)
        else:
            made[name] = 1 + 0.2 * noise if name.endswith("weight") else 0.1 * noise
    for (block, index), width in (WIDTHS if widths is None else widths).items():
        for letter in "kv":
            noise = torch.randn(width, hidden, generator=generator)
            made[projection_name((block, index, 0), letter)] = 1.5 * noise * hidden**-0.5
    return made


def save_small(path, **settings):
    """The same as a .safetensors file."""
    import json

    from safetensors.torch import save_file

    from comfyui_exemplar.networks.deadiff.load import ABOUT_KEY

    save_file(small_weights(**settings), path, metadata={ABOUT_KEY: json.dumps(ABOUT)})
    return path
