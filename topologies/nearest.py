"""A topology of your own, made from a file: what is near stays linked."""

from __future__ import annotations

from pathlib import Path

import networkx as nx

from decentral.registry import Count, build, plugin


@plugin("topology")
def nearest(
    n: int, *, file: str = "cloud_regions.json", links: Count = 2
) -> nx.Graph[int]:
    """Of a network file beside this one, every node's quickest links, and what
    connects the rest.

    A node keeps its ``links`` links of least latency; the spanning tree of least
    total latency is kept as well, so that the nodes stay connected.

    >>> nearest(11).number_of_edges()
    15
    """
    whole = build("topology", str(Path(__file__).with_name(file)))(n)
    kept = nx.minimum_spanning_tree(whole, weight="latency_s")
    for node in whole:
        by_latency = sorted(
            whole.edges(node, data=True), key=lambda edge: edge[2]["latency_s"]
        )
        kept.add_edges_from(by_latency[:links])
    return kept
