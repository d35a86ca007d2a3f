#!/usr/bin/env bash
# flwr 1.42.0, 2026-11-28.
#
# The FedAvg of flwr.server.strategy averages in place, its default: each client's array is
# multiplied by the client's share of the samples, which is first given the array's type. A share
# below 1 is 0 as a whole number, and so is the mean of all whole numbers that clients send: codes
# of quantized weights, counters of observers, num_batches_tracked of BatchNorm, which with
# momentum=None decides how much the next batch counts. One client alone has share 1 and keeps
# its own, so a trial with one client looks right. inplace=False, and the newer
# flwr.serverapp.strategy, give the mean.
#
# Output seen, clients send 100 and 200:
#   in place (default): float32 150.0, int64 0
#   inplace=False: float32 150.0, int64 150.0
#   in place, one client: float32 100.0, int64 100
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet flwr==1.42.0
cat >"$folder/try.py" <<'PY'
import numpy as np
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.server.strategy import FedAvg

OK = Status(Code.OK, "")


def mean(strategy, numbers, kind):
    """Return the strategy's mean of one number from each client, all of equally many samples."""
    results = [
        (None, FitRes(OK, ndarrays_to_parameters([np.array([number], kind)]), 10, {}))
        for number in numbers
    ]
    parameters, _ = strategy.aggregate_fit(1, results, [])
    return parameters_to_ndarrays(parameters)[0][0].item()


seen = []
for words, strategy, numbers in (
    ("in place (default)", FedAvg(), (100, 200)),
    ("inplace=False", FedAvg(inplace=False), (100, 200)),
    ("in place, one client", FedAvg(), (100,)),
):
    seen.append([mean(strategy, numbers, kind) for kind in (np.float32, np.int64)])
    print(f"{words}: float32 {seen[-1][0]}, int64 {seen[-1][1]}")
raise SystemExit(seen != [[150, 0], [150, 150], [100, 100]])
PY
cd "$folder"
FLWR_TELEMETRY_ENABLED=0 FLWR_HOME="$folder" env/bin/python -W ignore try.py 2>log || { cat log; exit 1; }
