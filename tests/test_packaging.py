"""What is installed and what is published: the version, the wheel's folders, the registry's archive."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .test_architecture import FOLDERS, ROOT, package

#: Never installed, never published.
WORKSHOP = ("tests", "texts", "bench", "training", "findings")

#: What ComfyUI, its page and the registry read beside the code.
SERVED = ("demo", "web", "locales", "example_workflows", "subgraphs", "pyproject.toml", "requirements.txt", "LICENSE")

#: What only translators need of it.
TRANSLATORS = re.compile(r"locales/(?:README\.md|terms\.json|\w+/translated_from\.json)")


def project():
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib  # pytest brings it
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def git(*arguments):
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a checkout")
    return done.stdout.splitlines()


def test_the_version_stands_once():
    """pyproject.toml has it as it stands, the changelog begins with it, no module repeats it."""
    version = project()["project"]["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest is not None and newest[1] == version
    for path in package():
        text = path.read_text("utf-8")
        assert "__version__ =" not in text and f'"{version}"' not in text, path


FOUND = "import setuptools, distutils.core as d; print(*d.run_setup('setup.py', stop_after='init').packages)"


def test_the_wheel_has_every_folder():
    done = subprocess.run([sys.executable, "-c", FOUND], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if "No module named 'setuptools'" in done.stderr:
        pytest.skip("needs setuptools")
    assert done.returncode == 0, done.stderr
    folders = {path.parent.relative_to(ROOT).parts for path in ROOT.rglob("__init__.py")}
    left_out = (*WORKSHOP, "build", "out")
    wanted = {parts for parts in folders if not parts or (parts[0] not in left_out and not parts[0].startswith("."))}
    assert sorted(done.stdout.split()) == sorted(".".join(("comfyui_exemplar", *parts)) for parts in wanted)
    assert {parts[0] for parts in wanted if parts} == set(FOLDERS)


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "py.typed").is_file()
    assert "py.typed" in project()["tool"]["setuptools"]["package-data"]["comfyui_exemplar"]


def test_what_the_nodes_need_is_listed_once():
    """requirements.txt, which ComfyUI installs, asks for nothing that the project does not."""
    named = {re.match(r"[\w-]+", line)[0] for line in project()["project"]["dependencies"]}
    asked = [line for line in (ROOT / "requirements.txt").read_text("utf-8").splitlines() if line[:1].isalpha()]
    assert asked and {re.match(r"[\w-]+", line)[0] for line in asked} <= named


def test_the_archive_has_what_is_needed_and_nothing_else():
    """The registry packs git's files but those that .comfyignore names."""
    kept = set(git("ls-files")) - set(git("ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore"))
    for path in package():
        name = path.relative_to(ROOT).as_posix()
        assert name in kept or not git("ls-files", "--", name), f"{name} is ignored"
    for entry in SERVED:
        assert any(name == entry or name.startswith(f"{entry}/") for name in kept), f"{entry} is ignored"
        tracked = {name for name in git("ls-files", "--", entry) if not TRANSLATORS.fullmatch(name)}
        assert tracked <= kept, f"a part of {entry} is ignored"
    assert not [name for name in kept if name.split("/")[0] in WORKSHOP or TRANSLATORS.fullmatch(name)]
    hidden = [name for name in kept if name.startswith(".")]
    assert not hidden, f"files of the workshop would be published: {hidden}"


def test_the_archive_is_small():
    """Half of what is published are the embedded models; pictures, pages and code are a few megabytes."""
    ignored = set(git("ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore"))
    rest = [name for name in set(git("ls-files")) - ignored if not name.endswith(".safetensors")]
    size = sum(Path(ROOT / name).stat().st_size for name in rest if Path(ROOT / name).is_file())
    assert size < 6e6, f"{len(rest)} files beside the models have {size / 1e6:.1f} MB"
