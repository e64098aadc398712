"""What the network is taught: a perfect one has no loss, and matches are where they should be."""

import pytest
import torch


@pytest.fixture(scope="module")
def autoencoder(drawings):
    from training.autoencoder import fit
    from training.scenes import Scenes

    pairs = Scenes(drawings, seed=0).pairs(32, 64)
    return fit(torch.cat([pairs.a.pictures, pairs.b.pictures]) * 2 - 1)


def test_autoencoder(drawings, autoencoder):
    from training.objectives import gray
    from training.scenes import Scenes

    pictures = Scenes(drawings, seed=1).pairs(16, 64).a.pictures * 2 - 1
    latents = autoencoder.encode(pictures)
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 0.35
    assert -10 * ((autoencoder.decode(latents) - pictures) / 2).square().mean().log10() > 24
    colorless = gray(pictures)
    assert autoencoder.encode(colorless)[:, 1:3].abs().max() < 1e-4
    again = autoencoder.decode(autoencoder.encode(colorless))
    assert (again.amax(1) - again.amin(1)).max() < 0.03


class Perfect:
    """Knows every clean latent, and so the v of every row."""

    def __init__(self, clean, levels):
        from training.model import Lesson

        self.clean, self.levels, self.lesson = clean, levels, Lesson()

    def __call__(self, noised, timesteps, captions):
        assert len(captions) == len(noised) == len(timesteps)
        a = self.levels[timesteps][:, None, None, None]
        return (a.sqrt() * noised - self.clean) / (1 - a).sqrt()


def test_a_perfect_network_has_no_loss(drawings, autoencoder):
    from training.model import signal_levels
    from training.objectives import gray, training_loss
    from training.scenes import Scenes

    made = Scenes(drawings, seed=2)
    pairs, singles = made.pairs(3, 48), made.singles(2, 48)
    a, b, drawn = (autoencoder.encode(p * 2 - 1) for p in (pairs.a.pictures, pairs.b.pictures, singles[0]))
    gray_a, gray_b = (autoencoder.encode(gray(p) * 2 - 1) for p in (pairs.a.pictures, pairs.b.pictures))
    levels = signal_levels()
    generator = torch.Generator().manual_seed(0)
    # I, G and R are pictures without their noise; X is A in color, however little of it was put in
    clean = torch.cat([gray_a, gray_b, b, a, drawn])
    losses = training_loss(Perfect(clean, levels), autoencoder, levels, pairs, singles, generator)
    assert float(losses.total) < 1e-4, losses.parts
    swapped = torch.cat([gray_a, gray_b, b, gray_a, drawn])
    worse = training_loss(Perfect(swapped, levels), autoencoder, levels, pairs, singles, generator)
    assert worse.parts["colored"] > 0.01 and worse.parts["single"] < 1e-4


def view(things, places):
    from training.scenes import View

    return View(torch.zeros(1, 3, *things.shape[-2:]), things, places)


def test_words_alone(drawings, autoencoder):
    """The words' part of a step with pairs, by itself: none for a perfect network, some for one that mixes pictures
    up."""
    from training.model import signal_levels
    from training.objectives import words_loss
    from training.scenes import Scenes

    singles = Scenes(drawings, seed=2).singles(4, 48)
    clean, levels = autoencoder.encode(singles[0] * 2 - 1), signal_levels()

    def loss(given):
        return float(words_loss(given, autoencoder, levels, singles, torch.Generator().manual_seed(0)).total)

    assert loss(Perfect(clean, levels)) < 1e-4
    assert loss(Perfect(clean.flip(0), levels)) > 0.05


def test_latent_errors(drawings, autoencoder):
    """None for a perfect network; the pictures' own variance for one that says nothing."""
    from training.model import signal_levels
    from training.scenes import Scenes
    from training.words import TIMESTEPS, latent_errors

    asked, captions = Scenes(drawings, seed=2).singles(4, 48)
    clean, levels = autoencoder.encode(asked * 2 - 1), signal_levels()
    found = latent_errors(Perfect(clean, levels), autoencoder, asked, captions)
    assert len(found) == len(TIMESTEPS) and max(found.values()) < 1e-4
    mixed = latent_errors(Perfect(clean.flip(0), levels), autoencoder, asked, captions)
    assert mixed["error at 950"] == pytest.approx(float((clean - clean.flip(0)).square().mean()), rel=1e-3)


def test_the_learning_rate_starts_anew_where_a_stage_says_so():
    from training.unet import LAST_SHARE, LEARNING_RATE, Stage, Trainer

    trainer = Trainer.__new__(Trainer)
    trainer.stages = (Stage(64, 1000, 1, 1), Stage(64, 1000, 1, 1), Stage(64, 2000, 0, 1, rate=1e-4))

    def rate(step):
        trainer.step = step
        return trainer.learning_rate()

    assert rate(0) < rate(50) < rate(99)
    assert rate(1000) == pytest.approx(LEARNING_RATE * (LAST_SHARE + (1 - LAST_SHARE) / 2))
    assert rate(1999) == pytest.approx(LEARNING_RATE * LAST_SHARE, rel=0.01)
    assert rate(2000) < 2e-6 and rate(3000) == pytest.approx(1e-4 * (LAST_SHARE + (1 - LAST_SHARE) / 2))
    assert max(map(rate, range(2000, 4000))) <= 1e-4 and rate(3999) == pytest.approx(1e-4 * LAST_SHARE, rel=0.01)


def test_matching_targets():
    from training.objectives import matching_targets
    from training.scenes import Pairs

    side = 16
    axis = torch.linspace(-1, 1, side)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="xy"))[None]
    things = torch.zeros(1, side, side, dtype=torch.long)
    things[:, :, :4] = -1
    exact = torch.ones(1, 3, dtype=torch.bool)
    where, importance = matching_targets(Pairs(view(things, places), view(things, places), exact, [""]), side)
    ground = (things == -1).flatten()
    assert torch.equal(where[0].argmax(1)[~ground], torch.arange(side * side)[~ground])
    assert (where[0][ground][:, ground] == 1).all() and (where[0][ground][:, ~ground] == 0).all()
    assert importance[0][ground].unique().tolist() == [0.25] and importance[0][~ground].unique().tolist() == [1.0]
    # by another hand, all of the thing will do
    where, _ = matching_targets(Pairs(view(things, places), view(things, places), ~exact, [""]), side)
    assert (where[0][~ground][:, ~ground] == 1).all()
    # what B does not show is not asked for
    elsewhere = view(things, places + 5)
    _, importance = matching_targets(Pairs(view(things, places), elsewhere, exact, [""]), side)
    assert (importance[0][~ground] == 0).all()


@pytest.fixture
def prepared(drawings, autoencoder, tmp_path, monkeypatch):
    """A folder as `prepare` and `autoencoder` leave it."""
    import numpy as np
    from safetensors.torch import save_file

    from training import unet

    np.savez(tmp_path / "drawings.npz", pictures=drawings.pictures, names=drawings.names, hands=drawings.hands)
    np.save(tmp_path / "photographs-train.npy", np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8))
    save_file(autoencoder.state_dict(), tmp_path / "autoencoder.safetensors")
    monkeypatch.setattr(unet, "words_sheet", lambda *_: None)
    return tmp_path


def test_pairs_and_words_take_turns(prepared, monkeypatch):
    """Each with moments of its own, and words leave alone where attention looks, which pairs have taught it."""
    from training import unet

    seen, update = [], unet.Trainer.update

    def watched(trainer, losses):
        before = trainer.looking[0].clone()
        update(trainer, losses)
        seen.append(("single" in losses.parts, "warp" in losses.parts, not torch.equal(before, trainer.looking[0])))

    monkeypatch.setattr(unet.Trainer, "update", watched)
    monkeypatch.setitem(unet.STAGES, "cpu", (unet.Stage(32, 4, 1, 2, turns=True),))
    unet.train(prepared, plan="cpu", device="cpu", seed=1)
    assert seen == [(False, True, True), (True, False, False)] * 2
    state = torch.load(prepared / "unet.pt", weights_only=True)
    moments = [state[name]["state"] for name in ("optimizer", "words_optimizer")]
    assert all(float(m[0]["step"]) == 2 for m in moments)
    assert not torch.equal(moments[0][0]["exp_avg"], moments[1][0]["exp_avg"])


def test_training_resumes_and_exports(prepared, monkeypatch):
    from comfyui_exemplar.files import headers
    from comfyui_exemplar.hosts.diffusers.checkpoint import load_standalone
    from training import unet
    from training.export import export
    from training.model import SCHEDULE

    for steps in (1, 3):
        monkeypatch.setitem(unet.STAGES, "cpu", (unet.Stage(32, steps, 2, 2),))
        unet.train(prepared, plan="cpu", device="cpu", seed=1)
        state = torch.load(prepared / "unet.pt", weights_only=True)
        assert state["step"] == steps
    export(prepared, prepared / "model.safetensors")
    model = load_standalone(prepared / "model.safetensors")
    weights = model.unet.state_dict()
    assert all(
        torch.equal(weights[k.removeprefix("unet.")], v.half().float())
        for k, v in state["average"].items()
        if k.startswith("unet.")
    )
    assert model.prediction == SCHEDULE["prediction"]
    assert headers.read_config(prepared / "model.safetensors")["image_size"] == 128


def test_baselines_and_report(tmp_path):
    from training.baselines import match_luminance, tint
    from training.measure import Outcome
    from training.report import summary, table

    ramp = torch.linspace(0.2, 0.8, 32)[None, None, :, None].expand(1, 32, 32, 1)
    colored = torch.cat([ramp, ramp * 0.7, 1 - ramp], -1)
    gray = (colored @ torch.tensor([0.299, 0.587, 0.114]))[..., None].expand(-1, -1, -1, 3)
    assert (match_luminance(gray, colored) - colored).abs().mean() < 0.05
    tinted = tint(gray, colored)
    assert tinted.shape == colored.shape and (tinted - colored).abs().mean() > 0.05
    count = torch.tensor([1, 1, 2, 2])
    full = Outcome(torch.tensor([1.0, 2, 3, 4]), torch.ones(4), torch.ones(4) * 30)
    other = Outcome(torch.tensor([2.0, 1, 6, 8]), torch.ones(4), torch.ones(4) * 20)
    numbers = summary({"full": full, "other": other}, count, ("other",)) | {"matching": {"x": 0.5}, "split": "dev"}
    row = numbers["methods"]["full"]
    assert row["inside_two"] == 3.5 and row["better_all_0"] == 0.75 and row["lower_two_0"] == 0.5
    assert "| full | 2.5 | 1.5 | 3.5 | 30.00 | 75% of pairs, error 41% lower |" in table(numbers)
