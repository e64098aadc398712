"""Image tokens as an edit: which layer hears what, which row gets what, and what weight and mask mean."""

import pytest
import torch

from comfyui_exemplar.attention.call import CROSS, UNKNOWN, AttentionCall
from comfyui_exemplar.attention.fused import sdpa
from comfyui_exemplar.attention.image_tokens import (
    SEMANTICS,
    STYLE,
    ImageTokens,
    KeysValues,
    project_tokens,
    route,
)
from comfyui_exemplar.attention.layers import Layer, LayerInfo

from . import naive

LAYER = Layer("output", 5)


def infos(levels, blocks):
    """A UNet with a transformer after every residual block of the first ``levels`` levels, and in the middle."""
    found = [
        LayerInfo(Layer("input", 1 + level * (blocks + 1) + i), 32, 4, 2**level)
        for level in range(levels)
        for i in range(blocks)
    ]
    found.append(LayerInfo(Layer("middle", 0), 32, 4, 2**levels))
    extra = 0 if blocks == 1 else blocks + 1  # of a coarsest level without transformers
    return found + [
        LayerInfo(Layer("output", extra + (levels - 1 - level) * (blocks + 1) + i), 32, 4, 2**level)
        for level in reversed(range(levels))
        for i in range(blocks + 1)
    ]


def names(routing, kind):
    return [layer.name for layer, found in routing.items() if found == kind]


class TestRoute:
    def test_stable_diffusion_1(self):
        """The published table."""
        routing = route(infos(3, 2))
        assert names(routing, SEMANTICS) == ["input.7", "input.8", "middle.0", "output.3", "output.4"]
        assert len(names(routing, STYLE)) == 11 and "output.5" in names(routing, STYLE)

    def test_the_embedded_model(self):
        assert names(route(infos(3, 1)), SEMANTICS) == ["input.5", "middle.0", "output.0"]

    def test_edited(self):
        routing = route(infos(3, 2), "middle", "output.9-11")
        assert names(routing, SEMANTICS) == ["middle.0"] and names(routing, STYLE) == [
            "output.9",
            "output.10",
            "output.11",
        ]
        routing = route(infos(3, 2), "rest", "fine")
        assert names(routing, STYLE) == ["output.9", "output.10", "output.11"] and len(routing) == 16
        with pytest.raises(ValueError, match=r"output\.9 would listen to style and to semantics"):
            route(infos(3, 2), "output.9", "fine")
        with pytest.raises(ValueError, match="both 'rest'"):
            route(infos(3, 2), "rest", "rest")


def call(rows, branches=None, pictures=None, grid=(3, 4), text=5, width=8):
    q = naive.rand(rows, grid[0] * grid[1], width, seed=1).float()
    k, v = (naive.rand(rows, text, width, seed=s).float() for s in (2, 3))
    everyone = tuple(range(rows))
    return AttentionCall(
        LAYER, 1.0, q, k, v, 2, branches or (0,) * rows, pictures or everyone, everyone, grid, sdpa, CROSS
    )


def kept(pictures=1, tokens=3, width=8):
    k, v = (2 * naive.rand(pictures, tokens, width, seed=s).float() for s in (4, 5))
    return {LAYER: KeysValues(k, v)}


def run(edit, given):
    return edit(given, AttentionCall.plain)


def expected(given, row, k, v):
    """One row by the formula, in double precision."""
    joined = [torch.cat([t[row : row + 1], image[None]], 1) for t, image in ((given.k, k), (given.v, v))]
    return naive.attention(given.q[row : row + 1], *joined, given.heads)[0]


class TestEdit:
    def test_one_softmax_over_text_and_image(self):
        given, found = call(2), kept()
        out = run(ImageTokens(found), given)
        for row in range(2):
            torch.testing.assert_close(
                out[row].double(), expected(given, row, found[LAYER].k[0], found[LAYER].v[0]), atol=1e-5, rtol=0
            )

    def test_rows_of_other_branches_get_zeros_wherever_they_stand(self):
        given, found = call(4, (1, 0, 0, 1), (0, 0, 1, 1)), kept(2)
        out = run(ImageTokens(found), given)
        zeros = torch.zeros_like(found[LAYER].k[0])
        for row, pair in enumerate(
            (
                (zeros, zeros),
                (found[LAYER].k[0], found[LAYER].v[0]),
                (found[LAYER].k[1], found[LAYER].v[1]),
                (zeros, zeros),
            )
        ):
            torch.testing.assert_close(out[row].double(), expected(given, row, *pair), atol=1e-5, rtol=0)
        assert float((out[0] - given.plain()[0]).abs().max()) > 1e-3  # zeros damp

    def test_rows_of_another_nodes_prompt_are_left_alone(self):
        """Not even zeros stand beside its text."""
        given, found = call(3, (UNKNOWN, 0, 1)), kept()
        out, plain = run(ImageTokens(found, weighting="official"), given), given.plain()
        known = run(ImageTokens(found, weighting="official"), call(3, (1, 0, 1)))
        torch.testing.assert_close(out[0], plain[0])
        assert torch.equal(out[1:], known[1:])
        assert float((known[0] - plain[0]).abs().max()) > 1e-3

    @pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 1.7])
    def test_weights(self, weight):
        given, found = call(1), kept()
        plain, full = given.plain(), run(ImageTokens(found), given)
        official = expected(given, 0, weight * found[LAYER].k[0], weight * found[LAYER].v[0])
        theirs = run(ImageTokens(found, weight, "official"), given)[0].double()
        torch.testing.assert_close(theirs, official, atol=1e-5, rtol=0)
        ours = run(ImageTokens(found, weight), given)
        if weight == 0:
            assert torch.equal(ours, plain)
        elif weight <= 1:
            torch.testing.assert_close(ours, torch.lerp(plain, full, weight))
        else:
            torch.testing.assert_close(ours[0].double(), official, atol=1e-5, rtol=0)

    def test_mask(self):
        """Row by row of the grid; a mask of its own for every picture."""
        given, found = call(2), kept()
        mask = torch.zeros(2, 6, 8)
        mask[0, :2] = 1
        mask[1, :, :2] = 1
        plain, full = (t.unflatten(1, (3, 4)) for t in (given.plain(), run(ImageTokens(found), given)))
        out = run(ImageTokens(found, mask=mask), given).unflatten(1, (3, 4))
        assert torch.equal(out[0, 1:], plain[0, 1:]) and torch.equal(out[1, :, 1:], plain[1, :, 1:])
        torch.testing.assert_close(out[0, 0], full[0, 0])
        torch.testing.assert_close(out[1, :, 0], full[1, :, 0])

    def test_repeated_prompts_keep_the_tokens_share(self):
        given, edit = call(1), ImageTokens(kept(), text_tokens=5)
        twice = AttentionCall(**{**vars(given), "k": given.k.repeat(1, 2, 1), "v": given.v.repeat(1, 2, 1)})
        torch.testing.assert_close(run(edit, twice), run(edit, given))

    def test_another_edit_is_handed_the_longer_keys(self):
        given, lengths = call(1), []

        def earlier(asked):
            lengths.append(asked.k.shape[1])
            return asked.plain()

        ImageTokens(kept(), 0.5)(given, earlier)
        assert sorted(lengths) == [5, 8]

    def test_half_precision(self):
        given = call(1)
        half = AttentionCall(**{**vars(given), **{n: getattr(given, n).bfloat16() for n in "qkv"}})
        out = run(ImageTokens(kept(), 0.7, mask=torch.rand(1, 3, 4)), half)
        assert out.dtype == torch.bfloat16 and torch.isfinite(out).all()

    def test_bad_settings(self):
        with pytest.raises(ValueError, match="expected one of plain at 0, official"):
            ImageTokens(kept(), 1.0, "strong")
        with pytest.raises(ValueError, match="0 or more"):
            ImageTokens(kept(), -1.0)


def test_projecting():
    """A kind that is missing leaves as many zeros; half-precision projections are worked with in float32."""
    other = Layer("middle", 0)
    projections = {
        LAYER: (torch.eye(8, 6), 2 * torch.eye(8, 6)),
        other: (torch.eye(4, 6).half(), torch.eye(4, 6).half()),
    }
    tokens = naive.rand(2, 3, 6, seed=1).float()
    made = project_tokens({STYLE: tokens}, projections, {LAYER: STYLE, other: SEMANTICS})
    assert torch.equal(made[LAYER].k[..., :6], tokens) and torch.equal(made[LAYER].v[..., :6], 2 * tokens)
    assert made[other].k.shape == (1, 3, 4) and not made[other].k.any()
    assert ImageTokens(made).pictures == 2
    assert project_tokens({SEMANTICS: tokens}, projections, {other: SEMANTICS})[other].k.dtype == torch.float32
    with pytest.raises(ValueError, match="no image tokens"):
        project_tokens({}, projections, {LAYER: STYLE})
