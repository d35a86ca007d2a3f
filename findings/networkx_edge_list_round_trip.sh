#!/usr/bin/env bash
# networkx 3.6.1, 2026-11-28.
#
# What write_edgelist() writes, read_edgelist() does not always read. Labels with spaces are written
# as they are: the link between New York and Boston is read as one between New and York, without an
# error where no attributes are written. Attributes are written as Python prints them, and read as
# Python's literals, which nan and inf are not: a link of infinite capacity is written and refused.
#
# Output seen:
#   written [('New York', 'Boston')], read [('New', 'York')]
#   capacity inf: TypeError
#   capacity nan: TypeError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet networkx==3.6.1
cat >"$folder/try.py" <<'PY'
import io

import networkx as nx


def again(graph, **settings):
    stream = io.BytesIO()
    nx.write_edgelist(graph, stream, **settings)
    stream.seek(0)
    return nx.read_edgelist(stream, **settings)


cities = nx.Graph([("New York", "Boston")])
read = list(again(cities, data=False).edges())
print(f"written {list(cities.edges())}, read {read}")
said = []
for capacity in (float("inf"), float("nan")):
    try:
        again(nx.Graph([(0, 1, {"capacity": capacity})]))
        said.append("read")
    except TypeError:
        said.append("TypeError")
    print(f"capacity {capacity}: {said[-1]}")
raise SystemExit((read, said) != ([("New", "York")], ["TypeError", "TypeError"]))
PY
cd "$folder"
env/bin/python try.py
