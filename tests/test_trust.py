"""A run folder from somebody else is data: what it names runs when the user says so."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import decentral
import decentral.cli
from decentral import ConfigError, approval, userfile
from decentral.config import make_config, read_settings
from decentral.loop.preparing import prepare

PLUGIN = """
from pathlib import Path
from helpers import MARK
import torch

Path(MARK).touch()


def slow(progress, *, factor: float = 0.5):
    return factor


class Own(torch.optim.SGD):
    pass
"""
LAUNCH = [
    "launch", "--task", "quadratic", "--nodes", "4", "--steps", "4", "--quiet",
    "checkpoint_every=2", "threads=1",
]  # fmt: skip


class Sandbox:
    """A folder with a plug-in that leaves a mark, and users who find it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.mark, self.plugin = folder / "mark", folder / "code" / "mine.py"
        self.plugin.parent.mkdir()
        self.plugin.write_text(PLUGIN)
        self.helper = self.plugin.with_name("helpers.py")
        self.helper.write_text(f"MARK = {str(self.mark)!r}\n")
        self.run = folder / "runs" / "theirs"
        monkeypatch.chdir(folder)
        self.user("they")

    def user(self, name: str) -> None:
        """Be a user, in a new process as far as trust can tell."""
        self.mark.unlink(missing_ok=True)
        self.monkeypatch.setenv("XDG_STATE_HOME", str(self.folder / name))
        for name in ("_read", "_said", "_trusted"):
            self.monkeypatch.setattr(approval, name, set[str]())
        self.monkeypatch.setattr(approval, "_loaded", dict[str, str]())
        self.monkeypatch.setattr(userfile, "_closed", set[Path]())
        self.monkeypatch.setattr(userfile, "_checked", set[str]())
        for module in [
            name for name in sys.modules if name.startswith("decentral_user_")
        ]:
            self.monkeypatch.delitem(sys.modules, module)

    def launched(self, *words: str) -> Path:
        assert decentral.cli.run([*LAUNCH, "--out", str(self.run), *words]) == 0
        return self.run


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    yield Sandbox(tmp_path, monkeypatch)
    for name in ("mine", "helpers"):
        sys.modules.pop(name, None)


COMMANDS = {
    "merge": ["merge", "RUN"],
    "analyze": ["analyze", "RUN"],
    "export": ["export", "RUN", "--out", "model"],
    "resume": ["resume", "RUN", "--change", "steps=8", "--change", "final_merge"],
    "launch": ["launch", "RUN/config.yaml", "--out", "again"],
    "sweep": ["sweep", "RUN/config.yaml", "seed=0,1", "--out", "swept"],
    "check": ["check", "RUN/config.yaml"],
    "report": ["report", "RUN"],
    "compare": ["compare", "RUN", "RUN", "--out", "compared.html"],
    "checked": ["check", "RUN"],
}


def words_of(command: str, run: Path) -> list[str]:
    return [word.replace("RUN", str(run)) for word in COMMANDS[command]]


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert "is named by a run folder" in lines[0]
    return lines[0]


@pytest.fixture
def theirs(box: Sandbox, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run that somebody else made, with code beside it."""
    run = box.launched("learning_rate=code/mine.py:slow")
    assert box.mark.exists()
    capsys.readouterr()
    return run


def test_nothing_of_somebody_elses_runs(
    box: Sandbox, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in COMMANDS:
        box.user("me")
        status = decentral.cli.run(words_of(command, theirs))
        assert not box.mark.exists(), command
        text = capsys.readouterr()
        if command in ("report", "compare", "checked"):
            assert status == 0, (command, text.err)
            continue
        assert status == 2 or command == "check", (command, text.err)
        said = re.sub(r"\s+", " ", text.err + text.out)
        assert "mine.py" in said, (command, said)
        assert "--trust" in said, (command, said)


def test_digest_of_file_and_what_it_imports_lets_it_run(
    box: Sandbox, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box.user("me")
    assert decentral.cli.run(["merge", str(theirs)]) == 2
    shown = re.findall(r"--trust (\w+)", refusal(capsys))[0]
    assert decentral.cli.run(["merge", str(theirs), "--trust", shown]) == 0
    assert box.mark.exists()
    # once: nothing was begun with it
    box.user("me")
    assert decentral.cli.run(["merge", str(theirs)]) == 2
    box.helper.write_text(box.helper.read_text() + "# otherwise\n")
    capsys.readouterr()
    assert decentral.cli.run(["merge", str(theirs), f"--trust={shown}"]) == 2
    assert shown not in refusal(capsys).partition("--trust")[0]
    assert not box.mark.exists()


def test_ones_own_run_goes_on_without_a_word(box: Sandbox, theirs: Path) -> None:
    box.user("they")
    for command in ("merge", "resume"):
        assert decentral.cli.run(words_of(command, theirs)) == 0


def test_record_travels_by_a_file(
    box: Sandbox, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.user("me")
    record = box.folder / "they" / "decentral" / "trusted"
    monkeypatch.setenv("DECENTRAL_TRUST", str(record))
    assert decentral.cli.run(["merge", str(theirs)]) == 0


def test_what_is_named_runs_and_folders_name_nothing(box: Sandbox, theirs: Path) -> None:
    box.user("me")
    named = ["launch", f"{theirs}/config.yaml", "--out", "own", "--quiet"]
    assert decentral.cli.run([*named, "learning_rate=code/mine.py:slow"]) == 0
    box.user("nobody")
    trap = theirs.rename(theirs.with_name("code=mine.py"))
    assert decentral.cli.run(["merge", str(trap)]) == 2
    assert not box.mark.exists()


def test_files_of_ones_own_configuration_run(box: Sandbox) -> None:
    Path("own.yaml").write_text("learning_rate: code/mine.py:slow\n")
    box.launched("own.yaml")
    assert box.mark.exists()


def test_python_says_what_it_names(box: Sandbox, theirs: Path) -> None:
    box.user("me")
    with pytest.raises(ConfigError, match="named by a run folder") as refused:
        decentral.Run(theirs).models()
    digest = re.findall(r"trust\('(\w+)'\)", str(refused.value))[0]
    assert not box.mark.exists()
    box.plugin.write_text(PLUGIN + "# edited\n")
    decentral.launch(
        task="quadratic", nodes=4, steps=2, threads=1, quiet=True, out="mine",
        learning_rate="code/mine.py:slow",
    )  # fmt: skip
    assert box.mark.exists()
    box.plugin.write_text(PLUGIN)
    box.user("me")
    decentral.trust(digest)
    assert len(decentral.Run(theirs).models()) == 4


def test_modules_with_a_dotted_name(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(box.plugin.parent))
    box.launched("optimizer=mine.Own")
    for name in ("mine", "helpers"):
        del sys.modules[name]
    capsys.readouterr()
    box.user("me")
    assert decentral.cli.run(["merge", str(box.run)]) == 2
    assert "module mine in" in refusal(capsys)
    assert not box.mark.exists()
    box.user("they")
    assert decentral.cli.run(["merge", str(box.run)]) == 0


def test_listed_packages_need_no_word(box: Sandbox) -> None:
    box.launched("optimizer=torch.optim.RAdam")
    box.user("me")
    assert decentral.cli.run(["merge", str(box.run)]) == 0


def test_imports_that_are_not_seen_are_asked_for_too(
    box: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    hidden = PLUGIN.replace(
        "from helpers import MARK", "MARK = __import__('helpers', globals()).MARK"
    )
    box.plugin.write_text(hidden)
    box.launched("learning_rate=code/mine.py:slow")
    box.user("they")
    assert decentral.cli.run(["merge", str(box.run)]) == 0
    other = box.helper.read_text() + "# otherwise\n"
    box.helper.write_text(other)
    capsys.readouterr()
    box.user("they")
    assert decentral.cli.run(["merge", str(box.run)]) == 2
    assert hashlib.sha256(other.encode()).hexdigest()[:12] in capsys.readouterr().err
    assert not box.mark.exists()


@pytest.mark.parametrize("digest", ["", "abc", "code/mine.py", "Z" * 12])
def test_what_is_no_digest_is_refused(
    digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decentral.cli.run(["list", "--trust", digest]) == 2
    assert "is no digest" in capsys.readouterr().err


def test_plan_that_a_run_folder_names_is_somebody_elses_too(box: Sandbox) -> None:
    box.launched()
    plan = box.folder / "plan.yaml"
    plan.write_text("batch: code/mine.py:slow\n")
    config = box.run / "config.yaml"
    text = re.sub(
        r"(?m)^batch:.*\n(?: .*\n)*", f"batch: plan({plan})\n", config.read_text()
    )
    config.write_text(text)
    box.user("me")
    with pytest.raises(ConfigError, match=r"mine\.py.* is named by a run folder"):
        prepare(make_config(read_settings(config)))
    assert not box.mark.exists()


def test_trackers_and_callbacks_are_not_loaded_to_read_models(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (box.plugin.parent / "told.py").write_text(
        PLUGIN
        + "def tracker(settings, *, label: str = ''):\n    return lambda step, row: None\n"
    )
    box.launched()
    config = box.run / "config.yaml"
    text = re.sub(r"(?m)^track:.*\n(?: .*\n|- .*\n)*", "", config.read_text())
    config.write_text(f"{text}track: [code/told.py:tracker]\n")
    box.user("me")
    decentral.cli.run(["merge", str(box.run)])
    assert not box.mark.exists()
