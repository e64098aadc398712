"""Exemplar Translate inside ComfyUI: the whole in one node."""

import pytest
import torch

from .sampling import difference


class TestTranslate:
    """What it does beyond the stages, and that each phase can be canceled."""

    def run(self, nodes, embedded, scene, **settings):
        model, clip, vae, _ = embedded
        return nodes(
            "ExemplarTranslate",
            model=model,
            clip=clip,
            vae=vae,
            image=scene[1],
            **{
                "cfg": 4.0,
                "cross_ratio": 0.2,
                "self_ratio": 0.9,
                "updates": 2,
                "resolution": 32,
                "steps": 2,
                "pivot_iterations": 1,
                "vectors": 2,
                "word": "red",
                "concept_weight": 0.5,
                "learning_rate": 5e-4,
                "reference": scene[1],
                **settings,
            },
        )

    def test_picture_concept_and_error(self, nodes, embedded, scene):
        image, concept, error = self.run(nodes, embedded, scene)
        assert image.shape == scene[1].shape and bool(torch.isfinite(image).all()) and error >= 0
        again, same, none = self.run(nodes, embedded, scene, reference=None, concept=concept, pivot_iterations=0)
        assert same is concept and none == -1 and again.shape == image.shape
        assert not any(p.requires_grad for p in embedded[0].model.parameters())

    def test_agrees_with_the_other_host(self, nodes, embedded, scene):
        """The same learning, pivots and fusion under diffusers."""
        pytest.importorskip("diffusers")
        from comfyui_exemplar.demo import model_path
        from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
        from comfyui_exemplar.hosts.diffusers.vct import DiffusersTranslator
        from comfyui_exemplar.hosts.diffusers.vct_text import load_concept_text
        from comfyui_exemplar.pipelines.vct import TranslateSettings, learn, translate

        image, _, error = self.run(nodes, embedded, scene)
        settings = TranslateSettings.resolve(
            cfg=4.0,
            resolution=32,
            steps=2,
            updates=2,
            pivot_iterations=1,
            vectors=2,
            word="red",
        )
        with torch.inference_mode(False):
            other = DiffusersTranslator(load_standalone(model_path()), text=load_concept_text(model_path()))
            picture = scene[1].clone()
            theirs = translate(other, picture, learn(other, picture, settings), settings)
        assert difference(theirs.images, image) < 2e-3
        assert abs(theirs.reconstruction_errors[0] - error) < 1e-3

    @pytest.mark.parametrize("calls", [1, 3, 5, 7])
    def test_canceling(self, nodes, embedded, scene, monkeypatch, calls):
        """After an update, a climb, a pivot or a fusion: the next run gives what it gave before."""
        import comfy.model_management as mm

        before = self.run(nodes, embedded, scene)[0]
        asked = []

        def interrupted():
            asked.append(1)
            if len(asked) > calls:
                raise mm.InterruptProcessingException

        with monkeypatch.context() as patched:
            patched.setattr(mm, "throw_exception_if_processing_interrupted", interrupted)
            with pytest.raises(mm.InterruptProcessingException):
                self.run(nodes, embedded, scene)
        assert torch.equal(self.run(nodes, embedded, scene)[0], before)

    @pytest.mark.parametrize("both", [True, False])
    def test_reference_or_concept(self, nodes, embedded, scene, both):
        with pytest.raises(ValueError, match=r"reference: found .*, expected either a reference"):
            self.run(
                nodes, embedded, scene, reference=scene[0] if both else None, concept=embedded[3] if both else None
            )

    def test_nothing_is_learned_before_masks_fit(self, nodes, embedded, scene, monkeypatch):
        from comfyui_exemplar.hosts.comfy.vct import ComfyTranslator

        monkeypatch.setattr(ComfyTranslator, "learn", lambda *_: pytest.fail("it learns first"))
        with pytest.raises(ValueError, match="mask: found 3 for 1 picture"):
            self.run(nodes, embedded, scene, mask=torch.ones(3, 32, 32))

    def test_auto(self, nodes, embedded, scene, caplog):
        """Left alone, what depends on the model is the model's own."""
        from comfyui_exemplar.hosts.comfy.recommended import recommended

        liked = recommended(embedded[0], "vct")
        concept = embedded[3]
        auto = {"cfg": -1.0, "steps": -1, "pivot_iterations": -1, "concept_weight": -1.0, "resolution": -1}
        few = {"reference": None, "concept": concept, "vectors": 1}
        named = {widget: liked[widget] for widget in auto}
        with caplog.at_level("INFO"):
            image, _, error = self.run(nodes, embedded, scene, **few, **auto)
        assert "recommended by the model: " in caplog.text and f"steps {liked['steps']}" in caplog.text
        assert f"cfg {liked['cfg']:g}" in caplog.text
        expected = self.run(nodes, embedded, scene, **few, **named)
        assert torch.equal(image, expected[0]) and error == expected[2]
