#!/usr/bin/env bash
# topohub 1.5.1, 2026-11-28.
#
# The statistics of a network count other demands than the network holds. For 14 of the 26 networks
# of SNDlib, graph["stats"]["demands"] is larger than the number of entries of graph["demands"], up
# to twice as large. And for all 203 networks of the Topology Zoo the statistics count n (n - 1)
# demands while none is stored. Who replays graph["demands"] as the package's example shows them
# sends fewer than the statistics of the same file tell of, down to none.
#
# Output seen:
#   polska: 12 nodes, 66 demands stored, 132 in the statistics
#   SNDlib: 14 of 26 networks hold fewer demands than their statistics count
#   Topology Zoo: 203 of 203 networks hold none, their statistics count n (n - 1)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet topohub==1.5.1
cat >"$folder/try.py" <<'PY'
from pathlib import Path

import topohub

FOLDER = Path(topohub.__file__).parent / "data"


def counts(key):
    graph = topohub.get(key)
    stored = sum(len(to) for to in graph["graph"]["demands"].values())
    return len(graph["nodes"]), stored, graph["graph"]["stats"]["demands"]


def group(name):
    return [counts(f"{name}/{place.stem}") for place in sorted((FOLDER / name).glob("*.json"))]


nodes, stored, stated = counts("sndlib/polska")
print(f"polska: {nodes} nodes, {stored} demands stored, {stated} in the statistics")
sndlib, zoo = group("sndlib"), group("topozoo")
fewer = sum(stored < stated for _, stored, stated in sndlib)
print(f"SNDlib: {fewer} of {len(sndlib)} networks hold fewer demands than their statistics count")
none = sum(stored == 0 and stated == n * (n - 1) for n, stored, stated in zoo)
print(f"Topology Zoo: {none} of {len(zoo)} networks hold none, their statistics count n (n - 1)")
seen = (nodes, stored, stated), (fewer, len(sndlib)), (none, len(zoo))
raise SystemExit(seen != ((12, 66, 132), (14, 26), (203, 203)))
PY
cd "$folder"
env/bin/python try.py
