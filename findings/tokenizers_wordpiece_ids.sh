#!/usr/bin/env bash
# tokenizers 0.23.3, 2026-11-28.
#
# A tokenizer that every node trains for itself, on the same text with the same settings, need not
# be the same tokenizer. WordPiece (BERT's) numbers the letters that continue a word in the order of
# a hash table, which is new in every training, also within one process and in one thread. Their ids
# are swapped between nodes, ties between merges are broken by these ids, and now and then other
# tokens come of it. Sizes agree, and so do shapes: gossip averages the embedding of one token with
# that of another. There is no seed. BPE on the same text has the same ids each time. Train it once
# and send the file.
#
# Output seen, three trainings on one text (which ids differ is left to chance):
#   BPE: 200 tokens, with another id than the first time: [0, 0]
#   WordPiece: 200 tokens, with another id than the first time: [30, 147]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet tokenizers==0.23.3
cat >"$folder/try.py" <<'PY'
import random

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

DICE = random.Random(0)
WORDS = ["".join(DICE.choices("abcdefghijkl", k=DICE.randint(2, 7))) for _ in range(300)]
TEXT = [" ".join(DICE.choices(WORDS, k=12)) for _ in range(400)]


def trained(model, trainer):
    tokenizer = Tokenizer(model())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(TEXT, trainer(vocab_size=200, show_progress=False))
    return tokenizer.get_vocab()


seen = []
for model, trainer in (
    (models.BPE, trainers.BpeTrainer),
    (models.WordPiece, trainers.WordPieceTrainer),
):
    first, *others = (trained(model, trainer) for _ in range(3))
    moved = [sum(other.get(token) != first[token] for token in first) for other in others]
    print(f"{model.__name__}: {len(first)} tokens, with another id than the first time: {moved}")
    seen.append(any(moved))
raise SystemExit(seen != [False, True])
PY
"$folder/env/bin/python" "$folder/try.py"
