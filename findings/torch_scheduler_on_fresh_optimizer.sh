#!/usr/bin/env bash
# torch 2.13.0 (CPU), 2026-11-28.
#
# Federated clients make a new optimizer in every round and keep the learning-rate schedule going by
# scheduler.load_state_dict(). That restores the schedule's count and what get_last_lr() says, and
# not the optimizer's rate, which stays at the peak. Most schedules compute the next rate from the
# present one, so the error never heals: StepLR, ExponentialLR, LinearLR, PolynomialLR and
# CosineAnnealingLR go on too high by a constant factor, while a second look at get_last_lr() before
# the first step shows the right number. LambdaLR, OneCycleLR and CosineAnnealingWarmRestarts
# compute it from the count and are right after one step. SequentialLR starts anew and ends too low.
#
# Output seen, rates after 50 of 100 steps, loaded beside a fresh SGD of rate 0.1, then 25 more:
#                     get_last_lr  optimizer  25 steps later  without the break
#   CosineAnnealingLR      0.0500     0.1000          0.0293             0.0146
#   StepLR                 0.0100     0.1000          0.0100             0.0010
#   ExponentialLR          0.0218     0.1000          0.0467             0.0102
#   LinearLR               0.0500     0.1000          0.0500             0.0250
#   LambdaLR               0.0500     0.1000          0.0250             0.0250
#   SequentialLR           0.0587     0.0100          0.0030             0.0179
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cat >"$folder/try.py" <<'PY'
import torch
from torch.optim import lr_scheduler

MAKE = {
    "CosineAnnealingLR": lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, 100),
    "StepLR": lambda sgd: lr_scheduler.StepLR(sgd, 30),
    "ExponentialLR": lambda sgd: lr_scheduler.ExponentialLR(sgd, 0.97),
    "LinearLR": lambda sgd: lr_scheduler.LinearLR(sgd, 1.0, 0.0, 100),
    "LambdaLR": lambda sgd: lr_scheduler.LambdaLR(sgd, lambda step: 1 - step / 100),
    "SequentialLR": lambda sgd: lr_scheduler.SequentialLR(
        sgd, [lr_scheduler.LinearLR(sgd, 0.1, 1, 10), lr_scheduler.CosineAnnealingLR(sgd, 90)], [10]
    ),
}


def fresh(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    return optimizer, make(optimizer)


def go_on(optimizer, scheduler, steps):
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
    return optimizer.param_groups[0]["lr"]


print(f"{'':18} get_last_lr  optimizer  25 steps later  without the break")
seen = []
for name, make in MAKE.items():
    whole = fresh(make)
    go_on(*whole, 50)
    resumed = fresh(make)
    resumed[1].load_state_dict(whole[1].state_dict())
    said, held = resumed[1].get_last_lr()[0], resumed[0].param_groups[0]["lr"]
    later, right = go_on(*resumed, 25), go_on(*whole, 25)
    print(f"{name:18} {said:11.4f} {held:10.4f} {later:15.4f} {right:18.4f}")
    seen.append(round(later / right, 2))
raise SystemExit(seen != [2.0, 10.0, 4.59, 2.0, 1.0, 0.17])
PY
"$folder/env/bin/python" -W ignore "$folder/try.py"
