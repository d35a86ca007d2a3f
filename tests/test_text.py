"""Text: what is held out, what a sample is, and whose it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_block

from decentral import ConfigError
from decentral.loop.pipeline import change_targets
from decentral.registry import build
from decentral.tasks import Task
from decentral.tasks.corpus import CHUNK, segments, topics
from decentral.tasks.text import next_token
from decentral.tasks.tokens import characters, octets

WORDS = "Pfalz, Ägypten, 東京 and 🦊: "


def task_of(path: Path, **given: object) -> Task:
    return build(
        "task", {"name": "text", "path": str(path), "cache": str(path.parent), **given}
    )()


@given(
    sizes=st.lists(st.integers(1, 45_000), min_size=1, max_size=6),
    val=st.sampled_from([0.0, 0.05, 0.3]),
)
@settings(max_examples=25)
def test_the_last_tenth_of_every_chunk_is_for_the_test(
    sizes: list[int], val: float
) -> None:
    """Wherever sources begin: a character's place in the whole decides."""
    pieces = [(str(k), chr(97 + k) * size) for k, size in enumerate(sizes)]
    cut = list(segments(pieces, val))
    whole = "".join(piece for _, piece in pieces)
    assert "".join(segment.text for segment in cut) == whole
    at = 0
    for segment in cut:
        first, last = at % CHUNK, (at + len(segment.text) - 1) % CHUNK
        assert segment.chunk == at // CHUNK == (at + len(segment.text) - 1) // CHUNK
        assert segment.source == str(ord(segment.text[0]) - 97)
        kept = 18_000 * (1 - val)
        spans = {"train": (0, kept), "val": (kept, 18_000), "test": (18_000, CHUNK)}
        low, high = spans[segment.split]
        assert low <= first <= last < high
        at += len(segment.text)


@pytest.mark.parametrize("make", [characters, octets])
def test_tokens_tell_everything_and_stay_below_their_number(make: object) -> None:
    text = WORDS if make is characters else WORDS.encode().decode("latin-1")
    tokenizer = make([("", text)])
    tokens = tokenizer.encode(text)
    pairs = dict(zip(tokens.tolist(), text, strict=True))
    assert "".join(pairs[t] for t in tokens.tolist()) == text
    assert 0 <= tokens.min() <= tokens.max() < tokenizer.size


def test_the_default_text_is_that_of_the_language_reference() -> None:
    task = build("task", "text")()
    text = "".join(piece for _, piece in topics())
    train, _, test = task.splits
    assert task.outputs == len(set(text))
    assert abs(len(train) * 64 - 0.9 * len(text)) < 2_500
    assert abs(len(test) * 64 - 0.1 * len(text)) < 2_500
    inputs, targets = train.take(torch.arange(3))
    known = sorted(set(text))
    assert "".join(known[t] for t in inputs.flatten()) == text[:192]
    assert "".join(known[t] for t in targets.flatten()) == text[1:193]


def test_targets_are_the_tokens_that_follow_also_with_a_stride(tmp_path: Path) -> None:
    file = tmp_path / "numbers.txt"
    file.write_bytes(bytes(range(256)) * 200)
    task = task_of(file, tokens="byte", context=10, stride=3)
    inputs, targets = task.splits[0].take(torch.tensor([[0, 1], [2, 3]]))
    assert inputs[:, :, 0].tolist() == [[0, 3], [6, 9]]
    assert torch.equal(targets, inputs + 1)
    assert task.outputs == 256


def test_a_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("some words " * 4_000)
    task = task_of(file)
    (made,) = tmp_path.glob("text-*")
    tokens = np.fromfile(made / "train.bin", np.int32)
    inputs = task.splits[0].inputs
    assert inputs.untyped_storage().nbytes() == (made / "train.bin").stat().st_size
    assert np.array_equal(inputs.flatten(), tokens[: inputs.numel()])
    assert inputs.dtype == torch.int32
    assert task.splits[0].first.dtype == torch.int64


def test_another_text_in_the_same_file_is_encoded_anew(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    sizes = []
    for word in ("abc ", "abcde "):
        file.write_text(word * 6_000)
        sizes.append(task_of(file).outputs)
    assert sizes == [4, 6]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ("a.txt", "b.txt")),
        ({"by": "chunk"}, ("0", "1")),
        ({"separator": "= ", "context": 5}, ("a.txt:0", "b.txt:1", "b.txt:2")),
    ],
)
def test_samples_belong_to_the_source_of_their_first_token(
    tmp_path: Path, given: dict[str, object], names: tuple[str, ...]
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("a" * 15_000)
    (folder / "b.txt").write_text("= one\n" + "b" * 8_000 + "\n= two\n" + "c" * 8_000)
    task = task_of(folder, **given)
    assert task.classes == names
    assert task.labels is not None
    firsts = "=abc"
    for letter, label in (("a", 0), ("c", len(names) - 1)):
        known = sorted(set("= one\n= two\nabc")).index(letter)
        here = task.splits[0].inputs[:, 0] == known
        if given.get("by") != "chunk":
            assert set(task.labels[here].tolist()) == {label}, firsts


def test_the_loss_is_in_nats_per_token() -> None:
    outputs, targets = torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5))
    each = -outputs.log_softmax(-1).gather(-1, targets.unsqueeze(-1))
    torch.testing.assert_close(next_token(outputs, targets), each.mean())


def test_a_gpt_of_the_literature_has_as_many_parameters_and_looks_back_only() -> None:
    """Width 64, 2 layers, 103 symbols, context 64: 115,648 (LLaMA-like, learned positions)."""
    torch.manual_seed(0)
    model = build("model", "gpt")((64,), 103)
    assert sum(p.numel() for p in model.parameters()) == 115_648
    tied = build("model", "gpt(tied=true)")((64,), 103)
    assert sum(p.numel() for p in tied.parameters()) == 115_648 - 103 * 64
    tokens = torch.randint(0, 103, (2, 64))
    changed = tokens.clone()
    changed[:, 40:] = (changed[:, 40:] + 1) % 103
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :40], after[:, :40])
    assert not torch.isclose(before[:, 40:], after[:, 40:]).all(-1).any()


def test_byte_pairs_are_learned_from_training_text_and_tell_everything(
    tmp_path: Path,
) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    file = tmp_path / "words.txt"
    file.write_text(WORDS * 2_000)
    task = task_of(file, tokens="bpe", vocabulary=300, context=8)
    (made,) = tmp_path.glob("text-*")
    learned = tokenizers.Tokenizer.from_file(str(made / "tokenizer.json"))
    assert 256 < task.outputs == learned.get_vocab_size() <= 300
    tokens = np.fromfile(made / "train.bin", np.int32)
    assert tokens.max() < task.outputs
    assert len(tokens) < len((WORDS * 1_800).encode()) / 2
    first = "".join(learned.id_to_token(t) for t in tokens[:40])
    decoder = tokenizers.decoders.ByteLevel()
    assert (WORDS * 20).startswith(decoder.decode([first]).rstrip("\ufffd"))
    assert tokens.tolist() == np.fromfile(made / "train.bin", np.int32).tolist()


def test_methods_that_change_targets_change_tokens() -> None:
    """Noise redraws every token by itself, smoothing spreads over the vocabulary."""
    block = tiny_block(
        task="text(context=16)", model="gpt(layers=1, width=8, heads=2)", nodes=2, batch=4,
        label_noise={"level": 0.5}, label_smoothing=0.1,
    )  # fmt: skip
    setup = block.setup
    batch = block.sampler.batch(0, 4)
    changed = change_targets(
        setup.config, setup.task, batch.targets, batch.keys, noisy=True
    )
    assert changed.shape == (2, 4, 16, setup.task.outputs)
    torch.testing.assert_close(changed.sum(-1), torch.ones(2, 4, 16))
    kept = (changed.argmax(-1) == batch.targets).double().mean()
    assert kept == pytest.approx(0.5, abs=0.15)
    block.gradient()
    assert torch.isfinite(block.grads).all()


# --- the hub --------------------------------------------------------------------------------------


def documents_of(folder: Path, **given: object) -> Task:
    settings = {
        "name": "text",
        "cache": str(folder),
        "by": "source",
        "context": 5,
        **given,
    }
    return build("task", settings)()


@pytest.mark.parametrize(
    ("path", "loaded"),
    [
        ("hf://owner/name", ("owner/name",)),
        ("hf://owner/name/2024", ("owner/name", "2024")),
    ],
)
def test_documents_of_the_hub_are_streamed_and_kept(
    tmp_path: Path, path: str, loaded: tuple[str, ...]
) -> None:
    rows = [{"story": letter * 9_000} for letter in "abcd"]
    with mock.patch.dict(sys.modules, {"datasets": mock.MagicMock()}) as modules:
        load = modules["datasets"].load_dataset
        load.return_value.take.side_effect = lambda count: rows[:count]
        task = documents_of(tmp_path, path=path, column="story", documents=3)
        load.assert_called_with(*loaded, split="train", streaming=True)
        calls = load.call_count
        documents_of(tmp_path, path=path, column="story", documents=3)
        assert load.call_count == calls, "the second time nothing is loaded"
    assert task.classes == ("0", "1", "2")
    assert task.outputs == len("abc\n")


@pytest.mark.needs("datasets")
def test_the_loader_of_datasets_reads_documents(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"document {k} " * 300}) for k in range(12)]
    (tmp_path / "stories").mkdir()
    (tmp_path / "stories" / "train.jsonl").write_text("\n".join(lines))
    task = documents_of(tmp_path, path=f"hf://{tmp_path}/stories", documents=8)
    assert len(task.classes or ()) == 8
    inputs, _ = task.splits[0].take(torch.arange(1))
    assert inputs.shape == (1, 5)


@pytest.mark.needs("datasets")
def test_splits_of_the_hub_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training, validation and test by their names; validation is the test without one."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hub"))
    (tmp_path / "all").mkdir()
    for letter, split in zip("abc", ("train", "validation", "test"), strict=True):
        for home in ("all", "few"):
            if home == "all" or split != "test":
                (tmp_path / home).mkdir(exist_ok=True)
                lines = [json.dumps({"text": letter * 3000})] * 4
                (tmp_path / home / f"{split}.jsonl").write_text("\n".join(lines))
    for home, letters in (("all", "abc"), ("few", "ab")):
        task = documents_of(tmp_path, path=f"hf://{tmp_path}/{home}", documents=4)
        known = "\n" + letters
        there = [samples for samples in task.splits if samples is not None]
        for samples, letter in zip(there, letters, strict=True):
            inputs, _ = samples.take(torch.arange(len(samples)))
            assert {known[int(k)] for k in inputs.unique()} <= {"\n", letter}


# --- held-out files -------------------------------------------------------------------------------


def write(folder: Path, *names: str) -> Path:
    """Write texts of one letter each, a, b, c, ..., 19,000 of them."""
    for place, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(chr(97 + place) * 19_000)
    return folder


def letters(samples: object, task: Task) -> set[str]:
    """Return the letters that samples are made of: tokens are numbered in their order."""
    whole = sorted(
        {int(token) for part in task.splits if part for token in part.inputs.unique()}
    )
    return {chr(97 + whole.index(int(token))) for token in samples.inputs.unique()}


def test_text_for_the_test_is_not_trained_on(tmp_path: Path) -> None:
    """With it all of the rest is for training, but the share for validation."""
    write(tmp_path, "one.txt", "other/two.txt")
    task = task_of(tmp_path / "one.txt", test=str(tmp_path / "other"), context=10)
    assert (letters(task.train, task), letters(task.test, task)) == ({"a"}, {"b"})
    assert task.val is None
    assert (len(task.train), len(task.test)) == (1899, 1899)
    shared = task_of(
        tmp_path / "one.txt", test=str(tmp_path / "other"), context=10, val=0.5
    )
    assert letters(shared.val, shared) == {"a"}
    default = task_of(tmp_path / "one.txt", context=10)
    assert default.notes == ()
    reference = build("task", {"name": "text", "test": str(tmp_path / "one.txt"), "context": 10,
                               "cache": str(tmp_path)})()  # fmt: skip
    assert len(reference.test) == 1899


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("train.txt", "valid.txt", "test.txt"), ("a", "b", "c")),
        (("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"), ("a", "b", "c")),
        (("train/x.txt", "dev/x.txt", "test/x.txt"), ("a", "b", "c")),
        (("book.txt", "poems_test.txt"), ("a", "", "b")),
        (("book.txt", "validation.txt"), ("a", "", "b")),
        (("train.txt", "README.md", "test.txt"), ("a", "", "c")),
        (("contest.txt", "latest.txt"), ("ab", "", "")),
    ],
)
def test_names_in_a_folder_tell_the_splits(
    tmp_path: Path, names: tuple[str, ...], wanted: tuple[str, str, str]
) -> None:
    folder = write(tmp_path / "text", *names)
    task = build("task", {"name": "text", "path": str(folder), "cache": str(tmp_path),
                          "context": 10, "by": "source"})()  # fmt: skip
    train, val, test = task.splits
    if not wanted[2]:  # parts of chunks are held out
        assert task.notes == ()
        assert set(task.classes or ()) == {"contest.txt", "latest.txt"}
        return
    assert letters(train, task) == set(wanted[0]) or "c" in wanted[2]
    assert task.classes == tuple(Path(names[k]).name for k in range(len(wanted[0])))
    assert (val is not None) is bool(wanted[1])
    assert len(test) == 1899
    assert any("which is not trained on" in note for note in task.notes)
    assert any("left aside" in note and "README.md" in note for note in task.notes) is (
        "README.md" in names
    )


@pytest.mark.parametrize(
    ("names", "settings", "said"),
    [
        (("test.txt", "valid.txt"), {}, "all files in .* are called test or validation"),
        (
            ("train.txt", "valid.txt", "test.txt"),
            {"val": 0.1},
            "has files for validation",
        ),
        (("train.txt",), {"test": "train.txt"}, "is both for training and for the test"),
        (
            ("train.txt",),
            {"test": "nowhere"},
            "nowhere: there is no such file or folder; check test=",
        ),
    ],
)
def test_what_would_mix_splits_is_refused(
    tmp_path: Path, names: tuple[str, ...], settings: dict[str, object], said: str
) -> None:
    folder = write(tmp_path / "text", *names)
    given = {k: str(folder / v) if k == "test" else v for k, v in settings.items()}
    with pytest.raises(ConfigError, match=said):
        build(
            "task", {"name": "text", "path": str(folder), "cache": str(tmp_path), **given}
        )()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of git-LFS"),
        (b"PAR1 and so on", "is a parquet table; call it"),
        (b"\x1f\x8b\x08 and so on", "is compressed; unpack it"),
        (b"plain \xff", r"is not UTF-8 \(byte 0xff\); use tokens=byte"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ConfigError, match=rf"a\.txt {said}"):
        task_of(tmp_path / "a.txt")
