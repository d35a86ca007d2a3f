"""Bad inputs, hundreds of them: refused in one line, before anything is written."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from attack import LIMIT_S, MOST, Hang, Tally, attack, limited
from inputs import Input, inputs, lay, surprises

from decentral.blame import attribute
from decentral.errors import Bug, ConfigError, RunError

EVERY = inputs()
#: Of which the suite tries one in so many, the soak all.
FEW = 8


def judge(one: Input, tally: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    """Try an input in an empty folder and count what comes out."""
    lay(one, Path())
    before = set(os.listdir())
    fault, said = "", ""
    if one.call:
        fault, said = _call(one)
        capsys.readouterr()
    else:
        found = attack(one.words, capsys)
        fault, said = found.fault, found.said
        fault = fault or ("accepted" if found.status == 0 else "")
    # What a function returns shows only in the run.
    if not (fault or one.call) and (left := set(os.listdir()) - before - {"sweeps"}):
        fault = f"left {', '.join(sorted(left))} behind"
    tally.add("refused", one.name, fault, said)


def _call(one: Input) -> tuple[str, str]:
    assert one.call
    try:
        with limited(LIMIT_S):
            one.call()
    except Hang:
        return "hang", ""
    except (ConfigError, RunError) as error:
        text = str(error)
        bug = isinstance(error, Bug) or "\n" in text
        return "bug" if bug else "endless" if len(text) > MOST else "", text
    except Exception as error:
        found = attribute(error)
        return "" if isinstance(found, ConfigError | RunError) else "bug", repr(error)
    return "accepted", ""


def attack_all(
    those: Sequence[Input], folder: Path, patch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Tally:  # fmt: skip
    tally = Tally()
    for place, one in enumerate(those):
        inside = folder / str(place)
        inside.mkdir()
        patch.chdir(inside)
        judge(one, tally, capsys)
    return tally


def test_there_are_hundreds_of_inputs_of_different_names() -> None:
    assert len(EVERY) >= 460
    assert len({(one.words, one.name) for one in EVERY}) >= 460


def test_some_of_each_kind_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = attack_all(EVERY[::FEW], tmp_path, monkeypatch, capsys)
    assert not tally.faults, "\n".join(tally.faults)


def test_what_nobody_writes_by_mistake_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tally = attack_all([*surprises()], tmp_path, monkeypatch, capsys)
    assert not tally.faults, "\n".join(tally.faults)


@pytest.mark.soak
def test_every_bad_input_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    began = time.monotonic()
    tally = attack_all(EVERY, tmp_path, monkeypatch, capsys)
    record_property("counts", f"{tally}, {time.monotonic() - began:.0f} s")
    assert not tally.faults, "\n".join(tally.faults)
