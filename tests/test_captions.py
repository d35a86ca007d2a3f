"""Captions: scores by hand and against the program of MS-COCO; scenes; what a model says."""

from __future__ import annotations

from math import exp
from typing import Literal, get_args

import numpy as np
import pytest
import torch
from support import example

from decentral.tasks._scenes import ADDED, REMOVED, SAME, scenes
from decentral.tasks.change_captions import (
    captioned,
    length,
    references,
    says_change,
    vocabulary,
)
from decentral.tasks.models.change_captioner import change_captioner
from decentral.theory.captions import bleu4, cider_d, rouge_l

Fusion = Literal["difference_aware", "difference", "concat"]

# --- scores ---------------------------------------------------------------------------------------


def test_bleu_by_hand() -> None:
    """Two pairs: 7 of 8 words, 5 of 6, 3 of 4 and 1 of 2 longer ones; one word short of 9."""
    found = bleu4(["a b c d", "e f g x"], [["a b c d"], ["e f g h i"]])
    wanted = (7 / 8 * 5 / 6 * 3 / 4 * 1 / 2) ** 0.25 * exp(1 - 9 / 8)
    assert found == pytest.approx(wanted, rel=1e-12)


def test_bleu_counts_a_word_as_often_as_one_reference_has_it() -> None:
    assert bleu4(["a b c d a b c d"], [["a b c d"]]) == pytest.approx(
        (4 / 8 * 3 / 7 * 2 / 6 * 1 / 5) ** 0.25
    )


def test_rouge_by_hand() -> None:
    """P = 3/4 from one reference, R = 1 from another."""
    found = rouge_l(["a b c d"], [["a x b y c z", "a d"]])
    assert found == pytest.approx(2.44 * 0.75 / (1 + 1.44 * 0.75), rel=1e-12)


def test_cider_by_hand() -> None:
    """Words of one pair of two weigh ln 2, "b" of both weighs 0; an unseen word also ln 2.

    Of the first, "a" is the only word with a weight in common: 1 / sqrt 2. The second agrees in its
    word "c" and its 2-gram; there are no longer ones.
    """
    found = cider_d(["a x", "c b"], [["a b"], ["c b"]])
    assert found == pytest.approx(10 * (0.5**0.5 / 4 + (1 + 1) / 4) / 2, rel=1e-12)


def test_cider_gives_less_for_another_length() -> None:
    """Words clipped to once have a cosine of 1/2; e^(-9/72) for five 2-grams against two.

    Of the 2-grams ab, bc (twice) and ca, ab and bc agree: 2 / (sqrt 9 sqrt 2). Of the 3-grams abc
    (twice), bca and cab, abc: 1 / sqrt 6.
    """
    found = cider_d(["a b c a b c", "d"], [["a b c"], ["d"]])
    agreement = (1 / 2 + 2 / 18**0.5 + 1 / 6**0.5) / 4
    assert found == pytest.approx(10 * (agreement * exp(-9 / 72) + 1 / 4) / 2, rel=1e-12)


@pytest.mark.parametrize("score", [bleu4, rouge_l, cider_d])
def test_nothing_in_common_and_nothing_said_score_nothing(score: object) -> None:
    assert callable(score)
    assert score(["x y z w", ""], [["a b c d"], ["e f g h"]]) == 0


def test_scores_are_those_of_the_program_of_ms_coco() -> None:
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu", reason="needs pycocoevalcap")
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    known = references(scenes(0, range(120), 16, 0))
    said = [five[place % 5] for place, five in enumerate(known[1:] + known[:1])]
    gold = dict(enumerate(known))
    mine = {number: [caption] for number, caption in enumerate(said)}
    assert bleu4(said, known) == pytest.approx(
        bleu.Bleu(4).compute_score(gold, mine, verbose=0)[0][3], abs=1e-6
    )
    assert rouge_l(said, known) == pytest.approx(
        rouge.Rouge().compute_score(gold, mine)[0], abs=1e-6
    )
    assert cider_d(said, known) == pytest.approx(
        cider.Cider().compute_score(gold, mine)[0], abs=1e-6
    )


# --- scenes ---------------------------------------------------------------------------------------


def test_a_pair_is_a_function_of_its_number() -> None:
    many, few = scenes(3, range(300), 16, 2), scenes(3, range(290, 294), 16, 2)
    assert np.array_equal(many.images[290:294], few.images)
    assert references(few) == references(many)[290:294]
    assert not np.array_equal(few.images, scenes(4, range(290, 294), 16, 2).images)


def test_half_of_the_pairs_change_and_each_change_is_as_likely() -> None:
    drawn = scenes(0, range(2000), 16, 0)
    shares = [(drawn.change == change).mean() for change in (SAME, ADDED, REMOVED)]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.04)
    changed = drawn.change != SAME
    assert np.bincount(drawn.kind[changed] * 4 + drawn.place[changed]).min() > 30


def test_registered_dates_differ_most_where_the_caption_says() -> None:
    drawn = scenes(1, range(200), 32, 0)
    a, b = (drawn.images[:, part].astype(float) for part in (slice(0, 3), slice(3, 6)))
    apart = b - a
    apart -= np.median(apart, (2, 3), keepdims=True)  # the light of the day
    quarters = np.abs(apart).reshape(200, 3, 2, 16, 2, 16).mean((1, 3, 5)).reshape(200, 4)
    changed = drawn.change != SAME
    assert (quarters.argmax(1) == drawn.place)[changed].mean() > 0.7


def test_captions_speak_of_a_change_where_there_is_one() -> None:
    drawn = scenes(0, range(200), 16, 0)
    known = references(drawn)
    for change, five in zip(drawn.change, known, strict=True):
        assert len(set(five)) == 5
        assert {says_change(caption) for caption in five} == {change != SAME}
    words = {word for five in known for caption in five for word in caption.split()}
    assert words <= vocabulary().keys()
    assert max(len(caption.split()) for five in known for caption in five) < length()


# --- the task and its model -----------------------------------------------------------------------


def test_every_pair_is_seen_with_each_of_its_captions() -> None:
    train, _, test = example("task", "change_captions")(0).splits
    inputs, targets = train.take(torch.arange(5))
    assert (len(train), len(test)) == (120, 40)
    assert torch.equal(inputs[:, : -length()], inputs[:1, : -length()].expand(5, -1))
    assert len({tuple(row) for row in targets.tolist()}) == 5
    assert torch.equal(inputs[:, 1 - length() :].long(), targets[:, :-1].clamp_min(0))


def test_a_model_that_knows_the_words_says_them() -> None:
    """A stand-in that answers the same sentence, word by word, is read as that sentence."""
    known, sentence = vocabulary(), "nothing has changed"
    numbers = torch.tensor([*(known[word] for word in sentence.split()), *[0] * length()])
    scores = torch.nn.functional.one_hot(numbers[: length()], len(known)).double()

    class Parrot(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return scores.expand(len(inputs), -1, -1)

    images = torch.zeros(3, 6, 16, 16, dtype=torch.uint8)
    assert captioned(Parrot(), images) == [sentence] * 3


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_words_do_not_see_those_that_come(fusion: Fusion) -> None:
    model = change_captioner((6 * 16**2 + 12,), 41, fusion=fusion, width=16, heads=2, mixers=1)
    inputs = torch.randn(2, 6 * 16**2 + 12, generator=torch.Generator().manual_seed(0))
    inputs[:, -12:] = 5
    other = inputs.clone()
    other[:, -4:] = 7
    one, two = model(inputs), model(other)
    torch.testing.assert_close(one[:, :8], two[:, :8])
    assert not torch.allclose(one[:, 8:], two[:, 8:])
