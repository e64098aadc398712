"""The scripts in ``web/js`` without a browser: they run in node, beside a front end of a few lines."""

import json
import shutil
import subprocess

import pytest

from texts import locales, workflows

from .test_architecture import ROOT

#: What the scripts ask of ComfyUI's front end.
APP = """
export const app = {
  extensions: {},
  registerExtension(extension) { this.extensions[extension.name] = extension },
  extensionManager: { setting: { get: () => given.language } },
}
"""
API = """
export const api = {
  asked: 0,
  async getCustomNodesI18n() { this.asked += 1; return given.texts },
}
"""


@pytest.fixture
def page(tmp_path):
    """Runs statements after a script was loaded and its ``init`` was called; what they leave in ``made`` comes back."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    pack = tmp_path / "extensions" / "pack" / "js"
    shutil.copytree(ROOT / "web" / "js", pack)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "package.json").write_text('{"type": "module"}', "utf-8")
    (tmp_path / "scripts" / "app.js").write_text(APP, "utf-8")
    (tmp_path / "scripts" / "api.js").write_text(API, "utf-8")
    texts = {language: locales.load(language, "main") for language in locales.LANGUAGES}

    def run(script, extension, statements, language):
        lines = (
            f"globalThis.given = {json.dumps({'texts': texts, 'language': language})}",
            "const { app } = await import('./scripts/app.js')",
            f"await import('./extensions/pack/js/{script}')",
            f"const extension = app.extensions['{extension}']",
            "await extension.init()",
            "let made",
            statements,
            "process.stdout.write(JSON.stringify(made))",
        )
        (tmp_path / "run.js").write_text("\n".join(lines), "utf-8")
        done = subprocess.run([node, "run.js"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


class TestOptions:
    """A combo that has labels gets no filter on the classic canvas, so that no other combo may get them."""

    def labels(self, page, language, values, kind="ExemplarDDColor"):
        """What each choice is shown as; None where the front end shows it as it is."""
        return page(
            "options.js",
            "Exemplar.Options",
            f"const widget = {{ type: 'combo', options: {{ values: {json.dumps(values)} }} }}\n"
            f"extension.nodeCreated({{ comfyClass: '{kind}', widgets: [widget] }})\n"
            "const shown = widget.options.getOptionLabel\n"
            "made = shown ? widget.options.values.map(shown) : null",
            language,
        )

    def test_choices_have_their_translation_behind_them(self, page):
        choices = locales.load("zh", "main")[locales.OPTIONS]
        assert self.labels(page, "zh", ["fit", "clip"]) == [f"{name}（{choices[name]}）" for name in ("fit", "clip")]

    @pytest.mark.parametrize(
        ("language", "values"),
        [
            ("en", ["fit", "clip"]),
            ("zh", ["embedded", "constructor", "mine.safetensors"]),
            ("zh", ["float16", "bfloat16"]),
            ("fr", ["fit", "clip"]),
        ],
    )
    def test_where_nothing_is_translated_and_among_files_combos_are_left_alone(self, page, language, values):
        assert self.labels(page, language, values) is None

    def test_other_packs_nodes_are_left_alone(self, page):
        assert self.labels(page, "zh", ["fit", "clip"], "KSampler") is None


class TestWorkflows:
    NAME = "Color by example"

    def opened(self, page, language, note):
        title = next(iter(workflows.texts()[1]))
        graph = {
            "nodes": [
                {"type": "MarkdownNote", "title": title, "widgets": [{"value": note}]},
                {"type": "KSampler", "title": "constructor"},
            ],
            "groups": [],
        }
        return page(
            "workflows.js",
            "Exemplar.Workflows",
            f"app.graph = {json.dumps(graph)}\nextension.afterConfigureGraph()\nmade = app.graph",
            language,
        ), graph

    def test_an_example_is_in_the_pages_language(self, page):
        texts = locales.load("ja", "main")
        found, given = self.opened(page, "ja", workflows.texts()[0][self.NAME])
        note, other = found["nodes"]
        assert note["widgets"][0]["value"] == texts[locales.NOTES][self.NAME]
        assert note["title"] == texts[locales.TITLES][given["nodes"][0]["title"]] and other["title"] == "constructor"

    def test_what_a_user_changed_or_reads_in_english_is_left_alone(self, page):
        note = workflows.texts()[0][self.NAME]
        for language, text in (("en", note), ("ja", f"{note} And more.")):
            found, given = self.opened(page, language, text)
            assert found == given


@pytest.mark.parametrize(("language", "asked"), [("en", 0), ("zh", 1)])
def test_texts_are_asked_for_once_and_in_english_not_at_all(page, language, asked):
    statements = (
        "await import('./extensions/pack/js/workflows.js')",
        "for (const each of Object.values(app.extensions)) await each.init()",
        "made = (await import('./scripts/api.js')).api.asked",
    )
    assert page("options.js", "Exemplar.Options", "\n".join(statements), language) == asked
