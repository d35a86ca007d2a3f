#!/usr/bin/env bash
# datasets 5.2.0, torch 2.13.0 (CPU), 2026-11-28.
#
# split_dataset_by_node(stream, rank, world_size).shuffle(seed=rank) reads as "give each node its
# part, and shuffle the part". Of a streaming dataset the shuffle comes first, whatever the order of
# calls: it reorders the shards of the whole stream, and the split then deals them out. With a seed
# of its own, or with none, each node deals from another order: some examples go to several nodes,
# others to nobody. Every node has as many as it should, and nothing is said. The same line with
# a dataset in memory does what it reads as. Nodes need one seed, and with it have one part each.
#
# Output seen, 40 examples in 8 shards, 4 nodes of 10 examples each:
#   stream, a seed per node: 10 examples on no node, 5 on several
#   stream, one seed: 0 examples on no node, 0 on several
#   in memory, a seed per node: 0 examples on no node, 0 on several
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy datasets==5.2.0
cat >"$folder/try.py" <<'PY'
from collections import Counter

from datasets import Dataset
from datasets.distributed import split_dataset_by_node

MEMORY = Dataset.from_dict({"x": range(40)})
STREAM = MEMORY.to_iterable_dataset(num_shards=8)


def misdealt(words, dataset, seeds):
    """Count the examples that no node has, and those that several have."""
    parts = [
        [row["x"] for row in split_dataset_by_node(dataset, rank, 4).shuffle(seed=seed)]
        for rank, seed in enumerate(seeds)
    ]
    assert [len(part) for part in parts] == [10] * 4
    owners = Counter(x for part in parts for x in part)
    counts = 40 - len(owners), sum(owner > 1 for owner in owners.values())
    print(f"{words}: {counts[0]} examples on no node, {counts[1]} on several")
    return counts


seen = [
    misdealt("stream, a seed per node", STREAM, range(4)),
    misdealt("stream, one seed", STREAM, [0] * 4),
    misdealt("in memory, a seed per node", MEMORY, range(4)),
]
raise SystemExit(not (seen[0][0] > 0 and seen[0][1] > 0 and seen[1:] == [(0, 0)] * 2))
PY
cd "$folder"
HF_HOME="$folder" env/bin/python -W ignore try.py
