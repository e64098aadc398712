"""Exemplar Colorize: sizes, batches, memory, cancel, what is left on auto, and what it says to bad input."""

import pytest
import torch

from comfyui_exemplar import demo
from comfyui_exemplar.color import desaturate, luminance
from comfyui_exemplar.files.headers import read_recommended

from . import models
from .sampling import Calls, difference, invert, run

#: Everything that would be the model's recommendation if it were left alone.
SETTINGS = {
    "guidance": 3.0,
    "passes": 1,
    "depth": 3,
    "steps": 50,
    "resolution": 64,
    "match_chroma": 0.0,
    "match_latents": 0.0,
    "gamma_shallow": 0.5,
    "gamma_deep": 1.0,
    "beta_shallow": 0.0,
    "beta_deep": 0.0,
}


class TestColorize:
    def run(self, nodes, embedded, image, reference, **settings):
        model, _, vae, empty = embedded
        return nodes(
            "ExemplarColorize",
            model=model,
            vae=vae,
            conditioning=empty,
            image=image,
            reference=reference,
            **{**SETTINGS, **settings},
        )

    @pytest.mark.parametrize("size", [(64, 64), (61, 103), (200, 34), (17, 17)])
    def test_own_size_and_own_luminance(self, nodes, embedded, scene, size):
        gray = torch.nn.functional.interpolate(scene[0].movedim(-1, 1), size).movedim(1, -1)
        (image, *_) = self.run(nodes, embedded, gray, scene[1])
        assert tuple(image.shape[1:3]) == size
        assert float((luminance(image) - luminance(gray)).abs().max()) < 0.2
        assert float(image.std(-1).mean()) > 1e-3, "no color came over"

    def test_official_and_consistent_differ(self, nodes, embedded, scene):
        found = [self.run(nodes, embedded, *scene, convention=c)[0] for c in ("consistent", "official")]
        assert difference(*found) > 1e-3

    def test_rows_of_the_default_flow(self, nodes, embedded, scene):
        """Budget at the paper's settings: 33 calls and 60 rows; 48 rows for a further input."""
        paper = {"guidance": 10.0, "passes": 3, "depth": 5, "convention": "official", "beta_shallow": 0.5}
        with Calls(embedded[0]) as first:
            made = self.run(nodes, embedded, *scene, **paper)
        assert len(first.left) <= 33 and sum(first.left) <= 60, (len(first.left), sum(first.left))
        with Calls(embedded[0]) as further:
            again = self.run(nodes, embedded, *scene, **paper, reference_inversion=made[2], gray_inversion=made[3])
        assert sum(further.left) <= 48, sum(further.left)
        assert difference(made[0], again[0]) < 1e-3
        assert sum(first.entered) < sum(first.left), "branches shared nothing"

    def test_batches_equal_one_by_one(self, nodes, embedded, scene):
        inputs = torch.cat([scene[0], scene[0].flip(1), scene[0].flip(2)])
        together = self.run(nodes, embedded, inputs, scene[1])[0]
        rounds = self.run(nodes, embedded, inputs, scene[1], batch=2)[0]
        assert difference(together, rounds) < 1e-3
        for i in range(3):
            alone = self.run(nodes, embedded, inputs[i : i + 1], scene[1])[0]
            assert difference(together[i], alone[0]) < 1e-3

    def test_pairwise(self, nodes, embedded, scene):
        inputs = torch.cat([scene[0], scene[0].flip(2)])
        references = torch.cat([scene[1], scene[1].flip(-1)])
        together = self.run(nodes, embedded, inputs, references)[0]
        rounds = self.run(nodes, embedded, inputs, references, batch=1)[0]
        alone = self.run(nodes, embedded, inputs[1:], references[1:])[0]
        assert difference(together, rounds) < 1e-3 and difference(together[1], alone[0]) < 1e-3

    def test_out_of_memory_halves_the_batch(self, nodes, embedded, scene, monkeypatch, caplog):
        from comfyui_exemplar.pipelines import exemplar_batches

        inputs = torch.cat([scene[0], scene[0].flip(2)])
        expected = self.run(nodes, embedded, inputs, scene[1])[0]
        real = exemplar_batches.colorize

        def scarce(runner, images, *args, **kwargs):
            if len(images) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory (test)")
            return real(runner, images, *args, **kwargs)

        monkeypatch.setattr(exemplar_batches, "colorize", scarce)
        with caplog.at_level("WARNING"):
            found = self.run(nodes, embedded, inputs, scene[1])[0]
        assert difference(found, expected) < 1e-3 and "1 picture(s) at once" in caplog.text

    def test_other_errors_are_not_taken_for_memory(self, nodes, embedded, scene, monkeypatch):
        from comfyui_exemplar.pipelines import exemplar_batches

        def broken(*_, **__):
            raise RuntimeError("something else")

        monkeypatch.setattr(exemplar_batches, "colorize", broken)
        with pytest.raises(RuntimeError, match="something else"):
            self.run(nodes, embedded, torch.cat([scene[0]] * 2), scene[1])

    def test_mask(self, nodes, embedded, scene):
        mask = torch.zeros(1, 64, 64)
        mask[..., :32] = 1
        image = self.run(nodes, embedded, *scene, mask=mask)[0]
        assert float(image[:, :, 40:].std(-1).max()) < 1e-3 < float(image[:, :, :28].std(-1).mean())

    def test_colored_input_is_desaturated_with_a_warning(self, nodes, embedded, scene, caplog):
        colored = scene[0] * torch.tensor([1.0, 0.8, 0.7])
        with caplog.at_level("WARNING"):
            found = self.run(nodes, embedded, colored, scene[1])[0]
        assert "only its luminance is used" in caplog.text
        assert difference(found, self.run(nodes, embedded, desaturate(colored), scene[1])[0]) < 1e-4

    def test_alpha(self, nodes, embedded, scene):
        alpha = torch.ones(1, 64, 64, 1)
        found = self.run(nodes, embedded, torch.cat([scene[0], alpha], -1), torch.cat([scene[1], alpha], -1))[0]
        assert difference(found, self.run(nodes, embedded, *scene)[0]) < 1e-4

    @pytest.mark.parametrize(
        ("image", "reference", "message"),
        [
            (torch.zeros(0, 8, 8, 3), torch.rand(1, 8, 8, 3), "image: found an empty batch"),
            (torch.zeros(1, 1, 1, 3), torch.rand(1, 8, 8, 3), "found 1 x 1 pixels"),
            (torch.full((1, 8, 8, 3), float("nan")), torch.rand(1, 8, 8, 3), "image: found NaN"),
            (torch.rand(1, 8, 8, 3), torch.full((1, 8, 8, 3), float("inf")), "reference: found NaN"),
            (torch.rand(3, 8, 8, 3), torch.rand(2, 8, 8, 3), r"reference: found 2 for 3 picture"),
        ],
    )
    def test_bad_pictures(self, nodes, embedded, image, reference, message):
        with Calls(embedded[0]) as calls, pytest.raises(ValueError, match=message):
            self.run(nodes, embedded, image, reference)
        assert not calls.entered

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            ((3, 2, 1, 1), "reference: found 2 for 3 picture"),
            ((3, 1, 2, 1), r"mask: found 2 for 3 picture"),
            ((3, 3, 1, 2), "reference_mask: found 2 for 3 picture"),
        ],
    )
    def test_batches_are_checked_before_the_first_round(self, nodes, embedded, scene, counts, message):
        """Also when the first round alone would fit."""
        images, references, masks, reference_masks = (torch.ones(n, 64, 64, 3) * 0.5 for n in counts)
        with Calls(embedded[0]) as calls, pytest.raises(ValueError, match=message):
            self.run(
                nodes,
                embedded,
                images,
                references,
                batch=1,
                mask=masks[..., 0],
                reference_mask=reference_masks[..., 0] + 0.2,
            )
        assert not calls.entered

    def test_half_a_pair(self, nodes, embedded, scene, inverted):
        with pytest.raises(ValueError, match="both reference_inversion and gray_inversion"):
            self.run(nodes, embedded, *scene, reference_inversion=inverted["reference"][0])

    def test_pair_of_another_run(self, nodes, embedded, scene, inverted):
        pair = {"reference_inversion": inverted["reference"][0], "gray_inversion": inverted["gray"][0]}
        with pytest.raises(ValueError, match="found one 4 of 50 steps deep"):
            self.run(nodes, embedded, *scene, **pair)

    def test_cancel_at_every_step(self, nodes, embedded, scene):
        """Whenever it happens, the next run is right."""
        import comfy.model_management as mm

        expected = self.run(nodes, embedded, *scene, passes=2)[0]
        with Calls(embedded[0]) as calls:
            self.run(nodes, embedded, *scene, passes=2)
        for stop in range(1, len(calls.left), 3):
            with Calls(embedded[0]) as made:

                def press_cancel(_module, _inputs, stop=stop, made=made):
                    if len(made.left) == stop:
                        mm.interrupt_current_processing()

                button = embedded[0].model.diffusion_model.out[2].register_forward_pre_hook(press_cancel)
                try:
                    with pytest.raises(mm.InterruptProcessingException):
                        self.run(nodes, embedded, *scene, passes=2)
                finally:
                    button.remove()
            assert stop <= len(made.left) <= stop + 1
        assert difference(self.run(nodes, embedded, *scene, passes=2)[0], expected) == 0


class TestAuto:
    """What is left alone is the model's recommendation, else the paper's."""

    AUTO = {name: -1 for name in SETTINGS}

    def colorize(self, nodes, model, embedded, scene, **settings):
        _, _, vae, empty = embedded
        inputs = {"model": model, "vae": vae, "conditioning": empty, "image": scene[0], "reference": scene[1]}
        return nodes("ExemplarColorize", **inputs, **settings)[0]

    def test_the_model_s_recommendation(self, nodes, embedded, scene, caplog):
        recommendation = read_recommended(demo.model_path())["exemplar"]
        assert set(recommendation) == set(SETTINGS)
        with caplog.at_level("INFO"):
            found = self.colorize(nodes, embedded[0], embedded, scene, **self.AUTO)
        assert "Exemplar Colorize: auto: recommended by the model: guidance 1, passes 1, depth 4" in caplog.text
        assert difference(found, self.colorize(nodes, embedded[0], embedded, scene, **recommendation)) == 0

    def test_numbers_of_older_workflows_count(self, nodes, embedded, scene):
        plain = self.colorize(nodes, embedded[0], embedded, scene, **SETTINGS)
        changed = self.colorize(nodes, embedded[0], embedded, scene, **{**SETTINGS, "gamma_deep": -1})
        assert difference(plain, changed) > 1e-3

    def test_the_paper_s_where_a_model_recommends_nothing(self, nodes, caplog):
        model, conditioning = models.tiny("sd1"), models.prompt("sd1")
        z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 5
        with caplog.at_level("INFO"):
            made = invert(nodes, model, conditioning, z, capture=False, depth=-1, steps=-1, measure_round_trip=False)
        assert (made[0].plan.depth, made[0].plan.steps) == (5, 50) and "published: depth 5, steps 50" in caplog.text

    def test_stages(self, nodes, embedded, inverted, injected, caplog):
        auto = {"gamma_shallow": -1.0, "gamma_deep": -1.0, "beta_shallow": -1.0, "beta_deep": -1.0}
        recommendation = {"gamma_shallow": 0.5, "gamma_deep": 0.5, "beta_shallow": 0.0, "beta_deep": 0.0}
        noised, sigmas = inverted["input"][1:3]
        found = [run(injected(**chosen), embedded[3], noised, sigmas) for chosen in (auto, recommendation)]
        assert torch.equal(*found)
        (guider,) = nodes("ExemplarColorGuidance", model=injected(), conditioning=embedded[3], guidance=-1.0)
        assert guider.cfg == 1
        assert nodes("ExemplarColorGuidance", model=injected(), conditioning=embedded[3], guidance=7.0)[0].cfg == 7
