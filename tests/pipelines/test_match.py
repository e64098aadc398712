"""Colors of a reference by statistics: pictures, frames, masks, dtypes."""

from typing import get_args

import numpy as np
import pytest
import torch

from comfyui_exemplar.color import desaturate, luminance, match_chroma_statistics, merge_chroma, rgb_to_lab
from comfyui_exemplar.pipelines import match
from comfyui_exemplar.pipelines.match import MatchSettings, Method, Space, match_colors

from ..fixtures.pretended_gpu import DEVICE, PretendedGPU

METHODS, SPACES = get_args(Method), get_args(Space)
#: How near what is the same comes to itself: where a stage follows on another, its bins meet the last one's rounding
#: errors. An 8-bit level is 39e-4.
SAME = {**dict.fromkeys(METHODS, 2e-5), "histogram and covariance": 1e-3, "sliced transport": 2e-3}


def scene(seed=0, height=48, width=64, low=0.25, high=0.75):
    """(1, H, W, 3): blobs of many colors with grain, none at the ends of the range."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 5, 6, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    picture = low + (high - low) * picture + 0.01 * torch.randn(1, 3, height, width, generator=generator)
    return picture.movedim(1, -1).contiguous()


def lab(pictures):
    return rgb_to_lab(pictures.float()).reshape(-1, 3).double().numpy()


def settings(**values):
    return MatchSettings(**{"gamut": "clip", **values})


def test_mean_and_spread_in_lab_is_the_formula():
    image, reference = scene(0), scene(1, 40, 56)
    made = match_colors(image, reference, settings(method="mean and spread"))
    own, other = lab(image), lab(reference)
    naive = (own - own.mean(0)) / own.std(0) * other.std(0) + other.mean(0)
    assert np.abs(lab(made) - naive).max() < 0.02


def test_covariance_is_the_reference_s():
    image, reference = scene(0), scene(1, 40, 56)
    for space, points in (("CIE Lab", lab), ("RGB", lambda x: x.reshape(-1, 3).double().numpy())):
        made = points(match_colors(image, reference, settings(method="covariance", space=space)))
        other = points(reference)
        scale = np.abs(np.cov(other.T)).max()
        assert np.abs(np.cov(made.T) - np.cov(other.T)).max() < 1e-3 * scale
        assert np.abs(made.mean(0) - other.mean(0)).max() < 1e-3 * np.abs(other.mean(0)).max()


def test_histogram_in_rgb_is_the_monotone_map():
    image, reference = scene(0), scene(1)
    made = match_colors(image, reference, settings(method="histogram", space="RGB"))
    for channel in range(3):
        found, wanted = made[..., channel].flatten().sort().values, reference[..., channel].flatten().sort().values
        assert float((found - wanted).abs().mean()) < 1e-4


def test_reinhard_s_space_is_his():
    """Against his matrices and logarithms in float64."""
    image, reference = scene(0), scene(1)
    cones = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
    axes = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])
    own, other = (np.log10(each.reshape(-1, 3).double().numpy() @ cones.T) @ axes.T for each in (image, reference))
    there = (own - own.mean(0)) / own.std(0) * other.std(0) + other.mean(0)
    naive = 10 ** (there @ np.linalg.inv(axes).T) @ np.linalg.inv(cones).T
    made = match_colors(image, reference, settings(method="mean and spread", space="l-alpha-beta"))
    assert np.abs(made.reshape(-1, 3).double().numpy() - naive.clip(0, 1)).max() < 1e-4


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("keep", [False, True])
class TestEveryWay:
    def test_no_strength_is_the_picture_itself(self, method, space, keep):
        image = scene()
        chosen = MatchSettings(method=method, space=space, keep_lightness=keep, strength=0.0)
        assert match_colors(image, scene(1), chosen) is image

    def test_matched_to_itself_it_stays(self, method, space, keep):
        image = scene()
        made = match_colors(image, image, MatchSettings(method=method, space=space, keep_lightness=keep))
        assert float((made - image).abs().max()) < SAME[method]

    def test_places_do_not_matter(self, method, space, keep):
        image, reference = scene(), scene(1)
        chosen = MatchSettings(method=method, space=space, keep_lightness=keep)
        order = torch.randperm(48 * 64, generator=torch.Generator().manual_seed(1))
        mixed = image.reshape(1, -1, 3)[:, order].reshape(image.shape)
        other = reference.reshape(1, -1, 3)[:, order.flip(0)].reshape(reference.shape)
        made = match_colors(image, reference, chosen).reshape(1, -1, 3)[:, order]
        again = match_colors(mixed, other, chosen).reshape(1, -1, 3)
        assert float((made - again).abs().max()) < 2e-3

    def test_lightness_is_kept(self, method, space, keep):
        image, reference = scene(), scene(1, low=0.0, high=0.5)
        made = match_colors(image, reference, MatchSettings(method=method, space=space, keep_lightness=keep))
        apart = float((luminance(made) - luminance(image)).abs().max())
        assert apart < 0.02 if keep else apart > 5


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("space", SPACES)
def test_what_is_given_is_left_alone(method, space):
    """Black pixels, too, whose logarithm there is not; and so a second call gives the same."""
    given = [scene(), scene(1), torch.rand(1, 48, 64), torch.rand(1, 48, 64)]
    given[0][:, :8] = given[1][:, :8] = 0
    before = [each.clone() for each in given]

    def work():
        image, reference, mask, other = given
        chosen = MatchSettings(method=method, space=space)
        return match_colors(image, reference, chosen, mask=mask, reference_mask=other)

    first = work()
    assert all(torch.equal(*pair) for pair in zip(given, before, strict=True))
    assert torch.equal(work(), first)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep", [False, True])
def test_mean_and_spread_of_colors_come_near_by_every_method(method, keep):
    image, reference = scene(0), scene(1)
    made = match_colors(image, reference, settings(method=method, keep_lightness=keep))
    for statistic in (np.mean, np.std):
        before, after, goal = (statistic(lab(each)[:, 1:], 0) for each in (image, made, reference))
        assert np.abs(after - goal).sum() < 0.1 * np.abs(before - goal).sum()


def test_kept_lightness_is_the_merge():
    """Chroma by our statistics on the picture's own lightness, as Luminance Merge has it."""
    image, reference = scene(0), scene(1)
    chroma = match_chroma_statistics(rgb_to_lab(image)[..., 1:], rgb_to_lab(reference)[..., 1:])
    made = match_colors(image, reference, MatchSettings(method="mean and spread", keep_lightness=True))
    difference = (made - merge_chroma(chroma, image)).abs()
    assert float(difference.max()) < 1e-3 and float(difference.mean()) < 2e-5


def test_half_the_strength_is_half_the_way_in_lab():
    image, reference = scene(0), scene(1)
    half, full = (match_colors(image, reference, settings(strength=strength)) for strength in (0.5, 1.0))
    assert np.abs(lab(half) - (lab(image) + lab(full)) / 2).max() < 0.02


class TestFrames:
    def film(self, frames=4):
        """A still with grain of its own in each frame, and a light that changes a little."""
        still, generator = scene(0), torch.Generator().manual_seed(3)
        noise = 0.01 * torch.randn(frames, *still.shape[1:], generator=generator)
        return still + noise + 0.01 * torch.arange(frames)[:, None, None, None]

    @pytest.mark.parametrize("method", METHODS)
    def test_each_frame_is_matched_as_if_alone(self, method):
        film, references = self.film(3), torch.cat([scene(i) for i in (1, 2, 3)])
        chosen = MatchSettings(method=method)
        both = match_colors(film, references, chosen)
        for i in range(3):
            assert torch.equal(both[i : i + 1], match_colors(film[i : i + 1], references[i : i + 1], chosen))
        shared = match_colors(film, references[:1], chosen)
        assert torch.equal(shared[2:], match_colors(film[2:], references[:1], chosen))
        several = match_colors(film[:1], references, chosen)
        assert torch.equal(several[1:2], match_colors(film[:1], references[1:2], chosen))

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("statistics", ["whole batch", "one frame"])
    def test_one_map_for_all(self, method, statistics):
        """A color that two frames share becomes the same in both, and a frame's neighbors do not change its colors."""
        film, reference = self.film(), scene(1)
        film[1:, 0, :8] = film[0, 0, :8]
        chosen = MatchSettings(method=method, statistics=statistics, frame=1 if statistics == "one frame" else 0)
        made = match_colors(film, reference, chosen)
        assert all(torch.equal(made[0, 0, :8], frame[0, :8]) for frame in made)
        if statistics == "one frame":
            alone = match_colors(film[1:2], reference, MatchSettings(method=method))
            assert torch.equal(made[1:2], alone)
        else:
            tall = match_colors(film.reshape(1, -1, *film.shape[2:]), reference, MatchSettings(method=method))
            difference = (made.reshape(tall.shape) - tall).abs()
            assert float(difference.max()) < (5e-3 if method == "sliced transport" else 1e-4)

    def test_several_references_count_together(self):
        references = torch.cat([scene(1), scene(2)])
        chosen = settings(statistics="whole batch")
        made = match_colors(self.film(3), references, chosen)
        assert np.abs(np.cov(lab(made).T) - np.cov(lab(references).T)).max() < 0.5
        with pytest.raises(ValueError, match=r"reference: found 2 for 3 frame.*whole batch"):
            match_colors(self.film(3), references, MatchSettings())

    def test_a_still_clip_stays_still(self):
        """What grain does to statistics moves a map of its own a frame; one map for all adds nothing to the grain."""
        film, reference = self.film(6) * 0.2 + 0.75, scene(1, low=0.0, high=1.0)
        film = film - film.mean((1, 2, 3), keepdim=True) + film.mean()
        half = film.clone()
        half[::2, :, :16] = 0.99  # something white passes by
        moved = {}
        for statistics in ("each frame", "whole batch", "one frame"):
            chosen = settings(method="mean and spread", statistics=statistics)
            made = match_colors(half, reference, chosen)[:, :, 16:]
            moved[statistics] = float((made.mean((1, 2))[1:] - made.mean((1, 2))[:-1]).abs().mean())
        assert moved["whole batch"] < 0.1 * moved["each frame"] and moved["one frame"] < 0.1 * moved["each frame"]

    def test_a_frame_that_is_not_there(self):
        with pytest.raises(ValueError, match="frame is 4, but image has 4 frame"):
            match_colors(self.film(), scene(1), MatchSettings(statistics="one frame", frame=4))


class TestMasks:
    left = torch.zeros(1, 48, 64)
    left[..., :32] = 1

    @pytest.mark.parametrize("method", METHODS)
    def test_each_side_s_own_part(self, method):
        image, reference = scene(0), scene(1)
        made = match_colors(image, reference, MatchSettings(method=method), mask=self.left, reference_mask=self.left)
        parts = image[:, :, :32].contiguous(), reference[:, :, :32].contiguous()
        cropped = match_colors(*parts, MatchSettings(method=method))
        assert torch.equal(made[:, :, 32:], image[:, :, 32:]), "bit for bit"
        assert float((made[:, :, :32] - cropped).abs().max()) < (5e-3 if method == "sliced transport" else 2e-4)

    def test_soft_weights(self):
        """Statistics are weighed, and colors go as far as the mask says."""
        image, reference = scene(0), scene(1)
        weights = torch.rand(1, 48, 64, generator=torch.Generator().manual_seed(5))
        made = match_colors(image, reference, settings(method="mean and spread"), mask=weights, reference_mask=weights)
        w = weights.reshape(-1, 1).double().numpy()
        sides = []
        for side in (lab(image), lab(reference)):
            mean = (side * w).sum(0) / w.sum()
            sides.append((mean, np.sqrt(((side - mean) ** 2 * w).sum(0) / w.sum())))
        (mean, std), (other_mean, other_std) = sides
        naive = (lab(image) - mean) / std * other_std + other_mean
        assert np.abs(lab(made) - (lab(image) + w * (naive - lab(image)))).max() < 0.05

    def test_another_size_and_a_mask_for_each(self):
        film = torch.cat([scene(0), scene(2)])
        masks = torch.stack([torch.ones(12, 16), torch.zeros(12, 16)])
        made = match_colors(film, scene(1), MatchSettings(), mask=masks)
        assert torch.equal(made[1], film[1]) and not torch.equal(made[0], film[0])
        one = match_colors(film[:1], scene(1), MatchSettings(), mask=masks)
        assert torch.equal(one[1], film[0]), "a picture with several masks"
        with pytest.raises(ValueError, match="mask"):
            match_colors(film, scene(1), MatchSettings(), mask=torch.ones(3, 12, 16))

    def test_a_mask_for_all_is_resized_once(self, monkeypatch):
        resized, film = [], torch.cat([scene(0)] * 5)
        at_size = match.at_size
        monkeypatch.setattr(match, "at_size", lambda mask, size: resized.append(size) or at_size(mask, size))
        chosen = MatchSettings(statistics="whole batch")
        match_colors(film, scene(1), chosen, mask=torch.ones(1, 12, 16))
        assert resized == [(48, 64)]

    def test_nothing_to_match_to(self):
        with pytest.raises(ValueError, match="reference_mask: it is black, expected a place"):
            match_colors(scene(), scene(1), MatchSettings(), reference_mask=torch.zeros(1, 8, 8))
        pictures, masks = torch.cat([scene(1), scene(2)]), torch.stack([torch.ones(8, 8), torch.zeros(8, 8)])
        made = match_colors(scene(), pictures, MatchSettings(statistics="whole batch"), reference_mask=masks)
        assert torch.equal(made, match_colors(scene(), scene(1), MatchSettings(statistics="whole batch")))
        nothing = match_colors(scene(), scene(1), MatchSettings(statistics="whole batch"), mask=torch.zeros(1, 8, 8))
        assert torch.equal(nothing, scene())


@pytest.mark.parametrize("method", METHODS)
class TestOddPictures:
    @pytest.mark.parametrize("space", SPACES)
    @pytest.mark.parametrize("keep", [False, True])
    def test_constants_are_only_shifted(self, method, space, keep):
        chosen = MatchSettings(method=method, space=space, keep_lightness=keep)
        for level in (0.0, 0.5, 1.0):
            constant = torch.full((1, 16, 16, 3), level)
            made = match_colors(constant, scene(1), chosen)
            assert bool(made.isfinite().all()) and float((made - made[:, :1, :1]).abs().max()) < 1e-5
            to_one = match_colors(scene(1), constant, chosen)
            assert bool(to_one.isfinite().all())

    def test_a_gray_picture_gets_one_cast_and_keeps_its_lightness(self, method):
        gray = desaturate(scene(0))
        made = match_colors(gray, scene(1), MatchSettings(method=method, keep_lightness=True))
        chroma = rgb_to_lab(made)[..., 1:]
        assert float(chroma.reshape(-1, 2).std(0).max()) < 0.5, "rounding errors are not stretched"
        assert float((luminance(made) - luminance(gray)).abs().max()) < 0.02

    def test_near_white_frames_stay_as_light_as_they_are(self, method):
        white = 0.985 + 0.004 * torch.rand(1, 48, 64, 3, generator=torch.Generator().manual_seed(0))
        chosen = MatchSettings(method=method, keep_lightness=True)
        made = match_colors(white, scene(1, low=0.0, high=1.0), chosen)
        assert float((luminance(made) - luminance(white)).abs().max()) < 0.02

    def test_sides_of_any_size(self, method):
        made = match_colors(scene(0, 2, 3), scene(1, 5, 2), MatchSettings(method=method))
        assert made.shape == (1, 2, 3, 3) and bool(made.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_other_dtypes_come_back_as_they_are(method, dtype):
    image, reference = scene(0).to(dtype), scene(1).to(dtype)
    made = match_colors(image, reference, MatchSettings(method=method))
    assert made.dtype == dtype
    full = match_colors(image.float(), reference.float(), MatchSettings(method=method))
    assert torch.equal(made, full.to(dtype))


def test_strips_make_no_difference(monkeypatch):
    image, reference = scene(0), scene(1)
    for method in METHODS:
        whole = match_colors(image, reference, MatchSettings(method=method))
        with monkeypatch.context() as smaller:
            smaller.setattr("comfyui_exemplar.color.clouds.strip_pixels", lambda _: 100)
            smaller.setattr("comfyui_exemplar.color.clouds.KEPT", 1000)
            parts = match_colors(image, reference, MatchSettings(method=method))
        difference = (whole - parts).abs()  # bins of 3072 points by twelve turns meet rounding errors
        assert (
            float(difference.max()) < (0.02 if method == "sliced transport" else 1e-4)
            and float(difference.mean()) < 1e-3
        )


def test_no_color_is_rounded_to_8_bits():
    image = scene(0, 96, 128)
    for method in METHODS:
        for space in SPACES:
            made = match_colors(image, scene(1), MatchSettings(method=method, space=space))
            rounded = (made * 255 - (made * 255).round()).abs() < 1e-3
            assert float(rounded.float().mean()) < 0.05, f"{method}, {space}"


def test_it_is_told_what_is_done_and_can_be_stopped():
    film, told, stop = torch.cat([scene(i) for i in range(3)]), [], {}

    def tell(done, picture):
        told.append((done, picture is not None))
        if len(told) == stop["at"]:
            raise KeyboardInterrupt

    for statistics in ("each frame", "whole batch"):
        told.clear()
        stop["at"] = 0
        match_colors(film, scene(1), MatchSettings(statistics=statistics), progress=tell)
        assert [done for done, shown in told if shown] == [1, 2, 3] and told[0] == (0, False)
        for at in (1, 2, len(told) - 1):
            told.clear()
            stop["at"] = at
            with pytest.raises(KeyboardInterrupt):
                match_colors(film, scene(1), MatchSettings(statistics=statistics), progress=tell)


@pytest.mark.parametrize(
    ("image", "reference", "said"),
    [
        (torch.full((1, 8, 8, 3), 7.0), scene(1), "image: found values from 7"),
        (scene(), torch.full((1, 8, 8, 3), float("nan")), "reference: found NaN"),
        (scene()[0], scene(1), "image: found a tensor of shape"),
        (torch.cat([scene()] * 3), torch.cat([scene(1)] * 2), "reference: found 2 for 3"),
    ],
)
def test_what_cannot_be_matched_is_refused(image, reference, said):
    with pytest.raises(ValueError, match=said):
        match_colors(image, reference, MatchSettings())


@pytest.mark.parametrize("method", METHODS)
def test_on_a_device_of_its_own(method):
    """Pictures stay where they are, the work goes there; nothing mixes the two, and the result is the same."""
    image, reference, mask = torch.cat([scene(0), scene(2)]), scene(1), torch.rand(1, 48, 64)
    for keep in (False, True):
        chosen = MatchSettings(method=method, keep_lightness=keep)
        plain = match_colors(image, reference, chosen, mask=mask)
        with PretendedGPU():
            made = match_colors(image, reference, chosen, mask=mask, device=DEVICE)
        assert made.device == image.device and float((made - plain).abs().max()) < SAME[method]


def test_every_method_has_its_steps():
    assert set(match.STEPS) | {"sliced transport"} == set(METHODS)
