#!/usr/bin/env bash
# peft 0.21.2, torch 2.13.0 (CPU), 2026-11-28.
#
# add_weighted_adapter(..., "cat") with weights 1/N makes one adapter of N whose change of the
# weights is exactly the mean of theirs, at rank N r. It sets lora_alpha to the new rank, which means
# "no further scaling" for plain LoRA. Of adapters with use_rslora=True, which divides by the square
# root of the rank, the new one is rank-stabilized, too, and so scaled by sqrt(N r): the mean of four
# adapters of rank 2 is 2.83 times too strong, of sixteen of rank 16 it would be 16 times. "svd" is
# off by as much.
#
# Output seen:
#   LoRA: cat 1.000, svd 1.000 times the mean
#   rsLoRA: cat 2.828, svd 2.828 times the mean
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy transformers==5.23.0 peft==0.21.2
cat >"$folder/try.py" <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

NODES, RANK = 4, 2


def strength(rslora, way):
    """Return by what factor the merged change exceeds the mean of the nodes' changes."""
    torch.manual_seed(0)
    config = LoraConfig(
        target_modules=["0"], r=RANK, lora_alpha=4, use_rslora=rslora, init_lora_weights=False
    )
    names = [f"node{i}" for i in range(NODES)]
    model = get_peft_model(nn.Sequential(nn.Linear(12, 10)), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    layer = model.base_model.model[0]
    mean = sum(layer.get_delta_weight(name) for name in names) / NODES
    model.add_weighted_adapter(names, [1 / NODES] * NODES, way, way, svd_rank=NODES * RANK)
    change = layer.get_delta_weight(way)
    factor = (change.norm() / mean.norm()).item()
    assert torch.allclose(change, factor * mean, atol=1e-4)  # of the right direction
    return round(factor, 3)


plain = strength(False, "cat"), strength(False, "svd")
stable = strength(True, "cat"), strength(True, "svd")
print(f"LoRA: cat {plain[0]:.3f}, svd {plain[1]:.3f} times the mean")
print(f"rsLoRA: cat {stable[0]:.3f}, svd {stable[1]:.3f} times the mean")
raise SystemExit((plain, stable) != ((1.0, 1.0), (2.828, 2.828)))
PY
"$folder/env/bin/python" -W ignore "$folder/try.py"
