"""What may be written, for editors: the JSON Schema of a configuration, from
pydantic and the plug-ins' signatures; and the types of the keywords in Python,
which a test compares with the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Protocol,
    TypedDict,
)

from decentral.config.plugin_schema import (
    TEXT_OR_NUMBER,
    Schema,
    definitions,
    describe_plugin,
    not_inside,
    pattern_of,
    ref,
    ref_setting,
    schema_of,
    usable_members,
)
from decentral.config.settings import ALIASES, LISTS, NESTED, NUMBERS, PARTS, Config
from decentral.registry import Plugin, find
from decentral.spec import parse_spec
from decentral.traits import Recommending, traits_of

if TYPE_CHECKING:
    from torch import nn

    from decentral.tasks.base import Task


def config_schema() -> Schema:
    """Return the schema of a YAML file of settings, or of a sweep over them."""
    properties = {key: _describe_setting(key) for key in Config.model_fields}
    properties |= {
        alias: _describe_alias(name, properties) for alias, name in ALIASES.items()
    }
    keys = "|".join([*Config.model_fields, *ALIASES])
    properties["sweep"] = {
        "description": "axes of a sweep: several values for each setting",
        "type": "object",
        "propertyNames": {"pattern": rf"^({keys})(\..+)?$"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "decentral configuration",
        "type": "object",
        "properties": properties,
        "patternProperties": dict(_dotted_keys()),
        "additionalProperties": False,
        "allOf": list(_conditions()),
        "$defs": dict(definitions()),
    }


def _describe_setting(key: str) -> Schema:
    """Return the schema of a setting of a run."""
    field = Config.model_fields[key]
    about: Schema = {"description": field.description or ""}
    if isinstance(field.default, str | int | float | bool | None):
        about["default"] = field.default
    return about | _setting(key)


def _setting(key: str) -> Schema:
    field = Config.model_fields[key]
    absent = [{"type": "null"}, {"const": "none"}] if field.default is None else []
    if key in PARTS:
        number = [_number(key)] if key in NUMBERS else []
        auto = [{"enum": ["auto", None]}] if field.default == "auto" else []
        # A run writes null where there is nothing to choose: the model of a task
        # that brings its own, the topology of nodes that never communicate.
        absent = absent or [{"type": "null"}]
        return {"anyOf": [ref(PARTS[key]), *_changes(key), *number, *auto, *absent]}
    if key in LISTS:
        one = describe_plugin(LISTS[key])
        return {"anyOf": [one, {"type": "array", "items": one}]}
    if key in NESTED:
        return {"anyOf": [*_describe_part(key), *absent]}
    if key == "data":
        return {"anyOf": [TEXT_OR_NUMBER, *absent]}
    if key == "node_lr":
        return {"type": "object", "additionalProperties": {"type": "number"}}
    rebuilt = (
        Annotated[field.annotation, *field.metadata]
        if field.metadata
        else field.annotation
    )
    return {"anyOf": [schema_of(rebuilt), *absent[1:]]}


def _number(key: str) -> Schema:
    """Return the schema of a part that is given as a number: of what that sets."""
    plain = find(PARTS[key], "constant")
    return {"type": "number", "allOf": [ref_setting(plain, NUMBERS[key])]}


def _describe_part(key: str) -> list[Schema]:
    """Return how the settings of a method, or of the engine, may be written."""
    model = NESTED[key]
    inner = {name: schema_of(one.annotation, one.metadata, one.description or "")
             for name, one in model.model_fields.items()}  # fmt: skip
    whole: Schema = {"type": "object", "properties": inner, "additionalProperties": False}
    if key == "engine":
        return [
            {"type": "string", "pattern": r"^\s*(auto|local|ray)\s*(\(.*\)\s*)?$"},
            whole,
        ]
    return [TEXT_OR_NUMBER, whole]


def _describe_alias(name: str, properties: Mapping[str, Schema]) -> Schema:
    """Return the schema of a short name, which may stand for a setting within a
    part.
    """
    key, _, inner = name.partition(".")
    return (
        {"type": "number", "description": f"short for {name}"}
        if inner
        else properties[key]
    )


def _dotted_keys() -> Iterable[tuple[str, Schema]]:
    """Yield the keys that reach into a part, ``optimizer.momentum``: those of
    plug-ins are judged by the conditions, since they depend on which one is chosen.
    """
    for key in PARTS:
        yield rf"^({'|'.join(_names_of(key))})\..+$", {}
    for key, model in NESTED.items():
        for name, one in model.model_fields.items():
            inner = schema_of(one.annotation, one.metadata, one.description or "")
            yield rf"^{key}\.{name}$", inner
    yield r"^node_lr\..+$", {"type": "number"}


def _names_of(key: str) -> list[str]:
    """Return all that a part is called: its name, and short ones."""
    return [key, *(alias for alias, name in ALIASES.items() if name == key)]


# --- what depends on what ---------------------------------------------------------


def _conditions() -> Iterable[Schema]:
    """Yield what no key says alone: which settings a chosen plug-in has."""
    for alias, name in ALIASES.items():
        yield {"not": {"required": [alias, name]}}
    for key, model in NESTED.items():
        needed = [name for name, one in model.model_fields.items() if one.is_required()]
        for name in needed:
            absent = {"not": {"anyOf": [_given(key), _given(f"{key}.{name}")]}}
            yield {"if": absent, "then": {"propertyNames": _without(rf"^{key}\.")}}
    for key, kind in PARTS.items():
        members, called = usable_members(kind), _names_of(key)
        # Those without settings have one condition for all of them.
        bare = [one.name for one in members if not one.accepts]
        chosen = [([one.name], [one]) for one in members if one.accepts]
        for named, those in [*([(bare, [])] if bare else []), *chosen]:
            is_one = [_given(written, _called(named)) for written in called]
            given = {"anyOf": is_one} if is_one[1:] else is_one[0]
            yield {"if": given, "then": _inside(key, those)}
        below = [{"not": {"anyOf": [_given(one) for one in _names_of(key)]}}]
        below += [_given(one, _NAMELESS) for one in _names_of(key)]
        yield {"if": {"anyOf": below}, "then": _inside(key, _below(key))}


_NAMELESS: Schema = {
    "type": "object",
    "not": {"anyOf": [{"required": ["name"]}, {"required": ["path"]}]},
}


def _given(key: str, value: Schema | None = None) -> Schema:
    """Return the condition that a key is given, and what is written there."""
    return {"required": [key], **({"properties": {key: value}} if value else {})}


def _without(pattern: str) -> Schema:
    return {"not": {"pattern": pattern}}


def _called(names: Iterable[str]) -> Schema:
    """Return the condition that one of the plug-ins is written, as text or by name."""
    text = rf"^\s*({pattern_of(names)})\s*(\(.*)?$"
    return {
        "type": ["string", "object"],
        "pattern": text,
        "required": ["name"],
        "properties": {"name": {"pattern": text}},
    }


def _inside(key: str, members: Iterable[Plugin]) -> Schema:
    """Return what keys within a part may be, where it is one of some plug-ins."""
    settings: dict[str, list[Plugin]] = {}
    for one in members:
        for name in one.accepts:
            settings.setdefault(name, []).append(one)
    part = rf"^({'|'.join(_names_of(key))})\."
    known = "|".join(rf"{name}(\.|$)" for name in settings)
    found: Schema = {"propertyNames": _without(part + (f"(?!{known})" if known else ""))}
    keys: Schema = {}
    for name, those in settings.items():
        refs = [ref_setting(one, name) for one in those]
        keys[rf"{part}{name}$"] = {"anyOf": refs} if refs[1:] else refs[0]
        inner = not_inside([one.accepts[name] for one in those])
        keys |= {} if inner is None else {rf"{part}{name}\.{inner}": False}
    return found | ({"patternProperties": keys} if keys else {})


def _below(key: str) -> list[Plugin]:
    """Return which plug-ins a part may be where none is chosen: that of the
    defaults, and those that tasks and algorithms recommend.
    """
    kind = PARTS[key]
    suited = [traits_of(one, Recommending).defaults.get(key)
              for outer in ("task", "algorithm") for one in usable_members(outer)]  # fmt: skip
    names = {
        parse_spec(value, kind).name
        for value in (Config.model_fields[key].default, *suited)
        if isinstance(value, str | Mapping) and value != "auto"
    }
    numbers = any(type(value) in (int, float) for value in suited)
    names |= {"constant"} if key in NUMBERS and numbers else set()
    return [one for one in usable_members(kind) if one.name in names]


def _changes(key: str) -> list[Schema]:
    """Return the mapping that changes settings of what is chosen below, or by
    default.
    """
    changed = [
        {
            "type": "object",
            "properties": {name: ref_setting(plugin, name) for name in plugin.accepts},
            "additionalProperties": False,
        }
        for plugin in _below(key)
    ]
    return (
        [
            {
                "description": "settings of what is chosen below or by default",
                **_NAMELESS,
                "anyOf": changed,
            }
        ]
        if changed
        else []
    )


# --- keywords of Python -----------------------------------------------------------


class _HasEdges(Protocol):
    """A graph of networkx."""

    @property
    def edges(self) -> Any: ...


class _HasVertices(Protocol):
    """A graph of igraph."""

    @property
    def vs(self) -> Any: ...


class _HasEdgeIndex(Protocol):
    """A graph of torch_geometric."""

    edge_index: Any


class _HasShape(Protocol):
    """A matrix: of numpy, scipy or torch, or a frame."""

    @property
    def shape(self) -> Any: ...


#: A plug-in: its name, perhaps with settings; a mapping with ``name``, or of
#: settings alone; a function. None is what is not given.
Part = str | Mapping[str, Any] | Callable[..., Any] | None
#: The same where a number is one of its settings.
PartOrNumber = Part | float
#: A topology: a plug-in, or a graph as people hold it in Python.
Graph = (
    Part | _HasEdges | _HasVertices | _HasEdgeIndex | _HasShape | Sequence[Sequence[Any]]
)
#: Plug-ins, of which there may be several.
Several = str | Callable[..., Any] | Sequence[str | Callable[..., Any]] | None
#: A method of training: its main number, or a mapping of its settings.
Method = float | str | Mapping[str, Any] | None


class Parts(TypedDict, total=False):
    """The settings that may be Python objects."""

    task: Part | Task
    model: Part | nn.Module
    algorithm: Part
    codec: Part
    aggregation: Part
    attack: Part
    topology: Graph
    weights: Part
    communication: Part
    schedule: Part
    network: Part
    compute: PartOrNumber
    learning_rate: PartOrNumber
    lr_schedule: PartOrNumber
    batch: PartOrNumber
    batch_schedule: PartOrNumber
    optimizer: Part
    split: Part
    merge: Part
    metrics: object
    faults: Several
    track: Several
    callbacks: object


class Settings(Parts, total=False):
    """Every setting of a run, as a keyword of ``decentral.launch``."""

    nodes: int | None
    steps: int | None
    data: str | int | None
    seconds: float | str | None
    local_steps: int | None
    participation: float | None
    lr: float | str | None
    node_lr: Mapping[int | str, float] | Mapping[int, float] | Mapping[str, float] | None
    label_smoothing: float | None
    label_noise: Method
    adversarial: Method
    sam: Method
    micro_batch: int | Literal["auto"] | None
    clip: float | None
    clip_value: float | None
    init: Literal["shared", "independent"] | None
    sampling: Literal["fixed", "resample"] | None
    replacement: Literal["auto", "always", "never"] | None
    mix_state: bool | None
    gossip_buffers: bool | None
    calibration_samples: int | None
    seed: int | None
    eval_every: int | Literal["auto"] | None
    eval_samples: int | None
    eval_nodes: int | None
    log_every: int | Literal["auto"] | None
    checkpoint_every: int | Literal["auto"] | None
    keep_checkpoints: int | None
    replicas: Literal["auto", "tune", "vmap", "loop"] | None
    mixing: Literal["auto", "ordered"] | None
    dtype: Literal["float32", "float64"] | None
    precision: Literal["same", "bfloat16"] | None
    activation_checkpointing: bool | None
    compile: Literal["default", "reduce-overhead"] | None
    device: str | None
    threads: int | Literal["auto"] | None
    on_nonfinite: Literal["stop", "quarantine"] | None
    engine: str | Mapping[str, Any] | None
    out: str | PathLike[str] | None


class Again(Parts, total=False):
    """What ``decentral.resume`` takes: parts from Python, and where the run goes
    on.
    """

    engine: str | Mapping[str, Any] | None


class Changes(TypedDict, total=False):
    """What may be otherwise when a run goes on; and True for the path of a file."""

    steps: int
    data: str | int
    learning_rate: PartOrNumber
    communication: Part
    batch: PartOrNumber
    micro_batch: int | Literal["auto"]
    threads: int | Literal["auto"]
    device: str
    final_merge: bool
