"""Graphs as people hold them in Python: networkx graphs and functions, matrices,
edge lists.

A matrix is an adjacency or holds weights. One of 0 and 1 with a zero diagonal is an
adjacency, one whose rows sum to 1 holds weights W_ij, of what i receives from j;
any other must be said to be either, by ``{"name": matrix, "kind": "adjacency"}``.
Entry A_ij of an adjacency is a link i -> j, in both directions where the matrix is
symmetric. What was read, and as what, is shown before a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from decentral.errors import ConfigError
from decentral.registry import ConfiguredPlugin, Plugin, bind, find
from decentral.spec import Spec, parse_spec
from decentral.topology.files.assemble import simplify
from decentral.traits import TopologyTraits

#: What a matrix may be said to hold.
Kind = Literal["adjacency", "weights"]

_ROUNDING = 1e-6
Matrix = NDArray[np.float64]


def as_plugin(value: Any) -> Any:
    """Return a topology as a plug-in, where a graph is held in Python; any other as
    it is.

    Args:
        value: What was given: a name, a plug-in, a function, a graph, or a mapping
            whose ``name`` is one of these and whose ``kind`` says what a matrix
            holds.

    Raises:
        ConfigError: It is no graph, or it is not clear what its numbers are.
    """
    kind = None
    if isinstance(value, Mapping):
        given: dict[str, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
        if isinstance(given.get("name"), str | None):
            return given
        kind, value = given.pop("kind", None), given.pop("name")
        if given or kind not in (None, *get_args(Kind)):
            key = next(iter(given), "kind")
            raise ConfigError(
                f"topology: {key} = {given.get(key, kind)!r:.40}: a graph that is held in Python "
                "takes kind, which is adjacency or weights, and nothing else."
            )
    if value is None or isinstance(value, str | int | float | Spec | ConfiguredPlugin):
        return value
    if callable(value) and not hasattr(value, "edges"):
        return _networkx_name(value) or value
    graph, said = graph_of(value, kind)
    return _plugin(graph, said)


def _networkx_name(function: Any) -> str | None:
    """Return a generator of networkx by its name, ``nx:cycle_graph``."""
    name = getattr(function, "__name__", "")
    return (
        f"nx:{name}" if name and getattr(nx.generators, name, None) is function else None
    )


def _plugin(graph: nx.Graph[Any], said: str) -> ConfiguredPlugin:
    """Return a topology that is one graph, whatever is asked of it."""

    def drawn(n: int) -> nx.Graph[Any]:
        return graph

    drawn.__module__ = type(graph).__module__  # no other process finds it by a name
    traits = TopologyTraits(said=said, holds=simplify(graph).number_of_nodes())
    return bind(Plugin("topology", "graph", drawn, {}, traits), {})


def count_held_nodes(value: Any) -> int | None:
    """Return how many nodes a topology has that comes with them: a graph, or a file
    of one.

    Args:
        value: The topology, as ``held`` returns it.
    """
    if isinstance(value, ConfiguredPlugin):
        traits: Any = value.traits
        return traits.holds
    if value is None or not isinstance(value, str | Mapping | Spec):
        return None
    spec = parse_spec(value, "topology")
    if (":" not in spec.name and "." not in spec.name) or ".py" in spec.name:
        return None
    found = find("topology", spec.name)
    named = dict(zip(found.settings, spec.args, strict=False)) | dict(spec.settings)
    if "n" in found.settings and named.get("n") is None:
        return None  # a generator that makes a graph of any size
    rule = bind(found, named)
    return simplify(rule(*(0 for _ in found.positional()))).number_of_nodes()


# --- what graphs are made of ------------------------------------------------------


def graph_of(value: Any, kind: Kind | None = None) -> tuple[nx.Graph[Any], str]:
    """Return a graph as networkx has it, and in a line what it was read as.

    Args:
        value: A graph of networkx, igraph or torch_geometric, a matrix of numpy,
            scipy or torch, a square frame, a list of links (a, b), (a, b, weight)
            or (a, b, {"latency_s": 0.1}), or the neighbours of each node, {a: [b]}.
        kind: What a matrix holds, where that is not plain.

    Raises:
        ConfigError: It is none of these, or it is not clear what its numbers are.
    """
    if isinstance(value, nx.Graph):
        if not len(value):
            raise ConfigError("topology: the graph holds no node; give at least one.")
        return value, ""
    if isinstance(value, Mapping):
        return _of_mapping(value)  # pyright: ignore[reportUnknownArgumentType]
    if hasattr(value, "to_networkx"):  # igraph
        return value.to_networkx(), ""
    if hasattr(value, "edge_index"):  # torch_geometric
        return _of_pairs(np.asarray(value.edge_index).T.tolist(), int(value.num_nodes))
    labels, array = _array(value)
    if array is not None and array.ndim == 2 and array.shape[0] == array.shape[1]:
        return _of_matrix(array, labels, kind)
    if (
        array is not None
        and array.ndim == 2
        and 2 in array.shape
        and array.dtype.kind in "iu"
    ):
        pairs: Any = array if array.shape[1] == 2 else array.T
        return _of_pairs(pairs.tolist(), None)
    if array is None and isinstance(value, list | tuple | set | frozenset):
        return _of_pairs(list(value), None)  # pyright: ignore[reportUnknownArgumentType]
    what = (
        type(value).__name__
        if array is None
        else f"an array of shape {list(array.shape)}"
    )
    raise ConfigError(
        f"topology: {what} is no graph; give a networkx graph or function, a square matrix, or a "
        "list of links (a, b)."
    )


def _array(value: Any) -> tuple[list[str] | None, NDArray[Any] | None]:
    """Return the labels of a frame, and the numbers of an array, tensor, frame or
    sparse matrix.
    """
    labels = None
    if (
        hasattr(value, "columns")
        and hasattr(value, "index")
        and hasattr(value, "to_numpy")
    ):
        labels = [str(label) for label in value.index]
        if labels != [str(label) for label in value.columns]:
            raise ConfigError(
                "topology: rows and columns of the frame are not labelled alike; give a matrix "
                "whose index is its columns."
            )
        value = value.to_numpy()
    if hasattr(value, "toarray"):  # scipy
        value = value.toarray()
    if getattr(value, "is_meta", False):
        raise ConfigError(
            "topology: the matrix is on the meta device, without numbers; give numbers."
        )
    if hasattr(value, "to_dense"):  # torch
        value = value.detach().cpu().to_dense().numpy()
    return labels, value if isinstance(value, np.ndarray) else None


def _of_matrix(
    array: NDArray[Any], labels: list[str] | None, kind: Kind | None
) -> tuple[nx.Graph[Any], str]:
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ConfigError(
            "topology: the matrix holds what is no number; give finite numbers."
        )
    matrix: Matrix = array.astype(np.float64)
    off = matrix * (1 - np.eye(len(matrix)))
    plain = bool(np.isin(matrix, (0, 1)).all()) and not matrix.diagonal().any()
    kind = _kind_of(matrix.sum(1), plain, kind)
    symmetric = bool(np.allclose(matrix, matrix.T, rtol=0, atol=1e-12))
    graph: nx.Graph[Any] = nx.Graph() if symmetric else nx.DiGraph()
    graph.add_nodes_from(
        (node, {} if labels is None else {"label": labels[node]})
        for node in range(len(matrix))
    )
    for one, other in np.argwhere(off).tolist():
        if kind == "weights":  # W_ij is of what i receives from j
            graph.add_edge(other, one, weight=off[one, other])
        else:
            graph.add_edge(one, other)
    if kind == "weights":
        what = "mixing weights (rows sum to 1)"
    elif plain:
        what = "an adjacency (0 and 1, a zero diagonal)"
    else:
        what = "an adjacency (as was said; other numbers than 0 are links)"
    size, sides = (
        f"{len(matrix)} x {len(matrix)}",
        "both ways" if symmetric else "one way",
    )
    return graph, f"topology: a matrix of {size}, read as {what}; links go {sides}."


def _kind_of(sums: NDArray[np.float64], plain: bool, kind: Kind | None) -> Kind:
    """Return what a matrix holds, as was said or as it shows; never a guess.

    Args:
        sums: The sums of its rows.
        plain: Whether it is of 0 and 1, with a zero diagonal.
        kind: What was said.
    """
    stochastic = bool((np.abs(sums - 1) < _ROUNDING).all())
    span = f"{sums.min():.4g} to {sums.max():.4g}"
    if kind is None and not plain and not stochastic:
        raise ConfigError(
            f"topology: the matrix is neither of 0 and 1 with a zero diagonal nor has it rows that "
            f"sum to 1 (they sum to {span}); say what it holds: "
            '{"name": matrix, "kind": "adjacency"} or "weights".'
        )
    kind = kind or ("adjacency" if plain else "weights")
    if kind == "weights" and not stochastic:
        raise ConfigError(
            f"topology: rows of a matrix of weights sum to 1, those of this one to {span}; divide "
            "each by its sum, or say that it is an adjacency."
        )
    return kind


def _of_mapping(value: Mapping[Any, Any]) -> tuple[nx.Graph[Any], str]:
    """Read what says of every node which ones it is linked to."""
    graph: nx.Graph[Any] = nx.Graph()
    graph.add_nodes_from(value)
    for node, others in value.items():
        for other in others:
            known = others[other] if isinstance(others, Mapping) else {}
            known = known if isinstance(known, Mapping) else {"weight": known}
            graph.add_edge(node, other, **{str(key): one for key, one in known.items()})
    count = graph.number_of_edges()
    return graph, f"topology: {count} links between {len(graph)} nodes, both ways."


def _of_pairs(pairs: list[Any], nodes: int | None) -> tuple[nx.Graph[Any], str]:
    graph: nx.Graph[Any] = nx.Graph()
    if nodes is not None:
        graph.add_nodes_from(range(nodes))
    for link in pairs:
        parts: Any = link if isinstance(link, list | tuple) else ()
        data = parts[2] if len(parts) == 3 else {}
        if len(parts) not in (2, 3) or not isinstance(data, Mapping | int | float):
            raise ConfigError(
                f"topology: {link!r:.60} is no link; write (a, b), (a, b, weight) or "
                '(a, b, {"latency_s": 0.01}).'
            )
        known: Any = data if isinstance(data, Mapping) else {"weight": float(data)}
        graph.add_edge(parts[0], parts[1], **known)
    if not len(graph):
        raise ConfigError("topology: the list holds no link; give at least one (a, b).")
    count = graph.number_of_edges()
    return (
        graph,
        f"topology: a list of {count} links between {len(graph)} nodes, both ways.",
    )
