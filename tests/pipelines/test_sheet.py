"""Contact sheets."""

import torch

from comfyui_exemplar.pipelines.exemplar import colorize
from comfyui_exemplar.pipelines.exemplar_settings import ColorizeSettings
from comfyui_exemplar.pipelines.sheet import contact_sheet


def test_contact_sheet(host):
    image, reference = torch.rand(1, 24, 40, 3), torch.rand(1, 32, 32, 3)
    result = colorize(host, image, reference, ColorizeSettings(passes=1, depth=2, resolution=32))
    sheet = contact_sheet(image, reference, result, height=64)
    heights = 64 + 18  # captions
    widths = [round(40 * 64 / 24)] * 2 + [64]  # input, result; reference
    assert sheet.shape[0] == 1 and sheet.shape[1] == heights and sheet.shape[2] > sum(widths)
    assert bool(torch.isfinite(sheet).all()) and sheet.min() >= 0 and sheet.max() <= 1
