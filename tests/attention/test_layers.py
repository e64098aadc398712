"""Layer names and the selection language, on the layer lists of the three families."""

import pytest

from comfyui_exemplar.attention.layers import Layer, LayerInfo, decoder_resolutions, is_shallow, select_layers


def family(encoder, middle, decoder):
    """Layer infos from {(block index, ...): (downscale, stacked transformers, channels)}."""

    def block(name, groups):
        return [
            LayerInfo(Layer(name, index, depth), channels, 8, downscale)
            for indices, (downscale, stack, channels) in groups.items()
            for index in indices
            for depth in range(stack)
        ]

    return [*block("input", encoder), *block("middle", middle), *block("output", decoder)]


SD1 = family(
    {(1, 2): (1, 1, 320), (4, 5): (2, 1, 640), (7, 8): (4, 1, 1280)},
    {(0,): (8, 1, 1280)},
    {(3, 4, 5): (4, 1, 1280), (6, 7, 8): (2, 1, 640), (9, 10, 11): (1, 1, 320)},
)
SD2 = SD1  # the same blocks; only head counts and projections differ
SDXL = family(
    {(4, 5): (2, 2, 640), (7, 8): (4, 10, 1280)},
    {(0,): (4, 10, 1280)},
    {(0, 1, 2): (4, 10, 1280), (3, 4, 5): (2, 2, 640)},
)


@pytest.mark.parametrize(
    ("size", "downscale", "grid"), [((9, 13), 1, (9, 13)), ((9, 13), 4, (3, 4)), ((2, 4, 9, 1), 8, (2, 1))]
)
def test_every_halving_of_the_latents_rounds_up(size, downscale, grid):
    info = LayerInfo(Layer("output", 3), 320, 8, downscale)
    assert info.grid(size) == grid and info.tokens(size) == grid[0] * grid[1]


def names(expression, infos):
    return [str(info.layer) for info in select_layers(expression, infos)]


def outputs(*indices):
    return [f"output.{i}" for i in indices]


def test_a_stack_is_named_by_its_block_and_its_members_by_one_more_number():
    assert [str(Layer("output", 3, depth)) for depth in (0, 1, 9)] == ["output.3", "output.3.1", "output.3.9"]


class TestPresets:
    def test_sd1(self):
        assert names("color", SD1) == outputs(6, 7, 8, 9, 10, 11)
        assert names("fine", SD1) == outputs(9, 10, 11)
        assert names("coarse", SD1) == outputs(6, 7, 8)
        assert names("decoder", SD1) == outputs(*range(3, 12))
        assert names("encoder", SD1) == [f"input.{i}" for i in (1, 2, 4, 5, 7, 8)]
        assert names("middle", SD1) == ["middle.0"]
        assert names("all", SD1) == [str(info.layer) for info in SD1]

    def test_match_is_the_last_coarse_block_and_the_first_two_fine_ones(self):
        assert names("match", SD1) == outputs(8, 9, 10)
        assert names("match", SDXL) == ["output.2.9", "output.3.1", "output.4.1"]
        flat = [info for info in SD1 if info.layer.block != "output" or info.layer.index > 8]
        assert names("match", flat) == outputs(9, 10)

    def test_sdxl_takes_whole_stacks(self):
        chosen = select_layers("color", SDXL)
        assert {(info.layer.index, info.layer.depth) for info in chosen} == {
            *((index, depth) for index in (0, 1, 2) for depth in range(10)),
            *((index, depth) for index in (3, 4, 5) for depth in range(2)),
        }
        assert {info.layer.block for info in chosen} == {"output"} and len(chosen) == 36
        assert {info.layer.index for info in select_layers("fine", SDXL)} == {3, 4, 5}
        assert {info.layer.index for info in select_layers("coarse", SDXL)} == {0, 1, 2}
        assert len(select_layers("middle", SDXL)) == 10

    def test_one_resolution_has_no_coarse_layers(self):
        flat = [info for info in SD1 if info.layer.block != "output" or info.layer.index > 8]
        assert names("color", flat) == outputs(9, 10, 11)
        with pytest.raises(ValueError, match="'coarse' matches no attention layer"):
            select_layers("coarse", flat)

    def test_decoder_resolutions(self):
        assert decoder_resolutions(SD1) == [1, 2, 4]
        assert decoder_resolutions(SDXL) == [2, 4]


class TestRanges:
    @pytest.mark.parametrize(
        "expression, expected",
        [
            ("output.6-11", outputs(*range(6, 12))),
            ("output.7", outputs(7)),
            ("output.4,7,9,11", outputs(4, 7, 9, 11)),  # bare numbers go on with the block
            ("output.3-4, 9-10", outputs(3, 4, 9, 10)),
            ("input.7 8 , output.3,5", ["input.7", "input.8", *outputs(3, 5)]),
            ("output.11,output.3", outputs(3, 11)),  # network order, whatever was asked first
            ("output.9,9,fine", outputs(9, 10, 11)),  # nothing twice
            ("Middle, OUTPUT.3", ["middle.0", "output.3"]),
            ("output.0-3", outputs(3)),  # blocks without attention inside a range are passed over
            ("output.3-99", outputs(*range(3, 12))),
        ],
    )
    def test_on_sd1(self, expression, expected):
        assert names(expression, SD1) == expected

    @pytest.mark.parametrize(
        "expression, expected",
        [
            ("output.3", ["output.3", "output.3.1"]),
            ("output.3.1", ["output.3.1"]),
            ("output.3.0-1, 4.1", ["output.3", "output.3.1", "output.4.1"]),
            ("output.0-2.9", ["output.0.9", "output.1.9", "output.2.9"]),
            ("output.5.1,4", ["output.4", "output.4.1", "output.5.1"]),
        ],
    )
    def test_members_of_stacks(self, expression, expected):
        assert names(expression, SDXL) == expected


class TestMessages:
    @pytest.mark.parametrize(
        "expression", ["shallow", "output.", "output.a", "output.1-2-3", "output.-1", "down.3", "6"]
    )
    def test_unknown_words_list_what_there_is(self, expression):
        with pytest.raises(ValueError) as error:
            select_layers(expression, SD1)
        message = str(error.value)
        assert f"'{expression}'" in message
        assert "color" in message and "decoder" in message  # the presets
        assert "output.3,4,5,6,7,8,9,10,11" in message and "middle.0" in message  # this model

    def test_a_bare_number_does_not_go_on_after_a_preset(self):
        with pytest.raises(ValueError, match="'7' names no layers"):
            select_layers("output.3, fine, 7", SD1)

    @pytest.mark.parametrize("expression", ["output.0-2", "output.99", "output.3.1", "output.11-6"])
    def test_terms_without_a_layer(self, expression):
        with pytest.raises(ValueError, match=r"matches no attention layer of this model.*input\.1,2,4,5,7,8"):
            select_layers(expression, SD1)

    @pytest.mark.parametrize("expression", ["", "  ", ",,"])
    def test_nothing_named(self, expression):
        with pytest.raises(ValueError, match="No layers named"):
            select_layers(expression, SD1)

    def test_a_model_without_attention_says_so(self):
        with pytest.raises(ValueError, match="no attention layer at all"):
            select_layers("color", [])


class TestShallow:
    def test_same_set_as_the_published_channel_count_on_sd1(self):
        decoder = [info for info in SD1 if info.layer.block == "output"]
        assert [is_shallow(info, SD1) for info in decoder] == [info.channels == 320 for info in decoder]

    def test_finest_decoder_resolution_on_sdxl_which_has_no_320_wide_attention(self):
        assert {info.layer.index for info in select_layers("color", SDXL) if is_shallow(info, SDXL)} == {3, 4, 5}
        assert not any(info.channels == 320 for info in SDXL)
