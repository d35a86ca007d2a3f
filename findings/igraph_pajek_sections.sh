#!/usr/bin/env bash
# igraph 1.0.0 (python-igraph), 2026-11-28.
#
# A Pajek file may hold arcs, which go one way, and edges, which go both. The manual of igraph's C
# library lists graphs with both as not supported; they are read all the same, without an error or a
# warning, as a graph of one kind, and the section that comes last decides which: with *Edges last
# all is undirected, and the arc's direction is lost; with *Arcs last all is directed, and the edge
# loses its way back. (networkx errs the other way round on the same files.)
#
# Output seen:
#   arcs, then edges: directed False, links [('a', 'b'), ('b', 'c')]
#   edges, then arcs: directed True, links [('a', 'b'), ('b', 'c')]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet igraph==1.0.0
cat >"$folder/try.py" <<'PY'
from pathlib import Path

import igraph

VERTICES = '*Vertices 3\n1 "a"\n2 "b"\n3 "c"\n'
ARCS, EDGES = "*Arcs\n1 2 1\n", "*Edges\n2 3 1\n"

found = []
for words, text in (("arcs, then edges", ARCS + EDGES), ("edges, then arcs", EDGES + ARCS)):
    Path("graph.net").write_text(VERTICES + text)
    graph = igraph.Graph.Read_Pajek("graph.net")
    links = sorted(tuple(graph.vs[end]["name"] for end in edge.tuple) for edge in graph.es)
    print(f"{words}: directed {graph.is_directed()}, links {links}")
    found.append((graph.is_directed(), links))
links = [("a", "b"), ("b", "c")]
raise SystemExit(found != [(False, links), (True, links)])
PY
cd "$folder"
env/bin/python try.py
