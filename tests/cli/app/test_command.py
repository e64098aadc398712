"""The command, where gradio is not there, and what every request passes."""

import asyncio
import sys

import pytest

from comfyui_exemplar.cli import main
from comfyui_exemplar.cli.app import serving
from comfyui_exemplar.cli.app.serving import POLICY, Guard, quiet


def test_without_gradio_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    assert main(["app"]) == 1
    said = capsys.readouterr().err
    assert 'pip install -e ".[app]"' in said and len(said.splitlines()) == 1


@pytest.mark.parametrize("options, said", [(["--port", "0"], "--port is 0"), (["--model", "nowhere"], "nowhere")])
def test_what_is_wrong_is_said_before_the_page_is_there(options, said, monkeypatch, capsys):
    monkeypatch.setattr(serving, "check_gradio", lambda: None)
    assert main(["app", *options]) == 1
    assert said in capsys.readouterr().err


def asked(headers, bodies, most=10):
    """What a server behind the guard read, and what was answered."""
    read, sent, parts = [], [], [{"type": "http.request", "body": body, "more_body": True} for body in bodies]

    async def app(scope, receive, send):
        for _ in bodies:
            read.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive():
        return parts.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(app, most)({"type": "http", "headers": headers}, receive, send))
    return read, sent


def test_every_answer_keeps_the_page_to_this_server():
    _, (start,) = asked([], [])
    assert (b"content-security-policy", POLICY.encode()) in start["headers"]
    assert "default-src 'self'" in POLICY and "http" not in POLICY


@pytest.mark.parametrize("length", [b"11", b"-1", b"many"])
def test_what_says_that_it_is_too_large_is_not_read(length):
    read, sent = asked([(b"content-length", length)], [b"x"])
    assert read == [] and sent[0]["status"] == 413


def test_what_does_not_say_so_ends_where_it_is_too_large():
    read, _ = asked([], [b"12345", b"12345", b"1"])
    assert [message["type"] for message in read] == ["http.request", "http.request", "http.disconnect"]


def test_the_environment_is_as_it_was(tmp_path, monkeypatch):
    import os

    monkeypatch.setenv("NO_PROXY", "here")
    monkeypatch.delenv("no_proxy", raising=False)
    before = dict(os.environ)
    with quiet(tmp_path):
        assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False" and os.environ["GRADIO_TEMP_DIR"] == str(tmp_path)
        assert os.environ["NO_PROXY"] == "here,127.0.0.1,localhost"
    assert dict(os.environ) == before


def test_a_folder_called_gradio_is_not_gradio(tmp_path, monkeypatch):
    """gradio itself leaves one where temporary files are."""
    (tmp_path / "gradio").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "gradio", raising=False)
    with pytest.raises(ImportError, match=r"\.\[app\]"):
        serving.check_gradio()
