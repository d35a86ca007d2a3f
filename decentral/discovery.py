"""Discovery: which plug-ins there are of a kind, read from the decorators in its files.

Nothing is imported and there is no table to keep: a member exists as soon as a function or class
of its kind's modules stands below ``@plugin("its kind")``. So ``decentral list`` stays light, and
choosing a member imports its family's module only.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

#: The decorator of a built-in member, at the beginning of a line, with a name of its own if any.
_DECORATOR = re.compile(r'^@plugin\(\s*"(\w+)"(?:,\s*"(\w+)")?', re.MULTILINE)
_DEFINITION = re.compile(r"^(?:def|class) (\w+)", re.MULTILINE)


def modules_of(home: str) -> dict[str, Path]:
    """Return the modules in which members of a kind stand, by name.

    ``home`` is the module that says what the kind is: ``x.base`` has its members in the modules of
    the package ``x``, any other holds them itself.
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


def installed(kind: str) -> list[EntryPoint]:
    """Return the members of a kind that installed packages declare, without loading them."""
    irregular = {"topology": "topologies", "weights": "weights", "batch": "batches"}
    return list(entry_points(group=f"decentral.{irregular.get(kind, f'{kind}s')}"))
