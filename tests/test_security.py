"""What SECURITY.md says: which inputs name files, and that no name leads anywhere else."""

import ast
import json
import re
import subprocess
import sys

import pytest

from .fixtures.foreign_names import LOADERS
from .test_architecture import ROOT, imports, name, package

PAGE = (ROOT / "SECURITY.md").read_text("utf-8")

#: Inputs that are texts and name no file: prompts, words, phrases, and expressions of layers and numbers.
TEXTS = {
    "ExemplarApplyDEADiff": {"semantic_layers", "style_layers"},
    "ExemplarAttentionCapture": {"layers"},
    "ExemplarAttentionMap": {"layers", "weights"},
    "ExemplarColorFeatures": {"layers"},
    "ExemplarColorMemory": {"layers", "weights"},
    "ExemplarColorPalette": {"colors"},
    "ExemplarColorStrokes": {"layers"},
    "ExemplarColorize": {"layers", "weights"},
    "ExemplarColorizeVideo": {"cuts", "key_frame_numbers"},
    "ExemplarConceptInversion": {"word"},
    "ExemplarConfidenceBlend": {"weights"},
    "ExemplarDEADiffEncode": {"weights"},
    "ExemplarDualAttentionColor": {"layers", "weights"},
    "ExemplarLCADInstances": {"prompt", "phrases"},
    "ExemplarMatchLatentStatistics": {"weights"},
    "ExemplarMergeLuminance": {"weights"},
    "ExemplarMergeMemories": {"weights"},
    "ExemplarPromptControl": {"source", "target", "weights", "word_ratios", "blend_words"},
    "ExemplarReferringMask": {"phrases"},
    "ExemplarSteadyColor": {"cuts"},
    "ExemplarTranslate": {"word"},
}


def rows(heading):
    """Cells of the table below a heading."""
    (below,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for line in below.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def schemas():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "stand_in" / "dump.py")], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "security_walk.py"), str(tmp_path_factory.mktemp("walk"))],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_input_that_names_something_is_on_the_page(schemas):
    """A list without a setting is one of files; a text is one of the known kinds, or a name."""
    found = {
        (schema["display_name"], item["id"])
        for schema in schemas.values()
        for item in schema["inputs"]
        if (item["type"] == "COMBO" and "setting" not in item)
        or (item["type"] == "STRING" and item["id"] not in TEXTS.get(schema["node_id"], ()))
        or item["id"] == "allow_download"
    }
    assert found == {(row[0], row[1].strip("`")) for row in rows("What a workflow can name")}


def test_texts_are_still_texts(schemas):
    found = {
        node: {item["id"] for item in schema["inputs"] if item["type"] == "STRING"} for node, schema in schemas.items()
    }
    assert all(ids <= found[node] for node, ids in TEXTS.items())


def test_every_name_of_the_page_is_tried(schemas, walk):
    tried = {(schemas[node]["display_name"], input_id) for node, input_id in walk["inputs"].items()}
    named = {(row[0], row[1].strip("`")) for row in rows("What a workflow can name")}
    assert tried == named - {("Load CLIPSeg", "allow_download")}
    assert walk["tried"] > 400 and set(LOADERS) < set(walk["inputs"])


def test_no_name_is_taken_that_no_list_has(walk):
    assert walk["heard"] == 1, "it listens"
    assert walk["taken"] == []


def test_nothing_else_is_opened(walk):
    assert walk["elsewhere"] == []


def test_rules_name_tests_that_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)`", PAGE)
    assert len(named) > 8 and all((ROOT / path).is_file() for path in named)
    assert all("`tests/" in row[-1] for row in rows("Rules"))


def test_what_the_page_says_of_the_owner():
    text = (ROOT / "hosts" / "comfy" / "downloads.py").read_text("utf-8")
    said = {match[0]: match[1] for match in re.findall(r"^(\w+)(?:, \w+)? = \"(\w+)\"", text, re.MULTILINE)}
    assert f"`{said['VARIABLE']}=1`" in PAGE and f"`__{said['OWNER']}/config.ini`" in PAGE
    assert "[exemplar]\nallow_downloads = yes" in PAGE


#: What fetches, and where the package may ask for it. Nothing else of these libraries reaches out.
FETCHERS = {"snapshot_download": {"hosts/comfy/downloads.py", "hosts/diffusers/lcad.py"}}
REACHING = {
    "from_pretrained",
    "hf_hub_download",
    "load_state_dict_from_url",
    "urlopen",
    "urlretrieve",
}


def test_who_fetches():
    """Only with a fixed state of what is fetched; and no network is opened in another way."""
    found = {}
    for path in package():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            # `from_pretrained(None, state_dict=...)` builds a network of weights that are there already
            named = {keyword.arg for keyword in node.keywords}
            builds = called == "from_pretrained" and ast.unparse(node.args[0]) == "None" and "state_dict" in named
            assert builds or called not in REACHING, f"{name(path)}:{node.lineno} calls {called}"
            if called in FETCHERS:
                found.setdefault(called, set()).add(name(path))
                assert {"revision", "token", "allow_patterns"} <= {keyword.arg for keyword in node.keywords}
        for imported, line, *_ in imports(path):
            first = imported.split(".")[0]
            assert first not in ("requests", "urllib", "httpx", "socket", "aiohttp", "http"), f"{name(path)}:{line}"
    assert found == FETCHERS
    for file, constant in (("networks/clipseg/load.py", "HUB_REVISION"), ("hosts/diffusers/lcad.py", "REVISION")):
        assert re.search(rf'^{constant} = "[0-9a-f]{{40}}"$', (ROOT / file).read_text("utf-8"), re.MULTILINE)


#: What lets a script write HTML, run text, store, or reach another server.
UNWANTED = re.compile(
    r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|document|eval|Function|fetch|fetchApi|XMLHttpRequest|WebSocket|"
    r"localStorage|sessionStorage|cookie|import\s*\(|https?:)"
)


def test_scripts_of_the_page_do_what_is_said_and_no_more():
    scripts = {path.name: path.read_text("utf-8") for path in (ROOT / "web").rglob("*.js")}
    said = re.findall(r"`(\w+\.js)`", " ".join(row[0] for row in rows("The scripts in ComfyUI's page")))
    assert sorted(said) == sorted(scripts)
    for file, text in scripts.items():
        code = re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE)
        assert not UNWANTED.search(code), file
        loaded = set(re.findall(r"""\bfrom\s+["']([^"']+)["']""", code))
        own = {f"./{name}" for name in scripts}
        assert loaded <= own | {f"../../../scripts/{name}.js" for name in ("app", "api")}, file
        assert set(re.findall(r"\bapi\.(\w+)", code)) <= {"getCustomNodesI18n", "js"}, file


def test_recommendations_are_judged_wherever_a_user_names_the_file():
    """Networks do not know the settings; hosts, commands and nodes do, and hand them to every loader that asks."""
    trees = {name(path): ast.parse(path.read_text("utf-8")) for path in package()}
    asking = {
        node.name
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and "systems" in {each.arg for each in node.args.kwonlyargs}
    }
    calls = [
        (file, node.lineno, {keyword.arg for keyword in node.keywords})
        for file, tree in trees.items()
        if file.startswith(("hosts/", "cli/", "nodes/", "pipelines/"))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in asking
    ]
    assert "load_ddcolor" in asking and len(calls) > 1
    assert not [(file, line) for file, line, given in calls if "systems" not in given]
