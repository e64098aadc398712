"""What is made of an encoder's tokens: patches alone, no massive channels, cosines, chosen blocks."""

import dataclasses
import re

import pytest
import torch

from comfyui_exemplar.memory.features import Features, joined_keys, joined_queries
from comfyui_exemplar.pipelines.encoder_features import (
    COSINES,
    EncoderFeatures,
    alike,
    as_written,
    chosen_blocks,
    enlarged_positions,
    recommended_for,
)
from comfyui_exemplar.pipelines.memory import color_by_memory, write_references
from comfyui_exemplar.pipelines.memory_settings import FeatureSettings, MemorySettings, WritingSettings

SETTINGS = FeatureSettings(resolution=0, context=0.0)


class Means:
    """An encoder whose tokens are its patches' pixels, behind two tokens that are none."""

    fingerprint, name, patch, side, width, depth, extra = "toy-1", "Toy", 4, 16, 48, 5, 2
    normed = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

    def __init__(self):
        self.seen = []

    def tokens(self, pixels, blocks):
        self.seen.append(pixels)
        patches = torch.nn.functional.unfold(pixels, 4, stride=4).transpose(1, 2)
        extra = torch.full((len(pixels), self.extra, self.width), 1e3)
        return [torch.cat([extra, patches * (index + 1)], 1) for index in blocks]


def pictures(count=1, height=16, width=24, seed=0):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(seed))


def test_patches_in_their_places_and_pixels_as_the_encoder_wants_them():
    encoder = Means()
    features = EncoderFeatures(encoder, SETTINGS).features(pictures())
    assert features.grids == ((4, 6),)
    torch.testing.assert_close(encoder.seen[0], (pictures().movedim(-1, 1) - 0.5) / 0.25)
    second = ((pictures()[:, :4, 4:8] - 0.5) / 0.25).movedim(-1, 1).flatten(1)
    torch.testing.assert_close(features.keys[0][:, 1], alike(second[:, None])[:, 0])


@pytest.mark.parametrize(
    ("size", "resolution", "seen"),
    [((17, 23), 0, (16, 24)), ((512, 16), 32, (180, 4)), ((3, 3), 0, (4, 4)), ((30, 60), 40, (28, 56))],
)
def test_any_size_becomes_whole_patches(size, resolution, seen):
    encoder = Means()
    EncoderFeatures(encoder, dataclasses.replace(SETTINGS, resolution=resolution)).features(pictures(2, *size))
    assert encoder.seen[0].shape == (2, 3, *seen)


def test_a_lookup_compares_cosines():
    tokens = torch.randn(1, 6, 512, generator=torch.Generator().manual_seed(1))
    source = EncoderFeatures(Means(), SETTINGS)
    (space,) = source.spaces
    sides = (alike(tokens),), (alike(tokens),)
    features = Features("toy-1", (dataclasses.replace(space, width=512),), *sides, ((2, 3),))
    logits = joined_queries(features, fine=0.5)[0] @ joined_keys(features)[0].T
    centered = tokens[0] - tokens[0].median(-1, keepdim=True).values
    expected = torch.nn.functional.cosine_similarity(centered[:, None], centered[None], dim=-1) / (0.5 * COSINES)
    assert (logits - expected).abs().max() < 0.02 / (0.5 * COSINES)  # normal channels are hardly clipped
    assert torch.equal(logits.argmax(-1), torch.arange(6))


def test_massive_channels_do_not_decide():
    tokens = torch.randn(1, 8, 256, generator=torch.Generator().manual_seed(1))
    massive = tokens.clone()
    massive[..., [3, 77]] += torch.tensor([400.0, -250.0])
    plain, clipped = (alike(each)[0] @ alike(each)[0].T * COSINES / 16 for each in (tokens, massive))
    apart = plain[~torch.eye(8, dtype=torch.bool)], clipped[~torch.eye(8, dtype=torch.bool)]
    unclipped = torch.nn.functional.cosine_similarity(massive[0][:, None], massive[0][None], dim=-1)
    assert unclipped.min() > 0.99  # every place is like every other
    assert (apart[0] - apart[1]).abs().max() < 0.2 and apart[1].abs().max() < 0.4


def test_empty_tokens_are_like_none():
    assert torch.equal(alike(torch.ones(1, 2, 8)), torch.zeros(1, 2, 8))


@pytest.mark.parametrize(
    ("layers", "blocks"),
    [("match", (3,)), ("block.1", (1,)), ("block.1-3", (1, 2, 3)), ("match, block.0", (0, 3)), ("4, 2", (2, 4))],
)
def test_chosen_blocks(layers, blocks):
    assert chosen_blocks(layers, 5) == blocks
    assert [s.name for s in EncoderFeatures(Means(), dataclasses.replace(SETTINGS, layers=layers)).spaces] == [
        f"block.{index}" for index in blocks
    ]


@pytest.mark.parametrize("layers", ["", "color", "output.8", "block.5", "block.3-1", "block.x", "block.1-9", "-2"])
def test_blocks_that_there_are_not(layers):
    with pytest.raises(ValueError, match=r"layers: .*this encoder has block\.0-4"):
        EncoderFeatures(Means(), dataclasses.replace(SETTINGS, layers=layers))


def test_one_block_is_the_last_but_one_as_well():
    assert chosen_blocks("match", 1) == (0,)


def test_positions_are_kept_or_enlarged():
    positions = torch.randn(1 + 16, 8, generator=torch.Generator().manual_seed(1))
    assert enlarged_positions(positions, (4, 4), 1) is positions
    wide = enlarged_positions(positions, (4, 8), 1)
    assert wide.shape == (33, 8) and torch.equal(wide[0], positions[0])
    rows = torch.arange(4.0).repeat_interleave(4)[:, None]
    grown = enlarged_positions(rows, (8, 8), 0).view(8, 8)  # rows stay rows, in their order
    assert (grown - grown[:, :1]).abs().max() < 1e-6 and bool((grown[:, 0].diff() > 0).all())


def test_a_memory_is_asked_as_it_was_written():
    written = FeatureSettings("block.1-2", context=0.25, resolution=0)
    memory = write_references(EncoderFeatures(Means(), written), pictures(), WritingSettings(written), maker="Toy")
    asking = MemorySettings(as_written(SETTINGS, memory, "toy-1"))
    assert asking.features.layers == "block.1, block.2" and asking.features.context == 0.25
    result = color_by_memory(EncoderFeatures(Means(), asking.features), pictures(), memory, asking)
    assert result.images.isfinite().all()
    assert as_written(SETTINGS, memory, "another") is SETTINGS


def test_what_an_encoder_recommends_are_settings():
    found = recommended_for(Means())
    assert (
        MemorySettings.resolve(found).features.resolution == 128
        and WritingSettings.resolve(found).features.context == 0
    )


def test_answers_that_do_not_fit():
    class Cropped(Means):
        def tokens(self, pixels, blocks):
            return [t[:, :-1] for t in super().tokens(pixels, blocks)]

    class Overflown(Means):
        def tokens(self, pixels, blocks):
            return [t.index_fill(-1, torch.tensor(3), float("inf")) for t in super().tokens(pixels, blocks)]

    with pytest.raises(ValueError, match=r"Toy: found tokens \(25, 48\) for 4 x 6 patches, expected \(26, 48\)"):
        EncoderFeatures(Cropped(), SETTINGS).features(pictures())
    with pytest.raises(ValueError, match=re.escape("Toy: found NaN or infinite features")):
        EncoderFeatures(Overflown(), SETTINGS).features(pictures())
