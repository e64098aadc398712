"""The adapter's recipe: pairs that share one thing only, gradients everywhere they should go, a file that gives the
same."""

import json

import numpy as np
import pytest
import torch

from comfyui_exemplar.demo import model_path
from comfyui_exemplar.files.headers import read_metadata
from comfyui_exemplar.files.tensors import read_tensors
from comfyui_exemplar.networks.deadiff.load import ABOUT_KEY, load_deadiff
from comfyui_exemplar.pipelines.deadiff import encode


@pytest.fixture(scope="module")
def styles(drawings):
    from training.scenes import Scenes
    from training.styles import Styles

    return Styles(Scenes(drawings, seed=3))


@pytest.fixture(scope="module")
def network():
    from training.words import load_exported

    return load_exported(model_path())


class TestPairs:
    def test_kinds(self, styles):
        pairs = styles.pairs(3, 2, 1, 32)
        assert pairs.targets.shape == pairs.style.shape == pairs.semantics.shape == (6, 3, 32, 32)
        assert pairs.has_style.tolist() == [True] * 3 + [False] * 2 + [True]
        assert pairs.has_semantics.tolist() == [False] * 3 + [True] * 3
        assert all(pairs.captions[:3]) and not pairs.captions[5]
        assert pairs.shown[:3] == [""] * 3 and all(pairs.shown[3:])
        assert not set(pairs.captions[3:5]) & set(pairs.shown)  # it says how, not what

    def test_a_reference_is_never_the_target(self, styles, monkeypatch):
        """Style: another thing by the same hand in the same print. Semantics: the same thing by another hand in a
        print, and what is to be drawn from it alone in none."""
        from training.styles import PLAIN

        seen = []
        printed = styles.printed
        monkeypatch.setattr(
            styles, "drawn", lambda rows, size: seen.append(rows) or torch.ones(len(rows), 3, size, size)
        )
        prints = []
        monkeypatch.setattr(styles, "printed", lambda pictures, p: prints.append(p) or printed(pictures, p))
        styles.pairs(20, 20, 20, 8)
        names, hands = styles.scenes.drawings.names, styles.scenes.drawings.hands
        for style, semantic, target in zip(*seen, strict=True):
            assert hands[style] == hands[target] and names[style] != names[target]
            assert names[semantic] == names[target] and hands[semantic] != hands[target]
        same = [a is b for a, b in zip(prints[0], prints[2], strict=True)]
        assert all(same[:20]) and all(same[40:]) and all(p is PLAIN for p in prints[2][20:40])
        assert sum(a is b for a, b in zip(prints[1], prints[2], strict=True)) < 30  # plain ones can meet

    def test_a_print_has_its_paper_and_ink(self, styles):
        from training.styles import Print

        white_and_black = torch.stack([torch.ones(3, 4, 4), torch.zeros(3, 4, 4)])
        paper, ink = np.array([0.9, 0.8, 0.3]), np.array([0.3, 0.0, 0.1])
        found = styles.printed(white_and_black, [Print(paper, ink, 1.0)] * 2)
        torch.testing.assert_close(found[0, :, 0, 0].double(), torch.from_numpy(paper), atol=1e-6, rtol=0)
        torch.testing.assert_close(found[1, :, 0, 0].double(), torch.from_numpy(ink), atol=1e-6, rtol=0)
        colors = torch.rand(1, 3, 4, 4)
        assert torch.equal(styles.printed(colors, [Print(paper, ink, 0.0)]), colors)


def test_gradients_reach_everything_that_is_trained_and_nothing_else(styles, network, tmp_path):
    from training.adapter import Trainer, attach, pairs_loss, words_loss
    from training.model import signal_levels

    net, autoencoder = network
    trainer = Trainer(tmp_path, net, 1)
    before = dict(net.unet.attn_processors)
    try:
        given = attach(net, trainer.net)
        pairs = styles.pairs(2, 2, 2, 32)
        loss = pairs_loss(
            trainer.net, net, given, autoencoder, signal_levels(), pairs, torch.Generator().manual_seed(6)
        )
        (loss + words_loss(trainer.net, net, *styles.named(2, 64))).backward()
    finally:
        net.unet.set_attn_processor(before)
    assert all(parameter.grad is None for parameter in net.parameters())
    still = {name for name, p in trainer.net.named_parameters() if p.grad is None or not p.grad.any()}
    # what has no effect: the text's own last feed-forward, words that are not said, a key's bias under softmax
    last = "qformer.model.encoder.layer.1."
    allowed = (f"{last}intermediate.", f"{last}output.", "embeddings.position_embedding", "key.bias", "k_proj.bias")
    assert not {name for name in still if not any(part in name for part in allowed)}


def test_what_words_taught_moves_by_its_share_only(network, tmp_path):
    """Adam's first step is as long as the rate, so the share can be read off."""
    from training.adapter import Trainer, key_of

    trainer = Trainer(tmp_path, network[0], 1)
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    trainer.update(sum((parameter * parameter.sign().detach()).sum() for parameter in trainer.net.parameters()), 0.1)
    moved = {name: (value - before[name]).abs().max() for name, value in trainer.net.state_dict().items()}

    def longest(*parts):
        return float(max(value for name, value in moved.items() if name.startswith(parts)))

    projections = {
        kind: tuple(f"projections.{key_of(at)}." for at, k in trainer.net.routing.items() if k == kind)
        for kind in ("style", "semantics")
    }
    assert all(projections.values())
    taught = [longest("encoder.trunks."), longest("encoder.branches.content."), longest(*projections["semantics"])]
    others = [longest("encoder.branches.style."), longest(*projections["style"])]
    assert taught == pytest.approx([0.1 * others[0]] * 3, rel=0.2) and others[1] == pytest.approx(others[0], rel=0.2)


def test_trains_resumes_exports_and_is_measured(drawings, tmp_path, monkeypatch):
    from training import adapter, adapter_measure
    from training.adapter_file import export_adapter
    from training.words import load_exported

    np.savez(tmp_path / "drawings.npz", pictures=drawings.pictures, names=drawings.names, hands=drawings.hands)
    for steps in (1, 2):
        monkeypatch.setattr(adapter, "STAGES", (adapter.Stage(32, 1, 2), adapter.Stage(32, steps - 1 or 0, 2, 1, 1, 1)))
        adapter.train(tmp_path, model_path(), seed=1)
        state = torch.load(tmp_path / "adapter.pt", weights_only=True)
        assert state["step"] == steps
    file = tmp_path / "deadiff.safetensors"
    export_adapter(tmp_path, file)
    assert file.stat().st_size < 5e6
    header = read_metadata(file)
    assert json.loads(header[ABOUT_KEY])["text_tokens"] == 8 and "CC-BY" in header["exemplar.credit"]
    loaded = load_deadiff(file)
    assert loaded.sizes == adapter.SIZES and len(loaded.projections) == 10
    trained = adapter.Adapter(load_exported(model_path())[0])
    trained.load_state_dict(state["average"])
    pictures = (torch.rand(2, 64, 64, 3) * 255).round() / 255
    for kind, tokens in encode(loaded, pictures, {"style": "style", "semantics": "content"}).items():
        with torch.no_grad():
            expected = trained.tokens(pictures.movedim(-1, 1), kind)
        assert float((tokens - expected).abs().max()) < 0.02 * float(expected.abs().max())  # half precision
    for name, value in (("SIZE", 32), ("STEPS", 2), ("CASES", 2)):
        monkeypatch.setattr(adapter_measure, name, value)
    numbers = adapter_measure.evaluate_adapter(tmp_path, model_path(), file, tmp_path / "out")
    assert (tmp_path / "out" / "adapter.jpg").is_file()
    assert numbers[adapter_measure.PLAIN]["style distance"] > 0


def test_measures_know_what_they_measure(styles):
    """The reference itself has its style and shows its thing; another print of another thing has neither."""
    from training.adapter_measure import Cases, measure

    names = ["red-apple", "banana", "flamingo"]
    rows = [styles.by_hand[name]["noto"] for name in names]
    prints = [styles.colored_print() for _ in names]
    drawn = styles.drawn(rows, 64)
    references = styles.printed(drawn, prints)
    cases = Cases(references, names, names[1:] + names[:1])
    same = measure(references, cases, drawn, names)
    assert same["style distance"] < 1e-4 and same["shown, likeness"] > 0.9
    other = measure(styles.printed(drawn.roll(-1, 0), prints[1:] + prints[:1]), cases, drawn, names)
    assert other["style distance"] > 5 and other["asked, likeness"] > 0.9


def test_the_embedded_file_belongs_to_the_embedded_model():
    from comfyui_exemplar.demo import deadiff_path
    from comfyui_exemplar.hosts.diffusers.layers import attention_layers
    from training.words import load_exported

    loaded = load_deadiff(deadiff_path())
    infos = attention_layers(load_exported(model_path())[0].unet).values()
    assert {info.layer: info.channels for info in infos} == {
        at: len(pair[0]) for at, pair in loaded.projections.items()
    }
    assert read_tensors(model_path())["text.emb.weight"].shape[1] == loaded.sizes.hidden


def test_what_the_embedded_tokens_do(styles):
    """Style tokens bring their own reference's paper and ink and leave the thing, and bring less at a low weight;
    semantic tokens leave the style to the model."""
    from comfyui_exemplar.demo import deadiff_path
    from training.adapter_measure import Sampler, shapes, style_distance
    from training.styles import Print

    prints = [
        Print(np.array(paper), np.array(ink), 1.0)
        for paper, ink in (((0.35, 0.8, 0.75), (0.1, 0.1, 0.3)), ((0.95, 0.7, 0.4), (0.35, 0.05, 0.05)))
    ]
    rows = [styles.by_hand[name]["noto"] for name in ("fox", "bell")]
    references = styles.printed(styles.drawn(rows, 64), prints)
    sampler = Sampler(model_path(), load_deadiff(deadiff_path()))
    tokens = encode(sampler.adapter, references.movedim(1, -1), {"style": "style", "semantics": "content"})
    prompts, settings = ["blue heart", "sun"], {"size": 64, "steps": 8}
    plain = sampler(prompts, None, **settings)
    styled, little = (sampler(prompts, {"style": tokens["style"]}, weight=w, **settings) for w in (1.0, 0.1))
    distances = [float(style_distance(p, references).mean()) for p in (styled, little, plain)]
    kept = (shapes(styled) * shapes(plain)).sum(1)
    assert float(kept.mean()) > 0.4  # measured: 0.65
    assert distances[0] < 0.6 * distances[2] and distances[0] < distances[1] < distances[2]
    assert bool((style_distance(styled, references) < style_distance(styled, references.flip(0))).all())
    nothing = ["", ""]
    semantic = sampler(nothing, {"semantics": tokens["semantics"]}, **settings)
    alone = sampler(nothing, None, **settings)
    assert float((semantic - alone).abs().mean()) > 0.01
    moved = float(style_distance(semantic, references).mean()) / float(style_distance(alone, references).mean())
    assert 0.75 < moved < 1.25


def test_what_the_embedded_semantic_tokens_do():
    """Two things cut out of one picture, with no word for either: each is drawn, in the color that the prompt says."""
    from comfyui_exemplar.demo import deadiff_path
    from comfyui_exemplar.files.pictures import load_picture
    from training.adapter_measure import Sampler, shapes

    picture = load_picture(model_path().parent / "pictures" / "words-reference.png")
    apple, umbrella = (picture[:, y : y + 118, x : x + 118] for x, y in ((8, 44), (126, 24)))
    references = torch.cat([apple, umbrella])
    sampler = Sampler(model_path(), load_deadiff(deadiff_path()))
    tokens = encode(sampler.adapter, references, {"semantics": "content"})
    settings = {"size": 128, "steps": 8}
    alone = sampler(["", ""], None, **settings)
    shown, blue = (sampler([word] * 2, tokens, **settings) for word in ("", "blue"))
    wanted = shapes(references.movedim(-1, 1))
    likeness, before = shapes(shown) @ wanted.T, shapes(alone) @ wanted.T
    assert likeness.argmax(1).tolist() == [0, 1]
    assert bool((likeness.diag() > 0.6).all()) and bool((likeness.diag() > before.diag() + 0.05).all())
    bodies = [part[:, 40:70, 44:84].mean((1, 2)) for part in (*blue, shown[0])]
    assert all(body.argmax() == 2 for body in bodies[:2]) and bodies[2].argmax() != 2
