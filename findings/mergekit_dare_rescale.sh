#!/usr/bin/env bash
# mergekit 0.1.5, torch 2.13.0 (CPU), 2026-11-28.
#
# DARE drops each number of a task vector with probability p and divides what stays by 1 - p, so that
# the expectation of every number is what it was (Yu et al., arXiv:2311.03099, theorem in section 3).
# mergekit multiplies what stays by a ratio of l1 norms, before and after the drop, tensor by tensor:
# the sum of the magnitudes is kept in every draw, and the expectation of a number is not. Large
# numbers shrink and small ones grow; where one outlier holds most of a tensor it loses half and its
# neighbours become six times what they were. A tensor of one number (a scale, a bias) keeps its value
# or becomes 0. With many numbers of one size the two agree: 1,000 normal ones to 1.5 %, the noise of
# the draws. So merges of mergekit are not those of the paper's formula, by most where tensors are small
# or have outliers.
#
# Output seen:
#   [3, 1]            mergekit [1.76, 1.25]      divided by 1 - p [2.98, 0.99]
#   [100, 1, 1, ...]  mergekit [51.9, 6.3, ...]  divided by 1 - p [99.7, 1.0, ...]
#   [3]               mergekit [1.50]            divided by 1 - p [2.99]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 numpy mergekit==0.1.5
cat >"$folder/try.py" <<'PY'
import torch
from mergekit.sparsify import RescaleNorm, SparsificationMethod, sparsify

KEPT, DRAWS = 0.5, 40_000


def means(numbers):
    """Return the mean of many draws: of mergekit's, and of those of the formula."""
    tensor = torch.tensor(numbers)
    theirs, formula = torch.zeros_like(tensor), torch.zeros_like(tensor)
    for _ in range(DRAWS):
        # As dare_linear and dare_ties call it, whose rescale is on unless said otherwise.
        theirs += sparsify(tensor, KEPT, SparsificationMethod.random, rescale_norm=RescaleNorm.l1)
        formula += tensor * torch.bernoulli(torch.full_like(tensor, KEPT)) / KEPT
    return theirs / DRAWS, formula / DRAWS


torch.manual_seed(0)
pair, pair_right = means([3.0, 1.0])
print(f"[3, 1]            mergekit [{pair[0]:.2f}, {pair[1]:.2f}]      "
      f"divided by 1 - p [{pair_right[0]:.2f}, {pair_right[1]:.2f}]")
many, many_right = means([100.0] + [1.0] * 9)
print(f"[100, 1, 1, ...]  mergekit [{many[0]:.1f}, {many[1]:.1f}, ...]  "
      f"divided by 1 - p [{many_right[0]:.1f}, {many_right[1]:.1f}, ...]")
one, one_right = means([3.0])
print(f"[3]               mergekit [{one[0]:.2f}]            divided by 1 - p [{one_right[0]:.2f}]")
wrong = abs(pair[0] - 1.75) < 0.05 and abs(many[0] - 51.4) < 2 and abs(one[0] - 1.5) < 0.05
right = abs(pair_right[0] - 3) < 0.05 and abs(many_right[1] - 1) < 0.05
raise SystemExit(not (wrong and right))
PY
"$folder/env/bin/python" -W ignore "$folder/try.py"
