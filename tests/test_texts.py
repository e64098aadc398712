"""The words a user reads: what is generated is current, translations are complete and not behind their English."""

import json
import re
from dataclasses import replace

import pytest

from texts import checks, locales, names, node_tables, pages, workflows
from texts.__main__ import main
from texts.schemas import ROOT, Input, read


@pytest.fixture(scope="module")
def nodes():
    return read()


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
def test_nothing_to_complain_about(check, nodes):
    complaints = check(nodes)
    assert not complaints, "see locales/README.md:\n" + "\n".join(complaints)


# How the pages are made

NUMBER = Input("depth", "INT", "How deep.", False, True, False, 5, (), False, None, None)


@pytest.mark.parametrize(
    ("changes", "english", "chinese"),
    [
        ({}, "default 5", "默认 5"),
        ({"default": 1e-05}, "default 1e-05", "默认 1e-05"),
        ({"default": True}, "default on", "默认 开"),
        ({"default": ""}, "default empty", "默认 空"),
        ({"default": None}, "default –", "默认 –"),
        ({"default": -1, "auto": True, "behind_auto": 10.0}, "default auto (10)", "默认 自动（10）"),
        (
            {"default": "guided", "published": "smooth"},
            "default guided (published: smooth)",
            "默认 guided（已发表程序：smooth）",
        ),
        ({"published": 5.0}, "default 5", "默认 5"),
        ({"widget": False}, "", ""),
        ({"widget": False, "optional": True}, "optional", "可选"),
    ],
)
def test_behind_a_name_stands_the_default(changes, english, chinese):
    item = replace(NUMBER, **changes)
    assert pages.shown(item, pages.WORDS["en"]) == english
    assert pages.shown(item, pages.WORDS["zh"]) == chinese


def test_options_and_identifiers_are_quoted():
    text = "model keeps the model's own precision, float16 halves it; all but one leaves input_mask out, all does not."
    assert pages.quoted(text, ("model", "float16", "all", "all but one")) == (
        "`model` keeps the model's own precision, `float16` halves it; `all but one` leaves `input_mask` out, `all` "
        "does not."
    )
    assert pages.quoted("A file in models/ddcolor, or of models/upscale_models.") == (
        "A file in `models/ddcolor`, or of `models/upscale_models`."
    )


def test_another_script_quotes_every_identifier():
    quoted = pages.quoted("低则 depth 步，exact 和 exact。", ("exact",), ("depth", "x"))
    assert quoted == "低则 `depth` 步，`exact` 和 `exact`。"
    quoted = pages.quoted("用 one per image 时写 embedding:name。", (), ("image", "name", "one per image"))
    assert quoted == "用 `one per image` 时写 embedding:name。"


def test_a_page_says_once_what_auto_means(nodes):
    node = nodes["ExemplarDDColor"]
    made = pages.page(
        node,
        "en",
        "<!-- inputs -->\n<!-- /inputs -->\n<!-- outputs -->\n<!-- /outputs -->\n",
        names.Tongue(locales.english(nodes)["nodeDefs"], {}, {}),
    )
    sentence = pages.WORDS["en"].auto_sentence
    assert made.count(sentence) == 1 and f".\n\n{sentence}\n" in made


ZH = pages.WORDS["zh"].name


def test_ids_of_a_translation_have_their_names_behind_them_once_a_section():
    own = {"guidance": ["引导"], "image": ["图像", "结果"]}
    below = "\n## 如何\n`image`（结果）接 `vae`。\n<!-- inputs -->\n`image`"
    text = "接 `guidance` 和 `image` 以及 `depth`，`guidance`。" + below
    made = names.named(text, ZH, own, [own, {"depth": ["深度", "层深"]}, {"depth": ["深度"]}])
    assert made == "接 `guidance`（引导）和 `image`（图像）以及 `depth`（深度），`guidance`。" + below
    assert names.named(made, ZH, own, [own, {"depth": ["深度"]}]) == made


def test_what_stands_behind_an_id_in_brackets_is_its_name():
    with pytest.raises(ValueError, match=r"behind `guidance` stands （引導）, its name is （引导）"):
        names.named("接 `guidance`（引導）。", ZH, {"guidance": ["引导"]}, [])


def test_names_that_repeat_the_id_are_left_out(nodes):
    entry = {"inputs": {"lcad_vae": {"name": "L-CAD VAE"}, "image": {"name": "图像"}}, "outputs": {}}
    assert names.names_of(nodes["ExemplarLCADDecode"], entry) == {"image": ["图像"]}


def test_choices_have_a_translation_that_the_browser_looks_up(nodes):
    script = (ROOT / "web" / "js" / "options.js").read_text(encoding="utf-8")
    assert f'"{locales.OPTIONS}"' in script and "getOptionLabel" in script
    found = names.options(nodes)
    assert "one per image" in found and not any(option.isdigit() for option in found)
    for language in locales.TRANSLATED:
        assert locales.load(language, "main")[locales.OPTIONS].keys() == set(found)


def test_example_workflows_are_shown_in_the_page_s_language():
    script = (ROOT / "web" / "js" / "workflows.js").read_text(encoding="utf-8")
    assert f'"{locales.NOTES}"' in script and f'"{locales.TITLES}"' in script
    notes, titles = workflows.texts()
    assert notes["Color by example"].startswith("## Color by example") and "Heat map" in titles
    names = {path.stem for path in workflows.FOLDER.glob("*.json")}
    assert names == notes.keys(), "each has one note"


#: Bold and italic letters, with the character before and after.
EMPHASIS = re.compile(r"(.?)(?<!\*)(\*{1,2})(?![\s*])([^*\n]+)\2(?!\*)(?=(.?))")


@pytest.mark.parametrize("language", locales.TRANSLATED)
def test_translated_notes_show_their_emphasis(language):
    """Markdown takes `**（word）**and` for asterisks: it wants a space between a bracket and a letter. Code is blue on
    blue in notes, so it is only where the English has it.
    """
    english, _ = workflows.texts()
    for name, note in locales.load(language, "main")[locales.NOTES].items():
        assert note.count("`") == english[name].count("`"), name
        for before, _, inner, after in EMPHASIS.findall(note):
            opens = re.match(r"\w", inner) or not re.match(r"\w", before)
            closes = re.search(r"\w$", inner) or not re.match(r"\w", after)
            assert opens and closes, f"{name}: {before}{inner}{after}"


@pytest.mark.parametrize("language", locales.TRANSLATED)
def test_other_nodes_go_by_their_names(nodes, language):
    """Where the English tooltip, note or page names a node, the translation does so by the name that it has there."""
    notes, _ = workflows.texts()
    translated = locales.load(language, "main")[locales.NOTES]
    pairs = [(name, note, translated[name]) for name, note in notes.items()]
    for node in nodes:
        english, other = (
            pages.without_blocks(pages.page_path(node, tongue).read_text("utf-8")) for tongue in ("en", language)
        )
        pairs.append((node, re.sub("`[^`]*`", "", english), other))
    english, other = (locales.flat(locales.load(tongue, "nodeDefs")) for tongue in ("en", language))
    pairs += [(key, text, other[key]) for key, text in english.items()]
    called = {node.name: locales.load(language, "nodeDefs")[node.id]["display_name"] for node in nodes.values()}
    for where, text, translation in pairs:
        for name, own in called.items():
            if " " in name and re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text):
                assert own.split("（")[0] in translation, f"{where}: {name} is {own}"


def test_titles_of_groups_and_of_what_is_within_subgraphs_are_read(tmp_path, monkeypatch):
    inner = {"nodes": [{"type": "A", "title": "inner"}, {"type": "B"}]}
    node = {"type": "MarkdownNote", "title": "note", "widgets_values": ["Said."]}
    graph = {"nodes": [node], "groups": [{"title": "group"}], "definitions": {"subgraphs": [inner]}}
    (tmp_path / "one.json").write_text(json.dumps(graph), encoding="utf-8")
    monkeypatch.setattr(workflows, "FOLDER", tmp_path)
    assert workflows.texts() == ({"one": "Said."}, {"group": "group", "inner": "inner", "note": "note"})


def test_a_default_that_is_a_choice_has_its_translation_behind_it():
    item = replace(NUMBER, default="fit", options=("fit", "clip"))
    assert pages.shown(item, pages.WORDS["zh"], {"fit": "变淡", "clip": "clip"}) == "默认 fit（变淡）"
    assert pages.shown(replace(item, default="clip"), pages.WORDS["zh"], {"clip": "clip"}) == "默认 clip"


def test_words_that_the_dictionary_rules_out_are_named():
    term = {"en": "inversion", "ja": "インバージョン", "not": {"ja": ["反転(?!器)"]}, "but": {"ja": ["マスクを反転"]}}
    assert checks._ruled_out("DDIM 反転。", term, "ja") == "反転"
    assert not checks._ruled_out("マスクを反転。", term, "ja") and not checks._ruled_out("反転器", term, "ja")
    assert not checks._ruled_out("反转", term, "zh"), "another language's words"


def test_the_dictionary_has_each_term_in_both_languages():
    dictionary = json.loads((ROOT / "locales" / "terms.json").read_text(encoding="utf-8"))
    names = [term["en"] for term in dictionary]
    assert names == sorted(names, key=str.casefold) and len(set(names)) == len(names)
    for term in dictionary:
        assert term.keys() <= {"en", "zh", "ja", "not", "but", "note"} and term["zh"]
        for language, patterns in term.get("not", {}).items():
            assert not checks._ruled_out(term[language], term, language), patterns


@pytest.mark.parametrize(
    ("recipe", "complaint"),
    [
        ("Connect `ddcolor` and `image`.\\\nTurn `resolution` first: low is calm, high has more detail.", ""),
        ("", "2 paragraphs"),
        ("Connect `ddcolor`.\n\nTurn `resolution`.", "4 paragraphs"),
        ("Connect `ddcolor`. And `image`. Turn `resolution`.", "3 sentences"),
        ("Connect the model to the picture.", "names no input"),
        ("Connect `ddcolor` and `image`.", "names no widget to turn first, such as resolution"),
    ],
)
def test_a_page_has_a_recipe(recipe, complaint, nodes):
    text = f"# DDColor\n\nColors.\n\n{recipe}\n\n## When\n\nAlways.\n"
    found = checks._recipe(nodes["ExemplarDDColor"], text, "en")
    assert complaint in found and bool(found) == bool(complaint)


def test_the_first_sentence_ends_before_a_capital():
    assert (
        node_tables.first_sentence("For SD 1.x MODELs (Kang et al. 2023). More.")
        == "For SD 1.x MODELs (Kang et al. 2023)"
    )
    assert node_tables.first_sentence("Only one.") == "Only one"


def test_what_stands_between_markers_is_replaced_and_nothing_else():
    text = "a\n<!-- inputs -->\nold\n<!-- /inputs -->\nb\n"
    made = pages.replaced(text, "inputs", "new \\1")
    assert made == "a\n<!-- inputs -->\n\nnew \\1\n\n<!-- /inputs -->\nb\n"
    assert pages.replaced(made, "inputs", "new \\1") == made
    assert pages.without_blocks(made) == pages.without_blocks(text)
    with pytest.raises(ValueError, match="<!-- outputs -->"):
        pages.replaced(text, "outputs", "new")


# What is recorded of translations


@pytest.fixture
def home(tmp_path, monkeypatch, nodes):
    """A place of its own for the Chinese locale and its record."""
    monkeypatch.setattr(locales, "path", lambda language, file: tmp_path / f"{language}-{file}.json")
    for file, tree in locales.english(nodes).items():
        locales.save("zh", file, tree)
    return tmp_path


KEY = "ExemplarDDColor.inputs.image.tooltip"


def reworded(nodes):
    node = nodes["ExemplarDDColor"]
    inputs = [replace(i, tooltip="Reworded.") if i.id == "image" else i for i in node.inputs]
    return {**nodes, node.id: replace(node, inputs=tuple(inputs))}


def test_a_translation_is_behind_when_the_english_has_changed(home, nodes):
    assert KEY in locales.behind(nodes, "zh"), "nothing is recorded yet"
    locales.accept(nodes, "zh")
    assert locales.behind(nodes, "zh") == []
    changed = reworded(nodes)
    assert locales.behind(changed, "zh") == [KEY]
    assert locales.accept(changed, "zh", [KEY]) == [KEY]
    assert locales.behind(changed, "zh") == []


def test_accept_takes_beginnings_that_end_in_a_dot_and_refuses_what_is_not_there(home, nodes):
    changed = locales.accept(nodes, "zh", ["ExemplarDDColor.inputs."])
    assert KEY in changed and all(key.startswith("ExemplarDDColor.inputs.") for key in changed)
    assert json.loads((home / "zh-translated_from.json").read_text()).keys() == set(changed)
    with pytest.raises(ValueError, match="no text 'ExemplarNothing'"):
        locales.accept(nodes, "zh", ["ExemplarNothing"])


def test_a_node_is_accepted_with_its_help_page(home, nodes):
    changed = locales.accept(nodes, "zh", ["ExemplarDDColor."])
    assert KEY in changed and "pages.ExemplarDDColor" in changed and "pages.ExemplarLoadDDColor" not in changed


def test_the_command_wants_keys_or_all(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["texts", "accept", "zh"])
    assert main() == 1
    assert "--all" in capsys.readouterr().err


def test_complaints_name_what_is_missing_superfluous_and_untranslated(home, nodes):
    tree = locales.load("zh", "nodeDefs")
    del tree["ExemplarDDColor"]["inputs"]["image"]["tooltip"]
    tree["ExemplarDDColor"]["inputs"]["other"] = {"name": "other"}
    locales.save("zh", "nodeDefs", tree)
    complaints = checks._translation(nodes, "zh")
    assert f"missing {KEY}" in complaints
    assert "superfluous ExemplarDDColor.inputs.other.name" in complaints
    assert "untranslated ExemplarDDColor.description" in complaints


def test_what_auto_means_is_added_to_translations(home, nodes):
    tree = locales.load("zh", "nodeDefs")
    inputs, sentence = tree["ExemplarDDColor"]["inputs"], pages.WORDS["zh"].auto_sentence
    inputs["resolution"]["tooltip"] = "边长。"
    inputs["strength"]["tooltip"] = f"强度。{sentence}"
    locales.save("zh", "nodeDefs", tree)
    made = locales.definitions(nodes, "zh")["ExemplarDDColor"]["inputs"]
    assert made["resolution"]["tooltip"] == f"边长。{sentence}"
    assert made["strength"]["tooltip"] == "强度。", "it is not auto"
    assert f"边长。{sentence}" in checks.outputs(nodes)[0][locales.path("zh", "nodeDefs")], "`make texts` writes it"


def test_every_missing_page_is_named_and_the_rest_is_made(nodes):
    node = nodes["ExemplarDDColor"]
    more = {**nodes, "ExemplarOne": replace(node, id="ExemplarOne"), "ExemplarTwo": replace(node, id="ExemplarTwo")}
    made, hindrances = checks.outputs(more)
    assert len(hindrances) == 6 and pages.page_path("ExemplarDDColor", "ja") in made
    assert "ExemplarTwo has no help page in 'zh': write web/docs/ExemplarTwo/zh.md" in hindrances
    assert set(hindrances) <= set(checks.generated(more)) and checks.help_pages(more) == []


def test_a_page_waits_for_the_translated_name(home, nodes):
    tree = locales.load("zh", "nodeDefs")
    del tree["ExemplarDDColor"]
    locales.save("zh", "nodeDefs", tree)
    said = "\n".join(checks.help_pages(nodes))
    assert "zh.md: the first line is '# ' and ExemplarDDColor.display_name, which is not translated yet" in said


def test_numbers_and_options_survive_translation(home, nodes):
    tree = locales.load("zh", "nodeDefs")
    tree["ExemplarDDColor"]["inputs"]["image"]["tooltip"] += " 17"
    tree["ExemplarApplyDEADiff"]["inputs"]["weighting"]["tooltip"] = "{}"
    locales.save("zh", "nodeDefs", tree)
    complaints = "\n".join(checks._shown(nodes, "zh"))
    assert f"{KEY} has other numbers than the English: ['17']" in complaints
    assert "translates 'plain at 0'" in complaints
    assert "ExemplarApplyDEADiff.inputs.weighting.tooltip is empty or holds one of" in complaints
