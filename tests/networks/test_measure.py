"""The files of the networks that measures look through: found by their names, read strictly, never run."""

import pytest
import torch

from comfyui_exemplar.networks.measure.files import load_inception, load_networks, load_perceptual
from comfyui_exemplar.networks.measure.inception import Inception
from comfyui_exemplar.networks.measure.perceptual import Perceptual


@pytest.fixture
def perceptual(tmp_path):
    """Both files of LPIPS, of random numbers."""
    torch.manual_seed(0)
    state = Perceptual().state_dict()
    features = {name: tensor for name, tensor in state.items() if name.startswith("features")}
    torch.save({**features, "classifier.6.weight": torch.rand(10, 4)}, tmp_path / "alexnet-owt-7be5be79.pth")
    torch.save({name: each for name, each in state.items() if name not in features}, tmp_path / "alex.pth")
    return tmp_path


def test_without_a_folder_all_is_missing():
    found = load_networks(None)
    assert found.inception is None and found.torchvision is None and found.perceptual is None
    assert len(found.missing) == 3 and all(
        "no folder of weights is named; get " in line for line in found.missing.values()
    )


def test_what_a_folder_has(perceptual):
    found = load_networks(perceptual)
    assert found.inception is None and found.perceptual is not None
    assert found.missing.keys() == {"inception", "torchvision"}
    assert found.missing["inception"].startswith(f"FID and SI-FID are left out: {perceptual} lacks a file; get pt_")
    one, other = (torch.rand(2, 3, 40, 50) * 2 - 1 for _ in range(2))
    assert (found.perceptual(one, other) != 0).all() and (found.perceptual(one, one) == 0).all()


def test_alexnet_alone_is_not_taken_for_the_heads(perceptual):
    (perceptual / "alex.pth").unlink()
    line = load_networks(perceptual).missing["perceptual"]
    assert "get alex.pth" in line and "alexnet" not in line.split("get")[1]


def test_wrong_places(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing does not exist; name a folder"):
        load_networks(tmp_path / "nothing")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"is a file, expected a folder"):
        load_networks(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"get pt_inception-2015-12-05"):
        load_inception(tmp_path / "nothing.pth")


def test_wrong_files(perceptual):
    with pytest.raises(ValueError, match=r"missing .*Conv2d_1a_3x3"):
        load_inception(perceptual / "alex.pth")
    with pytest.raises(ValueError, match=r"missing .*lin0"):
        load_perceptual(perceptual / "alexnet-owt-7be5be79.pth", perceptual / "alexnet-owt-7be5be79.pth")
    state = torch.load(perceptual / "alex.pth")
    state["lin0.model.1.weight"] = state["lin0.model.1.weight"] * float("nan")
    torch.save(state, perceptual / "alex.pth")
    with pytest.raises(ValueError, match=r"alex\.pth.*NaN"):
        load_networks(perceptual)


def test_code_is_not_run(perceptual, monkeypatch):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"lin0.model.1.weight": Evil()}, perceptual / "alex.pth")
    with pytest.raises(ValueError, match=r"alex\.pth"):
        load_networks(perceptual)


@pytest.mark.parametrize("kind", ["fid", "torchvision"])
def test_counts_of_norms_may_be_missing(tmp_path, kind):
    """As in files of old versions of torch; what classifies is passed over."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Inception(kind).state_dict().items()}
    state = {name: torch.ones(shape) for name, shape in shapes.items() if "num_batches" not in name}
    torch.save({**state, "fc.weight": torch.rand(8, 4), "AuxLogits.fc.weight": torch.rand(2, 2)}, tmp_path / "x.pth")
    network = load_inception(tmp_path / "x.pth", kind)
    assert not network.training and network.kind == kind
