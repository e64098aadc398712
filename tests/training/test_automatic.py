"""The embedded DDColor's recipe: what it is shown, what it is taught, and that its file says what was trained."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from comfyui_exemplar.color import luminance, rgb_to_lab
from comfyui_exemplar.files.headers import read_metadata, read_recommended
from comfyui_exemplar.networks.ddcolor.load import build, load_ddcolor
from comfyui_exemplar.networks.ddcolor.weights import check_weights, read_sizes


@pytest.fixture
def network():
    """Every tensor that training may change is a random one, the norms' statistics among them."""
    from training.automatic import new_network

    torch.manual_seed(0)
    made = new_network()
    with torch.no_grad():
        for name, tensor in made.state_dict().items():
            if tensor.ndim == 1:
                tensor += 0.3 * (torch.rand_like(tensor) if "running_var" in name else torch.randn_like(tensor))
    return made.eval()


class TestPictures:
    def test_things_have_their_own_colors(self, drawings, monkeypatch):
        """No hue but the drawings', however placed and relit; grounds have none."""
        from training.scenes import Scenes

        monkeypatch.setattr(Scenes, "_tone", lambda self, pictures: pictures)
        pictures = Scenes(drawings, seed=4).colored(24, 64)
        assert pictures.shape == (24, 3, 64, 64)
        assert float(pictures.min()) >= 0 and float(pictures.max()) <= 1
        ab = rgb_to_lab(pictures.movedim(1, -1))[..., 1:].flatten(0, 2)
        strong = ab[ab.norm(dim=1) > 25]
        own = torch.from_numpy(drawings.pictures[:, ::8, ::8]).float() / 255
        known = rgb_to_lab(own[..., :3])[..., 1:][own[..., 3] == 1].unique(dim=0)
        assert len(strong) > 1000
        # seams between a thing's two colors are mixtures
        assert float((torch.cdist(strong, known).amin(1) < 4).float().mean()) > 0.9
        corners = rgb_to_lab(pictures[:, :, :2, :2].movedim(1, -1))
        assert float((corners[..., 1:].norm(dim=-1).amax((1, 2)) < 0.1).float().mean()) > 0.7
        assert float(corners[..., 0].std()) > 3  # some grounds are gray

    def test_photographs_come_in_their_own_colors(self, drawings):
        from training.scenes import Scenes

        orange = torch.tensor([220, 120, 30], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 64, 64)
        scenes = Scenes(drawings, orange, seed=5)
        pictures = rgb_to_lab(scenes.colored(60, 32).movedim(1, -1))[..., 1:]
        full = pictures[(pictures.norm(dim=-1) > 10).flatten(1).all(1)]  # no ground: a photograph
        assert 2 <= len(full) <= 18
        assert bool((full > 0).all())  # orange in any light, never another hue


class TestLoss:
    def test_a_perfect_network_has_none(self, drawings):
        from training.automatic import MEAN, STD, UNIT, color_loss
        from training.scenes import Scenes

        pictures = Scenes(drawings, seed=6).colored(3, 32)
        lab = rgb_to_lab(pictures.movedim(1, -1))

        def perfect(normalized):
            gray = normalized * STD + MEAN
            assert (luminance(gray.movedim(1, -1)) - lab[..., 0]).abs().max() < 0.1
            assert torch.equal(gray[:, 0], gray[:, 2])
            return lab[..., 1:].movedim(-1, 1) / UNIT

        loss, error = color_loss(perfect, pictures)
        assert float(loss) < 1e-6 and float(error) < 1e-4
        loss, error = color_loss(lambda gray: torch.zeros_like(gray[:, :2]), pictures)
        torch.testing.assert_close(error, lab[..., 1:].norm(dim=-1).mean())
        assert float(loss) > 0.05

    def test_colored_pixels_count_more(self):
        from training.automatic import color_loss

        red, gray = torch.tensor([0.8, 0.2, 0.2]), torch.tensor([0.4, 0.4, 0.4])
        pictures = torch.stack([red, gray])[:, :, None, None].expand(-1, -1, 32, 32).contiguous()
        truth = rgb_to_lab(pictures.movedim(1, -1))[..., 1:].movedim(-1, 1)

        def off_by(shift):
            return float(color_loss(lambda _: (truth + shift[:, None, None, None]) / 40, pictures)[0])

        assert off_by(torch.tensor([8.0, 0.0])) > 2 * off_by(torch.tensor([0.0, 8.0])) > 0


class TestFile:
    def test_the_published_form_gives_the_same_colors(self, network):
        from training.automatic import MEAN, SIZES, STD, UNIT
        from training.automatic_file import unfold

        published = unfold(network.state_dict())
        assert read_sizes(published) == SIZES
        check_weights(published, SIZES)
        gray = torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(1)).expand(-1, 3, -1, -1)
        with torch.no_grad():
            expected, found = UNIT * network((gray - MEAN) / STD), build(published)[0](gray)
        assert float(expected.std()) > 1
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)

    def test_it_sees_brightness_at_every_depth(self):
        """A norm after the stem could divide it away, and did: nothing was learned then."""
        from training.automatic import MEAN, STD, new_network

        torch.manual_seed(0)
        levels = (torch.linspace(0, 1, 5)[:, None, None, None].expand(-1, 3, 64, 64) - MEAN) / STD
        with torch.no_grad():
            maps = new_network().encoder(levels)
        assert all(float(m.std(0).mean()) > 0.1 for m in maps)

    def test_trains_resumes_and_exports(self, drawings, tmp_path, monkeypatch):
        from training import automatic
        from training.automatic_file import KEY, evaluate_automatic, export_automatic

        # a name that the md5 holds out, so that there is something to measure
        names = [name.replace("flamingo", "thing-1") for name in drawings.names]
        np.savez(tmp_path / "drawings.npz", pictures=drawings.pictures, names=names, hands=drawings.hands)
        random = np.random.default_rng(0)
        for split in ("train", "test"):
            np.save(tmp_path / f"photographs-{split}.npy", random.integers(0, 255, (2, 64, 64, 3), np.uint8))
        for steps in (1, 3):
            monkeypatch.setattr(automatic, "STAGES", (automatic.Stage(32, steps, 2),))
            automatic.train(tmp_path, seed=1)
            state = torch.load(tmp_path / "automatic.pt", weights_only=True)
            assert state["step"] == steps
        file = tmp_path / "ddcolor.safetensors"
        export_automatic(tmp_path, file)
        assert file.stat().st_size < 4e6
        assert read_recommended(file) == {"ddcolor": {"resolution": 128}} and KEY in read_metadata(file)
        assert "CC-BY" in read_metadata(file)["exemplar.credit"]
        loaded = load_ddcolor(file)
        assert loaded.network.sizes == automatic.SIZES
        trained = automatic.new_network()
        trained.load_state_dict(state["average"])
        gray = torch.rand(1, 1, 32, 32).expand(-1, 3, -1, -1)
        with torch.no_grad():
            expected = automatic.UNIT * trained.eval()((gray - automatic.MEAN) / automatic.STD)
        assert float((loaded(gray) - expected).abs().max()) < 0.02 * float(expected.abs().max())  # half precision
        evaluate_automatic(tmp_path, file, tmp_path / "out")
        numbers = json.loads((tmp_path / "out" / "automatic.json").read_text())
        held_out = numbers["held-out drawings"]
        assert held_out["pictures"] == 2 and held_out["chroma, gray"] < 1e-3
        assert held_out["gray"] == pytest.approx(held_out["chroma of the truth"], rel=1e-4)
        assert (tmp_path / "out" / "automatic.jpg").is_file()


def test_mean_of_the_training_colors():
    from training.automatic_file import mean_chroma

    pictures = np.zeros((3, 8, 8, 4), np.uint8)
    pictures[0] = (255, 0, 0, 255)
    pictures[1, :4] = (0, 0, 255, 255)  # half as large; what is transparent does not count
    pictures[2] = (0, 255, 0, 255)  # held out
    rows = {"train": {"a": [0], "b": [1]}, "test": {"c": [2]}}
    made = SimpleNamespace(pictures=pictures, rows_by_name=lambda split: rows[split])
    red, blue = rgb_to_lab(torch.eye(3)[[0, 2]][:, None, None])[:, 0, 0, 1:]
    torch.testing.assert_close(mean_chroma(made), (2 * red + blue) / 3)
