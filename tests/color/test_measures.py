"""Measures of papers, against computations written another way: plain numpy, loops, and OpenCV where it is there."""

import math

import numpy as np
import pytest
import torch

from comfyui_exemplar.color import measures
from comfyui_exemplar.color.measures.histograms import enlarged_in_8_bits, shrunk_in_8_bits

CLOSE = 1e-4  # relative, of every measure


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height, width, cells=7, seed=0):
    """Fields of color that run into each other, 8 bits."""
    small = torch.from_numpy(noise(1, 3, cells, cells, seed=seed)).float()
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 255)
    return large[0].movedim(0, -1).round().byte().numpy()


def tensor(*pictures):
    return torch.from_numpy(np.stack(pictures)).float() / 255


class TestColorfulness:
    def naive(self, picture, absolute):
        red, green, blue = (picture[..., at].astype(float) for at in range(3))
        rg, yb = red - green, 0.5 * (red + green) - blue
        if absolute:
            rg, yb = abs(rg), abs(yb)
        return np.sqrt(rg.std() ** 2 + yb.std() ** 2) + 0.3 * np.sqrt(rg.mean() ** 2 + yb.mean() ** 2)

    def test_each_picture_has_its_own(self):
        pictures = [noise(20, 31, 3, seed=1), smooth(20, 31, seed=2)]
        for measure, absolute in ((measures.colorfulness, False), (measures.colorfulness_as_ddcolor, True)):
            found = measure(tensor(*pictures)).tolist()
            assert found == pytest.approx([self.naive(picture, absolute) for picture in pictures], rel=CLOSE)

    def test_absolute_values_make_another_measure(self):
        picture = tensor(noise(64, 64, 3))
        assert measures.colorfulness_as_ddcolor(picture) / measures.colorfulness(picture) < 0.9

    def test_gray_has_none(self):
        gray = torch.rand(1, 9, 9, 1).expand(1, 9, 9, 3)
        assert measures.colorfulness(gray).item() == measures.colorfulness_as_ddcolor(gray).item() == 0


class TestFidelity:
    def test_bytes_wrap(self):
        one, other = noise(40, 50, 3, seed=1), noise(40, 50, 3, seed=2)
        error = ((other - one) ** 2).mean()  # arrays of bytes, as the program has them
        assert error.dtype == float and (other - one).dtype == np.uint8
        found = measures.psnr_as_colormnet(tensor(one), tensor(other)).item()
        assert found == pytest.approx(20 * np.log10(255 / np.sqrt(error)), rel=CLOSE)
        true = 10 * np.log10(255**2 / ((other.astype(float) - one) ** 2).mean())
        assert found > 27 and true < 9, "what is as far off as can be counts as near"

    def test_equal_pictures(self):
        picture = tensor(noise(16, 16, 3))
        assert math.isinf(measures.psnr_as_colormnet(picture, picture).item())
        assert measures.ssim(picture, picture).item() == pytest.approx(1)
        assert measures.ssim_as_skimage(picture, picture).item() == pytest.approx(1)

    def naive_ssim(self, one, other, window, sample):
        """Window by window: (h, w) weights that sum to 1."""
        side, values = len(window), []
        for channel in range(3):
            x, y = one[..., channel] / 255.0, other[..., channel] / 255.0
            for top in range(x.shape[0] - side + 1):
                for left in range(x.shape[1] - side + 1):
                    a, b = x[top : top + side, left : left + side], y[top : top + side, left : left + side]
                    ma, mb = (window * a).sum(), (window * b).sum()
                    va, vb = (sample * (window * (v - m) ** 2).sum() for v, m in ((a, ma), (b, mb)))
                    ab = sample * (window * (a - ma) * (b - mb)).sum()
                    c1, c2 = 0.01**2, 0.03**2
                    values.append((2 * ma * mb + c1) * (2 * ab + c2) / (ma**2 + mb**2 + c1) / (va + vb + c2))
        return np.mean(values)

    def test_windows(self):
        one = smooth(19, 23)
        other = np.clip(one + np.random.default_rng(3).normal(0, 12, one.shape), 0, 255).round().astype(np.uint8)
        flat = np.full((7, 7), 1 / 49)
        found = measures.ssim_as_skimage(tensor(other), tensor(one)).item()
        assert found == pytest.approx(self.naive_ssim(one, other, flat, 49 / 48), rel=CLOSE)
        row = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
        bell = np.outer(row, row) / row.sum() ** 2
        found = measures.ssim(tensor(other), tensor(one)).item()
        assert found == pytest.approx(self.naive_ssim(one, other, bell, 1), rel=CLOSE)

    def test_a_truth_for_all(self):
        one, two, truth = (smooth(16, 16, seed=seed) for seed in range(3))
        for measure in (measures.ssim, measures.ssim_as_skimage, measures.psnr_as_colormnet):
            each = [measure(tensor(picture), tensor(truth)).item() for picture in (one, two)]
            assert measure(tensor(one, two), tensor(truth)).tolist() == pytest.approx(each)

    def test_what_does_not_fit(self):
        with pytest.raises(ValueError, match=r"found 10 x 30 pixels, expected at least 11"):
            measures.ssim(tensor(noise(30, 10, 3)), tensor(noise(30, 10, 3)))
        with pytest.raises(ValueError, match="do not fit"):
            measures.psnr_as_colormnet(tensor(noise(3, 10, 3)), tensor(noise(30, 10, 3)))


def lab(picture):
    """CIE Lab of scikit-image, from its description: sRGB's curve, the six-digit matrix, D65 of 2 degrees."""
    value = picture / 255.0
    linear = np.where(value > 0.04045, ((value + 0.055) / 1.055) ** 2.4, value / 12.92)
    matrix = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


class TestHistograms:
    def histogram(self, picture):
        chroma, grid = lab(picture)[..., 1:] / 110, np.linspace(-1, 1, 21)
        a, b = (10 * np.maximum(0.1 - abs(grid[:, None, None] - chroma[..., at]), 0) for at in (0, 1))
        return np.einsum("ahw,bhw->ab", a, b) / chroma[..., 0].size

    def test_against_every_bin(self):
        one, other = smooth(60, 40), noise(31, 77, 3)
        expected = np.minimum(self.histogram(one), self.histogram(other)).sum()
        found = measures.histogram_intersection(tensor(one), tensor(other)).item()
        assert found == pytest.approx(expected, rel=CLOSE)
        assert measures.histogram_intersection(tensor(one), tensor(one)).item() == pytest.approx(1)

    def test_as_published(self):
        cv2 = pytest.importorskip("cv2")
        picture = smooth(512, 512, seed=4)
        for reference in (noise(512, 512, 3), smooth(300, 417, 40, seed=5), smooth(512, 512, 5, seed=6)):
            small = cv2.resize(reference, (128, 128), interpolation=cv2.INTER_AREA)
            blurred = cv2.resize(small, (512, 512))
            expected = np.minimum(self.histogram(blurred), self.histogram(picture)).sum()
            found = measures.histogram_intersection_as_exemplar(tensor(picture), tensor(reference)).item()
            assert found == pytest.approx(expected, rel=CLOSE)

    def test_only_the_reference_is_blurred(self):
        """A picture of rare colors is not the same as itself."""
        picture = tensor(noise(512, 512, 3))
        assert measures.histogram_intersection_as_exemplar(picture, picture).item() < 0.3
        assert measures.histogram_intersection(picture, picture).item() == pytest.approx(1)

    @pytest.mark.parametrize("size", [(512, 512), (300, 417), (128, 128), (640, 257)])
    def test_sizes_as_opencv_makes_them(self, size):
        cv2 = pytest.importorskip("cv2")
        picture = noise(*size, 3)
        small = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
        off = abs(shrunk_in_8_bits(torch.from_numpy(picture)[None])[0].numpy().astype(int) - small)
        # Where a mean is just between two levels OpenCV's sums, which are float32, fall to either side.
        assert off.max() <= (size[0] % 128 > 0) and off.mean() < 1e-4
        large = cv2.resize(small, (512, 512))
        assert (enlarged_in_8_bits(torch.from_numpy(small)[None])[0].numpy() == large).all()

    def test_sizes_that_the_program_does_not_take(self):
        with pytest.raises(ValueError, match=r"found 40 x 512 pixels, expected 512 x 512"):
            measures.histogram_intersection_as_exemplar(tensor(noise(512, 40, 3)), tensor(noise(512, 512, 3)))
        with pytest.raises(ValueError, match=r"reference: found 512 x 99 pixels, expected at least 128"):
            measures.histogram_intersection_as_exemplar(tensor(noise(512, 512, 3)), tensor(noise(99, 512, 3)))


class TestDistances:
    def features(self, count, width, seed):
        generator = np.random.default_rng(seed)
        return generator.normal(size=(count, width)) @ generator.normal(size=(width, width)) + generator.normal(
            size=width
        )

    def naive(self, one, other):
        """By the eigenvalues of the product of the covariances, which are those of its root, squared."""
        step = one.mean(0) - other.mean(0)
        first, second = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (one, other))
        roots = np.sqrt(np.linalg.eigvals(first @ second).astype(complex)).real.sum()
        return step @ step + np.trace(first) + np.trace(second) - 2 * roots

    @pytest.mark.parametrize("counts", [(40, 30), (9, 12), (5, 40), (2, 2)])
    def test_frechet(self, counts):
        one, other = (self.features(count, 16, seed) for seed, count in enumerate(counts))
        found = measures.frechet_distance(torch.from_numpy(one), torch.from_numpy(other))
        # The general eigenvalues of a singular product are right to a root of the precision only.
        assert found == pytest.approx(self.naive(one, other), rel=CLOSE)
        assert measures.frechet_distance(torch.from_numpy(one), torch.from_numpy(one)) == pytest.approx(0, abs=1e-6)

    def test_both_ways_to_the_root(self):
        one, other = (torch.from_numpy(self.features(50, 20, seed)) for seed in range(2))
        means, centered = zip(*((each.mean(0), each - each.mean(0)) for each in (one, other)), strict=True)
        root = torch.linalg.svdvals(centered[0] @ centered[1].T).sum() / 49
        step = (means[0] - means[1]).square().sum()
        expected = step + sum(each.square().sum() / 49 for each in centered) - 2 * root
        assert measures.frechet_distance(one, other) == pytest.approx(expected.item(), rel=1e-9)

    def test_many_rows(self, monkeypatch):
        """In parts, as of a large picture's places."""
        one, other = (torch.from_numpy(self.features(500, 8, seed)) for seed in range(2))
        whole = measures.frechet_distance(one, other)
        monkeypatch.setattr("comfyui_exemplar.color.measures.distances._ROWS", 37)
        assert measures.frechet_distance(one, other) == pytest.approx(whole, rel=1e-9)

    def test_a_picture_with_itself_in_other_places(self):
        features = torch.rand(6, 5, 7)
        turned = features.flip(1, 2)
        assert measures.single_image_distance(features, turned) == pytest.approx(0, abs=1e-9)
        other = torch.rand(6, 8, 8) * 2
        expected = self.naive(*(each.flatten(1).T.double().numpy() for each in (features, other)))
        assert measures.single_image_distance(features, other) == pytest.approx(expected, rel=CLOSE)

    def test_single_image_as_published(self):
        """What numpy below 2.2 makes of one sample, written without numpy's ``cov``."""
        one, other = torch.rand(64, 9, 9), torch.rand(64, 9, 9) * 1.5
        first, second = (each.numpy().mean((1, 2)).astype(np.float64) for each in (one, other))
        s1, s2 = (((v - v.sum() / 64) ** 2).sum() / 63 for v in (first, second))
        expected = ((first - second) ** 2).sum() + s1 + s2 - 2 * np.sqrt(s1 * s2)
        assert measures.single_image_distance_as_exemplar(one, other) == pytest.approx(expected, rel=CLOSE)

    def test_what_this_numpy_makes_of_it(self):
        """The program itself gives no number with numpy 2.2 or newer."""
        vector = np.random.default_rng(0).random((1, 64))
        with np.errstate(all="ignore"), pytest.warns(RuntimeWarning) if newer() else nothing():
            covariance = np.cov(vector, rowvar=False)
        if newer():
            assert covariance.shape == (64, 64) and np.isnan(covariance).all()
        else:
            assert covariance.shape == () and covariance == pytest.approx(vector.var(ddof=1))

    def test_refusals(self):
        with pytest.raises(ValueError, match="at least 2"):
            measures.frechet_distance(torch.rand(1, 4), torch.rand(3, 4))
        with pytest.raises(ValueError, match="as many"):
            measures.frechet_distance(torch.rand(3, 5), torch.rand(3, 4))
        with pytest.raises(ValueError, match=r"expected \(d, h, w\)"):
            measures.single_image_distance(torch.rand(1, 3, 5, 5), torch.rand(3, 4, 4))
        with pytest.raises(ValueError, match=r"expected \(d, h, w\)"):
            measures.single_image_distance_as_exemplar(torch.rand(3, 5, 5), torch.rand(4, 4, 4))


def newer():
    return tuple(int(part) for part in np.__version__.split(".")[:2]) >= (2, 2)


def nothing():
    from contextlib import nullcontext

    return nullcontext()
