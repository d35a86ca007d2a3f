"""Plug-ins: which there are of a kind, what one is, and how a wrong value of it is
refused.

To find members nothing is imported and there is no table to keep: a member exists
as soon as a function or class of its kind's modules stands below
``@plugin("its kind")``. So ``decentral list`` stays light, and choosing a member
imports its family's module only.

A plug-in is something to call, with the settings that its signature says. What it
returns each kind checks in its own module, where a value enters; what stands here
words the refusal.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from importlib import metadata
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from decentral import blame
from decentral.errors import PACKAGE, ConfigError, Place, RunError, unknown
from decentral.signature import Setting, function_behind, parameter_of, without_arguments
from decentral.traits import Traits, given_by_run

# --- which there are --------------------------------------------------------------


#: The decorator of a built-in member, at the beginning of a line, with a name of
#: its own if any.
_DECORATOR = re.compile(r'^@plugin\(\s*"(\w+)"(?:,\s*"(\w+)")?', re.MULTILINE)
_DEFINITION = re.compile(r"^(?:def|class) (\w+)", re.MULTILINE)


def modules_of(home: str) -> dict[str, Path]:
    """Return the modules in which members of a kind stand, by name.

    ``home`` is the module that says what the kind is: ``x.base`` has its members in
    the modules of the package ``x``, any other holds them itself.
    """
    root, *below = home.split(".")
    assert root == "decentral", "plug-ins of other packages are entry points"
    path = Path(__file__).parent.joinpath(*below)
    package, _, last = home.rpartition(".")
    if last != "base":
        return {home: path.with_suffix(".py")}
    files = sorted(path.parent.glob("*.py"))
    return {f"{package}.{file.stem}": file for file in files if file.stem != "__init__"}


@cache
def find_members(home: str, kind: str) -> dict[str, str]:
    """Return the members of a kind by name, with the module that defines each.

    >>> find_members("decentral.topology.base", "topology")["ring"]
    'decentral.topology.classic'
    """
    found: dict[str, str] = {}
    for module, path in modules_of(home).items():
        text = path.read_text(encoding="utf-8")
        for decorator in _DECORATOR.finditer(text):
            if decorator[1] != kind:
                continue
            definition = _DEFINITION.search(text, decorator.end())
            assert definition is not None, f"{path}: a decorator without a function"
            found[decorator[2] or definition[1]] = module
    return found


#: The entry points of all installed packages: reading their files takes 15 ms. Its
#: type has changed with Python 3.12.
_all_entry_points: Callable[[], Any] = cache(metadata.entry_points)


def entry_points(group: str) -> Iterable[EntryPoint]:
    """Return the entry points of a group."""
    return _all_entry_points().select(group=group)


def entry_points_of(kind: str) -> list[EntryPoint]:
    """Return the members of a kind that installed packages declare, without loading
    them.
    """
    irregular = {"topology": "topologies", "weights": "weights", "batch": "batches"}
    return list(entry_points(group=f"decentral.{irregular.get(kind, f'{kind}s')}"))


#: How kinds are called, beside their own names and those with an s.
_PLURALS = {
    "topology": "topologies",
    "weights": "weights",
    "communication": "schedules",
    "learning_rate": "learning-rates",
    "batch": "batches",
}


def plural(kind: str) -> str:
    """Return how the members of a kind are called.

    >>> plural("communication"), plural("merge")
    ('schedules', 'merges')
    """
    return _PLURALS.get(kind, f"{kind}s")


def kind_called(word: str, kinds: Iterable[str], *others: str) -> str:
    """Return the kind that a word stands for, singular or plural.

    Args:
        word: What the user wrote.
        kinds: The kinds there are.
        others: What else may be written there, for the message.

    >>> kind_called("schedules", ["topology", "communication"])
    'communication'
    """
    spoken = {form: kind for kind in kinds for form in _forms(kind)}
    if word.lower().replace("_", "-") not in spoken:
        raise unknown("kind of plug-in", word, [*map(plural, kinds), *others])
    return spoken[word.lower().replace("_", "-")]


def _forms(kind: str) -> Iterator[str]:
    """Yield everything that a kind may be called."""
    base = kind.replace("_", "-")
    yield from (base, f"{base}s", plural(kind))
    if kind == "communication":
        yield "schedule"


# --- what one is ------------------------------------------------------------------


@dataclass(frozen=True)
class Plugin:
    """A named member of a kind: what to call, which settings it takes, what it
    declares.
    """

    kind: str
    name: str
    target: Callable[..., Any]
    settings: Mapping[str, Setting]
    traits: Traits
    common: Mapping[str, Setting] = field(default_factory=dict[str, Setting])
    origin: str = ""

    @property
    def help(self) -> str:
        """The docstring of the target, without what it says of single settings."""
        return without_arguments(inspect.getdoc(self.target) or "")

    @property
    def accepts(self) -> dict[str, Setting]:
        """Every setting a user may give: its own and those common to the kind."""
        return {**self.settings, **self.common}

    def positional(self) -> tuple[str, ...]:
        """Return the names of the parameters that the run gives."""
        plain = (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
        try:
            parameters = inspect.signature(self.target).parameters.values()
        except ValueError:  # built into Python, without one
            return ()
        return tuple(p.name for p in parameters if p.kind in plain and p.name != "self")


@dataclass(frozen=True)
class ConfiguredPlugin:
    """A plug-in with validated settings; calling it passes the run's positional
    arguments.
    """

    plugin: Plugin
    settings: Mapping[str, Any]
    common: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __call__(self, *positional: Any) -> Any:
        """Call the target with the run's arguments and the user's settings.

        What a user's raises becomes a PluginError; a fault of ours stays what it
        is.
        """
        try:
            return self.plugin.target(*positional, **self._keywords)
        except RunError:
            raise
        except (Exception, SystemExit) as error:
            found = blame.own_error(error, self.plugin)
            if found is None:
                raise
            raise found from error

    @cached_property
    def function(self) -> Callable[..., Any]:
        """What a step calls: the same, without the look at errors where the target
        is ours.

        Only for members that call nothing of the user's: what is wrong in them is a
        bug.
        """
        if not self.plugin.target.__module__.startswith("decentral."):
            return self
        return partial(self.plugin.target, **self._keywords)

    @cached_property
    def _keywords(self) -> dict[str, Any]:
        return {parameter_of(key): value for key, value in self.settings.items()}

    @property
    def name(self) -> str:
        """The plug-in's name, as written in a configuration."""
        return self.plugin.name

    @property
    def traits(self) -> Traits:
        """What the plug-in declares about itself."""
        return self.plugin.traits

    @property
    def reloadable(self) -> bool:
        """Whether another process finds the same by its spec: built in, installed,
        or in a file.
        """
        nested = [
            value
            for value in self.settings.values()
            if isinstance(value, ConfiguredPlugin)
        ]
        # What is installed is asked last: it reads a file of every package there
        # is.
        found = (
            bool(self.plugin.origin)
            or self.plugin.target.__module__.startswith("decentral.")
            or any(point.name == self.name for point in entry_points_of(self.plugin.kind))
        )
        return found and all(part.reloadable for part in nested)

    def spec(self) -> dict[str, Any]:
        """Return the plain mapping that builds this again, every default written
        out.
        """
        name = self.plugin.origin or self.name
        return {
            "name": name,
            **{k: plain(v) for k, v in {**self.settings, **self.common}.items()},
        }


def plain(value: Any) -> Any:
    """Return ``value`` in the types of YAML: plug-ins as mappings, points in time
    as text.
    """
    if isinstance(value, ConfiguredPlugin):
        return value.spec()
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    if value is None or isinstance(value, bool | int | float | str | dict):
        return value  # pyright: ignore[reportUnknownVariableType]
    return str(value)


# --- what one returns -------------------------------------------------------------


def wrong(rule: ConfiguredPlugin, returned: str, expected: str) -> ConfigError:
    """Return the error for a value that a plug-in should not have returned.

    Args:
        rule: The plug-in.
        returned: What it returned, in words.
        expected: What to return instead, in words that follow "return".
    """
    place = place_of(rule)
    where = f" ({place})" if place else ""
    return ConfigError(
        f"{rule.plugin.kind} {rule.name!r} returned {returned}{where}; return {expected}."
    )


def label_of(rule: ConfiguredPlugin) -> str:
    """Return the kind and name of a plug-in, and where a user's is defined."""
    place = place_of(rule)
    return f"{rule.plugin.kind} {rule.name!r}" + (f" ({place})" if place else "")


def place_of(rule: ConfiguredPlugin) -> Place | None:
    """Return where a user's plug-in is defined; None for those of decentral."""
    target: Any = function_behind(rule.plugin.target)
    code = getattr(target, "__code__", None)
    place = Place(code.co_filename, code.co_firstlineno) if code else None
    if code is None:
        # a class, whose source may be gone, or any callable
        with suppress(OSError, TypeError):
            file = inspect.getsourcefile(target)
            place = Place(file, inspect.getsourcelines(target)[1]) if file else None
    return None if place is None or place.file.startswith(PACKAGE) else place


def is_users(rule: ConfiguredPlugin) -> bool:
    """Whether a plug-in is none of decentral's, whose numbers the laws look at."""
    return not rule.plugin.target.__module__.startswith("decentral.")


def describe(value: Any) -> str:
    """Say what a value is, shortly; arrays and tensors by their shapes."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        kind = "a tensor" if type(value).__module__.startswith("torch") else "an array"
        return f"{kind} of shape {list(shape)}"
    if value is None or isinstance(value, bool | int | float | complex | str):
        return f"{value!r:.40}"
    return f"a {type(value).__name__}"


def refuse_signature(rule: ConfiguredPlugin) -> None:
    """Refuse a user's function that cannot be called with what the run gives."""
    given = given_by_run(rule.plugin.kind, rule.traits)
    if given is None:
        return
    try:
        signature = inspect.signature(rule.plugin.target)
    except ValueError:  # built into Python, without one
        return
    named = {parameter_of(key): value for key, value in rule.settings.items()}
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        raise ConfigError(
            f"{label_of(rule)} cannot be called with what the run gives, "
            f"{', '.join(given)} ({error}); settings of its own must be keyword-only."
        ) from error
