"""Samplers, levels and weights under color injection: what they do to the colors, and what is said of them."""

import logging

import comfy.samplers
import pytest
import torch

from comfyui_exemplar import demo
from comfyui_exemplar.color.metrics import ab_error
from comfyui_exemplar.diffusion.sampler_checks import AS_GOOD
from comfyui_exemplar.files.pictures import load_picture
from comfyui_exemplar.hosts.comfy.sampling import StepLimitedGuider

from .sampling import difference, invert, run_guider

PLACE = {"depth": 4, "steps": 20, "measure_round_trip": False}


class Drawing:
    """The example's drawing by stages, up to the sampler."""

    def __init__(self, nodes, embedded):
        self.nodes = nodes
        self.model, _, self.vae, self.prompt = embedded
        folder = demo.model_path().parent / "pictures"
        self.truth, reference, gray = (
            torch.nn.functional.interpolate(
                load_picture(folder / f"drawing-{name}.png").movedim(-1, 1), size=(128, 128), mode="area"
            ).movedim(1, -1)
            for name in ("truth", "reference", "gray")
        )
        (colorless,) = nodes("ExemplarDesaturate", image=reference)
        made = [
            invert(nodes, self.model, self.prompt, self.vae.encode(picture), **PLACE)
            for picture in (gray, reference, colorless)
        ]
        self.noised, self.sigmas = made[0][1], made[0][2]
        (self.injected,) = nodes(
            "ExemplarDualAttentionColor",
            model=self.model,
            input_inversion=made[0][0],
            reference_inversion=made[1][0],
            gray_inversion=made[2][0],
            strength=1.0,
        )
        (self.closer,) = invert(
            nodes, self.model, self.prompt, self.vae.encode(gray), capture=False, closer_sigmas=0.75, **PLACE
        )[2:3]
        self._kept = {}

    def guider(self, weight, **settings):
        (guider,) = self.nodes(
            "ExemplarColorGuidance", model=self.injected, conditioning=self.prompt, guidance=weight, **settings
        )
        return guider

    def sample(self, sampler, weight, sigmas=None, **settings):
        sigmas = self.sigmas if sigmas is None else sigmas
        return run_guider(self.guider(weight, **settings), self.noised, sigmas.clone(), sampler)

    def error(self, sampler, weight, sigmas=None, **settings):
        key = (sampler, weight, sigmas is None, *settings)
        if key not in self._kept:
            latents = self.sample(sampler, weight, sigmas, **settings)
            self._kept[key] = float(ab_error(self.vae.decode(latents).clamp(0, 1), self.truth))
        return self._kept[key]


@pytest.fixture(scope="module")
def drawing(nodes, embedded):
    with torch.inference_mode():
        return Drawing(nodes, embedded)


class TestColors:
    @pytest.mark.parametrize("sampler", ["heunpp2", "exp_heun_2_x0"])
    @pytest.mark.parametrize("weight", [3.0, 10.0])
    def test_nothing_is_said_of_samplers_that_do_as_well_as_euler(self, drawing, caplog, sampler, weight):
        assert drawing.error(sampler, weight) < AS_GOOD * drawing.error("euler", weight)
        assert not warned(caplog)

    @pytest.mark.parametrize("sampler", ["dpmpp_2m", "uni_pc"])
    @pytest.mark.parametrize("weight", [3.0, 10.0])
    def test_closer_levels_mend_samplers_that_extrapolate(self, drawing, caplog, sampler, weight):
        assert drawing.error(sampler, weight) > 2 * drawing.error("euler", weight)
        (text,) = warned(caplog)
        assert f"sampler {sampler} " in text and "closer_sigmas" in text
        caplog.clear()
        assert drawing.error(sampler, weight, drawing.closer) < AS_GOOD * drawing.error("euler", weight)
        assert not warned(caplog)

    def test_a_step_limit_takes_a_high_weight_to_the_colors_of_a_low_one(self, drawing):
        high, limited = drawing.error("euler", 10.0), drawing.error("euler", 10.0, step_limit=True)
        assert limited < 0.8 * high and limited < AS_GOOD * drawing.error("euler", 3.0)

    def test_without_a_limit_the_guider_is_the_stock_one(self, drawing):
        assert type(drawing.guider(10.0)) is comfy.samplers.CFGGuider
        assert isinstance(drawing.guider(10.0, step_limit=True), StepLimitedGuider)
        free, limited = (drawing.sample("euler", 1.0, step_limit=limit) for limit in (False, True))
        assert difference(free, limited) == 0


class TestGuiders:
    def test_a_weight_that_nobody_knows_is_taken_for_a_high_one(self, drawing, caplog):
        """At 1 nothing is said of heun; a guider with two weights has no such number, whatever stands in ``cfg``."""

        class TwoWeights(comfy.samplers.CFGGuider):
            def set_cfg(self, first, second):
                self.first, self.second = first, second

        for kind, weights, said in ((comfy.samplers.CFGGuider, (1.0,), 0), (TwoWeights, (1.0, 1.0), 1)):
            caplog.clear()
            guider = kind(drawing.injected)
            guider.set_conds(drawing.prompt, drawing.prompt)
            guider.set_cfg(*weights)
            run_guider(guider, drawing.noised, drawing.sigmas, "heun")
            assert len(warned(caplog)) == said


class TestLevels:
    def test_closer_levels_hold_the_inversions(self, drawing):
        made, own = drawing.closer.tolist(), drawing.sigmas.tolist()
        assert set(own) <= set(made) and len(made) > len(own)

    @pytest.mark.parametrize("scheduler", ["karras", "exponential", "simple"])
    def test_noise_that_stays_in_is_said_once_with_both_numbers(self, drawing, embedded, caplog, scheduler):
        table = embedded[0].get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(table, scheduler, 20)[-5:]
        drawing.sample("euler", 3.0, sigmas)
        (text,) = [text for text in warned(caplog) if "begins at sigma" in text]
        assert f"{float(sigmas[0]):.3f}" in text and f"{float(drawing.sigmas[0]):.3f}" in text

    def test_a_run_in_two_halves_is_right_but_for_where_the_first_one_ends(self, drawing, caplog):
        """As with Split Sigmas."""
        half = drawing.sample("euler", 3.0, drawing.sigmas[:3])
        (text,) = warned(caplog)
        assert "stops at sigma" in text
        caplog.clear()
        whole = run_guider(drawing.guider(3.0), {"samples": half}, drawing.sigmas[2:])
        assert not warned(caplog)
        # the first half's result goes through the scale of a LATENT, the second's steps are the same
        assert difference(whole, drawing.sample("euler", 3.0)) < 1e-3


def warned(caplog):
    ours = [r for r in caplog.records if r.name.startswith("comfyui_exemplar") and r.levelno >= logging.WARNING]
    return [record.getMessage() for record in ours]
