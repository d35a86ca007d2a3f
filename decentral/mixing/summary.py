"""What was read from a graph file, in one line and for topology.json; what its
weights mean, and how fast they mix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decentral.mixing.base import TOLERANCE, Floats, Mixer
from decentral.topology.base import horizon
from decentral.topology.files.assemble import GraphFile, Span, file_of
from decentral.topology.labels import are_numbers, in_order
from decentral.traits import TopologyTraits, traits_of
from decentral.units import format_bandwidth, format_seconds

#: Labels that a line shows.
_SHOWN = 3
#: Nodes up to which all singular values are found, and vectors that span the search
#: for the largest one of more: with 64, rings and lines of thousands converge too.
_FEW, _BASIS = 256, 64


def summary_line(mixer: Mixer) -> str | None:
    """Return the line about a topology's file; None for topologies that are no
    file.
    """
    topology = mixer.topology
    if not traits_of(topology.rule, TopologyTraits).file:
        return None
    file = file_of(topology.graph(0))
    assert file is not None  # every graph that is read from a file holds the facts
    said = (
        _size(file),
        f"weights: {_weights(file, mixer)}",
        f"latency: {_span(file.latency_s, format_seconds)}",
        f"bandwidth: {_span(file.bandwidth_Bps, format_bandwidth)}",
        f"labels: {_labels(topology.labels)}",
    )
    cut = (
        ""
        if file.ended
        else "; its last line has no end: if the file was cut, it is not whole"
    )
    return f"{Path(file.name).name} is {file.form}: {'; '.join(said)}{cut}."


def mixing_note(mixer: Mixer) -> str | None:
    """Return what weights do that their user may not expect: the mean of the models
    drifts, or nodes never agree.
    """
    topology = mixer.topology
    what = f"topology {topology.rule.name}, weights {mixer.weights_name}"
    if not mixer.doubly_stochastic:
        directed = topology.links(0).directed
        remedy = "algorithm=push_sum" if directed else "weights=metropolis"
        return (
            f"{what}: row-stochastic, so that the mean of the models drifts; {remedy} "
            "keeps it."
        )
    # Those that are computed keep a share of each node's own row: on a connected
    # graph they bring all together.
    given = mixer.rule is None and not topology.time_varying
    if given and topology.nodes <= _FEW and spectral_gap(mixer) < TOLERANCE:
        return (
            f"{what}: the spectral gap is 0, so that nodes never agree (two of weight 1 "
            "swap models for ever); weights=metropolis lets them."
        )
    return None


def describe_mixing(mixer: Mixer) -> dict[str, Any]:
    """Return the links of a topology, the labels of its nodes and what its file
    held, for JSON.
    """
    topology = mixer.topology
    graph = topology.union()
    found: dict[str, Any] = {
        "n": topology.nodes,
        "directed": graph.is_directed(),
        "time_varying": topology.time_varying,
        "links": [[int(a), int(b)] for a, b in graph.edges()],
    }
    if not topology.time_varying and not are_numbers(topology.labels):
        found["labels"] = list(topology.labels)
    if line := summary_line(mixer):
        file = file_of(graph)
        assert file is not None  # or there were no line
        found |= {"file": file.plain(), "summary": line}
    return found


def _size(file: GraphFile) -> str:
    """Return nodes and links, with what was left out of these."""
    left = [(file.parallel, "parallel"), (file.loops, "from a node to itself")]
    beside = ", ".join(f"{count:,} {kind}" for count, kind in left if count)
    nodes = f"{file.nodes:,} node{'s' if file.nodes != 1 else ''}"
    links = f"{file.links:,} link{'s' if file.links != 1 else ''}"
    links += f" (left out: {beside})" if beside else ""
    return f"{nodes}, {links}, {'directed' if file.directed else 'undirected'}"


def _weights(file: GraphFile, mixer: Mixer) -> str:
    """Return what the file says of weights, and what they mean for the run."""
    name = mixer.weights_name
    if file.ones:
        return f"1 on every link, which says nothing, so {name}"
    if file.weights is None:
        return f"none in the file, so {name}"
    low, high = file.weights
    span = f"{low:.4g} to {high:.4g}" if low != high else f"{low:.4g}"
    if mixer.rule is None:
        return f"{span} in the file, taken as mixing weights"
    return f"{span} in the file, left aside for {name}"


def _span(found: Span | None, write: Callable[[float], str]) -> str:
    if found is None:
        return "none"
    low, high = map(write, found)
    return low if low == high else f"{low} to {high}"


def _labels(labels: Sequence[str]) -> str:
    """Return the labels as far as there is room; whole numbers ascend, so their
    ends tell.
    """
    if are_numbers(labels):
        return "none but numbers, 0 to " + labels[-1]
    if in_order(labels) is not None:
        return f"{labels[0]} to {labels[-1]}, for nodes 0 to {len(labels) - 1}"
    beyond = ", ..." if len(labels) > _SHOWN else ""
    twice = len(labels) - len(set(labels))
    return (
        ", ".join(labels[:_SHOWN])
        + beyond
        + (f" ({twice} of them again)" if twice else "")
    )


def spectral_gap(mixer: Mixer) -> float:
    """Return the share of disagreement that a round removes, 1 - ||(I - J) W||_2
    for a single one.

    Over T rounds it is 1 - ||(I - J) W_T ... W_1||_2^(1/T), and 1 when they average
    exactly.
    """
    rounds = horizon(mixer.topology)
    disagreement = _norm_of_round(mixer) if rounds == 1 else None
    if disagreement is None:
        product = np.eye(mixer.topology.nodes)
        for index in range(rounds):
            product = mixer.mixing(index).sparse() @ product
        # Without the mean of each column this is (I - J) times the product.
        disagreement = float(np.linalg.norm(product - product.mean(0), 2))
    return 1.0 if disagreement < TOLERANCE else 1.0 - disagreement ** (1.0 / rounds)


def _norm_of_round(mixer: Mixer) -> float | None:
    """Return ||(I - J) W||_2 of a round of many nodes, by products with vectors.

    None: of few nodes all singular values are as fast, a few graphs do not
    converge, and whether a mixing is exact takes more digits.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    nodes = mixer.topology.nodes
    if nodes <= _FEW:
        return None
    mixing = mixer.mixing(0).sparse()
    transposed = mixing.T.tocsr()

    def apply(vector: Floats) -> Floats:
        mixed = mixing @ vector
        return transposed @ (mixed - mixed.mean())

    # A start that is the same each time, since the last digits depend on it.
    start = np.random.default_rng(0).standard_normal(nodes)
    square = LinearOperator((nodes, nodes), matvec=apply, dtype=np.float64)  # pyright: ignore
    try:
        found = eigsh(square, k=1, v0=start, ncv=_BASIS, return_eigenvectors=False)
    except ArpackError:
        return None
    # Of what is nearly nothing the root is no more than that of rounding.
    return float(np.sqrt(found[0])) if found[0] > TOLERANCE else None
