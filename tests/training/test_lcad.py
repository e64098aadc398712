"""What the embedded L-CAD is taught with: pictures that say their colors, words that hear their neighbors."""

import numpy as np
import torch

from comfyui_exemplar.networks.embedded.words import HashedWords


def scenes(drawings):
    from training.scenes import Scenes

    return Scenes(drawings, seed=3)


def test_captions_say_the_colors(drawings):
    from training.recoloring import COLOR_WORDS

    pictures, captions = scenes(drawings).told(24, 64)
    assert pictures.shape == (24, 3, 64, 64)
    phrases = [phrase for caption in captions for phrase in caption.split(", ")]
    named = [phrase for phrase in phrases if phrase.split()[0] in COLOR_WORDS]
    assert 0.5 < len(named) / len(phrases) < 1  # some things stand without
    assert {len(caption.split(", ")) for caption in captions} == {1, 2}
    # a recolored "blue heart" is not blue in its name as well
    assert all(sum(word in COLOR_WORDS for word in phrase.split()) <= 1 for phrase in phrases)
    _, captions = scenes(drawings).told(8, 64, binding=True)
    for caption in captions:
        first, second = caption.split(", ")
        assert first.split()[0] in COLOR_WORDS and second.split()[0] in COLOR_WORDS


def test_each_thing_has_a_color_of_its_own(drawings):
    """Recoloring stays inside the thing."""
    made = scenes(drawings)
    pictures, _ = made.told(6, 64, binding=True)
    grounds = [picture[:, :3, :3].reshape(3, -1) for picture in pictures]
    assert all(float((ground.amax(0) - ground.amin(0)).max()) < 1e-5 for ground in grounds)  # gray


def test_things_hear_the_color_before_and_colors_the_thing_after():
    from training.lcad import hearing
    from training.recoloring import COLOR_WORDS

    torch.manual_seed(0)
    words = HashedWords(512, 32, 8).requires_grad_(False)
    made = hearing(words)
    colors = words.encode(list(COLOR_WORDS))[:, 0]
    assert torch.allclose(colors @ made["left"], colors, atol=1e-4)
    assert float((colors @ made["right"]).abs().max()) < 1e-4
    assert torch.allclose(made["left"] + made["right"], torch.eye(32), atol=1e-6)


def test_going_on_from_an_exported_file(drawings, tmp_path, monkeypatch):
    """Its weights at its step, its gray encoder and decoder; then on to the end of the plan, and a file again."""
    from comfyui_exemplar.demo import lcad_path, model_path
    from comfyui_exemplar.files.tensors import read_tensors
    from training import lcad
    from training.guided import averaged
    from training.lcad_file import export_lcad

    np.savez(tmp_path / "drawings.npz", pictures=drawings.pictures, names=drawings.names, hands=drawings.hands)
    monkeypatch.setattr(lcad, "STAGES", (lcad.Stage(64, 7, 2), lcad.Stage(64, 1, 2, binding=True)))
    started = {}
    update = lcad.Trainer.update

    def watched(trainer, loss):
        started[trainer.step] = trainer.net.unet.conv_in.weight.detach().clone()
        update(trainer, loss)

    monkeypatch.setattr(lcad.Trainer, "update", watched)
    lcad.train(tmp_path, model_path(), seed=1, start=(lcad_path(), 7))
    shipped = read_tensors(lcad_path())
    assert list(started) == [7] and torch.equal(started[7], shipped["unet.conv_in.weight"].float())
    kept = averaged(tmp_path).encoder.state_dict()
    assert all(torch.equal(value, shipped[f"gray.{name}"].float()) for name, value in kept.items())
    export_lcad(tmp_path, tmp_path / "again.safetensors")
    assert read_tensors(tmp_path / "again.safetensors").keys() == shipped.keys()
