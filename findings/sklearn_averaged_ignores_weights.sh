#!/usr/bin/env bash
# scikit-learn 1.9.1, 2026-11-28.
#
# Federated averaging with scikit-learn writes the mean of all nodes into coef_ and intercept_ of
# each and goes on with partial_fit(). SGDClassifier(average=True), which is the more stable choice
# on uneven data, ignores what it is given: its iterate is kept in a private array, coef_ is only
# what it shows, and the next partial_fit() puts its own average back. Every node trains alone, for
# as many rounds as one likes, and nothing is said. Written into the array, coef_[:] = mean, it is
# mixed with what was there. average=False, or fit() with warm_start=True, takes the weights.
#
# Output seen, weights set to 100, then one partial_fit() of a tiny rate:
#   average=False: [100.0, 100.0, 100.0]
#   average=True: [0.0, -0.0, 0.0]
#   average=True, written into the array: [50.0, 50.0, 50.0]
#   average=True, fit() with warm_start: [100.0, 100.0, 100.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet scikit-learn==1.9.1
cat >"$folder/try.py" <<'PY'
import numpy as np
from sklearn.linear_model import SGDClassifier

INPUTS = np.random.default_rng(0).normal(size=(200, 3))
CLASSES = (INPUTS @ [1, -1, 2] > 0).astype(int)
RATE = {"learning_rate": "constant", "eta0": 1e-6, "random_state": 0}


def after(words, average, in_place=False, warm_start=False):
    """Return the weights of a node that was given 100s and then trained a little."""
    node = SGDClassifier(average=average, warm_start=warm_start, max_iter=1, tol=None, **RATE)
    train = node.fit if warm_start else node.partial_fit
    node.partial_fit(INPUTS, CLASSES, classes=[0, 1])
    if in_place:
        node.coef_[:] = 100
    else:
        node.coef_ = np.full((1, 3), 100.0)
    train(INPUTS, CLASSES)
    weights = node.coef_[0].round(1).tolist()
    print(f"{words}: {weights}")
    return weights[0]


seen = [
    after("average=False", average=False),
    after("average=True", average=True),
    after("average=True, written into the array", average=True, in_place=True),
    after("average=True, fit() with warm_start", average=True, warm_start=True),
]
raise SystemExit(seen != [100.0, 0.0, 50.0, 100.0])
PY
"$folder/env/bin/python" -W ignore "$folder/try.py"
