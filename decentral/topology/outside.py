"""Topologies from outside the folder: networkx generators by name, and graph files."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx

from decentral.errors import ConfigError, unknown
from decentral.registry import Plugin
from decentral.signature import Setting
from decentral.topology.parallel import simplified
from decentral.traits import TopologyTraits
from decentral.units import parse_bandwidth, parse_seconds
from decentral.userfile import GRAPHS, located

_OWN = ("create_using", "seed", "backend", "backend_kwargs")


def from_networkx(name: str) -> Plugin | None:
    """Return ``nx:generator`` as a plug-in whose settings are the generator's own parameters."""
    if not name.startswith("nx:"):
        return None
    wanted = name.removeprefix("nx:")
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
        if "n" in settings and given.get("n") is None:
            given["n"] = n
        if "seed" in parameters:
            given["seed"] = seed % 2**32
        return generator(**given)

    draw.__doc__ = f"networkx generator {wanted}: {(generator.__doc__ or '').split(chr(10))[0]}"
    return Plugin("topology", name, draw, settings, TopologyTraits())


def _generators() -> list[str]:
    ends = "_graph"
    return [g for g in dir(nx.generators) if g.endswith(ends) and not g.startswith("_")]


def from_file(name: str) -> Plugin | None:
    """Return a graph file as a plug-in: GraphML, GML, edge list or JSON node-link.

    Of parallel links the better cable stays, as ``simplified`` says.
    """
    reading = (nx.read_graphml, _read_gml, _read_edgelist, _read_edgelist, _read_node_link)
    readers: dict[str, Callable[[Path], Any]] = dict(zip(GRAPHS, reading, strict=True))
    path = Path(name)
    if path.suffix not in readers:
        return None
    if not located(path).is_file():
        raise ConfigError(f"topology file {name} does not exist; check the path.")

    def read(n: int, /) -> Any:
        """Read a graph from a file, with latency and bandwidth on its links."""
        try:
            graph = _numbered(readers[path.suffix](located(path)))
            return simplified(_with_units(graph, name))
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"topology file {name} cannot be read: {error}.") from error

    return Plugin("topology", str(path.expanduser().resolve()), read, {}, TopologyTraits())


def _read_gml(path: Path) -> Any:
    return nx.read_gml(path, label="id")


def _read_edgelist(path: Path) -> Any:
    return nx.read_edgelist(path, create_using=nx.MultiGraph)


def _read_node_link(path: Path) -> Any:
    """Read a node-link file, every link by itself: keys and flags that merge them are left out."""
    data = json.loads(path.read_text(encoding="utf-8"))
    edges = "links" if "links" in data else "edges"
    links = [{k: v for k, v in link.items() if k != "key"} for link in data[edges]]
    return nx.node_link_graph({**data, "multigraph": True, edges: links}, edges=edges)


def _numbered(graph: Any) -> Any:
    """Turn labels such as "0", "1", ... into integers, so that they keep their meaning."""
    labels = {label: str(label) for label in graph}
    if all(text.isdigit() for text in labels.values()):
        return nx.relabel_nodes(graph, {label: int(text) for label, text in labels.items()})
    return graph


def _with_units(graph: Any, name: str) -> Any:
    units = (
        ("latency", "latency_s", parse_seconds),
        ("bandwidth", "bandwidth_Bps", parse_bandwidth),
    )
    for one, other, data in graph.edges(data=True):
        for text, key, parse in units:
            if text in data or key in data:
                where = f"topology file {name}, link {one}-{other}: {text}"
                data[key] = parse(data.pop(text, data.get(key)), where)
    return graph
