"""CLIPSeg in ComfyUI's folders and under its model manager, and the node that asks it."""

import comfy.model_management
import folder_paths
import pytest
import torch

from comfyui_exemplar.hosts.comfy.folders import CLIPSEG
from comfyui_exemplar.hosts.comfy.lcad_instances import instances_of
from comfyui_exemplar.networks.clipseg.load import HUB_NAME

from ...fixtures.clipseg import save

PHRASES = "red cup\n\n a hat "


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty models/clipseg, beside a user's own folder of that name."""
    paths = [str(tmp_path / "clipseg"), str(tmp_path / "elsewhere")]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, CLIPSEG.name, (paths, set()))
    return tmp_path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    with torch.inference_mode(False), torch.no_grad():
        return save(tmp_path_factory.mktemp("clipseg") / "tiny")


@pytest.fixture
def referring(models, tiny, nodes):
    (models / "elsewhere").mkdir()
    (models / "elsewhere" / "tiny").symlink_to(tiny)
    return nodes("ExemplarLoadCLIPSeg", model_name="tiny")[0]


def pictures(count=2, height=50, width=70):
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(1))


class TestFolders:
    def test_the_schema_makes_the_folder_known(self, nodes):
        assert any(path.endswith("clipseg") for path in folder_paths.get_folder_paths(CLIPSEG.name))

    def test_only_folders_with_a_model_are_listed(self, models, tiny):
        assert CLIPSEG.models() == []
        (models / "elsewhere" / "empty").mkdir(parents=True)
        (models / "elsewhere" / "tiny").symlink_to(tiny)
        assert CLIPSEG.models() == ["tiny"]

    def test_nothing_is_fetched_unless_allowed(self, models, nodes, monkeypatch):
        import huggingface_hub

        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("fetched"))
        with pytest.raises(
            ValueError, match=r"There is no 'clipseg-rd64-refined' .*it is empty.* allow_download on"
        ):
            nodes("ExemplarLoadCLIPSeg", model_name=CLIPSEG.from_hub)

    def test_a_download_stays(self, models, tiny, nodes, monkeypatch):
        import huggingface_hub

        asked = []

        def fetch(name, local_dir, allow_patterns):
            asked.append((name, allow_patterns))
            local_dir.parent.mkdir(exist_ok=True)
            local_dir.symlink_to(tiny)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
        (first,) = nodes("ExemplarLoadCLIPSeg", model_name=CLIPSEG.from_hub, allow_download=True)
        (again,) = nodes("ExemplarLoadCLIPSeg", model_name=CLIPSEG.from_hub)
        assert [name for name, _ in asked] == [HUB_NAME] and "model.safetensors" in asked[0][1]
        assert first.name == again.name == "clipseg-rd64-refined" and CLIPSEG.models() == [first.name]

    def test_an_unknown_name(self, models):
        from comfyui_exemplar.nodes.clipseg import LoadCLIPSeg

        assert "There is no 'other' in models/clipseg" in LoadCLIPSeg.validate_inputs(model_name="other")
        assert LoadCLIPSeg.validate_inputs(model_name=CLIPSEG.from_hub) is True
        assert LoadCLIPSeg.validate_inputs(model_name=None) is True


class TestNode:
    def test_masks_and_their_picture(self, nodes, referring):
        images = pictures()
        masks, picture = nodes(
            "ExemplarReferringMask", referring=referring, image=images, phrases=PHRASES, threshold=0.4, exclusive=False
        )
        assert masks.shape == (4, 50, 70) and set(masks.unique().tolist()) <= {0.0, 1.0}
        assert picture.shape == images.shape
        alone, _ = nodes(
            "ExemplarReferringMask",
            referring=referring,
            image=images[1:],
            phrases="a hat",
            threshold=0.4,
            exclusive=False,
        )
        assert torch.equal(masks[3], alone[0])

    def test_the_model_manager_knows_it(self, nodes, referring):
        nodes(
            "ExemplarReferringMask", referring=referring, image=pictures(1), phrases="a", threshold=0.4, exclusive=True
        )
        assert any(loaded.model is referring.patcher for loaded in comfy.model_management.current_loaded_models)

    def test_cancel(self, nodes, referring):
        comfy.model_management.interrupt_current_processing(True)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            nodes(
                "ExemplarReferringMask",
                referring=referring,
                image=pictures(),
                phrases="a",
                threshold=0.4,
                exclusive=True,
            )
        comfy.model_management.interrupt_current_processing(False)

    def test_no_phrase(self, nodes, referring):
        with pytest.raises(ValueError, match="no phrase to look for"):
            nodes(
                "ExemplarReferringMask",
                referring=referring,
                image=pictures(),
                phrases=" ",
                threshold=0.4,
                exclusive=True,
            )

    def test_masks_fit_the_instances(self, nodes, referring, embedded):
        """Soft masks of two phrases and two pictures go straight on."""
        masks, _ = nodes(
            "ExemplarReferringMask",
            referring=referring,
            image=pictures(2),
            phrases="red cup\nhat",
            threshold=0.0,
            exclusive=True,
        )
        masks = masks / masks.amax((1, 2), keepdim=True).clamp(min=1e-6)
        keep = masks.amax((1, 2)) > 0.5
        model, _ = nodes(
            "ExemplarLCADInstances",
            model=embedded[0],
            clip=embedded[1],
            masks=torch.where(keep[:, None, None], masks, 1.0),
            prompt="red cup, hat",
        )
        instances = instances_of(model)
        assert [i.phrase for i in instances] == ["red cup", "hat"] and [len(i.masks) for i in instances] == [2, 2]
