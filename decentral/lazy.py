"""Names that a package offers without importing the modules that define them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any
from warnings import warn


def lazy_names(
    package: str,
    homes: Mapping[str, Sequence[str]],
    renamed: Mapping[str, str] | None = None,
) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package: it imports a name's module when it
    is first used.

    The package repeats the imports under ``TYPE_CHECKING``, for type checkers and
    editors.

    Args:
        package: The name of the package.
        homes: The names that each module of the package defines.
        renamed: Former names, which go on working with a warning, and what they are
            called now.
    """
    modules = {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> Any:
        if renamed and name in renamed:
            now = renamed[name]
            warn(
                f"{package}.{name} is now {package}.{now}",
                DeprecationWarning,
                stacklevel=2,
            )
            name = now
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return load
