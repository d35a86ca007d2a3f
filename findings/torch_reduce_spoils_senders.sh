#!/usr/bin/env bash
# torch 2.13.0 (CPU, Gloo), 2026-11-28.
#
# torch.distributed.reduce(tensor, dst=0) sums the tensors of all ranks at rank 0; its page says
# that only the rank dst receives the result. With Gloo the others do not keep what they had either:
# their tensors come back holding partial sums, some elements this one, some that one. Who collects
# the mean of all models at rank 0, to evaluate it, and trains on, trains on broken models
# everywhere but at rank 0.
#
# Output seen:
#   before: rank 0 [1.0], rank 1 [2.0], rank 2 [3.0]
#   after reduce to rank 0: rank 0 [6.0], rank 1 [2.0, 5.0, 6.0], rank 2 [3.0, 4.0, 6.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cat >"$folder/reduce.py" <<'PY'
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
rank = dist.get_rank()


def spoken(tensor):
    """Return the different numbers in the tensor of each rank."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, tensor.unique().tolist())
    return values


model = torch.full((1000,), rank + 1.0)
before = spoken(model)
dist.reduce(model, dst=0)
after = spoken(model)
if rank == 0:
    for words, values in (("before", before), ("after reduce to rank 0", after)):
        print(f"{words}: " + ", ".join(f"rank {r} {value}" for r, value in enumerate(values)))
dist.destroy_process_group()
kept = [after[r] == before[r] for r in (1, 2)]
raise SystemExit((before, after[0], kept) != ([[1.0], [2.0], [3.0]], [6.0], [False, False]))
PY
GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1 "$folder/env/bin/torchrun" --nproc-per-node 3 --master-addr 127.0.0.1 --master-port 29673 "$folder/reduce.py"
