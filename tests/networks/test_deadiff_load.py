"""DEADiff's files: read strictly, sizes from the shapes, extracted to a small adapter; references and their weights."""

import pytest
import torch
from safetensors.torch import load_file

from comfyui_exemplar.__main__ import main
from comfyui_exemplar.attention.layers import Layer
from comfyui_exemplar.networks.deadiff import weights as published
from comfyui_exemplar.networks.deadiff.load import load_deadiff
from comfyui_exemplar.pipelines.deadiff import combine, encode, parse_weights

from ..fixtures.deadiff import SIZES, WIDTHS, save_small, small_weights

IMAGES = torch.rand(2, 30, 40, 3, generator=torch.Generator().manual_seed(1))
WORDS = {"style": "style", "semantics": "content"}


@pytest.fixture
def checkpoint(tmp_path):
    """Call it with tensors to replace or remove (None) -> a checkpoint with a little of a Stable Diffusion in it."""

    def make(name="deadiff.ckpt", **changes):
        weights = small_weights() | {
            "betas": torch.zeros(3),
            "model.diffusion_model.out.2.bias": torch.zeros(4),
            "first_stage_model.x": torch.zeros(1),
            "style_blip.Qformer.cls.predictions.bias": torch.zeros(2),
            "content_blip.temp": torch.zeros(()),
            "model_ema.decay": torch.zeros(()),
        }
        weights = {n: t for n, t in {**weights, **changes}.items() if t is not None}
        torch.save({"state_dict": weights, "global_step": 7}, tmp_path / name)
        return tmp_path / name

    return make


@pytest.fixture
def small(tmp_path):
    return load_deadiff(save_small(tmp_path / "small.safetensors"))


def test_everything_comes_from_the_file(small):
    assert small.sizes == SIZES and small.encoder.side == 32
    assert {(at.block, at.index): len(w) for at, (w, _) in small.projections.items()} == WIDTHS
    assert small.projections[Layer("middle", 0)][1].shape == (64, 64)
    assert small.words == {"style": (1, 3, 2), "content": (1, 4, 2)} and small.text_tokens == 77
    found = encode(small, IMAGES, WORDS)
    assert {kind: tuple(t.shape) for kind, t in found.items()} == {"style": (2, 16, 64), "semantics": (2, 16, 64)}


def test_batched_equals_one_by_one(small, monkeypatch):
    together = encode(small, IMAGES, WORDS)
    done = []
    monkeypatch.setattr("comfyui_exemplar.pipelines.deadiff.CHUNK", 1)
    for kind, alone in encode(small, IMAGES, WORDS, done.append).items():
        torch.testing.assert_close(alone, together[kind], atol=1e-5, rtol=0)
    assert done == [1, 2]


def test_what_is_not_ours_is_left_out(checkpoint, caplog):
    strange = {"style_blip.visual_encoder.proj": torch.zeros(2)}
    with caplog.at_level("INFO"):
        loaded = load_deadiff(checkpoint(**strange), trunk_heads=1, heads=1)
    assert loaded.sizes == SIZES
    # the averaged copy is not even counted
    assert "tensors are DEADiff's own, 5 are left out." in caplog.text
    assert "1 more tensors belong to nothing known, such as style_blip.visual_encoder.proj" in caplog.text


@pytest.mark.parametrize(
    "name",
    [
        "content_blip.query_tokens",
        "style_proj_layer.dense2.bias",
        "content_blip.Qformer.bert.encoder.layer.1.output_query.dense.bias",
        "style_blip.visual_encoder.ln_pre.weight",
        "style_blip.visual_encoder.class_embedding",
    ],
)
def test_missing_parts_are_named(checkpoint, name):
    with pytest.raises(ValueError, match=f"incomplete.*missing.*{name}|incomplete.*`{name}` is missing"):
        load_deadiff(checkpoint(**{name: None}))


def test_half_a_projection(checkpoint):
    with pytest.raises(ValueError, match=r"a half of the projections of .*middle"):
        load_deadiff(checkpoint(**{published.projection_name(("middle", 0, 0), "v"): None}))


def test_other_shapes_are_named(checkpoint):
    name = "content_proj_layer.dense1.weight"
    with pytest.raises(ValueError, match=rf"do not fit.*{name} \(3, 3\) instead of \(40, 64\)"):
        load_deadiff(checkpoint(**{name: torch.zeros(3, 3)}))
    with pytest.raises(ValueError, match=r"i_to_k and i_to_v at \('middle', 0, 0\)"):
        load_deadiff(checkpoint(**{published.projection_name(("middle", 0, 0), "v"): torch.zeros(64, 3)}))


def test_other_files(tmp_path):
    torch.save({"state_dict": {"model.diffusion_model.out.2.bias": torch.zeros(4)}}, tmp_path / "sd.ckpt")
    with pytest.raises(ValueError, match=r"sd\.ckpt: these are not DEADiff's weights: found .*out\.2\.bias.*choose"):
        load_deadiff(tmp_path / "sd.ckpt")
    with pytest.raises(FileNotFoundError, match="does not exist: give DEADiff's checkpoint"):
        load_deadiff(tmp_path / "gone.ckpt")

    class Runs:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"state_dict": small_weights(), "callback": Runs()}, tmp_path / "code.ckpt")
    with pytest.raises(ValueError, match=r"wants to run .*print, which is refused"):
        load_deadiff(tmp_path / "code.ckpt")


class TestExtract:
    def test_a_small_file_that_gives_the_same(self, checkpoint, tmp_path, capsys):
        source, adapter = checkpoint(), tmp_path / "out" / "adapter.safetensors"
        assert main(["extract-deadiff", str(source), str(adapter), "--dtype", "float32"]) == 0
        assert "(two image trunks)" in capsys.readouterr().out
        assert load_file(adapter).keys() == small_weights().keys()
        before, after = (load_deadiff(path, trunk_heads=1, heads=1) for path in (source, adapter))
        words = {"words": {"style": (1, 3, 2), "content": (1, 4, 2)}}
        before, after = (one.__class__(**{**vars(one), **words}) for one in (before, after))
        for kind, tokens in encode(before, IMAGES, WORDS).items():
            assert torch.equal(tokens, encode(after, IMAGES, WORDS)[kind])

    def test_like_trunks_are_kept_once(self, checkpoint, tmp_path, capsys):
        style = {n: t for n, t in small_weights().items() if n.startswith("style_blip.visual_encoder.")}
        same = {name.replace("style_", "content_", 1): tensor.clone() for name, tensor in style.items()}
        source, adapter = checkpoint(**same), tmp_path / "adapter.safetensors"
        assert main(["extract-deadiff", str(source), str(adapter)]) == 0
        assert "the same and kept once" in capsys.readouterr().out
        stored = load_file(adapter)
        assert len(stored) == len(small_weights()) - len(style) and {t.dtype for t in stored.values()} == {
            torch.float16
        }
        loaded = load_deadiff(adapter, trunk_heads=1, heads=1)
        assert list(loaded.encoder.trunks) == ["style"]
        # an adapter of an adapter is the same again
        assert main(["extract-deadiff", str(adapter), str(tmp_path / "again.safetensors")]) == 0
        assert load_file(tmp_path / "again.safetensors").keys() == stored.keys()

    def test_mistakes(self, checkpoint, tmp_path, capsys):
        assert main(["extract-deadiff", str(checkpoint()), str(tmp_path / "adapter.ckpt")]) == 1
        assert "give a name that ends in .safetensors" in capsys.readouterr().err
        assert main(["extract-deadiff", str(tmp_path / "gone.ckpt"), str(tmp_path / "a.safetensors")]) == 1
        assert "does not exist" in capsys.readouterr().err


class TestReferences:
    def test_weights(self):
        assert parse_weights("1", 3) == [1, 1, 1] and parse_weights(" 0.5, 2 ;0", 3) == [0.5, 2, 0]
        for text, said in (
            ("1, 2", "found 2 .* for 3 reference"),
            ("a", "expected numbers"),
            ("", "found 0"),
            ("0", "above 0"),
            ("-1, 1, 1", "from 0 to 100"),
            ("nan", "from 0 to 100"),
            ("1, inf, 1", "from 0 to 100"),
            ("1e30", "from 0 to 100"),
        ):
            with pytest.raises(ValueError, match=said):
                parse_weights(text, 3)

    def test_combinations(self):
        tokens = torch.rand(3, 2, 4)
        assert torch.equal(combine(tokens, [0, 1, 0], "average"), tokens[1:2])
        torch.testing.assert_close(combine(tokens, [2, 2, 2], "average"), tokens.mean(0, keepdim=True))
        assert torch.equal(combine(tokens, [1, 2, 1], "together")[0, 2:4], 2 * tokens[1])
        assert torch.equal(combine(tokens, [1, 1, 1], "one each"), tokens)
        with pytest.raises(ValueError, match="expected one of average, together, one each"):
            combine(tokens, [1, 1, 1], "sum")

    def test_words(self, small):
        with pytest.raises(ValueError, match="'painting'; this file knows style, content"):
            encode(small, IMAGES, {"semantics": "painting"})
        big = small.__class__(**{**vars(small), "words": {"style": (101, 2806, 102)}})
        with pytest.raises(ValueError, match="a vocabulary of 7"):
            encode(big, IMAGES, {"style": "style"})
