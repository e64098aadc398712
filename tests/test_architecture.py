"""The house rules, read from the source: who may import whom, what is heavy, who may print, how long a file is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = (
    "attention",
    "cli",
    "color",
    "demo",
    "diffusion",
    "files",
    "hosts",
    "memory",
    "networks",
    "nodes",
    "pipelines",
)

#: Modules at the top: the package itself, its command line, and what every floor may use.
ROOT_MODULES = ("__init__", "__main__", "settings")

#: Folder -> the folders that it may import from, besides itself.
ALLOWED = {
    "color": set(),
    "demo": set(),
    "attention": {"color", "diffusion"},
    "diffusion": {"color"},
    "memory": {"color", "attention", "diffusion"},
    "files": {"color", "attention", "diffusion", "memory"},
    "networks": {"color", "demo", "attention", "diffusion", "files"},
    "pipelines": {"color", "attention", "diffusion", "files", "memory", "networks"},
    "hosts": {"color", "demo", "attention", "diffusion", "files", "memory", "networks", "pipelines"},
    "cli": set(FOLDERS) - {"nodes"},
    "nodes": set(FOLDERS) - {"cli"},
}

#: The only imports that go another way, and for types alone.
TYPES_ONLY = {("diffusion/inversion.py", "attention")}

#: Made for work on the package; nothing in it may need them.
WORKSHOP = ("tests", "texts", "bench", "training")

LONGEST = 400

HEAVY = ("transformers", "diffusers", "cv2", "kornia", "matplotlib", "av", "gradio")


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def package():
    return [*(ROOT / f"{stem}.py" for stem in ROOT_MODULES), *sources(*FOLDERS)]


def name(path):
    return path.relative_to(ROOT).as_posix()


def imports(path):
    """(dotted name, line, at import time, for types only) of each import.

    Names inside the package start with a dot and its folder: ``.attention.call``.
    """
    tree = ast.parse(path.read_text("utf-8"))
    inside, guarded = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            inside.update(map(id, ast.walk(node)))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            guarded.update(id(child) for part in node.body for child in ast.walk(part))
    here = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1]
            assert node.level <= len(here) + 1, f"{name(path)}:{node.lineno} climbs out of the package"
            stem = [*base, *(node.module or "").split(".")] if node.module else [*base]
            names = ["." + ".".join([*stem, *([] if node.module else [a.name])]) for a in node.names]
        for found in dict.fromkeys(names):
            yield found, node.lineno, id(node) not in inside, id(node) in guarded


def test_the_reader_of_imports_reads(tmp_path, monkeypatch):
    """Everything below rests on it."""
    (tmp_path / "nodes").mkdir()
    file = tmp_path / "nodes" / "x.py"
    file.write_text(
        "import os, torch.nn\nfrom . import common\nfrom .common import a, b\nfrom ..hosts import comfy\n"
        "from ..hosts.comfy import c\nif TYPE_CHECKING:\n    import cv2\ndef f():\n    import kornia\n"
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert list(imports(file)) == [
        ("os", 1, True, False),
        ("torch.nn", 1, True, False),
        (".nodes.common", 2, True, False),
        (".nodes.common", 3, True, False),
        (".hosts", 4, True, False),
        (".hosts.comfy", 5, True, False),
        ("cv2", 7, True, True),
        ("kornia", 9, False, False),
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_go_one_way(folder):
    for path in sources(folder):
        for imported, line, _, types_only in imports(path):
            if not imported.startswith("."):
                continue
            target = imported.split(".")[1]
            if target == "settings":
                continue
            allowed = target == folder or target in ALLOWED[folder]
            excepted = types_only and (name(path), target) in TYPES_ONLY
            assert allowed or excepted, f"{name(path)}:{line} imports {imported}"


def test_exceptions_are_still_needed():
    found = {
        (name(path), imported.split(".")[1])
        for path in package()
        for imported, _, _, types_only in imports(path)
        if types_only and imported.startswith(".")
    }
    assert found >= TYPES_ONLY


def test_inside_the_package_imports_are_relative():
    """On a user's disk the folder has another name."""
    for path in package():
        for imported, line, *_ in imports(path):
            assert imported.split(".")[0] not in ("comfyui_exemplar", *FOLDERS), f"{name(path)}:{line}"


def test_the_package_needs_no_part_of_the_workshop():
    for path in package():
        for imported, line, *_ in imports(path):
            assert imported.lstrip(".").split(".")[0] not in WORKSHOP, f"{name(path)}:{line} imports {imported}"


def test_only_the_root_imports_nodes():
    for path in package():
        if path.parent.name != "nodes" and path != ROOT / "__init__.py":
            for imported, line, *_ in imports(path):
                assert not imported.startswith(".nodes"), f"{name(path)}:{line}"


def test_only_nodes_and_the_comfy_hosts_know_comfyui():
    core = (
        "comfy",
        "comfy_api",
        "comfy_extras",
        "comfy_execution",
        "folder_paths",
        "nodes",
        "execution",
        "latent_preview",
        "node_helpers",
        "server",
    )
    for path in package():
        here = name(path)
        if here.startswith(("nodes/", "hosts/comfy/")) or here == "__init__.py":
            continue
        for imported, line, *_ in imports(path):
            assert imported.split(".")[0] not in core, f"{here}:{line} imports {imported}"


def test_only_its_host_knows_diffusers_and_only_networks_transformers():
    rooms = {"diffusers": ("hosts/diffusers/",), "transformers": ("hosts/diffusers/", "networks/")}
    for path in package():
        for imported, line, *_ in imports(path):
            allowed = rooms.get(imported.split(".")[0])
            assert allowed is None or name(path).startswith(allowed), f"{name(path)}:{line} imports {imported}"


def test_the_hosts_do_not_know_each_other():
    for path in sources("hosts"):
        for imported, line, *_ in imports(path):
            for one, other in (("comfy", "diffusers"), ("diffusers", "comfy")):
                crossed = name(path).startswith(f"hosts/{one}/") and imported.startswith(f".hosts.{other}")
                assert not crossed, f"{name(path)}:{line} imports {imported}"
    assert [path.name for path in (ROOT / "hosts").glob("*.py")] == ["__init__.py"]


def test_heavy_modules_are_imported_where_they_are_used():
    for path in package():
        for imported, line, at_import, types_only in imports(path):
            heavy = imported.split(".")[0] in HEAVY and at_import and not types_only
            assert not heavy, f"{name(path)}:{line} imports {imported} at its top"


def test_only_the_command_line_prints():
    for path in package():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("print", "eval", "exec")
            ):
                assert name(path).startswith("cli/"), f"{name(path)}:{node.lineno} calls {node.func.id}"


def test_no_module_keeps_state_in_globals():
    for path in package():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            assert not isinstance(node, ast.Global), f"{name(path)}:{node.lineno} writes a global"


def test_no_file_is_long():
    """Two files then: nobody reads five hundred lines for one thing."""
    everywhere = [path for path in ROOT.rglob("*.py") if not path.relative_to(ROOT).parts[0].startswith((".", "build"))]
    assert len(everywhere) > 200
    long = {name(path): lines for path in everywhere if (lines := len(path.read_text("utf-8").splitlines())) > LONGEST}
    assert not long, f"more than {LONGEST} lines: {long}"


def test_a_system_has_one_stem():
    """``ddcolor`` is ddcolor in every room: its flow, its nodes, its network."""
    networks = {path.parent.name for path in (ROOT / "networks").glob("*/load.py")}
    assert networks >= {"ddcolor", "lcad", "deadiff", "clipseg"}
    assert networks == {path.parent.name for path in (ROOT / "networks").glob("*/model.py")}, "model.py and load.py"
    for system in {"exemplar", "vct", *networks}:  # these two have no network of their own
        for room in ("pipelines", "nodes"):
            assert (ROOT / room / f"{system}.py").is_file(), f"{room} has no {system}.py"


LIGHT = """
import sys, comfyui_exemplar{more}
print(sorted(m for m in {heavy} if m in sys.modules))
"""


@pytest.mark.parametrize(
    "more, heavy",
    [
        ("", ("torch", "numpy", "PIL", *HEAVY)),
        (", comfyui_exemplar.__main__, comfyui_exemplar.demo", ("torch", *HEAVY)),
        (
            ", comfyui_exemplar.pipelines.exemplar, comfyui_exemplar.hosts.diffusers.host, "
            "comfyui_exemplar.hosts.diffusers.checkpoint",
            HEAVY,
        ),
    ],
)
def test_importing_is_light(more, heavy, tmp_path):
    """ComfyUI imports every pack at start; ``--help`` should not wait for torch."""
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(more=more, heavy=heavy)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
