"""Hosts with addresses of their own: runs across them, and the losses they survive."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPO
from hosts import Hosts, cluster
from snippets import blocks
from support import replayed
from test_ray_failures import SETTINGS, events, last_rows
from torch import equal

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.needs("ray", "root"),
    pytest.mark.timeout(500),
]


def words(hosts: Hosts, out: Path, settings: dict[str, Any]) -> list[str]:
    chosen = {**SETTINGS, "engine.address": hosts.address, "engine.placement": "spread"}
    chosen |= settings
    made = [f"{key}={value}" for key, value in chosen.items()]
    return [sys.executable, "-m", "decentral", "launch", *made, "--out", str(out)]


@contextmanager
def launched(hosts: Hosts, out: Path, **settings: Any) -> Iterator[subprocess.Popen[str]]:
    """Launch a run on the head, and see it end well when the block is done."""
    process = subprocess.Popen(
        hosts.command(0, words(hosts, out, settings)),
        env=hosts.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
        said, _ = process.communicate(timeout=400)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said


def wait(what: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> None:
    """Wait until something is so, as long as the run goes on."""
    while not what():
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.1)


def saved(out: Path, step: int) -> Callable[[], bool]:
    """Return whether a step is saved, of the first members of a run or of later ones."""
    return lambda: any(out.glob(f"checkpoints/step-{step:09d}*/manifest.json"))


def workers(out: Path) -> list[str]:
    """Return where the workers are."""
    return json.loads((out / "env.json").read_text())["workers"]


def alone(tmp_path: Path, **settings: Any) -> Any:
    import decentral

    asked = {**SETTINGS, **settings, "out": str(tmp_path / "alone"), "faults": ()}
    kept = {key: value for key, value in asked.items() if not key.startswith("engine")}
    return last_rows(decentral.launch(**kept, engine="local").path)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with cluster(hosts=2) as made:
        yield made


def test_a_cut_link_changes_no_bit(hosts: Hosts, tmp_path: Path) -> None:
    """A host is out of reach for good, as far as the run can tell; the other takes its nodes."""
    out = tmp_path / "run"
    settings = {"faults": ["stall(worker=1,step=35)"], "engine.liveness_s": 10}
    with ExitStack() as cut, launched(hosts, out, **settings) as process:
        wait(saved(out, 30), process)
        cut.callback(hosts.restart, 2)
        cut.callback(hosts.heal, 2)
        hosts.cut(2)
    (failure,) = events(out, "failure")
    assert (failure["workers"], failure["hosts"]) == ([1], [hosts.ip(2)])
    assert failure["cause"] == "silent for 10 s"
    assert workers(out) == [hosts.ip(1)] * 2
    assert equal(last_rows(out), alone(tmp_path))


def test_a_host_that_joins_takes_the_nodes_of_one_that_was_lost(
    hosts: Hosts, tmp_path: Path
) -> None:
    """It is there before the other loses its power: the run stands still until then.
    Checkpoints arrive behind the steps: it takes the nodes at one of those that follow.
    """
    out = tmp_path / "run"
    settings = {
        "faults": ["stall(worker=1,step=25)"],
        "engine.on_failure": "continue",
        "steps": 600,
    }
    with launched(hosts, out, **settings) as process:
        wait(saved(out, 20), process)
        assert workers(out) == [hosts.ip(1), hosts.ip(2)], (
            "a link that was cut and has healed"
        )
        joined = hosts.join()
        hosts.kill(2)
    (failure,) = events(out, "failure")
    assert (failure["workers"], failure["hosts"]) == ([1], [hosts.ip(2)])
    first, second = events(out, "membership")
    assert (first["step"], first["lost"], first["joined"]) == (20, [3, 4, 5], [])
    assert (second["lost"], second["joined"]) == ([], [3, 4, 5])
    assert second["step"] > 20
    assert workers(out) == [hosts.ip(1), hosts.ip(joined)]
    assert equal(last_rows(out), replayed(out))


# --- again and again ------------------------------------------------------------------------------

#: Long enough for a link to be cut and to heal meanwhile, and for what follows.
LONG: dict[str, Any] = {
    "steps": 24000, "checkpoint_every": 300, "eval_every": 6000, "engine.liveness_s": 6,
    "engine.on_failure": "continue",
}  # fmt: skip
#: Nobody has to return.
SHORT = {**LONG, "steps": 9000, "engine.on_failure": "restart"}
#: Seconds that a link is cut: too short to be noticed, noticed by the run alone, noticed by Ray.
CUTS = {"blip": (0.2, 2.0), "short": (9.0, 10.0), "long": (18.0, 22.0)}


def cut_at_random(
    hosts: Hosts, attempt: int, length: str, out: Path, process: subprocess.Popen[str]
) -> int:
    """Cut a host's link at a random moment for a random time; return the host."""
    draw = random.Random(f"{attempt} {length}")
    host = draw.choice([1, 2])
    wait(saved(out, LONG["checkpoint_every"] * draw.randrange(1, 8)), process)
    hosts.cut(host)
    try:
        time.sleep(draw.uniform(*CUTS[length]))
    finally:
        hosts.heal(host)
    return host


def as_told(hosts: Hosts, host: int, out: Path) -> None:
    """Check that the log names who was lost, once, and the end."""
    (failure,) = events(out, "failure")
    assert (failure["workers"], failure["hosts"]) == ([host - 1], [hosts.ip(host)])
    assert failure["nodes"] == [3 * host - 3, 3 * host - 2, 3 * host - 1]
    assert events(out, "finished")


def returned_as_told(out: Path) -> None:
    """Check that the nodes of the one failure were lost and returned, and what became of them."""
    (failure,), (first, second) = events(out, "failure"), events(out, "membership")
    assert failure["nodes"] == first["lost"] == second["joined"]
    assert (out / "merged.safetensors").stat().st_size > 0
    assert equal(last_rows(out), replayed(out))


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(3))
@pytest.mark.parametrize("length", CUTS)
def test_links_cut_with_restart_change_no_bit(
    attempt: int, length: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with cluster(hosts=2) as hosts:
        with launched(hosts, out, **SHORT) as process:
            host = cut_at_random(hosts, attempt, length, out, process)
        if length == "blip":
            assert not events(out, "failure")
        else:
            as_told(hosts, host, out)
    assert equal(last_rows(out), alone(tmp_path, **SHORT))


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(3))
@pytest.mark.parametrize("length", ["short", "long"])
def test_links_cut_with_continue_end_as_the_log_tells(
    attempt: int, length: str, tmp_path: Path
) -> None:
    """What was lost returns: by itself, or when Ray, which gave the host up, is started there."""
    out = tmp_path / "run"
    with cluster(hosts=2) as hosts:
        with launched(hosts, out, **LONG) as process:
            host = cut_at_random(hosts, attempt, length, out, process)
            if length == "long":
                hosts.restart(host)
        as_told(hosts, host, out)
        assert sorted(workers(out)) == [hosts.ip(1), hosts.ip(2)]
    returned_as_told(out)


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(3))
def test_a_host_is_lost_and_later_another_joins(attempt: int, tmp_path: Path) -> None:
    out = tmp_path / "run"
    draw = random.Random(attempt)
    with cluster(hosts=2) as hosts:
        with launched(hosts, out, **LONG) as process:
            wait(saved(out, LONG["checkpoint_every"] * draw.randrange(1, 8)), process)
            host = draw.choice([1, 2])
            hosts.kill(host)
            wait(lambda: events(out, "membership"), process)
            joined = hosts.join()
        as_told(hosts, host, out)
        assert hosts.ip(joined) in workers(out)
    returned_as_told(out)


@pytest.mark.soak
@pytest.mark.parametrize("policy", ["restart", "continue"])
@pytest.mark.timeout(0)
def test_of_hosts_that_do_not_reach_each_other_one_is_left_out(
    policy: str, tmp_path: Path
) -> None:
    """The driver reaches them all. What was left out returns when they do, and not before."""
    out = tmp_path / "run"
    settings = {**LONG, "engine.on_failure": policy, "engine.workers": 3, "steps": 6000}
    with cluster(hosts=3) as hosts:
        with launched(hosts, out, **settings, **{"engine.progress_s": 10}) as process:
            wait(saved(out, 600), process)
            hosts.part(1, 3)
            wait(lambda: events(out, "failure"), process)
            kept = int(events(out, "failure")[0]["step"])
            wait(saved(out, 300 * (kept // 300) + 1500), process)
            assert len(events(out, "failure")) == 1
            assert hosts.ip(3) not in workers(out)
            hosts.reunite(1, 3)
        (failure,) = events(out, "failure")
        cause = "worker 2 and worker 0 do not reach each other"
        assert (failure["workers"], failure["cause"]) == ([2], cause)
        assert failure["hosts"] == [hosts.ip(3)]
        if policy == "restart":
            assert equal(last_rows(out), alone(tmp_path, **settings))
        else:
            assert sorted(workers(out)) == [hosts.ip(host) for host in (1, 2, 3)]
            returned_as_told(out)


# --- jobs -----------------------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Write a job's files; return the settings of the same run in this process."""

    def written(**settings: Any) -> dict[str, Any]:
        own = {key: SETTINGS[key] for key in SETTINGS if not key.startswith("engine")}
        own = {**own, "topology": "mine.py:pairs", **settings}
        source = "import networkx as nx\n\ndef pairs(n):\n    return nx.cycle_graph(n)\n"
        (tmp_path / "mine.py").write_text(source)
        (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(own))
        return {**own, "topology": f"{tmp_path / 'mine.py'}:pairs"}

    return written


def shell(
    hosts: Hosts, script: str, home: Path, **env: str
) -> subprocess.CompletedProcess[str]:
    """Give commands on the head, in a folder that is the home folder, too."""
    command = hosts.command(0, ["bash", "-euc", script])
    where = {
        **hosts.env,
        "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265",
        "HOME": str(home),
    }
    return subprocess.run(
        command, cwd=home, env=where | env, capture_output=True, text=True
    )


@pytest.mark.soak
def test_a_job_is_submitted_as_the_readme_says(
    job: Callable[..., Any], tmp_path: Path
) -> None:
    page = blocks(REPO / "launch/README.md")
    (code,) = [block.source for block in page if "ray job submit" in block.source]
    settings, out = job(), tmp_path / "runs/experiment"
    with cluster(hosts=2, dashboard=True) as hosts:
        done = shell(hosts, code.replace("/home/me", str(tmp_path)), tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "SUCCEEDED" in done.stdout
        assert workers(out) == [hosts.ip(1), hosts.ip(2)]
        refused = shell(hosts, "ray job list", tmp_path, RAY_AUTH_TOKEN="f" * 64)
        assert refused.returncode != 0
    assert equal(last_rows(out), alone(tmp_path, **settings))


@pytest.mark.soak
def test_a_job_that_is_stopped_is_resumed_from_the_same_folder(
    job: Callable[..., Any], tmp_path: Path
) -> None:
    settings, out = job(steps=8000, checkpoint_every=500), tmp_path / "run"
    submit = "ray job submit --working-dir job --submission-id "
    launch = (
        "decentral launch experiment.yaml --engine ray --address auto --workers 2 --out"
    )
    files = "mkdir job && cp experiment.yaml mine.py job/ && "
    with cluster(hosts=2, dashboard=True) as hosts:
        begun = shell(
            hosts, f"{files}{submit} first --no-wait -- {launch} {out}", tmp_path
        )
        assert begun.returncode == 0, begun.stderr
        wait(saved(out, 500))
        assert shell(hosts, "ray job stop first", tmp_path).returncode == 0
        assert events(out, "interrupted")
        done = shell(hosts, f"{submit} second -- decentral resume {out}", tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert equal(last_rows(out), alone(tmp_path, **settings))
