"""What the configuration of somebody else names is data until the user says otherwise.

Every plug-in here leaves a mark when it runs. Users are told apart by their records.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import decentral
import decentral.cli
from decentral import ConfigError, named_code, registry, trust
from decentral.config import make_config, read_settings
from decentral.loop.preparing import prepare
from decentral.named_code import code_in
from decentral.sweeps import read_sweep
from decentral.trust import Trust, approve, in_run_folder

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
SMALL = {"task": "quadratic", "nodes": 4, "steps": 4, "threads": 1, "checkpoint_every": 2}
SLOW = "learning_rate=code/mine.py:slow"


class Sandbox:
    """A folder with a plug-in that leaves a mark, and users who find it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.mark, self.plugin = folder / "mark", folder / "code" / "mine.py"
        self.helper = self.plugin.with_name("helpers.py")
        self.plugin.parent.mkdir()
        self.plugin.write_text(PLUGIN)
        self.helper.write_text(f"MARK = {str(self.mark)!r}\n")
        self.run = folder / "runs" / "theirs"
        monkeypatch.chdir(folder)
        self.user("they")

    def user(self, name: str) -> None:
        """Be a user, for whom nothing of the plug-in has run in this process yet."""
        self.mark.unlink(missing_ok=True)
        self.monkeypatch.setenv("XDG_STATE_HOME", str(self.folder / name))
        forget()

    def launched(self, *words: str) -> Path:
        given = [f"{key}={value}" for key, value in SMALL.items()]
        # what is written later wins
        words = ("launch", *words, *given, "--quiet", "--out", str(self.run))
        assert decentral.cli.run(words) == 0
        return self.run


def forget() -> None:
    """Let plug-ins be imported anew, as in another process."""
    for name in [one for one in sys.modules if one.startswith("decentral_user_")]:
        del sys.modules[name]
    for name in ("mine", "helpers"):
        sys.modules.pop(name, None)


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    yield Sandbox(tmp_path, monkeypatch)
    forget()


@pytest.fixture
def theirs(box: Sandbox, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run that somebody else has made, with code that lies elsewhere."""
    run = box.launched(SLOW)
    assert box.mark.exists()
    capsys.readouterr()
    box.user("me")
    return run


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    return re.sub(r"\s+", " ", captured.err + captured.out)


def digest_of(*files: Path) -> str:
    """Return what ``sha256sum`` says of a file, or of what it says of several."""
    each = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    lines = "".join(f"{digest}  {file.name}\n" for file, digest in each.items())
    one = each[files[0]]
    return one if len(files) == 1 else hashlib.sha256(lines.encode()).hexdigest()


# --- nothing of somebody else's runs --------------------------------------------------------------

#: Commands on the run folder of somebody else, and what they end with: 2 where code would run.
COMMANDS = {
    "merge RUN": 2,
    "analyze RUN": 2,
    "export RUN --out model": 2,
    "resume RUN --change steps=8 --change final_merge": 2,
    "launch RUN/config.yaml --out again": 2,
    "launch RUN/config.yaml --out again --engine ray --workers 2": 2,
    "launch RUN/config.yaml --out RUN --resume": 2,
    "sweep RUN/config.yaml seed=0,1 --out swept": 2,
    "sweep RUN/config.yaml seed=0,1 --out swept --engine ray": 2,
    "show schedule RUN/config.yaml": 2,
    "show blocks RUN/config.yaml": 2,
    "check RUN/config.yaml": 2,
    "check RUN": 0,
    "report RUN": 0,
    "compare RUN RUN --out compared.html": 0,
}


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_runs_what_a_run_folder_names(
    box: Sandbox, theirs: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    status = decentral.cli.run(command.replace("RUN", str(theirs)).split())
    text = said(capsys)
    assert not box.mark.exists()
    assert status == COMMANDS[command], text
    if status:
        assert text.count("error:") == 1
        digest = digest_of(box.plugin, box.helper)[:12]
        assert f"{box.plugin}" in text
        assert f"sha256 {digest}" in text
        assert f"--trust {digest}" in text


def _launch(run: Path, **more: Any) -> Any:
    given: Any = {"out": "again", "quiet": True, **more}
    return decentral.launch(run / "config.yaml", **given)


def _sweep(run: Path, **more: Any) -> Any:
    out: Any = {"out": "swept", "quiet": True, **more}
    return decentral.sweep({"seed": 2}, config=run / "config.yaml", **out)


def _resume(run: Path, **more: Any) -> Any:
    change = {"steps": 8, "final_merge": True}
    return decentral.resume(run, change=change, quiet=True, **more)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Run.models": lambda run, **more: decentral.Run(run, **more).models(),
    "Run.model": lambda run, **more: decentral.Run(run, **more).model(1),
    "Run.merged_model": lambda run, **more: decentral.Run(run, **more).merged_model(),
    "Run.config": lambda run, **more: decentral.Run(run, **more).config(),
    "merge": lambda run, **more: decentral.merge(run, "uniform", **more),
    "analyze": lambda run, **more: decentral.analyze(
        run, pairs=1, points=3, samples=8, **more
    ),
    "export": lambda run, **more: decentral.export(run, "model", **more),
    "launch": _launch,
    "sweep": _sweep,
    "resume": _resume,
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_function_runs_it_unless_trusted(
    box: Sandbox, theirs: Path, function: str
) -> None:
    with pytest.raises(ConfigError, match=r"mine\.py with 1 that .* trust='(\w+)'"):
        FUNCTIONS[function](theirs)
    assert not box.mark.exists()
    FUNCTIONS[function](theirs, trust=True)
    # a configuration that is only looked at names its schedules, and loads none
    assert box.mark.exists() == (function != "Run.config")


def test_reading_models_loads_no_tracker_and_no_callback(box: Sandbox) -> None:
    """Also where the user has made the run: they would write, or wait for a network."""
    told = box.plugin.with_name("told.py")
    told.write_text(
        PLUGIN
        + "def tracker(settings, *, label: str = ''):\n    return lambda step, row: None\n"
        + "class Watch:\n    pass\n"
    )
    box.launched()
    config = box.run / "config.yaml"
    text = re.sub(r"(?m)^(track|callbacks):.*\n(?: .*\n|- .*\n)*", "", config.read_text())
    config.write_text(f"{text}track: [{told}:tracker]\ncallbacks: ['{told}:Watch']\n")
    for name in ("Run.models", "merge", "analyze", "export", "Run.merged_model"):
        FUNCTIONS[name](box.run)
    assert not box.mark.exists()
    with pytest.raises(ConfigError, match=r"told\.py"):
        FUNCTIONS["resume"](box.run)
    assert not box.mark.exists()


def test_no_worker_is_started_for_it(
    box: Sandbox, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver decides, before an engine is chosen."""
    loaded: list[Any] = []
    monkeypatch.setattr("decentral.api.starting.prepare_run", loaded.append)
    for engine in ("ray(workers=2)", "local"):
        for name in ("launch", "resume"):
            with pytest.raises(ConfigError, match=r"mine\.py"):
                FUNCTIONS[name](theirs, engine=engine)
    assert not loaded


# --- the user's own runs --------------------------------------------------------------------------


def test_ones_own_run_goes_on_without_a_word(box: Sandbox, theirs: Path) -> None:
    box.user("they")
    for command in ("merge RUN", "resume RUN --change steps=8 --change final_merge"):
        assert decentral.cli.run(command.replace("RUN", str(theirs)).split()) == 0
    box.helper.write_text(box.helper.read_text() + "# otherwise\n")
    assert decentral.cli.run(["merge", str(theirs)]) == 2


def test_changed_file_of_ones_own_run_is_named_as_such(
    box: Sandbox, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whose run it is says the record, and not the folder."""
    (theirs / "summary.json").unlink()
    box.helper.write_text(box.helper.read_text() + "# otherwise\n")
    assert decentral.cli.run(["resume", str(theirs)]) == 2
    assert "--trust" in said(capsys)
    box.user("they")
    assert decentral.cli.run(["resume", str(theirs)]) == 2
    assert f"go on with it as it is by --change {box.helper}." in said(capsys)
    assert not box.mark.exists()
    named = ["--change", str(box.helper)]
    box.user("me")
    assert decentral.cli.run(["resume", str(theirs), *named]) == 2
    assert not box.mark.exists()
    box.user("they")
    # all else that runs with it was run before
    more = ["--change", "steps=8", "--change", "final_merge"]
    assert decentral.cli.run(["resume", str(theirs), *named, *more, "--quiet"]) == 0
    assert box.mark.exists()


def test_two_runs_of_a_process_with_equal_names(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One refusal is of one configuration: the same words elsewhere name other code."""
    for name in ("foreign", "own"):
        (box.folder / name / "code").mkdir(parents=True)
        for file in (box.plugin, box.helper):
            text = file.read_text().replace(
                str(box.mark), str(box.folder / f"{name}.mark")
            )
            (box.folder / name / "code" / file.name).write_text(text)
        (box.folder / name / "a.yaml").write_text("learning_rate: code/mine.py:slow\n")
    (box.folder / "foreign" / "config.yaml").write_text("# decentral run, format 3: x\n")
    marks = {name: box.folder / f"{name}.mark" for name in ("foreign", "own")}

    def launched(name: str, *more: str) -> int:
        monkeypatch.chdir(box.folder / name)
        words = [f"{key}={value}" for key, value in SMALL.items()]
        return decentral.cli.run(["launch", *more, *words, "--quiet"])

    for _ in range(2):
        assert launched("foreign", "a.yaml") == 2
        assert not marks["foreign"].exists()
        assert launched("own", "a.yaml") == 0
        assert launched("own", SLOW) == 0
    marks["own"].unlink()
    assert launched("foreign", "a.yaml", SLOW) == 0  # named here, and run once
    assert marks["foreign"].exists()
    assert not marks["own"].exists()
    monkeypatch.setenv("XDG_STATE_HOME", str(box.folder / "nobody"))
    assert launched("own", "a.yaml") == 0
    assert launched("foreign", "a.yaml") == 2  # by its user, and not by this one


def test_files_beside_and_below_ones_own_configuration_run(
    box: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("own.yaml").write_text("learning_rate: code/mine.py:slow\n")
    box.launched("own.yaml")
    assert box.mark.exists()
    box.user("me")
    Path("deep").mkdir()
    Path("deep/own.yaml").write_text("learning_rate: ../code/mine.py:slow\n")
    assert decentral.cli.run(["launch", "deep/own.yaml", "--out", "other"]) == 2
    assert "deep/own.yaml names code" in said(capsys)
    assert not box.mark.exists()


def test_what_is_named_beside_it_runs(box: Sandbox, theirs: Path) -> None:
    words = ["launch", f"{theirs}/config.yaml", "--out", "mine", "--quiet"]
    assert decentral.cli.run([*words, SLOW]) == 0
    assert box.mark.exists()
    box.user("nobody")
    decentral.launch(
        theirs / "config.yaml", out="yours", quiet=True, learning_rate="code/mine.py:slow"
    )
    assert box.mark.exists()


def test_names_of_folders_name_nothing(box: Sandbox, theirs: Path) -> None:
    trap = theirs.rename(theirs.with_name("lr=code")) / "mine.py:"
    trap.parent.rename(theirs)
    theirs.rename(box.folder / "a=code")
    Path("a=code/mine.py:").mkdir()
    config = Path("a=code/mine.py:/config.yaml")
    config.write_text(Path("a=code/config.yaml").read_text())
    for command in (f"launch {config} --out again", "merge a=code"):
        assert decentral.cli.run(command.split()) == 2
    assert not box.mark.exists()


def test_run_of_this_process_is_read_without_a_record(
    box: Sandbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing can be kept, one line says so, and the run is the user's all the same."""
    Path("full").touch()  # no folder can be made here
    monkeypatch.setenv("XDG_STATE_HOME", str(box.folder / "full"))
    run = decentral.launch(
        **SMALL, out="mine", quiet=True, learning_rate="code/mine.py:slow"
    )
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "cannot be recorded" in line] == lines
    assert len(lines) == 1
    assert len(run.models()) == 4
    with pytest.raises(ConfigError, match=r"mine\.py"):
        decentral.Run(run.path).models()
    assert decentral.cli.run(["merge", "mine", "--trust", digest_of(
        box.plugin, box.helper)]) == 0  # fmt: skip


def test_without_a_home_folder_nothing_is_written(
    box: Sandbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(
        "os.path.expanduser", lambda path: path
    )  # as where nobody is known
    before = {*box.folder.iterdir()}
    box.launched(SLOW)
    assert "there is no home folder" in said(capsys)
    assert {*box.folder.iterdir()} - before == {box.mark, box.run.parent}


# --- digests and records --------------------------------------------------------------------------


def test_digest_is_asked_for_once(
    box: Sandbox, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = digest_of(box.plugin, box.helper)
    for given in ("0" * 12, digest[:12]):
        assert decentral.cli.run(["merge", str(theirs), "--trust", given]) == (
            0 if given in digest else 2
        )
        assert box.mark.exists() == (given in digest)
    assert decentral.cli.run(["merge", str(theirs)]) == 0
    box.helper.write_text(box.helper.read_text() + "# otherwise\n")
    box.mark.unlink()
    forget()
    assert decentral.cli.run(["merge", str(theirs), f"--trust={digest}"]) == 2
    assert not box.mark.exists()


@pytest.mark.parametrize(
    "hidden",
    [
        "MARK = __import__('helpers', globals()).MARK",
        "import importlib; MARK = importlib.import_module('.helpers', __package__).MARK",
    ],
)
def test_digest_holds_what_is_imported_out_of_sight(box: Sandbox, hidden: str) -> None:
    box.plugin.write_text(PLUGIN.replace("from helpers import MARK", hidden))
    box.launched(SLOW)
    assert box.mark.exists()
    box.user("they")
    assert decentral.cli.run(["merge", str(box.run)]) == 0
    box.helper.write_text(box.helper.read_text() + "# otherwise\n")
    box.user("they")
    assert decentral.cli.run(["merge", str(box.run)]) == 2
    assert not box.mark.exists()


@pytest.mark.parametrize("digest", ["", "abc", "code/mine.py", "Z" * 12])
def test_what_is_no_digest_is_refused(
    digest: str, box: Sandbox, theirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert decentral.cli.run(["merge", str(theirs), "--trust", digest]) == 2
    assert "is no digest" in said(capsys)
    assert not box.mark.exists()


def test_record_travels_by_a_file(
    box: Sandbox, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = box.folder / "they" / "decentral" / "trusted"
    assert oct(record.stat().st_mode)[-3:] == "600"
    copy = box.folder / "copy"
    copy.write_bytes(record.read_bytes() + b"no digest\n\xff\n" + b"f" * 80)
    monkeypatch.setenv("DECENTRAL_TRUST", str(copy))
    assert decentral.cli.run(["merge", str(theirs)]) == 0
    copy.chmod(0o666)  # anybody may have written it
    assert decentral.cli.run(["merge", str(theirs)]) == 2
    copy.chmod(0o644)
    (box.folder / "code/other.py").write_text(PLUGIN)
    box.run = box.folder / "runs" / "mine"
    box.launched("learning_rate=code/other.py:slow")
    other = digest_of(box.plugin.with_name("other.py"), box.helper)
    # written into both, behind a line that was cut
    for file in (copy, box.folder / "me" / "decentral" / "trusted"):
        assert [
            one for one in file.read_text(errors="replace").splitlines() if other in one
        ]


def test_processes_that_write_at_once_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    program = """
import sys
from decentral.named_code import Code
from decentral.trust import _write
for number in range(100):
    _write([Code("x" * 500, "", {}, f"{sys.argv[1]}{number:03}".rjust(64, "0"))])
"""
    writers = [subprocess.Popen([sys.executable, "-c", program, name]) for name in "abc"]
    assert [one.wait() for one in writers] == [0, 0, 0]
    lines = (tmp_path / "state/decentral/trusted").read_text().splitlines()
    found = {line.split()[0][-4:] for line in lines}
    assert found == {f"{name}{number:03}" for name in "abc" for number in range(100)}
    assert {len(line) for line in lines} == {566}


def test_what_has_changed_since_it_was_allowed_reaches_no_worker(
    box: Sandbox, theirs: Path
) -> None:
    """Workers are started, and again after a loss, long after the decision."""
    allowed = Trust.of(digest_of(box.plugin, box.helper))
    config = make_config(read_settings(theirs / "config.yaml", trust=allowed))
    assert set(config.approved) == {str(box.plugin), str(box.helper)}
    trust.confirm(config.approved)
    assert config.after(None).model_copy(update={"seed": 3}).approved == config.approved
    box.helper.write_text("MARK = 'elsewhere'\n")
    with pytest.raises(
        ConfigError, match=r"helpers\.py has changed since it was allowed"
    ):
        trust.confirm(config.approved)


@pytest.mark.hosts
@pytest.mark.needs("ray")
@pytest.mark.timeout(240)
def test_workers_of_ray_run_what_the_driver_allows(
    box: Sandbox, theirs: Path, ray_cluster: None
) -> None:
    # a cluster that runs already has another current folder
    out = str(box.folder / "again")
    given: dict[str, Any] = {"engine": "ray", "engine.workers": 2, "out": out}
    with pytest.raises(ConfigError, match=r"mine\.py"):
        _launch(theirs, **given)
    assert not box.mark.exists()
    run = _launch(theirs, trust=digest_of(box.plugin, box.helper), **given)
    assert box.mark.exists()
    box.mark.unlink()
    forget()
    assert run.summary["status"] == "finished"
    assert len(decentral.Run(run.path).models()) == 4


# --- modules --------------------------------------------------------------------------------------


def test_modules_with_a_dotted_name(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(box.plugin.parent))
    box.launched("optimizer=mine.Own")
    capsys.readouterr()
    box.user("me")
    assert decentral.cli.run(["merge", str(box.run)]) == 2
    assert f"module mine in {box.plugin} (sha256 {digest_of(box.plugin)[:12]})" in said(
        capsys
    )
    assert not box.mark.exists()
    box.user("they")
    assert decentral.cli.run(["merge", str(box.run)]) == 0


def test_module_in_the_present_folder_is_imported_for_nobody_else(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by ``python -m decentral``, which looks there first; whatever it is called."""
    monkeypatch.syspath_prepend("")
    named = {"optimizer": "schedulefree.Own"}
    assert code_in(named) == []
    Path("schedulefree.py").write_text(PLUGIN)
    assert [one.name for one in code_in(named)] == ["schedulefree.Own"]
    Path("schedulefree.py").unlink()
    Path("code/own.yaml").write_text("optimizer: mine.Own\n")
    Path("mine.py").write_text(PLUGIN)
    Path("helpers.py").write_text(box.helper.read_text())
    words = [f"{key}={value}" for key, value in SMALL.items()]
    assert decentral.cli.run(["launch", "code/own.yaml", *words]) == 2
    assert not box.mark.exists()
    assert decentral.cli.run(["launch", "optimizer=mine.Own", *words, "--quiet"]) == 0
    assert box.mark.exists()


@pytest.mark.parametrize("name", ["torch.optim.RAdam", "nobody.has.This", "adamw"])
def test_listed_packages_are_for_all_to_name(name: str) -> None:
    settings = {"optimizer": {"name": name, "exclude": ["os.path"]}, "model": "os.path"}
    assert code_in(settings) == []


# --- which code a configuration names -------------------------------------------------------------

FILE = "a b/it's.py"
WRITTEN: list[dict[str, Any]] = [
    {"topology": f"{FILE}:own"},
    {"topology": f"  {FILE}:own "},
    {"topology": f"{FILE}:own(x=1)"},
    {"topology": {"path": f"{FILE}:own"}},
    {"topology": {"name": f"{FILE}:own", "x": 1}},
    {"topology": "{name: 'a b/it''s.py:own'}"},
    {"topology": "'a b/it''s.py:own'(x=2)"},
    {"topology": "./a b/../a b/it's.py:own"},
    {"topology.name": f"{FILE}:own"},
    {"communication": "every(k=2, schedule='a b/it''s.py:own')"},
    {"communication": 'every(k=2, schedule="a b/it\'s.py:own"(x=3))'},
    {"communication": {"name": "every", "k": 2, "schedule": f"{FILE}:own"}},
    {"communication": "every(k=2,schedule=every(k=3,schedule='''a b/it''''s.py:own'''))"},
    {"metrics": ["accuracy", f"{FILE}:own"]},
    {"track": f"{FILE}:own"},
    {"callbacks": f"{FILE}:own"},
    {"faults": ["lost(0.1)", f"{FILE}:own"]},
    {"optimizer": {"name": f"{FILE}:own"}},
]


@pytest.mark.parametrize("settings", WRITTEN, ids=str)
def test_no_reader_finds_more_than_is_asked_for(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / FILE
    file.parent.mkdir()
    file.write_text("raise RuntimeError('it has run')\n")
    opened: list[str] = []

    def spy(path: str) -> Any:
        opened.append(path)
        raise ConfigError("seen")

    monkeypatch.setattr(registry, "load_file", spy)
    with pytest.raises(ConfigError, match="seen"):
        prepare(make_config({"task": "quadratic", "nodes": 4}, settings))
    assert {named_code.resolve_path(path) for path in opened} <= {str(file)}
    assert [one.name for one in code_in(settings)] == [str(file)]
    with pytest.raises(ConfigError, match="neither named nor run"):
        approve(settings, tmp_path / "config.yaml", of_run=True)


AXES = [
    {"topology": [f"{FILE}:own", "ring"]},
    {"topology": {"mine": f"{FILE}:own"}},
    {"topology": "ring, 'a b/it''s.py:own'(x=1)"},
    {"topology.name": ["ring", f"{FILE}:own"]},
]


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_axes_of_a_sweep_are_asked_for_too(
    axes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).touch()
    for name in ("env.json", "events.jsonl"):  # of a run
        (tmp_path / name).touch()
    Path("a.yaml").write_text(decentral_yaml({"sweep": axes}))
    with pytest.raises(ConfigError, match=r"it's\.py"):
        read_sweep("a.yaml", [], {})
    (tmp_path / "mine.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("a.yaml").write_text("sweep: {optimizer: 'sgd, mine.Own(x=1)'}\n")
    with pytest.raises(ConfigError, match="module mine"):
        read_sweep("a.yaml", [], {})


def decentral_yaml(settings: dict[str, Any]) -> str:
    from decentral.yamltext import dump

    return dump(settings)


def test_only_a_file_that_ends_in_py_is_a_plug_in(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is neither a name nor a file"):
        registry.find("topology", f"{tmp_path}/a.py:b.txt:own")


def test_plan_names_no_code(box: Sandbox, theirs: Path) -> None:
    Path("plan.yaml").write_text("batch: code/mine.py:slow\n")
    config = theirs / "config.yaml"
    text = re.sub(r"(?m)^(learning_rate|batch):.*\n(?: .*\n)*", "", config.read_text())
    config.write_text(f"{text}batch: plan({box.folder}/plan.yaml)\n")
    with pytest.raises(ConfigError, match=r"plan\.yaml holds no plan"):
        make_config(read_settings(config))
    assert not box.mark.exists()


def test_run_folders_are_known_by_what_they_hold(tmp_path: Path) -> None:
    deep = tmp_path / "project" / "checkpoints" / "configs"
    deep.mkdir(parents=True)
    assert not in_run_folder(deep / "a.yaml")  # a common name for a folder
    (tmp_path / "project" / "metrics.jsonl").touch()
    assert in_run_folder(deep / "a.yaml")
    (tmp_path / "link.yaml").symlink_to(deep / "a.yaml")
    (deep / "a.yaml").touch()
    assert in_run_folder(tmp_path / "link.yaml")
    assert not in_run_folder(tmp_path / "a.yaml")
    (tmp_path / "config.yaml").write_text("# decentral run, format 3: resolved\n")
    assert in_run_folder(tmp_path / "a.yaml")
