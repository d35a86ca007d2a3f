"""The size long: text that is not trained on, rates that are tuned, controls, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from decentral import ConfigError
from decentral.claims import trials
from decentral.claims.base import Lab
from decentral.claims.long import ARMS, Study, compare, end_loss, long_claim, write_text
from decentral.cli import run as cli
from decentral.traits import ClaimTraits, traits_of


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for k in range(24):
        package = folder / ("test" if k < 4 else f"part{k % 3}")
        package.mkdir(parents=True, exist_ok=True)
        lines = [f"def name_{k}_{i}(x):\n    return x + {i}\n" for i in range(20)]
        (package / f"module{k}.py").write_text("".join(lines), encoding="utf-8")
    return folder


def test_files_for_the_test_are_not_trained_on_and_tests_are_no_text(
    source: Path, tmp_path: Path
) -> None:
    train, test = (file.read_text() for file in write_text(tmp_path / "text", source))
    apart = {k for k in range(24) if f"name_{k}_" in test}
    assert len(apart) == 10  # too few for 200,000 bytes: half of the files
    assert {k for k in range(24) if f"name_{k}_" in train} == {*range(4, 24)} - apart
    assert write_text(tmp_path / "text", Path("nowhere"))[0].read_text() == train


def test_text_without_files_to_spare_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("x = 1")
    with pytest.raises(ConfigError, match="1 Python files are no text"):
        write_text(tmp_path / "text", tmp_path)


class Bowl(Study):
    """Losses by a formula, in the place of runs."""

    def __init__(self, best: float) -> None:
        super().__init__(Lab(Path(), print), {}, 1, "cosine")
        self.best, self.asked = best, list[tuple[float, int]]()

    def run(self, side: str, settings: Any, lr: float, seed: int) -> Any:
        self.asked.append((lr, seed))
        loss = abs(lr / self.best - 1) + 0.01 * seed
        return type("Run", (), {"summary": {"final": {"loss/merged": loss}}})


@pytest.mark.parametrize(
    ("best", "tried", "inside"), [(1.0, 3, True), (4.0, 7, True), (1e9, 7, False)]
)
def test_a_grid_is_extended_until_its_best_rate_is_inside(
    best: float, tried: int, inside: bool
) -> None:
    bowl = Bowl(best)
    lr, found = bowl.tune("side", {}, 1.0)
    assert found == inside
    assert len({lr for lr, _ in bowl.asked}) == tried
    assert {seed for _, seed in bowl.asked} == {0, 1}
    if inside:
        assert lr == pytest.approx(best)
    rates = sorted(bowl.tuned["side"])
    assert rates[1] / rates[0] == pytest.approx(2**0.5)


@pytest.fixture
def small(source: Path, tmp_path: Path) -> Study:
    """Runs of two steps of a tiny model."""
    train, test = write_text(tmp_path / "text", source)
    task = {"name": "text", "path": str(train), "test": str(test), "context": 8}
    model = {"name": "gpt", "layers": 1, "width": 8, "heads": 2}
    lab = Lab(tmp_path / "claim", lambda text: None)
    return Study(lab, {"task": task, "model": model}, 4096, "cosine")


@pytest.mark.parametrize("arm", ARMS)
def test_with_the_method_off_both_sides_are_one(arm: str, small: Study) -> None:
    chosen = ARMS[arm]
    sides = {**chosen.sides, "off": chosen.off}
    base, method, off = (
        end_loss(small.run(side, settings, 0.01, seed=0))
        for side, settings in sides.items()
    )
    assert abs(off - base) <= chosen.slack
    assert method != base


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_experts_take_the_product_that_is_fast_on_a_cpu(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of transformers for rows one by one; the one for many rows is not called."""
    moe = pytest.importorskip("transformers.integrations.moe")
    monkeypatch.setattr(moe, "batched_mm_experts_forward", None)
    settings: dict[str, Any] = {
        "arm": "gradpower", "tokens": 4096, "width": 8, "layers": 1, "path": str(source),
        "model": "qwen2_moe", "decay": "wsd",
    }  # fmt: skip
    monkeypatch.setattr(Study, "tune", lambda study, side, settings, start: (start, True))
    monkeypatch.setattr(Study, "panel", lambda study, arm: None)
    found = compare(Lab(tmp_path / "claim", lambda text: None), 0, **settings)
    assert found.figures["with the method off"] == 0.0
    assert found.figures["AdamW minus AdamPower"] != 0.0


@pytest.mark.soak
@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_runs_whole_and_goes_on_where_it_stopped(
    arm: Any, source: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "arm": arm, "tokens": 4096, "width": 8, "layers": 1, "path": str(source),
    }  # fmt: skip
    found = compare(Lab(tmp_path / "claim", lambda text: None), 0, **settings)
    expected = traits_of(long_claim(arm), ClaimTraits).expect
    assert {one.figure for one in expected} <= set(found.figures)
    # Every run is found, none is made.
    again = compare(Lab(tmp_path / "claim", pytest.fail), 0, **settings)
    assert again.figures == found.figures


@pytest.mark.parametrize(
    ("gain", "best", "verdict"),
    [
        (0.02, 1e-3, "holds"), (-0.02, 1e-3, "does not reproduce at this size"),
        (0.002, 1e-3, "not separable at this size"), (0.02, 1e9, "not fit to judge at this size"),
    ],
)  # fmt: skip
def test_a_size_has_a_folder_of_its_own_and_is_judged_by_the_interval(
    gain: float, best: float, verdict: str, source: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def run(study: Study, side: str, settings: Any, lr: float, seed: int) -> Any:
        loss = 2 + abs(lr / best - 1) + 0.01 * seed
        if side == "AdamPower":
            loss -= gain + 0.005 * (seed - 1)
        if side.startswith("control"):
            loss = 2 + seed * 0.001 + (side == "control AdamW")
        summary = {"final": {"loss/merged": loss}}
        return type("Run", (), {"summary": summary, "rows": []})

    monkeypatch.setattr(Study, "run", run)
    given = {"path": str(source)}
    one = trials.trial("gradpower", tmp_path, print, size="long", settings=given)
    assert one.seeds == (0, 1, 2, 3, 4, 5)
    three = trials.trial(
        "gradpower", tmp_path, print, size="long", settings=given, seeds=(0, 1, 2)
    )
    record = three.outcome()
    assert (record["claim"], record["size"]) == ("gradpower", "long")
    assert (tmp_path / "gradpower-long/outcome.json").exists()
    assert record["verdict"] == verdict


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("reproduce gradpower --size log", "Did you mean 'long'?"),
        ("reproduce late-sam --size long", "has no size long"),
        ("reproduce lite --size long --jobs 4", "share the runs that tune"),
    ],
)
def test_wrong_sizes_are_refused(
    words: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli([*words.split(), "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
