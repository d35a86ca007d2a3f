#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0 (CPU), 2026-11-28.
#
# save_pretrained() of a model does not write its tokenizer. AutoTokenizer.from_pretrained() of such
# a folder fails for LLaMA, and returns a tokenizer for GPT-2 and BERT, made from config.json alone
# without a word: GPT-2's knows one token and turns every text into no tokens, BERT's knows five and
# turns every word into [UNK]. Training on it runs: on empty rows, or on rows that are all the same.
#
# Output seen:
#   GPT-2: 1 token, "gossip averages models" becomes []
#   BERT: 5 tokens, "gossip averages models" becomes ['[CLS]', '[UNK]', '[UNK]', '[UNK]', '[SEP]']
#   LLaMA: ValueError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy transformers==5.23.0
cat >"$folder/try.py" <<'PY'
import sys

from transformers import AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel
from transformers import LlamaConfig, LlamaForCausalLM, logging

logging.disable_progress_bar()
SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 50}
WIDTH = {"intermediate_size": 8}
TEXT = "gossip averages models"
MODELS = {
    "GPT-2": GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0, **SIZES)),
    "BERT": BertModel(BertConfig(**SIZES, **WIDTH)),
    "LLaMA": LlamaForCausalLM(LlamaConfig(**SIZES, **WIDTH)),
}
found = []
for name, model in MODELS.items():
    place = f"{sys.argv[1]}/{name}"
    model.save_pretrained(place)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(TEXT)["input_ids"])
        word = "token" if len(tokenizer) == 1 else "tokens"
        print(f'{name}: {len(tokenizer)} {word}, "{TEXT}" becomes {tokens}')
        found.append(tokens)
    except ValueError:
        print(f"{name}: ValueError")
        found.append("ValueError")
unknown = ["[CLS]", "[UNK]", "[UNK]", "[UNK]", "[SEP]"]
raise SystemExit(found != [[], unknown, "ValueError"])
PY
"$folder/env/bin/python" "$folder/try.py" "$folder"
