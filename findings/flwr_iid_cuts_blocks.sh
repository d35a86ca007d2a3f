#!/usr/bin/env bash
# flwr-datasets 0.6.1, 2026-11-28.
#
# IidPartitioner, whose page says that it samples at random, does not draw: partition i is the i-th
# block of the rows as they stand. Data sets are often stored class by class, and then each "IID"
# client has one class: the baseline of an experiment on uneven data is its hardest case.
# FederatedDataset shuffles first, unless told otherwise; a partitioner that is given its data
# directly, partitioner.dataset = data, the documented way for data of one's own, does not.
# PathologicalPartitioner, which does draw, drops all samples of classes that no client drew,
# without a word: here 300 of 1,000 are on no client.
#
# Output seen, 1,000 samples of 10 classes, in order of class, 10 partitions:
#   IidPartitioner: classes per partition [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
#   the same, shuffled first: classes per partition [10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
#   PathologicalPartitioner, 2 classes each: 700 of 1000 samples, 7 of 10 classes on a client
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet flwr-datasets==0.6.1
cat >"$folder/try.py" <<'PY'
from datasets import Dataset
from flwr_datasets.partitioner import IidPartitioner, PathologicalPartitioner

SORTED = Dataset.from_dict({"label": [row // 100 for row in range(1000)]})


def partitions(partitioner, data):
    """Return the labels that each client has."""
    partitioner.dataset = data
    return [list(partitioner.load_partition(index)["label"]) for index in range(10)]


seen = []
for words, data in (
    ("IidPartitioner", SORTED),
    ("the same, shuffled first", SORTED.shuffle(seed=0)),
):
    seen.append([len(set(labels)) for labels in partitions(IidPartitioner(10), data)])
    print(f"{words}: classes per partition {seen[-1]}")
uneven = PathologicalPartitioner(10, partition_by="label", num_classes_per_partition=2, seed=42)
held = [label for labels in partitions(uneven, SORTED) for label in labels]
classes = len(set(held))
print(
    f"PathologicalPartitioner, 2 classes each: {len(held)} of 1000 samples, "
    f"{classes} of 10 classes on a client"
)
raise SystemExit((seen, len(held), classes) != ([[1] * 10, [10] * 10], 700, 7))
PY
cd "$folder"
HF_HOME="$folder" env/bin/python -W ignore try.py 2>log || { cat log; exit 1; }
