"""Pickled checkpoints under torch's own guard, with stand-ins for what training programs leave beside the weights.

torch's restricted reader knows tensors and plain containers and refuses every other name that a pickle mentions. Real
checkpoints mention many: Lightning's callbacks, settings, optimizers, numpy's scalars. Nothing of these is needed, so
each harmless name is given to that reader as a class of ours that takes whatever it is handed and does nothing.
Functions of other programs may be mentioned, but not called. No name of a file is ever looked up, nothing is imported
for it, and everything else is refused by its name.
"""

from __future__ import annotations

import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .plain_json import short

#: Names of plain data in Python's own library and in numpy. What other packages call by a capital letter is a class;
#: here such classes run programs, too, so they are named one by one.
_DATA = frozenset(
    (
        *(f"builtins.{name}" for name in ("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "list")),
        *(f"builtins.{name}" for name in ("object", "range", "set", "slice", "str", "tuple", "type")),
        *(f"collections.{name}" for name in ("Counter", "OrderedDict", "defaultdict", "deque")),
        *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *(f"pathlib.{name}" for name in ("Path", "PosixPath", "WindowsPath")),
        *(f"pathlib.{name}" for name in ("PurePath", "PurePosixPath", "PureWindowsPath")),
        *(f"pathlib._local.{name}" for name in ("Path", "PosixPath", "WindowsPath")),
        *(f"pathlib._local.{name}" for name in ("PurePath", "PurePosixPath", "PureWindowsPath")),
        "_codecs.encode",
        "argparse.Namespace",
        "builtins.getattr",
        "copyreg._reconstructor",
        "decimal.Decimal",
        "fractions.Fraction",
        "functools.partial",
        "operator.getitem",
        "re._compile",
        "types.GenericAlias",
        "types.SimpleNamespace",
        "uuid.UUID",
    )
)
_NUMPY = re.compile(
    r"numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|_?core\.numeric\._frombuffer|dtype|ndarray|dtypes\.\w+"
    r"|(bool_?|(u?int|float|complex)\d+)|random\.[\w.]+)"
)
_TYPING = re.compile(r"typing\.[A-Z]\w*")
#: What torch's reader says about a name that it does not know, and about one of ours that turns out to be a container.
_UNKNOWN = re.compile(r"\bGLOBAL ([\w.]+) was not an allowed global")
_ITEMS = re.compile(r"Can only SETITEMS? for dict.* but got <class '([\w.]+)'>")
_LIST = re.compile(r"Can only (?:append to|extend) lists, but got <class '([\w.]+)'>")
#: No checkpoint mentions more names, and no network has more levels.
_MOST_NAMES, _MOST_LEVELS = 500, 50
#: Bytes that a tensor may take which repeats numbers that the file has once.
_MOST_REPEATED = 64_000_000


class StandIn:
    """An object of a checkpoint that nobody needs: it takes whatever it is handed, and does nothing.

    :param state: what the file says of it.
    """

    state: Any = None

    def __new__(cls, *_args: Any, **_named: Any) -> StandIn:
        """One of them, whatever it is called with."""
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """What the file says of it, in place of what its class would make of that."""
        self.state = state


class Mention:
    """A function of another program: settings and networks mention some, but a checkpoint that calls one wants to run.

    :raises pickle.UnpicklingError: it is called.
    """

    def __new__(cls, *_args: Any, **_named: Any) -> Mention:
        """Nothing: it is refused, in the words in which torch's reader names what it refuses."""
        raise pickle.UnpicklingError(f"GLOBAL {cls.__module__}.{cls.__qualname__} is called")


def load_pickle(path: Path, choose: Callable[[Any], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What is chosen of all that a pickled checkpoint holds, on the CPU.

    The file is read twice: first what it is made of, without the tensors' numbers, then the numbers of those that were
    chosen. Nothing is mapped into memory, so that a file that is cut off meanwhile is an error.

    :param choose: called with the whole, stand-ins included; it may look at names and shapes, not at numbers.
    :raises pickle.UnpicklingError: it names what is no plain data; other errors of torch's where it is damaged.
    """
    known: dict[str, type] = {}
    skip = getattr(torch.serialization, "skip_data", None)  # torch 2.6 and newer
    if skip is None or not zipfile.is_zipfile(path):  # the format of before 2020 is read from beginning to end
        return _own(choose(_load(path, known)))
    storages: list[torch.UntypedStorage] = []

    def note(storage: torch.UntypedStorage, _place: str) -> torch.UntypedStorage:
        storages.append(storage)
        return storage

    with skip():
        chosen = choose(_load(path, known, note, storages.clear))
    _check_stored(chosen)
    needed = {tensor.untyped_storage().data_ptr() for tensor in chosen.values()}
    answers = iter([storage.data_ptr() in needed for storage in storages])

    def keep(storage: torch.UntypedStorage, _place: str) -> torch.UntypedStorage:
        return storage if next(answers, True) else torch.UntypedStorage(storage.nbytes(), device="meta")

    return _own(choose(_load(path, known, keep)))


def _own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share no memory: what is a part of something larger, or there twice, is copied."""
    _check_stored(tensors)
    seen: set[int] = set()
    made = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        alone = storage.data_ptr() not in seen and storage.nbytes() == tensor.nbytes
        seen.add(storage.data_ptr())
        made[name] = tensor.detach() if alone else tensor.detach().clone()
    return made


def _check_stored(tensors: Mapping[str, Tensor]) -> None:
    """Whether all numbers of some tensors are in the file, one after another.

    :raises ValueError: naming one that is described without them, or as many more than there are.
    """
    for name, tensor in tensors.items():
        kind = "sparse" if tensor.layout is not torch.strided else "nested" if tensor.is_nested else ""
        if kind or tensor.is_meta:
            raise ValueError(f"its {short(name)} is {kind or 'described without its numbers'}, expected plain numbers")
        if tensor.nbytes > max(_MOST_REPEATED, tensor.untyped_storage().nbytes()):
            raise ValueError(f"its {short(name)} has the shape {tuple(tensor.shape)}, for which it holds no numbers")


def _load(path: Path, stand_ins: dict[str, type], place: Any = "cpu", again: Callable[[], Any] = lambda: None) -> Any:
    """What torch's reader gives, once it knows a stand-in for every harmless name that it meets.

    :param stand_ins: those that are known; more are added.
    :param place: torch's ``map_location``.
    :param again: called before every attempt.
    """
    with path.open("rb") as file:  # by the file's name torch would guess another format
        while True:
            again()
            file.seek(0)
            try:
                with _known_only(list(stand_ins.values())):
                    return torch.load(file, map_location=place, weights_only=True, mmap=False)
            except pickle.UnpicklingError as error:
                if len(stand_ins) > _MOST_NAMES or not _learn(str(error), stand_ins):
                    raise


@contextmanager
def _known_only(classes: list[Any]) -> Iterator[None]:
    """Inside, torch's reader knows these classes beside its own, and nothing that another program told it to accept.

    ComfyUI tells it some of numpy's classes, real ones, which do not go with stand-ins for the others.
    """
    guard = torch.serialization
    told = guard.get_safe_globals()
    guard.clear_safe_globals()
    guard.add_safe_globals(classes)
    try:
        yield
    finally:
        guard.clear_safe_globals()
        guard.add_safe_globals(told)


def _learn(said: str, stand_ins: dict[str, type]) -> bool:
    """Whether a stand-in was made, or made another kind of, after what torch's reader said."""
    if unknown := _UNKNOWN.search(said):
        name = unknown[1] if "." in unknown[1] else f"builtins.{unknown[1]}"
        kind = StandIn if is_data(name) else Mention if is_foreign(name) else None
        if kind is None or name in stand_ins:
            return False
        stand_ins[name] = _stand_in(name, kind)
        return True
    for pattern, container in ((_ITEMS, OrderedDict), (_LIST, list)):
        found = pattern.search(said)
        if found and found[1] in stand_ins and issubclass(stand_ins[found[1]], StandIn):
            stand_ins[found[1]] = _stand_in(found[1], _container(container))
            return True
    return False


def module_tensors(module: StandIn, prefix: str = "", depth: int = _MOST_LEVELS) -> dict[str, Tensor]:
    """Parameters and buffers of a network that was pickled whole, by the names that its state dict has.

    :param depth: how many levels of modules are looked at; a file may say that one is inside itself.
    :raises ValueError: there are more.
    """
    if not depth:
        raise ValueError(f"it holds a network of more than {_MOST_LEVELS} levels of modules")
    state = module.state if isinstance(module.state, Mapping) else {}
    tensors: dict[str, Tensor] = {}
    for kind in ("_parameters", "_buffers"):
        own = state.get(kind)
        if isinstance(own, Mapping):
            tensors |= {f"{prefix}{name}": value for name, value in own.items() if isinstance(value, Tensor)}
    children = state.get("_modules")
    for name, child in children.items() if isinstance(children, Mapping) else ():
        if isinstance(child, StandIn):
            tensors |= module_tensors(child, f"{prefix}{name}.", depth - 1)
    return tensors


def is_data(name: str) -> bool:
    """Whether a name that a pickle mentions is plain data's: told by the name alone, nothing is imported."""
    if name in _DATA or _NUMPY.fullmatch(name) or _TYPING.fullmatch(name):
        return True
    return is_foreign(name) and name.rpartition(".")[2].lstrip("_")[:1].isupper()


def is_foreign(name: str) -> bool:
    """Whether a name is of another package than Python's own library, which can do anything."""
    return name.partition(".")[0] not in sys.stdlib_module_names


def _stand_in(name: str, kind: type) -> type:
    module, _, last = name.rpartition(".")
    return type(last, (kind,), {"__module__": module, "__qualname__": last})


def _container(kind: type) -> type:
    """A class whose instances are plain containers, the only ones that torch's reader fills."""

    class Container:
        def __new__(cls, *_args: Any, **_named: Any) -> Any:
            return kind()

    return Container
