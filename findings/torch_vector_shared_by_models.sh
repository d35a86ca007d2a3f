#!/usr/bin/env bash
# torch 2.13.0 (CPU), 2026-11-28.
#
# torch.nn.utils.vector_to_parameters(vector, model.parameters()) looks like a copy, as
# load_state_dict() is one, and is none: the parameters become views of the vector. So the plain way
# to write federated averaging in one process, "mean of the vectors, put into every model", works
# for one round. From then on all nodes are one model: a step of one moves all of them and the mean,
# every node's step starts where the last one's ended, and the nodes never differ again, however
# many local steps they take.
#
# Output seen:
#   before: a step of node 0 moves node 0 only
#   after averaging: a step of node 0 moves node 0, node 1, node 2, the mean
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cat >"$folder/try.py" <<'PY'
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

torch.manual_seed(0)
nodes = [nn.Linear(2, 1) for _ in range(3)]
optimizer = torch.optim.SGD(nodes[0].parameters(), lr=0.1)


def vectors():
    return torch.stack([parameters_to_vector(node.parameters()) for node in nodes]).detach()


def moved(mean):
    """Return which nodes, and whether the mean (as number 3), a step of node 0 moves."""
    before = [*vectors(), mean.clone()]
    optimizer.zero_grad()
    nodes[0](torch.ones(1, 2)).sum().backward()
    optimizer.step()
    return [i for i, (a, b) in enumerate(zip(before, [*vectors(), mean])) if not torch.equal(a, b)]


mean = vectors().mean(0)
first = moved(mean)
mean = vectors().mean(0)
for node in nodes:
    vector_to_parameters(mean, node.parameters())
second = moved(mean)
names = ["node 0", "node 1", "node 2", "the mean"]
print(f"before: a step of node 0 moves {', '.join(names[i] for i in first)} only")
print(f"after averaging: a step of node 0 moves {', '.join(names[i] for i in second)}")
raise SystemExit((first, second) != ([0], [0, 1, 2, 3]))
PY
"$folder/env/bin/python" "$folder/try.py"
