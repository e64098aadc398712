import re

import pytest

from comfyui_exemplar.files.archive.journal import Found, Journal
from comfyui_exemplar.files.archive.receipts import Outcome
from comfyui_exemplar.files.archive.report import write_report


@pytest.fixture
def journal(tmp_path):
    (tmp_path / "out").mkdir()
    made = Journal(tmp_path / "out", {"method": "auto"})
    made.open()
    yield made
    made.close()


def page(journal, tmp_path):
    path = tmp_path / "out" / "report.html"
    write_report(path, journal, tmp_path / "in", tmp_path / "out", {"model": "<b>&"})
    return path.read_text("utf-8")


def look(journal, *names):
    journal.look([Found(name, f"{name}.png", name, 1, 1, str(number), "") for number, name in enumerate(names)])
    journal.settle()


def test_worst_first(journal, tmp_path):
    look(journal, "sure", "unknown", "doubtful", "bad", "waiting")
    journal.record([Outcome(1, "d", 0.9), Outcome(2, "d"), Outcome(3, "d", 0.1), Outcome(4, error="cut off")])
    text = page(journal, tmp_path)
    places = [
        text.rindex(">picture</a>", 0, text.rindex(name) + 200) for name in ("bad", "doubtful", "sure", "unknown")
    ]
    assert places == sorted(places) and text.rindex("unknown") < text.rindex("waiting")
    assert "Failed: 1" in text and "cut off" in text and "&lt;b&gt;&amp;" in text


def test_names_are_escaped(journal, tmp_path):
    name = 'javascript:"><script>alert(1)</script>&\u202egpj.\udcff%41?#'
    look(journal, name)
    journal.record([Outcome(1, "d", 0.5, thumbnail="AAAA")])
    text = page(journal, tmp_path)
    assert "<script" not in text and "\u202e" not in text
    assert all(re.fullmatch(r"[#.][A-Za-z0-9/._~%-]*", address) for address in re.findall(r'href="([^"]*)"', text))
    assert "default-src 'none'" in text


def test_nothing_else_is_replaced(journal, tmp_path):
    look(journal, "a")
    (tmp_path / "out" / "report.html").write_text("mine")
    with pytest.raises(ValueError, match="is no report of an archive"):
        page(journal, tmp_path)
    assert (tmp_path / "out" / "report.html").read_text() == "mine"
