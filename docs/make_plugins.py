"""Write plugins.md from the registry: ``python docs/make_plugins.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from decentral import limits
from decentral.config import documentation
from decentral.plugins import Plugin, plain
from decentral.registry import KINDS, find, names
from decentral.signature import Setting

PAGE = Path(__file__).with_name("plugins.md")
HEAD = """# What is built in

Written by `python docs/make_plugins.py` from the code; `decentral list KIND` shows the same in a
terminal. A plug-in is written `name`, `name(key=value)`, or as a mapping with `name`; a file's own
as `path.py:function`.
"""


def setting(name: str, given: Setting) -> str:
    """Return one setting as ``name=default``, or ``name`` where it must be given."""
    return f"`{name}`" if given.required else f"`{name}={plain(given.default)}`"


def row(plugin: Plugin) -> str:
    """Return one line of a kind's table."""
    first = (
        plugin.help.split("\n\n")[0]
        .replace("\n", " ")
        .replace("|", "\\|")
        .replace("``", "`")
    )
    settings = ", ".join(setting(name, given) for name, given in plugin.settings.items())
    return f"| `{plugin.name}` | {first} | {settings or '-'} |"


def section(kind: str) -> Iterator[str]:
    """Yield the lines of one kind."""
    plugins = [find(kind, name) for name in names(kind)]
    yield f"\n## {kind}\n"
    common = plugins[0].common
    if common:
        yield (
            "Every one also takes "
            + ", ".join(setting(n, s) for n, s in common.items())
            + ".\n"
        )
    yield "| name | what it does | settings |\n|---|---|---|"
    yield from map(row, plugins)


def configuration() -> Iterator[str]:
    """Yield the table of configuration keys."""
    yield "\n## Configuration\n"
    yield "The keys of a YAML file, of `key=value` in commands, and of `decentral.launch`.\n"
    yield "| key | default | meaning |\n|---|---|---|"
    for name, default, meaning in documentation():
        shown = list(default) if isinstance(default, tuple) else default
        yield f"| `{name}` | {'required' if default is ... else f'`{shown}`'} | {meaning} |"
    yield (
        "\nA whole number that counts something is from 1 to 10^12; nodes are at most "
        f"{limits.NODES:,}, samples of a node in a step {limits.BATCH:,}, threads "
        f"{limits.THREADS_PER_CORE} per core. More is taken for a slip and refused at once, and "
        "so is what does not fit into memory. The limits stand in `decentral/limits.py`."
    )


def text() -> str:
    """Return the whole page."""
    lines = [HEAD.rstrip(), *configuration()]
    for kind in KINDS:
        lines += section(kind)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
