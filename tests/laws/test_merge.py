"""Laws of merge rules, and the re-estimation of BatchNorm statistics."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import example, tiny_block, tiny_run
from torch import Tensor, nn

from decentral import ConfigError
from decentral.api import models_of
from decentral.cli import run as cli
from decentral.exchange.base import LocalExchange
from decentral.layout import Layout
from decentral.loop.measure import Evaluator
from decentral.loop.trained import FISHER_SAMPLES, own_labels
from decentral.merging.base import Models, merge_models, merge_weights
from decentral.merging.calibrate import recalibrate
from decentral.merging.vectors import slerp_weights
from decentral.registry import build, find, names
from decentral.traits import MergeTraits, traits_of


def promised(name: str) -> MergeTraits:
    return traits_of(find("merge", name), MergeTraits)


def sees_models(name: str) -> bool:
    return promised(name).sees == "models"


every = pytest.mark.parametrize("name", [n for n in names("merge") if not sees_models(n)])


def rules(but: str = "") -> pytest.MarkDecorator:
    """Take every rule that sees models and does not declare the trait ``but``."""
    found = [n for n in names("merge") if sees_models(n)]
    kept = [n for n in found if not but or not getattr(promised(n), but)]
    return pytest.mark.parametrize("name", kept)


few = settings(max_examples=15)
holdings = st.lists(st.integers(1, 5000), min_size=1, max_size=9)


@every
@given(samples=holdings)
def test_weights_sum_to_one_and_are_not_negative(name: str, samples: list[int]) -> None:
    weights = merge_weights(example("merge", name), torch.tensor(samples))
    assert weights.shape == (len(samples),)
    assert weights.sum().item() == pytest.approx(1.0, rel=1e-12)
    assert weights.min() >= 0


@every
@given(samples=holdings, width=st.integers(1, 40))
def test_equal_inputs_are_unchanged(name: str, samples: list[int], width: int) -> None:
    weights = merge_weights(example("merge", name), torch.tensor(samples))
    row = torch.linspace(-3, 5, width, dtype=torch.float64).exp()
    merged, _ = LocalExchange(len(samples)).mean(
        row.expand(len(samples), -1).clone(), weights
    )
    torch.testing.assert_close(merged, row, rtol=1e-14, atol=0)


@every
@given(samples=holdings, draw=st.randoms(use_true_random=False))
def test_the_order_of_nodes_is_irrelevant(
    name: str, samples: list[int], draw: object
) -> None:
    order = list(range(len(samples)))
    draw.shuffle(order)  # type: ignore[attr-defined]
    rows = torch.arange(5 * len(samples), dtype=torch.float64).view(-1, 5).sin()
    held = torch.tensor(samples)
    weights, shuffled = (
        merge_weights(example("merge", name), h) for h in (held, held[order])
    )
    torch.testing.assert_close(shuffled, weights[order], rtol=1e-14, atol=0)
    torch.testing.assert_close(
        shuffled @ rows[order], weights @ rows, rtol=1e-12, atol=1e-14
    )


@every
@given(samples=st.lists(st.integers(1, 5000), min_size=2, max_size=9), data=st.data())
def test_excluded_nodes_weigh_nothing_and_the_rest_is_as_if_they_were_never_there(
    name: str, samples: list[int], data: st.DataObject
) -> None:
    nodes = range(len(samples))
    gone = frozenset(
        data.draw(st.sets(st.sampled_from(nodes), max_size=len(samples) - 1))
    )
    held = torch.tensor(samples)
    weights = merge_weights(example("merge", name), held, gone)
    stay = [node for node in nodes if node not in gone]
    assert (weights[sorted(gone)] == 0).all()
    torch.testing.assert_close(
        weights[stay], merge_weights(example("merge", name), held[stay])
    )


@every
def test_nobody_left_to_merge_is_an_error(name: str) -> None:
    with pytest.raises(ConfigError, match="no healthy node"):
        merge_weights(example("merge", name), torch.tensor([3, 4]), frozenset({0, 1}))


@every
@pytest.mark.parametrize("topology", ["star", "ring"])
def test_after_a_global_merge_every_node_holds_the_weighted_average(
    name: str, topology: str
) -> None:
    """Also where the graph is a star: a merge goes past the topology, not through its hub."""
    block = tiny_block(
        nodes=5, topology=topology, merge=name, local_steps=1, steps=2, dtype="float64",
        communication="then_merge(schedule=none, at=1 steps)", split="quantity", init="independent",
    )  # fmt: skip
    held = block.setup.samples_held
    assert len(set(held.tolist())) > 1
    action = block.decide()
    block.gradient()
    block.adapt()
    wanted = merge_weights(block.setup.merge, held) @ block.rows
    assert (block.rows - wanted).abs().max() > 1e-3
    block.combine(action)
    torch.testing.assert_close(
        block.rows, wanted.expand_as(block.rows), rtol=1e-12, atol=1e-14
    )


# --- rules that see all models --------------------------------------------------------------------


def some_models(
    rows: torch.Tensor, start: torch.Tensor | None = None, seed: int = 0
) -> Models:
    """Return models whose loss is their distance from 1, and whose Fisher information is even."""
    linear = nn.Linear(rows.shape[1] - 1, 1)
    return Models(
        rows=rows,
        samples=torch.ones(len(rows)),
        start=torch.zeros_like(rows[0]) if start is None else start,
        model=linear,
        layout=Layout.of(linear),
        seed=seed,
        loss=lambda row: (row - 1).square().sum().item(),
        fisher=lambda index, empirical: torch.ones_like(rows[0]),
    )


def drawn(name: str, seed: int, width: int = 16) -> torch.Tensor:
    count = promised(name).nodes or 5
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=draw, dtype=torch.float64)


@rules(but="moves_equal")
@given(seed=st.integers(0, 50))
@few
def test_equal_models_stay_as_they_are(name: str, seed: int) -> None:
    row = drawn(name, seed)[0]
    rows = row.expand_as(drawn(name, seed)).clone()
    torch.testing.assert_close(
        merge_models(example("merge", name), some_models(rows)), row
    )


@rules(but="ordered")
@given(seed=st.integers(0, 50))
@few
def test_models_in_another_order_make_the_same_model(name: str, seed: int) -> None:
    rows = drawn(name, seed)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    rule = example("merge", name)
    wanted = merge_models(rule, some_models(rows))
    torch.testing.assert_close(merge_models(rule, some_models(rows[order])), wanted)


@rules()
@given(seed=st.integers(0, 50))
@few
def test_models_are_only_read(name: str, seed: int) -> None:
    rows = drawn(name, seed)
    before = rows.clone()
    found = merge_models(example("merge", name), some_models(rows))
    assert found.shape == rows[0].shape
    assert torch.isfinite(found).all()
    assert torch.equal(rows, before)


@rules()
def test_a_run_refuses_what_must_see_all_models(name: str) -> None:
    with pytest.raises(ConfigError, match=f"decentral merge RUN --rule {name}"):
        tiny_block(merge=name)


@given(seed=st.integers(0, 50), far=st.floats(-1e9, 1e9))
def test_a_few_bad_models_cannot_pull_robust_merges_out_of_the_range_of_the_good(
    seed: int, far: float
) -> None:
    """The breakdown points: under half for the median, the trimmed share for the mean."""
    good = drawn("median", seed)
    low, high = good.min(0).values, good.max(0).values
    for rule, bad in (("median", 4), ("trimmed_mean(share=0.3)", 2)):
        rows = torch.cat([good, torch.full((bad, good.shape[1]), far, dtype=good.dtype)])
        found = merge_models(build("merge", rule), some_models(rows))
        assert (found >= low).all()
        assert (found <= high).all()
    average = merge_models(
        build("merge", "uniform"), some_models(torch.cat([good, good + 1e9]))
    )
    assert (average > high).all()


def test_without_trimming_the_trimmed_mean_is_the_average() -> None:
    rows = drawn("median", 0)
    found = merge_models(build("merge", "trimmed_mean(share=0)"), some_models(rows))
    torch.testing.assert_close(found, rows.mean(0))


@given(seed=st.integers(0, 50), t=st.floats(0, 1))
def test_slerp_keeps_the_length_of_models_of_one_length(seed: int, t: float) -> None:
    rows = torch.nn.functional.normalize(drawn("slerp", seed), dim=1)
    found = merge_models(build("merge", {"name": "slerp", "t": t}), some_models(rows))
    assert found.norm().item() == pytest.approx(1)
    angle = torch.arccos(rows[0] @ rows[1])
    assert torch.arccos((found @ rows[0]).clamp(-1, 1)).item() == pytest.approx(
        t * angle.item(), abs=1e-6
    )


@pytest.mark.parametrize("degrees", [178.0, 178.9])
def test_slerp_keeps_its_length_up_to_a_stated_angle(degrees: float) -> None:
    found = merge_models(build("merge", "slerp"), some_models(apart(degrees)))
    assert found.norm().item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("degrees", [179.1, 179.999, 180.0])
def test_slerp_refuses_opposite_models(degrees: float) -> None:
    rows = apart(degrees)
    with pytest.raises(ConfigError, match="degrees apart, beyond 179: opposite"):
        merge_models(build("merge", "slerp"), some_models(rows))
    with pytest.raises(ConfigError, match="opposite"):
        slerp_weights(rows)


def apart(degrees: float) -> Tensor:
    """Return two models of length one, so many degrees apart."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    rows = torch.zeros(2, 6, dtype=torch.float64)
    rows[0, 0], rows[1, 0], rows[1, 1] = 1.0, angle.cos(), angle.sin()
    return rows


def test_slerp_takes_two() -> None:
    with pytest.raises(ConfigError, match="takes 2 models, the run has 5"):
        merge_models(build("merge", "slerp"), some_models(drawn("median", 0)))


def test_ties_elects_signs_and_averages_those_that_agree() -> None:
    rows = torch.tensor([[1.0, 4.0, 0.1], [1.0, -2.0, 0.1], [-5.0, 3.0, 0.1]])
    found = merge_models(
        build("merge", "ties(keep=0.67)"), some_models(rows, torch.zeros(3))
    )
    assert found.tolist() == [-5.0, 3.5, 0.0]
    start = torch.tensor([10.0, 10.0, 10.0])
    shifted = merge_models(
        build("merge", "ties(keep=0.67, scale=2)"), some_models(rows + start, start)
    )
    torch.testing.assert_close(shifted, torch.tensor([0.0, 17.0, 10.0]))


def test_dare_keeps_the_average_in_expectation_and_drops_its_share() -> None:
    rows = drawn("dare", 1, width=4000)
    rule = build("merge", "dare(drop=0.9)")
    found = torch.stack(
        [merge_models(rule, some_models(rows, seed=seed)) for seed in range(40)]
    )
    error = (found.mean(0) - rows.mean(0)).square().mean().item()
    assert error == pytest.approx(9 * rows.square().mean().item() / (5 * 40), rel=0.1)
    one = merge_models(rule, some_models(rows[:1]))
    assert (one == 0).double().mean().item() == pytest.approx(0.9, abs=0.02)
    torch.testing.assert_close(
        merge_models(build("merge", "dare(drop=0)"), some_models(rows)), rows.mean(0)
    )


def test_fisher_weighs_every_number_by_what_it_matters() -> None:
    rows = torch.tensor([[0.0, 0.0], [8.0, 8.0]])
    matters = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    models = some_models(rows)
    models = replace(models, fisher=lambda index, empirical: matters[index])
    found = merge_models(build("merge", "fisher"), models)
    torch.testing.assert_close(found, torch.tensor([2.0, 4.0]), rtol=1e-5, atol=0)


def test_a_soup_is_never_worse_than_its_best_part() -> None:
    for seed in range(20):
        models = some_models(drawn("soup", seed))
        best = min(models.loss(row) for row in models.rows)
        assert models.loss(merge_models(build("merge", "soup"), models)) <= best
    left_out = some_models(torch.tensor([[1.5, 1.0], [0.5, 1.0], [90.0, 90.0]]))
    assert merge_models(build("merge", "soup"), left_out).tolist() == [1.0, 1.0]


def test_fisher_information_is_the_mean_of_squared_gradients(tmp_path: Path) -> None:
    """Against one sample at a time; and the command compares every rule."""
    run = tiny_run(
        tmp_path / "run", communication="none", keep_checkpoints=1, split="iid"
    )
    run.run(lambda row: None)
    found = models_of(tmp_path / "run")
    setup, model = found.setup, found.setup.model
    setup.layout.unpack(found.rows[1], model)
    batch = found.block.sampler.batch(0, FISHER_SAMPLES)

    def gradient(inputs: Tensor, label: Tensor) -> Tensor:
        model.zero_grad()
        setup.task.loss(model(inputs.unsqueeze(0)), label.unsqueeze(0)).backward()
        row = torch.zeros(setup.layout.width)
        for entry in setup.layout.parameters:
            row[entry.start : entry.stop] = model.get_parameter(entry.name).grad.flatten()
        return row

    wanted, expected = (torch.zeros(setup.layout.width) for _ in range(2))
    for inputs, target in zip(batch.inputs[1], batch.targets[1], strict=True):
        wanted += gradient(inputs, target).square() / FISHER_SAMPLES
        chances = model(inputs.unsqueeze(0)).softmax(-1)[0].detach()
        for label, chance in enumerate(chances):
            expected += (
                chance * gradient(inputs, torch.tensor(label)).square() / FISHER_SAMPLES
            )
    torch.testing.assert_close(found.fisher(1, True), wanted, rtol=1e-3, atol=1e-9)
    # Labels of the model's own: one draw each, against what is expected of them.
    own = found.fisher(1)
    assert own.sum() == pytest.approx(float(expected.sum()), rel=0.3)
    assert torch.corrcoef(torch.stack([own, expected]))[0, 1] > 0.8
    assert (own - wanted).norm() > 0.1 * wanted.norm()


def test_own_labels_are_those_that_a_model_predicts_and_leave_out_what_the_loss_does() -> (
    None
):
    sure = torch.eye(5)[torch.tensor([3, 0, 4])] * 100  # [places, classes]
    targets = torch.tensor([[1, -100, 2]])
    assert own_labels(sure.unsqueeze(0), targets, 0).tolist() == [[3, -100, 4]]
    assert own_labels(sure.T.unsqueeze(0), targets, 0).tolist() == [[3, -100, 4]]
    assert own_labels(torch.zeros(1, 3), torch.zeros(1, 3), 0) is None
    assert own_labels(torch.zeros(1, 7), torch.zeros(1, 2, dtype=torch.long), 0) is None


def test_the_command_compares_every_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(tmp_path / "run", communication="late", keep_checkpoints=5)
    run.run(lambda row: None)
    capsys.readouterr()
    assert cli(["merge", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "4 models of step 18" in said
    fitting = [n for n in names("merge") if promised(n).nodes in (None, 4)]
    assert all(re.search(rf"^{name} +[0-9.]+ % +[0-9.]+ +[0-9.e-]+ *$", said, re.M)
               for name in fitting)  # fmt: skip
    assert cli(["merge", str(tmp_path / "run"), "--rule", "median", "--step", "14"]) == 0
    assert "of step 14" in capsys.readouterr().out


# --- BatchNorm ------------------------------------------------------------------------------------


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.outer = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.norm(self.inner(x)).relu())


@pytest.mark.parametrize("count", [64, 256, 512])
def test_recalibrated_statistics_are_those_of_the_calibration_inputs(count: int) -> None:
    torch.manual_seed(0)
    model, inputs = Normed().double(), torch.randn(count, 3, dtype=torch.float64) * 2 + 1
    model(inputs * 5)  # a template that has seen other data
    layout = Layout.of(model)
    row = torch.zeros(layout.width, dtype=torch.float64)
    layout.pack(model, row)
    row[layout.trainable :] = 77.0  # what an average of statistics may look like
    integers = {key: torch.full((1,), 9) for key in layout.integers}
    calibrated = recalibrate(model, layout, row, integers, inputs)

    views = layout.views(calibrated.unsqueeze(0), layout.buffers)
    hidden = model.inner(inputs)
    parts = hidden.split(256)  # every batch counts alike; here they are equally large
    variance = torch.stack([part.var(0) for part in parts]).mean(0)
    torch.testing.assert_close(views["norm.running_mean"][0], hidden.mean(0))
    torch.testing.assert_close(views["norm.running_var"][0], variance)
    assert integers["norm.num_batches_tracked"].tolist() == [9]
    assert torch.equal(calibrated[: layout.trainable], row[: layout.trainable])


def test_recalibration_leaves_the_template_and_the_row_alone() -> None:
    model = Normed()
    layout = Layout.of(model)
    row = torch.randn(layout.width)
    before = row.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    recalibrate(model, layout, row, {}, torch.randn(32, 3))
    assert torch.equal(row, before[0])
    assert all(
        torch.equal(value, before[1][key]) for key, value in model.state_dict().items()
    )


def test_a_model_without_batchnorm_is_returned_as_it_is() -> None:
    model = nn.Linear(3, 2)
    layout = Layout.of(model)
    row = torch.randn(layout.width)
    assert recalibrate(model, layout, row, {}, torch.randn(8, 3)) is row


def test_the_final_merged_model_of_a_run_carries_recalibrated_statistics() -> None:
    task_settings = {
        "task": "digits",
        "model": "cnn(channels=[3], norm=batch)",
        "steps": 6,
    }
    block = tiny_block(**task_settings, communication="none(final_merge=true)")
    for _ in range(6):
        action = block.decide()
        block.setup.algorithm(block, action)
        block.finish_step()
    evaluator = Evaluator(block)
    state = evaluator.merged_state()
    merged = block.merge_shares().to(block.rows) @ block.rows
    expected = evaluator.calibrate_row(merged, {})
    named = block.setup.layout.views(expected.unsqueeze(0), block.setup.layout.buffers)
    averaged = block.setup.layout.views(merged.unsqueeze(0), block.setup.layout.buffers)
    assert named
    for name, value in named.items():
        torch.testing.assert_close(state[name], value[0])
        assert not torch.allclose(state[name], averaged[name][0], rtol=1e-3)
