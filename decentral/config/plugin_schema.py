"""Plug-ins as JSON Schema: every kind, and every member with its settings, from
their signatures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from decentral.registry import KINDS, NestedPlugin, Plugin, members, names
from decentral.signature import Setting, first_sentence
from decentral.units import parse_bandwidth, parse_point, parse_seconds

Schema = dict[str, Any]

TEXT_OR_NUMBER: Schema = {"type": ["string", "number"]}
#: A plug-in from outside: a file, or a name within a library.
_OUTSIDE = r"[.:/\\]"
#: Readers of quantities; what other types with a reader of their own take is known
#: to it alone.
_QUANTITIES = (parse_point, parse_seconds, parse_bandwidth)
#: Names that a kind knows beside those of its members.
_WORDS = {"weights": ["file"]}


class _Generator(GenerateJsonSchema):
    """Describes what pydantic leaves to a function: quantities are text or a
    number.
    """

    def function_plain_schema(self, schema: Any) -> JsonSchemaValue:
        """Return what may be written of a type with a reader of its own."""
        return (
            dict(TEXT_OR_NUMBER) if schema["function"]["function"] in _QUANTITIES else {}
        )


def pattern_of(names: Iterable[str]) -> str:
    """Return a pattern of some words."""
    return "|".join(map(re.escape, names))


def usable_members(kind: str) -> list[Plugin]:
    """Return the members of a kind that can be imported."""
    usable, _ = members(kind)
    return usable


def takes_others(kind: str) -> bool:
    """Whether settings of members from outside, of a library, are not known here."""
    return kind in ("optimizer", "topology", "task", "model")


def definitions() -> Iterable[tuple[str, Schema]]:
    """Yield every kind of plug-in, and every member of it as a mapping."""
    for kind in KINDS:
        if kind != "claim":
            yield kind, _plugin(kind)
            yield from ((f"{kind}.{o.name}", _mapping(o)) for o in usable_members(kind))


def _plugin(kind: str) -> Schema:
    """Return how a plug-in of a kind may be written: as text, or as a mapping."""
    whole = [ref(f"{kind}.{one.name}") for one in usable_members(kind)]
    outside = {
        "type": "object",
        "properties": {"name": {"type": "string", "pattern": _OUTSIDE}, "path": {}},
        "anyOf": [{"required": ["name"]}, {"required": ["path"]}],
    }
    return {"anyOf": [describe_plugin(kind), *whole, outside]}


def describe_plugin(kind: str) -> Schema:
    """Return the text of a plug-in: a name, perhaps with settings, or one from
    outside.
    """
    listed = [*names(kind), *_WORDS.get(kind, ())]
    called = rf"^\s*({pattern_of(listed)})\s*\(.*\)\s*$"
    spec = {"type": "string", "anyOf": [{"pattern": called}, {"pattern": _OUTSIDE}]}
    plain = {"enum": listed}
    own = (
        {"type": "string", "pattern": r"^\s*[-+\d.].*$"} if kind in ("compute",) else None
    )
    return {"anyOf": [plain, spec, *([own] if own else [])]}


def _mapping(one: Plugin) -> Schema:
    """Return the mapping of a member, its settings by their annotations."""
    inner = {key: of_setting(setting) for key, setting in one.accepts.items()}
    required = [key for key, setting in one.accepts.items() if setting.required]
    return {
        "description": first_sentence(one.help),
        "type": "object",
        "properties": {"name": {"const": one.name}, **inner},
        "required": ["name", *required],
        "additionalProperties": False,
    }


def of_setting(setting: Setting) -> Schema:
    """Return the schema of a setting, by its annotation."""
    return schema_of(setting.annotation, (), setting.text)


def ref(name: str) -> Schema:
    """Return a reference to a kind, or to one of its members, KIND.NAME."""
    return {"$ref": f"#/$defs/{name}"}


def ref_setting(one: Plugin, name: str) -> Schema:
    """Return the schema of a setting of a member, where that is defined."""
    return ref(f"{one.kind}.{one.name}/properties/{name}")


def schema_of(annotation: Any, metadata: Iterable[Any] = (), text: str = "") -> Schema:
    """Return the schema of an annotation; of one that cannot be described,
    anything.

    Args:
        annotation: As in a signature.
        metadata: Bounds that pydantic keeps beside it.
        text: What the setting means.
    """
    about: Schema = {"description": text} if text else {}
    part = part_in(annotation)
    if part is not None:
        return about | {"anyOf": [ref(part.kind), {"type": "null"}]}
    whole: Any = Annotated[annotation, *metadata] if tuple(metadata) else annotation
    try:
        made = TypeAdapter(whole).json_schema(schema_generator=_Generator)
    except PydanticUserError:  # a type of the user's, read by code alone
        return about
    # of nested models: their references would lead outside of this schema
    if "$defs" in made:
        return about
    made.pop("title", None)
    absent = [{"const": "none"}] if {"type": "null"} in made.get("anyOf", []) else []
    return about | ({"anyOf": [made, *absent]} if absent else made)


def part_in(annotation: Any) -> NestedPlugin | None:
    """Return the mark of a setting that is a plug-in itself, also one that may be
    absent.
    """
    if get_origin(annotation) is Annotated:
        found = (one for one in get_args(annotation)[1:] if isinstance(one, NestedPlugin))
        return next(found, None)
    inner = get_args(annotation)
    simple = [one for one in inner if one is not type(None)]
    return (
        part_in(simple[0])
        if len(simple) == 1 and get_origin(annotation) is not list
        else None
    )


def not_inside(those: Iterable[Setting]) -> str | None:
    """Return a pattern of what is not inside of a setting; None: anything may be."""
    found: list[str] = []
    for one in those:
        part = part_in(one.annotation)
        if takes_others(part.kind) if part else not _is_flat(of_setting(one)):
            return None
        members = usable_members(part.kind) if part else []
        found += [name for one in members for name in one.accepts]
    return rf"(?!({pattern_of(dict.fromkeys(found))})(\.|$))" if found else ""


def _is_flat(schema: Schema) -> bool:
    """Whether a schema takes no mapping, so that nothing is inside of it."""
    if "anyOf" in schema:
        return all(map(_is_flat, schema["anyOf"]))
    types = schema.get("type", "object" if not {"const", "enum"} & schema.keys() else "")
    return "object" not in types
