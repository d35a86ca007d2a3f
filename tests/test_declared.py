"""What members declare is what the run goes by: never their names, whoever brings them."""

from __future__ import annotations

import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_run

from decentral import ConfigError, RunError, plugin, plugins
from decentral.config import make_config, read_file
from decentral.errors import Place
from decentral.exchange.codec.base import coded_bytes
from decentral.loop.preparing import prepare
from decentral.loop.setup import Setup
from decentral.registry import build, find
from decentral.traits import (
    TRAITS,
    AlgorithmTraits,
    CommunicationTraits,
    MergeTraits,
    traits_of,
)


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(
        f"from decentral import plugin\n{textwrap.dedent(text)}", encoding="utf-8"
    )
    return path


def prepared(**settings: Any) -> Setup:
    return prepare(make_config({"task": "quadratic", "nodes": 4, "steps": 8} | settings))


# --- where members come from ----------------------------------------------------------------------


def installed(
    monkeypatch: pytest.MonkeyPatch, name: str, loads: Any, kind: str = "merges"
) -> None:
    point = EntryPoint(name, f"elsewhere:{name}", f"decentral.{kind}")
    monkeypatch.setattr(EntryPoint, "load", lambda self: loads())
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: [point] * (group == point.group)
    )


@pytest.mark.parametrize("name", ["half", "other"])
def test_an_entry_point_keeps_what_its_decorator_declared(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Under its own name or another, whenever its module was imported."""

    def load() -> Any:
        @plugin("merge", sees="models", nodes=2)
        def half(models: Any) -> Any:
            """Take the mean of two."""

        return half

    installed(monkeypatch, name, load)
    assert find("merge", name).name == name
    assert traits_of(find("merge", name), MergeTraits) == MergeTraits(
        sees="models", nodes=2
    )


def test_an_entry_point_without_a_decorator_declares_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed(monkeypatch, "plain", lambda: lambda samples: samples / samples.sum())
    assert traits_of(find("merge", "plain"), MergeTraits) == MergeTraits()


def test_a_file_keeps_traits_and_defaults_of_the_kind(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        @plugin("communication", closed_loop=True, final_merge=True)
        def nosy(progress, feedback): return 1.0
        """,
    )
    found = find("communication", f"{path}:nosy")
    assert traits_of(found, CommunicationTraits).closed_loop
    assert build("communication", f"{path}:nosy").common["final_merge"] is True
    assert build("communication", found.target).common["final_merge"] is True


def test_what_an_object_declares_for_one_kind_is_not_said_of_another() -> None:
    @plugin("merge", nodes=2)
    def both(samples: Any, nodes: int = 0, seed: int = 0) -> Any:
        """Be two things."""

    assert build("merge", both).plugin.kind == "merge"
    found = build("split", both)
    assert (found.plugin.kind, found.traits) == ("split", TRAITS["split"]())


# --- traits decide, names do not ------------------------------------------------------------------


def test_a_codec_is_uncoded_if_it_says_so(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        def none(rows, layout, draw): return rows / 2

        @plugin("codec", uncoded=True)
        def untouched(rows, layout, draw): return rows
        """,
    )
    for name, uncoded in ((f"{path}:none", False), (f"{path}:untouched", True)):
        algorithm = {"algorithm": "streaming_diloco", "codec": name}
        if uncoded:
            assert prepared(**algorithm).codec.name == "untouched"
        else:
            with pytest.raises(ConfigError, match="not sound with codecs"):
                prepared(**algorithm)


def test_a_codec_that_gives_no_size_sends_rows_as_wide_as_they_are() -> None:
    setup = prepared(codec=lambda rows, layout, draw: rows.round())
    layout = setup.tensor_layout(buffers=True)
    assert (
        coded_bytes(setup.codec, layout)
        == layout.numbers * layout.itemsize
        == setup.row_bytes
    )


def test_an_optimizer_is_plain_if_it_says_so() -> None:
    @plugin("optimizer", plain=lambda settings: settings["heavy"] == 0)
    def mine(params: Any, *, heavy: float = 0.0) -> torch.optim.Optimizer:
        """Step along the gradient."""
        return torch.optim.SGD(params, lr=0.1, momentum=heavy)

    assert (
        prepared(algorithm="quasi_global_momentum", optimizer="mine").optimizer.name
        == "mine"
    )
    with pytest.raises(
        ConfigError, match="not sound on top of an optimizer with momentum"
    ):
        prepared(algorithm="quasi_global_momentum", optimizer="mine(heavy=0.5)")


def test_a_schedule_is_a_cosine_if_it_says_so() -> None:
    @plugin("learning_rate", cosine=True)
    def wave(progress: Any) -> float:
        """Fall."""
        return 0.5

    assert prepared(learning_rate="wave").course.cosine
    assert prepared(learning_rate="cosine").course.cosine
    assert not prepared(learning_rate="constant").course.cosine


def test_a_batch_schedule_reads_a_file_if_it_says_so(tmp_path: Path) -> None:
    @plugin("batch", from_file=True)
    def planned(progress: Any, *, sizes: list[int]) -> int:
        """Take the sizes in turn."""
        return sizes[progress.step % len(sizes)]

    @plugin("batch")
    def titled(progress: Any, *, title: str) -> int:
        """Take one."""
        return 1

    file = tmp_path / "plan.yaml"
    file.write_text("batch: {name: planned, sizes: [1, 3]}\n")
    assert read_file(file)
    assert make_config({"batch": f"planned({file})"}).batch == {
        "name": "planned",
        "sizes": [1, 3],
    }
    setup = prepared(batch=f"titled({file})")
    assert setup.batch.settings == {"title": str(file)}
    assert setup.timeline.constant
    assert not prepared(batch=f"planned({file})").timeline.constant


def test_setup_reads_the_traits_of_its_algorithm() -> None:
    setup = prepared(algorithm="push_sum")
    assert setup.traits == traits_of(find("algorithm", "push_sum"), AlgorithmTraits)
    assert setup.weights == "push"


# --- an algorithm that trains, or says that it does not -------------------------------------------


def trained_by(target: Any, tmp_path: Path, **settings: Any) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    run = tiny_run(tmp_path / "run", algorithm=target, nodes=4, steps=4, **settings)
    run.run(records.append)
    return records


def forgets_gradient(block: Any, act: Any) -> None:
    block.adapt()
    block.combine(act)


def forgets_adapt(block: Any, act: Any) -> None:
    block.gradient()
    block.combine(act)


@pytest.mark.parametrize(
    ("wrong", "forgotten", "remedy"),
    [
        (forgets_gradient, "block.gradient()", 'gradient="none"'),
        (forgets_adapt, "block.adapt()", 'update="own"'),
    ],
)
def test_an_algorithm_that_does_not_train_is_refused_by_file_and_line(
    wrong: Any, forgotten: str, remedy: str, tmp_path: Path
) -> None:
    with pytest.raises((ConfigError, RunError)) as caught:
        trained_by(wrong, tmp_path)
    said = str(caught.value)
    place = Place(__file__, wrong.__code__.co_firstlineno)
    assert (
        f"algorithm {wrong.__name__!r} ({place}) took its first step without {forgotten}"
        in said
    )
    assert f'@plugin("algorithm", {remedy})' in said


def test_a_file_s_algorithm_is_refused_by_the_path_that_was_given(tmp_path: Path) -> None:
    path = written(tmp_path, "\n\ndef mine(block, act):\n    block.adapt()\n")
    with pytest.raises(
        (ConfigError, RunError), match=r"without block\.gradient"
    ) as caught:
        trained_by(f"{path}:mine", tmp_path)
    assert f"({path}:4)" in str(caught.value)


def test_an_algorithm_that_says_so_does_without_gradient_or_optimizer(
    tmp_path: Path,
) -> None:
    @plugin("algorithm", gradient="none", update="own")
    def only_gossip(block: Any, act: Any) -> None:
        """Average."""
        block.combine(act)

    records = trained_by("only_gossip", tmp_path)
    assert records[-1]["step"] == 4
    assert all(one.get("loss/train") is None for one in records)


def test_an_algorithm_may_move_rows_by_its_own_formula(tmp_path: Path) -> None:
    @plugin("algorithm", update="own")
    def by_hand(block: Any, act: Any) -> None:
        """Step along the gradient."""
        block.gradient()
        block.x.sub_(block.g, alpha=block.learning_rate)

    assert trained_by("by_hand", tmp_path)[-1]["loss/train"] is not None


def test_a_later_step_may_do_without(tmp_path: Path) -> None:
    """What an algorithm promises is asked of its first step only."""

    def pauses(block: Any, act: Any) -> None:
        if block.progress.step == 0:
            block.gradient()
            block.adapt()

    assert trained_by(pauses, tmp_path)[-1]["step"] == 4
