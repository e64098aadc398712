"""CLIP's tokenizer, made from its words and merges alone: no file says which class is made or what else is read.

Byte-level byte-pair encoding of lower-cased texts, as in Radford et al., ICML 2021, arXiv 2103.00020.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...files.plain_json import AGAIN, read_json
from ...settings import shown

#: What stands before and behind every text; the second one also fills up and stands for what is unknown.
BEGIN, END = "<|startoftext|>", "<|endoftext|>"
#: The files that hold the words, as CLIP was published and as transformers 5 saves them.
WORDS, MERGES, WHOLE = "vocab.json", "merges.txt", "tokenizer.json"
#: How the last part of a word ends.
_LAST = "</w>"
#: Bytes of a file of merges, and ids of a vocabulary; the published ones have 0.5 MB and 49,408.
_LONGEST, _MOST = 16_000_000, 1_000_000


@dataclass(frozen=True)
class Words:
    """A vocabulary and how words are put together.

    :param path: the file that it is from, for messages; ``merges_path`` that of the merges.
    :param ids: of every word.
    :param merges: parts that become one, the most frequent first.
    :param added: words that were added later and are never put together.
    """

    path: Path
    merges_path: Path
    ids: Mapping[str, int]
    merges: Sequence[tuple[str, str]]
    added: frozenset[str] = frozenset()


def has_words(folder: Path) -> bool:
    """Whether a folder has the files that :func:`read_words` reads."""
    return (folder / WHOLE).is_file() or ((folder / WORDS).is_file() and (folder / MERGES).is_file())


def read_words(folder: Path) -> Words:
    """The words of a folder with tokenizer.json, else with vocab.json and merges.txt.

    :raises ValueError: files that are missing or damaged; the message names file and place.
    """
    if not has_words(folder):
        raise ValueError(f"{folder} lacks {WORDS} or {MERGES}, the tokenizer's words. {AGAIN}")
    whole = folder / WHOLE
    words = _from_whole(whole) if whole.is_file() else _from_two(folder / WORDS, folder / MERGES)
    _check_ids(words.path, words.ids)
    _check_merges(words)
    return words


def check_complete(words: Words) -> None:
    """Whether any text can be read, and every word be put together.

    :raises ValueError: signs or merges are missing, as in a file that was cut off.
    """
    from tokenizers.pre_tokenizers import ByteLevel

    signs = {sign + last for sign in ByteLevel.alphabet() for last in ("", _LAST)}
    missing = sorted(signs - words.ids.keys())
    if missing:
        raise ValueError(
            f"{words.path} lacks {len(missing)} of the {len(signs)} signs that texts are made of, such as "
            f"{missing[0]!r}. {AGAIN}"
        )
    longer = words.ids.keys() - signs - words.added - {BEGIN, END}
    never = sorted(longer - {first + second for first, second in words.merges})
    if never:
        raise ValueError(
            f"{words.merges_path} never makes {len(never)} of the {len(longer)} longer words of {words.path.name}, "
            f"such as {never[0]!r}: it is cut off or another vocabulary's. {AGAIN}"
        )


def make_tokenizer(words: Words, length: int | None = None) -> Any:
    """CLIP's own tokenizer of transformers over some words.

    :param length: tokens that texts are cut to where they are to be cut, both marks included.
    """
    import transformers

    # before transformers 5, the plain name was that of another class, written in Python
    kind: Any = getattr(transformers, "CLIPTokenizerFast", transformers.CLIPTokenizer)
    options: dict[str, Any] = {} if length is None else {"model_max_length": length}
    if "vocab" in inspect.signature(kind.__init__).parameters:
        return kind(vocab=dict(words.ids), merges=list(words.merges), **options)
    # transformers 4 reads files only: copies of what was checked, in a folder that holds nothing else
    with TemporaryDirectory() as copies:
        vocabulary, merges = Path(copies, WORDS), Path(copies, MERGES)
        vocabulary.write_text(json.dumps(dict(words.ids)), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in words.merges), ""]
        merges.write_text("\n".join(lines), encoding="utf-8")
        return kind(vocab_file=str(vocabulary), merges_file=str(merges), **options)


def _from_two(path: Path, merges_path: Path) -> Words:
    """Words as CLIP was published."""
    ids = read_json(path)
    if merges_path.stat().st_size > _LONGEST:
        raise ValueError(f"{merges_path} has {merges_path.stat().st_size} bytes, more than any merges. {AGAIN}")
    try:
        lines = merges_path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{merges_path} is no text ({error.reason} at byte {error.start}). {AGAIN}") from error
    merges = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        merges.append(_pair(line.split(), f"{merges_path}: line {number}"))
    return Words(path, merges_path, ids, merges)


def _from_whole(path: Path) -> Words:
    """Words as transformers 5 saves them; what the file says of rules around them is CLIP's own anyway."""
    content = read_json(path)
    model = content.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise ValueError(f"{path}: model.vocab is missing, expected words and their ids. {AGAIN}")
    if model.get("end_of_word_suffix") != _LAST:
        raise ValueError(
            f"{path}: model.end_of_word_suffix is {shown(model.get('end_of_word_suffix'))}, expected {_LAST!r}: these "
            f"are the words of another tokenizer than CLIP's. {AGAIN}"
        )
    merges = model.get("merges")
    if not isinstance(merges, list):
        raise ValueError(f"{path}: model.merges is a {type(merges).__name__}, expected a list. {AGAIN}")
    pairs = [
        _pair(merge.split(" ") if isinstance(merge, str) else merge, f"{path}: model.merges[{at}]")
        for at, merge in enumerate(merges)
    ]
    added = content.get("added_tokens") or []
    if not isinstance(added, list) or not all(isinstance(a, dict) and isinstance(a.get("content"), str) for a in added):
        raise ValueError(f"{path}: added_tokens is no list of words and ids. {AGAIN}")
    later = {word["content"]: word.get("id") for word in added}
    return Words(path, path, {**model["vocab"], **later}, pairs, frozenset(later))


def _pair(parts: Any, called: str) -> tuple[str, str]:
    if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) for part in parts):
        raise ValueError(f"{called} is {shown(parts)}, expected two parts of a word. {AGAIN}")
    return parts[0], parts[1]


def _check_ids(path: Path, ids: Mapping[str, Any]) -> None:
    owners: dict[int, str] = {}
    for word, number in ids.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < _MOST:
            raise ValueError(
                f"{path}: the id of {shown(word)} is {shown(number)}, expected a whole number below {_MOST}. {AGAIN}"
            )
        if number in owners:
            raise ValueError(f"{path}: {shown(owners[number])} and {shown(word)} have one id, {number}. {AGAIN}")
        owners[number] = word
    for mark in (BEGIN, END):
        if mark not in ids:
            raise ValueError(f"{path} lacks the word {mark!r} among {len(ids)}. {AGAIN}")


def _check_merges(words: Words) -> None:
    for first, second in words.merges:
        unknown = [word for word in (first, second, first + second) if word not in words.ids]
        if unknown:
            raise ValueError(
                f"{words.merges_path}: {shown(first)} and {shown(second)} are to become one, but {words.path.name} has "
                f"no {shown(unknown[0])}. {AGAIN}"
            )
