"""The doors of pictures, masks and latents against everything that is none, see ``tests/fixtures/odd.py``."""

import pytest
import torch

from comfyui_exemplar.color import as_mask, as_picture
from comfyui_exemplar.hosts.comfy.latents import as_latents

from ..fixtures.odd import LATENTS, MASKS, PICTURES

ROWS = torch.linspace(0, 1, 16)
PICTURE = torch.stack([ROWS.expand(16, 16), 1 - ROWS.expand(16, 16), ROWS[:, None].expand(16, 16)], -1)[None]
LATENT = {"samples": torch.linspace(-2, 2, 4 * 64).reshape(1, 4, 8, 8)}
DOORS = {
    "picture": (as_picture, PICTURE, PICTURES),
    "mask": (as_mask, PICTURE[..., 0].contiguous(), MASKS),
    "latent": (as_latents, LATENT, LATENTS),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(("kind", "odd"), [(kind, odd) for kind, (_, _, table) in DOORS.items() for odd in table])
def test_refused(kind, odd):
    door, good, table = DOORS[kind]
    with pytest.raises(ValueError, match=r"^here: .*found .*expected") as refused:
        door(table[odd](good), "here")
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("kind", DOORS)
def test_nothing(kind):
    door, _, _ = DOORS[kind]
    if kind == "mask":
        assert door(None, "here") is None
        return
    with pytest.raises(ValueError, match=r"^here: found nothing, expected"):
        door(None, "here")


@pytest.mark.parametrize("kind", DOORS)
def test_the_right_one_is_handed_on(kind):
    door, good, _ = DOORS[kind]
    assert door(good, "here") is (good["samples"] if kind == "latent" else good)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_every_kind(dtype):
    assert torch.equal(as_picture(PICTURE.to(dtype), "here"), PICTURE.to(dtype))
    assert torch.equal(as_mask(PICTURE[..., 0].to(dtype), "here"), PICTURE[..., 0].to(dtype))
    assert torch.equal(as_latents({"samples": LATENT["samples"].to(dtype)}, "here"), LATENT["samples"].to(dtype))


def test_what_stands_beside_samples():
    more = {"noise_mask": torch.ones(1, 1, 8, 8), "batch_index": torch.tensor([3]), "downscale_ratio_spacial": 8}
    assert as_latents({**LATENT, **more}, "here") is LATENT["samples"]


@pytest.mark.parametrize("door", [as_picture, as_mask])
def test_what_bicubic_leaves_of_a_halftone(door):
    """Single pixels that alternate overshoot in both directions at once, by more than any edge; few values do."""
    dots = (torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5)) > 0.5).float()
    scaled = torch.nn.functional.interpolate(dots, scale_factor=1.5, mode="bicubic")
    assert float(scaled.max()) > 1.3
    values = scaled.movedim(1, -1) if door is as_picture else scaled[:, 0]
    assert torch.equal(door(values, "here"), values.clamp(0, 1))
    with pytest.raises(ValueError, match="here: found values from"):
        door(values * 1.5 - 0.25, "here")  # a contrast that cuts much away is another scale
