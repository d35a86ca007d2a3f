#!/usr/bin/env bash
# networkx 3.6.1, 2026-11-28.
#
# A Pajek file may hold arcs, which go one way, and edges, which go both. read_pajek() keeps one
# kind: with *Arcs first the edge becomes an arc, its way back is lost; with *Edges first the arc
# goes both ways. So the order of two sections, which means nothing in the format, decides about
# directions. And vertices, which Pajek numbers, are known by their labels: two of one label, as two
# "New York" in a map of routers, are one node, and their links are parallel.
#
# Output seen:
#   arcs, then edges: directed True, links [('a', 'b'), ('b', 'c')]
#   edges, then arcs: directed False, links [('a', 'b'), ('b', 'c')]
#   three vertices, two of one label: 2 nodes
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet networkx==3.6.1
cat >"$folder/try.py" <<'PY'
import networkx as nx

VERTICES = '*Vertices 3\n1 "a"\n2 "b"\n3 "c"\n'
ARCS, EDGES = "*Arcs\n1 2 1\n", "*Edges\n2 3 1\n"

found = []
for words, text in (("arcs, then edges", ARCS + EDGES), ("edges, then arcs", EDGES + ARCS)):
    graph = nx.parse_pajek(VERTICES + text)
    links = sorted(graph.edges())
    print(f"{words}: directed {graph.is_directed()}, links {links}")
    found.append((graph.is_directed(), links))

twice = nx.parse_pajek('*Vertices 3\n1 "x"\n2 "x"\n3 "y"\n*Edges\n1 3 1\n2 3 1\n')
print(f"three vertices, two of one label: {len(twice)} nodes")
links = [("a", "b"), ("b", "c")]
raise SystemExit((found, len(twice)) != ([(True, links), (False, links)], 2))
PY
cd "$folder"
env/bin/python try.py
