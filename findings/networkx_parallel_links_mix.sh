#!/usr/bin/env bash
# networkx 3.6.1, 2026-11-28.
#
# A multigraph that becomes a graph, by nx.Graph(multigraph) as the documentation of read_pajek()
# advises, or by node_link_graph() of a file that says "multigraph": false, keeps one link of
# parallel ones, whose attributes come from all of them: each key from the last link that has it. A
# slow cable that tells its latency and a fast one that tells its bandwidth become a cable that
# there is not, and the order of links in the file decides which.
#
# Output seen:
#   Graph(MultiGraph): {'bandwidth': 10000, 'latency': 500}
#   node_link_graph: {'bandwidth': 10000, 'latency': 500}
#   the other order, both told: {'bandwidth': 1, 'latency': 500}, {'bandwidth': 10000, 'latency': 5}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet networkx==3.6.1
cat >"$folder/try.py" <<'PY'
import networkx as nx

FAST, SLOW = {"bandwidth": 10000}, {"latency": 500}
cables = nx.MultiGraph([(0, 1, FAST), (0, 1, SLOW)])
mixed = nx.Graph(cables).edges[0, 1]
print(f"Graph(MultiGraph): {mixed}")
links = [{"source": 0, "target": 1, **cable} for cable in (FAST, SLOW)]
whole = {"multigraph": False, "nodes": [{"id": 0}, {"id": 1}], "edges": links}
read = nx.node_link_graph(whole, edges="edges").edges[0, 1]
print(f"node_link_graph: {read}")
both = [{"bandwidth": 10000, "latency": 5}, {"bandwidth": 1, "latency": 500}]
last = [nx.Graph(nx.MultiGraph([(0, 1, c) for c in order])).edges[0, 1] for order in (both, both[::-1])]
print(f"the other order, both told: {last[0]}, {last[1]}")
raise SystemExit((mixed, read, last) != ({**FAST, **SLOW}, {**FAST, **SLOW}, both[::-1]))
PY
cd "$folder"
env/bin/python try.py
