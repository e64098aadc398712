"""Files under their final name only when whole, and destinations checked before work."""

import errno
import os
import stat

import pytest
from safetensors import SafetensorError

from comfyui_exemplar.files.output import check_destination, whole

SUFFIXES = (".png", ".tif")


class TestWhole:
    def test_appears_when_done(self, tmp_path):
        path = tmp_path / "a.png"
        with whole(path) as beside:
            assert beside.parent.parent == tmp_path and beside.suffix == ".png" and beside.name != path.name
            beside.write_text("new")
            assert not path.exists()
        assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_the_older_file_stays_when_it_fails(self, tmp_path, error):
        path = tmp_path / "a.png"
        path.write_text("old")
        with pytest.raises(error), whole(path) as beside:
            beside.write_text("half")
            raise error
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.EFBIG, "File too large"),
            SafetensorError(f"I/O error: No space left on device (os error {errno.ENOSPC})"),
        ],
    )
    def test_a_full_disk_is_told_with_the_files_name(self, tmp_path, error):
        path = tmp_path / "a.png"
        path.write_text("old")
        with pytest.raises(OSError, match=r"a\.png could not be written: the disk is full; make room"), whole(path):
            raise error
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]

    def test_rights_are_those_of_any_new_file_or_of_the_older_one(self, tmp_path):
        plain, path = tmp_path / "plain", tmp_path / "a.png"
        plain.touch()
        with whole(path) as beside:
            beside.write_text("x")
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
        path.chmod(0o640)
        with whole(path) as beside:
            beside.write_text("y")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640 and path.read_text() == "y"

    def test_a_link_stays_a_link(self, tmp_path):
        (tmp_path / "there").mkdir()
        real, link = tmp_path / "there" / "a.png", tmp_path / "link.png"
        real.write_text("old")
        link.symlink_to(real)
        with whole(link) as beside:
            beside.write_text("new")
        assert link.is_symlink() and real.read_text() == "new"

    def test_writers_that_replace_their_file(self, tmp_path):
        """As safetensors does."""
        with whole(tmp_path / "a.safetensors") as beside:
            beside.unlink()
            beside.write_text("new")
        assert (tmp_path / "a.safetensors").read_text() == "new"


class TestDestinations:
    def test_the_folder_is_made(self, tmp_path):
        path = tmp_path / "x" / "y" / "a.PNG"
        assert check_destination(path, SUFFIXES) == path and path.parent.is_dir() and not path.exists()
        assert check_destination(str(path), SUFFIXES) == path

    @pytest.mark.parametrize("name, words", [
        ("a.jpg", r"ends in '\.jpg'; give a name that ends in \.png or \.tif"),
        ("a", "has no suffix"),
        ("results.v2", r"ends in '\.v2'"),
    ])  # fmt: skip
    def test_suffixes(self, tmp_path, name, words):
        with pytest.raises(ValueError, match=words):
            check_destination(tmp_path / name, SUFFIXES)
        with pytest.raises(ValueError, match=r"give a name that ends in \.safetensors\."):
            check_destination(tmp_path / name, [".safetensors"])

    def test_a_folder_of_that_name(self, tmp_path):
        (tmp_path / "a.png").mkdir()
        with pytest.raises(ValueError, match="is a folder; give the name of a file"):
            check_destination(tmp_path / "a.png", SUFFIXES)

    def test_a_file_where_the_folder_should_be(self, tmp_path):
        (tmp_path / "x").write_text("")
        for path in (tmp_path / "x" / "a.png", tmp_path / "x" / "y" / "a.png"):
            with pytest.raises(ValueError, match=r"is no folder, so a\.png cannot be written there"):
                check_destination(path, SUFFIXES)

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="who may do all is refused nothing")
    def test_rights(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(ValueError, match="may not be written to"):
            check_destination(tmp_path / "a.png", SUFFIXES)
        with pytest.raises(FileNotFoundError, match="cannot be made"):
            check_destination(tmp_path / "x" / "a.png", SUFFIXES)
        tmp_path.chmod(0o700)

    def test_rights_as_the_system_says(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(ValueError, match="may not be written to; change its rights"):
            check_destination(tmp_path / "a.png", SUFFIXES)
