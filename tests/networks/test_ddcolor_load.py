"""DDColor's files: every format and nesting, and what is said about wrong ones."""

import json

import pytest
import torch
from safetensors.torch import save_file

from comfyui_exemplar import demo
from comfyui_exemplar.color import ab_error, rgb_to_lab
from comfyui_exemplar.color.batches import ran_out
from comfyui_exemplar.files import headers
from comfyui_exemplar.files.pictures import load_picture
from comfyui_exemplar.networks.ddcolor.load import fitting, load_ddcolor, memory_of
from comfyui_exemplar.pipelines.ddcolor import AutoColorSettings, auto_color

from ..fixtures.ddcolor import small_weights


@pytest.fixture(scope="module")
def weights():
    return small_weights()


@pytest.fixture(scope="module")
def expected(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("ddcolor") / "small.safetensors"
    save_file(weights, path)
    return load_ddcolor(path)(gray())


def gray():
    return torch.rand(1, 1, 32, 64, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)


@pytest.mark.parametrize("nest", [None, "params", "state_dict"])
@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
def test_pickled_files(weights, expected, tmp_path, suffix, nest):
    path = tmp_path / f"small.{suffix}"
    torch.save({nest: weights} if nest else weights, path)
    loaded = load_ddcolor(path)
    # where a tensor begins in memory is up to the file, and decides how sums are rounded
    torch.testing.assert_close(loaded(gray()), expected, rtol=1e-5, atol=1e-5)
    assert loaded.name == path.name and "depths (1, 2, 1, 1)" in loaded.variant


def test_without_the_counters_that_nothing_reads(weights, expected, tmp_path):
    less = {name: tensor for name, tensor in weights.items() if not name.endswith(".num_batches_tracked")}
    assert len(less) < len(weights)
    save_file(less, tmp_path / "small.safetensors")
    torch.testing.assert_close(load_ddcolor(tmp_path / "small.safetensors")(gray()), expected, rtol=1e-5, atol=1e-5)


def test_safetensors_file_in_half_precision(weights, expected, tmp_path):
    save_file({name: t.half() for name, t in weights.items()}, tmp_path / "small.safetensors")
    loaded = load_ddcolor(tmp_path / "small.safetensors")
    assert loaded.network.refine.weight.dtype == torch.float32
    assert float((loaded(gray()) - expected).abs().mean()) < 0.01 * float(expected.std())


def test_other_precision(weights, expected, tmp_path):
    save_file(weights, tmp_path / "small.safetensors")
    loaded = load_ddcolor(tmp_path / "small.safetensors", dtype=torch.bfloat16)
    found = loaded(gray())
    assert found.dtype == torch.float32 and loaded.network.refine.weight.dtype == torch.bfloat16
    assert 0 < float((found - expected).abs().mean()) < 0.05 * float(expected.std())


RAN = []


def evil():
    RAN.append(True)


class Evil:
    def __reduce__(self):
        return (evil, ())


def refusal(path):
    with pytest.raises(ValueError) as error:
        load_ddcolor(path)
    text = str(error.value)
    assert text.startswith(str(path)) and "\n" not in text
    return text


class TestBadFiles:
    def test_a_pickle_with_code(self, weights, tmp_path):
        path = tmp_path / "small.pth"
        torch.save({"params": weights, "more": Evil()}, path)
        text = refusal(path)
        assert "pickle with code in it" in text and ".evil, which is refused" in text
        assert not RAN
        torch.load(path, weights_only=False)
        assert RAN  # it would have run

    @pytest.mark.parametrize("suffix", ["pth", "safetensors"])
    def test_cut_off(self, weights, tmp_path, suffix):
        path = tmp_path / f"small.{suffix}"
        (save_file if suffix == "safetensors" else torch.save)(weights, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        assert "cut off" in refusal(path)

    @pytest.mark.parametrize("content", [b"", b"hello"])
    def test_not_weights(self, tmp_path, content):
        path = tmp_path / "small.pth"
        path.write_bytes(content)
        assert "could not be read as plain weights" in refusal(path)

    def test_another_model(self, tmp_path):
        path = tmp_path / "upscaler.pth"
        torch.save({"params_ema": {"conv_first.weight": torch.zeros(3, 3)}}, path)
        text = refusal(path)
        assert "not DDColor's weights" in text and "conv_first.weight" in text and "ddcolor_modelscope" in text

    def test_incomplete(self, weights, tmp_path):
        path = tmp_path / "small.safetensors"
        save_file({name: t for name, t in weights.items() if "level_embed" not in name}, path)
        assert "missing [decoder.color_decoder.level_embed.weight]" in refusal(path)

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"nothing.pth does not exist.*ddcolor_modelscope"):
            load_ddcolor(tmp_path / "nothing.pth")


class TestEmbedded:
    """The small network that comes with the pack, read like any other file."""

    def test_the_file_is_small_and_says_what_it_is(self):
        path = demo.ddcolor_path()
        assert path.stat().st_size <= 4e6
        about = json.loads(headers.read_metadata(path)["exemplar.ddcolor"])
        loaded = load_ddcolor(path)
        assert tuple(about["depths"]) == loaded.network.sizes.depths
        assert (
            "none of the published weights" in about["what"]
            and "CC-BY" in headers.read_metadata(path)["exemplar.credit"]
        )
        assert loaded.recommended == {"resolution": 128}
        assert not headers.is_embedded(path)  # that is the diffusion model

    def test_nearer_to_the_true_colors_than_none(self):
        """On the scene with the yellow bulb. Of single pictures that is not always so; training/README.md has the
        means."""
        pictures = demo.ddcolor_path().parent / "pictures"
        gray, truth = (load_picture(pictures / f"scene-{kind}.png") for kind in ("gray", "truth"))
        network = load_ddcolor(demo.ddcolor_path())
        found = auto_color(network, gray, AutoColorSettings.resolve(network.recommended))
        assert float(ab_error(found, truth)) < 0.95 * float(ab_error(gray, truth))
        yellow, expected = (rgb_to_lab(p)[0, 200:260, 290:380, 2].mean() for p in (found, truth))
        assert float(yellow) > 0.5 * float(expected) > 20


def test_frames_that_fit(weights, tmp_path):
    save_file(weights, tmp_path / "small.safetensors")
    loaded = load_ddcolor(tmp_path / "small.safetensors")
    assert loaded.frames_at_once(7, 64, 64) == 1  # a CPU
    assert fitting(0, loaded.network, 7, 64, 64) == 1
    assert fitting(1e12, loaded.network, 7, 64, 64) == 7
    always, three, four = (memory_of(loaded.network, frames, 64, 64) for frames in (0, 3, 4))
    assert always < three < four
    assert fitting((three + four) / 2 / 0.9, loaded.network, 7, 64, 64) == 3


def test_errors_that_are_about_memory():
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory"))
    assert ran_out(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not ran_out(RuntimeError("sizes do not match"))
