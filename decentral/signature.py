"""A signature as a schema: keyword-only parameters are settings.

A setting that is a word of Python, such as ``from``, is a parameter with an underscore
behind it. The section ``Args:`` of the docstring says what each is.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from keyword import iskeyword
from math import isfinite
from typing import Any

from decentral.errors import ConfigError, reason

_REQUIRED = inspect.Parameter.empty

#: The sections of a docstring that name parameters or attributes: each up to the next line that is
#: as far left.
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


def signature_settings(target: Callable[..., Any]) -> dict[str, Setting]:
    """Read a target's keyword-only parameters as settings."""
    function = target.__init__ if inspect.isclass(target) else target
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    if inspect.isclass(target):
        scope = vars(sys.modules[target.__module__])
    said = read_arguments(inspect.getdoc(target) or "")
    return {
        _setting(p.name): Setting(_evaluated(p.annotation, scope), p.default, said.get(p.name, ""))
        for p in inspect.signature(target).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }


def read_arguments(doc: str) -> dict[str, str]:
    r"""Return what a docstring says of each parameter, by name.

    >>> read_arguments("Wait.\n\nArgs:\n    seconds: How long,\n        at most.")
    {'seconds': 'How long, at most.'}
    """
    return _entries(_ARGUMENTS.search(doc))


def read_attributes(of: type) -> dict[str, str]:
    """Return what the docstrings of a class and of its bases say of each attribute, by name."""
    docs = [vars(one).get("__doc__") or "" for one in reversed(of.__mro__)]
    found = [_entries(_ATTRIBUTES.search(inspect.cleandoc(doc))) for doc in docs]
    return {name: text for each in found for name, text in each.items()}


def _entries(section: re.Match[str] | None) -> dict[str, str]:
    entries = _ENTRY.findall(section[1]) if section else []
    return {name: " ".join(text.split()) for name, text in entries}


def without_arguments(doc: str) -> str:
    """Return a docstring without the section that names parameters."""
    return re.sub(r"\n{3,}", "\n\n", _ARGUMENTS.sub("", doc)).strip()


def _setting(parameter: str) -> str:
    """Return the setting that a parameter stands for: ``from_`` is ``from``."""
    word = parameter.removesuffix("_")
    return word if iskeyword(word) else parameter


def parameter_of(setting: str) -> str:
    """Return the parameter behind a setting: ``from`` is ``from_``."""
    return f"{setting}_" if iskeyword(setting) else setting


def _evaluated(annotation: Any, scope: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    return eval(annotation, scope) if isinstance(annotation, str) else annotation


def validated(label: str, key: str, setting: Setting, value: object) -> Any:
    """Return a value as the type of a setting, or raise ConfigError.

    Args:
        label: Whose setting it is, for the message.
        key: The setting.
        setting: What it may be.
        value: What was given.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        found = TypeAdapter(setting.annotation).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"{label}: {key} = {value!r}: {reason(error)}") from error
    if isinstance(found, float) and not isfinite(found):
        raise ConfigError(f"{label}: {key} = {value!r}: it must be finite.")
    return found
