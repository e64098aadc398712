"""CLIPSeg in ComfyUI's folders and under its model manager, and the node that asks it."""

import re
import shutil
from pathlib import Path

import comfy.model_management
import folder_paths
import pytest
import torch

from comfyui_exemplar.hosts.comfy import downloads
from comfyui_exemplar.hosts.comfy.folders import CLIPSEG
from comfyui_exemplar.hosts.comfy.lcad_instances import instances_of
from comfyui_exemplar.networks.clipseg.load import HUB_FILES, HUB_NAME, HUB_REVISION

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
        (models / "elsewhere" / "odd" / "config.json").mkdir(parents=True)
        (models / "elsewhere" / "tiny").symlink_to(tiny)
        assert CLIPSEG.models() == ["tiny"]

    def test_what_is_being_fetched_is_not_listed(self, models, tiny):
        (models / "clipseg").mkdir()
        (models / "clipseg" / f".{CLIPSEG.published}.part").symlink_to(tiny)
        assert CLIPSEG.models() == []

    def test_an_unknown_name(self, models):
        from comfyui_exemplar.nodes.clipseg import LoadCLIPSeg

        assert "There is no 'other' in models/clipseg" in LoadCLIPSeg.validate_inputs(model_name="other")
        assert LoadCLIPSeg.validate_inputs(model_name=CLIPSEG.from_hub) is True
        assert LoadCLIPSeg.validate_inputs(model_name=None) is True


class Hub:
    """Stands in for the hub: gives the files of a folder, as many as it is told."""

    def __init__(self, folder):
        self.folder, self.asked, self.given = folder, [], 100

    def snapshot_download(self, name, *, revision, local_dir, allow_patterns, token):
        self.asked.append((name, revision, token))
        local_dir.mkdir(exist_ok=True, parents=True)
        (local_dir / ".cache").mkdir(exist_ok=True)
        missing = [file for file in allow_patterns if not (local_dir / file).exists()]
        for file in missing[: self.given]:
            shutil.copy(self.folder / file, local_dir / file)
        if len(missing) > self.given:
            raise ConnectionError("the line is down\nmore of it")


class TestDownload:
    @pytest.fixture
    def hub(self, models, tiny, monkeypatch, tmp_path):
        import huggingface_hub

        hub = Hub(tiny)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
        monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
        monkeypatch.delenv(downloads.VARIABLE, raising=False)
        return hub

    @pytest.fixture
    def allowed(self, hub, monkeypatch):
        monkeypatch.setenv(downloads.VARIABLE, "1")
        return hub

    def owner_says(self, text):
        path = Path(folder_paths.get_system_user_directory("exemplar")) / "config.ini"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def load(self, nodes, allow_download=True):
        return nodes("ExemplarLoadCLIPSeg", model_name=CLIPSEG.from_hub, allow_download=allow_download)[0]

    @pytest.mark.parametrize("workflow", [False, True])
    @pytest.mark.parametrize("owner", ["", "0", "no", "1"])
    def test_both_must_say_yes(self, hub, nodes, monkeypatch, workflow, owner):
        if owner:
            monkeypatch.setenv(downloads.VARIABLE, owner)
        if workflow and owner == "1":
            assert self.load(nodes).name == "clipseg-rd64-refined"
            return
        said = "the owner of this server does not allow downloads" if workflow else "allow_download is off"
        with pytest.raises(
            ValueError, match=rf"There is no 'clipseg-rd64-refined' .*it is empty.* allow_download on.*{said}"
        ):
            self.load(nodes, workflow)
        assert hub.asked == [] and CLIPSEG.models() == []

    def test_the_owner_is_told_what_to_do(self, hub, nodes):
        with pytest.raises(ValueError, match=r"EXEMPLAR_ALLOW_DOWNLOADS=1 .*__exemplar/config\.ini"):
            self.load(nodes)

    @pytest.mark.parametrize(
        "text, fetched",
        [
            ("[exemplar]\nallow_downloads = yes\n", True),
            ("[exemplar]\nallow_downloads = TRUE\n", True),
            ("\ufeff[exemplar]\r\nallow_downloads = yes\r\n", True),  # as editors on Windows write it
            ("[exemplar]\nallow_downloads = off\n", False),
            ("[exemplar]\nallow_downloads =\n", False),
            ("[exemplar]\n", False),
            ("", False),
        ],
    )
    def test_the_owners_file(self, hub, text, fetched):
        self.owner_says(text)
        assert downloads.allowed() is fetched

    @pytest.mark.parametrize("text", ["allow_downloads = yes", "[exemplar]\nallow_downloads = perhaps", "[exemplar\n"])
    def test_a_file_that_says_nothing_clear(self, hub, nodes, text):
        self.owner_says(text)
        with pytest.raises(ValueError, match=r"config\.ini (could not be read|is 'perhaps'; expected yes or no)"):
            self.load(nodes)
        assert hub.asked == []

    def test_the_environment_counts_first(self, hub, monkeypatch):
        self.owner_says("[exemplar]\nallow_downloads = yes\n")
        monkeypatch.setenv(downloads.VARIABLE, "0")
        assert downloads.allowed() is False
        monkeypatch.setenv(downloads.VARIABLE, "perhaps")
        with pytest.raises(ValueError, match="EXEMPLAR_ALLOW_DOWNLOADS is 'perhaps'"):
            downloads.allowed()

    def test_one_state_is_fetched_and_stays(self, allowed, nodes, models):
        first, again = self.load(nodes), self.load(nodes, allow_download=False)
        assert allowed.asked == [(HUB_NAME, HUB_REVISION, False)] and re.fullmatch(r"[0-9a-f]{40}", HUB_REVISION)
        assert first.name == again.name == "clipseg-rd64-refined" and CLIPSEG.models() == [first.name]
        assert sorted(path.name for path in (models / "clipseg").iterdir()) == [first.name]
        assert sorted(path.name for path in (models / "clipseg" / first.name).iterdir()) == sorted(HUB_FILES)

    @pytest.mark.parametrize("given", [0, 1, 2, 4])
    def test_what_is_begun_is_completed(self, allowed, nodes, models, given):
        allowed.given = given
        with pytest.raises(OSError, match=r"could not be fetched \(the line is down\).*run it again to go on") as error:
            self.load(nodes)
        assert "\n" not in str(error.value)
        assert CLIPSEG.models() == []
        left = models / "clipseg" / f".{CLIPSEG.published}.part"
        assert len([path for path in left.iterdir() if path.is_file()]) == given
        allowed.given = 100
        assert self.load(nodes).name == CLIPSEG.published and not left.exists()

    def test_a_hub_that_gives_too_little(self, allowed, nodes, tiny, monkeypatch, tmp_path):
        (tmp_path / "few").mkdir()
        monkeypatch.setattr(allowed, "folder", tmp_path / "few")
        with pytest.raises(OSError, match=r"could not be fetched"):
            self.load(nodes)
        assert CLIPSEG.models() == []

    def test_what_an_earlier_version_left_is_completed(self, allowed, nodes, models, tiny):
        """It fetched into the folder itself, which was taken for a whole one from then on."""
        folder = models / "clipseg" / CLIPSEG.published
        folder.mkdir(parents=True)
        for name in ("config.json", "vocab.json"):
            shutil.copy(tiny / name, folder / name)
        with pytest.raises(ValueError, match=r"lacks vocab\.json or merges\.txt"):
            self.load(nodes, allow_download=False)
        assert self.load(nodes).name == CLIPSEG.published
        assert sorted(path.name for path in folder.parent.iterdir()) == [CLIPSEG.published]

    def test_a_folder_of_ones_own_is_never_fetched(self, allowed, nodes, models, tiny):
        (models / "elsewhere").mkdir()
        (models / "elsewhere" / "tiny").symlink_to(tiny)
        assert nodes("ExemplarLoadCLIPSeg", model_name="tiny", allow_download=True)[0].name == "tiny"
        with pytest.raises(ValueError, match="There is no 'another'"):
            nodes("ExemplarLoadCLIPSeg", model_name="another", allow_download=True)
        assert allowed.asked == []


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
