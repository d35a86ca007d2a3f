#!/usr/bin/env bash
# peft 0.21.2, transformers 5.23.0, torch 2.13.0 (CPU), 2026-11-28.
#
# A LoRA on the token embedding of a model whose output layer shares that weight: with the adapter
# the output layer keeps the old weight, after merge_and_unload() it has the new one, too, so the
# exported model is another than the one that was trained and evaluated. For LLaMA peft warns of
# "complications" and asks for ensure_weight_tying=True; then both layers are adapted alike, and the
# merge adds the change to the shared weight twice. For GPT-2, whose embedding has another name,
# there is no warning at all.
#
# Output seen:
#   GPT-2: tying warnings 0, adapter moves scores by 0.13, merged model is off by 0.32
#   LLaMA, tied: adapter moves scores by 0.28, merged model is off by 0.49
#   LLaMA, tied: the shared weight moved by 2.00 times the adapter's change
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy transformers==5.23.0 peft==0.21.2
cat >"$folder/try.py" <<'PY'
import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, logging

logging.set_verbosity_error()
SHARED = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": True}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
IDS = torch.arange(8).unsqueeze(0)


def merged(model, target, **settings):
    """Return warnings of tying, the adapter's effect, the merge's error, and twice-ness."""
    with warnings.catch_warnings(record=True) as said, torch.no_grad():
        warnings.simplefilter("always")
        base, embedding = model(IDS).logits, model.get_input_embeddings().weight.clone()
        config = LoraConfig(target_modules=[target], r=2, lora_alpha=0.2, **settings)
        adapted = get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
        trained = adapted(IDS).logits
        change = adapted.get_input_embeddings().get_delta_weight("default")
        plain = adapted.merge_and_unload()
        effect = (trained - base).abs().max().item()
        error = (trained - plain(IDS).logits).abs().max().item()
        moved = plain.get_input_embeddings().weight - embedding
    about = sum("tie" in str(warning.message) for warning in said)
    return about, effect, error, (moved.norm() / change.norm()).item()


torch.manual_seed(0)
gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=16, **SHARED, **SIZES)).eval()
about, effect, error, _ = merged(gpt2, "wte")
print(
    f"GPT-2: tying warnings {about}, adapter moves scores by {effect:.2f}, "
    f"merged model is off by {error:.2f}"
)
llama = LlamaForCausalLM(LlamaConfig(intermediate_size=32, **SHARED, **SIZES)).eval()
_, tied_effect, tied_error, times = merged(llama, "embed_tokens", ensure_weight_tying=True)
print(f"LLaMA, tied: adapter moves scores by {tied_effect:.2f}, merged model is off by {tied_error:.2f}")
print(f"LLaMA, tied: the shared weight moved by {times:.2f} times the adapter's change")
wrong = about == 0 and error > effect, tied_error > 0.5 * tied_effect, round(times, 2) == 2
raise SystemExit(wrong != (True, True, True))
PY
"$folder/env/bin/python" "$folder/try.py"
