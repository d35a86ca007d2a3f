#!/usr/bin/env bash
# networkx 3.6.1, scipy 1.17.1, 2026-11-28.
#
# In a sparse matrix by coordinates, entries of one place add up: so scipy computes with them, and so
# finite elements and counts of events are collected. from_scipy_sparse_array() of the same matrix
# keeps the last entry of a place and drops the others. The matrix scipy calls 5 is a link of weight
# 3, and after sum_duplicates(), which changes nothing about the matrix, one of weight 5.
#
# Output seen:
#   scipy: 5.0
#   networkx: 3.0
#   networkx, after sum_duplicates(): 5.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet networkx==3.6.1 scipy==1.17.1 numpy==2.4.6
cat >"$folder/try.py" <<'PY'
import networkx as nx
import numpy as np
from scipy import sparse

ends = np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0])
matrix = sparse.coo_array((np.array([2.0, 3.0, 2.0, 3.0]), ends), shape=(2, 2))
dense = float(matrix.toarray()[0, 1])
first = float(nx.from_scipy_sparse_array(matrix).edges[0, 1]["weight"])
matrix.sum_duplicates()
second = float(nx.from_scipy_sparse_array(matrix).edges[0, 1]["weight"])
print(f"scipy: {dense}")
print(f"networkx: {first}")
print(f"networkx, after sum_duplicates(): {second}")
raise SystemExit((dense, first, second) != (5.0, 3.0, 5.0))
PY
cd "$folder"
env/bin/python try.py
