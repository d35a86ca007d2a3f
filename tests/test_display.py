"""What Python shows while a run goes on: in a terminal, in a notebook, and where nobody watches."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from support import TINY, blobs

import decentral
from decentral.api import display
from decentral.tasks import labels

GIVEN: dict[str, Any] = {**TINY, "task": blobs()}


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for the kernel of a notebook; return what is written below its cell."""
    written: list[str] = []

    def show(html: Any, display_id: bool) -> Any:
        written.append(html.data)
        return SimpleNamespace(update=lambda html: written.append(html.data))

    monkeypatch.setattr(display, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", show)
    monkeypatch.setattr(display, "_PAUSE_S", 0.0)
    return written


def test_a_notebook_has_one_line_that_is_written_anew(
    tmp_path: Path, cells: list[str]
) -> None:
    run = decentral.launch(out=tmp_path / "run", **GIVEN)
    assert len(cells) > 3
    assert "evaluating the first models" in cells[0]
    assert 'value="1.000"' in cells[-1]
    assert str(run.path) in cells[-1]
    assert "merged" in cells[-1]
    cells.clear()
    decentral.launch(out=tmp_path / "quiet", quiet=True, **GIVEN)
    assert not cells


def test_the_bar_of_several_runs_in_a_notebook_is_full_when_they_have_ended(
    cells: list[str],
) -> None:
    with display.Several(quiet=False) as several:
        for done in range(2):
            several.show(f"seed={done}", done, 2)
    assert "1/2  seed=1" in cells[1]
    assert 'value="1.000"' in cells[-1]
    assert "2/2" in cells[-1]
    cells.clear()
    with suppress(ValueError), display.Several(quiet=False) as several:
        several.show("seed=0", 0, 2)
        raise ValueError("no")
    assert "0/2" in cells[-1]


def test_a_terminal_has_a_bar_and_keeps_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    monkeypatch.setattr(display, "terminal", lambda: console)
    decentral.launch(out=tmp_path / "run", **GIVEN)
    shown = file.getvalue()
    assert "/20" in shown
    assert "merged" in shown.splitlines()[-1]
    file.truncate(0)
    decentral.launch(out=tmp_path / "quiet", quiet=True, **GIVEN)
    assert not file.getvalue().strip("\0")


def test_nothing_is_shown_where_nobody_watches(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    task = blobs()
    decentral.launch(out=tmp_path / "run", **{**GIVEN, "task": task})
    assert capfd.readouterr() == ("", "")


def test_quiet_says_no_notes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    task = blobs()
    task.notes = ("mind the gap",)
    decentral.launch(out=tmp_path / "run", **{**GIVEN, "task": task})
    assert "mind the gap" in capfd.readouterr().err
    decentral.launch(out=tmp_path / "quiet", quiet=True, **{**GIVEN, "task": task})
    assert capfd.readouterr() == ("", "")


# --- in a notebook's cell -------------------------------------------------------------------------


def test_a_task_draws_its_labels_and_a_regression_its_targets() -> None:
    names = ("<east>", "north", "south", "west")
    task = decentral.Task(
        loss=torch.nn.functional.cross_entropy,
        train=(torch.ones(8, 2), torch.arange(8) % 4),
        test=(torch.ones(4, 2), torch.arange(4)),
        classes=names,
    )
    shown = task._repr_html_()
    assert shown.count("<rect") == 4
    assert "&lt;east&gt;" in shown
    assert "8 train, 4 test samples" in shown
    numbers = (torch.ones(8, 2), torch.arange(8.0).view(8, 1))
    task = decentral.Task(loss=torch.nn.functional.mse_loss, train=numbers, test=numbers)
    assert task._repr_html_().count("<rect") == 24


def test_the_name_of_the_last_label_ends_where_its_bar_does() -> None:
    drawn = labels.bars_svg(torch.tensor([0, 1, 1]), ("no", "yes"))
    assert '<text x="288.0" y="76" text-anchor="end">yes</text>' in drawn
    assert '<rect x="160.0" y="2.0" width="128.0" height="60.0"/>' in drawn


def test_a_run_draws_itself_and_says_where_there_is_none(
    tmp_path: Path, rendered: None
) -> None:
    run = decentral.launch(out=tmp_path / "run", quiet=True, **GIVEN)
    shown = run._repr_html_()
    assert "<svg" in shown
    assert "4 nodes" in shown
    assert "no such folder" in decentral.Run(tmp_path / "none")._repr_html_()
