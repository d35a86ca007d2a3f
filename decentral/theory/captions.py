"""How close captions are to references: BLEU-4, ROUGE-L and CIDEr-D, in plain
Python.

Captions are words with spaces between them. Candidates go with references one to
one: a string, and the list of strings that a pair has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from math import exp, log, sqrt
from statistics import fmean

Grams = Counter[tuple[str, ...]]
Vector = dict[tuple[str, ...], float]

_LONGEST = 4


def bleu4(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return BLEU-4 of a corpus: BP (p_1 p_2 p_3 p_4)^(1/4), in [0, 1].

    p_n is the share of n-grams that occur in a reference, each counted at most as
    often as there; BP = min(1, e^(1 - r/c)) with c words in candidates and r in the
    references nearest in length. (Papineni et al., "BLEU", 2002.)

    >>> round(bleu4(["a b c d e"], [["a b c d f"]]), 4)  # (4/5 3/4 2/3 1/2)^(1/4)
    0.6687
    """
    hits, total, own, nearest = [0] * _LONGEST, [0] * _LONGEST, 0, 0
    for candidate, some in zip(candidates, references, strict=True):
        words, known = candidate.split(), [reference.split() for reference in some]
        own += len(words)
        # Of two as near the shorter one, as in the authors' program.
        nearest += min((abs(len(ref) - len(words)), len(ref)) for ref in known)[1]
        for n in range(1, _LONGEST + 1):
            limit: Grams = Counter()
            for ref in known:
                # The largest count in any single reference, not the sum over them.
                limit |= _grams(ref, n)
            hits[n - 1] += (_grams(words, n) & limit).total()
            total[n - 1] += max(0, len(words) - n + 1)
    if not all(hits):
        return 0.0
    precision = exp(fmean(log(hit / all_) for hit, all_ in zip(hits, total, strict=True)))
    return precision * min(1.0, exp(1 - nearest / own))


def rouge_l(
    candidates: Sequence[str], references: Sequence[Sequence[str]], beta: float = 1.2
) -> float:
    """Return ROUGE-L, the mean over candidates of (1 + beta^2) P R / (R + beta^2
    P), in [0, 1].

    P and R are the longest common subsequence over the words of the candidate, and
    of a reference, each the best over the references. (Lin, "ROUGE", 2004.)

    >>> round(rouge_l(["a b c d"], [["a c d e f"]]), 6)  # P = 3/4, R = 3/5
    0.653571
    """

    def one(candidate: str, some: Sequence[str]) -> float:
        words, known = candidate.split(), [reference.split() for reference in some]
        common = [_common(words, ref) for ref in known]
        if not max(common):
            return 0.0
        precision = max(common) / len(words)
        recall = max(
            found / len(ref) for found, ref in zip(common, known, strict=True) if ref
        )
        return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)

    return fmean(one(*pair) for pair in zip(candidates, references, strict=True))


def cider_d(
    candidates: Sequence[str], references: Sequence[Sequence[str]], sigma: float = 6.0
) -> float:
    """Return CIDEr-D: 10 times the mean over n = 1..4, references and candidates of
    a cosine.

    With g_n(k) = count(k) (ln m - ln max(1, df(k))), df the pairs of m in whose
    references the n-gram k occurs: sum_k min(g(c), g(r)) g(r) / (|g(c)| |g(r)|)
    exp(-(l_c - l_r)^2 / 2 sigma^2); lengths l are counted in 2-grams, as in the
    program of the authors. (Vedantam, Zitnick & Parikh, "CIDEr", 2015.)

    >>> cider_d(["a b c d", "e f g h"], [["a b c d"], ["e f g h"]])
    10.0
    """
    known = [[_vectors(reference) for reference in some] for some in references]
    seen: Grams = Counter()
    for some in known:
        seen.update({gram for vectors in some for counts in vectors for gram in counts})
    # The logarithm of the number of pairs; an n-gram that occurs in all of them
    # weighs 0.
    rarity = log(len(known))

    def weigh(vectors: Iterable[Grams]) -> list[Vector]:
        return [
            {
                gram: count * (rarity - log(max(1, seen[gram])))
                for gram, count in counts.items()
            }
            for counts in vectors
        ]

    def one(candidate: str, some: Sequence[list[Grams]]) -> float:
        counted = _vectors(candidate)
        mine, size = weigh(counted), counted[1].total()
        return fmean(
            exp(-((size - ref[1].total()) ** 2) / (2 * sigma**2))
            * fmean(map(_cosine, mine, its))
            for ref in some
            for its in [weigh(ref)]
        )

    return 10 * fmean(one(*pair) for pair in zip(candidates, known, strict=True))


def _grams(words: Sequence[str], n: int) -> Grams:
    return Counter(tuple(words[k : k + n]) for k in range(len(words) - n + 1))


def _vectors(caption: str) -> list[Grams]:
    words = caption.split()
    return [_grams(words, n) for n in range(1, _LONGEST + 1)]


def _cosine(mine: Vector, its: Vector) -> float:
    """Return the clipped cosine of two vectors of weights, 0 where one of them has
    no length.
    """
    lengths = [
        sqrt(sum(weight**2 for weight in vector.values())) for vector in (mine, its)
    ]
    if not all(lengths):
        return 0.0
    dot = sum(
        min(weight, its[gram]) * its[gram] for gram, weight in mine.items() if gram in its
    )
    return dot / (lengths[0] * lengths[1])


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        above = row
        row = [0]
        for place, its in enumerate(other):
            # Two rows of the table are enough for the length.
            row.append(
                above[place] + 1 if word == its else max(above[place + 1], row[place])
            )
    return row[-1]
