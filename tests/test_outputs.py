"""Models as they come: what they are called with, and what they return."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support import blobs, tiny_block, tiny_run, tiny_setup, trained
from torch import Tensor, nn
from torch.nn import functional as F

from decentral import ConfigError, Run, Task
from decentral.loop.adapting import spread_inputs
from decentral.loop.measure import Evaluator
from decentral.pytree import tree_at

SIZE, CLASSES, M = 6, 4, 60


class Net(nn.Module):
    """A small network whose answer is wrapped as ``wrap`` says."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.body, self.wrap = nn.Linear(SIZE, CLASSES), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.body(x))


Named = namedtuple("Named", "hidden logits")


@dataclass
class Held:
    logits: Tensor
    hidden: Tensor


def both(y: Tensor) -> Any:
    return {"head": y, "other": y * 0}


WRAPS: dict[str, tuple[Any, Any]] = {
    "tensor": (lambda y: y, None),
    "mapping with logits": (lambda y: {"loss": y.mean(), "logits": y}, None),
    "named tuple": (lambda y: Named(y * 0, y), None),
    "data class": (lambda y: Held(y, y * 0), None),
    "only floating tensor": (lambda y: (y.argmax(-1), y, None), None),
    "only part": (lambda y: [y], None),
    "key": (both, "head"),
    "field": (lambda y: Held(y * 0, y), "hidden"),
    "place": (lambda y: (y * 0, y), 1),
    "function": (lambda y: (y - 1, y * 0 + 1), lambda found: found[0] + found[1]),
}


def own(wrap: Any, output: Any = None) -> Task:
    task = blobs(M)
    return Task(loss=task.loss, train=task.train, test=task.test, model=lambda: Net(wrap),
                output=output)  # fmt: skip


@pytest.mark.parametrize("replicas", ["vmap", "loop"])
@pytest.mark.parametrize("wrap", WRAPS)
def test_a_prediction_is_found_in_whatever_a_model_returns(
    wrap: str, replicas: str
) -> None:
    settings: dict[str, Any] = {"replicas": replicas, "steps": 4, "dtype": "float64"}
    found = []
    for task in (own(*WRAPS[wrap]), own(lambda y: y)):
        block = tiny_block(task=task, **settings)
        (*_, last) = trained(block)
        assert last.keys() >= {"accuracy/merged", "loss/merged"}
        found.append(block)
    one, plain = found
    torch.testing.assert_close(one.rows, plain.rows)
    # What the user gets back is the module as it was written.
    module = one.setup.module(Evaluator(one).merged_state())
    returned = module(torch.zeros(2, SIZE, dtype=torch.float64))
    assert type(returned) is type(WRAPS[wrap][0](torch.zeros(2, CLASSES)))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(SIZE, CLASSES), nn.Embedding(3, CLASSES)

    def forward(self, x: Tensor, kind: Tensor) -> Tensor:
        return self.left(x) + self.right(kind)


class Variational(nn.Module):
    """Returns a reconstruction and a penalty, both of which its loss needs."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(SIZE, 2), nn.Linear(2, SIZE)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encode(x)
        return self.decode(code), code


def variational_loss(outputs: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    return F.mse_loss(outputs[0], targets) + 0.1 * outputs[1].square().mean()


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kind, self.size = nn.Linear(SIZE, CLASSES), nn.Linear(SIZE, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"kind": self.kind(x), "size": self.size(x).squeeze(-1)}


def heads_loss(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
    error = F.mse_loss(outputs["size"], targets["size"])
    return F.cross_entropy(outputs["kind"], targets["kind"]) + error


X = torch.randn(M, SIZE, generator=torch.Generator().manual_seed(0))
KIND, LABEL = torch.arange(M) % 3, 2 * (X[:, 0] > 0).long() + (X[:, 1] > 0)

TREES: dict[str, Task] = {
    "two inputs": Task(F.cross_entropy, (X, KIND, LABEL), model=Two),
    "inputs by name": Task(F.cross_entropy, {"kind": KIND, "x": X, "y": LABEL}, model=Two),
    "several outputs": Task(variational_loss, X, model=Variational, output=lambda found: found),
    "several targets": Task(
        heads_loss, (X, {"kind": LABEL, "size": X[:, 0]}), model=Heads, output=lambda found: found,
        scores={"kind": lambda o, t: (o["kind"].argmax(-1) == t["kind"]).double()},
    ),
}  # fmt: skip


@pytest.mark.parametrize("replicas", ["vmap", "loop"])
@pytest.mark.parametrize("name", TREES)
def test_several_inputs_outputs_and_targets_train_and_are_looked_at(
    name: str, replicas: str, tmp_path: Path
) -> None:
    task = TREES[name]
    metrics = ["accuracy", "loss", "scores", "mergeability", "consensus", "gradient"]
    given: dict[str, Any] = {"task": task, "replicas": replicas, "metrics": metrics}
    tiny_run(tmp_path / "run", communication="constant(final_merge=false)", **given).run(
        print
    )
    run = Run(tmp_path / "run", {"task": task})
    first, last = run.rows[0], run.summary["final"]
    assert last["loss/merged"] < first["loss/merged"]
    assert ("score/kind_merged" in last) == (name == "several targets")
    if replicas == "loop":
        return
    assert run.analyze(pairs=1, points=2, samples=16)["lines"]["nodes"]
    for rule in (None, "fisher"):
        out = tmp_path / f"out {rule}"
        assert run.export(out, method=rule)["PyTorch"].startswith("torch.export.load")
        args, named = spread_inputs(tree_at(task.splits[2].inputs, slice(3)))
        program, model = torch.export.load(out / "model.pt2").module(), run.merged_model()
        if rule is None:
            torch.testing.assert_close(program(*args, **named), model(*args, **named))


def test_a_program_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    task = own(lambda y: Named(y * 0, y))
    tiny_run(tmp_path / "run", task=task, steps=2).run(lambda _: None)
    lines = Run(tmp_path / "run", {"task": task}).export(tmp_path / "out")
    assert "torch.export cannot trace the model (NotImplementedError)" in lines["PyTorch"]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "README.md", "decentral.json", "model.safetensors",
    }  # fmt: skip


def test_a_model_that_takes_one_input_is_not_given_several() -> None:
    task = Task(F.cross_entropy, (X, KIND, LABEL))
    with pytest.raises(ConfigError, match=r"'mlp' takes numbers; .* are several inputs"):
        tiny_setup(task=task)


def test_lazy_layers_see_an_input_first_and_are_drawn_by_the_seed() -> None:
    def lazy() -> nn.Module:
        return nn.Sequential(
            nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(4)
        )

    one, again, other = (tiny_setup(model=lazy, seed=seed) for seed in (0, 0, 1))
    rows = [setup.initial_rows([0]) for setup in (one, again, other)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    assert one.layout.parameter_count == 6 * 8 + 8 + 16 + 8 * 4 + 4
    with pytest.raises(ConfigError, match=r"its lazy layers fail on inputs \[6\]"):
        tiny_setup(model=lambda: nn.Sequential(nn.LazyConv2d(3, 3)))
