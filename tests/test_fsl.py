"""Functional scaling laws: against Monte Carlo, the exact recursion, and what theory says."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decentral.theory import fsl

HARD = fsl.PowerLaw(source=0.25, capacity=2)
EASY = fsl.PowerLaw(source=1.0, capacity=2)
BUDGET = 2**20
HAND = {
    "constant 8": fsl.Stages.of((8, BUDGET // 8)),
    "constant 32": fsl.Stages.of((32, BUDGET // 32)),
    "constant 128": fsl.Stages.of((128, BUDGET // 128)),
    **{
        f"{x:.0%}": fsl.Stages.switch(BUDGET, 8, 128, x)
        for x in (0.1, 0.25, 0.5, 0.75, 0.9, 0.97)
    },
}
#: Predictions in continuous time, as closed forms give them.
CONTINUOUS = {
    "hard": (HARD, [0.070928, 0.083828, 0.114276, 0.0911, 0.077753, 0.067387, 0.061656, 0.059285,
                    0.058572]),
    "easy": (EASY, [0.012828, 0.003215, 0.000858, 0.000866, 0.000884, 0.000917, 0.000980, 0.0011,
                    0.001364]),
}  # fmt: skip


def test_it_needs_no_torch() -> None:
    code = "import sys; from decentral.theory import fsl; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "numpy" in done.stdout.split()
    assert not {"torch", "scipy"} & set(done.stdout.split())


# --- the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "batch"), [(0.25, 2), (1.0, 4)])
def test_the_recursion_is_the_mean_of_true_sgd(source: float, batch: int) -> None:
    """Repeats of SGD on Gaussian features; the tolerance is that of the mean of 1,500 of them."""
    task = fsl.PowerLaw(source=source, capacity=2)
    draw, repeats, modes, steps = np.random.default_rng(0), 1500, 12, 60
    variances, squares = task.spectrum(modes)
    error = np.tile(np.sqrt(squares), (repeats, 1))
    for _ in range(steps):
        features = draw.standard_normal((repeats, batch, modes)) * np.sqrt(variances)
        residual = np.einsum("rbm,rm->rb", features, error)
        residual += np.sqrt(task.noise) * draw.standard_normal(residual.shape)
        error -= task.lr / batch * np.einsum("rb,rbm->rm", residual, features)
    measured = 0.5 * float((error**2 @ variances).mean())
    # The recursion knows of features beyond; without them, for the comparison.
    no_tail = pytest.MonkeyPatch()
    no_tail.setattr(fsl.PowerLaw, "tail", lambda self, times, modes: np.zeros_like(times))
    exact = float(fsl.exact_risk(task, fsl.Stages.of((batch, steps)), modes=modes)[0])
    no_tail.undo()
    assert measured == pytest.approx(exact, rel=0.03)


def test_the_tail_is_the_sum_of_the_features_left_out() -> None:
    index = np.arange(51, 400_001, dtype=np.float64)
    for time in (0.0, 100.0, 3000.0):
        terms = index ** -(1 + 2 * HARD.source) * np.exp(-2 * index**-2.0 * time)
        rest = HARD.tail(np.array([time]), 400_000)[0]
        assert HARD.tail(np.array([time]), 50)[0] == pytest.approx(
            terms.sum() / 2 + rest, rel=1e-3
        )


def test_few_features_and_a_tail_are_as_good_as_many() -> None:
    stages = fsl.Stages.switch(2**14, 8, 64, 0.5)
    few, many = (fsl.exact_risk(HARD, stages, modes=modes)[0] for modes in (300, 1500))
    assert few == pytest.approx(many, rel=1e-3)


# --- the law --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CONTINUOUS)
def test_the_closed_form_in_continuous_time(kind: str) -> None:
    task, expected = CONTINUOUS[kind]
    law = fsl.Law.of(task, finite_step=False)
    found = [law.risk(stages) for stages in HAND.values()]
    assert found == pytest.approx(expected, rel=2e-3)


def test_steps_of_finite_size_agree_with_the_recursion() -> None:
    """Within 0.5 % on the hard task; on the easy one within 5 %: noise multiplies noise there."""
    budget = 2**15
    for task, tolerance in ((HARD, 0.005), (EASY, 0.05)):
        law = fsl.Law.of(task)
        for share in (0.0, 0.25, 0.75, 0.97):
            stages = fsl.Stages.switch(budget, 8, 128, share)
            exact = fsl.exact_risk(task, stages, modes=800)[0]
            assert law.risk(stages) == pytest.approx(exact, rel=tolerance)


@given(
    source=st.floats(0.05, 2),
    capacity=st.floats(1.2, 4),
    pairs=st.lists(
        st.tuples(st.integers(1, 500), st.integers(1, 500)), min_size=1, max_size=5
    ),
)
def test_more_noise_and_smaller_batches_are_never_better(
    source: float, capacity: float, pairs: list[tuple[int, int]]
) -> None:
    law = fsl.Law.of(fsl.PowerLaw(source=source, capacity=capacity))
    noisy = fsl.Law.of(fsl.PowerLaw(source=source, capacity=capacity, noise=4.0))
    larger = fsl.Stages.of(*[(2 * size, count) for size, count in pairs])
    risk = law.risk(fsl.Stages.of(*pairs))
    assert law.risk(larger) < risk < noisy.risk(fsl.Stages.of(*pairs))
    assert law.without_own_noise().risk(fsl.Stages.of(*pairs)) < risk


@given(
    pairs=st.lists(
        st.tuples(st.integers(1, 9), st.integers(1, 99)), min_size=1, max_size=4
    )
)
def test_cutting_a_stage_in_two_changes_nothing(pairs: list[tuple[int, int]]) -> None:
    law = fsl.Law.of(HARD)
    cut = [
        half
        for size, count in pairs
        for half in ((size, count // 2), (size, -(-count // 2)))
    ]
    whole = fsl.Stages.of(*pairs)
    parts = fsl.Stages.of(*[(size, count) for size, count in cut if count])
    assert parts.data == whole.data
    assert law.risk(parts) == pytest.approx(law.risk(whole), rel=1e-3)


def test_catch_up_is_sublinear_iff_the_task_is_hard() -> None:
    at = [1000, 4000, 16000]
    hard, easy = (
        [fsl.Law.of(task, finite_step=False).catch_up(8, 128, steps) for steps in at]
        for task in (fsl.PowerLaw(source=0.4, capacity=2), EASY)
    )
    assert hard == pytest.approx([12, 37, 111], abs=2)
    assert easy == pytest.approx([1609, 3962, 8486], rel=0.02)
    assert hard[-1] / at[-1] < 0.7 * hard[0] / at[0]


# --- the optimum ----------------------------------------------------------------------------------


def growth(stages: fsl.Stages) -> tuple[np.ndarray, np.ndarray]:
    """Return the time to go and the batch where it grows freely, in logarithms."""
    sizes = stages.per_step().astype(float)
    to_go = len(sizes) - np.arange(len(sizes)) - 0.5
    free = (sizes > 30) & (to_go > 20)
    return np.log(to_go[free]), np.log(sizes[free])


@pytest.mark.parametrize(
    ("task", "risk", "growing"), [(HARD, 0.057794, 0.02), (EASY, 0.000096, 1.0)]
)
def test_the_best_schedule(task: fsl.PowerLaw, risk: float, growing: float) -> None:
    best = fsl.optimal(fsl.Law.of(task), BUDGET, least=8)
    sizes = best.schedule.per_step()
    assert best.schedule.data == BUDGET
    assert best.risk == pytest.approx(risk, rel=5e-3)
    assert all(a <= b for a, b in pairwise(best.schedule.sizes.tolist()))
    assert (sizes > 9).mean() <= growing
    slope = np.polyfit(*growth(best.schedule), 1)[0]
    assert slope == pytest.approx(1 / (2 * task.capacity) - 1, abs=0.02)


@pytest.mark.parametrize("task", [HARD, EASY, fsl.PowerLaw(source=0.5, capacity=1.5)])
def test_the_best_schedule_beats_every_hand_made_one_exactly(task: fsl.PowerLaw) -> None:
    budget = 2**15
    best = fsl.optimal(fsl.Law.of(task), budget, least=8, most=2048).schedule
    hand = [fsl.Stages.switch(budget, 8, large, x) for large in (32, 128, 512)
            for x in (0.0, 0.25, 0.5, 0.75, 0.9)]  # fmt: skip
    optimum = fsl.exact_risk(task, best, modes=500)[0]
    assert all(optimum < fsl.exact_risk(task, stages, modes=500)[0] for stages in hand)


@given(
    budget=st.integers(1, 10**6),
    least=st.integers(1, 64),
    factor=st.floats(1, 200),
    source=st.floats(0.1, 1.5),
)
def test_the_budget_and_the_bounds_are_kept(
    budget: int, least: int, factor: float, source: float
) -> None:
    most = round(least * factor)
    law = fsl.Law.of(fsl.PowerLaw(source=source, capacity=2))
    least = min(least, budget)
    schedule = fsl.optimal(law, budget, least, max(most, least)).schedule
    assert schedule.data == budget
    assert schedule.sizes.max() <= max(most, least)
    assert schedule.sizes.min() >= (least - 1 if budget >= most * most else least // 2)
    assert schedule.shares() == sorted(schedule.shares())


@pytest.mark.parametrize(("source", "power"), [(0.1, 0.733), (0.25, 0.833), (0.4, 0.933)])
def test_the_data_after_the_best_switch_grow_as_a_power_of_the_budget(
    source: float, power: float
) -> None:
    law = fsl.Law.of(fsl.PowerLaw(source=source, capacity=2), finite_step=False)
    budgets = [2**k for k in range(20, 37, 2)]
    after = [(1 - fsl.two_stage(law, budget, 8, 128)[0]) * budget for budget in budgets]
    slope = np.polyfit(np.log(budgets), np.log(after), 1)[0]
    assert slope == pytest.approx(power, abs=0.005)
    assert law.switch_exponent() == pytest.approx(power, abs=1e-3)


def test_easy_tasks_want_large_batches_from_the_start() -> None:
    assert fsl.two_stage(fsl.Law.of(EASY), 2**24, 8, 128)[0] == 0.0
    assert fsl.Law.of(EASY).easy
    assert not fsl.Law.of(fsl.PowerLaw(source=0.5, capacity=2)).easy


# --- the fit --------------------------------------------------------------------------------------


def curves(
    task: fsl.PowerLaw, floor: float, noise: float, seed: int = 0
) -> list[fsl.Curve]:
    """Return curves of constant batches, exact but for measurement noise."""
    draw = np.random.default_rng(seed)
    found: list[fsl.Curve] = []
    for batch, steps in ((8, 4096), (32, 2048), (128, 1024)):
        at = np.unique(np.geomspace(1, steps, 50).astype(int))
        exact = fsl.exact_risk(
            task, fsl.Stages.of((batch, steps)), at.tolist(), modes=400
        )
        wobble = 1 + noise * draw.standard_normal(len(at))
        found.append(
            fsl.Curve(
                f"{batch}", batch, task.lr, at.astype(float), (exact + floor) * wobble
            )
        )
    return found


def test_a_fit_predicts_schedules_that_it_has_not_seen() -> None:
    fitted = fsl.fit(curves(HARD, floor=0.5, noise=0.002))
    held_out = [fsl.Stages.switch(2**15, 8, 128, x) for x in (0.25, 0.5, 0.75, 0.9)]
    truth = [0.5 + fsl.exact_risk(HARD, stages, modes=400)[0] for stages in held_out]
    predicted = [fitted.predict(stages) for stages in held_out]
    assert [p.loss for p in predicted] == pytest.approx(truth, rel=0.01)
    assert np.argsort([p.loss for p in predicted]).tolist() == np.argsort(truth).tolist()
    assert all(p.low <= p.loss <= p.high for p in predicted)
    low, high = fitted.interval("source")
    assert low <= HARD.source <= high
    assert fitted.error < 0.005


def test_a_fit_is_surer_of_cleaner_curves() -> None:
    widths = []
    for noise in (0.0005, 0.005):
        low, high = fsl.fit(curves(HARD, floor=0.5, noise=noise)).interval("source")
        widths.append(high - low)
    assert widths[0] < widths[1]


# --- run lengths ----------------------------------------------------------------------------------


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=40))
def test_run_lengths_are_the_steps(sizes: list[int]) -> None:
    stages = fsl.Stages.runs(np.array(sizes))
    assert stages.per_step().tolist() == sizes
    assert (
        stages.until(len(sizes) // 2 + 1).per_step().tolist()
        == sizes[: len(sizes) // 2 + 1]
    )


@pytest.mark.soak
def test_the_whole_table_of_the_exact_recursion() -> None:
    """A million samples, 3,000 features: within 1 % on the hard task, 5 % on the easy one."""
    for task, tolerance in ((HARD, 0.01), (EASY, 0.05)):
        law = fsl.Law.of(task)
        exact = {name: fsl.exact_risk(task, stages)[0] for name, stages in HAND.items()}
        found = {name: law.risk(stages) for name, stages in HAND.items()}
        assert found == pytest.approx(exact, rel=tolerance)
        assert sorted(exact, key=exact.__getitem__) == sorted(
            found, key=found.__getitem__
        )
        best = fsl.optimal(law, BUDGET, least=8)
        assert fsl.exact_risk(task, best.schedule)[0] < min(exact.values())
        assert fsl.exact_risk(task, best.schedule)[0] == pytest.approx(
            best.risk, rel=0.02
        )
