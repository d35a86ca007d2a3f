#!/usr/bin/env bash
# datasets 5.2.0, torch 2.13.0 (CPU), 2026-11-28.
#
# IterableDataset.take(10) and .skip(10) are the documented way to cut a stream into validation and
# training. In a DataLoader each worker takes, or skips, its part of the 10 at the begin of its own
# shards, so which examples these are depends on num_workers. Validation read without workers and
# training read with four overlap: seven of the ten validation examples are trained on, seven others
# are in neither, the counts are right and nothing is said. split_dataset_by_node(), which spreads
# shards in the same manner, does so, too.
#
# Output seen:
#   take(10): no workers [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 4 workers [0, 1, 2, 10, 11, 12, 20, 21, 30, 31]
#   take(10) without workers, skip(10) with 4: 10 + 30 examples, 7 in both, 7 in neither
#   take(10) without workers, skip(10) split over 4 nodes: 10 + 30 examples, 7 in both, 7 in neither
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy datasets==5.2.0
cat >"$folder/try.py" <<'PY'
from datasets import Dataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader

TOTAL = 40


def stream():
    return Dataset.from_dict({"x": list(range(TOTAL))}).to_iterable_dataset(num_shards=4)


def loaded(dataset, workers):
    loader = DataLoader(dataset, batch_size=None, num_workers=workers)
    return sorted(int(example["x"]) for example in loader)


def leak(words, validation, training):
    """Return how many examples are in both sets and in neither."""
    both = len(set(validation) & set(training))
    neither = TOTAL - len(set(validation) | set(training))
    counts = f"{len(validation)} + {len(training)} examples"
    print(f"{words}: {counts}, {both} in both, {neither} in neither")
    return len(validation), len(training), both, neither


if __name__ == "__main__":
    alone, four = (loaded(stream().take(10), workers) for workers in (0, 4))
    print(f"take(10): no workers {alone}, 4 workers {four}")
    workers = leak(
        "take(10) without workers, skip(10) with 4", alone, loaded(stream().skip(10), 4)
    )
    nodes = [split_dataset_by_node(stream().skip(10), rank=rank, world_size=4) for rank in range(4)]
    training = [example["x"] for node in nodes for example in node]
    spread = leak("take(10) without workers, skip(10) split over 4 nodes", alone, training)
    same = alone == list(range(10)) and four != alone
    raise SystemExit((same, workers, spread) != (True, (10, 30, 7, 7), (10, 30, 7, 7)))
PY
HF_HOME="$folder/home" "$folder/env/bin/python" -W ignore "$folder/try.py"
