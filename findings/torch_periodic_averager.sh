#!/usr/bin/env bash
# torch 2.13.0 (CPU, Gloo), 2026-11-27.
#
# torch's own local SGD: torch.distributed.algorithms.model_averaging.averagers.PeriodicModelAverager
# with period=4 does not average after 4, 8, 12 local steps. It averages after 1, 5, 9: its counter
# starts at 0, and 0 is a multiple of every period. With warmup_steps=3 (average at every step
# before, so that local SGD begins from agreement) nothing is averaged during the warm-up; the first
# average comes after step 4, the next after 8. Who compares local SGD with H local steps from one
# start, or counts rounds, is off by H - 1 steps and by one round.
#
# And it averages only parameters whose .grad is not None at that moment, without a word about the
# others: of a layer that took no part in the last step each rank keeps its own weights, and called
# after optimizer.zero_grad(), which has set gradients to None since torch 2.0, it fails on an empty
# list.
#
# Output seen:
#   period 4, no warm-up: averaged after steps [1, 5, 9]
#   period 4, warm-up 3: averaged after steps [4, 8, 12]
#   used layer averaged: True, layer without a gradient averaged: False
#   after zero_grad(): ValueError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cat >"$folder/averager.py" <<'PY'
import torch
import torch.distributed as dist
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

dist.init_process_group("gloo")
rank = dist.get_rank()


def averaged(**settings):
    """Return the local steps, counted from 1, after which both ranks hold the same numbers."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    model.weight.grad = torch.zeros(1, 1)
    averager = PeriodicModelAverager(**settings)
    steps = []
    for step in range(1, 13):
        with torch.no_grad():
            model.weight += 1.0 + rank  # a local step; ranks move apart
        averager.average_parameters(model.parameters())
        if same(model.weight):
            steps.append(step)
    return steps


def same(tensor):
    """Return whether both ranks hold the same numbers."""
    both = [torch.zeros_like(tensor), torch.zeros_like(tensor)]
    dist.all_gather(both, tensor.detach())
    return torch.equal(*both)


plain = averaged(period=4)
warm = averaged(period=4, warmup_steps=3)

used, unused = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
model = torch.nn.Sequential(used, unused)
with torch.no_grad():
    for parameter in model.parameters():
        parameter.fill_(float(rank))
used(torch.ones(1, 2)).sum().backward()
PeriodicModelAverager(period=2).average_parameters(model.parameters())
parts = same(used.weight), same(unused.weight)

optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
optimizer.zero_grad()
try:
    PeriodicModelAverager(period=2).average_parameters(model.parameters())
    cleared = "averaged"
except ValueError:
    cleared = "ValueError"

if rank == 0:
    print(f"used layer averaged: {parts[0]}, layer without a gradient averaged: {parts[1]}")
    print(f"after zero_grad(): {cleared}")
    print(f"period 4, no warm-up: averaged after steps {plain}")
    print(f"period 4, warm-up 3: averaged after steps {warm}")
dist.destroy_process_group()
seen = plain, warm, parts, cleared
raise SystemExit(seen != ([1, 5, 9], [4, 8, 12], (True, False), "ValueError"))
PY
GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1 "$folder/env/bin/torchrun" --nproc-per-node 2 --master-addr 127.0.0.1 --master-port 29671 "$folder/averager.py"
