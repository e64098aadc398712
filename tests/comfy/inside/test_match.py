"""Match Colors within ComfyUI: what the flow gives, on frames, with masks, and beside ComfyUI's own node."""

import pytest
import torch
from comfy_extras.nodes_post_processing import ColorTransfer

from comfyui_exemplar.pipelines.match import MatchSettings, match_colors


def blobs(seed, frames=1, height=48, width=64):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(frames, 3, 5, 6, generator=generator)
    made = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (0.25 + 0.5 * made).movedim(1, -1).contiguous()


def core(image, reference, method, statistics="per_frame", index=0):
    chosen = {"source_stats": statistics, "target_index": index}
    return ColorTransfer.execute(image, reference, method, chosen).result[0]


def test_the_node_is_the_flow(nodes):
    image, reference, mask = blobs(0, 3), blobs(1), torch.rand(1, 20, 20)
    values = {"method": "histogram", "keep_lightness": True, "strength": 0.7}
    (made,) = nodes("ExemplarMatchColors", image=image, reference=reference, mask=mask, reference_mask=mask, **values)
    wanted = match_colors(image, reference, MatchSettings(**values), mask=mask, reference_mask=mask)
    assert torch.equal(made, wanted)
    (alone,) = nodes(
        "ExemplarMatchColors", image=image[1:2], reference=reference, mask=mask, reference_mask=mask, **values
    )
    assert torch.equal(made[1:2], alone)
    (same,) = nodes("ExemplarMatchColors", image=image, reference=reference, strength=0.0)
    assert torch.equal(same, image)


@pytest.mark.parametrize("method", [("mean and spread", "reinhard_lab"), ("covariance", "mkl_lab")])
@pytest.mark.parametrize(
    "statistics", [("each frame", "per_frame", 0), ("whole batch", "uniform", 0), ("one frame", "target_frame", 2)]
)
def test_formulas_that_comfyui_has_too_give_the_same(nodes, method, statistics):
    image, reference = blobs(0, 3), blobs(1)
    ours, theirs = method
    (made,) = nodes(
        "ExemplarMatchColors",
        image=image,
        reference=reference,
        method=ours,
        gamut="clip",
        statistics=statistics[0],
        frame=statistics[2],
    )
    difference = (made - core(image, reference, theirs, *statistics[1:])).abs()
    assert float(difference.max()) < 1e-3 and float(difference.mean()) < 5e-5


def test_histograms_have_no_256_steps(nodes):
    image, reference = blobs(0, 1, 96, 128), blobs(1, 1, 96, 128)
    (made,) = nodes("ExemplarMatchColors", image=image, reference=reference, method="histogram", space="RGB")
    theirs = core(image, reference, "histogram")
    assert len(theirs[..., 0].unique()) <= 256 < 5000 < len(made[..., 0].unique())
    assert float((made - theirs).abs().mean()) < 1.5 / 255, "the same map otherwise"


def test_refusals_name_the_node(nodes):
    with pytest.raises(ValueError, match="Match Colors: reference: found 2 for 3 frame"):
        nodes("ExemplarMatchColors", image=blobs(0, 3), reference=blobs(1, 2))
    with pytest.raises(ValueError, match="Match Colors: frame is 5, but image has 3"):
        nodes("ExemplarMatchColors", image=blobs(0, 3), reference=blobs(1), statistics="one frame", frame=5)
