"""Transfer Colors within ComfyUI: what it gives, what it refuses, how it is stopped, and beside color memories."""

from dataclasses import replace

import comfy.model_management as mm
import comfy.utils
import pytest
import torch

from comfyui_exemplar.color import ab_error, desaturate, luminance, merge_luminance, resize
from comfyui_exemplar.demo import ExampleSettings, example_paths
from comfyui_exemplar.files.pictures import load_picture

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def truth():
    """A photograph in color, (1, 280, 420, 3)."""
    return load_picture(example_paths(ExampleSettings("photo"))[1])


@pytest.fixture(scope="module")
def gray(truth):
    return desaturate(truth)


def drifted(picture, left=14, top=4):
    """A copy as edit models make it: zoomed by 5 %, shifted, cut to a multiple of 32."""
    _, height, width, _ = picture.shape
    larger = resize(picture, (round(height * 1.05), round(width * 1.05)))
    return larger[:, top : top + height // 32 * 32, left : left + width // 32 * 32]


@pytest.fixture(autouse=True)
def released():
    """The switch is off before and after."""
    mm.interrupt_current_processing(False)
    yield
    mm.interrupt_current_processing(False)


def test_colors_of_a_drifted_copy(nodes, truth, gray):
    edited = drifted(truth)
    image, confidence, aligned, displacement = nodes("ExemplarTransferColors", original=gray, edited=edited)
    plain = float(ab_error(merge_luminance(edited, gray), truth))
    assert image.shape == aligned.shape == displacement.shape == gray.shape and confidence.shape == gray.shape[:3]
    assert float(ab_error(image, truth)) < 0.5 * plain
    assert float((luminance(image) - luminance(gray)).abs().max()) < 100 / 255
    inside = (slice(None), slice(40, 240), slice(60, 360))
    assert float((aligned - truth)[inside].abs().mean()) < 0.5 * float(
        (resize(edited, (280, 420)) - truth)[inside].abs().mean()
    )
    assert float(confidence[inside].mean()) > 0.8
    for made in (image, confidence, aligned, displacement):
        assert bool(made.isfinite().all()) and float(made.min()) >= 0 and float(made.max()) <= 1


def test_what_is_redrawn_is_unsure_and_not_taken(nodes, truth, gray):
    edited = drifted(truth)
    edited = edited.clone()
    edited[:, 170:270, 270:400] = torch.tensor([0.1, 0.9, 0.2])
    image, confidence, *_ = nodes("ExemplarTransferColors", original=gray, edited=edited)
    place = (slice(None), slice(190, 250), slice(300, 380))
    assert float(confidence[place].mean()) < 0.3
    assert float(ab_error(image[place], truth[place])) < 0.3 * float(
        ab_error(merge_luminance(edited, gray)[place], truth[place])
    )


def test_batches(nodes, truth, gray):
    """One edit each, or one for all: as each by itself."""
    grays, edits = torch.cat([gray, gray.flip(2)]), torch.cat([drifted(truth), drifted(truth, 3, 9).flip(2)])
    both = nodes("ExemplarTransferColors", original=grays, edited=edits)
    for i in range(2):
        alone = nodes("ExemplarTransferColors", original=grays[i : i + 1], edited=edits[i : i + 1])
        assert all(torch.equal(many[i : i + 1], one) for many, one in zip(both[:3], alone[:3], strict=True))
    shared = nodes("ExemplarTransferColors", original=torch.cat([gray, gray]), edited=edits[:1])
    assert torch.equal(shared[0][0], shared[0][1]) and torch.equal(shared[0][0], both[0][0])


@pytest.mark.parametrize("size", [(64, 200), (200, 64), (33, 47), (8, 8), (2, 3)])
def test_any_size(nodes, truth, size):
    original = resize(truth, size)
    for edited in (truth, drifted(truth), resize(truth, (48, 48))):
        made = nodes("ExemplarTransferColors", original=original, edited=edited)
        assert [tuple(each.shape[:3]) for each in made] == [(1, *size)] * 4
        assert all(bool(each.isfinite().all()) for each in made)


def test_progress_is_shown(nodes, truth, gray, monkeypatch):
    told, original = [], comfy.utils.ProgressBar.update_absolute

    def update(bar, value, total=None, preview=None):
        told.append((value, total, None if preview is None else preview[1].size))
        original(bar, value, total, preview)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update)
    nodes("ExemplarTransferColors", original=torch.cat([gray] * 2), edited=drifted(truth))
    assert [each for each in told if each[2]] == [(1, 2, (420, 280)), (2, 2, (420, 280))]
    assert [value for value, *_ in told] == sorted(value for value, *_ in told) and len(told) > 4


def test_cancel_within_a_picture(nodes, truth, gray, monkeypatch):
    """Pressed while the first of three is worked on: the second is not begun, and the next run is undisturbed."""
    from comfyui_exemplar.pipelines import transfer

    found, begun = transfer.register, []
    expected = nodes("ExemplarTransferColors", original=gray, edited=drifted(truth))

    def pressed(*args, **kw):
        begun.append(1)
        mm.interrupt_current_processing()
        return found(*args, **kw)

    with monkeypatch.context() as patched:
        patched.setattr(transfer, "register", pressed)
        with pytest.raises(mm.InterruptProcessingException):
            nodes("ExemplarTransferColors", original=torch.cat([gray] * 3), edited=drifted(truth))
    assert len(begun) == 1
    mm.interrupt_current_processing(False)
    again = nodes("ExemplarTransferColors", original=gray, edited=drifted(truth))
    assert all(torch.equal(one, other) for one, other in zip(expected, again, strict=True))


def test_what_was_found_is_said(nodes, truth, gray, monkeypatch, caplog):
    from comfyui_exemplar.nodes import transfer

    found = transfer.transfer_colors
    noted = lambda *args, **kw: replace(found(*args, **kw), notes=("The edit is mirrored.",))  # noqa: E731
    monkeypatch.setattr(transfer, "transfer_colors", noted)
    with caplog.at_level("WARNING"):
        nodes("ExemplarTransferColors", original=gray, edited=drifted(truth))
    assert caplog.messages[-1] == "Transfer Colors: The edit is mirrored."
    assert "Transfer Colors: the strongest color of displacement stands for" in caplog.text


def test_memory_ran_out(nodes, truth, gray, monkeypatch):
    from comfyui_exemplar.pipelines import transfer

    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), OSError(12, "no memory")):

        def fails(*_, error=error, **__):
            raise error

        monkeypatch.setattr(transfer, "register", fails)
        with pytest.raises(torch.OutOfMemoryError, match=r"^Transfer Colors: memory ran out, .*use smaller pictures"):
            nodes("ExemplarTransferColors", original=gray, edited=drifted(truth))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"edited": lambda truth: desaturate(truth)}, "edited: found no color in it, expected a colored copy"),
        ({"edited": lambda truth: torch.cat([truth] * 2)}, "edited: found 2 for 1 picture"),
        ({"edited": lambda truth: truth * float("nan")}, "edited: found NaN"),
        ({"edited": lambda truth: truth * 255}, "edited: found values from"),
        ({"edited": lambda truth: truth[0]}, "edited: found a tensor of shape"),
        ({"edited": lambda _: "a picture"}, "edited: found"),
        ({"original": lambda truth: truth[:, :1, :1]}, "original: found 1 x 1 pixels"),
        ({"original": lambda truth: truth[:, :0]}, "original: found an empty picture"),
        ({"fallback": lambda truth: torch.cat([truth] * 3)}, "fallback: found 3 for 1 picture"),
        ({"mask": lambda truth: torch.ones(2, 8, 8)}, "mask: found 2 for 1 picture"),
        ({"model": lambda _: torch.ones(2)}, "model: found Tensor, expected MODEL or CLIP_VISION"),
        ({"memory": lambda _: "a memory"}, "memory: found str, expected COLOR_MEMORY"),
        ({"fallback_below": lambda _: 2.0}, "fallback_below is 2.0"),
        ({"motion": lambda _: "far"}, "motion is 'far'"),
    ],
)
def test_wrong_inputs(nodes, truth, gray, inputs, said):
    plain = {"original": gray, "edited": drifted(truth)}
    with pytest.raises(ValueError, match=f"^Transfer Colors: {said}"):
        nodes("ExemplarTransferColors", **{**plain, **{name: make(truth) for name, make in inputs.items()}})


class TestMemory:
    """The embedded model gives colors where the edit shows something else."""

    @pytest.fixture
    def pair(self):
        """A drawing, and its copy with one of its two things painted over."""
        truth = load_picture(example_paths(ExampleSettings("scene"))[1])
        edited = drifted(truth).clone()
        edited[:, 140:240, 280:380] = torch.tensor([0.1, 0.9, 0.2])
        return truth, desaturate(truth), edited

    def test_a_memory_wants_its_model(self, nodes, kit, pair):
        with pytest.raises(ValueError, match="model: found nothing beside the memory"):
            nodes("ExemplarTransferColors", original=pair[1], edited=pair[2], memory=kit.memory)
        with pytest.raises(ValueError, match="vae: found nothing"):
            nodes("ExemplarTransferColors", original=pair[1], edited=pair[2], model=kit.embedded[0])

    def test_the_copy_itself_and_another_picture(self, nodes, kit, pair):
        truth, gray, edited = pair
        model, _, vae, empty = kit.embedded
        looking = {"model": model, "vae": vae, "conditioning": empty}
        place = (slice(None), slice(150, 215), slice(285, 350))
        alone = nodes("ExemplarTransferColors", original=gray, edited=edited)
        copy = nodes("ExemplarTransferColors", original=gray, edited=edited, **looking)
        (memory,) = nodes("ExemplarColorMemory", references=truth, **looking)
        other = nodes("ExemplarTransferColors", original=gray, edited=edited, memory=memory, **looking)
        assert float(alone[1][place].mean()) < 0.4, "painted over"
        errors = [float(ab_error(made[0][place], truth[place])) for made in (alone, copy, other)]
        assert errors[1] < errors[0] and errors[2] < errors[0], errors
        # what the edit shows is the edit's, whatever stands in for the rest
        sure = alone[1] > 0.9
        assert float((copy[0] - alone[0])[sure].abs().mean()) < 0.01

    def test_a_memory_of_another_model(self, nodes, kit, pair):
        model, _, vae, _ = kit.embedded
        foreign = replace(kit.memory, made=replace(kit.memory.made, fingerprint="SDXL-0000"))
        with pytest.raises(ValueError, match="memory: found a memory of the model"):
            nodes("ExemplarTransferColors", original=pair[1], edited=pair[2], model=model, vae=vae, memory=foreign)
