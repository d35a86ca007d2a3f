"""A signature as a schema: keyword-only parameters are settings.

A setting that is a word of Python, such as ``from``, is a parameter with an underscore behind it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Setting:
    """One keyword-only parameter of a plug-in."""

    annotation: Any
    default: Any = _REQUIRED

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
    return {
        _setting(p.name): Setting(_evaluated(p.annotation, scope), p.default)
        for p in inspect.signature(target).parameters.values()
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }


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
