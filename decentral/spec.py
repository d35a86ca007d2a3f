"""The one-line form of a plug-in: ``late(start=90%, intensity=0.1)``, nested where
plug-ins nest.

spec  := (name | quoted text) [ "(" [ item { "," item } ] ")" ]
item  := [ key "=" ] value
value := quoted text | list | mapping | spec with parentheses | scalar
mapping := "{" [ (name | quoted text) ("=" | ":") value { "," ... } ] "}"

Within quotes, a doubled quote is one. The path of a user's file is a name as it is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from decentral.errors import ConfigError, shorten, show
from decentral.units import ambiguous, number_in, without_comma
from decentral.userfile import lies

_KEY = re.compile(r"\s*([A-Za-z_]\w*)\s*=(?!=)")
_NAME = re.compile(r"\s*([^\s(),=\[\]{}'\"][^(),=\[\]{}'\"]*?)\s*(?=[(),\]}]|$)")
#: A key of a mapping may be any text but its own punctuation: a block, a node, a
#: pattern.
_ENTRY = re.compile(r"\s*([^\s(),=:\[\]{}'\"][^(),=:\[\]{}'\"]*?)\s*(?=[=:])")
_QUOTED = re.compile(r"\s*(?:'((?:[^']|'')*)'|\"((?:[^\"]|\"\")*)\")\s*")
#: What may hold the neighbours of a node.
_NEIGHBOURS = list, tuple, set, frozenset, Mapping
#: Values within each other; no plug-in needs a tenth of it.
_DEPTH = 50
#: Words for the absence of a value, in small letters.
NOTHING = ("null", "none")
_WORDS = {"true": True, "false": False, **dict.fromkeys(NOTHING)}


@dataclass(frozen=True)
class Spec:
    """A plug-in's name with positional and named settings, not yet looked up or
    validated.
    """

    name: str
    args: tuple[Any, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])


def scalar(text: str, field: str = "") -> Any:
    """Read one scalar: a whole number, a decimal number, true, false, null, or
    text.

    Args:
        text: What is written.
        field: The setting, for messages.

    Raises:
        ConfigError: It is a number to some readers only, such as 010.

    >>> [scalar(t) for t in ("3", "5e-4", "true", "90%")]
    [3, 0.0005, True, '90%']
    """
    text = text.strip()
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if problem := ambiguous(text):
        raise ConfigError(f"{field + ': ' if field else ''}{problem}.")
    number = number_in(text)
    return text if number is None else number


def parse_spec(value: object, kind: str) -> Spec:
    """Read a plug-in from YAML, the command line or Python: text, a mapping with
    ``name``, a Spec.

    >>> parse_spec("late(start=90%)", "communication")
    Spec(name='late', args=(), settings={'start': '90%'})
    """
    if isinstance(value, Spec):
        return value
    if isinstance(value, Mapping):
        return _from_mapping(dict(value), kind)
    if isinstance(value, str) and value.lstrip().startswith("{") and not file_part(value):
        return parse_spec(parse_value(value, kind), kind)
    if isinstance(value, str) and value.strip():
        return _Reader(value, kind).whole()
    raise ConfigError(
        f"{kind}: cannot read {value!r}; give a name such as 'x', 'x(key=value)' "
        "or a mapping with 'name'."
    )


def parse_value(text: str, field: str) -> Any:
    """Read one value of ``key=value``: a list, a mapping, quoted text, a plug-in,
    or a scalar.

    >>> parse_value("[64, 64]", "model.hidden")
    [64, 64]
    >>> parse_value("{embedding: 1, norm=[2, 3]}", "optimizer.chi")
    {'embedding': 1, 'norm': [2, 3]}
    """
    if not text.strip():
        raise ConfigError(f"{field}: the value is missing; write {field}=value.")
    if not text.lstrip().startswith(("[", "{", "'", '"')) or _is_path(text):
        return scalar(text, field)
    reader = _Reader(text, field)
    value = reader.value()
    if text[reader.at :].strip():
        reader.fail("unexpected text")
    return value


def spell(value: Any) -> str:
    """Write a value so that it is read back as the same.

    >>> spell(Spec("wandb", (), {"project": "a, b", "group": "1"}))
    "wandb(project='a, b', group='1')"
    """
    if isinstance(value, Spec):
        items = [spell(arg) for arg in value.args]
        items += [f"{key}={spell(item)}" for key, item in value.settings.items()]
        return f"{_plain(value.name, named=True)}({', '.join(items)})"
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, Any]", value).items()
        return f"{{{', '.join(f'{_key(key)}: {spell(item)}' for key, item in pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(spell, value))}]"  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(value, str):
        return _plain(value)
    return str(value).lower() if isinstance(value, bool) else show(value)


def _key(key: object) -> str:
    """Return a key of a mapping, in quotes where it would be read as something
    else.
    """
    plain = spell(key)
    return f"'{key}'" if isinstance(key, str) and plain == key and ":" in key else plain


def _plain(text: str, *, named: bool = False) -> str:
    """Return text as it is, or in quotes where it would be read as something else."""
    found = _NAME.fullmatch(text)
    kept = named or (not ambiguous(text) and scalar(text) == text)
    same = found is not None and found[1] == text and kept
    return text if same else "'" + text.replace("'", "''") + "'"


def _is_path(text: str) -> bool:
    """Whether a text names a file or folder, whatever is in its path."""
    there = "/" in text and os.path.exists(os.path.expanduser(text.strip()))
    return there or file_part(text) == len(text.rstrip())


def as_named(key: str, value: Any) -> Any:
    """Return a graph of Python's own, ``{0: [1], 1: []}``, as the ``name`` of a
    topology; all else as it is.
    """
    if key != "topology" or not isinstance(value, Mapping) or "name" in value:
        return value
    given = cast("Mapping[Any, Any]", value)
    held = [one for one in given.values() if isinstance(one, _NEIGHBOURS)]
    # Text may be settings, unless it is its own neighbour.
    numbered = not any(isinstance(node, str) for node in given)
    whole = numbered or all(other in given for one in held for other in one)
    return {"name": given} if given and whole and len(held) == len(given) else given


def _from_mapping(settings: dict[str, Any], kind: str) -> Spec:
    name = settings.pop("name", None) or settings.pop("path", None)
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"{kind}: a mapping needs 'name' (or 'path: file.py:function')."
        )
    if file_part(name) == len(name):  # paths are data
        return Spec(name, (), settings)
    inner = parse_spec(name, kind)
    return Spec(inner.name, inner.args, {**inner.settings, **settings})


class _Reader:
    """A recursive-descent reader over one line of text."""

    def __init__(self, text: str, kind: str) -> None:
        self.text, self.kind, self.at = text, kind, 0
        self.depth = 0

    def whole(self) -> Spec:
        found = self.spec()
        if self.text[self.at :].strip():
            self.fail("unexpected text")
        return found

    def fail(self, what: str) -> None:
        braces = self.text.lstrip().startswith("{")
        form = "{key: value, key: value}" if braces else "name(key=value, key=value)"
        raise ConfigError(
            f"{self.kind}: {what} at column {self.at + 1} of {shorten(self.text)!r}; "
            f"write it like {form}."
        )

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def accept(self, char: str) -> bool:
        rest = self.text[self.at :].lstrip()
        if not rest.startswith(char):
            return False
        self.at = len(self.text) - len(rest) + 1
        return True

    def spec(self) -> Spec:
        name = self.file() or self.read_quoted()
        if name is None:
            found = self.match(_NAME)
            if found is None:
                self.fail("a name is missing")
            assert found is not None
            name = found[1]
        elif not name:
            self.fail("a name is missing")
        args, settings = self.items() if self.accept("(") else ((), {})
        return Spec(name, args, settings)

    def file(self) -> str | None:
        """Read the path of a user's file, which only a whole text can begin with."""
        if self.at or not (length := file_part(self.text)):
            return None
        self.at = length
        return self.text[:length].strip()

    def read_quoted(self) -> str | None:
        found = self.match(_QUOTED)
        if found is None:
            return None
        quote = "'" if found[1] is not None else '"'
        return (found[1] or found[2] or "").replace(quote * 2, quote)

    def items(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args: list[Any] = []
        settings: dict[str, Any] = {}
        while not self.accept(")"):
            named, start = self.match(_KEY), self.at
            value = self.value()
            if named is None and settings:
                self.refuse_comma(next(reversed(settings.items())), start)
                self.fail("a setting without a name follows a named one")
            if named is not None and named[1] in settings:
                self.fail(f"setting {named[1]!r} is given twice")
            if named is None:
                args.append(value)
            else:
                settings[named[1]] = value
            self.separator(")")
        return tuple(args), settings

    def refuse_comma(self, before: tuple[str, Any], start: int) -> None:
        """Say what to write for ``momentum=0,9``, whose comma parts two settings."""
        key, whole = before
        text = f"{whole},{self.text[start : self.at].strip()}"
        if type(whole) is int and (written := without_comma(text)):
            listed = f", or {key}=[{text.replace(',', ', ')}] for a list"
            raise ConfigError(
                f"{self.kind}: {key}={text} is no number; write {key}={written}"
                f"{'' if ' or ' in written else listed}."
            )

    def separator(self, closing: str) -> None:
        if self.accept(","):
            return
        if not self.text[self.at :].lstrip().startswith(closing):
            self.fail(f"missing {closing!r}")

    def value(self) -> Any:
        self.depth += 1
        if self.depth > _DEPTH:
            self.fail(f"more than {_DEPTH} brackets within each other")
        found = self._value()
        self.depth -= 1
        return found

    def _value(self) -> Any:
        start = self.at
        text = self.read_quoted()
        if text is not None:
            # Quotes around a name that has settings: 'my file.py:f'(x=1).
            if not self.text.startswith("(", self.at):
                return text
            self.at = start
        if self.accept("["):
            return self.list()
        if self.accept("{"):
            return self.mapping()
        spec = self.spec()
        if self.text[start : self.at].rstrip().endswith(")"):
            return spec
        return scalar(spec.name, self.kind)

    def list(self) -> list[Any]:
        values: list[Any] = []
        while not self.accept("]"):
            values.append(self.value())
            self.separator("]")
        return values

    def mapping(self) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        while not self.accept("}"):
            key = self.key()
            if not (self.accept("=") or self.accept(":")):
                self.fail("missing '=' or ':'")
            if key in found:
                self.fail(f"{key!r} is given twice")
            found[key] = self.value()
            self.separator("}")
        return found

    def key(self) -> Any:
        text = self.read_quoted()
        if text is not None:
            return text
        plain = self.match(_ENTRY)
        if plain is None:
            self.fail("a key is missing")
        assert plain is not None
        return scalar(plain[1], self.kind)


# --- what names a file ------------------------------------------------------------

#: Endings of graph files that are topologies, in any case and with .gz behind them,
#: and formats.
GRAPHS = {
    ".graphml": "markup", ".xml": "markup", ".gexf": "markup", ".gml": "gml",
    ".json": "json", ".jgf": "json", ".cyjs": "json", ".net": "pajek", ".paj": "pajek",
    ".graph": "metis", ".metis": "metis", ".mtx": "matrix market", ".npz": "numpy",
    ".npy": "numpy", ".csv": "table", ".tsv": "table",
    ".edgelist": "list", ".edges": "list", ".el": "list", ".txt": "list",
}  # fmt: skip
_ENDINGS = (*GRAPHS, *(f"{ending}.gz" for ending in GRAPHS))
_BEFORE_SETTINGS = re.compile(
    rf"(?:{'|'.join(map(re.escape, GRAPHS))})(?:\.gz)?(?=\()", re.I
)
_FUNCTION = re.compile(r"\.py:[A-Za-z_]\w*")


def file_part(text: str) -> int:
    """Return how many characters of ``text`` name a user's file, whatever is in its
    path.

    No call ends as a file does, so its path is data; before a call's settings, the
    file must exist.

    >>> [
    ...     file_part(t)
    ...     for t in ("my job (2)/a.py:b", "Abilene (1).graphml", "late(start=90%)")
    ... ]
    [17, 19, 0]
    """
    if is_graph_file(text) or text.rstrip().endswith(".py"):
        return len(text.rstrip())
    for start in (found.end() for found in _BEFORE_SETTINGS.finditer(text)):
        if lies(text[:start].strip()):
            return start
    for start in (found.end() for found in _FUNCTION.finditer(text)):
        rest = text[start:].strip()
        path = text[:start].rpartition(":")[0].strip()
        if not rest or (rest.startswith("(") and lies(path)):
            return start
    return 0


def is_graph_file(text: str) -> bool:
    """Whether a text ends as a graph file does, or is the path of a file that is
    there.

    >>> is_graph_file("Abilene.GML.gz"), is_graph_file("ring")
    (True, False)
    """
    path = text.strip()
    if path.lower().endswith(_ENDINGS):
        return True
    # A word alone is the name of a plug-in, even where a file is called so.
    return not path.endswith(".py") and ("/" in path or "." in path) and lies(path)


def names_file(word: str) -> bool:
    """Whether a word names a file, there or not, and no setting."""
    return lies(word) or word.endswith(".py") or is_graph_file(word)
