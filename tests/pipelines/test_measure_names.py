"""Where two programs give one name to two numbers: what must be said beside an FID and an SSIM."""

import pytest
import torch

from comfyui_exemplar.color.measures import frechet_distance, ssim
from comfyui_exemplar.networks.measure.inception import SIDE, Inception

from .test_measure import blobs


def noise(seed, count=3):
    return torch.rand(count, 40, 44, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_fid_depends_on_how_pictures_are_resized():
    """pytorch-fid's bilinear has no antialiasing; torchmetrics' FID has, unless it is told not to."""
    torch.manual_seed(0)
    network = Inception().eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)  # so that something arrives at the end

    def features(seed, antialias):
        pictures = torch.nn.functional.interpolate(noise(seed).movedim(-1, 1), (700, 700))
        small = torch.nn.functional.interpolate(
            pictures, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=antialias
        )
        with torch.no_grad():
            own = network.look(pictures.movedim(1, -1)).last
            made = network.look(small.movedim(1, -1)).last
        if not antialias:
            assert torch.allclose(own, made, rtol=1e-4, atol=1e-5), "what the network does by itself"
        return made

    plain, smoothed = (frechet_distance(features(1, way), features(2, way)) for way in (False, True))
    assert plain != pytest.approx(smoothed, rel=0.01)


def test_ssim_of_a_library_depends_on_the_batch():
    """torchmetrics takes the range of values from what it is given, unless it is told; ours is 1 for every picture."""
    image = pytest.importorskip("torchmetrics.functional.image")
    one, two = blobs(1), 0.2 + 0.1 * blobs(2)
    other, truth = (torch.cat([one, two]), torch.cat([blobs(3), 0.2 + 0.1 * blobs(4)]))
    both = ssim(other, truth)
    assert float(ssim(two, truth[1:])) == pytest.approx(float(both[1]))

    def theirs(pictures, true, **options):
        parts = (each.movedim(-1, 1) for each in (pictures, true))
        return image.structural_similarity_index_measure(*parts, reduction="none", **options)

    alone, together = theirs(two, truth[1:])[0], theirs(other, truth)[1]
    assert float(alone) != pytest.approx(float(together), rel=0.05)
    told = [float(theirs(*each, data_range=1.0)[-1]) for each in ((two, truth[1:]), (other, truth))]
    assert told[0] == pytest.approx(told[1]) == pytest.approx(float(both[1]), abs=0.03)  # other borders
