#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (CPU), 2026-11-28.
#
# Documents that are packed into one row are told apart by position_ids that begin anew. Whether
# they are kept apart hangs on two arguments that say nothing about it. With use_cache=False and
# without a mask no token sees the document before its own. With the default use_cache, also in
# training, or with an attention_mask of ones, as every tokenizer returns it, each document reads
# all that stand before it, in the positions of the first one: no error, no warning, another loss.
#
# Output seen:
#   GPT-2: use_cache=False: 0.0, default: 5.0, use_cache=False and a mask of ones: 5.0
#   LLaMA: use_cache=False: 0.0, default: 8.4, use_cache=False and a mask of ones: 8.4
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy transformers==5.23.0
cat >"$folder/try.py" <<'PY'
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, logging

logging.set_verbosity_error()
SHARED = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.5}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}

POSITIONS = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
ONE = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
OTHER = torch.tensor([[9, 10, 11, 12, 5, 6, 7, 8]])  # another first document, the same second
NO_CACHE = {"use_cache": False}
MASK = {"attention_mask": torch.ones(1, 8, dtype=torch.long)}


def seen(model, settings):
    """Return how much the second document's scores change with the first document."""
    with torch.no_grad():
        scores = [
            model(input_ids=ids, position_ids=POSITIONS, **settings).logits[:, 4:]
            for ids in (ONE, OTHER)
        ]
    return round((scores[0] - scores[1]).abs().max().item(), 1)


torch.manual_seed(0)
gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=16, **SHARED, **SIZES)).eval()
torch.manual_seed(0)
llama = LlamaForCausalLM(LlamaConfig(intermediate_size=32, **SHARED, **SIZES)).train()
found = []
for name, model in (("GPT-2", gpt2), ("LLaMA", llama)):
    apart, default, masked = (seen(model, s) for s in (NO_CACHE, {}, {**NO_CACHE, **MASK}))
    print(
        f"{name}: use_cache=False: {apart}, default: {default}, "
        f"use_cache=False and a mask of ones: {masked}"
    )
    found.append((apart == 0, default > 1, masked > 1))
raise SystemExit(found != [(True, True, True)] * 2)
PY
"$folder/env/bin/python" -W ignore "$folder/try.py"
