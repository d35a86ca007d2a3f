#!/usr/bin/env bash
# torchmetrics 1.9.0 with torch 2.13.0 (CPU), 2026-11-28.
#
# A MetricCollection finds out which of its metrics keep the same counts by comparing their numbers
# after the first batch, and from then on updates one of each group for all. Metrics of the same
# class whose settings differ are equal after a first batch in which the difference did not show: a
# perplexity with padding and one without after a batch that had no padding, an accuracy with
# ignore_index after one without that class. They stay one for good, and the second reports the
# number of the first. Which one is right depends on the order of batches.
#
# Output seen:
#   perplexity without padding: alone 2.7183, in a collection 4.4817
#   with the batches the other way round: alone 2.7183, in a collection 2.7183
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy torchmetrics==1.9.0
cat >"$folder/try.py" <<'PY'
import torch
from torchmetrics import MetricCollection
from torchmetrics.text import Perplexity

PAD = 0
VOCABULARY = 4


def batch(targets):
    """Return scores and targets: a loss of 1 for each true token, and of 3 for padding."""
    targets = torch.tensor([targets])
    own = torch.where(targets == PAD, -3.0, -1.0)
    other = torch.log((1 - own.exp()) / (VOCABULARY - 1))
    scores = other.unsqueeze(-1).repeat(1, 1, VOCABULARY)
    return scores.scatter(2, targets.unsqueeze(-1), own.unsqueeze(-1)), targets


full, padded = batch([1, 2, 3, 1]), batch([1, 2, PAD, PAD])


def measured(batches):
    """Return the perplexity of the tokens that are no padding: alone, and in a collection."""
    alone = Perplexity(ignore_index=PAD)
    together = MetricCollection({"all": Perplexity(), "text": Perplexity(ignore_index=PAD)})
    for scores, targets in batches:
        alone.update(scores, targets)
        together.update(scores, targets)
    return round(float(alone.compute()), 4), round(float(together.compute()["text"]), 4)


first, second = measured([full, padded]), measured([padded, full])
print(f"perplexity without padding: alone {first[0]}, in a collection {first[1]}")
print(f"with the batches the other way round: alone {second[0]}, in a collection {second[1]}")
raise SystemExit((first, second) != ((2.7183, 4.4817), (2.7183, 2.7183)))
PY
"$folder/env/bin/python" -W ignore "$folder/try.py"
