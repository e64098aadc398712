"""README and ``docs/``: links lead somewhere, the way in is short, and what pack authors are shown runs."""

import re

import pytest

from .test_architecture import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")] + sorted((ROOT / "docs").glob("*.md"))
CODE = re.compile(r"```.*?```", re.S)


def anchors(text):
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text("utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there.read_text("utf-8")), f"{page.name}: {target}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name


def test_the_way_in_is_short():
    """Numbers and details stand in docs/; a README that one reads to its end brings people in."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert len(re.findall(r"!\[[^\]]{20,}\]\(docs/pictures/", text)) >= 3, "pictures, each described"


def test_templates_and_commands_that_the_readme_names_are_there():
    from comfyui_exemplar.cli import COMMANDS

    text = (ROOT / "README.md").read_text("utf-8")
    templates = [path.stem for path in (ROOT / "example_workflows").glob("*.json")]
    for name in re.findall(r"[Tt]emplate \*([^*]+)\*", text):
        assert any(stem.startswith(name) for stem in templates), name
    for name in re.findall(r"-m comfyui_exemplar ([\w-]+)", text):
        assert name in {command.NAME for command in COMMANDS}, name


def test_what_pack_authors_are_shown_runs():
    text = (ROOT / "docs" / "pack-authors.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 3
    exec(compile("\n".join(blocks), "docs/pack-authors.md", "exec"), {"__name__": "shown"})  # noqa: S102
