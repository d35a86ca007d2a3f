"""Captions: scores by hand and against the program of MS-COCO; scenes; what a model says."""

from __future__ import annotations

import json
from math import exp
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import example

import decentral
from decentral import ConfigError
from decentral.claims import FAILS, HOLDS, PARTLY, verdict
from decentral.claims.change_captioning import (
    FUSIONS,
    compare_modules,
    meteor,
    score_captions,
)
from decentral.registry import build, find
from decentral.tasks.change_captions import (
    caption,
    contents,
    length,
    references,
    says_change,
    vocabulary,
)
from decentral.tasks.models.change_captioner import (
    CCExpert,
    change_captioner,
    even_sines,
)
from decentral.tasks.scenes import ADDED, KINDS, PLACES, REMOVED, SAME, scenes
from decentral.theory.captions import bleu4, cider_d, rouge_l
from decentral.traits import ClaimTraits, traits_of

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


@pytest.mark.needs("java")
def test_meteor_is_one_for_a_reference_and_less_for_anything_else() -> None:
    pytest.importorskip(
        "pycocoevalcap", reason="needs pycocoevalcap: pip install -e '.[captions]'"
    )
    known = references(scenes(0, range(8), 16, 0))
    found = meteor({"same": [five[0] for five in known], "other": ["a cow"] * 8}, known)
    assert found["same"] == pytest.approx(1.0)
    assert found["other"] < 0.2


def test_without_java_there_is_no_meteor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert meteor({"anything": ["a"]}, [["a"]]) == {}


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


def test_contents_say_of_every_place_and_date_what_stands_there() -> None:
    drawn = scenes(0, range(50), 16, 0)
    for pair, eight in enumerate(contents(drawn)):
        assert len(set(eight)) == 8
        for position, one in enumerate(eight):
            date, place = divmod(position, 4)
            thing = (
                KINDS[drawn.kinds[pair, place]]
                if drawn.there[pair, date, place]
                else "nothing"
            )
            assert {thing, ("first", "second")[date], *PLACES[place].split()} < {
                *one.split()
            }
        differ = {
            position
            for position in range(4)
            if eight[position][-6:] != eight[position + 4][-6:]
        }
        assert differ == ({drawn.place[pair]} if drawn.change[pair] != SAME else set())


# --- the task and its model -----------------------------------------------------------------------


def test_every_pair_is_seen_with_each_of_its_captions() -> None:
    train, _, test = example("task", "change_captions")(0).splits
    inputs, targets = train.take(torch.arange(5))
    assert (len(train), len(test)) == (120, 40)
    assert torch.equal(inputs[:, : -length()], inputs[:1, : -length()].expand(5, -1))
    assert len({tuple(row) for row in targets.tolist()}) == 5
    assert torch.equal(inputs[:, 1 - length() :].long(), targets[:, :-1].clamp_min(0))


def test_words_alone_come_with_grey_images() -> None:
    task = build("task", "change_captions(pairs=6, test=4, size=16, about=contents)")(0)
    train = task.splits[0]
    inputs, _ = train.take(torch.arange(13))
    pixels = inputs[:, : -length()]
    assert len(train) == len(task.labels) == 6 * 13
    assert [len(row.unique()) == 1 for row in pixels] == [False] * 8 + [True] * 5


def saved(folder: Path, **settings: Any) -> Path:
    """Write a small captioner into a file, with weights that no seed gives."""
    model = small(**settings)
    file = folder / "model.safetensors"
    save_file({name: value + 1 for name, value in model.state_dict().items()}, file)
    return file


def small(**settings: Any) -> torch.nn.Module:
    inputs = (6 * 16**2 + length(),)
    return change_captioner(
        inputs, len(vocabulary()), width=16, heads=2, layers=1, **settings
    )


def read_by(model: torch.nn.Module, file: Path) -> set[str]:
    """Return the parts of a model of which everything is what a file holds."""
    held, own = load_file(file), model.state_dict()
    other = {
        name for name in own if name not in held or not torch.equal(own[name], held[name])
    }
    return {name.partition(".")[0] for name in own} - {
        name.partition(".")[0] for name in other
    }


def test_a_captioner_goes_on_from_another_and_draws_only_another_fusion_anew(
    tmp_path: Path,
) -> None:
    file = saved(tmp_path, fusion="concat")
    everything = {"encoder", "norm", "decoder", "fusion"}
    assert read_by(small(fusion="concat", start=str(file)), file) == everything
    for other in ({"fusion": "difference"}, {"fusion": "concat", "mixers": 1}, {}):
        assert read_by(small(start=str(file), **other), file) == everything - {"fusion"}


def test_training_the_fusion_leaves_all_else_as_it_is(tmp_path: Path) -> None:
    file = saved(tmp_path)
    run = decentral.launch(
        task="change_captions(pairs=8, test=4, size=16)", nodes=2, steps=2,
        out=str(tmp_path / "run"),
        model={"name": "change_captioner", "width": 16, "heads": 2, "layers": 1,
               "start": str(file), "train": "fusion"},
    )  # fmt: skip
    assert read_by(run.merged_model(), file) == {"encoder", "norm", "decoder"}


class Parrot(torch.nn.Module):
    """Says the same sentence whatever it is shown, word by word."""

    def __init__(self, sentence: str) -> None:
        super().__init__()
        known = vocabulary()
        numbers = [*(known[word] for word in sentence.split()), *[0] * length()]
        self.scores = torch.eye(len(known))[numbers[: length()]]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.scores.expand(len(inputs), -1, -1)


def test_a_model_that_knows_the_words_says_them() -> None:
    images = torch.zeros(3, 6, 16, 16, dtype=torch.uint8)
    assert caption(Parrot("nothing has changed"), images) == ["nothing has changed"] * 3


@pytest.mark.parametrize("fusion", get_args(Fusion))
def test_words_do_not_see_those_that_come(fusion: Fusion) -> None:
    model = small(fusion=fusion, mixers=1)
    inputs = torch.randn(2, 6 * 16**2 + 12, generator=torch.Generator().manual_seed(0))
    inputs[:, -12:] = 5
    other = inputs.clone()
    other[:, -4:] = 7
    one, two = model(inputs), model(other)
    torch.testing.assert_close(one[:, :8], two[:, :8])
    assert not torch.allclose(one[:, 8:], two[:, 8:])


# --- captions in files ----------------------------------------------------------------------------


def entry(name: str, split: str, sentences: list[str], changed: int) -> dict[str, Any]:
    spoken = [{"raw": raw, "tokens": raw.split()} for raw in sentences]
    return {
        "filepath": split, "filename": name, "split": split, "changeflag": changed,
        "sentences": spoken,
    }  # fmt: skip


@pytest.fixture
def levir(tmp_path: Path) -> Path:
    """A folder laid out as LEVIR-CC is: pairs of 20 x 20 pixels, of one colour each."""
    image = pytest.importorskip("PIL.Image")
    entries: list[dict[str, Any]] = []
    counts = {"train": 6, "val": 2, "test": 3}
    for split, count in counts.items():
        for number in range(count):
            name, changed = f"{split}_{number:06d}.png", number % 2
            for date in "AB":
                folder = tmp_path / "images" / split / date
                folder.mkdir(parents=True, exist_ok=True)
                red = 200 if date == "B" and changed else 40
                image.new("RGB", (20, 20), (red, 10 * number, 90)).save(folder / name)
            said = (
                ["A road is built .", "The scene changes."] if changed else ["No change."]
            )
            entries.append(entry(name, split, said, changed))
    entries[-1]["sentences"][0]["raw"] = "a bridge is built ."
    (tmp_path / "LevirCCcaptions.json").write_text(json.dumps({"images": entries}))
    return tmp_path


def test_pairs_and_captions_are_read_from_a_folder(levir: Path) -> None:
    task = build("task", {"name": "change_captions", "path": str(levir), "size": 16})(0)
    known = ["<end>", "<begin>", "<other>", "a", "built", "change", "changes", "is", "no",
             "road", "scene", "the"]  # fmt: skip
    assert task.outputs == len(known)
    assert [len(part) for part in (task.train, task.val, task.test)] == [9, 3, 4]
    assert task.classes == ("same", "changed")
    assert task.labels.tolist() == [0, 1, 1] * 3
    inputs, targets = task.train.take(torch.tensor([1]), None)
    pixels = (inputs[0, : 6 * 16 * 16].view(6, 16, 16) + 1) * 127.5
    assert pixels.mean((1, 2)).round().tolist() == [40, 10, 90, 200, 10, 90]
    assert inputs[0, 6 * 16 * 16 :].tolist() == [1, 3, 9, 7, 4]
    assert targets[0].tolist() == [3, 9, 7, 4, 0]
    # A word that no training caption has is another word.
    _, targets = task.test.take(torch.tensor([3]), None)
    assert targets[0].tolist() == [3, 2, 7, 4, 0]
    model = change_captioner((6 * 256 + 5,), task.outputs, width=16, heads=2, layers=1)
    images = torch.zeros(2, 6, 16, 16, dtype=torch.uint8)
    assert all(
        set(text.split()) <= set(known) for text in caption(model, images, known, 5)
    )


def test_a_model_learns_captions_in_files(levir: Path, tmp_path: Path) -> None:
    run = decentral.launch(
        task={"name": "change_captions", "path": str(levir), "size": 16}, nodes=1,
        algorithm="local", steps=60, batch=8, out=str(tmp_path / "run"),
        model="change_captioner(width=16, heads=2, layers=1)", learning_rate=0.01,
    )  # fmt: skip
    assert run.summary["final"]["accuracy/merged"] > 0.8


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda f: (f / "images/train/B/train_000001.png").unlink(), "no such file"),
        (lambda f: (f / "images/test/A/test_000000.png").write_text("x"), "cannot be read"),
        (lambda f: (f / "LevirCCcaptions.json").unlink(), "one JSON file with captions"),
        (lambda f: (f / "LevirCCcaptions.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "LevirCCcaptions.json").write_text("[]"), "no list of images"),
        (lambda f: rewritten(f, "filename", "../x.png"), "plain file name"),
        (lambda f: rewritten(f, "sentences", []), "captions that are not empty"),
        (lambda f: rewritten(f, "changeflag", "maybe"), "image 0, cannot be used"),
        (lambda f: rewritten(f, "split", "train", all_=True), "no pair of the split test"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_of_captions_is_said(
    break_it: Any, said: str, levir: Path
) -> None:
    break_it(levir)
    task = build("task", {"name": "change_captions", "path": str(levir), "size": 16})
    with pytest.raises(ConfigError, match=said):
        task(0)


def rewritten(folder: Path, key: str, value: Any, all_: bool = False) -> None:
    file = folder / "LevirCCcaptions.json"
    held = json.loads(file.read_text())
    kept = [one for one in held["images"] if not all_ or one["split"] == "train"]
    kept[0][key] = value
    file.write_text(json.dumps({"images": kept}))


# --- the claim ------------------------------------------------------------------------------------


def scored(mean: float, seen: float) -> dict[str, float]:
    return {"mean of 3 scores": mean, "change seen": seen}


BLIND, SEEING, BETTER = scored(60, 0.5), scored(130, 0.9), scored(140, 0.95)


@pytest.mark.parametrize(
    ("module", "difference", "concat", "staged", "judged"),
    [
        (BETTER, SEEING, BLIND, 1.0, HOLDS),
        (BETTER, SEEING, BLIND, -1.0, PARTLY),
        (BETTER, SEEING, SEEING, -1.0, FAILS),  # one of four others
        (SEEING, SEEING, BLIND, 1.0, FAILS),  # subtraction is no method to beat by 0
        (SEEING, BETTER, BLIND, 1.0, FAILS),
        (BLIND, BLIND, BLIND, 1.0, FAILS),
    ],
)
def test_scores_decide_the_claim(
    module: dict[str, float],
    difference: dict[str, float],
    concat: dict[str, float],
    staged: float,
    judged: str,
) -> None:
    figures = compare_modules(
        {"module": module, "difference": difference, "concat": concat}
    ) | {"mean of 3 scores, three stages minus one": staged}
    expected = traits_of(find("claim", "change_captioning"), ClaimTraits).expect
    assert (
        verdict(expected, {name: [value] * 3 for name, value in figures.items()})
        == judged
    )


def test_who_says_that_nothing_has_changed_is_right_where_nothing_has() -> None:
    drawn, sentence = scenes(0, range(200), 16, 0), "nothing has changed"
    found = score_captions([sentence] * 200, drawn)
    assert found["change seen"] == (drawn.change == SAME).mean()
    scores = [found[name] for name in ("BLEU-4", "ROUGE-L", "CIDEr-D")]
    assert found["mean of 3 scores"] == pytest.approx(sum(scores) / 3)
    assert found["ROUGE-L"] == pytest.approx(
        100 * rouge_l([sentence] * 200, references(drawn))
    )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fusions_are_of_one_size(fusion: str) -> None:
    settings, _ = FUSIONS[fusion]
    sizes = [
        sum(value.numel() for value in small(**own).parameters())
        for own in (settings, FUSIONS["module"][0])
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.04)


# --- the module as its authors have it ------------------------------------------------------------


def test_levels_are_weighed_by_the_gate_and_the_last_is_added_raw() -> None:
    """As the authors' code, which this agreed with to 1e-13 on weights in common."""
    torch.manual_seed(0)
    module = CCExpert(8, 2, side=2).double()
    torch.nn.init.normal_(module.gate[2].weight)
    a, b = torch.randn(2, 3, 3 * 4, 8, dtype=torch.float64)  # three levels of four places
    refined: list[torch.Tensor] = []
    gates: list[torch.Tensor] = []
    for level in range(3):
        x, y = a[:, 4 * level : 4 * level + 4], b[:, 4 * level : 4 * level + 4]
        q = torch.zeros_like(x)
        for block, flags in zip(module.blocks, module.flags, strict=True):
            q, x, y = block(q + module.difference(x, y), x, y, module.place, flags)
        gates.append(module.gate(torch.cat([x, y, q], -1).mean(1)).sigmoid()[..., None])
        refined.append(torch.cat([x, y], 1))
    mean = sum(g * r for g, r in zip(gates, refined, strict=True)) / (sum(gates) + 1e-6)
    raw = torch.cat([a[:, -4:], b[:, -4:]], 1)
    torch.testing.assert_close(module(a, b, module.place), mean + raw)


def test_places_are_sines_and_cosines_in_turns() -> None:
    place = even_sines(2, 8)
    quarter = torch.pi / 2
    y = torch.tensor([quarter, quarter, 3 * quarter, 3 * quarter])
    x = torch.tensor([quarter, 3 * quarter, quarter, 3 * quarter])
    wanted = [f(z / r) for z in (y, x) for r in (1, 100) for f in (torch.sin, torch.cos)]
    torch.testing.assert_close(place, torch.stack(wanted, 1))


@pytest.mark.parametrize("fusion", ["ccexpert", "difference"])
def test_levels_make_the_encoder_deeper(fusion: Any) -> None:
    """All fusions see the same encoder; the gradient reaches each level."""
    torch.manual_seed(0)
    words = 5
    shape = (6 * 16**2 + words,)
    one, three = (
        change_captioner(shape, 9, fusion=fusion, levels=n, width=8, heads=2, layers=1)
        for n in (1, 3)
    )
    own, deep = (dict(model.named_parameters()) for model in (one, three))
    assert {*deep} - {*own} == {
        f"deeper.{level}.{part}" for level in (0, 1) for part in ("weight", "bias")
    }
    pairs = torch.cat([torch.randn(2, shape[0] - words), torch.ones(2, words)], 1)
    three(pairs).square().sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0
        for name, p in deep.items()
        if "deeper" in name
    )
