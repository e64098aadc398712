"""Names that inputs, options and recommendations had: what was made with them still works."""

import json
import shutil
import subprocess

import pytest

from comfyui_exemplar.cli import main
from comfyui_exemplar.files.headers import RECOMMENDED_KEY
from comfyui_exemplar.pipelines.recommended import read_recommended
from comfyui_exemplar.settings import RENAMED_FROM
from texts.schemas import read

from .test_architecture import ROOT

#: Every input that was ever renamed, as prompts of version 0.1.0 have it; a line here never changes again.
RENAMED = {
    "ExemplarColorGuidance": {"weight": "guidance"},
    "ExemplarPivotInversion": {"guidance": "cfg"},
    "ExemplarMergeLuminance": {"gray_image": "image", "match_statistics": "match_chroma", "chroma": "saturation"},
    "ExemplarLatentLuminance": {"gray_image": "image"},
}


@pytest.fixture(scope="module")
def nodes():
    return read()


def test_what_was_renamed(nodes):
    found = {name: {i.formerly: i.id for i in node.inputs if i.formerly} for name, node in nodes.items()}
    assert {name: former for name, former in found.items() if former} == RENAMED


@pytest.fixture
def page(tmp_path):
    """Runs an expression over ``renaming.js`` in node; what it gives comes back."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    shutil.copy(ROOT / "web" / "js" / "renaming.js", tmp_path / "renaming.mjs")

    def run(expression, **values):
        given = "".join(f"const {name} = {json.dumps(value)}\n" for name, value in values.items())
        script = f"import * as js from './renaming.mjs'\n{given}process.stdout.write(JSON.stringify({expression}))"
        (tmp_path / "run.mjs").write_text(script, encoding="utf-8")
        done = subprocess.run([node, "run.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


class TestThePage:
    def test_knows_what_was_renamed_from_the_declarations(self, page):
        definition = {
            "input": {
                "required": {"image": ["IMAGE", {RENAMED_FROM: "gray_image"}], "vae": ["VAE"]},
                "optional": {"saturation": ["FLOAT", {"default": 1, RENAMED_FROM: "chroma"}]},
            }
        }
        assert page("js.renamesOf(d)", d=definition) == {"gray_image": "image", "chroma": "saturation"}
        assert page("js.renamesOf(d)", d={"input": {"required": {"vae": ["VAE", {}]}}}) is None
        assert page("js.renamesOf(d)", d={}) is None

    def renamed(self, page, workflow):
        expression = "(js.renameInWorkflow(w, new Map(Object.entries(r))), w)"
        return page(expression, w=workflow, r=RENAMED)

    def merge(self, number=3, **more):
        inputs = [
            {"name": "color_image", "type": "IMAGE", "link": 1},
            {"name": "gray_image", "type": "IMAGE", "link": 2},
            {"name": "match_statistics", "type": "FLOAT", "widget": {"name": "match_statistics"}, "link": 7},
        ]
        return {"id": number, "type": "ExemplarMergeLuminance", "inputs": inputs, "widgets_values": [1, 1], **more}

    def test_links_keep_their_inputs(self, page):
        (node,) = self.renamed(page, {"nodes": [self.merge()]})["nodes"]
        assert [(i["name"], i["link"]) for i in node["inputs"]] == [
            ("color_image", 1),
            ("image", 2),
            ("match_chroma", 7),
        ]
        assert node["inputs"][2]["widget"] == {"name": "match_chroma"} and node["widgets_values"] == [1, 1]

    def test_values_by_name(self, page):
        named = {"match_statistics": 0.25, "chroma": 0.5, "gamut": "fit"}
        (node,) = self.renamed(page, {"nodes": [self.merge(widgets_values_named=named)]})["nodes"]
        assert node["widgets_values_named"] == {"match_chroma": 0.25, "saturation": 0.5, "gamut": "fit"}

    def test_other_nodes_are_left_alone(self, page):
        other = {"id": 1, "type": "ExemplarApplyDEADiff", "inputs": [{"name": "weight", "widget": {"name": "weight"}}]}
        workflow = {"nodes": [other, {"id": 2, "type": "Note"}], "extra": {}}
        assert self.renamed(page, workflow) == workflow

    def test_the_new_name_wins(self, page):
        inputs = [{"name": "gray_image", "link": 1}, {"name": "image", "link": 2}]
        named = {"match_statistics": 0.25, "match_chroma": 0.75}
        node = {"id": 1, "type": "ExemplarMergeLuminance", "inputs": inputs, "widgets_values_named": named}
        (found,) = self.renamed(page, {"nodes": [node]})["nodes"]
        assert found["inputs"] == inputs and found["widgets_values_named"] == {"match_chroma": 0.75}

    def test_subgraphs_and_what_names_their_widgets(self, page):
        outside = {"id": 9, "type": "sub", "properties": {"proxyWidgets": [["3", "chroma"], ["-1", "chroma"]]}}
        found = self.renamed(
            page,
            {
                "nodes": [outside, self.merge(4)],
                "definitions": {"subgraphs": [{"id": "sub", "nodes": [self.merge(3)]}]},
                "extra": {"linearData": {"inputs": [[4, "match_statistics", {"height": 2}], [9, "chroma"]]}},
            },
        )
        (inside,) = found["definitions"]["subgraphs"][0]["nodes"]
        assert [i["name"] for i in inside["inputs"]] == ["color_image", "image", "match_chroma"]
        assert found["nodes"][0]["properties"]["proxyWidgets"] == [["3", "saturation"], ["-1", "chroma"]]
        assert found["extra"]["linearData"]["inputs"] == [[4, "match_chroma", {"height": 2}], [9, "chroma"]]


def test_a_file_that_recommends_under_a_former_name(tmp_path):
    """The embedded model is one."""
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    for section, expected in (
        ({"guidance": 4.0, "steps": 5}, {"cfg": 4.0, "steps": 5}),
        ({"guidance": 4.0, "cfg": 3.0}, {"cfg": 3.0}),
    ):
        recommended = {"vct": section, "exemplar": {"guidance": 2.0}}
        save_file({"x": torch.zeros(1)}, path, {RECOMMENDED_KEY: json.dumps(recommended)})
        assert read_recommended(path) == {"vct": expected, "exemplar": {"guidance": 2.0}}
    save_file({"x": torch.zeros(1)}, path, {RECOMMENDED_KEY: json.dumps({"vct": {"guidance": 500.0}})})
    with pytest.raises(ValueError, match=r"vct\.cfg is 500\.0; it must lie between"):
        read_recommended(path)


@pytest.mark.parametrize("command", ["translate", "describe"])
def test_an_option_that_was_renamed(command, capsys):
    """The former name is understood, and not offered."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    offered = capsys.readouterr().out
    assert "--cfg" in offered and "--guidance" not in offered
    for option in ("--cfg", "--guidance"):
        code = main([command, "gray.png", *(("--reference", "r.png") if command == "translate" else ()), option, "900"])
        assert code and "--cfg is 900" in capsys.readouterr().err
