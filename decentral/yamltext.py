"""YAML as people write it: the scalars of YAML 1.2, each key once, a mistake named
by its line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from decentral.errors import ConfigError, shorten
from decentral.limits import CONFIG_BYTES, read_bytes
from decentral.units import DECIMAL, INTEGER, ambiguous, number_in

#: The scalars of YAML 1.2: PyYAML's own are those of 1.1, to which 1e-3 is text and
#: yes is true.
_RESOLVERS: tuple[tuple[str, str, str], ...] = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", INTEGER, "-+0123456789"),
    ("float", DECIMAL, "-+.0123456789inIN"),
    ("merge", r"<<", "<"),
)
#: Mappings and lists within each other; no setting needs a tenth of it.
_DEPTH = 100
#: Values of a file, those that aliases repeat counted again.
_VALUES = 10**6


def _unclear(text: str) -> str:
    """Return why other readers, or people, take a plain text for something else;
    else nothing.
    """
    if text in ("None", "NONE"):
        return "None is text in YAML; write null, or quote it as text"
    return ambiguous(text)


def _refuse(problem: str, node: Any) -> None:
    """Raise an error of YAML for a problem at a node, where there is one."""
    if problem:
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Loader(yaml.SafeLoader):
    """Reads what people write; refuses what would be read as something else, by its
    line.
    """

    yaml_implicit_resolvers: ClassVar[Any] = {}

    def __init__(self, stream: Any) -> None:
        """Read a text."""
        super().__init__(stream)
        #: How deep what is being read lies.
        self.depth = 0
        #: Of every node that is whole, how many values it stands for, and how deep.
        self.extents: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Read what stands at a place, not too deep within others.

        A few aliases of aliases can stand for more than any memory holds, and one
        of what is around it for something endless.
        """
        event = self.peek_event()
        self.depth += 1
        if self.depth > _DEPTH:
            _refuse(f"nested more than {_DEPTH} deep", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if not isinstance(event, yaml.AliasEvent):
            self.extents[id(node)] = size, depth = self._extent(node)
            if size > _VALUES or depth > _DEPTH:
                _refuse(
                    f"its aliases stand for {size:,} values, nested {depth} deep", node
                )
        elif id(node) not in self.extents:
            _refuse(f"*{event.anchor} stands within what it repeats", event)
        return node

    def _extent(self, node: Any) -> tuple[int, int]:
        """Return how many values a node stands for, whose parts are whole, and how
        deep they lie.
        """
        parts: list[Any] = node.value if isinstance(node.value, list) else []
        if isinstance(node, yaml.MappingNode):
            parts = [one for pair in parts for one in pair]
        inner = [self.extents[id(one)] for one in parts]
        size = 1 + sum(size for size, _ in inner)
        return size, 1 + max((depth for _, depth in inner), default=0)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Read what a node stands for, if its tag suits it."""
        try:
            return super().construct_object(node, deep)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            said = f"what is tagged {node.tag.rpartition(':')[2]} is none"
            raise yaml.constructor.ConstructorError(
                None, None, said, node.start_mark
            ) from error

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Read a mapping whose keys differ."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse("a key is a name or a number, and no list or mapping", key)
            if key.value in seen:
                _refuse(f"{shorten(key.value)!r} is given twice; keep one", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> int:
        """Read a whole number; one that begins with 0 might be meant as octal."""
        return int(self._number(node))

    def construct_yaml_float(self, node: Any) -> float:
        """Read a decimal number."""
        return float(self._number(node))

    def _number(self, node: Any) -> int | float:
        try:
            _refuse(ambiguous(node.value), node)
            number = number_in(node.value)
        except ConfigError as error:
            _refuse(str(error).rstrip("."), node)
            raise
        if number is None:  # tagged by hand, as !!int x
            _refuse(f"{shorten(node.value)!r} is no number", node)
        assert number is not None
        return number

    def construct_yaml_str(self, node: Any) -> str:
        """Read text, unless it is unclear without quotes."""
        if node.style is None:
            _refuse(_unclear(node.value), node)
        return super().construct_yaml_str(node)


#: The kinds of values that settings are; what has another tag is refused.
_TAGS = ("str", "int", "float", "bool", "null", "seq", "map")
_Loader.yaml_constructors = {
    tag: made
    for tag, made in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _TAGS
}


class _Dumper(yaml.SafeDumper):
    """Writes what ``_Loader`` reads as the same."""

    yaml_implicit_resolvers: ClassVar[Any] = {}

    def represent_str(self, data: str) -> Any:
        """Write text; rare line breaks must be escaped, or they are read back as
        blanks.
        """
        style = '"' if _unclear(data) or set(data) & set("\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_yaml_str)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
for _tag, _pattern, _first in _RESOLVERS:
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}",
            re.compile(rf"^(?:{_pattern})$"),
            ["" if char == "\0" else char for char in _first],
        )


def load(text: str) -> Any:
    """Read YAML; raises yaml.YAMLError."""
    return yaml.load(text, _Loader)


def load_file(path: str | Path) -> Any:
    """Read a YAML file as it is; raises ConfigError naming the line of a mistake."""
    try:
        return load(read_bytes(path, CONFIG_BYTES).decode())
    except FileNotFoundError as error:
        raise ConfigError(
            f"configuration {path} does not exist; check the path."
        ) from error
    except OSError as error:
        raise ConfigError(
            f"configuration {path} cannot be read: {error.strerror}."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"configuration {path} cannot be read: it is not UTF-8 text."
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "malformed"
        raise ConfigError(
            f"configuration {path}{where}: not valid YAML ({problem})."
        ) from error


def line_of(path: str | Path, key: str) -> int:
    """Return the line on which a file has a key, from 1 on; 0 without it.

    ``key`` is one of the outermost mapping, or leads on from there:
    ``optimizer.lr``. Where the last of its names is missing, the line is that of
    the one before.
    """
    node: Any = yaml.compose(read_bytes(path, CONFIG_BYTES).decode(), _Loader)
    found, names = 0, [key, *(key.split(".") if "." in key else ())]
    whole = _inside(node, names[0])
    if whole:
        return whole[0]
    for name in names[1:]:
        inner = _inside(node, name)
        if inner is None:
            break
        found, node = inner
    return found


def _inside(node: Any, key: str) -> tuple[int, Any] | None:
    """Return the line of a key within a mapping, and what stands there; None: it
    has no such.
    """
    pairs: Any = node.value if isinstance(node, yaml.MappingNode) else ()
    return next(
        ((k.start_mark.line + 1, inner) for k, inner in pairs if k.value == key), None
    )


def dump(settings: Mapping[str, Any]) -> str:
    """Write settings as YAML, in the order of the configuration."""
    options: Any = {"sort_keys": False, "allow_unicode": True, "width": 100}
    return yaml.dump(dict(settings), Dumper=_Dumper, **options)
