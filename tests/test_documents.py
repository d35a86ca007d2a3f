"""Documents: tables of them, tokenizers of folders, and how samples end with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_run

from decentral import ConfigError, Run, launch
from decentral.registry import build
from decentral.tasks import Task
from decentral.tasks.base import Continued
from decentral.tasks.text import next_token
from decentral.tasks.tokens import END, folder_tokenizer

tokenizers: Any = pytest.importorskip("tokenizers")
datasets: Any = pytest.importorskip("datasets")

WORDS = ["the", "cat", "sat", "on", "a", "mat", "The", "quick", "brown", "fox", "<end>"]
TEXTS = ["the cat sat", "on a mat", "a cat", "the mat sat on the cat on a mat"] * 30


def tokenizer(folder: Path, end: str | None = "<end>") -> Path:
    """Write a tokenizer of words as transformers does."""
    folder.mkdir()
    known = {word: place for place, word in enumerate([*WORDS, "?"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["<end>"])
    made.enable_truncation(2)
    made.save(str(folder / "tokenizer.json"))
    if end is not None:
        about = {"eos_token": {"content": end}}
        (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def rows() -> dict[str, list[Any]]:
    return {"text": TEXTS, "kind": ["news", "verse", "prose"] * 40}


def write(folder: Path, form: str) -> Path:
    """Write the texts, a few of them for the test, in a form of tables."""
    folder.mkdir()
    table = datasets.Dataset.from_dict(rows())
    parts = {"train": table, "test": table.select(range(12))}
    if form == "datasets":
        datasets.DatasetDict(parts).save_to_disk(folder)
    for name, part in parts.items():
        if form == "jsonl":
            lines = [json.dumps(row) for row in part]
            (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n\n")
        if form == "parquet":
            part.to_parquet(folder / f"{name}.parquet")
    return folder


def task_of(folder: Path, **given: Any) -> Task:
    given = {"context": 4, "cache": str(folder.parent / "cache"), **given}
    return build("task", {"name": "text", "path": str(folder), **given})()


def words(tokens: torch.Tensor) -> str:
    return " ".join("-" if t < 0 else WORDS[t] for t in tokens.flatten().tolist())


@pytest.fixture(autouse=True)
def _no_bars() -> Any:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.parametrize("form", ["jsonl", "parquet", "datasets"])
def test_rows_of_tables_are_documents_that_end(tmp_path: Path, form: str) -> None:
    theirs = str(tokenizer(tmp_path / "tokens"))
    task = task_of(write(tmp_path / form, form), tokenizer=theirs)
    train, _, test = task.splits
    whole = " ".join(f"{one} <end>" for one in TEXTS).split()
    assert (
        words(train.take(torch.arange(len(train)))[0]).split() == whole[: 4 * len(train)]
    )
    assert len(test) < len(train)
    assert task.outputs == len(WORDS) + 1
    assert len(task.classes or ()) == len(TEXTS)
    # Every token stands for as many bytes of the texts, ends included.
    held = TEXTS[:12]
    tokens = sum(len(one.split()) + 1 for one in held)
    assert task.token_bytes == sum(len(one) + 1 for one in held) / tokens


def test_a_domain_is_what_splits_divide_by(tmp_path: Path) -> None:
    theirs = str(tokenizer(tmp_path / "tokens"))
    folder = write(tmp_path / "data", "jsonl")
    task = task_of(folder, tokenizer=theirs, domain="kind")
    assert task.classes == ("news", "prose", "verse")
    with pytest.raises(ConfigError, match="names no source in column 'genre'"):
        task_of(folder, tokenizer=theirs, domain="genre")


def test_padded_samples_are_of_one_document_each(tmp_path: Path) -> None:
    theirs = str(tokenizer(tmp_path / "tokens"))
    task = task_of(write(tmp_path / "data", "jsonl"), tokenizer=theirs, fit="pad")
    inputs, targets = task.splits[0].take(torch.arange(5))
    assert [words(one) for one in inputs] == [
        "the cat sat <end>", "on a mat <end>", "a cat <end> <end>", "the mat sat on",
        "the cat on a",
    ]  # fmt: skip
    assert [words(one) for one in targets] == [
        "cat sat <end> -", "a mat <end> -", "cat <end> - -", "mat sat on the", "cat on a mat",
    ]  # fmt: skip
    # The sixth holds the rest of the fourth document: all but the end.
    assert words(task.splits[0].take(torch.tensor([5]))[1]) == "<end> - - -"
    assert isinstance(task.labels, torch.Tensor)
    assert task.labels.bincount().max() == 3
    every = task.splits[0].take(torch.arange(len(task.splits[0])))[1]
    assert (every >= 0).sum() == sum(len(one.split()) for one in TEXTS)


def test_what_a_text_says_ends_no_document(tmp_path: Path) -> None:
    made = folder_tokenizer(tokenizer(tmp_path / "tokens"))
    end = WORDS.index("<end>")
    assert made.end == end
    assert made.encode(f"a cat{END}a{END}").tolist() == [4, 1, end, 4, end]
    assert end not in folder_tokenizer(tmp_path / "tokens").encode("a<end>cat")


def test_plain_files_end_as_well(tmp_path: Path) -> None:
    theirs = str(tokenizer(tmp_path / "tokens"))
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("a.txt", "b.txt", "test.txt"):
        (folder / name).write_text("the cat sat on a mat\n" * 3)
    train = task_of(folder, tokenizer=theirs, fit="pad", context=40).splits[0]
    inputs, targets = train.take(torch.arange(2))
    assert (
        words(inputs[0]).split() == ("the cat sat on a mat " * 3).split() + ["<end>"] * 22
    )
    assert words(targets[1]).split()[17:] == ["<end>", *"-" * 22]


def test_perplexity_is_of_tokens_and_bits_are_of_bytes(tmp_path: Path) -> None:
    theirs = str(tokenizer(tmp_path / "tokens"))
    folder = write(tmp_path / "data", "jsonl")
    task = {"name": "text", "path": str(folder), "tokenizer": theirs, "fit": "pad"}
    task |= {"context": 8, "cache": str(tmp_path / "cache")}
    tiny_run(
        tmp_path / "run", task=task, model="gpt(layers=1, width=8, heads=1)", nodes=2,
        steps=2, metrics=["loss", "perplexity"], split="iid",
    ).run(lambda row: None)  # fmt: skip
    found = Run(tmp_path / "run").summary["final"]
    assert found["perplexity/merged"] == pytest.approx(np.exp(found["loss/merged"]))
    size = task_of(folder, tokenizer=theirs).token_bytes
    assert size is not None
    assert found["bits_per_byte/merged"] == pytest.approx(
        found["loss/merged"] / np.log(2) / size
    )


def written(folder: Path, **given: Any) -> Run:
    """Return a run on a small text, in which a page could take words for tags."""
    (folder / "t.txt").write_text("to be <b>or</b> not to be & more.\n" * 600)
    task = {
        "name": "text",
        "path": str(folder / "t.txt"),
        "context": 8,
        "cache": str(folder),
    }
    settings = {"nodes": 2, "steps": 2, "model": "gpt(layers=1, width=8, heads=1)"}
    place = folder / f"run{len(list(folder.glob('run*')))}"
    seed = given.pop("seed", 0)
    tiny_run(place, task=task | given, seed=seed, **settings).run(lambda row: None)
    return Run(place)


@pytest.mark.parametrize("tokens", ["char", "byte", "bpe"])
def test_the_merged_model_goes_on_with_the_beginnings_of_texts(
    tmp_path: Path, tokens: str
) -> None:
    given = {"tokens": tokens, "vocabulary": 280, "prompts": ["to be <b>", "more"]}
    runs = [written(tmp_path, seed=seed, **given) for seed in (0, 0, 1)]
    one, same, other = (run.summary["generated"] for run in runs)
    assert [text["prompt"] for text in one] == ["to be <b>", "more"]
    assert one == same
    assert [text["text"] for text in one] != [text["text"] for text in other]
    assert all(len(text["text"]) >= 32 for text in one)
    page = runs[0].report().read_text()
    assert "<span>to be &lt;b&gt;</span>" in page
    assert (
        "<b>"
        not in page.partition('class="card generated"')[2].partition("</section>")[0]
    )


def test_samples_begin_as_the_test_does_unless_told_otherwise(tmp_path: Path) -> None:
    run = written(tmp_path, tokens="byte")
    begins = [one["prompt"] for one in run.summary["generated"]]
    whole = (tmp_path / "t.txt").read_text()
    assert len(begins) == 2
    assert all(len(one) == 2 and one in whole for one in begins)
    assert "generated" not in written(tmp_path, tokens="byte", prompts=[]).summary


@pytest.mark.parametrize(("prompt", "said"), [("Zebra", "no 'Z'"), ("", "has no token")])
def test_prompts_of_which_there_are_no_tokens_are_refused(
    tmp_path: Path, prompt: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        written(tmp_path, prompts=[prompt])


def test_generated_text_is_likely_by_the_model(tmp_path: Path) -> None:
    """A model that knows what follows says that: the next token of a cycle."""
    tokens = torch.arange(96) % 3

    class Next(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(60.0))

        def forward(self, read: torch.Tensor) -> torch.Tensor:
            return self.scale * torch.nn.functional.one_hot((read + 1) % 3, 3).float()

    def write(tokens: Any) -> str:
        return "".join("abc"[one] for one in tokens)

    begins = Continued(((0,), tuple(tokens[:11].tolist())), write)
    task = Task(
        model=Next, loss=next_token,
        train=(tokens.view(-1, 6), (tokens + 1).view(-1, 6) % 3), outputs=3,
        continued=begins,
    )  # fmt: skip
    run = launch(task=task, nodes=2, steps=1, split="iid", out=str(tmp_path / "run"))
    one, other = run.summary["generated"]
    assert one == {"prompt": "a", "text": ("bca" * 30)[:64]}
    assert other == {"prompt": "abcabcabcab", "text": ("cab" * 30)[:64]}


# --- encoders ---------------------------------------------------------------------


def encoder(folder: Path) -> Path:
    """Write a tiny BERT and its tokenizer, as people's lie in one folder."""
    transformers: Any = pytest.importorskip("transformers")
    names = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "?", *WORDS[:10]]
    known = {word: place for place, word in enumerate(names)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    about = {
        "pad_token": "[PAD]",
        "sep_token": "[SEP]",
        "mask_token": {"content": "[MASK]"},
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(about | {"cls_token": "[CLS]"})
    )
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "bert", vocab_size=len(names), num_hidden_layers=1, hidden_size=16, pad_token_id=0,
        num_attention_heads=2, intermediate_size=16, max_position_embeddings=8,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    transformers.AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("fit", ["pack", "pad"])
def test_tokens_are_hidden_by_the_seed(tmp_path: Path, fit: str) -> None:
    folder, theirs = write(tmp_path / "data", "jsonl"), encoder(tmp_path / "base")
    given = {"tokenizer": str(theirs), "context": 8, "fit": fit, "masked": 0.3}
    plain = task_of(folder, **given | {"masked": None}).splits[0]
    one, same, other = (task_of(folder, **given, mask_seed=seed) for seed in (1, 1, 2))
    read, targets = one.splits[0].take(torch.arange(len(one.splits[0])))
    whole, following = plain.take(torch.arange(len(plain)))
    assert torch.equal(read, same.splits[0].take(torch.arange(len(read)))[0])
    assert not torch.equal(read, other.splits[0].take(torch.arange(len(read)))[0])
    hidden = targets != -100
    text = whole >= 4
    text[:, 1:] &= following[:, :-1] != -100
    # The targets are what stood there; nothing else has changed, and no end is one.
    assert torch.equal(targets[hidden], whole[hidden])
    assert not (hidden & ~text).any()
    assert bool(hidden.any(1).all())
    share = float(hidden.sum() / text.sum())
    # A short text has more: at least one token of every sample is to be found.
    assert 0.25 < share < (0.35 if fit == "pack" else 0.45)
    assert (read[hidden] == 3).float().mean() == pytest.approx(0.8, abs=0.1)
    same_as_before = (read == whole) | hidden
    if fit == "pad":
        filled = torch.zeros_like(hidden)
        filled[:, 1:] = following[:, :-1] == -100
        assert bool((read[filled] == 0).all())
        same_as_before |= filled
    assert bool(same_as_before.all())


def test_characters_are_hidden_by_one_more(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("abcabcabdabe" * 4000)
    task = task_of(tmp_path / "t.txt", masked=0.15)
    assert task.outputs == 6
    assert int(task.splits[0].take(torch.arange(20))[0].max()) == 5
    assert task.continued is None


@pytest.mark.parametrize("form", ["jsonl", "parquet", "datasets"])
def test_a_column_holds_the_classes_of_texts(tmp_path: Path, form: str) -> None:
    folder, theirs = write(tmp_path / "data", form), encoder(tmp_path / "base")
    task = task_of(folder, tokenizer=str(theirs), context=6, label="kind")
    assert task.classes == ("news", "prose", "verse")
    read, targets = task.splits[0].take(torch.arange(4))
    assert read[0].tolist() == [1, 5, 6, 7, 2, 0]  # [CLS] the cat sat [SEP] [PAD]
    assert read[3].tolist()[-1] == 2  # cut, and still ended
    assert targets.tolist() == [0, 2, 1, 0]
    assert [len(one) for one in task.splits if one is not None] == [120, 12]


@pytest.mark.parametrize(
    ("kind", "name", "rate", "share"),
    [("masked", "hf", 0.03, 0.8), ("classifier", "lora", 0.02, 0.1)],
)
def test_encoders_learn_from_tables(
    tmp_path: Path, kind: str, name: str, rate: float, share: float
) -> None:
    pytest.importorskip("peft")
    folder, theirs = tmp_path / "data", encoder(tmp_path / "base")
    folder.mkdir()
    texts = {"a": "the cat sat on", "b": "brown fox quick The"}
    rows = [{"text": texts[k], "kind": k} for k in "ab" * 40]
    lines = "\n".join(map(json.dumps, rows))
    (folder / "train.jsonl").write_text(lines)
    (folder / "test.jsonl").write_text(lines)
    task = {"name": "text", "path": str(folder), "tokenizer": str(theirs), "context": 8}
    task |= {"label": "kind"} if kind == "classifier" else {"masked": 0.2, "fit": "pad"}
    run = launch(
        task=task | {"cache": str(tmp_path)}, nodes=2, steps=60, batch=8, split="iid",
        model={"name": name, "path": str(theirs), "kind": kind}, learning_rate=rate,
        metrics=["accuracy", "loss"], eval_every=60, out=str(tmp_path / "run"),
    )  # fmt: skip
    assert run.summary["final"]["loss/merged"] < share * run.rows[0]["loss/merged"]
