"""The nodes of color memories: what runs the network, what is refused, and what ends up in files."""

import comfy_execution.caching
import folder_paths
import pytest
import torch
from comfy_execution.graph_utils import ExecutionBlocker

from comfyui_exemplar.color import luminance, rgb_to_lab

from .encoders import clip_vision


class Rows:
    """Rows of a MODEL's calls, as they come."""

    def __init__(self, model):
        self.counted, self.model = [], model.clone()
        self.model.set_model_unet_function_wrapper(
            lambda apply, args: (
                self.counted.append(len(args["input"])) or apply(args["input"], args["timestep"], **args["c"])
            )
        )


@pytest.fixture
def rows(embedded):
    return Rows(embedded[0])


@pytest.fixture
def look(embedded, rows):
    """What a node that looks at pictures is given."""
    return {"model": rows.model, "vae": embedded[2], "conditioning": embedded[3], "resolution": 64}


def strokes(scene, color=(0.8, 0.1, 0.1)):
    """The gray picture with a mark, and where it is."""
    marks, mask = scene[0].clone(), torch.zeros(1, 64, 64)
    mask[:, 28:34, 24:34] = 1
    marks[:, 28:34, 24:34] = torch.tensor(color)
    return marks, mask


def test_one_row_a_picture_and_the_pictures_own_lightness(nodes, look, rows, scene):
    (memory,) = nodes("ExemplarColorMemory", references=scene[1], **look)
    image, confidence, source = nodes(
        "ExemplarMemoryColorize", image=scene[0].expand(3, -1, -1, -1), memory=memory, **look
    )
    assert rows.counted == [1, 3]
    assert image.shape == (3, 64, 64, 3) and confidence.shape == (3, 64, 64) and source.shape == image.shape
    assert (luminance(image) - luminance(scene[0])).abs().max() < 0.5
    assert rgb_to_lab(image)[..., 1:].norm(dim=-1).max() > 10
    # a picture is colored as it is alone
    alone = nodes("ExemplarMemoryColorize", image=scene[0], memory=memory, **look)[0]
    assert (image[:1] - alone).abs().max() < 2e-3


def test_a_new_stroke_needs_no_model_call(nodes, look, rows, scene):
    (memory,) = nodes("ExemplarColorMemory", references=scene[1], **look)
    (features,) = nodes("ExemplarColorFeatures", image=scene[0], **look)
    assert rows.counted == [1, 1]
    without = nodes("ExemplarMemoryColorize", image=scene[0], memory=memory, features=features, **look)[0]
    marks, mask = strokes(scene)
    (stroke,) = nodes("ExemplarColorStrokes", image=scene[0], marks=marks, features=features, **look)
    (both,) = nodes("ExemplarMergeMemories", memory_1=memory, memory_2=stroke)
    image, confidence, _ = nodes("ExemplarMemoryColorize", image=scene[0], memory=both, features=features, **look)
    assert rows.counted == [1, 1], "the features are of the same picture"
    painted = rgb_to_lab(image)[mask > 0.5][..., 1:]
    asked = rgb_to_lab(marks)[mask > 0.5][..., 1:]
    assert (painted - asked).norm(dim=-1).max() < 5 and bool((confidence[mask > 0.5] > 0.99).all())
    assert not torch.equal(image, without)
    # the same with a mask beside any picture of colors, and with the model run
    colors = torch.tensor([0.8, 0.1, 0.1]).expand(1, 64, 64, 3)
    (other,) = nodes("ExemplarColorStrokes", image=scene[0], marks=colors, mask=mask, **look)
    assert torch.equal(other.marks[0].place, stroke.marks[0].place)
    assert (other.keys.floats() - stroke.keys.floats()).abs().max() < 1e-2
    assert rows.counted == [1, 1, 1]


def test_features_of_another_picture_are_refused(nodes, look, scene):
    (memory,) = nodes("ExemplarColorMemory", references=scene[1], **look)
    (features,) = nodes("ExemplarColorFeatures", image=scene[0], **look)
    inputs = {"memory": memory, "features": features, **look}
    with pytest.raises(ValueError, match=r"^Color by Memory: features: found those of other pictures"):
        nodes("ExemplarMemoryColorize", image=scene[0].flip(2), **inputs)
    with pytest.raises(ValueError, match=r"^Color by Memory: features: found those of 1 picture"):
        nodes("ExemplarMemoryColorize", image=scene[0].expand(2, -1, -1, -1), **inputs)


def test_two_references_by_masks_and_weights(nodes, look, scene):
    references = torch.cat([scene[1], scene[1].flip(-1)])
    left = (torch.arange(64) < 32).float().expand(1, 64, 64)
    (memory,) = nodes("ExemplarColorMemory", references=references, masks=torch.cat([left, 1 - left]), **look)
    assert memory.source.unique().tolist() == [0, 1] and len(memory) == 256
    (heavy,) = nodes("ExemplarColorMemory", references=references, weights="1, 0.25", **look)
    assert [float(heavy.weight[heavy.source == number].max()) for number in (0, 1)] == [1.0, 0.25]
    with pytest.raises(ValueError, match=r"^Color Memory: weights: found 3 for 2 reference"):
        nodes("ExemplarColorMemory", references=references, weights="1, 1, 1", **look)
    with pytest.raises(ValueError, match=r"^Color Memory: mask.*covers nothing of reference 2"):
        nodes("ExemplarColorMemory", references=references, masks=torch.cat([left, 0 * left]), **look)
    with pytest.raises(ValueError, match=r"^Color Memory: references: found no color"):
        nodes("ExemplarColorMemory", references=scene[0], **look)


def test_a_palette_bounds_colors(nodes, look, scene):
    (memory,) = nodes("ExemplarColorMemory", references=scene[1], **look)
    (palette,) = nodes("ExemplarColorPalette", colors="#2040c0 48c\n#6080e0")
    (both,) = nodes("ExemplarMergeMemories", memory_1=memory, memory_2=palette)
    free, *_ = nodes("ExemplarMemoryColorize", image=scene[0], memory=memory, **look)
    image, *_ = nodes("ExemplarMemoryColorize", image=scene[0], memory=both, **look)
    assert float(rgb_to_lab(free)[..., 2].max()) > 0 > float(rgb_to_lab(image)[..., 2].max())
    (same,) = nodes("ExemplarColorPalette", image=torch.tensor([0x20, 0x40, 0xC0]).expand(1, 2, 2, 3) / 255)
    assert torch.allclose(same.palettes[0].chroma[0], palette.palettes[0].chroma[0])
    for wrong, said in (("", "colors: found none"), ("#12345", "colors: found '#12345'"), ("#888", "colors: found")):
        with pytest.raises(ValueError, match=f"^Color Palette: {said}"):
            nodes("ExemplarColorPalette", colors=wrong)


def test_a_file_gives_the_memory_back(nodes, look, scene, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    (memory,) = nodes("ExemplarColorMemory", references=scene[1], **look)
    made = [nodes("ExemplarSaveMemory", memory=memory) for _ in range(2)]
    assert [path.name for path in sorted((tmp_path / "color_memories").iterdir())] == [
        "memory_00001_.safetensors",
        "memory_00002_.safetensors",
    ], made
    (loaded,) = nodes("ExemplarLoadMemory", memory_name="memory_00002_.safetensors [output]")
    results = [nodes("ExemplarMemoryColorize", image=scene[0], memory=m, **look)[0] for m in (memory, loaded)]
    assert torch.equal(*results)
    with pytest.raises(ValueError, match=r"^Load Color Memory: memory_name is .*, expected one of the listed"):
        nodes("ExemplarLoadMemory", memory_name="../memory_00002_.safetensors [output]")


def test_a_clip_vision_looks_as_well_and_another_model_is_refused(nodes, look, scene):
    encoder = {"model": clip_vision("dinov2"), "resolution": 64}
    (memory,) = nodes("ExemplarColorMemory", references=scene[1], **encoder)
    image, *_ = nodes("ExemplarMemoryColorize", image=scene[0], memory=memory, **encoder)
    assert image.shape == scene[0].shape and rgb_to_lab(image)[..., 1:].norm(dim=-1).max() > 3
    with pytest.raises(ValueError, match=r"^Color by Memory: memory: found a memory of the model DINOv2"):
        nodes("ExemplarMemoryColorize", image=scene[0], memory=memory, **look)
    (own,) = nodes("ExemplarColorMemory", references=scene[1], **look)
    with pytest.raises(ValueError, match=r"^Color by Memory: memory: found a memory of the model"):
        nodes("ExemplarMemoryColorize", image=scene[0], memory=own, **encoder)
    with pytest.raises(ValueError, match=r"^Merge Color Memories: memory_2: found a memory of the model"):
        nodes("ExemplarMergeMemories", memory_1=memory, memory_2=own)
    with pytest.raises(ValueError, match=r"^Color Memory: vae: found nothing"):
        nodes("ExemplarColorMemory", references=scene[1], **{**look, "vae": None})


def test_exemplar_colorize_by_memory(nodes, look, rows, scene):
    """One and the same picture as by the two nodes; and no inversions, which is told to who waits for one."""
    (memory,) = nodes("ExemplarColorMemory", references=scene[1], **look)
    expected, *_ = nodes("ExemplarMemoryColorize", image=scene[0], memory=memory, fallback_below=0.0, **look)
    rows.counted.clear()
    both = {"image": scene[0], "method": "memory", **look}
    for given in ({"reference": scene[1]}, {"memory": memory}):
        image, *inversions, share = nodes("ExemplarColorize", **both, **given)
        assert (image - expected).abs().max() < 2e-3 and bool((share == 1).all())
        assert all(isinstance(each, ExecutionBlocker) for each in inversions)
    assert rows.counted == [2, 1], "a picture and its reference are one call"
    with pytest.raises(ValueError, match=r"^Exemplar Colorize: memory: found one, expected none with method attention"):
        nodes("ExemplarColorize", **{**both, "method": "attention"}, memory=memory)
    with pytest.raises(ValueError, match=r"^Exemplar Colorize: reference: found nothing"):
        nodes("ExemplarColorize", **both)
    # one reference for each picture
    pair = {"image": scene[0].expand(2, -1, -1, -1), "reference": torch.cat([scene[1], scene[1].flip(-1)])}
    image, *_ = nodes("ExemplarColorize", **{**both, **pair})
    assert (image[:1] - expected).abs().max() < 2e-3 and not torch.allclose(image[0], image[1], atol=0.05)
    assert rows.counted[2:] == [2, 2]


def test_a_reference_counts_beside_a_memory(nodes, look, rows, scene):
    blue = scene[1].flip(-1)
    (memory,) = nodes("ExemplarColorMemory", references=scene[1], context=0.3, **look)
    (second,) = nodes("ExemplarColorMemory", references=blue, context=0.3, **look)
    (both,) = nodes("ExemplarMergeMemories", memory_1=memory, memory_2=second)
    expected, *_ = nodes("ExemplarMemoryColorize", image=scene[0], memory=both, fallback_below=0.0, **look)
    rows.counted.clear()
    given = {"image": scene[0], "method": "memory", "memory": memory, **look}
    image, *_ = nodes("ExemplarColorize", **given, reference=blue)
    assert rows.counted == [2] and (image - expected).abs().max() < 2e-3
    alone, *_ = nodes("ExemplarColorize", **given)
    assert not torch.allclose(image, alone, atol=0.05)
    # a fallback is none of the references while there is a memory; and a gray reference may stand beside it
    same, *_ = nodes("ExemplarColorize", **given, fallback=blue)
    assert torch.equal(same, alone)
    gray, *_ = nodes("ExemplarColorize", **given, reference=scene[0])
    assert rgb_to_lab(gray)[..., 1:].norm(dim=-1).mean() < rgb_to_lab(alone)[..., 1:].norm(dim=-1).mean()


def test_a_fallback_where_the_memory_is_not_sure(nodes, look, scene):
    (memory,) = nodes("ExemplarColorMemory", references=scene[1], **look)
    blue = torch.tensor([0.2, 0.3, 0.8]).expand(1, 64, 64, 3)
    both = {"image": scene[0], "memory": memory, "fallback": blue, **look}
    own, confidence, _ = nodes("ExemplarMemoryColorize", **both, fallback_below=0.0)
    mixed, *_ = nodes("ExemplarMemoryColorize", **both, fallback_below=1.0)
    apart = (own - mixed).abs().amax(-1)
    assert float(apart.max()) > 0.05
    assert apart[confidence > confidence.median()].mean() <= apart[confidence <= confidence.median()].mean()


def test_the_cache_counts_a_memory(nodes, look, scene):
    """ComfyUI counts tensors in lists and tuples."""
    (memory,) = nodes("ExemplarColorMemory", references=scene[1], **look)
    (features,) = nodes("ExemplarColorFeatures", image=scene[0], **look)
    assert sum(t.nbytes for t in memory) == memory.nbytes
    kept = features.kept
    assert sum(t.nbytes for t in features) == features.lightness.nbytes + sum(
        t.nbytes for t in kept.queries + kept.keys
    )
    assert hasattr(comfy_execution.caching, "RAMPressureCache")
