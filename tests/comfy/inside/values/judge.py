"""What came of a run: the right result, or one clear error; nothing else."""

from __future__ import annotations

import re


def refusal(schema, names, error, plain=False):
    """What is wrong with an error, "" for nothing: it names the node, one of the inputs, what was found and expected.

    :param plain: about what a text says: then the message quotes the text, and says it in its own words.
    """
    said = str(error)
    if not isinstance(error, (ValueError, FileNotFoundError)):
        return f"raw {type(error).__name__}: {said[:160]}"
    if not said.startswith(f"{schema.display_name}: "):
        return f"no node: {said[:300]}"
    if plain and "'" in said and "\n" not in said:
        return ""
    if not any(re.search(rf"\b{name}\b", said) for name in names):
        return f"no input: {said[:300]}"
    if not ("found" in said or " is " in said):
        return f"nothing found: {said[:300]}"
    if not ("expected" in said or "it must" in said):
        return f"nothing expected: {said[:300]}"
    if "\n" in said or len(said) > 700:
        return f"long: {said[:300]}"
    return ""
