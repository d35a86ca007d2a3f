"""What members declare is what the run goes by: never their names, whoever brings them."""

from __future__ import annotations

import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from decentral import ConfigError, plugin, registry
from decentral.config import make_config, read_file
from decentral.exchange.codec.base import coded_bytes
from decentral.loop.preparing import prepare
from decentral.loop.setup import Setup
from decentral.registry import build, find
from decentral.traits import TRAITS, AlgorithmTraits, CommunicationTraits, MergeTraits, traits_of


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.py"
    path.write_text(f"from decentral import plugin\n{textwrap.dedent(text)}", encoding="utf-8")
    return path


def prepared(**settings: Any) -> Setup:
    return prepare(make_config({"task": "quadratic", "nodes": 4, "steps": 8} | settings))


# --- where members come from ----------------------------------------------------------------------


def installed(monkeypatch: pytest.MonkeyPatch, name: str, loads: Any, kind: str = "merges") -> None:
    point = EntryPoint(name, f"elsewhere:{name}", f"decentral.{kind}")
    monkeypatch.setattr(EntryPoint, "load", lambda self: loads())
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] * (group == point.group))


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
    assert traits_of(find("merge", name), MergeTraits) == MergeTraits(sees="models", nodes=2)


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
    def both(samples: Any) -> Any:
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
    assert coded_bytes(setup.codec, layout) == layout.numbers * layout.itemsize == setup.row_bytes


def test_an_optimizer_is_plain_if_it_says_so() -> None:
    @plugin("optimizer", plain=lambda settings: settings["heavy"] == 0)
    def mine(params: Any, *, heavy: float = 0.0) -> torch.optim.Optimizer:
        """Step along the gradient."""
        return torch.optim.SGD(params, lr=0.1, momentum=heavy)

    assert prepared(algorithm="quasi_global_momentum", optimizer="mine").optimizer.name == "mine"
    with pytest.raises(ConfigError, match="not sound on top of an optimizer with momentum"):
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
    assert make_config({"batch": f"planned({file})"}).batch == {"name": "planned", "sizes": [1, 3]}
    setup = prepared(batch=f"titled({file})")
    assert setup.batch.settings == {"title": str(file)}
    assert setup.timeline.constant
    assert not prepared(batch=f"planned({file})").timeline.constant


def test_setup_reads_the_traits_of_its_algorithm() -> None:
    setup = prepared(algorithm="push_sum")
    assert setup.traits == traits_of(find("algorithm", "push_sum"), AlgorithmTraits)
    assert setup.weights == "push"
