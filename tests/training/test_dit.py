"""The small transformer: it learns, matches are what it is told, and a run goes on where it stopped."""

from pathlib import Path

import pytest
import torch

EMBEDDED = Path(__file__).parents[2] / "demo" / "model.safetensors"


@pytest.fixture
def trainer(tmp_path):
    from training.dit_train import Trainer

    return Trainer(tmp_path, EMBEDDED, seed=0)


def test_it_begins_at_no_velocity_and_knows_places():
    from training.dit import DiT, Seen, places, turned

    torch.manual_seed(0)
    net, seen = DiT(), Seen()
    out = net(torch.randn(2, 4, 8, 12), torch.tensor([0.1, 0.9]), torch.randn(2, 3, 128), seen)
    assert out.shape == (2, 4, 8, 12) and not bool(out.any())
    assert set(seen.queries) == {3, 4, 5} and seen.keys[3].shape == (2, 6, 4 * 6, 32)
    tokens = torch.randn(1, 6, 24, 32)
    apart = turned(tokens, places(0, 4, 6, tokens.device))
    torch.testing.assert_close(apart.norm(dim=-1), tokens.norm(dim=-1))
    # what two tokens say to each other depends on how far they are apart only
    same = turned(tokens[:, :, :1].expand(-1, -1, 24, -1), places(0, 4, 6, tokens.device))
    logits = same @ same.transpose(-1, -2)
    torch.testing.assert_close(logits[..., 0, 7], logits[..., 9, 16])


def test_a_step_teaches(drawings, trainer):
    from training.dit_train import losses_of
    from training.scenes import Scenes

    scenes = Scenes(drawings, seed=0)
    pairs, singles = scenes.pairs(2, 64), scenes.singles(2, 64)

    def losses():
        return losses_of(trainer, pairs, singles, torch.Generator().manual_seed(1))

    before = losses()
    assert set(before.parts) == {"flow", "single", "warp", "match"}
    for _ in range(12):
        trainer.update(losses().total)
    after = losses()
    assert after.parts["flow"] < before.parts["flow"] and after.parts["match"] < before.parts["match"]


def test_a_run_goes_on(drawings, trainer, tmp_path):
    from training.dit_train import Trainer, averaged, losses_of
    from training.scenes import Scenes

    scenes = Scenes(drawings, seed=0)
    trainer.update(losses_of(trainer, scenes.pairs(1, 64), scenes.singles(1, 64), torch.Generator()).total)
    trainer.save()
    again = Trainer(tmp_path, EMBEDDED, seed=5)
    again.resume()
    assert again.step == 1
    assert all(torch.equal(one, again.net.state_dict()[name]) for name, one in trainer.net.state_dict().items())
    mean = averaged(tmp_path, EMBEDDED).net.state_dict()
    assert all(torch.equal(value, mean[name]) for name, value in trainer.average.items())


def test_what_looks_at_pictures(trainer):
    from training.dit_evaluate import DiTFeatures, Look

    pictures = torch.rand(2, 32, 48, 3)
    plain = DiTFeatures(trainer, Look()).features(pictures)
    assert plain.grids == ((4, 6),) * 3 and [space.turned for space in plain.spaces] == [False] * 3
    turned = DiTFeatures(trainer, Look(positions=True)).features(pictures)
    assert not torch.equal(plain.keys[0], turned.keys[0])
    alike = DiTFeatures(trainer, Look(alike=True)).features(pictures).keys[0].unflatten(-1, (6, -1))
    torch.testing.assert_close(alike.norm(dim=-1), torch.full(alike.shape[:-1], 32**0.5), rtol=1e-3, atol=1e-3)
