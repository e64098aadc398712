"""The doctor: checks are isolated, what is told is private, tables and JSON hold."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from comfyui_exemplar import demo
from comfyui_exemplar.pipelines.doctor import expected, networks
from comfyui_exemplar.pipelines.doctor.checks import Check, Finding, Meter, NotRunError, examine, plain, said
from comfyui_exemplar.pipelines.doctor.embedded import Pictures
from comfyui_exemplar.pipelines.doctor.machine import environment
from comfyui_exemplar.pipelines.doctor.report import Report, check_place, save, save_new
from comfyui_exemplar.pipelines.doctor.subjects import Once

CPU = Meter(torch.device("cpu"))


def check(name, run):
    return Check("group", name, "measures", "up to 1", "because", run)


def raising(error):
    def run():
        raise error

    return run


def gone_through(*checks, **how):
    return list(examine(checks, CPU, **how))


class Stop(Exception):
    pass


class TestExamine:
    def test_one_that_fails_is_its_own(self):
        numbers = {"a": 1.0, "b": math.inf}
        found = gone_through(
            check("first", raising(ValueError("/home/somebody/models/x.safetensors does not exist"))),
            check("second", raising(NotRunError("no device"))),
            check("third", raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))),
            check("fourth", raising(KeyError("k"))),
            check("last", lambda: Finding("0.5", numbers=numbers)),
        )
        assert [each.finding.verdict for each in found] == ["failed", "not run", "failed", "failed", "good"]
        assert found[0].finding.note == "x.safetensors does not exist"
        assert found[2].finding.note.startswith("memory ran out") and "GiB" not in found[2].finding.note
        assert found[4].seconds >= 0 and found[1].peak is None
        report = Report({"torch": "1"}, found, True, "process")
        assert report.failed == ["group: first", "group: third", "group: fourth"]
        content = json.loads(report.json())
        assert content["verdicts"] == {"good": 1, "look": 0, "failed": 3, "not_run": 1}
        assert content["checks"][4]["numbers"] == {"a": 1.0, "b": "inf"}

    def test_a_wish_to_stop_goes_on_upward(self):
        with pytest.raises(Stop):
            gone_through(check("a", raising(Stop())), stops=lambda error: isinstance(error, Stop))
        with pytest.raises(KeyboardInterrupt):
            gone_through(check("a", raising(KeyboardInterrupt())))

    def test_what_could_not_be_loaded_is_tried_once(self):
        tried = []

        def load():
            tried.append(1)
            raise ValueError("broken")

        once = Once(load, "the file")
        found = gone_through(check("file", once.first), check("next", once), check("third", once))
        assert [each.finding.verdict for each in found] == ["failed", "not run", "not run"] and len(tried) == 1
        assert "the file could not be loaded" in found[1].finding.note


class TestPrivacy:
    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("/home/somebody/models/x.ckpt holds nothing", "x.ckpt holds nothing"),
            (r"C:\Users\somebody\x.ckpt holds nothing", "x.ckpt holds nothing"),
            ("read '/srv/data/a/b.bin', 3 of 4", "read 'b.bin', 3 of 4"),
            (f"{Path.home()}/x.ckpt", "x.ckpt"),
            ("models/checkpoints is empty; v/epsilon, 3/4", "models/checkpoints is empty; v/epsilon, 3/4"),
        ],
    )
    def test_of_files_the_name_alone(self, text, told):
        assert plain(text) == told

    def test_where_the_home_is_the_root(self, monkeypatch):
        """As it is in containers that run under any number of a user."""
        monkeypatch.setenv("HOME", "/")
        monkeypatch.setenv("USERPROFILE", "/")
        assert plain("v/epsilon of /srv/a/x.ckpt") == "v/epsilon of x.ckpt"

    def test_places_with_blanks(self, tmp_path):
        place = tmp_path / "my own models" / "x y.ckpt"
        told = said(ValueError(f"{place} holds nothing"), [place])
        assert told == "x y.ckpt holds nothing"
        assert "my own" not in said(FileNotFoundError(2, "No such file", str(place)), [])


class TestReport:
    @pytest.fixture
    def report(self):
        shown = (("a picture", torch.rand(1, 8, 12, 3)),)
        looked = Finding("12 " * 30, "look", "Look at it. " * 20, {}, shown)
        results = gone_through(check("a", lambda: looked), check("b", lambda: Finding("fine")))
        return Report({"torch": "1", "device": "x"}, results, False, "process")

    def test_a_table_keeps_its_width(self, report):
        lines = report.table(120).splitlines()
        assert max(map(len, lines)) <= 120 and any("->" in line for line in lines)
        assert "1 good, 1 look" in report.table()

    def test_pictures(self, report):
        for picture in (report.picture(), report.sheet()):
            assert picture.shape[0] == 1 and picture.shape[-1] == 3
            assert float(picture.min()) >= 0 and float(picture.max()) <= 1
        assert Report({}, [], False, "process").sheet().shape[-1] == 3

    def test_an_older_report_is_replaced_and_nothing_else(self, report, tmp_path):
        other = tmp_path / "other.json"
        for content in ("{}", "[]", "[" * 100_000, "hello", '{"report": "exemplar doctor", "report": 1}'):
            other.write_text(content)
            with pytest.raises(ValueError, match="no report of the doctor"):
                check_place(other)
        own = tmp_path / "own.json"
        save(report, own)
        check_place(own)
        assert json.loads(own.read_text())["report"] == "exemplar doctor"
        one, two = save_new(report, tmp_path, "r", 1), save_new(report, tmp_path, "r", 1)
        assert [one.name, two.name] == ["r_00001_.json", "r_00002_.json"]


class TestExpected:
    def test_every_system_is_recorded(self):
        recorded = expected.read(demo.recorded_path())
        assert set(recorded) == {"exemplar colorization", "color memory", "DDColor", "L-CAD", "VCT", "DEADiff"}
        for system, numbers in recorded.items():
            assert len(numbers) == (64 if system in expected.RELATIVE else 3 * math.prod(expected.GRID))
            assert expected.distance(system, numbers, numbers) == 0

    def test_a_shifted_picture_is_far_off(self):
        picture = Pictures(demo.pictures_path()).scene[1]
        one, other = expected.of_picture(picture), expected.of_picture(picture.roll(64, 2))
        assert expected.distance("DDColor", one, other) > 10 * expected.PICTURES[torch.bfloat16][1] / 3
        assert expected.distance("DDColor", one, one[:-3]) == math.inf

    def test_written_and_read(self, tmp_path):
        expected.write(tmp_path / "r.json", {"a": [1.0, 2.5]}, {"torch": "1"})
        assert expected.read(tmp_path / "r.json") == {"a": [1.0, 2.5]}
        for content in ('{"format": 0}', "[]"):
            (tmp_path / "r.json").write_text(content)
            with pytest.raises(ValueError, match="reinstall the pack"):
                expected.read(tmp_path / "r.json")


class TestNetworks:
    """Of weights that give what no trained network gives."""

    @pytest.mark.parametrize(("colors", "verdict"), [(lambda one, other: other, "good"), (lambda one, _: one, "look")])
    def test_tokens_of_two_pictures(self, colors, verdict):
        one, other = torch.ones(1, 4, 8), torch.arange(32.0).reshape(1, 4, 8)
        made = iter([one, colors(one, other)])
        (check,) = networks.deadiff_checks(
            Pictures(demo.pictures_path()), Once(lambda: lambda _: {"style": next(made)}, "x")
        )
        assert check.run().verdict == verdict


def test_free_memory_of_a_processor_is_told():
    assert re.fullmatch(r"\d+\.\d GiB", environment(torch.device("cpu"))["free memory"])
