#!/usr/bin/env bash
# networkx 3.6.1, 2026-11-28.
#
# read_edgelist() passes over every line in which it does not find two words. Of a list whose ends
# are set apart by commas without spaces, as spreadsheets write it, nothing is left: a graph without
# nodes, and no error. A list in which some lines are so loses these lines, and no more is said.
# (With delimiter="," all is read; who does not know the file cannot know that.)
#
# Output seen:
#   all commas: 0 nodes, 0 links
#   one line of three with a comma: 2 links
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet networkx==3.6.1
cat >"$folder/try.py" <<'PY'
import io

import networkx as nx


def read(text):
    return nx.read_edgelist(io.BytesIO(text.encode()))


commas, mixed = read("0,1\n1,2\n2,0\n"), read("0 1\n1,2\n2 0\n")
print(f"all commas: {len(commas)} nodes, {commas.number_of_edges()} links")
print(f"one line of three with a comma: {mixed.number_of_edges()} links")
raise SystemExit((len(commas), mixed.number_of_edges()) != (0, 2))
PY
cd "$folder"
env/bin/python try.py
