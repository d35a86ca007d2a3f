"""Topologies from outside the folder: networkx generators, graph files, the networks of topohub."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import networkx as nx

from decentral.blame import library
from decentral.errors import ConfigError, unknown
from decentral.registry import Plugin
from decentral.signature import Setting, signature_settings
from decentral.topology.files.formats import FORMATS, read_graph
from decentral.topology.sizes import check_size
from decentral.traits import TopologyTraits
from decentral.userfile import is_graph_file, located

_OWN = ("create_using", "seed", "backend", "backend_kwargs")
_NETWORKX, _TOPOHUB = "nx:", "topohub:"


def from_networkx(name: str) -> Plugin | None:
    """Return ``nx:generator`` as a plug-in whose settings are the generator's own parameters."""
    if not name.startswith(_NETWORKX):
        return None
    wanted = name.removeprefix(_NETWORKX)
    generator = getattr(nx.generators, wanted, None)
    if not callable(generator) or wanted.startswith("_"):
        raise unknown("networkx generator", wanted, _generators())
    parameters = inspect.signature(generator).parameters
    settings = {
        key: Setting(Any, p.default)
        for key, p in parameters.items()
        if key not in _OWN and p.kind is not inspect.Parameter.VAR_KEYWORD
    }
    if "n" in settings:
        settings["n"] = Setting(Any, None)

    def draw(n: int, seed: int, /, **given: Any) -> Any:
        if "seed" in parameters:
            given["seed"] = seed % 2**32
        if "n" in settings and given["n"] is None:
            del given["n"]
            check_size(name, generator, given, n)
            given["n"] = n
        with library("topology", name):
            return generator(**given)

    draw.__doc__ = f"networkx generator {wanted}: {(generator.__doc__ or '').split(chr(10))[0]}"
    return Plugin("topology", name, draw, settings, TopologyTraits())


def _generators() -> list[str]:
    ends = "_graph"
    return [g for g in dir(nx.generators) if g.endswith(ends) and not g.startswith("_")]


def from_file(name: str) -> Plugin | None:
    """Return a graph file as a plug-in, if that is what the name says.

    Of parallel links the better cable stays, as ``simplified`` says.
    """
    path = Path(name)
    if not is_graph_file(name):
        if "/" not in name and not path.suffix:
            return None
        raise ConfigError(
            f"topology {name!r} is neither a name nor a file that is there; files are {FORMATS}."
        )
    if not located(path).is_file():
        raise ConfigError(f"topology file {name} does not exist; check the path.")
    return _file(str(path.expanduser().resolve()), name, path)


def _file(name: str, shown: str, path: Path) -> Plugin:
    """Return the plug-in that reads a file.

    Args:
        name: Of the plug-in, by which others find the file.
        shown: What messages call it.
        path: Where it lies, on the user's machine.
    """

    def read(n: int, /, *, directed: bool | None = None) -> Any:
        """Read a graph from a file, with latency, bandwidth and weights on its links.

        Args:
            n: Number of nodes.
            directed: Whether the links of a list or table go one way; none: as its comments say,
                else no. Other formats say so themselves.
        """
        return read_graph(located(path), shown, directed)

    return Plugin("topology", name, read, signature_settings(read), TopologyTraits(file=True))


def from_topohub(name: str) -> Plugin | None:
    """Return ``topohub:group/network`` as a plug-in: a file of the installed package topohub."""
    if not name.startswith(_TOPOHUB):
        return None
    found = find_spec("topohub")
    if found is None or found.origin is None:
        raise ConfigError(
            f"topology {name!r} needs the package topohub; "
            "install it with: pip install 'decentral[graphs]'."
        )
    folder = Path(found.origin).parent / "data"
    wanted = name.removeprefix(_TOPOHUB)
    path = folder / f"{wanted}.json"
    if not path.is_file():
        known = [p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.json")]
        raise unknown("network of topohub", wanted, known)
    return _file(name, name, path)
