"""The whole translation, on the embedded model under diffusers, with very few steps."""

from dataclasses import replace

import pytest
import torch

from comfyui_exemplar.demo import model_path
from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
from comfyui_exemplar.hosts.diffusers.vct import DiffusersTranslator
from comfyui_exemplar.hosts.diffusers.vct_text import ClipText, load_concept_text
from comfyui_exemplar.pipelines.recommended import read_recommended
from comfyui_exemplar.pipelines.vct import TranslateSettings, learn, translate

RECOMMENDED = read_recommended(model_path())["vct"]
FEW = TranslateSettings.resolve(
    RECOMMENDED, steps=2, resolution=32, updates=2, vectors=2, pivot_iterations=0, word="red"
)


@pytest.fixture(scope="module")
def host():
    return DiffusersTranslator(load_standalone(model_path()), text=load_concept_text(model_path()))


@pytest.fixture(scope="module")
def pictures():
    return torch.rand(2, 40, 48, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def concept(host, pictures):
    return learn(host, pictures[:1], FEW)


def difference(a, b):
    return float((a - b).abs().max())


def test_learning_moves_the_vectors_and_nothing_else(host, pictures, concept):
    before = [p.clone() for p in host.model.unet.parameters()][:3]
    assert concept.vectors == 2 and concept.first == 0 and concept.columns == host.columns
    assert difference(concept.prompt[0, :2], host.text.rows("red")[0].repeat(2, 1)) > 1e-4
    assert torch.equal(concept.prompt[0, 2:], host.model.context[0, 2:])
    assert all(p.grad is None for p in host.model.unet.parameters())
    learn(host, pictures[:1], FEW)
    assert all(torch.equal(a, b) for a, b in zip(before, host.model.unet.parameters(), strict=False))


def test_result_has_the_contents_size_and_changes_with_the_concept(host, pictures, concept):
    result = translate(host, pictures, concept, FEW)
    assert result.images.shape == pictures.shape and result.reconstruction_errors == ()
    assert float(result.images.min()) >= 0 and float(result.images.max()) <= 1
    other = host.of_vectors(*host.text.rows("blue"))
    assert difference(translate(host, pictures, other, FEW).images, result.images) > 0.01


def test_a_batch_is_its_pictures(host, pictures, concept):
    together = translate(host, pictures, concept, FEW).images
    for i in range(2):
        assert difference(translate(host, pictures[i : i + 1], concept, FEW).images, together[i : i + 1]) < 1e-4


def test_pivots_hold_every_picture(host, pictures, concept):
    settings = replace(FEW, pivot_iterations=1)
    phases = []
    result = translate(host, pictures, concept, settings, on_progress=lambda phase, _: phases.append(phase))
    assert len(result.reconstruction_errors) == 2 and phases == ["pivots"] * 2 * settings.steps


def test_outside_of_a_mask_the_picture_stays(host, pictures, concept):
    """What comes back there is the picture at working size, through the autoencoder."""
    mask = torch.zeros(1, 40, 48)
    mask[:, :, :24] = 1
    square = pictures[:, :32, :32]
    settings = replace(FEW, resolution=0)
    result = translate(host, square, concept, settings, mask=mask[:, :32, 8:40])
    returned = host.decode(host.encode(square))
    # the decoder looks two latents to each side
    assert difference(result.images[:, :, 24:], returned[:, :, 24:]) < 1e-3
    assert difference(result.images[:, :, :12], returned[:, :, :12]) > 0.01


def test_progress_is_what_was_announced(host, pictures):
    """Iterations that a step of the pivots did not need count as done."""
    done, settings = [], replace(FEW, pivot_iterations=2)

    def note(phase, progress):
        done.append(phase)
        if phase == "pivots" and progress.last:
            done.extend([phase] * (settings.pivot_iterations - progress.iteration - 1))

    host.on_step = lambda _: done.append("step")
    try:
        translate(host, pictures, learn(host, pictures[:1], settings, note), settings, on_progress=note)
    finally:
        host.on_step = None
    assert len(done) == settings.calls(2, learning=True)
    assert done[:3] == ["concept", "concept", "step"] and "pivots" in done


@pytest.mark.parametrize("phase", ["concept", "pivots", "step"])
def test_a_stop_in_any_phase_leaves_nothing_behind(host, pictures, concept, phase):
    class Stopped(BaseException):
        """As ComfyUI's own is."""

    def stop(at, *_):
        if at == phase:
            raise Stopped

    settings = replace(FEW, pivot_iterations=1)
    before = dict(host.model.unet.attn_processors)
    host.on_step = lambda _: stop("step")
    try:
        with pytest.raises(Stopped):
            translate(host, pictures, learn(host, pictures[:1], settings, stop), settings, on_progress=stop)
    finally:
        host.on_step = None
    assert host.model.unet.attn_processors == before
    assert all(p.grad is None and not p.requires_grad for p in host.model.unet.parameters())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"convention": "official"}, "convention is 'official'"),
        ({"steps": 0}, "steps is 0; it must lie between 2 and"),
        ({"weight_place": "x"}, "weight_place is 'x'"),
        ({"self_layers": "x"}, "self_layers is 'x'"),
        ({"cross_ratio": 2.0}, "cross_ratio is 2.0; it must lie between 0 and 1"),
    ],
)
def test_bad_settings(host, pictures, concept, changes, message):
    with pytest.raises(ValueError, match=message):
        translate(host, pictures, concept, replace(FEW, **changes))


def test_steps_are_refused_before_anything_is_learned(pictures):
    class FewLevels:
        """A model with fewer noise levels than steps; it can do nothing else."""

        sigma_table = torch.linspace(0.03, 14, 50)

    with pytest.raises(ValueError, match="schedule has 60 steps; it must have between 1 and 49"):
        learn(FewLevels(), pictures[:1], replace(FEW, steps=60))


def test_bad_masks_and_words(host, pictures, concept):
    with pytest.raises(ValueError, match="mask: found 3 for 2 picture"):
        translate(host, pictures, concept, FEW, mask=torch.ones(3, 4, 4))
    with pytest.raises(ValueError, match="no word that the embedded model reads"):
        learn(host, pictures[:1], replace(FEW, word="!"))
    with pytest.raises(ValueError, match="room for 1 to 8"):
        learn(host, pictures[:1], replace(FEW, vectors=9))


def test_recommendations():
    published, embedded = TranslateSettings.resolve({}), TranslateSettings.resolve(RECOMMENDED)
    assert published.steps == 50 and published.concept.updates == 500 and published.pivots.iterations == 50
    assert published.pivots.advance_cfg is None and not published.pivots.keep_last_update
    assert embedded.resolution == RECOMMENDED["resolution"] != published.resolution
    assert embedded.cfg == embedded.pivots.cfg == RECOMMENDED["cfg"]
    assert embedded.concept.updates == RECOMMENDED["updates"] and embedded.concept.accumulation == 4
    chosen = TranslateSettings.resolve(RECOMMENDED, cfg=1.0, updates=7, steps=5, resolution=-1)
    assert chosen.pivots is None and chosen.concept.updates == 7 and chosen.steps == 5
    assert chosen.resolution == embedded.resolution
    assert TranslateSettings.resolve(RECOMMENDED, pivot_iterations=0).pivots is None


class TestClipText:
    @pytest.fixture(scope="class")
    def encoder(self):
        from transformers import CLIPTextConfig, CLIPTextModel

        config = CLIPTextConfig(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=9,
        )
        torch.manual_seed(3)
        return CLIPTextModel(config).eval().requires_grad_(False)

    def test_vectors_of_known_tokens_are_those_tokens(self, encoder):
        text = ClipText(encoder, pad_with_end=True)
        rows = encoder.get_input_embeddings().weight[[5, 6]]
        (context,) = text([rows])
        ids = torch.tensor([[48, 5, 6, 49, 49, 49, 49, 49, 49]])
        assert difference(context, encoder(input_ids=ids).last_hidden_state) < 1e-6
        assert (text.columns, text.first, text.names, text.widths) == (9, 1, ("l",), (16,))

    def test_only_one_word_without_a_tokenizer(self, encoder):
        with pytest.raises(ValueError, match="comes without a tokenizer"):
            ClipText(encoder, pad_with_end=True).rows("cat")


@pytest.mark.parametrize("cfg", [1.0, 1.005])
def test_guidance_that_guides_nothing_needs_no_pivots(cfg):
    """What the search for pivots would refuse must not be found out after the concept was learned."""
    assert TranslateSettings(cfg=cfg).pivots is None
    assert TranslateSettings(cfg=1.01).pivots is not None
