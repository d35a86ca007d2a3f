#!/usr/bin/env bash
# torchft 0.2.0, torch 2.13.0 (CPU), 2026-11-28.
#
# DiLoCo(use_bucketization=True) averages pseudo-gradients in buckets of bucket_cap_mb megabytes (a
# gigabyte unless told). It counts buckets as if tensors could be cut, and packs whole ones: what is
# left over in each bucket is missing at the end, and the last tensors are never sent. A tensor
# larger than a bucket takes all that follow it along. Zeros are averaged in their place, nothing is
# said, and every replica applies its own pseudo-gradient to them: the replicas drift apart.
#
# Output seen, for four layers of 0.61 MB, when the replicas' changes cancel:
#   without buckets: 4 of 4 layers averaged
#   buckets of 1 GB: 4 of 4 layers averaged
#   buckets of 1 MB: 2 of 4 layers averaged
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy torchft==0.2.0
cat >"$folder/try.py" <<'PY'
from unittest.mock import create_autospec

import torch
from torch import nn
from torchft.local_sgd import DiLoCo
from torchft.manager import Manager
from torchft.work import _DummyWork


def cancelling(tensor, should_quantize=False):
    """Average with replicas whose changes are the opposite of ours."""
    return _DummyWork(tensor.zero_())


def averaged(**settings):
    """Return how many layers are where they began after a round that cancels every change."""
    manager = create_autospec(Manager)
    manager.errored.return_value = None
    manager._use_async_quorum = False
    manager.should_commit.return_value = True
    manager.current_step.return_value = 0
    manager.allreduce.side_effect = cancelling
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(400, 400, bias=False) for _ in range(4)))
    start = [parameter.detach().clone() for parameter in model.parameters()]
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    outer = torch.optim.SGD(model.parameters(), lr=1.0)
    with DiLoCo(manager, [model], inner, outer, sync_every=1, pin_memory=False, **settings):
        model(torch.randn(8, 400)).pow(2).mean().backward()
        inner.step()
    return sum(torch.allclose(a, b, atol=1e-7) for a, b in zip(model.parameters(), start))


BUCKETS = {"use_bucketization": True}
CASES = {
    "without buckets": {},
    "buckets of 1 GB": BUCKETS,
    "buckets of 1 MB": {**BUCKETS, "bucket_cap_mb": 1},
}
seen = []
for words, settings in CASES.items():
    seen.append(averaged(**settings))
    print(f"{words}: {seen[-1]} of 4 layers averaged")
raise SystemExit(seen != [4, 4, 2])
PY
"$folder/env/bin/python" -W ignore "$folder/try.py"
