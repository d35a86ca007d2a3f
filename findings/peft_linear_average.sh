#!/usr/bin/env bash
# peft 0.21.2, torch 2.13.0 (CPU), 2026-11-28.
#
# add_weighted_adapter(adapters, weights, combination_type="linear"), the default way, is not linear
# in the adapters. Both factors are added, each times the square root of its weight, so the products
# of every A with every other B come in. N adapters that are the same, averaged with weights 1/N,
# come out N times as strong, and so do, more or less, N nodes that were fine-tuned from one start.
# Adding an adapter and its half gives 2.91 times the adapter, not 1.5. Weights 1/N^2 give the mean
# of factors; "cat" gives the mean of the changes.
#
# Output seen:
#   4 equal adapters, weights 1/4: linear 4.000, cat 1.000 times the adapter
#   4 equal adapters, weights 1/16: linear 1.000, cat 0.250 times the adapter
#   2 equal adapters, weights 1 and 1/2: linear 2.914, cat 1.500 times the adapter
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy transformers==5.23.0 peft==0.21.2
cat >"$folder/try.py" <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn


def strengths(weights):
    """Return how strong the weighted sum of equal adapters is, by "linear" and by "cat"."""
    config = LoraConfig(target_modules=["0"], r=2, lora_alpha=2, init_lora_weights=False)
    names = [f"node{i}" for i in range(len(weights))]
    model = get_peft_model(nn.Sequential(nn.Linear(6, 5)), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    layer = model.base_model.model[0]
    for factors in (layer.lora_A, layer.lora_B):
        for name in names[1:]:
            factors[name].load_state_dict(factors[names[0]].state_dict())
    adapter = layer.get_delta_weight(names[0])
    factors = []
    for way in ("linear", "cat"):
        model.add_weighted_adapter(names, weights, way, combination_type=way)
        factors.append((layer.get_delta_weight(way) / adapter).mean().item())
    return [round(factor, 3) for factor in factors]


CASES = {
    "4 equal adapters, weights 1/4": ([1 / 4] * 4, [4.0, 1.0]),
    "4 equal adapters, weights 1/16": ([1 / 16] * 4, [1.0, 0.25]),
    "2 equal adapters, weights 1 and 1/2": ([1.0, 0.5], [2.914, 1.5]),
}
same = True
for words, (weights, expected) in CASES.items():
    linear, cat = strengths(weights)
    print(f"{words}: linear {linear:.3f}, cat {cat:.3f} times the adapter")
    same = same and [linear, cat] == expected
raise SystemExit(not same)
PY
"$folder/env/bin/python" -W ignore "$folder/try.py"
