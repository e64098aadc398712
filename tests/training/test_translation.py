"""How the translation is measured."""

import pytest
import torch


@pytest.fixture(scope="module")
def features():
    from comfyui_exemplar.demo import model_path
    from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
    from comfyui_exemplar.hosts.diffusers.vct import DiffusersTranslator
    from training.translation import Features

    return Features(DiffusersTranslator(load_standalone(model_path())))


@pytest.fixture(scope="module")
def pictures():
    """A disc and a bar, each in red and in blue, on white."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    made = []
    for shape in ((x**2 + y**2 < 0.4), (x.abs() < 0.2)):
        for color in ((0.8, 0.1, 0.1), (0.1, 0.2, 0.8)):
            made.append(torch.where(shape[..., None], torch.tensor(color), torch.ones(3)))
    return torch.stack(made)


def test_content_distance_is_about_shapes_and_not_about_colors(features, pictures):
    from training.translation import content_distance

    red, blue, bar, _ = (p[None] for p in pictures)
    same, recolored, other = (float(content_distance(features, red, p)) for p in (red, blue, bar))
    assert same == 0.0 and recolored < 0.5 * other


def test_concept_similarity_is_one_for_the_reference(features, pictures):
    from training.translation import ConceptSimilarity

    found = ConceptSimilarity(features, pictures)(pictures, pictures[:1])
    assert float(found[0]) == pytest.approx(1.0, abs=1e-4)
    assert all(float(other) < 0.9 for other in found[1:])


def test_margins_are_read_at_equal_distance():
    from training.translation import equal_distance_margins

    curve = [
        (torch.tensor([0.0, 0.0]), torch.tensor([0.0, -1.0])),
        (torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0])),
    ]
    ours = (torch.tensor([1.0, 3.0]), torch.tensor([0.75, 0.5]))
    # half-way along the first line; beyond the second one's end
    assert equal_distance_margins(ours, curve).tolist() == [0.25, 0.5]


def test_report_says_everything():
    from training.translation import report

    ways = {way: {"content distance": 0.5, "concept similarity": 0.25} for way in ("ours", "image-to-image 1")}
    text = report(
        {
            "pairs of a kind": 20,
            "split": "test",
            "ways": ways,
            "against image-to-image": {"ours": {"margin": 0.125, "better": 0.75}},
        }
    )
    assert "| ours | 0.500 | +0.250 | +0.125 | 75% of pairs |" in text and "20 pairs" in text
    assert "| image-to-image 1 | 0.500 | +0.250 | - | - |" in text
