"""Making the traits of a member from what it declares: each by its name and its
type.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, fields
from typing import (
    Any,
    Literal,
    Protocol,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from decentral.errors import ConfigError, nearest
from decentral.traits import kinds
from decentral.traits.kinds import TRAITS
from decentral.traits.values import ComputeTraits, Traits

_Of = TypeVar("_Of", bound=Traits)

_WORDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    Any: "anything",
}


class Declares(Protocol):
    """What has traits: a plug-in, with settings or without."""

    @property
    def traits(self) -> Traits:
        """What it declares about itself."""
        ...


def traits_of(found: Declares, of: type[_Of]) -> _Of:
    """Return what a plug-in declares, as the traits of its kind.

    >>> from decentral.registry import build
    >>> from decentral.traits import MergeTraits
    >>> traits_of(build("merge", "slerp"), MergeTraits).nodes
    2
    """
    assert isinstance(found.traits, of), (
        f"{type(found.traits).__name__} are not {of.__name__}"
    )
    return found.traits


def declare(
    kind: str,
    name: str,
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    common: Iterable[str],
) -> Traits:
    """Make the traits of a member from the keywords of its decorator.

    Args:
        kind: Its kind.
        name: Its name.
        given: What it declares, by name.
        settings: The settings that are its own, by name.
        common: The settings of its kind, whose defaults its decorator may say, too.

    Raises:
        ConfigError: A trait is unknown or missing, or is not what its kind says.
    """
    of, label = TRAITS[kind], f"{kind} {name!r}"
    # Annotations are text in modules that ask for that; here they are types again.
    asked = get_type_hints(of)
    if strangers := [key for key in given if key not in asked]:
        valid = sorted({*asked, *common})
        raise ConfigError(
            f"{label} has no trait {strangers[0]!r}.{nearest(strangers[0], valid)} "
            f"Available: {', '.join(valid)}."
        )
    needed = [
        f.name
        for f in fields(of)
        if f.default is MISSING and f.default_factory is MISSING
    ]
    if missing := [key for key in needed if key not in given]:
        raise ConfigError(
            f"{label} needs the trait {missing[0]}: {in_words(asked[missing[0]])}; "
            f'write @plugin("{kind}", {missing[0]}=...).'
        )
    # Traits are shared by all runs of a process, and must not change.
    found = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items()}
    for key, value in found.items():
        if not fits(value, asked[key]):
            raise ConfigError(
                f"{label}: trait {key} = {_brief(value)}: it must be {in_words(asked[key])}."
                f"{_near(value, asked[key])}"
            )
    made = of(**cast("dict[str, Any]", found))
    if wrong := made.contradiction(settings):
        raise ConfigError(f"{label}: trait {wrong}.")
    return made


#: What the run gives to the members of a kind, in order; those of other kinds are
#: given what they name.
_GIVEN = {
    "weights": "receivers senders nodes", "communication": "progress feedback",
    "learning_rate": "progress", "batch": "progress", "optimizer": "params", "network": "n",
    "compute": "nodes step seed", "algorithm": "block action", "codec": "rows layout draw",
    "metric": "snapshot", "model": "input_shape outputs", "split": "labels nodes seed",
    "claim": "lab seed", "tracker": "folder config step",
}  # fmt: skip


def given_by_run(kind: str, traits: Traits) -> tuple[str, ...] | None:
    """Return what the run gives to a member, in order; None: what it names.

    >>> given_by_run("merge", TRAITS["merge"]())
    ('samples',)
    """
    match kind, traits:
        case "merge", kinds.MergeTraits(sees=sees):
            return (sees,)
        case "aggregation", kinds.AggregationTraits(sees=sees):
            return sees, "weights"
        case "attack", kinds.AttackTraits(data=data):
            return ("targets", "classes") if data else ("rows", "layout", "draw")
        case "compute", ComputeTraits(by_time=True):
            return (*_GIVEN[kind].split(), "now_s", "amount")
        case "fault", kinds.FaultTraits(strikes=strikes):
            ends = {"nodes": ("ids",), "links": ("low", "high")}
            return *ends.get(strikes, ("receivers", "senders")), "step", "seed"
        case _:
            return tuple(_GIVEN[kind].split()) if kind in _GIVEN else None


# --- values and types -------------------------------------------------------------


def fits(value: object, wanted: Any) -> bool:
    """Whether a value is what the annotation of a trait says; no text is read as a
    number.

    >>> (
    ...     fits(("keeps_mean",), tuple[str, ...]),
    ...     fits("yes", bool),
    ...     fits(1, float),
    ...     fits(True, int),
    ... )
    (True, False, True, False)
    """
    origin, args = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return True
    if origin is Literal:
        return isinstance(value, str) and value in args
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in args)
    if origin is tuple:
        several = cast("tuple[object, ...]", value)
        return isinstance(value, tuple) and all(fits(one, args[0]) for one in several)
    if origin is Mapping:
        pairs = cast("Mapping[object, object]", value)
        return isinstance(value, Mapping) and all(
            fits(key, args[0]) and fits(one, args[1]) for key, one in pairs.items()
        )
    if origin is Callable:
        return callable(value)
    # To Python a truth value is a whole number.
    if wanted in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if wanted is float else wanted)


def in_words(wanted: Any) -> str:
    """Say what a value must be; that it may be left out is not said.

    >>> in_words(Literal["rounds", "steps", "never"] | None), in_words(Mapping[str, Any])
    ("'rounds', 'steps' or 'never'", 'a mapping from text to anything')
    """
    origin, args = get_origin(wanted), get_args(wanted)
    if origin is Literal:
        *first, last = map(repr, args)
        return f"{', '.join(first)} or {last}" if first else last
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(part) for part in args if part is not type(None))
    if origin is tuple:
        return f"a tuple of {in_words(args[0])}"
    if origin is Mapping:
        return f"a mapping from {in_words(args[0])} to {in_words(args[1])}"
    if origin is Callable:
        return "a function"
    return _WORDS.get(wanted) or f"{wanted.__module__}.{wanted.__qualname__}"


def _near(value: object, wanted: Any) -> str:
    """Return the nearest of the words that an annotation knows to one that it does
    not.
    """
    parts = (
        cast("Iterable[object]", value) if isinstance(value, tuple | Mapping) else [value]
    )
    known = list(_words_of(wanted))
    strange = [one for one in parts if isinstance(one, str) and one not in known]
    return nearest(strange[0], known) if strange and known else ""


def _words_of(wanted: Any) -> Iterator[str]:
    if get_origin(wanted) is Literal:
        yield from get_args(wanted)
        return
    for part in get_args(wanted):
        yield from _words_of(part)


def _brief(value: object) -> str:
    """Write a value, shortly; of what has no form in a file only the type."""
    plain = isinstance(value, str | int | float | tuple | Mapping) or value is None
    text = repr(value) if plain else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."
