"""Claims: what was expected beforehand decides, and what is done is kept."""

from __future__ import annotations

import json
from math import exp, isfinite, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call, grad, vmap

from decentral import api
from decentral.claims import (
    FAILS,
    HOLDS,
    OPEN,
    PARTLY,
    UNFIT,
    Expectation,
    heart,
    verdict,
)
from decentral.claims.base import Lab
from decentral.claims.trials import BROKEN, Trial, trial
from decentral.cli import run
from decentral.registry import find, names
from decentral.tasks.models.moe import moe
from decentral.theory import heads
from decentral.theory.reduced import Mixed, flow, phases
from decentral.traits import ClaimTraits, traits_of

CLAIMS = names("claim")
every_claim = pytest.mark.parametrize("claim", CLAIMS)


def tried(claim: str, folder: Path, **settings: Any) -> Trial:
    return trial(
        claim, folder, lambda text: None, seeds=(0,), device="cpu", settings=settings
    )


# --- the verdict ----------------------------------------------------------------------------------

HEART, REST, OTHER = (
    Expectation("a", "", low=0.0),
    Expectation("b", "", high=1.0),
    Expectation("c", "", high=1.0),
)


@pytest.mark.parametrize(
    ("a", "b", "c", "judged"),
    [
        ([1.0, 2.0], [0.5, 1.0], [0.0, 0.0], HOLDS),
        ([1.0, 2.0], [0.5, 1.1], [0.0, 0.0], PARTLY),
        ([1.0, 2.0], [0.5, 1.1], [2.0, 0.0], FAILS),
        ([1.0, -0.1], [0.5, 1.0], [0.0, 0.0], FAILS),
        ([float("nan"), 1.0], [0.5, 0.5], [0.0, 0.0], FAILS),
        ([], [0.5], [0.5], FAILS),
    ],
)
def test_a_verdict_needs_the_heart_and_half_of_the_rest(
    a: list[float], b: list[float], c: list[float], judged: str
) -> None:
    assert verdict([HEART, REST, OTHER], {"a": a, "b": b, "c": c}) == judged


@pytest.mark.parametrize(
    ("rest", "judged"),
    [
        ("met met open", PARTLY),
        ("met open open", OPEN),
        ("lost open open", OPEN),
        ("lost lost open", FAILS),
        ("open", OPEN),
    ],
)
def test_what_is_open_leaves_open_what_it_would_decide(rest: str, judged: str) -> None:
    values = {"met": [1.0, 1.01], "lost": [-1.0, -1.01], "open": [-1.0, 1.0]}
    others = [
        Expectation(f"{place}", "", low=0.0, over="interval", effect=0.5)
        for place in range(len(rest.split()))
    ]
    figures = {str(place): values[word] for place, word in enumerate(rest.split())}
    assert verdict([HEART, *others], {"a": [1.0], **figures}) == judged


@pytest.mark.parametrize(
    ("values", "judged"),
    [
        ([0.02, 0.021, 0.022], HOLDS),  # 0.021 plus or minus 0.0025
        ([0.0, 0.0, 0.0], FAILS),  # the method off: no difference is no gain
        ([0.004, 0.005, 0.006], HOLDS),  # less than the paper's, and a gain
        ([-0.005, 0.0, 0.006], OPEN),  # may be 0, may be what the paper found
        ([-0.001, 0.0, 0.001], FAILS),  # excludes what the paper found
        ([-0.03, -0.02, -0.01], FAILS),
        ([0.03], OPEN),  # one seed has no interval
        ([0.03, float("inf")], FAILS),
    ],
)
def test_an_interval_over_seeds_judges_a_gain(values: list[float], judged: str) -> None:
    """It holds above the limit, fails short of what the paper reports, else is open."""
    gain = Expectation("a", "", low=0.0, over="interval", effect=0.01)
    loss = Expectation("a", "", high=0.0, over="interval", effect=-0.01)
    assert verdict([gain], {"a": values}) == judged
    assert verdict([loss], {"a": [-value for value in values]}) == judged


@pytest.mark.parametrize(
    ("values", "met"),
    [
        ([0.004, 0.005, 0.006], True),
        ([0.009, 0.01, 0.011], None),
        ([0.019, 0.02, 0.021], False),
    ],
)
def test_an_interval_judges_a_margin(values: list[float], met: bool | None) -> None:
    within = Expectation("a", "", low=-0.01, high=0.01, over="interval")
    assert within.judge(values) is met


def test_what_is_so_by_design_judges_nothing_and_a_condition_comes_first() -> None:
    known = Expectation("b", "", low=0.0, role="by design")
    given_ = Expectation("c", "", low=3.0, role="condition")
    assert heart([known, HEART]) is HEART
    assert verdict([known, HEART], {"a": [-1.0], "b": [1.0]}) == FAILS
    assert verdict([known, HEART], {"a": [1.0], "b": [1.0]}) == HOLDS
    assert verdict([HEART, given_], {"a": [1.0], "c": [2.0]}) == UNFIT
    assert verdict([HEART, given_], {"a": [-1.0], "c": [2.0]}) == UNFIT
    assert verdict([HEART, given_], {"a": [1.0], "c": [3.0]}) == HOLDS
    spare = Expectation("d", "", low=1.0, optional=True)
    assert spare.judge([]) is None
    assert verdict([HEART, spare], {"a": [1.0]}) == HOLDS
    assert verdict([HEART, spare], {"a": [1.0], "d": [0.0]}) == FAILS


def test_the_middle_of_the_seeds_is_judged_where_that_was_said() -> None:
    values = [0.1, 0.2, 9.0]
    assert not Expectation("a", "", high=1.0).is_met(values)
    assert not Expectation("a", "", high=1.0, over="mean").is_met(values)
    assert Expectation("a", "", high=1.0, over="median").is_met(values)


@every_claim
def test_a_claim_says_beforehand_what_it_expects_and_can_fail(claim: str) -> None:
    traits = traits_of(find("claim", claim), ClaimTraits)
    assert traits.says.endswith(".")
    assert traits.paper
    expected = traits.expect
    assert all(
        one.means and (isfinite(one.low) or isfinite(one.high)) for one in expected
    )
    beyond = {one.figure: [_outside(one)] * 3 for one in expected}
    assert verdict(expected, beyond) in (FAILS, UNFIT)
    assert verdict([heart(expected)], beyond) == FAILS
    within = {one.figure: [_inside(one)] * 3 for one in expected}
    assert verdict(expected, within) == HOLDS


def _outside(one: Expectation) -> float:
    return one.low - 1 if isfinite(one.low) else one.high + 1


def _inside(one: Expectation) -> float:
    if isfinite(one.low) and isfinite(one.high):
        return (one.low + one.high) / 2
    return one.low + 1e-9 if isfinite(one.low) else one.high - 1e-9


# --- trying ---------------------------------------------------------------------------------------


@every_claim
def test_the_size_for_a_gpu_is_a_valid_one(claim: str, tmp_path: Path) -> None:
    full = trial(claim, tmp_path, print, seeds=(0,), size="gpu")
    assert full.rule.settings.keys() == find("claim", claim).settings.keys()


@pytest.fixture
def shaky(tmp_path: Path) -> str:
    """A claim in a file of its own that fails at seed 1 while a marker is there."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from pathlib import Path\n"
        "from decentral import plugin\n"
        "from decentral.claims import Expectation, Findings\n\n"
        f"MARK, LOG = Path({str(tmp_path / 'mark')!r}), Path({str(tmp_path / 'log')!r})\n\n\n"
        "@plugin('claim', paper='nobody', says='It works.',\n"
        "        expect=(Expectation('x', 'it is one', low=1.0),))\n"
        "def shaky(lab, seed):\n"
        "    '''Try.'''\n"
        "    with LOG.open('a') as log:\n"
        "        log.write(f'{seed} ')\n"
        "    if seed and MARK.exists():\n"
        "        raise LookupError('the mark is there')\n"
        "    return Findings({'x': 1.0})\n"
    )
    return f"{file}:shaky"


@pytest.fixture
def steady(tmp_path: Path) -> str:
    """A claim in a file of its own whose heart holds, and half of the rest."""
    file = tmp_path / "steady.py"
    file.write_text(
        "from decentral import plugin\n"
        "from decentral.claims import Expectation, Findings\n\n\n"
        "@plugin('claim', paper='nobody', says='It works.', expect=(\n"
        "    Expectation('x', 'it is one', low=1.0),\n"
        "    Expectation('x', 'it is two', low=2.0),\n"
        "    Expectation('x', 'it is at most one', high=1.0),\n"
        "))\n"
        "def steady(lab, seed):\n"
        "    '''Try.'''\n"
        "    return Findings({'x': 1.0})\n"
    )
    return f"{file}:steady"


def test_what_is_done_is_kept_and_what_failed_is_tried_again(
    shaky: str, tmp_path: Path
) -> None:
    mark, log = tmp_path / "mark", tmp_path / "log"
    mark.touch()
    one = trial(shaky, tmp_path / "out", print, seeds=(0, 1))
    assert one.outcome()["verdict"] == BROKEN
    mark.unlink()
    record = one.outcome()
    assert (record["verdict"], record["figures"]) == (HOLDS, {"x": [1.0, 1.0]})
    assert log.read_text() == "0 1 1 "


def test_a_seed_can_be_tried_before_anything_else_of_its_claim(
    shaky: str, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "not" / "yet"
    record = trial(shaky, folder, print, seeds=(0,)).findings(0)
    assert record["figures"] == {"x": 1.0}
    assert (folder / "shaky" / "seed-0.json").exists()


def test_a_claim_that_cannot_be_run_does_not_stop_the_others(
    shaky: str, steady: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mark").touch()
    words = [
        "reproduce",
        shaky,
        steady,
        "--seeds",
        "0,1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert run([*words, "--jobs", "1"]) == 1
    out, err = capsys.readouterr()
    assert "the mark is there" in out
    assert "holds in part" in out
    assert "shaky could not be run" in err
    assert "the mark is there" in (tmp_path / "out" / "claims.html").read_text()


@pytest.mark.slow
def test_seeds_at_a_time_give_what_they_give_one_after_the_other(
    shaky: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where one of them fails, which does not stop the other."""
    (tmp_path / "mark").touch()
    words = [
        "reproduce",
        shaky,
        "--seeds",
        "1,0",
        "--out",
        str(tmp_path / "out"),
        "--jobs",
        "2",
    ]
    assert run(words) == 1
    assert "raised LookupError: the mark is there" in " ".join(
        capsys.readouterr().out.split()
    )
    error = json.loads((tmp_path / "out" / "shaky" / "outcome.json").read_text())["error"]
    assert error.startswith("claim 'shaky' raised LookupError: the mark is there (")
    assert error.endswith("mine.py:15).")
    assert (tmp_path / "out" / "shaky" / "seed-0.json").exists()
    (tmp_path / "mark").unlink()
    assert run([*words[:-1], "1"]) == 0
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "1", "1"]
    record = trial(shaky, tmp_path / "out", print, seeds=(0, 1)).outcome()
    assert (record["verdict"], record["figures"]) == (HOLDS, {"x": [1.0, 1.0]})


def test_what_is_found_in_the_folder_needs_no_process(
    shaky: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "reproduce",
        shaky,
        "--seeds",
        "0,1",
        "--out",
        str(tmp_path / "out"),
        "--jobs",
    ]
    assert run([*words, "1"]) == 0
    monkeypatch.setattr("decentral.claims.trials._apart", None)
    assert run([*words, "2"]) == 0
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "1"]


def test_a_lab_makes_every_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    lab = Lab(tmp_path, said.append, "cpu")
    settings = {"task": "quadratic", "nodes": 2, "steps": 4}
    first = lab.run("a run", **settings)
    monkeypatch.setattr(api, "begin_run", None)
    assert lab.run("a run", **settings).path == first.path
    assert said == ["a run"]


# --- what claims are made of ----------------------------------------------------------------------


@given(
    k=st.floats(-0.6, 0.6), q=st.floats(-0.6, 0.6), v=st.floats(-1.0, 1.0),
    alpha=st.floats(0.1, 5.0), match=st.floats(0.05, 0.65),
)  # fmt: skip
def test_flows_go_down_their_losses(
    k: float, q: float, v: float, alpha: float, match: float
) -> None:
    model = Mixed(alpha=alpha, match=match, length=1.0)
    for loss, field, state in (
        (model.induction_loss, model.induction_field, (k, q, v)),
        (model.gram_loss, model.gram_field, (abs(k), v)),
    ):
        for place, slope in enumerate(field(state)):
            ahead, behind = list(state), list(state)
            ahead[place] += 1e-6
            behind[place] -= 1e-6
            downhill = -(loss(tuple(ahead)) - loss(tuple(behind))) / 2e-6
            assert slope == pytest.approx(downhill, abs=1e-6)


def test_a_flow_follows_an_exponential() -> None:
    levels = [0.5, 0.1, 1e-3]
    points, reached = flow(lambda x: (-x[0],), (1.0,), lambda x: x[0], levels)
    assert reached == pytest.approx([-log(level) for level in levels], rel=1e-6)
    assert [loss for _, loss in points] == pytest.approx(
        [exp(-time) for time, _ in points]
    )
    assert points[-1][1] == pytest.approx(levels[-1])
    ends, _ = flow(lambda x: (-x[0],), (1.0,), lambda x: x[0], levels[:1], until=5.0)
    assert ends[-1] == pytest.approx((5.0, exp(-5.0)))


def test_the_phases_of_the_reduced_model_have_the_lengths_of_theory() -> None:
    """The plateau ends within its predicted length; the shift knows no L, and ends as 1/(4t)."""
    short, long = phases(Mixed(start=1e-4)), phases(Mixed(start=1e-4, length=4000.0))
    assert 0.5 < short.leaves / Mixed(start=1e-4).plateau < 1.0
    assert long.leaves == pytest.approx(4 * short.leaves, rel=1e-6)
    assert long.learned == pytest.approx(short.learned, rel=1e-6)
    assert short.learned < short.leaves < short.arrives
    assert short.tail == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("history", "neurons", "slack"), [(1, 0, 1e-5), (2, 0, 1e-5), (1, 2000, 1e-4)]
)
def test_heads_that_are_built_answer_as_induction_heads(
    history: int, neurons: int, slack: float
) -> None:
    """Of n symbols, and by distance where there is a feed-forward part."""
    symbols = np.random.default_rng(7).standard_normal((5, 9, 3))
    right = np.zeros((5, 3))
    for row, x in enumerate(symbols):
        x = np.vstack([np.zeros((history, 3)), x])  # what is before the first is 0
        last = x[-history:]
        weights = [
            exp(2 * (-np.square(last - u).sum() / 2 if neurons else (last * u).sum()))
            for u in (x[k : k + history] for k in range(9))
        ]
        right[row] = np.average(x[history:], axis=0, weights=weights)
    found = heads.target(symbols, history, 2.0, distance=neurons > 0)
    assert found == pytest.approx(right)
    built = heads.Built(history, None, 14.0, 2.0, neurons)
    assert heads.error(built, symbols, right) < slack


def test_the_balance_penalty_shapes_gradients_but_not_the_loss() -> None:
    """The gradient equals that of the loss plus the penalty, row by row under vmap, too."""
    torch.manual_seed(0)
    x, plain = torch.randn(64, 3), moe((3,), 1, balance=0.0)
    balanced = moe((3,), 1, balance=0.5)
    state = dict(plain.named_parameters())

    def loss(module: torch.nn.Module, row: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(module, row, (x,)).square().mean()

    def penalty(row: dict[str, torch.Tensor]) -> torch.Tensor:
        p = (x @ row["layers.0.gate.weight"].T + row["layers.0.gate.bias"]).softmax(-1)
        chosen = (p.argmax(-1, keepdim=True) == torch.arange(4)).to(p.dtype)
        return 0.5 * 4 * (chosen.mean(0) * p.mean(0)).sum()

    assert loss(balanced, state) == loss(plain, state)
    rows = {name: torch.stack([value, 1.1 * value]) for name, value in state.items()}
    found = vmap(grad(lambda row: loss(balanced, row)))(rows)
    wanted = vmap(grad(lambda row: loss(plain, row) + penalty(row)))(rows)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value)
