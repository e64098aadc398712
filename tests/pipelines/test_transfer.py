"""Colors of a drifted copy on the original's own pixels."""

import sys

import pytest
import torch

from comfyui_exemplar.color import ab_error, desaturate, luminance, merge_luminance
from comfyui_exemplar.color.heat import displacement_picture
from comfyui_exemplar.pipelines.transfer import TransferSettings, transfer_colors

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


def rich(seed=0):
    return scene(200, 264, seed)


def test_an_edit_that_did_not_move_is_merged_as_ever():
    truth = rich()
    gray = desaturate(truth)
    for edited in (truth, drifted(truth, 0, 0, 0, 0)):
        result = transfer_colors(gray, edited, TransferSettings())
        assert float(result.displacement.abs().max()) == 0
        plain = merge_luminance(edited, gray)
        assert float((result.images - plain).abs().mean()) < 1e-3
        assert float((result.confidence > 0.5).float().mean()) > 0.99


def test_settings_that_change_nothing():
    truth = rich()
    gray, edited = desaturate(truth), drifted(truth)
    none = transfer_colors(gray, edited, TransferSettings(motion="none", fallback_below=0.0))
    assert float((none.images - merge_luminance(edited, gray)).abs().max()) < 1e-4
    assert float(none.displacement.abs().max()) == 0
    pale = transfer_colors(gray, edited, TransferSettings(saturation=0.0)).images
    assert float((pale - gray).abs().max()) < 2e-3


def test_what_was_drawn_anew_takes_the_fallback():
    truth = rich()
    gray, edited = desaturate(truth), truth.clone()
    place = (slice(None), slice(60, 130), slice(80, 170))
    edited[place] = rich(7)[place]
    errors = {}
    for name, more in (("edit", {}), ("fallback", {"fallback": truth})):
        result = transfer_colors(gray, edited, TransferSettings(), **more)
        errors[name] = float(ab_error(result.images[place], truth[place]))
    plain = float(ab_error(merge_luminance(edited, gray)[place], truth[place]))
    assert errors["fallback"] < 0.3 * plain and errors["edit"] < plain
    everywhere = transfer_colors(gray, edited, TransferSettings(fallback_below=0.0)).images
    assert float((everywhere - merge_luminance(edited, gray)).abs().max()) < 1e-3


def test_colors_that_the_edit_left_alone_are_kept():
    original = rich()
    edited = original.clone()
    edited[:, 60:130, 80:170] = desaturate(edited[:, 60:130, 80:170]) * torch.tensor([1.0, 0.75, 0.6])
    edited = edited * 0.98 + 0.005
    kept = transfer_colors(original, edited, TransferSettings(keep_unchanged=True)).images
    taken = transfer_colors(original, edited, TransferSettings()).images
    assert float((kept - original)[:, :40].abs().max()) < 2e-3 < float((taken - original)[:, :40].abs().max())
    assert float(ab_error(kept[:, 75:115, 95:155], taken[:, 75:115, 95:155])) < 0.5


@pytest.mark.parametrize(
    "name, turn",
    [
        ("mirrored", lambda copy: copy.flip(2)),
        ("upside down", lambda copy: copy.flip(1, 2)),
        ("turned to the right", lambda copy: copy.rot90(-1, (1, 2))),
        ("turned to the left", lambda copy: copy.rot90(1, (1, 2))),
    ],
)
def test_turned_edits_are_named_and_brought_back(name, turn):
    truth = rich()
    result = transfer_colors(desaturate(truth), turn(truth), TransferSettings())
    assert float(ab_error(result.images, truth)) < 1
    assert float(result.confidence.mean()) > 0.9
    if result.notes:  # features find a turn by themselves
        assert result.notes == (f"The edit is {name}; it was brought back before its colors were taken.",)
    else:
        assert name != "mirrored"


def test_an_unrelated_edit_is_told_and_merged_plainly():
    truth, other = rich(), rich(9)
    result = transfer_colors(desaturate(truth), other, TransferSettings())
    assert len(result.notes) == 1 and "does not seem to show the original" in result.notes[0]
    assert float(result.confidence.max()) < 0.5
    assert float((result.images - merge_luminance(other, desaturate(truth))).abs().max()) < 1e-3


def test_batches_and_dtypes():
    truth = torch.cat([scene(96, 112, seed) for seed in (0, 1)])
    gray = desaturate(truth)
    both = transfer_colors(gray, truth, TransferSettings())
    for i in range(2):
        alone = transfer_colors(gray[i : i + 1], truth[i : i + 1], TransferSettings())
        assert torch.equal(both.images[i], alone.images[0]) and torch.equal(both.confidence[i], alone.confidence[0])
    one = transfer_colors(gray[:1].repeat(2, 1, 1, 1), truth[:1], TransferSettings())
    assert torch.equal(one.images[0], one.images[1])
    for dtype in (torch.float16, torch.bfloat16):
        half = transfer_colors(gray[:1].to(dtype), truth[:1].to(dtype), TransferSettings())
        assert half.images.dtype == dtype
        assert float((half.images.float() - both.images[:1]).abs().mean()) < 0.02


@pytest.mark.parametrize(
    "original, edited, said",
    [
        (torch.rand(1, 8, 8, 3), torch.full((1, 8, 8, 3), 0.5), "edited: found no color"),
        (torch.rand(1, 8, 8, 3), torch.rand(2, 8, 8, 3), "edited: found 2 for 1 picture"),
        (torch.rand(1, 8, 8, 3), torch.full((1, 8, 8, 3), float("nan")), "edited: found NaN"),
        (torch.rand(1, 1, 1, 3), torch.rand(1, 8, 8, 3), "original: found 1 x 1 pixels"),
        (torch.rand(1, 8, 8, 3) * 255, torch.rand(1, 8, 8, 3), "divide 8-bit values by 255"),
        (torch.rand(8, 8, 3), torch.rand(1, 8, 8, 3), "original: found a tensor of shape"),
    ],
)
def test_bad_input_is_refused(original, edited, said):
    with pytest.raises(ValueError, match=said):
        transfer_colors(original, edited, TransferSettings())


def test_tiny_pictures_and_alpha():
    generator = torch.Generator().manual_seed(3)
    result = transfer_colors(
        torch.rand(1, 2, 3, 4, generator=generator), torch.rand(1, 9, 5, 4, generator=generator), TransferSettings()
    )
    assert result.images.shape == (1, 2, 3, 3) and bool(result.images.isfinite().all())


def test_without_opencv_it_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    truth = rich()
    result = transfer_colors(desaturate(truth), drifted(truth), TransferSettings())
    assert "opencv-python-headless" in result.notes[0]
    plain = merge_luminance(drifted(truth), desaturate(truth))
    assert float(ab_error(result.images, truth)) < 0.7 * float(ab_error(plain, truth))
