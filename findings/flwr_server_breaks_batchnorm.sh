#!/usr/bin/env bash
# flwr 1.42.0, torch 2.13.0 (CPU), 2026-11-28.
#
# Flower's clients send ArrayRecord(model.state_dict()), as all of its examples for PyTorch do, with
# the running mean and variance of BatchNorm in it. FedAvg averages these. FedAvgM, FedAdam and
# FedYogi take them for weights and step beyond them by momentum: where the clients' variance is
# 0.02 every round, and the model began at torch's 1, the server's falls below zero, in the second
# round with FedAvgM, in the seventh and twelfth with FedYogi and FedAdam. A layer of negative
# variance returns nan in evaluation, in a network that trains well, whose losses fall.
#
# Output seen, clients report a variance of 0.02 in each of 30 rounds:
#   FedAvg: lowest variance of the server 0.020, evaluation finite
#   FedAvgM: lowest variance of the server -0.862, evaluation nan
#   FedAdam: lowest variance of the server -0.261, evaluation nan
#   FedYogi: lowest variance of the server -0.433, evaluation nan
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy flwr==1.42.0
cat >"$folder/try.py" <<'PY'
from types import SimpleNamespace

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedYogi
from torch import nn


def reply(arrays):
    """Return what stands for a client's message: its arrays, and how many samples it has."""
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 10})})
    return SimpleNamespace(content=content, has_error=lambda: False)


def served(strategy):
    """Return the lowest variance the server has in 30 rounds, and the layer's output with it."""
    layer, client = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    client.running_var.fill_(0.02)
    sent = ArrayRecord(client.state_dict())
    arrays, lowest = ArrayRecord(layer.state_dict()), None
    for round_ in range(1, 31):
        strategy.configure_train(round_, arrays, ConfigRecord(), grid=None)
        arrays, _ = strategy.aggregate_train(round_, [reply(sent)] * 2)
        layer.load_state_dict(arrays.to_torch_state_dict())
        if lowest is None or layer.running_var < lowest[0]:
            lowest = layer.running_var.item(), layer.eval()(torch.ones(1, 1)).item()
    return lowest


seen = []
for make, settings in (
    (FedAvg, {}),
    (FedAvgM, {"server_learning_rate": 1.0, "server_momentum": 0.9}),
    (FedAdam, {"eta": 0.1}),
    (FedYogi, {"eta": 0.1}),
):
    strategy = make(fraction_train=0.0, **settings)  # nobody to be asked: replies are given
    variance, output = served(strategy)
    words = "finite" if output == output else "nan"
    name = make.__name__
    print(f"{name}: lowest variance of the server {variance:.3f}, evaluation {words}")
    seen.append((name, variance < 0, words))
expected = [(name, True, "nan") for name in ("FedAvgM", "FedAdam", "FedYogi")]
raise SystemExit(seen != [("FedAvg", False, "finite"), *expected])
PY
cd "$folder"
FLWR_TELEMETRY_ENABLED=0 FLWR_HOME="$folder" env/bin/python -W ignore try.py 2>log || { cat log; exit 1; }
