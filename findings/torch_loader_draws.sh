#!/usr/bin/env bash
# torch 2.13.0 (CPU), 2026-11-28.
#
# Looking at validation data changes training. Each pass over a DataLoader draws a number from
# torch's global generator, also with shuffle=False and without workers, when there is nothing
# random to decide (a seed for workers that are not there). Two runs of one seed that differ in
# nothing but how often they evaluate, under no_grad and without dropout, see other batches from
# then on and end in other models. Comparisons "with the same seed" are none, unless every loader
# has a generator of its own.
#
# Output seen, one seed, 20 epochs of training, evaluation every so many epochs:
#   evaluated every epoch, and never: weights differ by 0.032
#   the same, loader of validation with a generator: weights differ by 0.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy
cat >"$folder/try.py" <<'PY'
import torch
from torch.utils.data import DataLoader, TensorDataset

BASE = torch.Generator().manual_seed(1)
INPUTS, TARGETS = (torch.randn(64, width, generator=BASE) for width in (4, 1))
TRAINING, VALIDATION = (
    TensorDataset(INPUTS[part], TARGETS[part]) for part in (slice(48), slice(48, 64))
)


def trained(evaluate, generator=None):
    """Return the weights after training with one seed, with evaluations in between or without."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loader = DataLoader(TRAINING, batch_size=8, shuffle=True)
    validation = DataLoader(VALIDATION, batch_size=8, shuffle=False, generator=generator)
    for _ in range(20):
        for inputs, targets in loader:
            optimizer.zero_grad()
            (model(inputs) - targets).pow(2).mean().backward()
            optimizer.step()
        if evaluate:
            with torch.no_grad():
                sum((model(inputs) - targets).pow(2).mean() for inputs, targets in validation)
    return model.weight.detach()


never = trained(evaluate=False)
often = (trained(evaluate=True) - never).abs().max().item()
apart = (trained(evaluate=True, generator=torch.Generator()) - never).abs().max().item()
print(f"evaluated every epoch, and never: weights differ by {often:.3f}")
print(f"the same, loader of validation with a generator: weights differ by {apart:.3f}")
raise SystemExit(not (often > 1e-3 and apart == 0))
PY
"$folder/env/bin/python" -W ignore "$folder/try.py"
