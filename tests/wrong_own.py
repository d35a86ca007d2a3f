"""What can be wrong with data and models of one's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import datasets
import networkx as nx
import numpy as np
import pandas as pd
import pytest
import torch
from support import tiny_block, tiny_setup, trained
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from zoo import ZOO

import decentral
from decentral import Task
from decentral.blame import reraise
from decentral.config import make_config
from decentral.merging.vectors import slerp_weights

M = 12
X = torch.linspace(-1, 1, M * 3).view(M, 3)
Y = torch.arange(M) % 4
NAMES = ("east", "north", "south", "west")


class Pairs(Dataset[Any]):
    """A map-style data set whose third sample cannot be read, if it is ``broken``."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def __len__(self) -> int:
        return M

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.broken and index == 2:
            raise OSError("disk on fire")
        return X[index], int(Y[index])


def frame(**columns: Any) -> pd.DataFrame:
    parts = dict(zip("abc", X.T.numpy(), strict=True))
    return pd.DataFrame({**parts, "label": Y.numpy(), **columns})


def missing(place: int, value: float = float("nan")) -> Tensor:
    x = X.clone()
    x[place, 1] = value
    return x


def collating(wrong: Any) -> DataLoader[Any]:
    return DataLoader(Pairs(), collate_fn=lambda items: wrong)


def otherwise() -> Any:
    """Go on with another list of metrics than the run has."""
    own = {"task": "quadratic", "nodes": 2, "steps": 4, "out": "measured"}
    with pytest.raises(KeyboardInterrupt):
        decentral.launch(
            **own,
            checkpoint_every=1,
            metrics=["loss", lambda snapshot: {"own/one": 1.0}],
            watch=_stop,
        )
    decentral.resume("measured", metrics=["loss"])


def _stop(row: dict[str, Any]) -> None:
    raise KeyboardInterrupt


def splits() -> Any:
    hub = datasets.Dataset.from_dict({"x": X.tolist(), "label": Y.tolist()})
    return datasets.DatasetDict({"train": hub, "test": hub})


READ: dict[str, Callable[[], Any]] = {
    "nan": lambda: (missing(7), Y),
    "infinite": lambda: (missing(7, np.inf), Y),
    "nan in a column": lambda: frame(b=missing(3)[:, 1].numpy()),
    "missing in a column": lambda: frame(b=pd.array([None, *range(M - 1)], dtype="Int64")),
    "objects in a column": lambda: frame(b=pd.Series([*range(M - 1), None], dtype=object)),
    "nan target": lambda: (X, missing(5)),
    "text": lambda: {"text": ["a"] * M, "label": Y},
    "texts": lambda: [("good", 1), ("bad", 0)],
    "texts of a sample": lambda: [(["good", "news"], 1), (["bad", "news"], 0)],
    "no target": lambda: frame().rename(columns={"label": "price"}),
    "nothing but targets": lambda: {"label": Y},
    "dates": lambda: frame(b=pd.date_range("2024", periods=M)),
    "uneven samples": lambda: [(torch.zeros(i + 1), 0) for i in range(3)],
    "uneven lists": lambda: ([[1.0], [1.0, 2.0]], [0, 1]),
    "uneven arrays": lambda: pd.DataFrame({"x": [np.zeros(i + 1) for i in range(3)], "y": 0}),
    "weighted": lambda: DataLoader(Pairs(), sampler=WeightedRandomSampler([1.0] * M, M)),
    "splits": splits,
    "a name": lambda: "mnist",
    "a number": lambda: 3,
    "samples of numbers": lambda: [1, 2, 3, 4],
    "a sample of text": lambda: ["one", "two"],
    "nothing": lambda: [],
    "a pair of different length": lambda: (X, Y[:5]),
    "a data set that fails": lambda: Pairs(broken=True),
    "different samples": lambda: [({"a": X[0], "b": X[0]}, 0), ({"b": X[0]}, 1)],
    "nodes of other forms": lambda: {0: (X, Y), 1: (X[:, :2], Y)},
    "collated wrongly": lambda: collating((X[:2], Y[:2])),
}  # fmt: skip


ENDLESS: dict[str, Any] = {}
ENDLESS["name"] = ENDLESS


def read(make: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: Task(loss=F.cross_entropy, train=make(), test=(X, Y))


def task(**given: Any) -> Any:
    return Task(**{"loss": F.cross_entropy, "train": (X, Y), "test": (X, Y)} | given)


def run(model: Any, **given: Any) -> Any:
    return tiny_setup(task=task(model=model, **given))


def started(model: Any, optimizer: str = "sgd", **given: Any) -> Any:
    return tiny_block(task=task(model=model, **given), optimizer=optimizer)


class Returning(nn.Module):
    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.body, self.wrap = nn.Linear(3, 4), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.body(x))


def computed() -> nn.Module:
    """What torch.nn.utils.weight_norm leaves beside its parameters."""
    model = nn.Linear(3, 4)
    model.twice = 2 * model.weight
    return model


def returning(wrap: Any, output: Any = None) -> Callable[[], Any]:
    return lambda: run(lambda: Returning(wrap), output=output)


def traced() -> Any:
    """What torch.jit.trace makes, without its warning that it is old."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(nn.Linear(3, 4), X)


class Training(nn.Linear):
    """A model that knows only how to train."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            raise NotImplementedError("beam search")
        return super().forward(x)


class Untrained(nn.Linear):
    """A model that knows only how to evaluate."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise NotImplementedError("teacher forcing")
        return super().forward(x)


class Waves(nn.Module):
    """A model of complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.ones(3, 4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.phase.dtype) @ self.phase).abs()


def column() -> nn.Module:
    return nn.Linear(3, 1)


def four() -> nn.Module:
    return nn.Linear(3, 4)


def margin() -> Any:
    """A task whose last sample torch's own loss refuses."""
    targets = torch.tensor([[0, -1, -1, -1]]).repeat(40, 1)
    targets[-1, 0] = 9
    loss = nn.MultiLabelMarginLoss()
    return Task(
        loss=loss,
        train=(torch.ones(40, 2), targets),
        test=(torch.ones(4, 2), targets[:4]),
    )


def graph(value: Any, kind: Any = None) -> Callable[[], Any]:
    given = value if kind is None else {"name": value, "kind": kind}
    return lambda: make_config({"topology": given})


LINKS = np.ones((3, 3)) - np.eye(3)
GRAPHS: dict[str, Callable[[], Any]] = {
    "a set": graph({1, 2}),
    "an array of three dimensions": graph(np.zeros((2, 2, 2))),
    "a frame of other labels": graph(pd.DataFrame(LINKS, columns=list("abc"))),
    "a matrix with NaN": graph(LINKS * np.nan),
    "a matrix of anything": graph(LINKS * 3),
    "weights that do not sum to 1": graph(LINKS, "weights"),
    "an unknown kind": graph(LINKS, "laplacian"),
    "no links": graph([]),
    "a link of one": graph([(0, 1), (2,)]),
    "an object": graph(object()),
    "no node": graph(nx.Graph()),
}


OWN: dict[str, Callable[[], Any]] = {
    **{f"own data: {name}": read(make) for name, make in READ.items()},
    **{f"own graph: {name}": make for name, make in GRAPHS.items()},
    "own data: no such target": lambda: task(train=frame(), target="labels"),
    "own data: two columns of a name": lambda: task(
        train=pd.concat([frame(), frame()], axis=1)
    ),
    "own data: text among several targets": lambda: task(
        train=frame(word="a"), target=["label", "word"]
    ),
    "own data: masked": lambda: task(train=(np.ma.masked_greater(X.numpy(), 0), Y)),
    "own data: one sample and no test": lambda: task(train=(X[:1], Y[:1]), test=None),
    "own data: every target is ignored": lambda: task(train=(X, Y * 0 - 100)),
    "own data: a label without a name": lambda: task(classes=NAMES[:3]),
    "own data: a name that is no class": lambda: task(
        train=(X, [NAMES[y] for y in Y]), classes=NAMES[:3]
    ),
    "own data: owners of too few": lambda: task(owners=[0, 1]),
    "own data: owners in no column": lambda: task(owners="user"),
    "own data: owners twice": lambda: task(train={0: (X, Y), 1: (X, Y)}, owners=Y),
    "own data: more owners than nodes": lambda: tiny_setup(task=task(owners=Y), nodes=2),
    "own data: smooth targets that are ignored": lambda: tiny_setup(
        task=task(train=(X, torch.stack([Y, Y - Y - 100], 1)), labels=Y), label_smoothing=0.1
    ),
    "own model: several outputs": returning(lambda y: {"head": y, "other": y}),
    "own model: no such output": returning(lambda y: {"head": y}, "tail"),
    "own model: an output that is no tensor": returning(lambda y: y, lambda found: "yes"),
    "own model: returns text": returning(lambda y: "yes"),
    "own model: lazy layers of another form": lambda: run(
        lambda: nn.Sequential(nn.LazyConv2d(3, 3))
    ),
    "own model: a name": lambda: run("mlp"),
    "own model: computed parameters": lambda: run(computed),
    "own model: no gradient": lambda: started(lambda: Returning(Tensor.detach)),
    "own model: scripted": lambda: run(traced),
    "own model: spread": lambda: run(lambda: nn.DataParallel(nn.Linear(3, 4))),
    "own model: without numbers": lambda: run(lambda: nn.Linear(3, 4, device="meta")),
    "own model: complex": lambda: run(Waves),
    "own model: cannot evaluate": lambda: started(lambda: Training(3, 4)),
    "own model: cannot train": lambda: started(lambda: Untrained(3, 4)),
    "own model: too few outputs": lambda: started(lambda: nn.Linear(3, 3)),
    "own model: a column against a line": lambda: started(
        column, loss=lambda y, t: (y - t).square().mean(), train=(X, X[:, 0]), test=(X, X[:, 0])
    ),
    "own model: targets of another width": lambda: started(
        column, loss=nn.MSELoss(), train=(X, X), test=(X, X)
    ),
    "own model: a loss that fails": lambda: started(four, train=(X, X), test=(X, X)),
    "own model: no second derivative": lambda: trained(
        tiny_block(task=ZOO["ctc"].task(), metrics=["curvature"], nodes=2, steps=1)
    ),
    "a loss of torch that refuses a sample in the run": lambda: decentral.launch(
        task=margin(),
        model=lambda: nn.Linear(2, 4),
        nodes=2,
        steps=40,
        batch=1,
        replicas="loop",
        out="refusing",
    ),
    "own function: too few parameters": lambda: tiny_setup(codec=lambda rows: rows),
    "own scheduler: follows what is measured": lambda: tiny_setup(
        learning_rate=ReduceLROnPlateau
    ),
    "own scheduler: ends before the run": lambda: tiny_setup(
        learning_rate=functools.partial(OneCycleLR, max_lr=0.1, total_steps=9)
    ),
    "own scheduler: unknown to torch": lambda: tiny_setup(
        learning_rate="torch.optim.lr_scheduler.CosineAnealingLR(T_max=3)"
    ),
    "own split: the same sample twice": lambda: tiny_setup(
        split=lambda labels, nodes, seed: [range(9)] * nodes
    ),
    "own metrics: given again otherwise": otherwise,
    "own metric: changes the models": lambda: trained(
        tiny_block(metrics=[lambda snapshot: {"own/x": snapshot.rows.zero_().sum()}])
    ),
    "own callback: two parameters": lambda: tiny_block(callbacks=lambda a, b: None),
    "slerp: opposite models": lambda: slerp_weights(
        torch.tensor([[1.0, 2.0], [-1.0, -2.0]])
    ),
    "own callback: rows not asked for": lambda: trained(
        tiny_block(callbacks=lambda context: context.rows.sum())
    ),
    "early stopping: unknown metric": lambda: trained(
        tiny_block(callbacks="early_stopping(metric=los)")
    ),
    "early stopping: no validation": lambda: trained(tiny_block(callbacks="early_stopping")),
    "early stopping: no direction": lambda: trained(
        tiny_block(callbacks="early_stopping(metric=samples)")
    ),
    "own optimizer: matrices only": lambda: started(four, optimizer="torch.optim.Muon"),
    "own optimizer: remembers objects": lambda: started(
        four, optimizer="pytorch_optimizer.Conda"
    ),
    "a setting that holds itself": lambda: decentral.launch(engine=ENDLESS),
    "a number of thousands of digits": lambda: decentral.launch(seed=10**5000),
    "a folder: a number": lambda: decentral.Run(3),  # pyright: ignore[reportArgumentType]
    "a folder: NUL in its name": lambda: decentral.resume("run\0"),
    "a folder: nobody's home": lambda: decentral.resume("~nobody-here/run"),
    "own matrix: without numbers": lambda: tiny_setup(
        topology=torch.ones(2, 2, device="meta")
    ),
    "own data: without numbers": lambda: task(train=(X.to("meta"), Y)),
    "own loss: ends the process": lambda: reraise(SystemExit(3)),
    "own model: one score for all": lambda: started(
        four, scores={"mine": lambda outputs, targets: outputs.mean()}
    ),
}  # fmt: skip
