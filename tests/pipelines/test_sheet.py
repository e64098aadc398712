"""Contact sheets."""

import torch

from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.sheet import contact_sheet, transfer_sheet
from comfyui_exemplar.pipelines.transfer import TransferResult


def test_contact_sheet(host):
    image, reference = torch.rand(1, 24, 40, 3), torch.rand(1, 32, 32, 3)
    result = colorize(host, image, reference, ColorizeSettings(passes=1, depth=2, resolution=32))
    sheet = contact_sheet(image, reference, result, height=64)
    heights = 64 + 18  # captions
    widths = [round(40 * 64 / 24)] * 2 + [64]  # input, result; reference
    assert sheet.shape[0] == 1 and sheet.shape[1] == heights and sheet.shape[2] > sum(widths)
    assert bool(torch.isfinite(sheet).all()) and sheet.min() >= 0 and sheet.max() <= 1


def test_transfer_sheet():
    """Six columns, of pictures of any size; what did not move at all is gray."""
    image = torch.rand(1, 24, 40, 3)
    for displacement in (torch.zeros(1, 24, 40, 2), torch.randn(1, 24, 40, 2)):
        result = TransferResult(image, torch.rand(1, 24, 40), image, displacement)
        sheet = transfer_sheet(image, torch.rand(1, 9, 50, 3), result, height=64)
        widths = [round(40 * 64 / 24)] * 5 + [round(50 * 64 / 9)]
        assert sheet.shape == (1, 64 + 18, sum(widths) + 5 * 6, 3)
        assert bool(torch.isfinite(sheet).all()) and sheet.min() >= 0 and sheet.max() <= 1
        moved = sheet[:, 8:56, widths[0] * 3 + widths[5] + 24 : widths[0] * 4 + widths[5] + 24]
        assert (float((moved.amax(-1) - moved.amin(-1)).max()) < 0.01) == (not displacement.any())
