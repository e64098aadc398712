"""Colors of a drifted copy on the original's own pixels."""

import pytest
import torch

from comfyui_exemplar.color import ab_error, desaturate, luminance, merge_luminance
from comfyui_exemplar.pipelines.transfer import TransferSettings, displacement_picture, transfer_colors

pytest.importorskip("cv2")


def scene(height=160, width=208, seed=0):
    """(1, H, W, 3): soft blobs of many colors with hard-edged disks on them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 11, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0.05, 0.95)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for _ in range(24):
        y, x, radius = torch.rand(3, generator=generator) * torch.tensor([height, width, height / 10.0])
        disk = (rows - y).square() + (columns - x).square() < radius.square()
        picture = torch.where(disk, torch.rand(1, 3, 1, 1, generator=generator), picture)
    return picture.movedim(1, -1)


def drifted(picture, left=5, top=3, right=2, bottom=4):
    """A crop, stretched back to multiples of 32."""
    height, width = picture.shape[1:3]
    part = picture[:, top : height - bottom, left : width - right].movedim(-1, 1)
    size = (height // 32 * 32, width // 32 * 32)
    return torch.nn.functional.interpolate(part, size, mode="bicubic", antialias=True).movedim(1, -1).clamp(0, 1)


def test_a_drifted_copy_colors_its_original():
    truth = scene()
    gray, edited = desaturate(truth), drifted(truth)
    result = transfer_colors(gray, edited, TransferSettings())
    plain = float(ab_error(merge_luminance(edited, gray), truth))
    assert float(ab_error(result.images, truth)) < 0.4 * plain
    assert float((luminance(result.images) - luminance(gray)).abs().max()) < 100 / 255
    assert result.confidence.shape == gray.shape[:3] and result.displacement.shape == (*gray.shape[:3], 2)
    assert result.aligned.shape == gray.shape
    assert displacement_picture(result.displacement).shape == gray.shape


def test_a_mask_says_where_colors_go():
    truth = scene()
    original = truth * 0.5 + 0.2
    mask = torch.zeros(1, 160, 208)
    mask[:, :, :104] = 1
    plain = transfer_colors(original, truth, TransferSettings()).images
    masked = transfer_colors(original, truth, TransferSettings(), mask=mask).images
    assert torch.equal(masked[:, :, :104], plain[:, :, :104])
    assert float((masked[:, :, 104:] - original[:, :, 104:]).abs().max()) < 1e-4


def test_it_is_told_what_is_done_and_can_be_stopped():
    truth, told, stop = scene(96, 112), [], {}
    originals, edits = desaturate(torch.cat([truth, truth.flip(2)])), torch.cat([truth, truth.flip(2)])

    def tell(done, shown):
        told.append((done, None if shown is None else tuple(shown.shape)))
        if len(told) == stop["at"]:
            raise KeyboardInterrupt

    stop["at"] = 0
    transfer_colors(originals, edits, TransferSettings(), progress=tell)
    finished = (1, (96, 112, 3))
    assert told[-1] == (2, (96, 112, 3)) and finished in told
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told.index(finished) >= 3, "between the stages, too"
    for at in range(1, 5):
        stop["at"] = at
        told.clear()
        with pytest.raises(KeyboardInterrupt):
            transfer_colors(originals, edits, TransferSettings(), progress=tell)
