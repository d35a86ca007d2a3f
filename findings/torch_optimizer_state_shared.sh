#!/usr/bin/env bash
# torch 2.13.0 (CPU), 2026-11-28.
#
# model.load_state_dict() copies; optimizer.load_state_dict() does not. Optimizers that load one
# state, the way to start several nodes from a common warm-up, keep its momentum and its count of
# steps as the same tensors, together with the optimizer that the state came from. A step of one node
# then turns the momentum of all, and Adam's correction counts the steps of all. Only
# copy.deepcopy(optimizer.state_dict()) gives each node its own.
#
# Output seen, for 3 nodes that load Adam's state after 10 steps and take 5 steps each:
#   steps counted by node 0: 25, with a deep copy for each: 15
#   largest difference of node 0's weights: 0.0113
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cat >"$folder/try.py" <<'PY'
import copy

import torch
from torch import nn

torch.manual_seed(0)
DATA = [(torch.randn(20, 8, 4), torch.randn(20, 8, 1)) for _ in range(3)]


def step(model, optimizer, data, position):
    inputs, targets = data
    optimizer.zero_grad()
    (model(inputs[position]) - targets[position]).pow(2).mean().backward()
    optimizer.step()


def node_0(copied):
    """Return node 0's count of steps and weights after all nodes took 5 steps in turn."""
    torch.manual_seed(1)
    first = nn.Linear(4, 1)
    warm = torch.optim.Adam(first.parameters(), lr=0.01)
    for position in range(10):
        step(first, warm, DATA[0], position)
    nodes = []
    for _ in DATA:
        model = nn.Linear(4, 1)
        model.load_state_dict(first.state_dict())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        state = warm.state_dict()
        optimizer.load_state_dict(copy.deepcopy(state) if copied else state)
        nodes.append((model, optimizer))
    for position in range(10, 15):
        for (model, optimizer), data in zip(nodes, DATA):
            step(model, optimizer, data, position)
    model, optimizer = nodes[0]
    return int(optimizer.state[model.weight]["step"]), model.weight.detach()


(shared, weights), (own, right) = node_0(copied=False), node_0(copied=True)
difference = (weights - right).abs().max().item()
print(f"steps counted by node 0: {shared}, with a deep copy for each: {own}")
print(f"largest difference of node 0's weights: {difference:.4f}")
raise SystemExit((shared, own, difference > 0.001) != (25, 15, True))
PY
"$folder/env/bin/python" "$folder/try.py"
