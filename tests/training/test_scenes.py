"""Training pictures: what they show, and that it is known where."""

import numpy as np
import torch

from comfyui_exemplar.color import rgb_to_lab


def scenes(drawings, monkeypatch=None, **settings):
    from training.scenes import Scenes

    if monkeypatch is not None:  # without tone curves, the two sides show the very same colors
        monkeypatch.setattr(Scenes, "_tone", lambda self, pictures: pictures)
    return Scenes(drawings, seed=3, **settings)


def test_split_by_thing():
    from training.drawings import split_of, world

    assert {split_of(name) for name in world()} == {"train"}
    made_up = [f"thing-{i}" for i in range(3000)]
    held_out = [name for name in made_up if split_of(name) != "train"]
    assert 0.06 < len(held_out) / len(made_up) < 0.11
    assert {split_of(name) for name in held_out} == {"dev", "test"}
    assert [split_of(name) for name in made_up] == [split_of(name) for name in made_up]


def test_pairs_show_the_same_things_in_other_places(drawings):
    pairs = scenes(drawings).pairs(24, 64)
    for side in (pairs.a, pairs.b):
        assert side.pictures.shape == (24, 3, 64, 64) and side.things.shape == (24, 64, 64)
        assert float(side.pictures.min()) >= 0 and float(side.pictures.max()) <= 1
    for a, b in zip(pairs.a.things, pairs.b.things, strict=True):
        assert set(a.unique().tolist()) == set(b.unique().tolist())
    assert not torch.equal(pairs.a.things, pairs.b.things)
    assert len({len(t.unique()) for t in pairs.a.things}) == 3  # one, two and three things on a ground
    again = scenes(drawings).pairs(24, 64)
    assert torch.equal(again.a.pictures, pairs.a.pictures)  # the seed decides


def test_equal_places_show_equal_colors(drawings, monkeypatch):
    """The ground truth that attention is taught with: same place of the same drawing, same color."""
    pairs = scenes(drawings, monkeypatch).pairs(40, 96)
    checked = 0
    for i, j in torch.nonzero(pairs.exact).tolist():
        a, b = pairs.a.things[i] == j, pairs.b.things[i] == j
        if min(int(a.sum()), int(b.sum())) < 200:
            continue
        places = [side.places[i][:, mask].T for side, mask in ((pairs.a, a), (pairs.b, b))]
        colors = [side.pictures[i][:, mask].T for side, mask in ((pairs.a, a), (pairs.b, b))]
        near, at = torch.cdist(*places).min(1)
        inner = (near < 0.05) & (places[0].norm(dim=1) < 0.6) & ((places[0][:, 1] + 0.2).abs() > 0.15)
        assert (colors[0][inner] - colors[1][at[inner]]).abs().max() < 0.03
        checked += 1
    assert checked >= 3


def test_photographs_are_pairs_with_themselves(drawings, monkeypatch):
    from training.scenes import Scenes

    monkeypatch.setattr(Scenes, "_tone", lambda self, pictures: pictures)
    x = torch.linspace(0, 255, 64)
    photograph = torch.stack([x[None].expand(64, 64), x[:, None].expand(64, 64), torch.full((64, 64), 80.0)])
    made = Scenes(drawings, photograph[None].byte(), seed=1).photographed_pairs(6, 48)
    assert (made.a.things == 0).all() and made.exact.all() and made.captions == [""] * 6
    assert not torch.equal(made.a.places, made.b.places)
    assert made.a.places.abs().max() < 1.01  # a crop never leaves its photograph


def test_singles_and_their_words(drawings):
    made = scenes(drawings)
    pictures, captions = made.singles(64, 48)
    assert pictures.shape == (64, 3, 48, 48)
    assert (pictures[:, :, 0, 0] > 0.99).all()  # on white
    words = {word for caption in captions for word in caption.split()}
    assert {"banana", "flamingo", "noto"} <= words
    assert any(caption.split()[0] in ("red", "green", "blue", "purple", "orange", "brown") for caption in captions)


def test_a_name_alone_means_one_hand(drawings):
    """...so that a short prompt has one answer; whoever else drew it is named."""
    from dataclasses import replace

    from training.scenes import PLAIN_HAND, PLAIN_SHARE

    hands = [PLAIN_HAND if hand == "twemoji" else hand for hand in drawings.hands]
    made = scenes(replace(drawings, hands=hands))
    _, captions = made.singles(400, 16)
    others = sum("noto" in caption.split() for caption in captions) / 400
    expected = (1 - PLAIN_SHARE) / 2  # one of two hands, when the plain one was not asked for
    assert abs(others - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5
    assert all("twemoji" not in caption for caption in captions)


def test_color_words():
    from training.recoloring import color_word

    alpha = torch.zeros(1, 16, 16)
    alpha[:, 4:12, 4:12] = 1
    for color, word in (((0.9, 0.1, 0.1), "red"), ((0.1, 0.3, 0.9), "blue"), ((0.97, 0.88, 0.2), "yellow")):
        picture = torch.ones(3, 16, 16)
        picture[:, 4:12, 4:12] = torch.tensor(color)[:, None, None]
        assert color_word(picture, alpha[0]) == word


def test_evaluation_pairs_swap_places(drawings, monkeypatch):
    from training import pairs as module

    monkeypatch.setattr(
        type(drawings),
        "rows_by_name",
        lambda self, *_: {name: [i for i, n in enumerate(self.names) if n == name] for name in sorted(set(self.names))},
    )
    made = module.build(drawings, "test", one=4, two=3, seed=5)
    assert made.count.tolist() == [1] * 4 + [2] * 3 and len(made.names) == 7
    for things, others in zip(made.things[4:], made.reference_things[4:], strict=True):
        center = [float(np.mean(np.nonzero((t == n).numpy())[1])) for t in (things, others) for n in (0, 1)]
        assert center[0] < center[1] and center[2] > center[3]
    chroma = rgb_to_lab(made.gray)[..., 1:]
    assert chroma.abs().max() < 0.01
    assert made.take(made.count == 2).names == made.names[4:]


def test_retrieval_of_words():
    from training.words import retrieval

    generator = torch.Generator().manual_seed(3)
    small = torch.where(
        torch.rand(6, 1, 8, 8, generator=generator) < 0.5, 1.0, torch.rand(6, 3, 8, 8, generator=generator)
    )
    asked = torch.nn.functional.interpolate(small, scale_factor=8)
    near = (asked + 0.05 * torch.randn(asked.shape, generator=generator)).clamp(0, 1)
    found = retrieval(near, asked)
    assert found["color, first"] == found["silhouette, first"] == 1 and found["chance of first"] == 1 / 6
    turned = retrieval(near.roll(1, 0), asked)
    assert turned["color, first"] == turned["silhouette, first"] == 0
