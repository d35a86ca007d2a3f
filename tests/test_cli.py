"""The command line: what it prints, where, and what it leaves behind."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import planted

import decentral.cli
from decentral import api, registry
from decentral.api.display import Bar
from decentral.cli.running import Lines
from decentral.config import make_config, read_file
from decentral.plugins import plural
from decentral.traits import CommunicationTraits, traits_of

SMALL = ["launch", "--task", "quadratic", "--nodes", "4", "--steps", "12"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test runs in an empty folder and writes for 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def ok(capsys: Captured, *words: str) -> str:
    """Run a command that must succeed and return what it printed."""
    status = decentral.cli.run(words)
    said = capsys.readouterr()
    assert status == 0, said.err
    assert said.err == ""
    return said.out


def fits(text: str) -> bool:
    return all(len(line.rstrip()) <= 80 for line in text.splitlines())


def spelt(kind: str, name: str) -> str:
    """Write a plug-in as a user would, with the settings that it needs."""
    return registry.find(kind, name).traits.example or name


# --- launch ---------------------------------------------------------------------------------------


def test_launch_says_what_it_does_and_what_came_out(
    capsys: Captured, folder: Path
) -> None:
    said = ok(capsys, "launch", "--task", "digits", "nodes=4", "steps=20", "--out", "run")
    first, last = said.split("step  0/20")
    assert re.search(r"training +digits on 4 nodes, 20 steps", first)
    assert re.search(r"communication +dsgd over ring, late", first)
    assert re.search(r"model +mlp, 26,122 parameters, on cpu", first)
    assert re.search(r"expected bytes +about \d.*, [\d.]+ % of all-reduce", first)
    assert re.search(r"folder +run", first)
    assert re.search(r"before the merge( +\d+\.\d %){4}\n", last)
    assert re.search(r"after the merge( +\d+\.\d %){4}\n", last)
    assert re.search(r"report +run/report.html", last)
    assert fits(said)
    assert (folder / "run" / "report.html").exists()
    assert (folder / "run" / "merged.safetensors").exists()


def test_a_run_in_the_copy_of_a_job_says_that_it_will_be_deleted(
    capsys: Captured, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = folder / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    words = "launch", "--task", "quadratic", "nodes=2", "steps=2", "--out"
    warning = "a copy that Ray deletes: give --out another path"
    assert warning in " ".join(ok(capsys, *words, "run").split())
    assert warning not in " ".join(ok(capsys, *words, str(folder / "kept")).split())
    sweep = "sweep", "task=quadratic", "nodes=2", "steps=2", "seed=0..1"
    assert warning in " ".join(ok(capsys, *sweep).split())


def test_the_announced_bytes_are_those_of_the_preview(capsys: Captured) -> None:
    settings = ["task=quadratic", "nodes=4", "steps=12"]
    shown = ok(capsys, "show", "schedule", "late", *settings)
    summary = json.loads(_launched(capsys, *settings, "--json")[0])
    assert re.search(rf"messages .* {summary['counters']['comm/messages']}\n", shown)
    assert re.search(rf"rounds +{summary['counters']['comm/rounds']}\n", shown)


def _launched(capsys: Captured, *words: str) -> tuple[str, str]:
    assert decentral.cli.run(["launch", *words]) == 0
    said = capsys.readouterr()
    return said.out, said.err


def test_json_is_the_summary_and_nothing_else(capsys: Captured, folder: Path) -> None:
    out, err = _launched(capsys, *SMALL[1:], "--json", "--out", "run")
    assert json.loads(out) == json.loads((folder / "run" / "summary.json").read_text())
    assert "training" in err
    assert "report" in err


def test_quiet_is_silent(capsys: Captured) -> None:
    assert ok(capsys, *SMALL, "--quiet") == ""


def test_json_may_be_quiet(capsys: Captured) -> None:
    out, err = _launched(capsys, *SMALL[1:], "--json", "--quiet")
    assert json.loads(out)["steps"] == 12
    assert err == ""


def test_flags_win_over_overrides_of_a_file(capsys: Captured, folder: Path) -> None:
    (folder / "run.yaml").write_text(
        "task: quadratic\nnodes: 3\nsteps: 9\nseed: 7\nlearning_rate: 0.5\n"
        "communication: {name: late, start: 50%, intensity: 0.3}\n"
    )
    ok(
        capsys, "launch", "run.yaml", "--nodes", "4", "steps=10", "--lr", "0.25", "-q",
        "communication.start=80%", "--out", "out",
    )  # fmt: skip
    found = read_file("out/config.yaml")
    assert (found["nodes"], found["steps"], found["seed"]) == (4, 10, 7)
    assert found["learning_rate"]["lr"] == 0.25
    assert found["communication"]["start"] == "80%"
    assert found["communication"]["intensity"] == 0.3


@pytest.mark.parametrize(
    ("words", "key", "name"),
    [
        (["--schedule", "none"], "communication", "none"),
        (["--communication", "early"], "communication", "early"),
        (["schedule=none"], "communication", "none"),
        (["schedule=late", "schedule.start=50%"], "communication", "late"),
        (["--topology", "nx:watts_strogatz_graph", "topology.k=2", "topology.p=0.1"], "topology",
         "nx:watts_strogatz_graph"),
        (["--algorithm", "allreduce"], "algorithm", "allreduce"),
    ],
)  # fmt: skip
def test_ways_to_name_a_part(
    capsys: Captured, words: list[str], key: str, name: str
) -> None:
    ok(capsys, *SMALL, "--quiet", "--out", "run", *words)
    assert read_file("run/config.yaml")[key]["name"] == name


def test_the_resolved_configuration_repeats_the_run(capsys: Captured) -> None:
    ok(capsys, *SMALL, "--quiet", "--out", "one")
    ok(capsys, "launch", "one/config.yaml", "--quiet", "--out", "two")
    one, two = (
        json.loads(Path(name, "summary.json").read_text()) for name in ("one", "two")
    )
    assert one["final"] == two["final"]
    sent = [
        {k: v for k, v in x["counters"].items() if k[:4] == "comm"} for x in (one, two)
    ]
    assert sent[0] == sent[1]


# --- resume, report, compare ----------------------------------------------------------------------


def test_resume_goes_on_to_the_same_end(capsys: Captured, folder: Path) -> None:
    class Stop(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row["step"] == 7:
            raise Stop

    settings: dict[str, Any] = {
        "task": "quadratic",
        "nodes": 4,
        "steps": 12,
        "log_every": 1,
    }
    config = make_config(settings, {"checkpoint_every": 5, "out": "run"})
    with pytest.raises(Stop):
        api.start(config).run(stop)
    assert "12 steps from step 5" in ok(capsys, "resume", "run")
    ok(capsys, *SMALL, "--quiet", "--out", "whole")
    ended, whole = (
        json.loads((folder / n / "summary.json").read_text()) for n in ("run", "whole")
    )
    assert ended["final"] == whole["final"]


def test_report_prints_its_path(capsys: Captured, folder: Path) -> None:
    ok(capsys, *SMALL, "--quiet", "--out", "run")
    page = folder / "run" / "report.html"
    page.unlink()
    assert ok(capsys, "report", "run") == "run/report.html\n"
    assert page.exists()


def test_compare_puts_runs_side_by_side(capsys: Captured, folder: Path) -> None:
    ok(capsys, *SMALL, "--quiet", "--out", "one")
    said = ok(capsys, *SMALL, "--topology", "complete", "--lr", "0.01", "--out", "two")
    assert "decentral compare one two" in said
    said = ok(capsys, "compare", "one", "two", "--out", "page.html")
    assert re.search(r"one +.*topology=ring, learning_rate.lr=0.05", said)
    assert re.search(r"two +.*topology=complete, learning_rate.lr=0.01", said)
    assert fits(said)
    assert "<html" in (folder / "page.html").read_text()
    assert "not finished" not in said
    (folder / "two" / "summary.json").unlink()
    said = ok(capsys, "compare", "one", "two", "--out", "page.html")
    assert re.search(r"^two .* \* ", said, re.MULTILINE)
    assert re.search(r"^\* +not finished, as of the last evaluation$", said, re.MULTILINE)
    (folder / "two" / "metrics.jsonl").unlink()  # it failed before it was evaluated
    said = ok(capsys, "compare", "one", "two", "--out", "page.html")
    assert re.search(r"^two +[^*]*— \* ", said, re.MULTILINE)
    assert re.search(r"^one .*\d %", said, re.MULTILINE)


def test_compare_is_offered_only_with_the_same_task(capsys: Captured) -> None:
    ok(capsys, *SMALL, "--quiet", "--out", "one")
    assert "compare" not in ok(capsys, *SMALL, "--out", "two", "task.dimension=3")


# --- show and list --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", registry.names("topology"))
def test_show_topology(capsys: Captured, name: str) -> None:
    said = ok(capsys, "show", "topology", spelt("topology", name), "--nodes", "16")
    for fact in ("links", "degree", "diameter", "weights", "spectral gap", "messages"):
        assert fact in said
    assert "15" in said
    assert fits(said)


@pytest.mark.parametrize("nodes", [1, 7, 64])
def test_list_compares_topologies(capsys: Captured, nodes: int) -> None:
    """Each of them is there, or it says which numbers of nodes it needs."""
    said = ok(capsys, "list", "topologies", "--nodes", str(nodes))
    lines = [line.split() for line in said.splitlines() if line]
    assert set(registry.names("topology")) <= {words[0] for words in lines}
    assert fits(said)
    degrees = [int(words[1]) for words in lines[1:] if words[1].isdigit()]
    assert degrees == sorted(degrees)
    assert (nodes == 7) == ("hypercube needs a power of 2." in said)


@pytest.mark.parametrize("nodes", [1, 2, 3, 40, 300])
def test_show_topology_of_any_size(capsys: Captured, nodes: int, folder: Path) -> None:
    png = ["--png", "drawn.png"] if nodes > 1 else []
    said = ok(capsys, "show", "topology", "complete", "--nodes", str(nodes), *png)
    assert f"complete on {nodes} node" in said
    for drawn in png[1:]:
        assert (folder / drawn).read_bytes().startswith(b"\x89PNG")


#: Schedules of one line and of several that are drawn, too: half a second each.
DRAWN = ("constant", "then_merge")


@pytest.mark.parametrize("name", registry.names("communication"))
def test_show_schedule(capsys: Captured, name: str, folder: Path) -> None:
    rule = spelt("communication", name)
    found = registry.build("communication", rule)
    open_loop = not traits_of(found, CommunicationTraits).closed_loop
    png = ["--png", "drawn.png"] if open_loop and name in DRAWN else []
    said = ok(capsys, "show", "schedule", rule, "task=quadratic", "--steps", "100", *png)
    assert fits(said)
    assert open_loop == ("with seed 0" in said)
    assert open_loop or "max_budget" in said
    assert bool(png) == (folder / "drawn.png").exists()


def test_show_schedule_marks_merges(capsys: Captured) -> None:
    words = [
        "show",
        "schedule",
        "then_merge(late,at=50%)",
        "task=quadratic",
        "local_steps=10",
    ]
    axis = next(line for line in ok(capsys, *words).splitlines() if "0 └" in line)
    assert axis.count("◆") == 1
    assert 0.4 < axis.index("◆") / len(axis) < 0.6


def test_show_blocks_says_who_updates_what_at_which_rate(capsys: Captured) -> None:
    said = ok(
        capsys, "show", "blocks", "--model", "mlp", "--optimizer", "muon(exclude=['5.*'])"
    )
    lines = {line.split()[1]: line for line in said.splitlines() if "unknown" in line[:8]}
    assert lines["3.weight"].split()[-1] == "muon"
    assert lines["5.weight"].split()[-1] == lines["3.bias"].split()[-1] == "adamw"
    assert "6 parameters of no known block" in " ".join(said.split())
    rates = "optimizer.blockwise='1.*=4, 3.*=2, 5.*=1'"
    assert re.search(r"3\.\* +3\.bias .* 2 lr +sgd", ok(capsys, "show", "blocks", rates))


def test_show_schedule_draws_all_that_a_run_does(capsys: Captured, folder: Path) -> None:
    """From a run's file: one line each, over the axis of the communication."""
    phases = (
        "sam: {rho: 0.1, start: 75%}\nlabel_noise: {level: 0.1, phases: [0% to 50%]}\n"
    )
    (folder / "run.yaml").write_text(f"nodes: 4\nsteps: 200\n{phases}")
    said = ok(
        capsys, "show", "schedule", "run.yaml", "adversarial=0.1", "--png", "drawn.png"
    )
    assert fits(said)
    assert (folder / "drawn.png").exists()
    lines = {
        line.strip().split("  ")[0]: line for line in said.splitlines() if "━" in line
    }
    assert lines.keys() == {"SAM", "label noise", "adversarial"}
    on = {
        name: [place for place, c in enumerate(line) if c == "━"]
        for name, line in lines.items()
    }
    length = len(on["adversarial"])
    assert len(on["SAM"]) == pytest.approx(length / 4, abs=1)
    assert len(on["label noise"]) == pytest.approx(length / 2, abs=1)
    assert on["SAM"][-1] == on["adversarial"][-1]
    assert "rho 0.1, from 75%" in said


def test_show_schedule_of_all_reduce_has_phases_and_no_rounds(
    capsys: Captured, folder: Path
) -> None:
    (folder / "run.yaml").write_text(
        "algorithm: allreduce\nnodes: 4\nsteps: 50\nsam: 0.1\n"
    )
    said = ok(capsys, "show", "schedule", "run.yaml")
    assert "━" in said
    assert "rounds" not in said


def test_list_names_every_kind(capsys: Captured) -> None:
    said = ok(capsys, "list")
    assert all(plural(kind) in said for kind in registry.KINDS)
    assert fits(said)


@pytest.mark.parametrize("kind", registry.KINDS)
def test_list_names_every_member(capsys: Captured, kind: str) -> None:
    said = ok(capsys, "list", plural(kind))
    assert set(registry.names(kind)) <= set(said.splitlines())
    assert fits(said)
    assert ok(capsys, "list", kind) == ok(capsys, "list", kind.replace("_", "-")) == said


def test_list_shows_all_about_one(capsys: Captured) -> None:
    said = ok(capsys, "list", "schedules", "late")
    assert "recommended schedule" in said
    assert re.search(r"intensity +0.1 +number >= 0, <= 1", said)


def test_list_shows_the_traits_of_one_and_what_each_promises(
    capsys: Captured, folder: Path
) -> None:
    said = " ".join(ok(capsys, "list", "algorithms", "gradient_tracking").split())
    assert re.search(r"trait +declared +what that promises", said)
    assert "robust: leave aggregation out" in said
    assert re.search(r"guarantees single_node_is_plain, What the laws test of it\.", said)
    assert (
        "Traits that it leaves as they are: example, defaults, communicates, gradient, "
        in said
    )
    (folder / "mine.py").write_text(
        "from decentral import plugin\n@plugin('fault', strikes='links')\n"
        "def mine(receivers, senders, step, seed, *, share: float = 0.1):\n    'Be mine.'\n"
    )
    said = " ".join(ok(capsys, "list", "faults", "mine.py:mine").split())
    assert re.search(r"strikes +links +nodes are unavailable, links down", said)


def test_list_algorithms_tells_paper_channels_promises_and_cost(capsys: Captured) -> None:
    said = " ".join(ok(capsys, "list", "algorithms").split())
    assert (
        'paper Pu & Nedic, "Distributed stochastic gradient tracking methods", 2021'
        in said
    )
    assert "sends model, tracker" in said
    assert "sends model, weight (one number)" in said
    assert (
        "costs 2 d rows a node and round with d neighbours; 4 (N - 1) / N rows in a"
        in said
    )
    assert "sends nothing costs nothing" in said
    assert "in a global merge, all by 1 / fragments" in said
    assert "promises single node is plain, keeps mean" in said
    one = " ".join(ok(capsys, "list", "algorithms", "allreduce").split())
    assert "costs 2 (N - 1) / N rows a node in every step" in one


def test_list_settings(capsys: Captured) -> None:
    said = ok(capsys, "list", "settings")
    assert re.search(r"local_steps +10 +steps between", said)
    assert fits(said)


# --- help and errors ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["launch", "-h"], ["show"], ["show", "schedule", "--help"]]
)
def test_help_fits(capsys: Captured, words: list[str]) -> None:
    said = ok(capsys, *words)
    assert said.startswith("usage: decentral")
    assert fits(said)


def test_every_flag_is_explained(capsys: Captured) -> None:
    said = ok(capsys, "launch", "--help")
    for flag in (
        "topology",
        "schedule",
        "communication",
        "local-steps",
        "eval-every",
        "json",
    ):
        assert f"--{flag}" in said


def test_version(capsys: Captured) -> None:
    assert ok(capsys, "--version").startswith("decentral")


def test_debug_shows_the_traceback(capsys: Captured) -> None:
    assert decentral.cli.run(["launch", "--topology", "rng", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("error: unknown topology 'rng'")


def test_a_bug_is_called_a_bug(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("decentral.cli.listing.show", planted("cli/listing.py"))
    assert decentral.cli.run(["list"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    where = r"\(decentral/cli/listing.py:2\); the traceback is in (\S+)\."
    found = re.fullmatch(
        f"error: this is a bug in decentral: KeyError: 'planted' {where}", first
    )
    assert found
    assert second == "Please report it, with that file."
    file = Path(found[1])
    assert file.read_text().startswith("Traceback")
    file.unlink()


def _command(*words: str) -> list[str]:
    code = "import sys; from decentral.cli import main; sys.argv[0] = 'decentral'; main()"
    return [sys.executable, "-c", code, *words]


def test_exit_status_and_streams_of_the_command() -> None:
    done = subprocess.run(
        _command("launch", "missing.yaml"), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "error: configuration missing.yaml does not exist; check the path.\n"
    )


def test_a_broken_pipe_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        _command("list", "schedules"), stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert done.stderr == b""


def test_a_terminal_without_unicode() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        _command("show", "topology", "ring"), capture_output=True, env=environment
    )
    assert done.returncode == 0, done.stderr


# --- live -----------------------------------------------------------------------------------------


def _watched(kind: type[Bar] | type[Lines], **settings: Any) -> tuple[Any, str]:
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=kind is Bar, highlight=False)
    run = api.start(make_config({"task": "quadratic", "nodes": 4, **settings}))
    with kind(console, run) as display:
        run.run(display)
        final = display
    return final, out.getvalue()


def test_the_bar_shows_step_scores_and_bytes() -> None:
    bar, _ = _watched(Bar, steps=50)
    out = io.StringIO()
    Console(file=out, width=80).print(bar.render())
    first, second = out.getvalue().rstrip().splitlines()
    assert "step 50/50" in first
    assert re.search(r"loss local \S+ \(\S+–\S+\) +merged \S+ +sent [\d.]+ kB", second)
    assert fits(out.getvalue())


def test_the_bar_leaves_nothing_behind() -> None:
    assert _watched(Bar, steps=50)[1].endswith("\x1b[1A\x1b[2K\x1b[1A\x1b[2K")


def test_plain_lines_are_few() -> None:
    lines = _watched(Lines, steps=200, eval_every=1)[1].splitlines()
    assert 10 <= len(lines) <= 13
    assert all(line.startswith("step") for line in lines)
