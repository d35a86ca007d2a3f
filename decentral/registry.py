"""Plug-ins: the signature is the schema.

Every kind (topology, communication schedule, task, ...) is a package; a member is a
function or a small frozen class in one of its modules, below ``@plugin(kind)``.
Positional parameters are given by the run; keyword-only parameters are settings
that come from YAML, the command line or Python, validated by pydantic from their
annotations (see ``signature``). The docstring is the help.

The module of a kind may define hooks: ``common`` (a function whose keyword-only
parameters every member accepts), ``resolve(name)`` (a plug-in for names that are
not built in, e.g. ``nx:...``), ``shorthand(text)`` (the mapping that a text of its
own form stands for, or None) and ``from_class(target, settings)`` (a class of a
library as the plug-in that a file can name, or None, with its settings),
``from_object(value)`` (what makes an object that stands for a plug-in, or None) and
``assume_traits(target)`` (traits of a function without a decorator). What a member
may declare about itself are the traits of its kind (see ``traits``).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator

from decentral import limits
from decentral.errors import ConfigError, nearest, unknown
from decentral.plugins import (
    ConfiguredPlugin,
    Plugin,
    entry_points_of,
    find_members,
    is_users,
    refuse_signature,
)
from decentral.signature import (
    Setting,
    function_behind,
    parameter_of,
    signature_settings,
    validate,
)
from decentral.spec import Spec, parse_spec
from decentral.traits import declare
from decentral.userfile import load_file, load_installed, whole_location
from decentral.userfile import resolve_path as whole_path

#: Stands in a resolved configuration for a part that was a Python object.
PYTHON = "python"

#: The module that says what a kind is. Members of ``x.base`` stand in the modules
#: of the package ``x``, those of any other in that module itself.
KINDS: dict[str, str] = {
    "topology": "decentral.topology.base",
    "weights": "decentral.mixing.base",
    "communication": "decentral.schedules.communication",
    "learning_rate": "decentral.schedules.learning_rate",
    "batch": "decentral.schedules.batch",
    "optimizer": "decentral.optim.base",
    "network": "decentral.network.presets",
    "compute": "decentral.network.compute",
    "merge": "decentral.merging.base",
    "algorithm": "decentral.algorithms.base",
    "codec": "decentral.exchange.codec.base",
    "aggregation": "decentral.exchange.aggregation",
    "attack": "decentral.exchange.attack",
    "fault": "decentral.faults.base",
    "metric": "decentral.metrics.base",
    "task": "decentral.tasks.base",
    "model": "decentral.tasks.models.base",
    "split": "decentral.tasks.splits",
    "claim": "decentral.claims.base",
    "tracker": "decentral.run.trackers",
    "callback": "decentral.loop.callbacks",
}

Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(1), Le(limits.COUNT)]
#: The path of a file or folder: a run folder keeps it whole, wherever it goes on.
Location = Annotated[str, AfterValidator(whole_location)]
#: A node, by its number or by its label in the topology.
Node = int | str

_Target = TypeVar("_Target", bound=Callable[..., Any])


@dataclass(frozen=True)
class NestedPlugin:
    """Marks a setting of type `ConfiguredPlugin`:
    ``NestedPlugin("communication")``; ``optional``: or None.
    """

    kind: str
    optional: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let pydantic build the nested plug-in."""
        from pydantic_core import core_schema

        # Within text, ``none`` reads as the absence of a value; here it is the name
        # of a plug-in.
        return core_schema.no_info_plain_validator_function(
            lambda value: (
                None
                if value is None and self.optional
                else build(self.kind, "none" if value is None else value)
            )
        )


# --- registration -----------------------------------------------------------------

_registered: dict[tuple[str, str], Plugin] = {}


def plugin(
    kind: str, name: str | None = None, **traits: Any
) -> Callable[[_Target], _Target]:
    """Register a function or class as a member of ``kind``, under its own name
    unless given.

    Further keywords are traits: what the member declares about itself
    (``activation="link"``), or what a setting of all members is for this one unless
    given. The decorated object is returned unchanged. Raises ConfigError for a name
    that is taken, and for a trait that the kind has not.
    """
    if kind not in KINDS:
        raise unknown("kind of plug-in", kind, KINDS)

    def register(target: _Target) -> _Target:
        _keep(_plugin_of(kind, name or target.__name__, target, traits))
        return target

    return register


def _keep(made: Plugin) -> None:
    taken = _registered.get((made.kind, made.name))
    if taken is not None and _place(taken.target) != _place(made.target):
        raise ConfigError(
            f"{made.kind} {made.name!r} is already registered by {_place(taken.target)}; "
            f"rename the one in {_place(made.target)}."
        )
    _registered[made.kind, made.name] = made


def _place(target: Callable[..., Any]) -> str:
    return f"{inspect.getsourcefile(target)}:{target.__qualname__}"


def _plugin_of(
    kind: str, name: str, target: Callable[..., Any], declared: Mapping[str, Any]
) -> Plugin:
    common, settings = dict(_common(kind)), signature_settings(target)
    for key in common.keys() & declared.keys():
        value = validate(f"{kind} {name!r}", key, common[key], declared[key])
        common[key] = replace(common[key], default=value)
    own = {key: value for key, value in declared.items() if key not in common}
    return Plugin(
        kind, name, target, settings, declare(kind, name, own, settings, common), common
    )


def _read_declaration(
    kind: str, target: Callable[..., Any], name: str = "", origin: str = ""
) -> Plugin:
    """Return an object as a plug-in, with what its decorator says, if it has one.

    Of a partial, a method or an object that is called, the decorator is that of the
    function behind it.
    """
    function = function_behind(target)
    known = _registered_as(kind, target) or _registered_as(
        kind, getattr(function, "__func__", function)
    )
    if known is None:
        hook = getattr(importlib.import_module(KINDS[kind]), "assume_traits", None)
        traits = hook(function) if hook else dict[str, Any]()
        known = _plugin_of(kind, name or _name_of(target), target, traits)
    elif known.target is not target:
        known = replace(known, target=target, settings=signature_settings(target))
    return replace(known, name=name or known.name, origin=origin)


def _name_of(target: Callable[..., Any]) -> str:
    """Return what a callable is called: as a function, or as the class of an
    object.
    """
    while isinstance(target, partial):
        target = target.func
    return getattr(target, "__name__", type(target).__name__)


def _registered_as(kind: str, target: Callable[..., Any]) -> Plugin | None:
    """Return the plug-in that an object was registered as."""
    held = (p for p in _registered.values() if p.kind == kind)
    return next((p for p in held if p.target is target), None)


@cache
def _common(kind: str) -> dict[str, Setting]:
    hook = getattr(importlib.import_module(KINDS[kind]), "common", None)
    return signature_settings(hook) if hook else {}


# --- look-up ----------------------------------------------------------------------


def names(kind: str) -> list[str]:
    """List the members of a kind: of its package, installed entry points,
    registered ones.
    """
    if kind not in KINDS:
        raise unknown("kind of plug-in", kind, KINDS)
    found = {*find_members(KINDS[kind], kind)}
    found |= {point.name for point in entry_points_of(kind)}
    found |= {name for registered, name in _registered if registered == kind}
    return sorted(found)


def find(kind: str, name: str) -> Plugin:
    """Return the plug-in of that name, importing its module only now.

    ``file.py:function`` loads a user's own. Raises ConfigError naming the nearest
    valid name.
    """
    if kind not in KINDS:
        raise unknown("kind of plug-in", kind, KINDS)
    if name.rpartition(":")[0].endswith(".py"):
        return _from_file(kind, name)
    if name == PYTHON:
        raise ConfigError(
            f"{kind}: it was a Python object; give it again, as {kind}=... of decentral.launch."
        )
    if name.endswith(".py"):
        raise ConfigError(f"{kind}: name the function in {name}, as {name}:function.")
    if (kind, name) not in _registered and not _import_member(kind, name):
        resolve = getattr(importlib.import_module(KINDS[kind]), "resolve", None)
        if resolve is not None and (resolved := resolve(name)) is not None:
            return resolved
        raise unknown(kind, name, names(kind))
    return _registered[kind, name]


def members(kind: str) -> tuple[list[Plugin], dict[str, str]]:
    """Return the members of a kind, and why others cannot be used, by name."""
    found: list[Plugin] = []
    broken: dict[str, str] = {}
    for name in names(kind):
        try:
            found.append(find(kind, name))
        except ConfigError as error:
            broken[name] = str(error)
    return found, broken


def _import_member(kind: str, name: str) -> bool:
    if module := find_members(KINDS[kind], kind).get(name):
        importlib.import_module(module)
        return (kind, name) in _registered  # whatever another package calls so
    for point in entry_points_of(kind):
        if point.name == name:
            _keep(_read_declaration(kind, load_installed(kind, point), name))
    return (kind, name) in _registered


def _from_file(kind: str, origin: str) -> Plugin:
    path, _, attribute = origin.rpartition(":")
    module = load_file(path)
    target = getattr(module, attribute, None)
    if not callable(target):
        public = [
            (n, v)
            for n, v in vars(module).items()
            if callable(v) and not n.startswith("_")
        ]
        known = [n for n, v in public if getattr(v, "__module__", "") == module.__name__]
        near = (
            nearest(attribute, known) or f" It has {', '.join(known) or 'no functions'}."
        )
        raise ConfigError(f"{kind}: {path} has no {attribute!r}.{near}")
    return _read_declaration(kind, target, attribute, f"{whole_path(path)}:{attribute}")


# --- building ---------------------------------------------------------------------


def build(kind: str, value: object) -> ConfiguredPlugin:
    """Turn text, a mapping or a callable into a plug-in with validated settings.

    >>> build("communication", "constant(0.2)").settings
    {'intensity': 0.2}
    """
    if isinstance(value, ConfiguredPlugin):
        return value
    if not isinstance(value, str | Mapping | Spec):
        hook = getattr(importlib.import_module(KINDS[kind]), "from_object", None)
        value = (hook and hook(value)) or value
    if callable(value):
        return _build_callable(kind, value, {})
    if isinstance(value, Mapping) and callable(value.get("name")):
        given = {k: value[k] for k in value if k != "name"}
        return _build_callable(kind, value["name"], given)
    spec = read(kind, value)
    found = find(kind, spec.name)
    return bind(found, _by_name(found, spec))


def _build_callable(
    kind: str, target: Callable[..., Any], given: Mapping[str, Any]
) -> ConfiguredPlugin:
    """Make a plug-in of an object; one that a file can name becomes what it is
    called there.

    Args:
        kind: The kind.
        target: A function, class, partial, or any other callable.
        given: Settings beside it.
    """
    function, held = target, dict[str, Any]()
    if isinstance(target, partial) and not target.args:
        function, held = target.func, target.keywords
    found = _registered_as(kind, function)
    hook = getattr(importlib.import_module(KINDS[kind]), "from_class", None)
    if found is None and hook is not None and inspect.isclass(function):
        found, held = hook(function, held)
    settings = {key: held[name] for key in (found.accepts if found else ())
                if (name := parameter_of(key)) in held}  # fmt: skip
    if found is not None and len(settings) == len(held):
        return bind(found, {**settings, **given})
    return bind(_read_declaration(kind, target), given)


def read(kind: str, value: object) -> Spec:
    """Read a plug-in as written, in the kind's own shorthand, too; it is not looked
    up yet.
    """
    hook = getattr(importlib.import_module(KINDS[kind]), "shorthand", None)
    short = hook(value) if hook and isinstance(value, str) else None
    return parse_spec(value if short is None else short, kind)


def _by_name(found: Plugin, spec: Spec) -> dict[str, Any]:
    if len(spec.args) > len(found.settings):
        raise ConfigError(
            f"{found.kind} {found.name!r} takes {len(found.settings)} settings, "
            f"{len(spec.args)} were given."
        )
    by_place = dict(zip(found.settings, spec.args, strict=False))
    if twice := sorted(by_place.keys() & spec.settings.keys()):
        raise ConfigError(
            f"{found.kind} {found.name!r}: setting {twice[0]!r} is given twice."
        )
    return {**by_place, **spec.settings}


def bind(found: Plugin, given: Mapping[str, Any]) -> ConfiguredPlugin:
    """Validate ``given`` against the plug-in's signature."""
    accepted = found.accepts
    if strangers := [key for key in given if key not in accepted]:
        raise ConfigError(_stranger(found, strangers[0]))
    for key, setting in accepted.items():
        if setting.required and key not in given:
            raise ConfigError(
                f"{found.kind} {found.name!r} needs the setting {key!r}; "
                f"write {found.name}({key}=...)."
            )
    values = _validate(found, given)
    own = {key: values[key] for key in found.settings}
    rule = ConfiguredPlugin(found, own, {key: values[key] for key in found.common})
    if is_users(rule):
        refuse_signature(rule)
    return rule


def _stranger(found: Plugin, key: str) -> str:
    accepted = sorted(found.accepts)
    offer = f"Settings: {', '.join(accepted)}." if accepted else "It takes no settings."
    label = f"{found.kind} {found.name!r}"
    near = nearest(key, accepted)
    if not near and key in KINDS:
        near = f" A run has it: write {key}=... beside the {found.kind}."
    return f"{label} has no setting {key!r}.{near} {offer}"


def _validate(found: Plugin, given: Mapping[str, Any]) -> dict[str, Any]:
    label = f"{found.kind} {found.name!r}"
    values: dict[str, Any] = {}
    for key, setting in found.accepts.items():
        value = given.get(key, setting.default)
        unset = key not in given and value is None
        values[key] = None if unset else validate(label, key, setting, value)
    return values
