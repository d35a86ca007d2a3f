"""Which objects of Python are the same in another process: digests of what they
compute, or of what they hold.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from decentral.errors import PACKAGE
from decentral.registry import ConfiguredPlugin

_DIGEST = 16
_PATHS = ("stdlib", "platstdlib", "purelib", "platlib")
#: Where code lies that is told by its name alone.
_LIBRARY = (*(sysconfig.get_paths()[name] for name in _PATHS), PACKAGE, "<frozen")


class _Passing(Exception):
    """An object has nothing by which another process would find it again."""


def fingerprint(value: Any) -> str:
    """Return a digest of a Python object that is the same in another process.

    Functions are what they compute: their code, defaults, closures, and the globals
    that they name; data are their numbers; objects are their classes and
    attributes; what a library has is its name. An object without such a digest (a
    generator, an open file, a state that Python does not show) differs from every
    other object, and from itself in another process.

    >>> fingerprint(lambda n: n + 1) == fingerprint(lambda n: n + 1)
    True
    >>> fingerprint(lambda n: n + 1) == fingerprint(lambda n: n + 2)
    False
    """
    found = hashlib.sha256()
    try:
        _tell(value, found.update, {})
    except _Passing:
        return f"{_here()}-{_place_of(value)}"
    return found.hexdigest()[:_DIGEST]


def lasts(value: Any) -> bool:
    """Whether another process would find the same digest."""
    return not fingerprint(value).startswith(_here())


@cache
def _here() -> str:
    return f"here-{uuid.uuid4().hex[:_DIGEST]}"


#: Objects without a digest, kept so that none takes the place of another.
_kept: list[Any] = []


def _place_of(value: Any) -> int:
    for place, one in enumerate(_kept):
        if one is value:
            return place
    _kept.append(value)
    return len(_kept) - 1


def _tell(
    value: Any, tell: Callable[[bytes], None], seen: dict[int, tuple[int, Any]]
) -> None:
    """Tell a digest all that an object is.

    Args:
        value: The object.
        tell: Takes bytes.
        seen: What was told already, by id: objects may hold one another.
    """
    tell(f"<{type(value).__qualname__}:".encode())
    if value is None or value is ... or type(value) in (bool, int, float, complex, str):
        tell(repr(value).encode())
    elif isinstance(value, bytes):
        tell(len(value).to_bytes(8) + value)
    elif id(value) in seen:
        tell(str(seen[id(value)][0]).encode())
    else:
        # Kept alive, so that no other object gets its id.
        seen[id(value)] = len(seen), value
        for part in _parts(value):
            _tell(part, tell, seen)
    tell(b">")


def _parts(value: Any) -> Iterator[Any]:
    """Yield what an object is made of: an object of Python's own, or of a library."""
    if isinstance(value, BuiltinFunctionType):
        yield _name(value)
        owner: Any = value.__self__
        yield None if isinstance(owner, ModuleType) else owner
    elif isinstance(value, FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, CodeType):
        yield from _parts_of_code(value, {})
    elif isinstance(value, type):
        yield from _parts_of_class(value)
    elif isinstance(value, ModuleType):
        file = getattr(value, "__file__", None) or ""
        yield value.__name__
        yield b"" if _is_of_library(file) else Path(file).read_bytes()
    elif isinstance(value, ConfiguredPlugin):
        yield from (value.plugin.kind, value.plugin.target)
        yield from (value.settings, value.common)
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, property):
        yield from (value.fget, value.fset)
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    else:
        yield from _parts_of_data(value)


def _is_of_library(file: str) -> bool:
    return not file or file.startswith(_LIBRARY)


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _parts_of_function(value: FunctionType) -> Iterator[Any]:
    """Yield what a function computes; of a library's its name, and what it holds."""
    if _is_of_library(value.__code__.co_filename):
        yield _name(value)
    else:
        yield from _parts_of_code(value.__code__, value.__globals__)
    yield from (value.__defaults__, value.__kwdefaults__)
    yield from (cell.cell_contents for cell in value.__closure__ or ())


def _parts_of_code(code: CodeType, names: Mapping[str, Any]) -> Iterator[Any]:
    """Yield instructions, constants, and the globals that are named."""
    yield from (code.co_code, code.co_names, code.co_varnames, code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _parts_of_code(constant, names)
        else:
            yield constant
    yield from (names[name] for name in code.co_names if name in names)


#: What every class has, and says nothing of it.
_OF_CLASSES = frozenset(
    {"__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__"}
)


def _parts_of_class(value: type) -> Iterator[Any]:
    """Yield the name of a class, and of the user's what it defines."""
    yield _name(value)
    module = sys.modules.get(value.__module__)
    if value.__module__ != "__main__" and _is_of_library(
        getattr(module, "__file__", None) or ""
    ):
        return
    for name, one in vars(value).items():
        if name not in _OF_CLASSES and not name.startswith("_abc_"):
            yield from (name, one)
    yield from value.__bases__


def _parts_of_data(value: Any) -> Iterator[Any]:
    """Yield the numbers, items or attributes of any other object."""
    import numpy as np
    import torch

    yield type(value)
    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        yield from (str(value.dtype), tuple(value.shape), value.requires_grad)
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, np.ndarray | np.generic):
        array: Any = np.asarray(value)
        yield from (str(array.dtype), array.shape)
        yield array.tolist() if array.dtype.hasobject else array.tobytes()
    elif isinstance(value, torch.dtype | torch.device | PurePath):
        yield str(value)
    elif isinstance(value, Mapping):
        yield from (part for pair in value.items() for part in pair)
    elif isinstance(value, list | tuple | range):
        yield from value
    elif isinstance(value, set | frozenset):
        yield sorted(map(fingerprint, value))
    elif hasattr(value, "nodes") and hasattr(value, "edges"):
        # of networkx, whose attributes hold caches
        yield value.graph
        yield from (list(value.nodes(data=True)), list(value.edges(data=True)))
    elif hasattr(value, "columns") and hasattr(value, "to_numpy"):
        yield from (list(value.columns), list(value.index))
        yield from (value[name].to_numpy() for name in value.columns)
    else:
        yield _state_of(value)


def _state_of(value: Any) -> dict[str, Any]:
    """Return the attributes of an object; raises where they are not all that it is."""
    kind = type(value)
    if kind.__reduce__ is not object.__reduce__ or not hasattr(value, "__dict__"):
        raise _Passing
    if kind.__reduce_ex__ is not object.__reduce_ex__ or hasattr(kind, "__next__"):
        raise _Passing
    slots = [name for one in kind.__mro__ for name in vars(one).get("__slots__", ())]
    given = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return vars(value) | given
