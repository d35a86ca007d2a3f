#!/usr/bin/env bash
# torch 2.13.0 (CPU), numpy 2.4.6, 2026-11-28.
#
# Uneven data are made by drawing each node's shares from a Dirichlet distribution: the smaller
# alpha, the fewer classes a node has. Below some alpha all gammas behind a draw are too small for
# a float. torch then returns equal shares: with two classes and alpha 0.001, a quarter of the nodes
# that should have one class have exactly half of each, the opposite of what was asked for.
# numpy.random.dirichlet returns nan for as many, and only numpy.random.Generator.dirichlet one
# class.
#
# Output seen, for 10,000 nodes, 2 classes, alpha 0.001:
#   torch: exactly half of each 25 %, nan 0 %
#   numpy.random: exactly half of each 0 %, nan 24 %
#   numpy.random.Generator: exactly half of each 0 %, nan 0 %
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat >"$folder/try.py" <<'PY'
import numpy as np
import torch

NODES, ALPHA = 10_000, [0.001, 0.001]
torch.manual_seed(0)
np.random.seed(0)
SHARES = {
    "torch": torch.distributions.Dirichlet(torch.tensor(ALPHA)).sample((NODES,)).numpy(),
    "numpy.random": np.random.dirichlet(ALPHA, NODES),
    "numpy.random.Generator": np.random.default_rng(0).dirichlet(ALPHA, NODES),
}
found = {}
for name, shares in SHARES.items():
    half = round(100 * np.mean(shares[:, 0] == 0.5))
    nothing = round(100 * np.mean(np.isnan(shares[:, 0])))
    print(f"{name}: exactly half of each {half} %, nan {nothing} %")
    found[name] = half, nothing
expected = {"torch": (25, 0), "numpy.random": (0, 24), "numpy.random.Generator": (0, 0)}
raise SystemExit(found != expected)
PY
"$folder/env/bin/python" "$folder/try.py"
