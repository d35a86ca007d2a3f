"""Discovery: which plug-ins a package holds, read from the decorators in its files.

Nothing is imported and there is no table to keep: a member exists as soon as a function or class
of some module of the package stands below ``@plugin("its kind")``. So ``decentral list`` stays
light, and choosing a member imports its family's module only.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

#: The decorator of a built-in member, at the beginning of a line, with a name of its own if any.
_DECORATOR = re.compile(r'^@plugin\(\s*"(\w+)"(?:,\s*"(\w+)")?', re.MULTILINE)
_DEFINITION = re.compile(r"^(?:def|class) (\w+)", re.MULTILINE)


@cache
def find_members(package: str, kind: str) -> dict[str, str]:
    """Return the members of a kind by name, with the module that defines each.

    >>> find_members("decentral.schedules.communication", "communication")["late"]
    'decentral.schedules.communication.late'
    """
    root, *below = package.split(".")
    assert root == "decentral", "plug-ins of other packages are entry points"
    folder = Path(__file__).parent.joinpath(*below)
    found: dict[str, str] = {}
    for path in sorted(folder.glob("*.py")):
        module = package if path.stem == "__init__" else f"{package}.{path.stem}"
        text = path.read_text(encoding="utf-8")
        for decorator in _DECORATOR.finditer(text):
            if decorator[1] != kind:
                continue
            definition = _DEFINITION.search(text, decorator.end())
            assert definition is not None, f"{path}: a decorator without a function"
            found[decorator[2] or definition[1]] = module
    return found
