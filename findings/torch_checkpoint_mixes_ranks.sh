#!/usr/bin/env bash
# torch 2.13.0 (CPU, Gloo), 2026-11-28.
#
# torch.distributed.checkpoint takes a plain tensor that several ranks save under one name for one
# and the same tensor, and keeps the copy of one rank, without comparing them. It chooses that rank
# for each tensor anew, so that all write equally much. Where every rank has a model of its own, as
# in gossip or between two averages of local SGD, save() of three models returns without a word, and
# load() gives every rank a model that nobody had: a layer from each. (A name per rank keeps them
# apart.)
#
# Output seen:
#   saved: rank 0 all 0.0, rank 1 all 1.0, rank 2 all 2.0
#   loaded by every rank: layer 0 from rank 0, layer 1 from rank 1, layer 2 from rank 2
#   under a name per rank: own model back True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cat >"$folder/mixed.py" <<'PY'
import sys
import warnings

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn

warnings.simplefilter("ignore")
dist.init_process_group("gloo")
rank = dist.get_rank()


def model(value):
    """Return three layers whose numbers are all ``value``."""
    layers = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(3)))
    for parameter in layers.parameters():
        nn.init.constant_(parameter, value)
    return layers


def again(place, name):
    """Save this rank's model under ``name`` and return what each layer holds when loaded."""
    dcp.save({name: model(float(rank)).state_dict()}, checkpoint_id=f"{sys.argv[1]}/{place}")
    loaded = {name: model(-1.0).state_dict()}
    dcp.load(loaded, checkpoint_id=f"{sys.argv[1]}/{place}")
    return [tensor.unique().tolist() for tensor in loaded[name].values()]


one_name = again("same", "model")
own_name = again("own", f"model of rank {rank}")
seen = [None] * dist.get_world_size()
dist.all_gather_object(seen, (one_name, own_name))
own = all(layers == [[float(r)]] * 3 for r, (_, layers) in enumerate(seen))
if rank == 0:
    print("saved: rank 0 all 0.0, rank 1 all 1.0, rank 2 all 2.0")
    parts = ", ".join(f"layer {i} from rank {values[0]:.0f}" for i, values in enumerate(one_name))
    print(f"loaded by every rank: {parts}")
    print(f"under a name per rank: own model back {own}")
dist.destroy_process_group()
mixed = all(layers == [[0.0], [1.0], [2.0]] for layers, _ in seen)
raise SystemExit((mixed, own) != (True, True))
PY
GLOO_SOCKET_IFNAME=lo OMP_NUM_THREADS=1 "$folder/env/bin/torchrun" --nproc-per-node 3 --master-addr 127.0.0.1 --master-port 29672 "$folder/mixed.py" "$folder"
