"""What references and strokes become in a memory."""

import pytest
import torch

from comfyui_exemplar.memory.features import joined_keys
from comfyui_exemplar.memory.writing import from_references, from_strokes

from . import naive


def test_an_entry_a_place_with_the_mean_color_there():
    features, chroma = naive.features(2), naive.chroma(2)
    memory = from_references(features, chroma, precision="float32")
    assert len(memory) == 2 * 48 and memory.sources == ("reference 1", "reference 2")
    assert torch.equal(memory.keys.floats(), joined_keys(features).flatten(0, 1))
    # 12 x 16 pixels on 6 x 8 places
    torch.testing.assert_close(memory.chroma[48 + 1 * 8 + 3], chroma[1, 2:4, 6:8].mean((0, 1)))
    assert torch.equal(memory.weight, torch.ones(96)) and memory.source.tolist() == [0] * 48 + [1] * 48
    assert memory.made.spaces == features.spaces and memory.made.fingerprint == "toy"


def test_masks_leave_out_and_a_place_in_part_has_the_color_of_that_part():
    chroma, mask = naive.chroma(), torch.zeros(1, 12, 16)
    mask[0, :, :7] = 1  # three places and a half
    memory = from_references(naive.features(), chroma, masks=mask)
    assert len(memory) == 6 * 4
    row = memory.weight.view(6, 4)
    assert torch.equal(row, torch.tensor([1, 1, 1, 0.5]).expand(6, 4))
    torch.testing.assert_close(memory.chroma[3], chroma[0, 0:2, 6].mean(0))


def test_a_full_mask_is_none():
    features, chroma = naive.features(2), naive.chroma(2)
    plain, masked = (from_references(features, chroma, masks=m) for m in (None, torch.ones(1, 12, 16)))
    torch.testing.assert_close(masked.chroma, plain.chroma)
    assert torch.equal(masked.weight, plain.weight) and torch.equal(masked.keys.data, plain.keys.data)


def test_weights_and_names():
    memory = from_references(naive.features(2), naive.chroma(2), weights=(1.0, 3.0), names=("a", "b"))
    assert memory.weight.tolist() == [1.0] * 48 + [3.0] * 48 and memory.sources == ("a", "b")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"masks": torch.zeros(1, 12, 16)}, "covers nothing of reference 1"),
        ({"masks": torch.ones(3, 12, 16)}, "found 3 for 2 reference"),
        ({"weights": (1.0, 2.0, 3.0)}, "weights: found 3 for 2"),
        ({"weights": (1.0, 0.0)}, "expected numbers above 0"),
        ({"names": ("a",)}, "names: found 1 for 2"),
        ({"chroma": naive.chroma(1)}, "found 2 pictures beside the colors of 1"),
    ],
)
def test_refused(wrong, message):
    arguments = {"chroma": naive.chroma(2), **wrong}
    with pytest.raises(ValueError, match=message):
        from_references(naive.features(2), **arguments)


def painted(rows, columns):
    place = torch.zeros(12, 16, dtype=torch.bool)
    place[rows, columns] = True
    return place, torch.where(place[..., None], torch.tensor([30.0, -20.0]), 0.0)


def test_strokes_are_entries_where_they_are_and_keep_their_marks():
    place, chroma = painted(slice(2, 6), slice(4, 8))
    memory = from_strokes(naive.features(), chroma, place, torch.full((12, 16), 50.0), weight=4.0)
    assert len(memory) == 4 and memory.weight.tolist() == [4.0] * 4 and memory.sources == ("strokes",)
    torch.testing.assert_close(memory.chroma, torch.tensor([30.0, -20.0]).expand(4, 2))
    (marks,) = memory.marks
    assert marks.source == 0 and torch.equal(marks.place, place)
    assert memory.merged(memory).marks[1].source == 1


def test_a_stroke_thinner_than_any_place_is_an_entry():
    place, _ = painted(slice(3, 4), slice(5, 6))
    big = torch.nn.functional.interpolate(place[None, None].float(), scale_factor=8)[0, 0].bool()
    thin = torch.zeros_like(big)
    thin[30, 45] = True  # 1 of 256 pixels of a place
    memory = from_strokes(
        naive.features(), thin[..., None] * torch.tensor([30.0, -20.0]), thin, torch.zeros(thin.shape)
    )
    assert len(memory) == 1 and memory.weight.tolist() == [1.0]
    torch.testing.assert_close(memory.chroma[0], torch.tensor([30.0, -20.0]))


def test_strokes_refused():
    place, chroma = painted(slice(0, 0), slice(0, 0))
    with pytest.raises(ValueError, match="marks that cover nothing"):
        from_strokes(naive.features(), chroma, place, torch.zeros(12, 16))
    with pytest.raises(ValueError, match="found 2 pictures"):
        from_strokes(naive.features(2), chroma, place, torch.zeros(12, 16))
    with pytest.raises(ValueError, match="expected one size"):
        from_strokes(naive.features(), chroma, ~place, torch.zeros(5, 5))
