"""The page itself, where gradio is there: built, served, asked by a program."""

from pathlib import Path

import pytest

from comfyui_exemplar.cli.app.jobs import Jobs
from comfyui_exemplar.cli.app.serving import launch, quiet
from comfyui_exemplar.files.pictures import read_photograph

from .conftest import PICTURES

gradio = pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("app")


@pytest.fixture(scope="module")
def address(models, place):
    with quiet(place / "kept"):
        page, url = launch(models, place)
        yield url
        page.close(verbose=False)


@pytest.fixture(scope="module")
def client(address, tmp_path_factory):
    from gradio_client import Client

    return Client(address, verbose=False, download_files=str(tmp_path_factory.mktemp("got")))


def values(client, name, **given):
    """What a call is given: pictures, and every setting as it stands on the page."""
    found = client.view_api(return_format="dict", print_info=False)["named_endpoints"][name]["parameters"]
    made = [each["parameter_default"] if each["parameter_has_default"] else None for each in found]
    for place, value in given.items():
        made[int(place.lstrip("_"))] = value
    return made


def file(name):
    from gradio_client import handle_file

    return handle_file(str(PICTURES / name))


def test_colors_by_a_reference(client, place):
    nothing = {"background": None, "layers": [], "composite": None}
    asked = values(client, "/colorize", _0=file("scene-gray.png"), _1=[file("scene-reference.png")], _2=nothing)
    *_, legend, said, download = client.predict(*asked, api_name="/colorize")
    assert "scene-reference.png <b>100%</b>" in legend and "By memory, from 1 reference" in said
    got = read_photograph(download["value"] if isinstance(download, dict) else download)
    assert got.images.shape == (1, 384, 512, 3) and got.facts.bits == 16
    assert not list(place.glob("job-*")), "nothing of the job is left"


def test_no_picture_is_written_over_one_that_a_browser_may_be_reading(client, monkeypatch):
    """gradio writes arrays anew each time: the browser gets half a file, and h11 fails in the terminal."""
    from gradio import processing_utils

    def over(*_, **__):
        raise AssertionError("an array was shown")

    monkeypatch.setattr(processing_utils, "save_pil_to_cache", over)
    asked = values(client, "/auto", _0=file("scene-gray.png"))
    first, second = (client.predict(*asked, api_name="/auto")[0] for _ in range(2))
    assert [Path(each).read_bytes() for each in first] == [Path(each).read_bytes() for each in second]


def test_what_is_painted_on_is_a_file_until_the_page_has_it(models, tmp_path):
    from comfyui_exemplar.cli.app.page import build

    with quiet(tmp_path):
        (loaded,) = [each.fn for each in build(models, Jobs(tmp_path)).fns.values() if each.name == "loaded"]
        for update in loaded(str(PICTURES / "scene-gray.png")):
            assert Path(update.value["background"]["path"]).is_file() and update.visible
    assert not list(tmp_path.glob("shown-*"))


def test_colors_by_strokes(client, tmp_path):
    from gradio_client import handle_file
    from PIL import Image, ImageDraw

    layer = Image.new("RGBA", (512, 384))
    ImageDraw.Draw(layer).rectangle((360, 200, 420, 260), fill=(200, 30, 10, 255))
    layer.save(tmp_path / "layer.png")
    editor = {
        "background": file("scene-gray.png"),
        "layers": [handle_file(str(tmp_path / "layer.png"))],
        "composite": None,
    }
    asked = values(client, "/colorize", _0=file("scene-gray.png"), _1=[], _2=editor)
    *_, download = client.predict(*asked, api_name="/colorize")
    image = read_photograph(download["value"] if isinstance(download, dict) else download).images
    red, green, blue = image[0, 230, 390].tolist()
    assert red > green and red > blue


def test_automatic_and_colors_of_an_edit(client):
    *_, said, _ = client.predict(*values(client, "/auto", _0=file("scene-gray.png")), api_name="/auto")
    assert "By DDColor" in said
    asked = values(client, "/recolor", _0=file("scene-gray.png"), _1=file("scene-truth.png"), _2="none")
    *_, said, _ = client.predict(*asked, api_name="/recolor")
    assert "Colors of scene-truth.png" in said


@pytest.mark.parametrize(
    "given, said", [({}, "picture: found none"), ({"_0": "scene-gray.png"}, "references: found none")]
)
def test_what_fails_is_one_sentence(client, given, said):
    from gradio_client.exceptions import AppError

    nothing = {"background": None, "layers": [], "composite": None}
    given = {name: file(value) for name, value in given.items()}
    with pytest.raises(AppError, match=said) as raised:
        client.predict(*values(client, "/colorize", _1=[], _2=nothing, **given), api_name="/colorize")
    assert "Traceback" not in str(raised.value)


def test_only_its_own_files_are_served(address, tmp_path):
    import httpx

    (tmp_path / "secret.txt").write_text("secret")
    for path in (tmp_path / "secret.txt", Path("/etc/hostname"), Path(__file__), Path.cwd() / "pyproject.toml"):
        assert httpx.get(f"{address}/gradio_api/file={path}", trust_env=False).status_code in (403, 404)
    gray = PICTURES / "scene-gray.png"
    assert httpx.get(f"{address}/gradio_api/file={gray}", trust_env=False).status_code == 200


def test_the_page_names_no_other_host_to_load_from(address):
    import re

    import httpx

    answer = httpx.get(address, trust_env=False)
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    loaded = re.findall(r"<(?:link|script|img)\b[^>]*(?:href|src)=[\"'](https?://[^\"']*)", answer.text)
    assert [each for each in loaded if not each.startswith(address)] == []


def test_other_hosts_names_are_not_answered(address):
    import httpx

    assert httpx.get(address, headers={"host": "elsewhere.example"}, trust_env=False).status_code == 400


def test_a_port_that_is_taken_is_said(models, address, tmp_path):
    port = int(address.rpartition(":")[2])
    with pytest.raises(OSError, match=f"--port {port}"), quiet(tmp_path):
        launch(models, tmp_path, port=port)


def test_a_desk_is_all_that_the_page_needs(models, tmp_path):
    from comfyui_exemplar.cli.app.page import build

    with quiet(tmp_path):
        assert len(build(models, Jobs(tmp_path)).fns) > 8


def test_no_file_of_the_server_is_read_that_was_not_uploaded(address, client, tmp_path):
    """gradio's own client uploads whatever it is given; others may name a path of the server."""
    import httpx

    picture = (PICTURES / "scene-gray.png").read_bytes()
    (tmp_path / "private.png").write_bytes(picture)
    asked = values(client, "/auto")
    with httpx.Client(base_url=f"{address}/gradio_api", trust_env=False, timeout=60) as server:
        (uploaded,) = server.post("/upload", files={"files": ("gray.png", picture)}).json()
        for path, refused in ((str(tmp_path / "private.png"), True), (uploaded, False)):
            asked[0] = {"path": path, "meta": {"_type": "gradio.FileData"}}
            event = server.post("/call/auto", json={"data": asked}).json()["event_id"]
            answer = server.get(f"/call/auto/{event}").text
            assert ("event: error" in answer) is refused and "private" not in answer, answer
