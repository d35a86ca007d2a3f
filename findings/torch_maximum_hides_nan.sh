#!/usr/bin/env bash
# torch 2.13.0 (CPU, Gloo), 2026-11-28.
#
# torch.max passes nan on, and so does all_reduce with SUM. all_reduce with MAX or MIN on Gloo does
# not: what comes out depends on which rank holds the nan. Of three ranks that hold 1, 2 and 3, a
# nan at rank 0 gives nan; a nan at rank 1 gives 1, though rank 2 has 3; a nan at rank 2 gives 2.
# All ranks agree on the wrong number. "Has anybody's loss diverged?", the largest norm for
# clipping and the range for a quantization pass over two ranks of three, and lose a healthy rank's
# value besides.
#
# Output seen, ranks hold 1, 2, 3:
#   nan at rank 0: MAX nan, MIN nan, SUM nan
#   nan at rank 1: MAX 1.0, MIN 1.0, SUM nan
#   nan at rank 2: MAX 2.0, MIN 1.0, SUM nan
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cat >"$folder/try.py" <<'PY'
import math

import torch
import torch.distributed as dist

OPERATIONS = {"MAX": dist.ReduceOp.MAX, "MIN": dist.ReduceOp.MIN, "SUM": dist.ReduceOp.SUM}
NAN = math.nan
EXPECTED = [[NAN, NAN, NAN], [1.0, 1.0, NAN], [2.0, 1.0, NAN]]

dist.init_process_group("gloo")
rank = dist.get_rank()
found = []
for bad in range(3):
    results = []
    for operation in OPERATIONS.values():
        value = torch.tensor([NAN if rank == bad else rank + 1.0])
        dist.all_reduce(value, op=operation)
        results.append(value.item())
    found.append(results)
    if rank == 0:
        words = ", ".join(f"{name} {result}" for name, result in zip(OPERATIONS, results))
        print(f"nan at rank {bad}: {words}")
dist.destroy_process_group()
raise SystemExit(str(found) != str(EXPECTED))
PY
cd "$folder"
OMP_NUM_THREADS=1 env/bin/torchrun --standalone --nproc-per-node 3 try.py 2>log || { cat log; exit 1; }
