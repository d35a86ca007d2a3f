"""Types as a user reads them: ``number > 0`` instead of ``Annotated[float, Gt(0)]``."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from decentral.limits import COUNT
from decentral.registry import Part
from decentral.units import Point, Unit

_WORDS: dict[Any, str] = {
    bool: "true, false",
    int: "whole number",
    float: "number",
    str: "text",
    type(None): "none",
    Point: "point in time: 90%, 0.9 or 2700 steps",
    Any: "any",
}


def type_text(annotation: Any) -> str:
    """Write a type in words.

    >>> type_text(Annotated[float, Ge(0), Le(1)] | None)
    'number >= 0, <= 1 or none'
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _limited(args[0], args[1:])
    if origin is Literal:
        return ", ".join(str(value) for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(part) for part in args)
    if origin in (list, tuple):
        inner = [type_text(part) for part in args if part is not Ellipsis]
        return f"list of {', '.join(dict.fromkeys(inner))}" if inner else "list"
    if origin is dict:
        return "mapping of {} to {}".format(*map(type_text, args))
    own = getattr(annotation, "IN_WORDS", getattr(annotation, "__name__", str(annotation)))
    return _WORDS.get(annotation, own)


def _limited(base: Any, limits: tuple[Any, ...]) -> str:
    """Write a type and its bounds, but for the one that only keeps numbers finite."""
    for limit in limits:
        if isinstance(limit, Part):
            return f"a {limit.kind.replace('_', ' ')}"
        if isinstance(limit, Unit):
            return limit.words
    signs = ((Ge, "ge", ">="), (Gt, "gt", ">"), (Le, "le", "<="), (Lt, "lt", "<"))
    found = [
        f"{sign} {getattr(limit, name)}"
        for limit in limits
        for kind, name, sign in signs
        if isinstance(limit, kind) and getattr(limit, name) != COUNT
    ]
    return f"{type_text(base)} {', '.join(found)}".strip()
