"""Files under their final name only when whole, and destinations checked before work."""

import errno
import os
import stat
import subprocess
import sys
import time

import pytest
from safetensors import SafetensorError

from comfyui_exemplar.files import writers
from comfyui_exemplar.files.output import check_destination, check_destinations, is_device, whole

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
        """As safetensors does, with rights for its own user only, and what it leaves when it is killed goes, too."""
        plain = tmp_path / "plain"
        plain.touch()
        with whole(tmp_path / "a.safetensors") as beside:
            beside.unlink()
            beside.write_text("new")
            beside.chmod(0o600)
            (beside.parent / ".tmp123").write_text("half")
        assert (tmp_path / "a.safetensors").read_text() == "new"
        assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "plain"]

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOENT])
    def test_whatever_hinders_is_told_with_the_files_name(self, tmp_path, number):
        with (
            pytest.raises(OSError, match=r"a\.png could not be written: .*; look at the place"),
            whole(tmp_path / "a.png"),
        ):
            raise OSError(number, os.strerror(number))
        with (
            pytest.raises(OSError, match=r"a\.png could not be written: no such file"),
            whole(tmp_path / "x" / "a.png"),
        ):
            pass

    @pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
    def test_a_new_file_replaces_none(self, tmp_path, monkeypatch, links):
        """Also one that appears while it is written, and on drives without hard links."""
        if not links:
            monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
        path = tmp_path / "a.png"
        with whole(path, new=True) as beside:
            beside.write_text("first")
        with pytest.raises(FileExistsError), whole(path, new=True) as beside:
            beside.write_text("second")
        assert path.read_text() == "first"
        with pytest.raises(FileExistsError), whole(tmp_path / "b.png", new=True) as beside:
            beside.write_text("mine")
            (tmp_path / "b.png").write_text("another's")
        assert (tmp_path / "b.png").read_text() == "another's"
        assert sorted(each.name for each in tmp_path.iterdir()) == ["a.png", "b.png"]

    def test_a_new_file_is_none_where_a_link_leads(self, tmp_path):
        (tmp_path / "a.png").symlink_to(tmp_path / "elsewhere.png")
        with pytest.raises(FileExistsError), whole(tmp_path / "a.png", new=True):
            pass
        assert [each.name for each in tmp_path.iterdir()] == ["a.png"]


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
        (tmp_path / "a.png").touch()
        monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(ValueError, match=r"a\.png may not be written to; change its rights"):
            check_destination(tmp_path / "a.png", SUFFIXES)

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOSPC, errno.EDQUOT])
    def test_the_folder_is_tried(self, tmp_path, monkeypatch, number):
        """Rights do not say all: read-only drives, shares that are full."""

        def fails(_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(writers, "new_folder", fails)
        is_full = number in (errno.ENOSPC, errno.EDQUOT)
        expected = r"a\.png could not be written: the disk is full" if is_full else "may not be written to"
        with pytest.raises(OSError if is_full else ValueError, match=expected):
            check_destination(tmp_path / "a.png", SUFFIXES)

    @pytest.mark.parametrize("name", ["a" * 300 + ".png", "a\0.png", "a" * 300 + "/a.png"])
    def test_names_that_no_file_has(self, tmp_path, name):
        with pytest.raises((ValueError, FileNotFoundError), match=r"cannot be the name of a file|cannot be made"):
            check_destination(tmp_path / name, SUFFIXES)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
    def test_what_is_no_ordinary_file(self, tmp_path):
        os.mkfifo(tmp_path / "a.png")
        with pytest.raises(ValueError, match="is no ordinary file"):
            check_destination(tmp_path / "a.png", SUFFIXES)

    def test_a_link_to_nowhere(self, tmp_path):
        (tmp_path / "a.png").symlink_to(tmp_path / "there" / "b.png")
        check_destination(tmp_path / "a.png", SUFFIXES)
        with whole(tmp_path / "a.png") as beside:
            beside.write_text("x")
        assert (tmp_path / "there" / "b.png").read_text() == "x" and (tmp_path / "a.png").is_symlink()

    def test_many_places_in_one_folder_are_tried_once(self, tmp_path, monkeypatch):
        made, new = [], writers.new_folder
        monkeypatch.setattr(writers, "new_folder", lambda folder: made.append(folder) or new(folder))
        check_destinations([tmp_path / "x" / f"{i}.png" for i in range(9)], SUFFIXES)
        assert made == [tmp_path / "x"] and not list((tmp_path / "x").iterdir())


class TestLeftovers:
    """What writers that were killed left is removed by the next; a living one's is not."""

    @pytest.fixture
    def leave(self, tmp_path):
        def left(machine=None, number=None, start=None, days=0):
            own = writers.new_folder(tmp_path)
            _, said_machine, said_number, said_start, end = own.name.removeprefix(".").split("-")
            parts = (machine or said_machine, str(number or said_number), start or said_start, end)
            path = own.rename(tmp_path / f".writing-{'-'.join(parts)}")
            (path / "writing.png").write_text("half")
            for each in (path / "writing.png", path):
                os.utime(each, (time.time() - days * 86400,) * 2)
            return path

        return left

    def write(self, folder):
        with whole(folder / "a.png") as beside:
            beside.write_text("new")

    @pytest.fixture
    def gone(self):
        """The number of a process that ended."""
        process = subprocess.Popen([sys.executable, "-S", "-c", ""])
        process.wait()
        return process.pid

    def test_of_a_process_that_is_gone(self, tmp_path, leave, gone):
        leave(number=gone)
        self.write(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

    @pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="a start is not known here")
    def test_of_a_process_whose_number_was_given_again(self, tmp_path, leave):
        """Ours, after a container was started anew."""
        leave(start="1")
        self.write(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

    @pytest.mark.parametrize("days", [0, 400])
    def test_of_a_living_process(self, tmp_path, leave, days):
        own = leave(days=days)
        with whole(tmp_path / "b.png") as other:
            self.write(tmp_path)
            assert own.is_dir() and other.is_file()

    @pytest.mark.parametrize("days, stays", [(0, True), (6, True), (8, False)])
    def test_of_another_machine(self, tmp_path, leave, gone, days, stays):
        """On a drive that machines share, or in another container, numbers mean something else."""
        own = leave(machine="0" * 8, number=gone, days=days)
        self.write(tmp_path)
        assert own.exists() is stays

    @pytest.mark.parametrize("days, stays", [(6, True), (8, False)])
    def test_where_a_start_cannot_be_known(self, tmp_path, leave, monkeypatch, days, stays):
        monkeypatch.setattr(writers, "_start", lambda _: None)
        own = leave(days=days)
        assert "-x-" in own.name
        self.write(tmp_path)
        assert own.exists() is stays

    @pytest.mark.parametrize("name", [".writing-", ".writing-mine", ".writing-x-1-2-3", "writing.png"])
    def test_what_somebody_else_made_stays(self, tmp_path, name):
        (tmp_path / name).mkdir()
        self.write(tmp_path)
        assert (tmp_path / name).is_dir()

    def test_a_folder_that_cannot_be_listed(self, tmp_path, monkeypatch):
        def fails(_):
            raise PermissionError(13, "no")

        monkeypatch.setattr(os, "scandir", fails)
        self.write(tmp_path)
        monkeypatch.undo()
        assert (tmp_path / "a.png").read_text() == "new"


@pytest.mark.parametrize("name", ["con", "NUL", "nul.safetensors", "Aux .tar.gz", "com1", "LPT9.png", "com²"])
def test_names_of_devices(name):
    assert is_device(name)


@pytest.mark.parametrize("name", ["console", "nul-1", "com10", "com", "lpt", "x.con", "auxiliary.png", "", ".nul"])
def test_names_of_no_devices(name):
    assert not is_device(name)
