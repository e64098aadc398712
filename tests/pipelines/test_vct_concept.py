"""Concept inversion as it is run: pictures made ready, saving, taking up again."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save, save_file

from comfyui_exemplar.diffusion.concept import ConceptProgress, ConceptState
from comfyui_exemplar.files.embeddings import HEADER, ConceptFile, check_name, read_concept, save_concept
from comfyui_exemplar.files.owned import OwnPlace
from comfyui_exemplar.pipelines.vct_concept import (
    MAKER,
    SAVE_EVERY,
    ConceptInversionSettings,
    ConceptRun,
    earlier_concept,
    provenance,
    training_pictures,
)

PICTURES = torch.rand(1, 20, 28, 3, generator=torch.Generator().manual_seed(1))
SETTINGS = ConceptInversionSettings.resolve(resolution=16, updates=5, sample_every=2)


class TestPictures:
    def test_cut_scaled_and_mirrored(self):
        made = training_pictures(PICTURES, SETTINGS, 8)
        assert made.shape == (2, 16, 16, 3) and torch.equal(made[0], made[1].flip(1))
        squashed = training_pictures(PICTURES, replace(SETTINGS, fit="squash", mirror=False), 8)
        assert squashed.shape == (1, 16, 16, 3) and not torch.equal(squashed[0], made[0])
        assert training_pictures(PICTURES, replace(SETTINGS, resolution=15), 8).shape[1:3] == (8, 8)
        own = training_pictures(PICTURES, replace(SETTINGS, resolution=0, mirror=False), 8)
        assert torch.equal(own, PICTURES[:, :16, :24])

    def test_equal_ones_count_once(self):
        assert len(training_pictures(PICTURES.repeat(3, 1, 1, 1), SETTINGS, 8)) == 2
        assert len(training_pictures(torch.ones(2, 16, 16, 3), SETTINGS, 8)) == 1


class Learner:
    """Adds 1 to every number of the vectors, with a loss of its update."""

    def __init__(self, stop_at=None):
        self.stop_at, self.drawn = stop_at, []

    def learn(self, updates):
        def learn(state, on_update):
            for update in range(state.updates, updates):
                vectors = tuple(v + 1 for v in state.vectors)
                state = replace(state, vectors=vectors, updates=update + 1)
                on_update(ConceptProgress(float(update + 1), 0.0, 0.0, (), state, torch.zeros(1, 4, 2, 2)))
            return state

        return learn

    def draw(self, state):
        self.drawn.append(state.updates)
        return torch.full((1, 8, 8, 3), 0.5)

    def note(self, run):
        if self.stop_at is not None and run.updates >= self.stop_at:
            raise KeyboardInterrupt

    def run(self, path, settings=SETTINGS):
        origin = provenance(settings, PICTURES, "model")
        place = OwnPlace(path, HEADER, MAKER)
        start = earlier_concept(place, settings, origin)
        start = start or ConceptFile(("l",), ConceptState.fresh([torch.zeros(2, 3)]), origin)
        run = ConceptRun(place, start, settings)
        run.learn(self.learn(settings.concept.updates), self.draw, self.note)
        return run


class TestRun:
    def test_whole(self, tmp_path):
        learner = Learner()
        run = learner.run(tmp_path / "thing.safetensors")
        kept = read_concept(run.place.path)
        assert kept.state.updates == run.updates == 5 and kept.losses == [1, 2, 3, 4, 5]
        assert torch.equal(kept.state.vectors[0], torch.full((2, 3), 5.0))
        assert learner.drawn == [2, 4, 5] and len(run.samples) == 3
        assert run.chart().size == (1000, 360) and run.losses_chart().size == (640, 360)

    @pytest.mark.parametrize("stop_at, kept", [(0, None), (3, 3), (5, 5)])
    def test_stopped_and_taken_up_again(self, tmp_path, stop_at, kept):
        path = tmp_path / "thing.safetensors"
        with pytest.raises(KeyboardInterrupt):
            Learner(stop_at).run(path)
        assert (read_concept(path).state.updates if path.exists() else None) == kept
        again = Learner().run(path)
        assert again.updates == 5 and read_concept(path).losses == [1, 2, 3, 4, 5]

    def test_a_finished_file_is_not_written_again(self, tmp_path):
        path = tmp_path / "thing.safetensors"
        Learner().run(path)
        before = path.stat().st_mtime_ns
        assert Learner().run(path).updates == 5 and path.stat().st_mtime_ns == before

    def test_saved_on_the_way(self, tmp_path):
        path = tmp_path / "thing.safetensors"
        settings = ConceptInversionSettings.resolve(updates=SAVE_EVERY + 1)
        found = []

        class Watched(Learner):
            def note(self, run):
                found.append(path.exists())

        Watched().run(path, settings)
        assert found == [False] * SAVE_EVERY + [True] * 2


class TestEarlier:
    @pytest.mark.parametrize(
        "changes, named", [({"word": "tree"}, "word"), ({"learning_rate": 0.1, "seed": 3}, "learning_rate, seed")]
    )
    def test_another_concept_is_not_overwritten(self, tmp_path, changes, named):
        path = tmp_path / "thing.safetensors"
        Learner().run(path)
        other = ConceptInversionSettings.resolve(resolution=16, updates=5, **changes)
        origin = provenance(other, PICTURES, "model")
        with pytest.raises(ValueError, match=rf"holds something else \({named}\)"):
            earlier_concept(OwnPlace(path, HEADER, MAKER), other, origin)
        assert (
            earlier_concept(OwnPlace(path, HEADER, MAKER), replace(other, when_the_file_exists="start over"), origin)
            is None
        )

    def test_what_does_not_matter(self, tmp_path):
        """More updates go on from there, however the rows of a call and the samples are."""
        path = tmp_path / "thing.safetensors"
        Learner().run(path)
        more = ConceptInversionSettings.resolve(resolution=16, updates=9, rows=1, sample_every=0)
        assert (
            earlier_concept(OwnPlace(path, HEADER, MAKER), more, provenance(more, PICTURES, "model")).state.updates == 5
        )

    def test_other_pictures_and_programs(self, tmp_path):
        path = tmp_path / "thing.safetensors"
        with pytest.raises(ValueError, match=r"\(pictures\)"):
            Learner().run(path)
            earlier_concept(OwnPlace(path, HEADER, MAKER), SETTINGS, provenance(SETTINGS, PICTURES.flip(1), "model"))
        save_concept(path, ConceptFile(("l",), ConceptState.fresh([torch.zeros(1, 3)]), {}))
        with pytest.raises(ValueError, match=r"\(model, word, vectors"):
            earlier_concept(OwnPlace(path, HEADER, MAKER), SETTINGS, provenance(SETTINGS, PICTURES, "model"))


class TestForeign:
    """A file that Concept Inversion did not make is never replaced."""

    @pytest.mark.parametrize("mode", ["continue", "start over"])
    def test_before_learning(self, tmp_path, mode):
        path, settings = tmp_path / "thing.safetensors", replace(SETTINGS, when_the_file_exists=mode)
        save_file({"emb_params": torch.zeros(2, 3)}, path)
        before, learner = path.read_bytes(), Learner()
        with pytest.raises(ValueError, match=r"its header does not say that Concept Inversion made it"):
            learner.run(path, settings)
        assert path.read_bytes() == before and not learner.drawn

    @pytest.mark.parametrize("mode", ["continue", "start over"])
    @pytest.mark.parametrize("update", [0, 1, SAVE_EVERY - 1, SAVE_EVERY, SAVE_EVERY + 1])
    def test_during_learning(self, tmp_path, mode, update):
        path = tmp_path / "thing.safetensors"
        foreign = save({"emb_params": torch.zeros(2, 3)})

        class Disturbed(Learner):
            def note(self, run):
                if run.updates == update:
                    path.write_bytes(foreign)

        settings = ConceptInversionSettings.resolve(
            updates=SAVE_EVERY + 2, resolution=16, sample_every=0, when_the_file_exists=mode
        )
        with pytest.raises(
            ValueError, match=r"thing\.safetensors was written by somebody else .* in thing-2\.safetens"
        ):
            Disturbed().run(path, settings)
        assert path.read_bytes() == foreign
        kept = read_concept(tmp_path / "thing-2.safetensors")
        assert kept.state.updates == (SAVE_EVERY if update < SAVE_EVERY else SAVE_EVERY + 2)
        # and it is taken up again under that name
        assert Learner().run(tmp_path / "thing-2.safetensors", replace(settings, when_the_file_exists="continue"))

    def test_two_learners_of_one_name(self, tmp_path):
        path = tmp_path / "thing.safetensors"

        class Nested(Learner):
            def note(self, run):
                if run.updates == 2:
                    Learner().run(path)

        with pytest.raises(ValueError, match=r"thing-2\.safetensors"):
            Nested().run(path, replace(SETTINGS, seed=3))
        assert read_concept(path).settings["seed"] == 0
        assert read_concept(tmp_path / "thing-2.safetensors").settings["seed"] == 3


def test_a_name_that_no_file_can_have_is_refused():
    check_name("ä" * 100)
    with pytest.raises(ValueError, match="cannot be the name of an embedding"):
        check_name("ä" * 101)
