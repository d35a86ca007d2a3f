#!/usr/bin/env bash
# networkx 3.6.1, 2026-11-28.
#
# GML knows no flag for parallel edges: a file simply lists them. networkx has made one up,
# "multigraph 1", and refuses what lists an edge twice without it, so that GML of other programs is
# read or not by whether two routers are joined by two cables (89 of the 261 files of the Internet
# Topology Zoo). With the flag, which has to be written into the file, the same text is read.
#
# Output seen:
#   without the flag: NetworkXError: edge #1 (0--1) is duplicated
#   with the flag: 2 links
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet networkx==3.6.1
cat >"$folder/try.py" <<'PY'
import networkx as nx

TEXT = """graph [ {flag}
  node [ id 0 label "Los Angeles" ]
  node [ id 1 label "Chennai" ]
  edge [ source 0 target 1 ]
  edge [ source 0 target 1 ]
]"""
try:
    nx.parse_gml(TEXT.format(flag=""))
    said = "read"
except nx.NetworkXError as error:
    said = f"NetworkXError: {str(error).splitlines()[0]}"
print(f"without the flag: {said}")
links = nx.parse_gml(TEXT.format(flag="multigraph 1")).number_of_edges()
print(f"with the flag: {links} links")
raise SystemExit(("duplicated" in said, links) != (True, 2))
PY
cd "$folder"
env/bin/python try.py
