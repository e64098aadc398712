"""Embeddings and adapters: a file that somebody else made is never replaced, whenever it appears."""

import pytest
import torch
from safetensors.torch import save_file

from comfyui_exemplar.files.output import whole
from comfyui_exemplar.files.owned import OwnPlace, check_owned

KEY = "exemplar.test"


def make(path, key=KEY, value=1.0):
    save_file({"emb_params": torch.full((2, 3), value)}, path, metadata={key: "x"})


def write(path, new):
    with whole(path, new=new) as beside:
        make(beside, value=2.0)


FOREIGN = {
    "another program's": lambda path: save_file({"emb_params": torch.zeros(2, 3)}, path),
    "another part's": lambda path: make(path, "exemplar.other"),
    "no safetensors": lambda path: path.write_bytes(b"PK\3\4 and more that is none"),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: (make(path), path.write_bytes(path.read_bytes()[:20])),
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
class TestForeign:
    def test_refused_before_work(self, tmp_path, foreign):
        path = tmp_path / "a.safetensors"
        foreign(path)
        before = path.read_bytes()
        with pytest.raises(ValueError, match=r"a\.safetensors is there already and its header does not say that Me"):
            OwnPlace(path, KEY, "Me")
        assert path.read_bytes() == before

    @pytest.mark.parametrize("there", [False, True], ids=["nothing there", "an own one there"])
    def test_one_that_appears_during_work(self, tmp_path, foreign, there):
        """It stays; what was made gets a free name, and later writings go there, too."""
        path = tmp_path / "a.safetensors"
        if there:
            make(path)
        make(tmp_path / "a-2.safetensors")
        place = OwnPlace(path, KEY, "Me")
        foreign(path)
        before = path.read_bytes()
        with pytest.raises(ValueError, match=r"left as it is; what was made here is in a-3\.safetensors"):
            place.write(write)
        assert path.read_bytes() == before and place.path == tmp_path / "a-3.safetensors"
        place.write(write)
        assert sorted(each.name for each in tmp_path.iterdir()) == [
            "a-2.safetensors",
            "a-3.safetensors",
            "a.safetensors",
        ]
        check_owned(place.path, KEY, "Me")


def test_own_files_are_replaced(tmp_path):
    path = tmp_path / "x" / "a.safetensors"
    place = OwnPlace(path, KEY, "Me")
    for _ in range(2):
        place.write(write)
    again = OwnPlace(path, KEY, "Me")
    path.unlink()  # by its user
    again.write(write)
    assert [each.name for each in path.parent.iterdir()] == ["a.safetensors"]


def test_two_of_ours_do_not_replace_each_other(tmp_path):
    places = [OwnPlace(tmp_path / "a.safetensors", KEY, "Me") for _ in range(2)]
    places[0].write(write)
    first = places[0].path.read_bytes()
    with pytest.raises(ValueError, match=r"a-2\.safetensors"):
        places[1].write(write)
    places[0].write(write)
    places[1].write(write)
    assert places[0].path.read_bytes() == first and places[1].path.name == "a-2.safetensors"


@pytest.mark.parametrize(
    "name, said", [("a.pt", "ends in '.pt'"), ("x", "no suffix"), ("f/a.safetensors", "no folder")]
)
def test_places(tmp_path, name, said):
    (tmp_path / "f").touch()
    with pytest.raises(ValueError, match=said):
        OwnPlace(tmp_path / name, KEY, "Me")
