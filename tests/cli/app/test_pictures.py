"""Files that are dropped, and what is painted on them."""

import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_exemplar.cli.app.pictures import KeptPictures, fitted, marks_of, read, shown, write_result, write_shown
from comfyui_exemplar.files.pictures import read_photograph


def layer(height, width, box, color, alpha=255):
    made = np.zeros((height, width, 4), np.uint8)
    top, left, bottom, right = box
    made[top:bottom, left:right] = (*color, alpha)
    return made


def test_strokes_become_colors_and_a_mask():
    colors, mask = marks_of([layer(40, 60, (10, 20, 20, 40), (200, 30, 40))], (40, 60))
    assert colors.shape == (1, 40, 60, 3) and mask.shape == (1, 40, 60)
    assert mask.sum() == 10 * 20 and mask[0, 15, 30] == 1
    assert torch.equal((colors[0, 15, 30] * 255).round(), torch.tensor([200.0, 30, 40]))
    assert float(colors[0, 0, 0].sum()) == 0


def test_strokes_of_a_small_copy_come_to_the_pictures_size():
    colors, mask = marks_of([layer(40, 60, (10, 20, 20, 40), (200, 30, 40))], (121, 179))
    assert mask.shape == (1, 121, 179)
    assert float(mask.mean()) == pytest.approx(200 / 2400, rel=0.1)
    painted = colors[mask > 0]
    assert (painted * 255 - torch.tensor([200.0, 30, 40])).abs().max() < 1, "edges keep the strokes' color"


def test_upper_layers_cover_lower_ones_and_empty_ones_nothing():
    below, above = (layer(40, 60, box, c) for box, c in (((0, 0, 40, 30), (255, 0, 0)), ((0, 20, 40, 60), (0, 0, 255))))
    colors, mask = marks_of([below, np.zeros((9, 9, 4), np.uint8), above], (40, 60))
    assert mask.all() and colors[0, 5, 25].tolist() == [0, 0, 1] and colors[0, 5, 5].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    "layers", [[], [np.zeros((40, 60, 4), np.uint8)], [layer(40, 60, (0, 0, 40, 60), (9, 9, 9), 90)]]
)
def test_where_nothing_is_painted_there_are_no_strokes(layers):
    assert marks_of(layers, (40, 60)) is None


def test_strokes_on_another_picture_are_refused():
    with pytest.raises(ValueError, match=r"found 60 x 40 pixels on a picture of 40 x 60.*paint on the picture"):
        marks_of([layer(40, 60, (0, 0, 40, 60), (9, 9, 9))], (60, 40))


def test_a_scan_keeps_depth_orientation_and_metadata(tmp_path):
    levels = (np.arange(30 * 20, dtype=np.uint16) * 97).reshape(30, 20)
    exif = Image.Exif()
    exif[274], exif[271] = 6, "Maker"
    Image.fromarray(levels).save(tmp_path / "scan.tif", exif=exif, dpi=(300, 300))
    dropped = read(tmp_path / "scan.tif")
    assert dropped.image.shape == (1, 20, 30, 3) and dropped.about == "scan.tif, 30 × 20, 16 bits"
    path = write_result(dropped.image, dropped, tmp_path)
    again = read_photograph(path)
    assert path.name == "scan_colored.png" and again.facts.bits == 16
    assert torch.equal((again.images * 65535).round(), (dropped.image * 65535).round())
    assert again.facts.resolution == pytest.approx((300, 300), abs=0.01) and b"Maker" in again.facts.exif


def test_a_dropped_file_is_read_once(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    kept = KeptPictures(most=2 * 8 * 8 * 3 * 4)
    first, second = map(kept.read, paths[:2])
    assert kept.read(paths[0]) is first and kept.read(str(paths[1])) is second
    assert kept.read(paths[0]) is first
    kept.read(paths[2])
    assert kept.read(paths[0]) is first and kept.read(paths[1]) is not second, "those asked for last stay"


def test_a_dropped_file_is_read_anew_where_it_changed_or_is_gone(tmp_path):
    kept, path = KeptPictures(), tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    assert kept.read(path).image.sum() == 0
    Image.new("RGB", (8, 8), "white").save(path)
    assert kept.read(path).image.min() == 1
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        kept.read(path)


def test_a_picture_that_is_too_large_is_not_kept(tmp_path):
    kept, path = KeptPictures(most=1), tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    assert kept.read(path) is not kept.read(path)


def test_the_browser_sees_a_small_copy(tmp_path):
    assert shown(torch.rand(1, 30, 60, 3), 20).shape == (10, 20, 3) and shown(torch.rand(1, 3, 6, 3)).dtype == np.uint8
    picture = torch.rand(1, 3, 6, 3)
    written = write_shown(picture, tmp_path / "seen.png")
    assert np.array_equal(np.asarray(Image.open(written)), shown(picture)) and list(tmp_path.iterdir()) == [
        tmp_path / "seen.png"
    ]
    assert fitted(picture, 6) is picture and fitted(torch.rand(1, 1, 900, 3), 30).shape == (1, 1, 30, 3)
