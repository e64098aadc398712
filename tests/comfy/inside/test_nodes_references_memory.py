"""References of Exemplar Colorize with method memory, beside what the nodes of color memories give."""

import pytest
import torch

from .sampling import Calls, difference

ALL = "all for every image"


@pytest.fixture(scope="module")
def references(scene):
    """Two references of one size."""
    return torch.cat([scene[1], scene[1].flip(-1).roll(9, 1)])


@pytest.fixture
def by_memory(embedded, nodes, scene):
    """(Exemplar Colorize, Color by Memory of a memory made of parts, a memory of references)."""
    look = {"model": embedded[0], "vae": embedded[2], "conditioning": embedded[3], "resolution": 64}

    def colorize(reference=None, image=scene[0], **settings):
        return nodes("ExemplarColorize", image=image, reference=reference, method="memory", **look, **settings)[0]

    def remember(references, **settings):
        return nodes("ExemplarColorMemory", references=references, **look, **settings)[0]

    def ask(image, *memories):
        memory = memories[0]
        if len(memories) > 1:
            (memory,) = nodes("ExemplarMergeMemories", memory_1=memories[0], memory_2=memories[1])
        return nodes("ExemplarMemoryColorize", image=image, memory=memory, fallback_below=0.0, **look)[0]

    return colorize, ask, remember


@pytest.fixture
def blue(scene):
    return torch.stack([scene[1][..., 2], scene[1][..., 1], scene[1][..., 0]], -1)


def test_all_beside_a_memory(by_memory, scene, references, blue, embedded):
    colorize, ask, remember = by_memory
    inputs, memory = torch.cat([scene[0], scene[0].flip(2)]), remember(blue)
    half = (torch.arange(64) < 32).float().expand(1, 64, 64)
    masks = torch.cat([half, 1 - half])
    expected = ask(inputs, memory, remember(references, masks=masks, weights="1, 0.25"))
    given = {"memory": memory, "references": ALL}
    with Calls(embedded[0]) as calls:
        found = colorize(references, inputs, **given, reference_mask=masks, weights="1, 0.25")
    assert calls.entered == [4], "two pictures and two references"
    assert difference(found, expected) < 2e-3
    rounds = colorize(references, inputs, **given, reference_mask=masks, weights="1, 0.25", batch=1)
    assert difference(rounds, expected) < 2e-3
    # each of the three counts
    for other in (
        colorize(references, inputs, references=ALL, reference_mask=masks, weights="1, 0.25"),
        colorize(references, inputs, **given, weights="1, 0.25"),
        colorize(references, inputs, **given, reference_mask=masks.flip(0), weights="1, 0.25"),
        ask(inputs, memory),
    ):
        assert difference(found, other) > 1e-2


def test_one_each_beside_a_memory(by_memory, scene, references, blue):
    colorize, ask, remember = by_memory
    inputs, memory = torch.cat([scene[0], scene[0].flip(2)]), remember(blue)
    masks = torch.zeros(2, 32, 32)
    masks[0, :20], masks[1, 12:] = 1, 1
    found = colorize(references, inputs, memory=memory, reference_mask=masks)
    for i in range(2):
        own = remember(references[i : i + 1], masks=masks[i : i + 1])
        assert difference(found[i : i + 1], ask(inputs[i : i + 1], memory, own)) < 2e-3
    assert difference(found, colorize(references.flip(0), inputs, memory=memory, reference_mask=masks)) > 1e-2
    # the mask of one reference for all
    shared = colorize(references[:1], inputs, memory=memory, reference_mask=masks[:1])
    assert difference(shared, ask(inputs, memory, remember(references[:1], masks=masks[:1]))) < 2e-3


def test_a_black_mask_leaves_its_reference_out(by_memory, references):
    """As with method attention."""
    colorize, _, _ = by_memory
    masks = torch.stack([torch.zeros(64, 64), torch.ones(64, 64)])
    both = {"references": ALL, "reference_mask": masks, "weights": "1, 0.5"}
    assert difference(colorize(references, **both), colorize(references[1:])) < 2e-3


@pytest.mark.parametrize(
    "given, said",
    [
        (
            {"references": ALL, "weights": "1, 2"},
            "Colorize: weights: found some, expected none beside a memory without",
        ),
        (
            {"reference_mask": torch.ones(1, 8, 8)},
            "Colorize: reference_mask: found one, expected none beside a memory",
        ),
    ],
)
def test_what_is_about_references_needs_one(by_memory, blue, embedded, given, said):
    colorize, _, remember = by_memory
    memory = remember(blue)
    with Calls(embedded[0]) as calls, pytest.raises(ValueError, match=said):
        colorize(memory=memory, **given)
    assert not calls.entered
    assert torch.isfinite(colorize(memory=memory, references=ALL)).all()


@pytest.mark.parametrize(
    "given, said",
    [
        ({"references": ALL, "weights": "1, 2, 3"}, "weights: found 3 for 2 reference"),
        ({"references": ALL, "reference_mask": torch.zeros(2, 8, 8)}, "reference_mask: found masks with nothing"),
        ({"references": ALL, "reference_mask": torch.ones(3, 8, 8)}, "reference_mask: found 3 for 2 picture"),
        ({"references": ALL, "mask": torch.ones(2, 8, 8)}, "mask: found 2 for 1 picture"),
        ({"references": ALL, "fallback": torch.full((2, 8, 8, 3), 0.5)}, "fallback: found 2 for 1 picture"),
        ({}, "reference: found 2 for 1 picture"),
        (
            {"image": torch.full((2, 8, 8, 3), 0.5), "reference_mask": torch.zeros(2, 8, 8)},
            "reference_mask: found a",
        ),
    ],
)
def test_what_is_refused_before_any_work(by_memory, references, embedded, given, said):
    with Calls(embedded[0]) as calls, pytest.raises(ValueError, match=said):
        by_memory[0](references, **given)
    assert not calls.entered


def test_progress_while_references_are_read(by_memory, scene, references, monkeypatch):
    """References count as pictures do, and the bar ends at its end in every mode."""
    told = []
    monkeypatch.setattr(
        "comfy.utils.ProgressBar.update_absolute",
        lambda _, value, total=None, preview=None: told.append((value, total)),
    )
    five = references.repeat(3, 1, 1, 1)[:5]
    by_memory[0](five, references=ALL, batch=2)
    assert told == [(2, 6), (4, 6), (5, 6), (6, 6)]
    told.clear()
    by_memory[0](five, scene[0].expand(5, -1, -1, -1), batch=2)
    assert told == [(done, 10) for done in range(1, 11)]
    told.clear()
    masks = torch.ones(5, 8, 8)
    masks[1] = 0
    by_memory[0](five, references=ALL, reference_mask=masks)
    assert told == [(5, 6), (6, 6)]


def test_cancel_while_references_are_read(by_memory, references, embedded, monkeypatch):
    import comfy.model_management as mm

    monkeypatch.setattr("comfy.utils.ProgressBar.update_absolute", lambda *_, **__: mm.interrupt_current_processing())
    with Calls(embedded[0]) as calls, pytest.raises(mm.InterruptProcessingException):
        by_memory[0](references.repeat(4, 1, 1, 1), references=ALL, batch=2)
    assert calls.entered == [2], "the next call of the model does not begin"
