"""Late switch of the batch size."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Literal

from decentral.claims.base import Curve, Expectation, Findings, Lab, Panel, series
from decentral.registry import Count, plugin
from decentral.theory import fsl

#: Shares of the data at which the switch is tried, and sources of a hard and of an
#: easy task.
_SHARES, _HARD, _EASY = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.97, 1.0), 0.25, 1.0
#: Sources from the hardest task to the easiest.
_SOURCES = (0.125, 0.25, 0.5, 1.0)


@plugin(
    "claim",
    tiny={"log2_budget": 12, "samples": 512},
    quick={"log2_budget": 14, "arms": "heart"},
    off={"large": 8},
    paper="Wang et al., Fast catch-up, late switching, ICLR 2026",
    says="On hard tasks the batch should grow late, on easy tasks early; the loss catches up fast "
    "after a late switch on hard tasks, and slowly on easy ones.",
    expect=(
        Expectation(
            "best share before the switch, hard", "on a hard task the switch belongs late",
            low=0.75, high=0.99,
        ),
        Expectation(
            "best share before the switch, easy", "on an easy task it belongs to the start",
            high=0.02,
        ),
        Expectation(
            "late over constant large, hard", "late switching beats large batches", high=0.7
        ),
        Expectation(
            "late over constant small, hard", "and small batches", high=0.9
        ),
        Expectation(
            "optimum over best switch, hard", "the computed optimum beats every switch", high=1.0
        ),
        Expectation(
            "optimum over best switch, easy", "on the easy task, too", high=1.0
        ),
        Expectation(
            "largest error of the law, hard", "the law predicts the exact risk", high=0.01
        ),
        Expectation(
            "share of the gap left, hard", "the loss catches up on the hard task: in 4 % of "
            "the time before, less than 0.3 of the gap to large batches is left",
            low=-0.3, high=0.3,
        ),
        Expectation(
            "catch-up over time before, hard", "it comes close to that of large batches at once",
            high=0.01,
        ),
        Expectation(
            "catch-up over time before, easy", "and takes its time on the easy one", low=0.2
        ),
        Expectation(
            "least rise of catch-up with ease", "the easier, the longer, over four tasks",
            low=0.0,
        ),
        Expectation(
            "late minus constant large, network", "a network under label noise prefers late "
            "switching to large batches", high=0.0, over="interval",
        ),
        Expectation(
            "late minus constant small, network", "and to small ones", high=0.0,
            over="interval",
        ),
        Expectation(
            "late minus early, network", "and to early switching", high=0.0, over="interval"
        ),
    ),
)  # fmt: skip
def late_switch_batch(
    lab: Lab,
    seed: int,
    *,
    log2_budget: Count = 20,
    small: Count = 8,
    large: Count = 128,
    samples: Count = 32_768,
    arms: Literal["all", "heart"] = "all",
) -> Findings:
    """Compute the exact risk of a kernel regression under switches; try them on a
    network.

    The features have variances j^-2, so that sources below 1/2 are hard; the
    learning rate is constant and the data budget 2^``log2_budget`` samples. That
    model knows no seed. The network learns digits of which every fifth label is
    redrawn at each visit, in ``samples`` visits: noise that does not vanish, as in
    the model; half of ``large`` is its large batch. What small batches lose there before
    the switch is within the noise of single evaluations, so that nothing is claimed of
    how fast a network catches up: at three times the rate they are 0.1 to 0.4 worse then,
    of which half was left. Other networks are in the documentation of batches.

    Args:
        lab: What runs the experiment and keeps its figures.
        seed: Seed of this repetition.
        log2_budget: Binary logarithm of the budget of samples.
        small: Batch size before the switch.
        large: Batch size after it.
        samples: Samples that the network visits.
        arms: Whether ``all`` is measured, or the ``heart``: the kernel regression.
    """
    budget = 2**log2_budget
    found = {
        word: _measure_task(source, budget, small, large)
        for word, source in (("hard", _HARD), ("easy", _EASY))
    }
    caught = [_catch_up(source, budget, small, large) for source in _SOURCES]
    hard = dict(zip(_SHARES, found["hard"][1].y, strict=True))
    figures = {
        f"{name}, {word}": value
        for word, (named, _) in found.items()
        for name, value in named
    } | {
        "late over constant large, hard": min(hard.values()) / hard[0.0],
        "late over constant small, hard": min(hard.values()) / hard[1.0],
        "least rise of catch-up with ease": min(b - a for a, b in pairwise(caught)),
    }
    panel = Panel(
        "Risk against the share of the data before the switch", "share of the data", "excess risk",
        [curve for _, curve in found.values()], "y",
    )  # fmt: skip
    if arms == "heart":
        return Findings(figures, [panel])
    network, trained = _network(lab, seed, samples, small, max(small, large // 2))
    return Findings(
        figures | network, [panel, _catching_up(small, large, budget), trained]
    )


def _measure_task(
    source: float, budget: int, small: int, large: int
) -> tuple[Iterable[tuple[str, float]], Curve]:
    """Return named figures of one task, and the exact risk at every share."""
    task = fsl.PowerLaw(source=source, capacity=2)
    law = fsl.Law.of(task)
    schedules = [fsl.Stages.switch(budget, small, large, share) for share in _SHARES]
    risks = [float(fsl.exact_risk(task, one)[0]) for one in schedules]
    errors = [
        abs(law.risk(one) / risk - 1) for one, risk in zip(schedules, risks, strict=True)
    ]
    best = fsl.optimal(law, budget, least=small)
    figures = {
        "best share before the switch": _SHARES[risks.index(min(risks))],
        "optimum over best switch": float(fsl.exact_risk(task, best.schedule)[0])
        / min(risks),
        "largest error of the law": max(errors),
        "catch-up over time before": _catch_up(source, budget, small, large),
        "share of the gap left": _gap_left(task, budget // small // 8, small, large),
    }
    word = "easy" if law.easy else "hard"
    return figures.items(), Curve(f"{word}, source {source:g}", list(_SHARES), risks)


def _catch_up(source: float, budget: int, small: int, large: int) -> float:
    """Return how long the predicted loss takes to catch up after a switch, over the time
    before it.

    Args:
        source: Source of the task.
        budget: Samples of the whole run.
        small: Batch size before the switch.
        large: Batch size after it.
    """
    before = budget // small // 8
    law = fsl.Law.of(fsl.PowerLaw(source=source, capacity=2))
    return law.catch_up(small, large, before) / before


def _gap_left(task: fsl.PowerLaw, before: int, small: int, large: int) -> float:
    """Return the share of the gap between small and large batches at a switch that is
    left after 4 % of the time before, exactly; none where there is no gap.

    Args:
        task: Spectrum, target and noise.
        before: Steps before the switch.
        small: Batch size before it.
        large: Batch size after it.
    """
    after = max(1, round(0.04 * before))

    def apart(*stages: tuple[int, int]) -> float:
        steps = sum(count for _, count in stages)
        of = fsl.Stages.of
        switched, always = of(*stages), of((large, steps))
        return float(fsl.exact_risk(task, switched)[0] - fsl.exact_risk(task, always)[0])

    gap = apart((small, before))
    return apart((small, before), (large, after)) / gap if gap else 0.0


def _catching_up(small: int, large: int, budget: int) -> Panel:
    """Draw the predicted risk around a switch beside that of batches that were
    always large.
    """
    before = budget // small // 8
    at = sorted({round(before * (0.25 + 0.025 * k)) for k in range(91)} - {0})
    curves: list[Curve] = []
    for word, source in (("hard", _HARD), ("easy", _EASY)):
        law = fsl.Law.of(fsl.PowerLaw(source=source, capacity=2))
        switched = fsl.Stages.of((small, before), (large, 2 * before))
        always = fsl.Stages.of((large, 3 * before))
        for name, stages in (("switched", switched), ("always large", always)):
            risk = [float(value) for value in law.curve(stages, at)]
            curves.append(Curve(f"{word}, {name}", [float(step) for step in at], risk))
    return Panel("Catching up after the switch", "step", "excess risk", curves, "y")


def _network(
    lab: Lab, seed: int, samples: int, small: int, large: int
) -> tuple[dict[str, float], Panel]:
    """Return figures and losses of a network on small and large batches, and switched
    between them.

    Args:
        lab: Where runs are made.
        seed: Seed of the runs.
        samples: Samples that the network visits.
        small: Batch size before the switch.
        large: Batch size after it.
    """
    before, after = 3 * samples // 4 // small, samples // 4 // large
    switch: dict[str, Any] = {"name": "late_switch", "from": small, "to": large}
    plans = {
        "small": ({"batch": small}, samples),
        "large": ({"batch": large}, samples),
        "early": ({"batch": {**switch, "at": "25%"}}, samples),
        "late": ({"batch": {**switch, "at": "75%"}}, samples),
        "always large": ({"batch": large}, large * (before + after)),
    }
    loss = {
        name: series(
            _digits(lab, name, seed, max(1, after // 4), data, **batch),
            name,
            "loss/merged",
        )
        for name, (batch, data) in plans.items()
    }
    end = {name: curve.y[-1] for name, curve in loss.items()}
    at = loss["late"].x.index(before)
    gap = loss["late"].y[at] - loss["always large"].y[at]
    figures = {
        "late minus constant large, network": end["late"] - end["large"],
        "late minus constant small, network": end["late"] - end["small"],
        "late minus early, network": end["late"] - end["early"],
        "gap to large batches at the switch, network": gap,
        "gap to large batches at the end, network": end["late"] - end["always large"],
    }
    return figures, Panel("A network", "step", "test loss", list(loss.values()), "xy")


def _digits(lab: Lab, name: str, seed: int, every: int, data: int, **batch: Any) -> Any:
    return lab.run(
        f"digits {name}", task="digits", model={"name": "mlp", "hidden": [32]}, nodes=1,
        algorithm="local", split="iid", sampling="resample", label_noise=0.2, seed=seed,
        optimizer={"name": "sgd", "momentum": 0.0}, learning_rate={"name": "constant", "lr": 0.1},
        data=f"{data} samples", eval_every=every, metrics=("loss",), **batch,
    )  # fmt: skip
