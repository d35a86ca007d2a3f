"""Data as people hold it: whatever holds the same samples makes the same task."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from PIL import Image
from support import tiny_setup
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from decentral import ConfigError, Task
from decentral.config import Config, make_config
from decentral.loop.models import check_evaluation
from decentral.pytree import leaves

M = 40
X = torch.randn(M, 3, generator=torch.Generator().manual_seed(1))
Y = torch.arange(M) % 4
NAMES = ["east", "north", "south", "west"]


class Pairs(Dataset[Any]):
    """A map-style data set of torch."""

    def __len__(self) -> int:
        return M

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= M:
            raise IndexError(index)
        return X[index], int(Y[index])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[dict[str, Any]]:
        for x, y in zip(X, Y, strict=True):
            yield {"x": x.numpy(), "label": int(y)}


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {**dict(zip("abc", X.T.numpy(), strict=True)), "label": Y.numpy()}
    )


def hub() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"x": X.tolist(), "label": Y.tolist()})


def lists(items: list[Any]) -> tuple[Tensor, Tensor]:
    """Collate as people do."""
    return torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])


HELD: dict[str, Callable[[], Any]] = {
    "tensors": lambda: (X, Y),
    "a list of tensors": lambda: [X, Y],
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "arrays of other types": lambda: (X.double().numpy(), Y.numpy().astype(">i2")),
    "read-only and reversed": lambda: (
        np.flip(np.flip(X.numpy(), 0), 0),
        np.array(Y.numpy()),
    ),
    "lists of numbers": lambda: (X.tolist(), Y.tolist()),
    "sparse": lambda: (scipy.sparse.csr_matrix(X.numpy()), Y.numpy()),
    "frame and series": lambda: (frame().drop(columns="label"), frame()["label"]),
    "frame": frame,
    "frame of nullable numbers": lambda: frame().convert_dtypes(),
    "table": lambda: pa.Table.from_pandas(frame()),
    "columns": lambda: {"x": X.numpy(), "y": Y.tolist()},
    "hub": hub,
    "hub as torch": lambda: hub().with_format("torch"),
    "hub with a transform": lambda: hub().with_transform(
        lambda some: {"x": [torch.tensor(x) for x in some["x"]], "label": some["label"]}
    ),
    "hub as a stream": lambda: hub().to_iterable_dataset(),
    "tensor data set": lambda: TensorDataset(X, Y),
    "subset": lambda: Subset(TensorDataset(X, Y), range(M)),
    "map-style": Pairs,
    "stream": Stream,
    "generator": lambda: ((x, y) for x, y in zip(X, Y, strict=True)),
    "pairs": lambda: list(zip(X, Y, strict=True)),
    "mappings": lambda: [{"x": x, "target": y} for x, y in zip(X, Y, strict=True)],
    "loader": lambda: DataLoader(Pairs(), batch_size=7, shuffle=True),
    "loader that collates": lambda: DataLoader(Pairs(), batch_size=7, collate_fn=lists),
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=7),
    "loader of batches": lambda: DataLoader(
        [(X[:25], Y[:25]), (X[25:], Y[25:])],
        batch_size=None,
        collate_fn=lambda batch: batch,
    ),
    "loader of a part": lambda: DataLoader(
        Pairs(), sampler=SubsetRandomSampler(list(range(M)))
    ),
    "names of classes": lambda: (X, [NAMES[y] for y in Y]),
    "frame with names of classes": lambda: frame().assign(
        label=pd.Categorical([NAMES[y] for y in Y])
    ),
    "nodes by number": lambda: {0: (X[:30], Y[:30]), 1: (X[30:], Y[30:])},
    "nodes in a list": lambda: [TensorDataset(X[:30], Y[:30]), frame().iloc[30:]],
}


@pytest.mark.parametrize("held", HELD)
def test_whatever_holds_the_same_samples_makes_the_same_task(held: str) -> None:
    task = Task(loss=F.cross_entropy, train=HELD[held](), test=(X, Y))
    train, _, test = task.splits
    assert torch.equal(train.inputs.float(), X)
    assert torch.equal(train.targets.long(), Y)
    assert torch.equal(test.inputs, X)
    assert (task.outputs, task.gives) == (4, "numbers")
    assert task.classes == (tuple(NAMES) if "names" in held else ("0", "1", "2", "3"))
    assert task.nodes == (2 if "nodes" in held else None)


@pytest.mark.parametrize(
    "held", ["map-style", "hub", "names of classes", "nodes in a list"]
)
def test_what_is_held_so_trains(held: str) -> None:
    task = Task(loss=F.cross_entropy, train=HELD[held](), test=(X, Y))
    assert make_config({"task": task}).nodes == (task.nodes or Config().nodes)
    assert tiny_setup(task=task, nodes=task.nodes or 4).counts.sum() == M


# --- several inputs, targets by name, samples that are their own targets --------------------------


def test_several_inputs_keep_their_order_and_their_names() -> None:
    ids, mask = torch.arange(M * 2).view(M, 2), torch.ones(M, 2)
    by_name = {"input_ids": ids, "attention_mask": mask, "labels": Y}
    rows = [{key: value[i] for key, value in by_name.items()} for i in range(M)]
    for train in (by_name, rows, datasets.Dataset.from_dict(
        {k: v.tolist() for k, v in by_name.items()}
    )):  # fmt: skip
        task = Task(loss=F.cross_entropy, train=train, test=train)
        inputs = task.splits[0].inputs
        assert list(inputs) == ["input_ids", "attention_mask"]
        assert torch.equal(inputs["input_ids"], ids)
        assert (task.gives, task.outputs) == ("several inputs", 4)
    triples = [(x, m, y) for x, m, y in zip(ids, mask, Y, strict=True)]
    for train in ((ids, mask, Y), TensorDataset(ids, mask, Y), triples, ((ids, mask), Y)):
        task = Task(loss=F.cross_entropy, train=train, test=train)
        first, second = task.splits[0].inputs
        assert torch.equal(first, ids)
        assert torch.equal(second, mask)


def test_without_targets_the_inputs_are_the_targets() -> None:
    for train in (X, X.numpy(), TensorDataset(X), [(x,) for x in X], list(X)):
        task = Task(loss=F.mse_loss, train=train, test=train)
        assert torch.equal(task.splits[0].targets, X)
        assert "train holds no targets: a model is to return its inputs." in task.notes


def test_the_target_of_a_table_may_have_any_name_and_owners_may_be_a_column() -> None:
    table = frame().rename(columns={"label": "price"})
    table["user"] = [f"u{i % 3}" for i in range(M)]
    table["price"] = table["price"] * 0.5
    task = Task(loss=F.mse_loss, train=table, test=table, target="price", owners="user")
    assert task.splits[0].inputs.shape == (M, 3)
    assert task.owners.tolist() == [i % 3 for i in range(M)]
    assert "the nodes are the 3 owners, u0 is node 0, u1 is 1, u2 is 2." in task.notes
    assert tiny_setup(task=task, nodes=3).counts.sum() == M
    with pytest.raises(ConfigError, match="owned by 3 nodes; leave nodes out"):
        tiny_setup(task=task, nodes=2)


def test_images_of_pillow_become_what_torchvision_makes_of_them() -> None:
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    pictures = [Image.fromarray(one) for one in pixels]
    rows = datasets.Dataset.from_dict(
        {"image": pictures, "label": [0, 1]},
        features=datasets.Features(
            {"image": datasets.Image(), "label": datasets.Value("int64")}
        ),
    )
    for train in ([(pictures[0], 0), (pictures[1], 1)], rows):
        task = Task(loss=F.cross_entropy, train=train, test=train)
        wanted = torch.from_numpy(pixels).movedim(-1, 1) / 255
        torch.testing.assert_close(task.splits[0].inputs, wanted)


def test_what_is_read_once_is_said() -> None:
    def noisy() -> Dataset[Any]:
        class Noisy(Pairs):
            def __getitem__(self, index: int) -> tuple[Tensor, int]:
                x, y = super().__getitem__(index)
                return x + torch.rand(3), y

        return Noisy()

    task = Task(loss=F.cross_entropy, train=noisy(), test=Pairs())
    assert task.notes == (
        "train: 40 samples of Noisy, read once, take 800 B.",
        "train: a sample differs from one reading to the next, and was read once.",
        "test: 40 samples of Pairs, read once, take 800 B.",
    )
    task = Task(loss=F.cross_entropy, train=Stream(), test=(X, Y), stream=10)
    assert len(task.splits[0]) == 10
    assert "the first 10 samples of a stream were read" in task.notes[0]


# --- what is held out -----------------------------------------------------------------------------


def test_a_fifth_of_every_class_is_held_out_where_labels_are_sorted() -> None:
    x, y = torch.randn(100, 4), torch.arange(100) // 10
    task = Task(loss=F.cross_entropy, train=(x, y))
    train, _, test = task.splits
    assert torch.bincount(test.targets).tolist() == [2] * 10
    assert torch.bincount(train.targets).tolist() == [8] * 10
    both = torch.cat([train.inputs, test.inputs])
    assert torch.equal(both.sort(0).values, x.sort(0).values)
    again = Task(loss=F.cross_entropy, train=(x, y))
    assert torch.equal(again.splits[2].inputs, test.inputs)
    other = Task(loss=F.cross_entropy, train=(x, y), seed=1)
    assert not torch.equal(other.splits[2].inputs, test.inputs)
    (note,) = task.notes
    assert (
        "20 of 100 training samples are held out, drawn by seed 0 of every class." in note
    )


def test_what_is_held_out_takes_its_owner_and_label_along() -> None:
    owners, groups = torch.arange(60) // 15, torch.arange(60) % 2
    x = torch.stack([owners, groups], 1).float()
    task = Task(loss=F.mse_loss, train=(x, x[:, :1]), owners=owners, labels=groups)
    train, _, test = task.splits
    assert torch.equal(train.inputs[:, 0].long(), task.owners)
    assert torch.equal(train.inputs[:, 1].long(), task.labels)
    assert torch.bincount(test.inputs[:, 0].long()).tolist() == [3] * 4
    assert torch.equal(replace(task, notes=()).owners, task.owners)


# --- classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [range(1, 27), [3, 900_000], [-1, 1]])
def test_classes_are_the_labels_that_occur(labels: Any) -> None:
    known = torch.tensor(list(labels))
    y = known.repeat(4)
    task = Task(loss=F.cross_entropy, train=(torch.randn(len(y), 3), y))
    assert task.outputs == len(known)
    assert task.classes == tuple(map(str, known.tolist()))
    assert torch.equal(torch.unique(task.splits[0].targets), torch.arange(len(known)))
    assert any(
        f"classes are the {len(known)} labels that occur" in note for note in task.notes
    )
    setup = tiny_setup(task=task, split="dirichlet")
    assert setup.counts.shape == (4, len(known))


def test_a_model_of_ones_own_gets_the_labels_as_they_are() -> None:
    y = torch.arange(1, 27).repeat(4)
    task = Task(loss=F.cross_entropy, train=(torch.randn(len(y), 3), y))
    for setup in (
        tiny_setup(task=replace(task, train=(task.splits[0].inputs, y[: len(task.labels)]),
                                classes=None, labels=None, outputs=0, numbered=None,
                                model=lambda: nn.Linear(3, 27))),
        tiny_setup(task=task, model=lambda: nn.Linear(3, 27)),
    ):  # fmt: skip
        assert torch.unique(setup.task.splits[0].targets).tolist() == list(range(1, 27))
        assert setup.counts.shape == (4, 26)
        assert setup.task.outputs == 27


def test_regression_to_whole_numbers_by_an_own_model_is_left_alone() -> None:
    y = torch.randint(18, 90, (40,))
    task = Task(loss=lambda o, t: F.poisson_nll_loss(o.squeeze(1), t.float()),
                train=(torch.randn(40, 3), y), model=lambda: nn.Linear(3, 1))  # fmt: skip
    values = torch.cat([one.targets for one in (task.splits[0], task.splits[2])])
    assert torch.equal(values.sort().values, y.sort().values)


# --- targets that are ignored, numbers that are none ----------------------------------------------


def wrapped(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


def of_sequences(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize(
    ("loss", "shape", "found"),
    [
        (wrapped, (8,), -100),
        (lambda o, t: F.cross_entropy(o, t, label_smoothing=0.1), (8,), -100),
        (of_sequences, (8, 5), -100),
        (lambda o, t: F.cross_entropy(o.movedim(-1, 1), t), (8, 5), -100),
        (wrapped, (8, 5), -100),
        # A number like any other, and a loss that takes all samples to be classes.
        (lambda o, t: (o - t.unsqueeze(-1)).square().mean(), (8,), None),
        (lambda o, t: F.mse_loss(o.squeeze(-1), t.float()), (8,), None),
    ],
)
def test_a_loss_of_ones_own_is_asked_what_it_ignores(
    loss: Any, shape: tuple[int, ...], found: int | None
) -> None:
    y = torch.arange(40).view(8, 5)[:, : shape[1] if len(shape) > 1 else 1] % 3
    y = y.reshape(shape).clone()
    y[::4] = -100
    y[1] = 2
    task = Task(train=(torch.zeros(8, 4), y), test=(torch.zeros(8, 4), y), loss=loss,
                model=lambda: nn.Linear(4, 3), classes=None)  # fmt: skip
    assert task.ignore_index == found


@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(ignore_index=3)])
def test_ignored_targets_count_in_no_metric(loss: Any) -> None:
    ignored = 3 if isinstance(loss, nn.Module) else -100
    y = torch.arange(M) % 3
    x = F.one_hot(y, 4).float() * 5
    y[::4] = ignored
    task = Task(loss=loss, train=(x, y), test=(x, y), model=nn.Identity,
                labels=torch.arange(M) % 2, owners=torch.arange(M) % 4)  # fmt: skip
    assert (task.ignore_index, len(task.splits[0]), len(task.splits[2])) == (
        ignored,
        30,
        30,
    )
    assert (len(task.labels), len(task.owners)) == (30, 30)
    assert "train: 10 samples without a target that counts are left out." in task.notes
    outputs = task.splits[2].inputs
    assert task.accuracy is not None
    assert task.accuracy(outputs, task.splits[2].targets).mean() == 1


class Tagger(nn.Module):
    """Tells the tag of every word from the word alone, or that it is tag 1."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(x.clamp_max(1), 3).float().movedim(-1, 1) * 9 * self.scale


@pytest.mark.parametrize("chunk", [7, 512])
def test_scores_are_means_over_the_targets_that_count(chunk: int) -> None:
    """Of all samples together, as torch computes them on the labelled ones, in any chunks."""
    from decentral.metrics.base import score

    words = torch.randint(0, 3, (M, 6), generator=torch.Generator().manual_seed(2))
    tags = torch.where(torch.rand(M, 6, generator=torch.Generator().manual_seed(3)) < 0.6,
                       words, -100)  # fmt: skip
    tags[:, 0], tags[5] = words[:, 0], -100
    task = Task(
        loss=F.cross_entropy, train=(words, tags), test=(words, tags), model=Tagger
    )
    kept = tags != -100
    right = (words.clamp_max(1) == tags)[kept].double().mean()
    model = Tagger()

    def forward(rows: Tensor, integers: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return model(inputs).unsqueeze(0).expand(len(rows), -1, -1, -1)

    found = score(task, forward, torch.zeros(2, 1), {}, task.splits[2], (1, chunk))
    assert found.accuracy is not None
    torch.testing.assert_close(found.accuracy, torch.stack([right, right]))
    wanted = F.cross_entropy(model(words), tags).double().detach()
    torch.testing.assert_close(
        found.loss, torch.stack([wanted, wanted]), rtol=1e-6, atol=0
    )


def test_no_chunk_of_an_evaluation_holds_one_sample() -> None:
    task = Task(loss=F.cross_entropy, train=(X, Y), test=(X, Y))
    for size, wanted in (
        (13, [13, 13, 12, 2]),
        (20, [20, 20]),
        (39, [38, 2]),
        (1, [1] * 40),
    ):
        sizes = [len(inputs) for inputs, _ in task.splits[2].chunks(size)]
        assert sizes == wanted
    inputs = torch.cat([inputs for inputs, _ in task.splits[2].chunks(13)])
    assert torch.equal(inputs, X)


def test_a_mask_of_infinity_among_several_inputs_is_no_mistake() -> None:
    mask = torch.zeros(M, 3)
    mask[:, 1] = -torch.inf
    task = Task(loss=F.cross_entropy, train=(X, mask, Y), test=(X, mask, Y))
    assert [leaf.shape for leaf in leaves(task.splits[0].inputs)] == [(M, 3), (M, 3)]


def test_pandas_and_the_rest_are_not_needed() -> None:
    """Reading tensors imports none of the libraries whose types are known."""
    import subprocess
    import sys

    code = (
        "import sys, torch\nfrom decentral import Task\n"
        "Task(loss=torch.nn.functional.mse_loss, train=(torch.zeros(9, 2), torch.zeros(9)))\n"
        "print({'pandas', 'datasets', 'pyarrow', 'PIL', 'polars'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def unlike(**other: Tensor) -> Task:
    """Return a task whose test or validation samples are of another form."""
    splits = {"test": (X[:5], Y[:5])} | {k: (v, Y[: len(v)]) for k, v in other.items()}
    return Task(F.cross_entropy, (X, Y), **splits, model=lambda: nn.Linear(3, 4))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (lambda: unlike(test=torch.zeros(5, 4)), "test inputs [4] of float32"),
        (lambda: unlike(val=torch.zeros(5, 4)), "val inputs [4] of float32"),
        (
            lambda: unlike(test=torch.zeros(5, 3, dtype=torch.long)),
            "test inputs [3] of int64",
        ),
    ],
    ids=["test", "val", "another type"],
)
def test_samples_of_another_form_that_the_model_cannot_take_are_refused(
    task: Callable[[], Task], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        try_task(task())
    text = str(caught.value)
    assert f"fails on {said}, where those of train are [3] of float32" in text
    assert len(text.splitlines()) == 1


def test_samples_of_another_length_are_taken_by_a_model_that_takes_any() -> None:
    train, test = (torch.randint(0, 9, (M, length)) for length in (7, 4))
    made = Task(
        F.cross_entropy, (train, Y), (test, Y),
        model=lambda: nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 4)),
    )  # fmt: skip
    try_task(made)


def try_task(task: Task) -> None:
    """Try a task, as a run does before its first step."""
    setup = tiny_setup(task=task)
    check_evaluation(setup.model, setup.task)


# --- tables and loaders that are seldom seen ------------------------------------------------------


def table() -> pd.DataFrame:
    return pd.DataFrame({"a": range(10), "b": 1.5, "y": range(10), "z": 0.5})


def linear() -> nn.Module:
    return nn.Linear(2, 2)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_several_columns_may_be_targets(one_by_one: bool) -> None:
    train: Any = table().to_dict("records") if one_by_one else table()
    task = Task(train=train, test=train, target=["z", "y"], loss=F.mse_loss, model=linear)
    assert task.train.targets.tolist() == [[0.5, float(y)] for y in range(10)]
    with pytest.raises(ConfigError, match="train has no 'x'"):
        Task(train=train, target=["y", "x"], loss=F.mse_loss, model=linear)


def test_a_column_of_text_is_none_of_several_targets() -> None:
    text = table().assign(y="a")
    with pytest.raises(
        ConfigError, match="column 'y' is one of several targets, and holds"
    ):
        Task(train=text, target=["z", "y"], loss=F.mse_loss, model=linear)


def test_two_columns_of_one_name_are_refused() -> None:
    twice = pd.concat([table(), table()[["a"]]], axis=1)
    with pytest.raises(ConfigError, match="train has two columns 'a'; rename one"):
        Task(train=twice, target="y", loss=F.mse_loss, model=linear)


def test_masked_entries_are_no_numbers() -> None:
    x = np.arange(20.0).reshape(10, 2)
    held = np.ma.masked_greater(x, 18)
    with pytest.raises(ConfigError, match="inputs holds masked entries; fill them in"):
        Task(train=(held, x), loss=F.mse_loss, model=linear)
    whole = Task(train=(np.ma.masked_greater(x, 99), x), loss=F.mse_loss, model=linear)
    assert len(whole.train) == 8


def test_a_loader_without_batches_may_read_samples() -> None:
    x, y = torch.randn(10, 2), torch.arange(10) % 2
    loader = DataLoader(TensorDataset(x, y), batch_size=None)
    task = Task(train=loader, test=(x, y), loss=F.cross_entropy, model=linear)
    assert torch.equal(task.train.inputs, x)
    assert torch.equal(task.train.targets, y)
