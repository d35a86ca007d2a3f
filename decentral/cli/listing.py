"""What there is to choose from: kinds, their members, all about one of them, and
the settings.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from decentral.cli.output import console_of, print_json
from decentral.cli.words import QUIET, facts, make_columns
from decentral.config import Config, documentation
from decentral.errors import ConfigError, unknown
from decentral.limits import COUNT
from decentral.plugins import kind_called, plain, plural
from decentral.records import Record
from decentral.registry import KINDS, NestedPlugin, Plugin, find, members, names
from decentral.report.facts import plugin_text
from decentral.signature import Setting, read_attributes
from decentral.traits import (
    AlgorithmTraits,
    Expectation,
    Sizes,
    StateSchema,
    Wire,
    traits_of,
)
from decentral.units import Point, Unit

#: What kinds are that are no setting of a run, or no single one.
_OTHERWISE = {
    "metric": "what to measure",
    "claim": "what papers say, for `decentral reproduce`",
    "tracker": "where metrics go besides the run folder",
    "fault": "what goes wrong in a simulation",
    "callback": "what is told of a run and may stop it",
}


def show(kind: str | None, name: str | None, nodes: int | None = None) -> None:
    """List the kinds, the members of one, all about one member, or the settings of
    a run.

    Args:
        kind: A kind, ``settings``, or None for all kinds.
        name: A member of the kind.
        nodes: Number of nodes to compare topologies on.
    """
    console = console_of()
    if nodes is not None:
        _compare_topologies(kind, name, nodes)
    elif kind is None:
        _show_kinds(console)
        print_json({plural(each): names(each) for each in KINDS})
    elif kind == "settings":
        _show_settings(console, name)
    elif name is None:
        _show_members(console, _kind_of(kind))
        print_json([_record(one) for one in members(_kind_of(kind))[0]])
    else:
        found = find(_kind_of(kind), name)
        _show_member(console, found)
        print_json(_record(found))


def _record(found: Plugin) -> dict[str, Any]:
    """Return a member as other programs read it."""
    settings = {
        key: {
            "required": one.required,
            "default": None if one.required else plain(one.default),
            "type": type_text(one.annotation),
            "meaning": one.text,
        }
        for key, one in found.accepts.items()
    }
    return {
        "kind": found.kind,
        "name": found.name,
        "about": found.help,
        "settings": settings,
    }


def _compare_topologies(kind: str | None, name: str | None, nodes: int) -> None:
    if kind is None or name is not None or _kind_of(kind) != "topology":
        raise ConfigError(
            "--nodes compares all topologies: `decentral list topologies --nodes 16`; "
            "one of them: `decentral show topology NAME --nodes 16`."
        )
    from decentral.cli import show_topology

    show_topology.compare(nodes)


def _kind_of(word: str) -> str:
    return kind_called(word, KINDS, "settings")


def _show_kinds(console: Console) -> None:
    grid = _grid()
    for kind in KINDS:
        field = Config.model_fields.get(kind)
        text = field.description if field and field.description else _OTHERWISE[kind]
        members = names(kind)
        grid.add_row(plural(kind), f"{text}: {', '.join(members)}")
    grid.add_row("settings", "every key of a configuration, with its default")
    console.print(grid)
    console.print()
    console.print(Text("`decentral list topologies` and so on say more.", QUIET))


def _show_members(console: Console, kind: str) -> None:
    usable, broken = members(kind)
    for found in usable:
        console.print(Text(found.name, "bold"))
        console.print(Padding(_paragraphs(found)[0], (0, 0, 0, 4)))
        if kind == "algorithm":
            console.print(Padding(_about_algorithm(found), (0, 0, 0, 4)))
        own = ", ".join(
            _setting_text(key, setting) for key, setting in found.settings.items()
        )
        if own:
            console.print(Padding(Text(own, QUIET), (0, 0, 0, 4)))
    for name, reason in broken.items():
        console.print(Text(name, "bold"))
        console.print(Padding(Text(reason, QUIET), (0, 0, 0, 4)))
    shared = ", ".join(_shared_settings(usable))
    console.print()
    if shared:
        console.print(Text(f"All of them take: {shared}.", QUIET))
    hint = f"`decentral list {plural(kind)} NAME` shows all about one of them."
    hint += " `--nodes 16` compares them." if kind == "topology" else ""
    console.print(Text(hint, QUIET))


def _shared_settings(usable: list[Plugin]) -> Iterable[str]:
    """Write the settings that all members take, with the default where it is the
    same for all.
    """
    for key, setting in usable[0].common.items() if usable else ():
        same = all(member.common[key].default == setting.default for member in usable)
        yield _setting_text(key, setting) if same else key


def _paragraphs(found: Plugin) -> list[str]:
    """Return the help without its line breaks, Python examples left out."""
    parts = found.help.replace("``", "").split("\n\n")
    return [" ".join(part.split()) for part in parts if not part.startswith(">>>")] or [
        ""
    ]


def _show_member(console: Console, found: Plugin) -> None:
    console.print(Text.assemble((found.name, "bold"), f" ({found.kind})"))
    for paragraph in _paragraphs(found):
        console.print()
        console.print(paragraph)
    if found.kind == "algorithm":
        console.print()
        console.print(_about_algorithm(found, short=True))
    if found.accepts:
        console.print()
        console.print(_settings_of(found))
    _show_traits(console, found)


def _settings_of(found: Plugin) -> Table:
    table = make_columns()
    for head in ("setting", "default", "type and meaning"):
        table.add_column(head, overflow="fold")
    for key, setting in found.accepts.items():
        default = "(required)" if setting.required else _default(setting)
        about = Text(type_text(setting.annotation))
        if setting.text:
            about.append("\n" + setting.text.replace("``", ""), QUIET)
        table.add_row(Text(key, "bold"), default, about)
    return table


def _show_traits(console: Console, found: Plugin) -> None:
    """Show what a member declares of itself, and name what it could declare
    besides.
    """
    said, declared = read_attributes(type(found.traits)), _differences(found.traits)
    if declared:
        table = make_columns()
        for head in ("trait", "declared", "what that promises"):
            table.add_column(head, overflow="fold")
        for name, value in declared.items():
            meaning = Text(said[name].replace("``", ""), QUIET)
            table.add_row(Text(name, "bold"), _trait_text(value), meaning)
        console.print()
        console.print(table)
    if others := [name for name in said if name not in declared]:
        console.print()
        console.print(
            Text(f"Traits that it leaves as they are: {', '.join(others)}.", QUIET)
        )


def _differences(made: Any) -> dict[str, Any]:
    """Return the attributes, such as traits, that are not what they are by default."""
    usual = {
        one.name: one.default if one.default_factory is MISSING else one.default_factory()
        for one in fields(made)
    }
    given = {name: getattr(made, name) for name in usual}
    return {name: value for name, value in given.items() if value != usual[name]}


def _trait_text(value: Any) -> str:
    """Write the value of a trait; of a function only that it is one.

    >>> (
    ...     _trait_text(("keeps_mean", "contracts")),
    ...     _trait_text({"lr": 0.1}),
    ...     _trait_text(len),
    ... )
    ('keeps_mean, contracts', 'lr: 0.1', 'a function')
    """
    if callable(value):
        return "a function"
    if isinstance(value, tuple):
        return ", ".join(map(_trait_text, cast("tuple[Any, ...]", value)))
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, Any]", value).items()
        return "\n".join(f"{key}: {_trait_text(one)}" for key, one in pairs)
    if isinstance(value, Record):
        return value.key
    if isinstance(value, Expectation):
        return f"{value.figure} {value.bound}"
    if isinstance(value, Sizes):
        return value.words
    if isinstance(value, StateSchema):
        told = _differences(value).items()
        return (
            " ".join(key if one is True else f"{key} as {one}" for key, one in told)
            or "kept"
        )
    return "functions" if isinstance(value, Wire) else plugin_text(plain(value))


def _show_settings(console: Console, part: str | None) -> None:
    """Show every setting of a run, or those of a part such as ``engine``."""
    rows = [row for row in documentation() if part in (None, row[0].partition(".")[0])]
    if not rows:
        raise unknown("setting", str(part), Config.model_fields)
    table = make_columns()
    table.add_column("setting", style="bold", no_wrap=True)
    table.add_column("default", no_wrap=True, max_width=12)
    table.add_column("")
    for key, default, text in rows:
        table.add_row(key, "(required)" if default is ... else plugin_text(default), text)
    console.print(table)
    print_json(
        [
            {
                "setting": key,
                "required": default is ...,
                "default": None if default is ... else plain(default),
                "meaning": text,
            }
            for key, default, text in rows
        ]
    )


def _grid() -> Table:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    return grid


def _setting_text(key: str, setting: Setting) -> str:
    return f"{key} (required)" if setting.required else f"{key}={_default(setting)}"


def _default(setting: Setting) -> str:
    value = plain(setting.default)
    text = plugin_text(value)
    return f"[{text}]" if isinstance(value, list) else text


# --- algorithms -------------------------------------------------------------------


def _about_algorithm(found: Plugin, short: bool = False) -> Table:
    """Lay out an algorithm's paper, channels, cost, guarantees and what it is not
    sound with.

    ``short``: without what its help and the table of its traits say.
    """
    from decentral.algorithms.base import channels_of, paper_of  # it loads torch

    traits = traits_of(found, AlgorithmTraits)
    rows = [
        ("paper", "" if short else paper_of(found)),
        ("sends", ", ".join(channels_of(found)) or "nothing"),
        ("costs", _cost(found)),
        ("promises", "" if short else _spoken(traits.guarantees)),
        ("refuses", "" if short else _spoken(traits.refuses)),
    ]
    return facts([(label, text) for label, text in rows if text])


def _spoken(words: Iterable[str]) -> str:
    return ", ".join(word.replace("_", " ") for word in words)


def _cost(found: Plugin) -> str:
    """Say how many rows a node sends in a round: to d neighbours, or in an average
    of N nodes.

    A global average counts 2 (N - 1) rows for all nodes together.
    """
    from decentral.algorithms.base import rows_of

    rows, traits = rows_of(found), traits_of(found, AlgorithmTraits)
    average = f"{2 * rows} (N - 1) / N rows"
    if traits.communicates == "never":
        return "nothing"
    if traits.communicates == "steps":
        return f"{average} a node in every step"
    gossip = "d rows" if rows == 1 else f"{rows} d rows"
    parts = ", all by 1 / fragments" if traits.fragments else ""
    return (
        f"{gossip} a node and round with d neighbours; {average} in a global merge{parts}"
    )


# --- types in words ---------------------------------------------------------------

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
        return _type_with_limits(args[0], args[1:])
    if origin is Literal:
        return ", ".join(str(value) for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(part) for part in args)
    if origin in (list, tuple):
        inner = [type_text(part) for part in args if part is not Ellipsis]
        return f"list of {', '.join(dict.fromkeys(inner))}" if inner else "list"
    if origin is dict:
        return "mapping of {} to {}".format(*map(type_text, args))
    own = getattr(
        annotation, "IN_WORDS", getattr(annotation, "__name__", str(annotation))
    )
    return _WORDS.get(annotation, own)


def _type_with_limits(base: Any, limits: tuple[Any, ...]) -> str:
    """Write a type and its bounds, but for the one that only keeps numbers finite."""
    for limit in limits:
        if isinstance(limit, NestedPlugin):
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
