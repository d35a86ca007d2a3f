"""Topologies from outside the folder: networkx generators, graph files, the
networks of topohub.

Generators whose ``n`` is not the number of nodes are refused, with the n that fits.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import networkx as nx

from decentral.blame import library
from decentral.errors import ConfigError, install_command, unknown
from decentral.registry import Plugin
from decentral.signature import Setting, signature_settings
from decentral.spec import is_graph_file
from decentral.topology.files.formats import FORMATS, read_graph
from decentral.traits import TopologyTraits
from decentral.userfile import locate

_OWN = ("create_using", "seed", "backend", "backend_kwargs")
_NETWORKX, _TOPOHUB = "nx:", "topohub:"


def from_networkx(name: str) -> Plugin | None:
    """Return ``nx:generator`` as a plug-in whose settings are the generator's own
    parameters.
    """
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

    draw.__doc__ = (
        f"networkx generator {wanted}: {(generator.__doc__ or '').split(chr(10))[0]}"
    )
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
    if not locate(path).is_file():
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
        """Read a graph from a file, with latency, bandwidth and weights on its
        links.

        Args:
            n: Number of nodes.
            directed: Whether the links of a list or table go one way; none: as its
                comments say, else no. Other formats say so themselves.
        """
        return read_graph(locate(path), shown, directed)

    return Plugin(
        "topology", name, read, signature_settings(read), TopologyTraits(file=True)
    )


def from_topohub(name: str) -> Plugin | None:
    """Return ``topohub:group/network`` as a plug-in: a file of the installed
    package topohub.
    """
    if not name.startswith(_TOPOHUB):
        return None
    found = find_spec("topohub")
    if found is None or found.origin is None:
        raise ConfigError(
            f"topology {name!r} needs the package topohub; "
            f"install it with: {install_command('graphs')}."
        )
    folder = Path(found.origin).parent / "data"
    wanted = name.removeprefix(_TOPOHUB)
    path = folder / f"{wanted}.json"
    if not path.is_file():
        known = [
            p.relative_to(folder).with_suffix("").as_posix()
            for p in folder.rglob("*.json")
        ]
        raise unknown("network of topohub", wanted, known)
    return _file(name, name, path)


# --- generators whose n counts something else -------------------------------------


#: Two small values of n that tell whether it counts nodes.
_PROBES = (5, 6)
#: Values of n that are tried one by one.
_TRIED = 24
#: Links beyond which a graph is the last one that is drawn to look for a size.
_COSTLY = 20_000
#: Values of n that a message lists.
_LISTED = 4
_ABOUT_N = re.compile(r"^n *:[^\n]*\n((?: +[^\n]+\n?)+)", re.MULTILINE)

Generator = Callable[..., Any]


def check_size(
    name: str, generator: Generator, given: Mapping[str, Any], nodes: int
) -> None:
    """Raise ConfigError where ``n`` is something else than the number of nodes.

    Args:
        name: Of the topology, for the message.
        generator: A function of networkx.
        given: Its other arguments.
        nodes: Of the run.
    """
    probed = [_try_draw(generator, given, n) for n in _PROBES]
    if any(
        drawn is None or drawn[0] == n for drawn, n in zip(probed, _PROBES, strict=True)
    ):
        return  # it counts nodes, or small ones do not exist
    found = _sizes(generator, given, nodes)
    fitting = next((n for n, count in found.items() if count == nodes), None)
    if not found or fitting == nodes:
        return
    near = sorted(sorted(found, key=lambda n: abs(found[n] - nodes))[:_LISTED])
    listed = f"n={_several(near)} {'give' if len(near) > 1 else 'gives'} "
    listed += f"{_several([found[n] for n in near])} nodes"
    call = f"{name}(n={{}}{_settings(generator, given)})"
    remedy = f"write {call.format('...')} and set nodes to what it gives"
    if fitting is not None:
        remedy = f"write {call.format(fitting)} for {nodes} nodes"
    elif max(found.values()) >= nodes:
        remedy = f"none gives {nodes}; {remedy}"
    raise ConfigError(
        f"topology {name!r}: its n is not the number of nodes{_meaning(generator)}; "
        f"{listed}; {remedy}."
    )


def _settings(generator: Generator, given: Mapping[str, Any]) -> str:
    """Return the arguments that are not as they would be anyway, as a call spells
    them.
    """
    parameters = inspect.signature(generator).parameters
    differ = {
        key: value for key, value in given.items() if value != parameters[key].default
    }
    return "".join(f", {key}={value}" for key, value in differ.items() if key != "seed")


def _several(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _meaning(generator: Generator) -> str:
    """Return what networkx says about ``n``, in brackets."""
    found = _ABOUT_N.search(inspect.getdoc(generator) or "")
    sentence = " ".join(found[1].split()).partition(". ")[0].rstrip(".") if found else ""
    return f" ({sentence})" if sentence else ""


def _try_draw(
    generator: Generator, given: Mapping[str, Any], n: int
) -> tuple[int, int] | None:
    """Return the numbers of nodes and links for an n, None where there is no graph.

    Args:
        generator: A function of networkx.
        given: Its other arguments.
        n: The argument n.
    """
    try:
        graph = generator(**given, n=n)
        return int(graph.number_of_nodes()), int(graph.number_of_edges())
    except Exception:  # of a generator that refuses this n: it has no size
        return None


def _sizes(generator: Generator, given: Mapping[str, Any], nodes: int) -> dict[int, int]:
    """Return sizes by n, up to the first that is large enough.

    One by one at first, since some double each time; what is still too small then
    grows slowly, and is bracketed and halved.

    Args:
        generator: A function of networkx.
        given: Its other arguments.
        nodes: Of the run.
    """
    found: dict[int, int] = {}

    def small(n: int) -> bool:
        """Whether the graph for this n is too small, and the next one not too large
        to draw.
        """
        drawn = _try_draw(generator, given, n)
        if drawn is None:
            return True
        found[n] = drawn[0]
        return drawn[0] < nodes and drawn[1] < _COSTLY

    if not all(small(n) for n in range(1, _TRIED + 1)):
        return found
    low, high = _TRIED, _TRIED * 3 // 2
    while high < 2 * nodes and small(high):
        low, high = high, high * 3 // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if small(middle) else (low, middle)
    return found
