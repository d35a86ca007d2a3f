"""A signature as a schema: keyword-only parameters are settings.

A setting that is a word of Python, such as ``from``, is a parameter with an
underscore behind it. The section ``Args:`` of the docstring says what each is.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from keyword import iskeyword
from math import isfinite
from typing import Any, cast

from decentral.errors import ConfigError, reason
from decentral.spec import scalar, spell

_REQUIRED = inspect.Parameter.empty

#: The sections of a docstring that name parameters or attributes: each up to the
#: next line that is as far left.
_ARGUMENTS, _ATTRIBUTES = (
    re.compile(rf"^{head}:\n((?:(?: .*)?\n)*(?: .*)?)", re.MULTILINE)
    for head in ("Args", "Attributes")
)
_ENTRY = re.compile(r"^ {4}\**(\w+)(?: \([^)]*\))?: (.*(?:\n {5,}.*)*)", re.MULTILINE)


@dataclass(frozen=True)
class Setting:
    """One keyword-only parameter of a plug-in."""

    annotation: Any
    default: Any = _REQUIRED
    text: str = ""

    @property
    def required(self) -> bool:
        """Whether the user must give it."""
        return self.default is _REQUIRED


def function_behind(target: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function or class that a callable stands for: a partial's, an
    object's ``__call__``.

    >>> function_behind(partial(print, end="")) is print
    True
    """
    while isinstance(target, partial):
        target = target.func
    target = inspect.unwrap(target)
    if inspect.isroutine(target) or inspect.isclass(target):
        return target
    return inspect.unwrap(type(target).__call__)


def signature_settings(target: Callable[..., Any]) -> dict[str, Setting]:
    """Read a target's keyword-only parameters as settings; a partial has other
    defaults.
    """
    if isinstance(target, partial):
        held = target.keywords
        return {
            key: replace(setting, default=held.get(parameter_of(key), setting.default))
            for key, setting in signature_settings(target.func).items()
        }
    scope = getattr(function_behind(target), "__globals__", {})
    if inspect.isclass(target):
        scope = vars(sys.modules[target.__module__])
    try:
        parameters = inspect.signature(target).parameters.values()
    except ValueError:  # built into Python, without one
        return {}
    said = read_arguments(inspect.getdoc(target) or "")
    return {
        _setting(p.name): Setting(
            _evaluate(p.annotation, scope), p.default, said.get(p.name, "")
        )
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }


def read_arguments(doc: str) -> dict[str, str]:
    r"""Return what a docstring says of each parameter, by name.

    >>> read_arguments("Wait.\n\nArgs:\n    seconds: How long,\n        at most.")
    {'seconds': 'How long, at most.'}
    """
    return _entries(_ARGUMENTS.search(doc))


def read_attributes(of: type) -> dict[str, str]:
    """Return what the docstrings of a class and of its bases say of each attribute,
    by name.
    """
    docs = [vars(one).get("__doc__") or "" for one in reversed(of.__mro__)]
    found = [_entries(_ATTRIBUTES.search(inspect.cleandoc(doc))) for doc in docs]
    return {name: text for each in found for name, text in each.items()}


def _entries(section: re.Match[str] | None) -> dict[str, str]:
    entries = _ENTRY.findall(section[1]) if section else []
    return {name: " ".join(text.split()) for name, text in entries}


def without_arguments(doc: str) -> str:
    """Return a docstring without the section that names parameters."""
    return re.sub(r"\n{3,}", "\n\n", _ARGUMENTS.sub("", doc)).strip()


def first_sentence(doc: str) -> str:
    r"""Return what a docstring begins with, which may take several lines, as one.

    >>> first_sentence("What it is,\nand why.\n\nMore.")
    'What it is, and why.'
    """
    return " ".join(doc.partition("\n\n")[0].split())


def _setting(parameter: str) -> str:
    """Return the setting that a parameter stands for: ``from_`` is ``from``."""
    word = parameter.removesuffix("_")
    return word if iskeyword(word) else parameter


def parameter_of(setting: str) -> str:
    """Return the parameter behind a setting: ``from`` is ``from_``."""
    return f"{setting}_" if iskeyword(setting) else setting


def _evaluate(annotation: Any, scope: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    return eval(annotation, scope) if isinstance(annotation, str) else annotation


def validate(label: str, key: str, setting: Setting, value: object) -> Any:
    """Return a value as its annotation has it; raises ConfigError.

    Args:
        label: Whose setting it is, for messages.
        key: The setting.
        setting: Its annotation.
        value: What was given.
    """
    from pydantic import TypeAdapter, ValidationError

    adapter: TypeAdapter[Any] = TypeAdapter(setting.annotation)
    try:
        found = _validate(adapter, value)
    except ValidationError as error:
        raise ConfigError(f"{label}: {key} = {value!r}: {reason(error)}") from error
    if isinstance(found, float) and not isfinite(found):
        raise ConfigError(f"{label}: {key} = {value!r}: it must be finite.")
    if (truth := truth_as_number(value, found)) is not None:
        raise ConfigError(f"{label}: {key} = {spell(truth)}: it must be a number.")
    return found


def _validate(adapter: Any, value: object) -> Any:
    """Validate a value; text that does not fit is read as on the command line: 1e3,
    none.
    """
    from pydantic import ValidationError

    try:
        return adapter.validate_python(value)
    except ValidationError:
        read = scalar(value) if isinstance(value, str) else value
        if isinstance(read, str) or read is value:
            raise
        return adapter.validate_python(read)


def truth_as_number(value: object, found: object) -> bool | None:
    """Return a truth value that was given and became a number, also within a list;
    else None.

    To pydantic, true is 1: ``steps: true`` would be one step.

    >>> (
    ...     truth_as_number(True, 1),
    ...     truth_as_number(True, True),
    ...     truth_as_number([2, False], (2, 0)),
    ... )
    (True, None, False)
    """
    if isinstance(value, bool):
        return value if type(found) in (int, float) else None
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, list | tuple) and isinstance(found, list | tuple):
        pairs = list(zip(value, found, strict=False))  # pyright: ignore[reportUnknownArgumentType]
    elif isinstance(value, Mapping):
        given = cast("Mapping[Any, Any]", value)
        made: Any = (
            found if isinstance(found, Mapping) else getattr(found, "__dict__", {})
        )
        pairs = [(one, made.get(key)) for key, one in given.items()]
    inner = (truth_as_number(one, other) for one, other in pairs)
    return next((one for one in inner if one is not None), None)
