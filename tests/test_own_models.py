"""Models of one's own: layers that draw, count or normalise, and buffers of whole numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import blobs, exchanges, tiny_block, tiny_run, tiny_setup, together, trained
from torch import Tensor, nn

import decentral
from decentral import ConfigError
from decentral.api import models_of, restart
from decentral.cli.models import merge
from decentral.gradients.draws import KeyedDropout, key_dropout
from decentral.layout import Layout
from decentral.loop import train
from decentral.loop.analysis import Analysis, Extent
from decentral.loop.block import Block
from decentral.loop.exporting import by_rule
from decentral.loop.measure import Evaluator
from decentral.loop.setup import Setup
from decentral.merging.calibrate import merge_integers, recalibrate

Build = Callable[[], nn.Module]


def norm_first() -> nn.Module:
    norm = nn.BatchNorm1d(8)
    return nn.Sequential(
        nn.Linear(6, 8), norm, nn.Dropout(0.4), nn.ReLU(), nn.Linear(8, 4)
    )


def dropout_first() -> nn.Module:
    return nn.Sequential(
        nn.Dropout(0.2), nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)
    )


def images() -> nn.Module:
    picture = nn.Unflatten(1, (1, 2, 3))
    norm = nn.BatchNorm2d(3)
    layers = nn.Conv2d(1, 3, 3, padding=1), nn.Dropout(0.3), norm, nn.Dropout2d(0.2)
    return nn.Sequential(picture, *layers, nn.Flatten(), nn.Linear(18, 4))


def without_statistics() -> nn.Module:
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    return nn.Sequential(nn.Linear(6, 8), norm, nn.Dropout(0.2), nn.Linear(8, 4))


class Recurrent(nn.Module):
    """Time first inside, so that dropout meets an x whose first dimension is not the batch."""

    def __init__(self, kind: Any = nn.LSTM) -> None:
        super().__init__()
        self.recurrent, self.drop = kind(2, 5), nn.Dropout(0.3)
        self.norm, self.answer = nn.BatchNorm1d(5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.recurrent(x.view(-1, 3, 2).transpose(0, 1))
        return self.answer(self.norm(self.drop(states)[-1]))


class Counting(nn.Module):
    """Answers only after more than ten training steps; remembers which inputs were ever large."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.register_buffer("n", torch.zeros((), dtype=torch.long))
        self.register_buffer("seen", torch.zeros(6, dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        n: Any = self.n
        seen: Any = self.seen
        if self.training:
            n.add_(1)
            seen.logical_or_((x > 4).any(0))
        return self.linear(x) * (n > 10)


def counting() -> nn.Module:
    return Counting()


# --- dropout beside BatchNorm ---------------------------------------------------------------------

MODELS: dict[str, Build] = {
    "norm first": norm_first, "dropout first": dropout_first, "images": images,
    "no statistics": without_statistics, "recurrent": lambda: Recurrent(),
}  # fmt: skip


@pytest.mark.usefixtures("threads_may_evaluate")
@pytest.mark.parametrize("name", MODELS)
def test_dropout_and_batchnorm_train_merge_and_are_the_same_on_workers(name: str) -> None:
    settings = {"model": MODELS[name], "dtype": "float64", "mixing": "ordered"}
    setup = tiny_setup(
        **settings, topology="ring", communication="constant(final_merge=true)"
    )
    kept = 1e-9 if name in ("images", "recurrent") else 1e-12
    one = trained(tiny_block(**settings, topology="ring",
                             communication="constant(final_merge=true)"))  # fmt: skip
    rows = together(lambda block: finished(block), on_workers(setup, [1, 3]))
    for key in ("accuracy/merged", "loss/merged"):
        for row in (one[-1], *rows):
            assert row[key] == pytest.approx(one[-1][key], abs=kept), key
    assert one[-1]["loss/merged"] < one[0]["loss/merged"]


def on_workers(setup: Setup, sizes: list[int]) -> list[Block]:
    return [Block(setup, exchange, lambda *_: None) for exchange in exchanges(sizes)]


def finished(block: Block) -> dict[str, Any]:
    """Train a block to its end; return the last row of metrics, and its merged state."""
    evaluator = Evaluator(block)
    last = list(train(block, evaluator))[-1]
    return {**last, "state": evaluator.merged_state()}


def test_a_run_with_dropout_and_batchnorm_is_resumed_bit_by_bit(tmp_path: Path) -> None:
    def ends(row: dict[str, Any]) -> None:
        if row["step"] == 13:
            raise KeyboardInterrupt

    task = blobs()
    given: dict[str, Any] = {"task": task, "model": norm_first, "checkpoint_every": 6}
    tiny_run(tmp_path / "whole", **given).run(lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        tiny_run(tmp_path / "cut", **given).run(ends)
    restart(tmp_path / "cut", task=task, model=norm_first).run(lambda _: None)
    whole, cut = (tmp_path / name / "merged.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_statistics_are_those_of_evaluation_without_dropout() -> None:
    torch.manual_seed(0)
    model, inputs = (
        key_dropout(norm_first()).double(),
        torch.randn(100, 6, dtype=torch.float64),
    )
    front = nn.Sequential(nn.Dropout(0.9), model)
    layout = Layout.of(front)
    row = torch.zeros(layout.width, dtype=torch.float64)
    layout.pack(front, row)
    before = torch.get_rng_state()
    found = recalibrate(front, layout, row, {}, inputs)
    assert torch.equal(torch.get_rng_state(), before)
    views = layout.views(found.unsqueeze(0), layout.buffers)
    hidden = model.get_submodule("0")(inputs)
    torch.testing.assert_close(views["1.1.running_mean"][0], hidden.mean(0))
    torch.testing.assert_close(views["1.1.running_var"][0], hidden.var(0))


class Frozen(nn.Sequential):
    """A pretrained network whose BatchNorm stays as it was learnt."""

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self[1].eval()
        return self


def test_frozen_statistics_stay_and_one_sample_estimates_nothing() -> None:
    frozen, plain = Frozen(nn.Linear(6, 3), nn.BatchNorm1d(3)), norm_first()
    for model, count in ((frozen, 50), (plain, 1)):
        layout = Layout.of(model)
        row = torch.rand(layout.width)
        assert recalibrate(model, layout, row, {}, torch.randn(count, 6)) is row


def test_one_dropout_layer_at_two_places_stays_one() -> None:
    drop = nn.Dropout(0.5)
    model = key_dropout(
        nn.ModuleDict({"a": drop, "b": nn.Sequential(drop), "c": nn.Dropout(0.1)})
    )
    found = [m for m in model.modules() if isinstance(m, KeyedDropout)]
    assert [(layer.p, layer.layer) for layer in found] == [(0.5, 0), (0.1, 1)]


def test_dropout_masks_what_no_sample_owns_by_all_keys() -> None:
    layer, x = KeyedDropout(0.5, 0), torch.ones(7, 3, 50)
    layer.key = torch.tensor([4, 5, 6])
    first, again = layer(x), layer(x)
    assert torch.equal(first, again)
    assert 0.4 < (first == 0).double().mean().item() < 0.6
    layer.key = torch.tensor([4, 5, 7])
    assert not torch.equal(layer(x), first)


# --- buffers of whole numbers ---------------------------------------------------------------------


def test_integer_and_bool_buffers_are_merged_by_their_maximum() -> None:
    buffers = {
        "count": torch.tensor([3, 7, 9, 5]),
        "equal": torch.full((4, 2), -2, dtype=torch.int32),
        "mask": torch.tensor([[True, False], [False, False], [True, True], [False, False]]),
        "wide": torch.tensor([[1, 65535], [2, 3], [9, 9], [4, 4]], dtype=torch.int64)
        .to(torch.uint16),
        "phase": torch.tensor([1j, 2j, 3j, 4j]),
    }  # fmt: skip
    alive = [torch.tensor([0, 1]), torch.tensor([1])]  # node 2 does not count

    def work(worker: Any) -> dict[str, Tensor]:
        exchange, place = worker.exchange, 0 if worker.exchange.hosted.start == 0 else 1
        here = {
            k: v[exchange.hosted.start : exchange.hosted.stop] for k, v in buffers.items()
        }
        return merge_integers(here, alive[place], exchange.gather)

    class At:
        def __init__(self, exchange: Any) -> None:
            self.exchange = exchange

    for found in together(work, [At(exchange) for exchange in exchanges([2, 2])]):
        assert found["count"].tolist() == [7]
        assert found["equal"].tolist() == [[-2, -2]]
        assert found["equal"].dtype == torch.int32
        assert found["mask"].tolist() == [[True, False]]
        assert found["wide"].to(torch.int64).tolist() == [[4, 65535]]
        assert found["phase"].tolist() == [1j]


def test_a_worker_without_nodes_that_count_agrees_with_the_others() -> None:
    def work(block: Block) -> list[int]:
        here = torch.arange(len(block.hosted))
        alive = here if block.hosted[0] == 0 else here[:0]
        values = {"n": torch.tensor(block.hosted)}
        return merge_integers(values, alive, block.exchange.gather)["n"].tolist()

    assert together(work, on_workers(tiny_setup(), [1, 3])) == [[0], [0]]


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose merged model answers only if its counter survives the merge."""
    out = tmp_path_factory.mktemp("counted") / "run"
    settings: dict[str, Any] = {"task": blobs(), "model": counting, "split": "iid"}
    tiny_run(out, **settings, topology="ring", steps=30).run(lambda _: None)
    return out


def same_counters(state: Any) -> None:
    assert int(state["n"]) == 30
    assert state["seen"].dtype == torch.bool
    assert bool(state["seen"].any())


def test_counters_and_masks_survive_the_merge_everywhere(
    counted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads((counted / "summary.json").read_text())["final"]
    assert summary["accuracy/merged"] > 0.5
    same_counters(load_file(counted / "merged.safetensors"))
    given: dict[str, Any] = {"task": blobs(), "model": counting}
    run = decentral.api.Run(counted, given)
    model = run.merged_model()
    same_counters(model.state_dict())
    inputs, targets = blobs().splits[2].take(torch.arange(50))
    loss = nn.functional.cross_entropy(model.eval()(inputs.float()), targets).item()
    assert loss == pytest.approx(summary["loss/merged"], rel=1e-5)

    models = models_of(counted, 30, **given)
    _, state, about = by_rule(models, "uniform", "run")
    same_counters(state)
    assert about["scores"]["loss"] == pytest.approx(summary["loss/merged"], rel=1e-5)
    found = Analysis(models, Extent(1, 3, 32), lambda *_: None)._scores()
    assert found["loss"]["merged"] == pytest.approx(summary["loss/merged"], rel=1e-5)
    assert found["loss"]["local_mean"] == pytest.approx(
        summary["loss/local_mean"], rel=1e-5
    )


def test_the_table_of_merge_rules_counts_too(
    counted: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = models_of(counted, 30, task=blobs(), model=counting)
    monkeypatch.setattr("decentral.api.run.models_of", lambda *_, **__: models)
    merge(str(counted), ["uniform", "median"], 30)
    accuracy = models.test(models.rows.mean(0)).accuracy
    assert accuracy is not None
    shown = [line for line in capsys.readouterr().out.splitlines() if "uniform" in line]
    assert f"{100 * accuracy.item():.1f} %" in shown[0]
    assert accuracy.item() > 0.5


@pytest.mark.usefixtures("threads_may_evaluate")
def test_counters_of_a_merge_are_the_same_on_workers() -> None:
    setup = tiny_setup(model=counting, dtype="float64", communication="constant")
    for row in together(finished, on_workers(setup, [1, 3])):
        assert int(row["state"]["n"]) == 20
        assert row["accuracy/merged"] > 0.4


def test_the_batches_that_batchnorm_has_seen_are_those_of_training() -> None:
    block = tiny_block(model=norm_first)
    trained(block)
    assert int(Evaluator(block).merged_state()["1.num_batches_tracked"]) == 20


# --- what vmap differentiates and cannot run ------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_run_row_by_row(kind: Any) -> None:
    settings: dict[str, Any] = {"model": lambda: Recurrent(kind), "nodes": 8, "steps": 4}
    block = tiny_block(**settings)
    why = "vmap cannot run this model (RuntimeError: Batch"
    assert block.pipeline.reason.startswith(f"one row at a time: {why}")
    assert "\n" not in block.pipeline.reason
    assert trained(block)[-1]["loss/merged"] > 0
    with pytest.raises(
        ConfigError, match=r"^replicas: vmap cannot .*use replicas=loop\.$"
    ):
        tiny_block(**settings, replicas="vmap")


class Attentive(nn.Module):
    """Self-attention of torch over three pairs of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 1, batch_first=True)
        self.answer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, 3, 2)
        return self.answer(self.attention(x, x, x)[0].flatten(1))


def test_attention_still_runs_all_rows_together() -> None:
    block = tiny_block(model=lambda: Attentive(), nodes=8, steps=4)
    assert block.pipeline.reason == "all rows together, by vmap"
    assert trained(block)[-1]["loss/merged"] > 0


def test_fisher_merging_runs_models_as_they_were_trained(tmp_path: Path) -> None:
    given: dict[str, Any] = {"task": blobs(), "model": lambda: Recurrent(nn.GRU)}
    tiny_run(tmp_path / "run", **given, steps=4, communication="none").run(lambda _: None)
    models = models_of(tmp_path / "run", **given)
    assert models.evaluator.setup.model is models.setup.model
    assert bool(torch.isfinite(models.fisher(1)).all())


# --- what looks like a model ----------------------------------------------------------------------


class Doing(nn.Module):
    """A linear layer, and what is done with it."""

    def __init__(self, flow: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.flow = nn.Linear(8, 3), flow

    def forward(self, x: Tensor) -> Any:
        return self.flow(self.body, x)


def old_weight_norm() -> nn.Module:
    return torch.nn.utils.weight_norm(nn.Linear(8, 3))


def pruned() -> nn.Module:
    from torch.nn.utils import prune

    return prune.l1_unstructured(nn.Linear(8, 3), "weight", 0.3)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("mlp", "task: model is str; give a module, or a function or class"),
        ((1, 2), "task: model is tuple; give a module"),
        (old_weight_norm, "model: weight is computed from parameters and kept"),
        (pruned, "model: weight is computed from parameters and kept"),
        (
            lambda: Doing(lambda body, x: body(x).detach()),
            "no parameter changes the loss",
        ),
        (lambda: Doing(lambda body, x: torch.no_grad()(body)(x)), "no parameter changes"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_step(model: Any, said: str) -> None:
    x, y = torch.randn(20, 8), torch.arange(20) % 3
    made = decentral.Task(model=model, loss=nn.functional.cross_entropy, train=(x, y))
    with pytest.raises(ConfigError, match=said):
        tiny_block(task=made, nodes=2)


@pytest.mark.parametrize("replicas", ["loop", "vmap"])
def test_inputs_that_a_model_changes_in_place_are_copies(replicas: str) -> None:
    x, y = torch.randn(20, 8), torch.arange(20) % 3

    def ended(flow: Callable[[nn.Module, Tensor], Any]) -> tuple[Block, dict[str, Any]]:
        made = decentral.Task(
            model=lambda: Doing(flow), loss=nn.functional.cross_entropy, train=(x, y)
        )
        block = tiny_block(task=made, nodes=2, replicas=replicas, steps=4, eval_every=2)
        return block, list(train(block, Evaluator(block)))[-1]

    (plain, expected), (block, found) = (
        ended(flow)
        for flow in (lambda body, x: body(x * 2), lambda body, x: body(x.mul_(2)))
    )
    torch.testing.assert_close(block.rows, plain.rows)
    assert found["loss/merged"] == pytest.approx(expected["loss/merged"], rel=1e-6)
    assert any("changes its inputs in place" in note for note in block.setup.notes)
