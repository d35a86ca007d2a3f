"""What a plug-in is: something to call, with the settings that its signature says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from decentral import blame
from decentral.discovery import installed
from decentral.errors import RunError
from decentral.signature import Setting, parameter_of, without_arguments
from decentral.traits import Traits


@dataclass(frozen=True)
class Plugin:
    """A named member of a kind: what to call, which settings it takes, what it declares."""

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
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(self.target).parameters.values()
        return tuple(p.name for p in parameters if p.kind in plain and p.name != "self")


@dataclass(frozen=True)
class ConfiguredPlugin:
    """A plug-in with validated settings; calling it passes the run's positional arguments."""

    plugin: Plugin
    settings: Mapping[str, Any]
    common: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __call__(self, *positional: Any) -> Any:
        """Call the target with the run's arguments and the user's settings.

        What a user's raises becomes a PluginError; a fault of ours stays what it is.
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
        """What a step calls: the same, without the look at errors where the target is ours.

        Only for members that call nothing of the user's: what is wrong in them is a bug.
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
        """Whether another process finds the same by its spec: built in, installed, or in a file."""
        nested = [value for value in self.settings.values() if isinstance(value, ConfiguredPlugin)]
        # What is installed is asked last: it reads a file of every package there is.
        found = (
            bool(self.plugin.origin)
            or self.plugin.target.__module__.startswith("decentral.")
            or any(point.name == self.name for point in installed(self.plugin.kind))
        )
        return found and all(part.reloadable for part in nested)

    def spec(self) -> dict[str, Any]:
        """Return the plain mapping that builds this again, every default written out."""
        name = self.plugin.origin or self.name
        return {"name": name, **{k: plain(v) for k, v in {**self.settings, **self.common}.items()}}


def plain(value: Any) -> Any:
    """Return ``value`` in the types of YAML: plug-ins as mappings, points in time as text."""
    if isinstance(value, ConfiguredPlugin):
        return value.spec()
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]  # pyright: ignore[reportUnknownVariableType]
    if value is None or isinstance(value, bool | int | float | str | dict):
        return value  # pyright: ignore[reportUnknownVariableType]
    return str(value)
