"""The odd values of every input of every node."""

from __future__ import annotations

from comfyui_exemplar.nodes import NODES

from ....fixtures.odd import LATENTS, MASKS, OBJECTS, PARTIAL, PICTURES, PROMPTS, TEXTS, constant, odd_for

#: Samplers draw with what L-CAD Condition gives, so parts of a picture are fine there.
ORDINARY = {"ExemplarLCADCondition"}
_KINDS = {"IMAGE": PICTURES, "MASK": MASKS, "LATENT": LATENTS}

#: Names from lists, which come through a link as anything.
NAMES = {
    "unknown": "no such file.safetensors",
    "no text": "",
    "here": ".",
    "above": "..",
    "a path upward": "../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "a path of Windows": "..\\..\\secret.safetensors",
    "a name with an ending more": "embedded.safetensors",
    "capitals": "EMBEDDED",
    "a zero in it": "a\0b",
    "two lines": "a\nb",
    "bytes": b"embedded",
    "a number": 0,
    "on": True,
    "a list": ["embedded"],
    "nothing": None,
    "an object": object(),
}

_LAYERS = ("no such layer", "output.99", "coarse,no", "9" * 30, "output.2-", "a\0b")
_NUMBERS = ("x", "nan", "inf", "1;2", "1 1", "-1e400")
#: Texts that say what can't be, by input, or by node and input.
SAYINGS = {
    "layers": _LAYERS,
    "semantic_layers": _LAYERS,
    "style_layers": _LAYERS,
    ("ExemplarDEADiffEncode", "weights"): (*_NUMBERS, "1, 2"),
    ("ExemplarPromptControl", "weights"): ("bell", "bell=", "bell=nan", "bell=inf", "zebra=2", "bell=x"),
    ("ExemplarColorMemory", "weights"): (*_NUMBERS, "1, 2", "0", "-1"),
    ("ExemplarMergeMemories", "weights"): ("x", "nan", "inf", "1 1", "-1e400", "1, 2, 3", "0", "-1"),
    "colors": ("", "red", "#12345", "#gggggg", "#888", "#c8102e #12", "a\0b"),
    "word_ratios": ("bell", "bell=", "bell=nan", "bell=2", "bell=-1", "zebra=0.5", "bell=x"),
    "blend_words": ("zebra",),
    ("ExemplarLCADInstances", "phrases"): ("a zebra", "a red apple\na zebra"),
    "name": ("", " ", "..", "../x", "a/../../x", "/x", "a\0b", "x" * 300, "two words"),
    "cuts": ("x", "nan", "1.5", "-1"),
    "key_frame_numbers": ("x", "1.5", "-1", "0, 1"),
    "filename_prefix": ("", "../x", "/etc/x", "a/../../x", "a/"),
}


def odd_values(node_id, item):
    """Name -> a good value -> an odd one, for an input."""
    said = SAYINGS.get((node_id, item.id), SAYINGS.get(item.id, ()))
    return _odd(node_id, item) | {f"says {text[:20]!r}": constant(text) for text in said}


def _odd(node_id, item):
    kind = item.get_io_type()
    if hasattr(item, "setting"):
        table = {name: constant(value) for name, value in odd_for(item.setting).items()}
        return table | {"nothing": constant(None)}
    if kind == "COMBO":
        return {name: constant(value) for name, value in NAMES.items()}
    if kind == "STRING":
        return {name: constant(value) for name, value in {**TEXTS, "nothing": None}.items()}
    nothing = {} if item.optional else {"nothing": constant(None)}
    if kind == "CONDITIONING":
        return PROMPTS | nothing if node_id in ORDINARY else PROMPTS | PARTIAL | nothing
    return _KINDS.get(kind, {name: constant(value) for name, value in OBJECTS.items()}) | nothing


def cases():
    """(node's id, input's id, the odd value's name) of all."""
    for node in NODES:
        schema = node.define_schema()
        for item in schema.inputs:
            for name in odd_values(schema.node_id, item):
                yield schema.node_id, item.id, name
