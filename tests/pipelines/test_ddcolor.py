"""Automatic color around a network that is not one: sizes, lightness, chunks, video, and bad input."""

import dataclasses

import pytest
import torch

from comfyui_exemplar.color import desaturate, luminance, rgb_to_lab
from comfyui_exemplar.pipelines.ddcolor import (
    AutoColorSettings,
    auto_color,
    auto_color_in_turn,
    network_size,
)

SETTINGS = AutoColorSettings(resolution=64)


class Painter:
    """Stands in for a network: chroma grows with lightness from left to right. Counts what it is asked.

    :param most: frames beyond which memory runs out.
    """

    def __init__(self, at_once=8, most=8, flicker=0.0):
        self.at_once, self.most, self.flicker = at_once, most, flicker
        self.calls, self.freed = [], 0

    def __call__(self, gray):
        # OpenCV's matrix leaves a rounding between the channels
        assert gray.dtype == torch.float32 and float((gray - gray[:, :1]).abs().max()) < 1e-6
        assert float(gray.min()) >= 0 and float(gray.max()) <= 1
        self.calls.append(tuple(gray.shape))
        if len(gray) > self.most:
            raise torch.OutOfMemoryError("out of memory (test)")
        right = torch.linspace(-8, 8, gray.shape[3]).expand(len(gray), *gray.shape[2:])
        chroma = torch.stack([right, 10 * gray[:, 0]], 1)
        first = sum(call[0] for call in self.calls[:-1])
        jumps = torch.tensor([(-1.0) ** (first + i) for i in range(len(gray))])
        return chroma + self.flicker * jumps[:, None, None, None]

    def frames_at_once(self, frames, height, width):
        return min(frames, self.at_once)

    def out_of_memory(self, error):
        found = isinstance(error, torch.OutOfMemoryError)
        self.freed += found
        return found


def picture(batch=1, height=48, width=72, channels=3, seed=0):
    """Smooth and gray to light gray, where every chroma of the painter fits sRGB."""
    rough = torch.rand(batch, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(rough, size=(height, width), mode="bilinear")
    return (0.4 + 0.3 * smooth).movedim(1, -1).repeat(1, 1, 1, channels)


def changed(**values):
    return dataclasses.replace(SETTINGS, **values)


class TestSizes:
    @pytest.mark.parametrize("size", [(48, 72), (33, 57), (7, 5), (2, 90), (90, 2), (200, 130)])
    def test_own_size_and_own_lightness(self, size):
        image = picture(1, *size)
        found = auto_color(Painter(), image, SETTINGS)
        assert found.shape == image.shape and found.dtype == image.dtype
        assert float((luminance(found) - luminance(image)).abs().max()) < 0.01
        assert float(rgb_to_lab(found)[..., 1:].norm(dim=-1).mean()) > 3

    @pytest.mark.parametrize(
        "size, resolution, expected",
        [
            ((512, 512), 512, (512, 512)),
            ((480, 640), 512, (448, 576)),
            ((3000, 2000), 512, (640, 416)),
            ((96, 80), 64, (64, 64)),
            ((40, 2), 32, (128, 32)),
            ((100, 70), 0, (96, 64)),
            ((5, 5), 0, (32, 32)),
        ],
    )
    def test_the_network_s_size_follows_the_picture(self, size, resolution, expected):
        assert network_size(*size, changed(resolution=resolution)) == expected

    @pytest.mark.parametrize("change", [{"shape": "square"}, {"arithmetic": "official"}])
    def test_a_square(self, change):
        assert network_size(480, 640, changed(resolution=96, **change)) == (96, 96)
        assert network_size(480, 640, changed(resolution=0, **change)) == (640, 640)
        network = Painter()
        auto_color(network, picture(), changed(**change))
        assert network.calls == [(1, 3, 64, 64)]

    @pytest.mark.slow
    def test_twenty_megapixels(self):
        """The network sees a small picture; only the merge grows."""
        network = Painter()
        image = picture(1, 4000, 5000)
        found = auto_color(network, image, SETTINGS)
        assert found.shape == image.shape and network.calls == [(1, 3, 64, 64)]

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtypes_come_back(self, dtype):
        found = auto_color(Painter(), picture().to(dtype), SETTINGS)
        assert found.dtype == dtype
        expected = auto_color(Painter(), picture().to(dtype).float(), SETTINGS)
        assert float((found.float() - expected).abs().max()) < 0.01


class TestColor:
    def test_chroma_arrives(self):
        found = rgb_to_lab(auto_color(Painter(), picture(), SETTINGS))[..., 1:]
        right = torch.linspace(-8, 8, 72).expand(48, 72)
        assert float((found[0, ..., 0] - right).abs().mean()) < 0.3
        assert float((found[0, ..., 1] - 10 * picture()[0, ..., 0]).abs().mean()) < 0.3

    def test_only_lightness_of_the_picture_is_used(self):
        image = picture() * torch.tensor([1.0, 0.9, 1.1])
        found, gray = (auto_color(Painter(), x, SETTINGS) for x in (image, desaturate(image)))
        torch.testing.assert_close(found, gray, atol=2e-3, rtol=0)

    def test_strength(self):
        image = picture() * torch.tensor([1.0, 0.9, 1.1])
        network = Painter()
        assert auto_color(network, image, changed(strength=0.0)) is image and not network.calls
        own, full, half = (
            rgb_to_lab(auto_color(Painter(), image, changed(strength=s)))[..., 1:] for s in (0.0, 1.0, 0.5)
        )
        torch.testing.assert_close(half, (own + full) / 2, atol=0.02, rtol=0)

    def test_saturation(self):
        plain, double = (
            rgb_to_lab(auto_color(Painter(), picture(), changed(saturation=s)))[..., 1:] for s in (1.0, 2.0)
        )
        torch.testing.assert_close(double, 2 * plain, atol=0.02, rtol=0)
        assert float(rgb_to_lab(auto_color(Painter(), picture(), changed(saturation=0.0)))[..., 1:].abs().max()) < 0.05

    def test_mask(self):
        mask = torch.zeros(1, 48, 72)
        mask[:, :, 36:] = 1
        image = picture() * torch.tensor([1.0, 0.9, 1.1])
        found = auto_color(Painter(), image, SETTINGS, mask=mask)
        assert float((found[:, :, :35] - image[:, :, :35]).abs().max()) < 1e-4
        assert torch.equal(found[:, :, 36:], auto_color(Painter(), image, SETTINGS)[:, :, 36:])

    def test_transparency_and_one_channel(self):
        image = picture()
        found = auto_color(Painter(), image, SETTINGS)
        assert torch.equal(
            auto_color(Painter(), torch.cat([image, torch.ones_like(image[..., :1])], -1), SETTINGS), found
        )
        assert torch.equal(auto_color(Painter(), image[..., :1], SETTINGS), found)

    def test_official_puts_chroma_down_in_blocks_and_8_bits(self):
        found = auto_color(Painter(), picture(), changed(arithmetic="official", saturation=3.0))
        assert torch.equal((found * 255).round() / 255, found)
        # 64 places on 72 columns: some columns repeat their neighbor's chroma, which guided enlarging never does
        chroma = rgb_to_lab(auto_color(Painter(), torch.full((1, 48, 72, 3), 0.5), changed(arithmetic="official")))
        same = (chroma[0, 24, 1:] == chroma[0, 24, :-1]).all(-1)
        assert int(same.sum()) >= 8


class TestBatches:
    def test_a_batch_is_its_pictures(self):
        images = picture(5)
        whole = auto_color(Painter(), images, SETTINGS)
        for i in range(5):
            assert torch.equal(whole[i : i + 1], auto_color(Painter(), images[i : i + 1], SETTINGS))

    def test_chunks_of_what_the_network_takes(self):
        network, seen = Painter(at_once=3), []
        found = auto_color(network, picture(7), SETTINGS, on_frames=seen.append)
        assert [call[0] for call in network.calls] == [3, 3, 1] and seen == [3, 6, 7]
        assert torch.equal(found, auto_color(Painter(), picture(7), SETTINGS))

    def test_chosen_batch(self):
        network = Painter()
        auto_color(network, picture(4), changed(batch=3))
        assert [call[0] for call in network.calls] == [3, 1]

    @pytest.mark.parametrize("arithmetic", ["exact", "official"])
    def test_out_of_memory_halves_the_chunk_never_the_picture(self, arithmetic):
        network = Painter(at_once=8, most=2)
        settings = changed(arithmetic=arithmetic, steady=1 if arithmetic == "exact" else 0)
        found = auto_color(network, picture(9), settings)
        assert [call[0] for call in network.calls] == [8, 4, 2, 2, 2, 2, 1] and network.freed == 2
        assert len({call[1:] for call in network.calls}) == 1
        assert torch.equal(found, auto_color(Painter(at_once=9, most=9), picture(9), settings))

    def test_one_frame_that_is_too_much(self):
        with pytest.raises(torch.OutOfMemoryError):
            auto_color(Painter(most=0), picture(3), SETTINGS)

    def test_other_errors_are_not_taken_for_memory(self):
        class Broken(Painter):
            def __call__(self, gray):
                self.calls.append(len(gray))
                raise RuntimeError("something else")

        network = Broken()
        with pytest.raises(RuntimeError, match="something else"):
            auto_color(network, picture(4), SETTINGS)
        assert network.calls == [4] and network.freed == 0

    def test_steady_video(self):
        """A still scene whose colors jump: off by default, calm when asked for."""
        frames = picture(1).repeat(6, 1, 1, 1)

        def jumps(**change):
            found = auto_color(Painter(flicker=6.0), frames, changed(**change))
            return rgb_to_lab(found)[..., 1:].diff(dim=0).norm(dim=-1).mean()

        assert jumps() > 10
        assert jumps(steady=3) < 0.3 * jumps()


class TestInTurn:
    """Frames that come one after another: what a batch of all gives, and few of them held."""

    FRAMES = picture(11) + torch.linspace(0, 0.2, 11)[:, None, None, None]

    @pytest.mark.parametrize(
        "change", [{}, {"steady": 1}, {"steady": 3}, {"steady": 32}, {"strength": 0.0}, {"arithmetic": "official"}]
    )
    @pytest.mark.parametrize("at_once", [1, 4])
    def test_the_same_as_in_one_batch(self, change, at_once):
        seen = []
        found = auto_color_in_turn(
            Painter(at_once, flicker=6.0), self.FRAMES.split(1), changed(**change), count=11, on_frames=seen.append
        )
        assert torch.equal(
            torch.cat(list(found)), auto_color(Painter(at_once, flicker=6.0), self.FRAMES, changed(**change))
        )
        assert seen == sorted(seen) and (not seen or seen[-1] == 11)

    @pytest.mark.parametrize("steady, at_once", [(0, 1), (2, 1), (3, 4)])
    def test_no_more_is_held_than_waits(self, steady, at_once):
        count, read, most = 40, 0, 0

        def frames():
            nonlocal read
            for _ in range(count):
                read += 1
                yield picture()

        found = auto_color_in_turn(Painter(at_once), frames(), changed(steady=steady), count=count)
        for written, _ in enumerate(found):
            most = max(most, read - written)
        assert written + 1 == read == count and most <= at_once + steady

    def test_without_frames(self):
        assert list(auto_color_in_turn(Painter(), [], SETTINGS, count=0)) == []

    @pytest.mark.parametrize("steady", [0, 1])
    def test_what_memory_has_room_for_is_remembered(self, steady, caplog):
        network, frames = Painter(at_once=8, most=3), picture(13)
        found = auto_color_in_turn(network, frames.split(1), changed(steady=steady), count=13)
        whole = auto_color(Painter(at_once=13, most=13), frames, changed(steady=steady))
        assert torch.equal(torch.cat(list(found)), whole)
        assert [call[0] for call in network.calls] == [8, 4, 2, 2, 2, 2, 2, 2, 1]
        assert caplog.text.count("Out of memory") == 1


class TestRefusals:
    @pytest.mark.parametrize(
        "image, match",
        [
            (picture()[:0], "image: found an empty batch"),
            (picture(1, 1, 1), "image: found 1 x 1 pixels, expected at least 2"),
            (picture() / 0, "image: found NaN"),
            (picture()[0], "image: found a tensor of shape"),
            (picture(channels=2), "2 channels"),
            ((picture() * 255).to(torch.uint8), "uint8"),
        ],
    )
    def test_pictures(self, image, match):
        network = Painter()
        with pytest.raises(ValueError, match=match):
            auto_color(network, image, SETTINGS)
        assert not network.calls

    @pytest.mark.parametrize(
        "mask, match",
        [
            (torch.ones(3, 8, 8), "mask: found 3 for 2 picture"),
            (torch.ones(8, 8), "found shape"),
            (torch.ones(2, 8, 8), "mask: found 2 for 1"),
        ],
    )
    def test_masks(self, mask, match):
        network = Painter()
        with pytest.raises(ValueError, match=match):
            auto_color(network, picture(1 if len(mask) == 2 else 2), SETTINGS, mask=mask)
        assert not network.calls

    @pytest.mark.parametrize(
        "change, match",
        [
            ({"arithmetic": "mine"}, "arithmetic is 'mine'; expected one of exact, official"),
            ({"shape": "round"}, "shape is 'round'; expected one of aspect, square"),
            ({"resolution": -1}, "resolution is -1"),
            ({"batch": -1}, "batch is -1"),
            ({"steady": -1}, "steady is -1"),
            ({"strength": 2.0}, "strength is 2.0"),
            ({"saturation": -1.0}, "saturation is -1.0"),
        ],
    )
    def test_settings(self, change, match):
        with pytest.raises(ValueError, match=match):
            changed(**change)
