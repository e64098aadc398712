"""Which row of a ComfyUI model call is whose, told from the guider's own prompts."""

from types import SimpleNamespace

import pytest

from comfyui_exemplar.attention.call import CONDITIONAL, UNCONDITIONAL, UNKNOWN
from comfyui_exemplar.hosts.comfy.rows import (
    Prediction,
    Rows,
    branches_of,
    guider_branches,
    guider_ranks,
    list_places,
    rows_of,
)

P, N = CONDITIONAL, UNCONDITIONAL


def prompts(*names):
    return [{"uuid": name} for name in names]


def asked(numbers, uuids=None, pictures=1, rows=None, size=(8, 8), branches=None, **more):
    """The rows of a call with these numbers and prompts."""
    options = {"cond_or_uncond": list(numbers), **more}
    if uuids is not None:
        options["uuids"] = list(uuids)
    known = branches_of({P: prompts("p"), N: prompts("n")}) if branches is None else branches
    prediction = Prediction(3, known, pictures, (8, 8), more.get("windowed", False))
    return rows_of(options, prediction, len(numbers) * pictures if rows is None else rows, size)


@pytest.mark.parametrize(
    ("numbers", "uuids", "expected"),
    [
        pytest.param([1, 0], "np", [N, P], id="both in one call"),
        pytest.param([0], "p", [P], id="split: the positive one"),
        pytest.param([1], "n", [N], id="split: the negative one"),
        pytest.param([0], "n", [N], id="SelfAttentionGuidance and DualModelGuider call the negative 0"),
        pytest.param([2, 1, 0], "pnn", [P, N, N], id="DualCFGGuider: 0 is the negative"),
        pytest.param([0], "e", [UNKNOWN], id="the Perp-Neg patch's own empty prompt"),
        pytest.param([1, 0, 0], "npe", [N, P, UNKNOWN], id="a stranger among known ones"),
    ],
)
def test_branches(numbers, uuids, expected):
    assert list(asked(numbers, uuids).branches) == expected


def test_pictures_and_number():
    rows = asked([1, 0], "np", pictures=3)
    assert rows.pictures == (0, 1, 2, 0, 1, 2) and rows.branches == (N, N, N, P, P, P)
    assert rows.whole and rows.prediction == 3


def test_a_batch_that_is_not_the_samplers():
    assert asked([1, 0], "np", pictures=2, rows=2) is None, "half of the pictures"
    assert asked([1, 0], "np", rows=3) is None, "no equal chunks"
    assert asked([0], "p", pictures=2, rows=8) is None, "tiles"


def test_areas_are_not_whole_pictures():
    assert not asked([0], "p", size=(8, 4)).whole


def test_context_windows_say_which_pictures():
    window = SimpleNamespace(index_list=[2, 3], dim=0)
    assert asked([1, 0], "np", 4, rows=4, context_window=window).pictures == (2, 3, 2, 3)
    window.causal_anchor_index = 1
    assert asked([1, 0], "np", 4, rows=6, context_window=window).pictures == (1, 2, 3) * 2
    assert asked([1, 0], "np", 4, rows=4, context_window=window) is None, "neither with the anchor nor without it"
    window = SimpleNamespace(index_list=[2, 3], dim=2)
    assert asked([1, 0], "np", 4, rows=4, context_window=window) is None, "windows of something else"
    assert (
        asked([1, 0], "np", 4, rows=4, context_window=SimpleNamespace(index_list=[0, 1], dim=0), windowed=True) is None
    )


def test_without_a_prediction_the_numbers_count():
    assert rows_of({"cond_or_uncond": [1, 0]}, None, 2, (8, 8)) == Rows((N, P), (0, 0))
    assert rows_of({}, None, 2, (8, 8)) == Rows((P, P), (0, 1))


def test_a_prompt_that_serves_two_branches():
    """One negative prompt of a controlled pair stands for both streams: the sampler's number decides."""
    both = branches_of({0: prompts("p"), 1: prompts("n"), 2: prompts("s"), 3: prompts("n")})
    assert asked([3, 2, 1, 0], "nsnp", branches=both).branches == (3, 2, 1, 0)
    assert asked([0], "n", branches=both).branches == (1,)


def test_ranks_are_the_guiders_order():
    """ComfyUI runs the parts of a combined prompt from last to first, or one by one, as memory allows."""
    guider = SimpleNamespace(conds={"positive": prompts("a", "b"), "negative": prompts("n")})
    prediction = Prediction(1, guider_branches(guider), 2, (8, 8), ranks=guider_ranks(guider))
    rows = rows_of({"cond_or_uncond": [0, 0, 1], "uuids": ["b", "a", "n"]}, prediction, 6, (8, 8))
    assert rows.ranks == (1, 1, 0, 0, 0, 0) and rows.branches == (P, P, P, P, N, N)


def test_guiders():
    dual = SimpleNamespace(conds={"positive": prompts("p"), "middle": prompts("m"), "negative": prompts("n")})
    assert guider_branches(dual) == {"p": {P}, "m": {N}, "n": {N}}
    basic = SimpleNamespace(conds={"positive": prompts("p")})
    assert guider_branches(basic) == {"p": {P}}
    without = SimpleNamespace(conds={"positive": prompts("p"), "negative": None})
    assert guider_branches(without) == {"p": {P}}
    assert guider_branches(SimpleNamespace(conds={"first": prompts("p")})) == {"p": {P}}, "an only list"
    several = SimpleNamespace(conds={"first": prompts("p"), "second": prompts("n")})
    assert guider_branches(several) == {"p": {UNKNOWN}, "n": {UNKNOWN}}
    assert guider_branches(object()) == {}


def test_lists_speak_for_calls_whose_prompts_were_taken_away():
    """DualCFGGuider's order, for a node that runs each prompt by itself and says the number only."""
    known = branches_of({P: prompts("p"), N: prompts("m", "n")})
    places = list_places(known, [prompts("n"), prompts("m"), prompts("p"), None, prompts("e")])
    assert places == (N, N, P, UNKNOWN, UNKNOWN)
    prediction = Prediction(1, known, 1, (8, 8), places=places)
    found = [rows_of({"cond_or_uncond": [i]}, prediction, 1, (8, 8)).branches for i in range(3)]
    assert found == [(N,), (N,), (P,)]
    assert list_places({}, [prompts("a")]) == (UNKNOWN,) and list_places({}, [prompts("a"), None]) == (P, N)
