"""Prompts with the names that inputs had, without a server; ``test_server_cache`` sends one to a real one."""

import copy

import pytest

from comfyui_exemplar.nodes import NODES
from comfyui_exemplar.nodes.renamed import rename_in_prompts, rename_inputs, renamed_inputs
from comfyui_exemplar.settings import RENAMED_FROM

RENAMED = renamed_inputs(NODES)


def test_what_the_page_is_told():
    """ComfyUI hands the declaration's former name on to the page."""
    for name, former in RENAMED.items():
        (node,) = [node for node in NODES if node.define_schema().node_id == name]
        inputs = node.INPUT_TYPES()
        told = {key: options[1] for group in ("required", "optional") for key, options in inputs.get(group, {}).items()}
        assert {told[key].get(RENAMED_FROM): key for key in former.values()} == former


def test_values_and_links_move():
    inputs = {"color_image": ["1", 0], "gray_image": ["2", 0], "match_statistics": 0.25, "image": None}
    prompt = {"5": {"class_type": "ExemplarMergeLuminance", "inputs": inputs}}
    rename_inputs(prompt, RENAMED)
    assert inputs == {"color_image": ["1", 0], "image": None, "match_chroma": 0.25}, "today's name wins"


@pytest.mark.parametrize(
    "prompt",
    [
        None,
        [],
        "prompt",
        {"1": None},
        {"1": {"class_type": "ExemplarMergeLuminance"}},
        {"1": {"class_type": "ExemplarMergeLuminance", "inputs": ["gray_image"]}},
        {"1": {"class_type": ["ExemplarMergeLuminance"], "inputs": {"gray_image": 1}}},
        {"1": {"class_type": "ExemplarApplyDEADiff", "inputs": {"weight": 1.0}}},
    ],
)
def test_whatever_else_is_sent_stays(prompt):
    before = copy.deepcopy(prompt)
    rename_inputs(prompt, RENAMED)
    assert prompt == before


def test_where_there_is_no_server():
    rename_in_prompts(NODES)
