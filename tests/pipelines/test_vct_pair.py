"""Controlled pairs: what their settings mean, the way of the source, and what is let go after each prediction."""

from dataclasses import replace

import pytest
import torch

from comfyui_exemplar.attention.bank import FeatureBank
from comfyui_exemplar.attention.control import PromptControl
from comfyui_exemplar.attention.layers import Layer, LayerInfo
from comfyui_exemplar.attention.word_maps import BlendWords
from comfyui_exemplar.diffusion.inversion import Inversion
from comfyui_exemplar.diffusion.pivot import Pivots
from comfyui_exemplar.diffusion.schedule import inversion_plan
from comfyui_exemplar.pipelines.vct_pair import ControlledRun, Fusion, FusionSettings, replay_of

TABLE = torch.linspace(0.03, 14, 1000)
INFOS = [LayerInfo(Layer("output", i), 8, 1, scale) for i, scale in ((4, 2), (7, 1))]


def inverted(steps=4, model="m"):
    plan = inversion_plan(TABLE, steps, steps)
    trajectory = torch.randn(steps + 1, 1, 4, 2, 2, generator=torch.Generator().manual_seed(2))
    return Inversion(plan, trajectory, FeatureBank(), model)


def pinned(inversion, cfg=7.5, **changes):
    way = inversion.trajectory.flip(0) + 1
    pivots = Pivots(inversion.plan.sigmas, torch.zeros(4, 7, 3), way, (), 0.0, cfg, "m")
    return replace(pivots, **changes)


class TestSettings:
    def test_control(self):
        made = FusionSettings.resolve(concept_weight=0.25, self_layers="all but the finest").control(
            (6, 6), 2, 1, INFOS
        )
        assert made.edits[1].equalizer.tolist() == [1, 0.25, 0.25, 1, 1, 1]
        assert (made.cross_window, made.self_window) == (0.2, 0.9) and made.self_layers == {Layer("output", 4)}
        early = FusionSettings(weight_place="official").control((6, 6), 2, 1, INFOS)
        assert early.edits[1].equalizer.tolist() == [0.5, 0.5, 1, 1, 1, 1] and early.most_queries == 1024

    def test_what_a_model_recommends(self):
        liked = {"cfg": 3.0, "concept_weight": 0.75, "updates": 7}
        auto = FusionSettings.resolve(liked, cfg=-1.0, concept_weight=-1.0)
        assert (auto.cfg, auto.concept_weight) == (3.0, 0.75)
        assert auto.explain(liked, cfg=-1.0, concept_weight=2.0) == "recommended by the model: cfg 3"


class TestReplay:
    def test_pivots_come_first(self, caplog):
        inversion = inverted()
        alone = replay_of(inversion, None, "m", 7.5)
        assert torch.equal(alone.latents, inversion.trajectory.flip(0))
        assert torch.equal(replay_of(inversion, pinned(inversion), "m", 7.5).latents, alone.latents + 1)
        assert not caplog.records
        replay_of(inversion, pinned(inversion), "m", 5.0)
        assert "cfg is 5, but the pivots hold the picture at 7.5" in caplog.text

    def test_what_does_not_belong_together(self):
        inversion = inverted()
        with pytest.raises(ValueError, match="inversion made with another model"):
            replay_of(inverted(model="n"), None, "m", 7.5)
        with pytest.raises(ValueError, match="pivots: found some of another model"):
            replay_of(inversion, pinned(inversion, model="n"), "m", 7.5)
        with pytest.raises(ValueError, match="connect the inversion that Pivot Inversion used"):
            replay_of(inverted(5), pinned(inversion), "m", 7.5)


class TestRun:
    FUSION = Fusion(PromptControl((3, 3)), words=BlendWords((1,), (1,)))

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_prediction_leaves_nothing_in_its_edit(self, fails):
        run, edits = ControlledRun(self.FUSION, (4.0, 1.0, 0.0), INFOS), []

        def predict(target, source, sigma, edit):
            edits.append(edit)
            edit.words.add((2, 2), [0], torch.ones(1, 1, 4, 3), torch.ones(1, 1, 4, 3))
            edit.source._features["attn1", Layer("output", 4)] = {}
            if fails:
                raise RuntimeError
            return target, source

        if fails:
            with pytest.raises(RuntimeError):
                run.denoise(torch.zeros(2, 4, 8, 8), 4.0, predict)
        else:
            run.denoise(torch.zeros(2, 4, 8, 8), 4.0, predict)
        (edit,) = edits
        assert not edit.source._features and edit.words.mask((8, 8)) is None
        assert (run.maps.mask((8, 8)) is None) == fails  # the run's sums stay until it ends

    def test_streams(self):
        """With a replay one stream is carried, else two; outside a mask the target is the source."""

        def predict(target, source, sigma, edit):
            return (target + 1,) if edit.control.columns == (3, 3) else (target + 1, source)

        mask = torch.zeros(1, 8, 8)
        mask[..., :4] = 1
        inversion = inverted()
        way = replay_of(inversion, None, "m", 7.5)
        run = ControlledRun(Fusion(PromptControl((3, 3)), replay=way, mask=mask), way.levels)
        sigma = way.levels[0]
        out = run.denoise(torch.zeros(2, 4, 2, 2), sigma, predict)
        assert torch.allclose(out[0, ..., 1], way.denoised(sigma)[0, ..., 1]) and out.shape == (2, 4, 2, 2)
        both = ControlledRun(Fusion(PromptControl((4, 4)), mask=mask), way.levels)
        target, source = both.denoise(torch.zeros(2, 4, 2, 2), sigma, predict)
        assert target[..., 0].unique().tolist() == [1] and target[..., 1].unique().tolist() == [0]
        assert source.unique().tolist() == [0]

    def test_levels(self):
        with pytest.raises(ValueError, match="at least two levels"):
            ControlledRun(self.FUSION, (4.0,))
