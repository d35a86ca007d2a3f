"""Every claim can be lost: with its method off, its heart no longer holds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from decentral import api
from decentral.claims import FAILS, HOLDS, UNFIT, heart
from decentral.claims.base import Lab
from decentral.claims.communication import find_mnist, stays_mergeable
from decentral.claims.trials import BROKEN, Trial, trial
from decentral.registry import find, names
from decentral.report.studies import claims_html
from decentral.traits import ClaimTraits, traits_of

pytestmark = [pytest.mark.claims, pytest.mark.timeout(400)]

CLAIMS = names("claim")
every_claim = pytest.mark.parametrize("claim", CLAIMS)
SEEDS = (0, 1, 2)
PAGE = Path(__file__).parent.parent / "docs" / "claims.md"


def traits(claim: str) -> ClaimTraits:
    return traits_of(find("claim", claim), ClaimTraits)


#: Those that have a size for a test.
QUICK = [claim for claim in CLAIMS if traits(claim).quick]


def tried(
    claim: str, folder: Path, seeds: tuple[int, ...] = (0,), **settings: Any
) -> Trial:
    return trial(
        claim, folder, lambda text: None, seeds=seeds, device="cpu", settings=settings
    )


@every_claim
def test_a_claim_is_lost_without_its_method(
    claim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At one size and the same seeds the heart holds, and with the method off it fails.

    Where no size that was tried shows it, the page must not say that it holds; that it
    fails without the method is seen at any size.
    """
    declared = traits(claim)
    decisive, size = heart(declared.expect), dict(declared.quick or declared.tiny)
    if "arms" in find("claim", claim).settings:
        size["arms"] = "heart"
    assert declared.off
    read_little(monkeypatch)
    judged: list[bool | None] = []
    record: dict[str, Any] = {}
    for other in ({}, declared.off) if claim in QUICK else (declared.off,):
        # What both arms have in common is made once.
        record = tried(claim, tmp_path, SEEDS, **{**size, **other}).outcome()
        assert record["verdict"] != BROKEN, record["error"]
        judged.append(decisive.judge(record["figures"][decisive.figure]))
    assert judged[-1] is False, record["figures"]
    if claim in QUICK:
        assert judged == [True, False], record["figures"]
    else:
        spoken = claim.replace("_", "-")
        (line,) = (
            line
            for line in PAGE.read_text(encoding="utf-8").splitlines()
            if line.startswith(f"| [{spoken}]")
        )
        assert f"| {HOLDS}" not in line


# --- the machinery --------------------------------------------------------------------------------

#: Measurements for the size of a test; those of the claims take most of its time.
SMALLER = {"curvature": "curvature(samples=16, iterations=3, probes=3)"}


@cache
def little_text() -> str:
    """Return the beginning of the language reference."""
    from pydoc_data.topics import topics

    return "\n".join(topics.values())[:100_000]


def read_little(monkeypatch: pytest.MonkeyPatch, **smaller: str) -> None:
    """Let claims read a short text, and make measurements smaller."""
    run = Lab.run

    def run_small(lab: Lab, label: str, **settings: Any) -> api.Run:
        task = settings.get("task")
        if isinstance(task, dict) and task["name"] == "text":
            lab.folder.mkdir(parents=True, exist_ok=True)
            text = (lab.folder / "text.txt").resolve()
            text.write_text(little_text(), encoding="utf-8")
            cache = str(lab.folder.resolve() / "cache")
            settings["task"] = {**task, "path": str(text), "cache": cache}
        if "metrics" in settings:
            settings["metrics"] = [
                smaller.get(name, name) for name in settings["metrics"]
            ]
        return run(lab, label, **settings)

    monkeypatch.setattr(Lab, "run", run_small)


@every_claim
def test_a_claim_measures_what_it_expects(
    claim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_little(monkeypatch, **SMALLER)
    record = tried(claim, tmp_path, **traits(claim).tiny).outcome()
    assert "error" not in record
    asked = {one.figure for one in traits(claim).expect if not one.optional}
    assert asked <= set(record["figures"])
    assert record["panels"]
    assert all(len(x) == len(y) > 0 for panel in record["panels"] for curve in panel["curves"]
               for x, y in curve["lines"])  # fmt: skip
    assert record["claim"].replace("_", "-") in claims_html([record])


# --- one merge ------------------------------------------------------------------------------------


class Scored:
    """A run whose merge and local models have these accuracies, every step."""

    def __init__(self, merged: list[float], local: list[float]) -> None:
        self.rows = [
            {"step": step, "accuracy/merged": one, "accuracy/local_mean": own}
            for step, (one, own) in enumerate(zip(merged, local, strict=True))
        ]


def test_models_stay_mergeable_where_their_merge_is_better_at_every_moment() -> None:
    """But for the first fifth, in which all are alike."""
    never = Scored([0.1, 0.2, 0.2, 0.2, 0.1, 0.1], [0.1, 0.3, 0.3, 0.3, 0.3, 0.3])
    sparse = Scored([0.1, 0.5, 0.7, 0.4, 0.9, 0.9], [0.1, 0.3, 0.4, 0.5, 0.6, 0.6])
    least, panel = stays_mergeable(sparse, never)
    assert least == pytest.approx(0.2)
    gain, _ = panel.curves
    assert gain.y == pytest.approx([0.0, 0.2, 0.3, -0.1, 0.3, 0.3])


def test_without_mnist_its_arm_is_left_out_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setenv("DECENTRAL_DATA", str(tmp_path))
    lab = Lab(tmp_path, said.append)
    assert find_mnist(lab) is None
    assert said == [
        f"not run: the arm on MNIST ({tmp_path / 'mnist'} is no folder; see DECENTRAL_DATA)"
    ]
    (tmp_path / "mnist").mkdir()
    assert find_mnist(lab) == {"name": "mnist", "path": str(tmp_path / "mnist")}


# --- stragglers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slow", "verdict_", "unmet"),
    [
        # Nobody is slow: there is nothing to find.
        (lambda factor: 1.0, UNFIT, "slower by a straggler, rounds"),
        # Everybody is: not waiting for others helps nobody.
        (lambda factor: factor, FAILS, "slower by a straggler, ad_psgd"),
    ],
)  # fmt: skip
def test_the_claim_on_stragglers_fails_where_it_should(
    slow: Any, verdict_: str, unmet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from decentral.claims import asynchrony

    def machines(lab: Lab, name: str, seed: int, factor: float) -> dict[str, Any]:
        """Give all machines one speed."""
        return {"name": "lognormal", "median": 0.02 * slow(factor), "nodes_spread": 0.02}

    monkeypatch.setattr(asynchrony, "_trace", machines)
    given = {"steps": 16, "loss": 2.2}
    record = tried("asynchronous_stragglers", tmp_path, (0, 1), **given).outcome()
    assert record["verdict"] == verdict_
    met = {one["figure"]: one["met"] for one in record["expected"]}
    assert not met[unmet]
