"""What can be wrong with graphs from outside, and with what names their nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

from decentral.registry import build

LAUNCH = "launch --task quadratic nodes=4 steps=4"

#: Files beside the commands.
GRAPHS = {
    "notes.xyz": "nothing that is known\n",
    "cities.csv": "Oslo,Rome\nRome,Bern\nBern,Kyiv\nKyiv,Oslo\n",
    "twins.gml": "graph [ "
    + "".join(f'node [ id {k} label "{name}" ]\n' for k, name in enumerate("abca"))
    + "".join(f"edge [ source {k} target {(k + 1) % 4} ]\n" for k in range(4))
    + "]",
    "heavy.txt": "1 2 0.5\n2 3 0.25\n3 4 -0.5\n4 1 0.25\n",
    "selfish.txt": "1 2 0.5\n2 3 0.25\n3 4 0.5\n4 1 0.25\n2 2 0.5\n",
    "ones.txt": "1 2 1\n2 3 1\n3 4 1\n4 1 1\n",
    "cut.txt": "# Nodes: 4 Edges: 4\n1 2\n",
}

#: Names and commands that are wrong.
COMMANDS = {
    "a path that is no file": f"{LAUNCH} topology=nets/cities.xyz",
    "a file of no known format": f"{LAUNCH} topology=notes.xyz",
    "a graph file that was cut": f"{LAUNCH} topology=cut.txt",
    "an n that is a dimension": f"{LAUNCH} topology=nx:hypercube_graph",
    "an n that fits no size": "launch --task quadratic nodes=5 topology=nx:ladder_graph",
    "unknown network of topohub": f"{LAUNCH} topology=topohub:topozoo/Abilen",
    "negative weight in a file": f"{LAUNCH} topology=heavy.txt",
    "own weight that does not fit": f"{LAUNCH} topology=selfish.txt",
    "weights of a file without any": f"{LAUNCH} topology=cities.csv weights=file",
    "weights of ones": f"{LAUNCH} topology=ones.txt weights=file",
    "unknown label": f"{LAUNCH} topology=cities.csv node_lr.Olso=2",
    "a label of two nodes": f"{LAUNCH} topology=twins.gml attack=sign_flip(nodes=[a])",
    "a node by number and label": f"{LAUNCH} topology=cities.csv node_lr.0=2 node_lr.Oslo=3",
    "a label where there are none": f"{LAUNCH} faults=churn(nodes=[Oslo])",
}


def closed_file() -> Any:
    """Read a graph file that may not be opened; root may open any."""
    refused = mock.Mock(side_effect=PermissionError(13, "Permission denied"))
    with mock.patch("decentral.topology.files.formats.read_unpacked", refused):
        return build("topology", "cities.csv")(4)


def without_topohub() -> Any:
    with mock.patch("decentral.topology.outside.find_spec", return_value=None):
        return build("topology", "topohub:topozoo/Abilene")


GRAPH_CALLS: dict[str, Callable[[], Any]] = {
    "graph file that may not be opened": closed_file,
    "topohub is not installed": without_topohub,
}
