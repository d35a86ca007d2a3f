#!/usr/bin/env bash
# opacus 1.6.0, torch 2.13.0 (CPU), 2026-11-28.
#
# Opacus clips the gradient of each sample, which it computes itself, from what went into a layer.
# Of a convolution with padding_mode="circular", "reflect" or "replicate" it computes as if zeros had
# been padded. The forward pass is right, the gradient that the optimizer is given is that of
# another network: without noise and clipping it should be the plain one, and is off by a sixth to
# a quarter of its length. ModuleValidator finds nothing to say.
#
# Output seen, error of the sum over samples, relative to torch's gradient:
#   padding_mode zeros: 0.00
#   padding_mode circular: 0.16
#   padding_mode reflect: 0.25
#   padding_mode replicate: 0.22
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy opacus==1.6.0
cat >"$folder/try.py" <<'PY'
import copy

import torch
from opacus import GradSampleModule
from opacus.validators import ModuleValidator
from torch import nn


def error(layer, inputs):
    """Return how far the summed gradients of samples are from the gradient of the sum."""
    assert ModuleValidator.is_valid(layer)
    plain, private = copy.deepcopy(layer), GradSampleModule(layer, loss_reduction="sum")
    plain(inputs).pow(2).sum().backward()
    private(inputs).pow(2).sum().backward()
    [right] = [p.grad for p in plain.parameters()]
    [samples] = [p.grad_sample for p in private.parameters()]
    return ((samples.sum(0) - right).norm() / right.norm()).item()


torch.manual_seed(0)
inputs = torch.randn(16, 2, 8, 8)
seen = []
for mode in ("zeros", "circular", "reflect", "replicate"):
    layer = nn.Conv2d(2, 4, 3, padding=1, padding_mode=mode, bias=False)
    seen.append(error(layer, inputs))
    print(f"padding_mode {mode}: {seen[-1]:.2f}")
raise SystemExit(not (seen[0] < 1e-5 and min(seen[1:]) > 0.1))
PY
"$folder/env/bin/python" -W ignore "$folder/try.py"
