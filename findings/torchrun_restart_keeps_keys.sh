#!/usr/bin/env bash
# torch 2.13.0 (CPU), 2026-11-28.
#
# When a rank fails, torchrun --max-restarts ends all ranks and starts all anew. The store at
# MASTER_ADDR:MASTER_PORT lives on in torchrun itself: same port, same run id, and every key of the
# attempt before is still there. A barrier of ranks that count up to their number, or a "ready" key
# that others wait for, is passed at once in the second attempt, by the marks of dead ranks. And a
# rank that opens a store there as its master gets no error that it could see, and no store of its
# own: it is one more client of the same, so that a fresh one cannot be had in this way.
#
# Output seen:
#   attempt 0: rank 0 counted 1, found no mark
#   attempt 1: rank 0 counted 2, found the mark of attempt 0
#   attempt 1: a store opened as master has the mark of attempt 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cat >"$folder/rank.py" <<'PY'
import os
from datetime import timedelta

import torch.distributed as dist

attempt = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def opened(master):
    """Return the store at the address of the run, as its client or as its master."""
    wait = timedelta(seconds=30)
    return dist.TCPStore(
        address, port, is_master=master, wait_for_workers=False, timeout=wait
    )


def mark(store):
    return f"the mark of attempt {store.get('ready').decode()}" if store.check(["ready"]) else "no mark"


store = opened(master=False)
counted, found = store.add("ranks", 1), mark(store)
print(f"attempt {attempt}: rank 0 counted {counted}, found {found}", flush=True)
if attempt == 0:
    store.set("ready", "0")
    raise SystemExit(3)
fresh = mark(opened(master=True))
print(f"attempt {attempt}: a store opened as master has {fresh}", flush=True)
old = "the mark of attempt 0"
raise SystemExit((counted, found, fresh) != (2, old, old))
PY
OMP_NUM_THREADS=1 "$folder/env/bin/torchrun" --nproc-per-node 1 --max-restarts 1 --master-addr 127.0.0.1 --master-port 29674 "$folder/rank.py" 2>"$folder/log" || { cat "$folder/log"; exit 1; }
