#!/usr/bin/env bash
# networkx 3.6.1, 2026-11-28.
#
# The JSON of networkx 1.x, and that of D3 up to version 3, names the ends of links by the places of
# nodes in the list. node_link_graph() of networkx 3 takes these places for ids: a path of three
# named nodes becomes six nodes, three without a link and three called 0, 1 and 2, and nothing is
# said. Networks that were saved years ago are read as twice as many nodes, half of them isolated.
#
# Output seen:
#   nodes written 3, read 6: ['Javert', 'Myriel', 'Valjean', 0, 1, 2]
#   nodes without a link: ['Javert', 'Myriel', 'Valjean']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet networkx==3.6.1
cat >"$folder/try.py" <<'PY'
import networkx as nx

# What networkx.readwrite.json_graph.node_link_data of version 1.11 writes for a path.
saved = {
    "directed": False,
    "multigraph": False,
    "graph": {},
    "nodes": [{"id": "Myriel"}, {"id": "Valjean"}, {"id": "Javert"}],
    "links": [{"source": 0, "target": 1}, {"source": 1, "target": 2}],
}
graph = nx.node_link_graph(saved, edges="links")
alone = sorted(nx.isolates(graph))
print(f"nodes written 3, read {len(graph)}: {sorted(graph, key=str, reverse=False)[3:] + sorted(graph, key=str)[:3]}")
print(f"nodes without a link: {alone}")
raise SystemExit((len(graph), len(alone)) != (6, 3))
PY
cd "$folder"
env/bin/python try.py
