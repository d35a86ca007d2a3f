"""Failures on the Ray engine, over one shared cluster: the driver is this process."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from inventory import as_it_was
from support import descendants, lives, replayed
from torch import Tensor

import decentral
from decentral.api import run_config
from decentral.config import make_config
from decentral.engines import attempt, workers
from decentral.engines.contact import WorkersLost
from decentral.engines.ray.actor import Actor
from decentral.engines.ray.allocator import divide
from decentral.engines.ray.cluster import (
    HEAD_EVERY_S,
    HEAD_S,
    LOOKS,
    Head,
    Host,
    connect,
)
from decentral.engines.ray.placement import HostBlocklist
from decentral.engines.ray.run import RayRun
from decentral.engines.ray.worker_group import (
    ORPHANED,
    WorkerGroup,
    start_workers,
    unwrap,
)
from decentral.errors import Interrupted, RunError, worker_error
from decentral.run.checkpoint import newest_checkpoint
from decentral.sweeps import read_sweep, run_points

pytestmark = [pytest.mark.needs("ray"), pytest.mark.timeout(240)]

#: Float64, ordered and without a final merge: the same bits wherever the rows live.
SETTINGS: dict[str, Any] = {
    "task": "quadratic(dimension=6)", "nodes": 6, "steps": 60, "local_steps": 2, "seed": 3,
    "topology": "ring", "communication": "constant", "optimizer": "adamw", "batch": 4,
    "learning_rate": 0.05, "dtype": "float64", "mixing": "ordered", "replicas": "vmap",
    "checkpoint_every": 10, "eval_every": 20, "threads": 1, "keep_checkpoints": 9,
    "engine": "ray", "engine.workers": 2, "engine.liveness_s": 20,
}  # fmt: skip
#: Three workers, of which one may be lost for good.
CONTINUE = {"engine.workers": 3, "engine.on_failure": "continue"}
#: Checkpoints arrive behind the steps: some have to follow a loss.
LONGER = CONTINUE | {"steps": 400}
#: Where one worker is enough; starting each takes 4 s.
ONE = {"engine.workers": 1}
#: The same in one process.
ALONE = {key: value for key, value in SETTINGS.items() if not key.startswith("engine")}

Launch = Callable[..., Path]


@pytest.fixture
def launch(tmp_path: Path, ray_cluster: None) -> Launch:
    def launched(**settings: Any) -> Path:
        return decentral.launch(
            **{"out": str(tmp_path / "run"), **SETTINGS, **settings}
        ).path

    return launched


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """The last rows of the run in one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    return last_rows(decentral.launch(**ALONE, engine="local", out=str(out)).path)


def last_rows(out: Path) -> Tensor:
    saved = newest_checkpoint(out)
    assert saved.step == run_config(out).steps
    nodes = saved.load(saved.live).nodes
    return torch.stack([nodes[node]["row"] for node in saved.live])


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = (out / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


@pytest.mark.soak
def test_four_actors_end_at_the_bits_of_one_process(
    launch: Launch, undisturbed: Tensor
) -> None:
    """Two do so below, of which one is killed."""
    out = launch(**{"engine.workers": 4})
    assert len(json.loads((out / "env.json").read_text())["workers"]) == 4
    assert torch.equal(last_rows(out), undisturbed)


@pytest.mark.hosts
def test_two_actors_draw_the_nodes_that_one_process_draws(
    launch: Launch, tmp_path: Path
) -> None:
    partial: dict[str, Any] = {"participation": 3, "steps": 12, "topology": "complete"}
    out = launch(**partial)
    here = {**ALONE, **partial, "engine": "local", "out": str(tmp_path / "alone")}
    alone = decentral.launch(**here).path
    assert torch.equal(last_rows(out), last_rows(alone))
    theirs, own = (
        json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        for run in (out, alone)
    )
    assert (theirs["nodes/training"], theirs["nodes/healthy"]) == (3, 6)
    assert theirs["loss/train"] == pytest.approx(own["loss/train"], rel=1e-12)
    for key in ("comm/bytes", "batch/global"):
        assert theirs[key] == own[key]


@pytest.mark.hosts
@pytest.mark.usefixtures("drawn")
def test_a_run_folder_is_as_it_was(launch: Launch, regenerate: bool) -> None:
    out = launch(steps=12, checkpoint_every=6, eval_every=6, keep_checkpoints=2)
    as_it_was(out, "ray", regenerate)


# --- restart --------------------------------------------------------------------------------------


@pytest.mark.hosts
def test_a_killed_worker_is_started_again_and_the_bits_are_the_same(
    launch: Launch, undisturbed: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here no worker sees the run folder: shards of checkpoints and the merged model stream."""
    monkeypatch.setattr(workers, "_is_shared", lambda folder, workers: False)
    monkeypatch.setattr(workers, "CHUNK", 1000)  # several of them
    out = launch(faults=["kill(worker=1,step=35)"])
    assert torch.equal(last_rows(out), undisturbed)
    first = json.loads(
        (out / "checkpoints" / "step-000000000" / "manifest.json").read_text()
    )
    assert first["counters"]["offsets"]["metrics.jsonl"] == 0, (
        "before the first evaluation"
    )
    assert len(json.loads((out / "env.json").read_text())["workers"]) == 2
    (failure,) = events(out, "failure")
    assert (failure["workers"], failure["nodes"]) == ([1], [3, 4, 5])
    assert (failure["cause"], failure["then"]) == ("its process died", "restart")
    rows = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps), "what was logged after the checkpoint was cut off"
    assert len(newest_checkpoint(out).shards) == 2
    assert (out / "merged.safetensors").stat().st_size > 0


@pytest.mark.soak
@pytest.mark.parametrize("limit", ["hang: liveness_s", "stall: progress_s"])
def test_workers_that_stand_still_are_noticed(
    limit: str, launch: Launch, undisturbed: Tensor
) -> None:
    kind, _, setting = limit.partition(": ")
    out = launch(faults=[f"{kind}(worker=1,step=35)"], **{f"engine.{setting}": 8})
    assert torch.equal(last_rows(out), undisturbed)
    (failure,) = events(out, "failure")
    # of workers that wait for each other, who stands still cannot be told
    if kind == "hang":
        assert failure["workers"] == [1]


#: Computes for three times as long as a step may take, on one worker alone.
SLOW = """
import time
from decentral import plugin

@plugin("metric")
def slow(snapshot):
    "Take long."
    end_s = time.thread_time() + 6.0
    while 0 in snapshot.ids and time.thread_time() < end_s:
        sum(range(1000))
    return {"slow/done": 1.0}
"""


@pytest.mark.hosts
def test_a_worker_that_computes_is_not_lost_nor_who_waits_for_it(
    launch: Launch, undisturbed: Tensor, tmp_path: Path
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    slow = f"{tmp_path / 'slow.py'}:slow"
    out = launch(metrics=[slow], eval_every=60, **{"engine.progress_s": 2})
    assert not events(out, "failure")
    assert torch.equal(last_rows(out), undisturbed)


# --- sweeps ---------------------------------------------------------------------------------------


def swept(folder: Path, *words: str) -> tuple[list[Any], list[int]]:
    """Run points side by side; return their outcomes, by place, and how many ran at a time."""
    axes = {word.split("=")[0] for word in words}
    given = {key: value for key, value in (SETTINGS | ONE).items() if key not in axes}
    written = [f"{key}={value}" for key, value in given.items()]
    points = read_sweep(None, [*written, *words], {}).points
    beside: list[int] = []
    ended = dict(run_points(points, folder, lambda places: beside.append(len(places))))
    return [ended[place] for place in range(len(points))], beside


@pytest.mark.hosts
@pytest.mark.usefixtures("ray_cluster")
def test_points_of_a_sweep_run_side_by_side_as_they_would_alone(
    tmp_path: Path, undisturbed: Tensor
) -> None:
    """Two of one core each on two cores; one has no graph, and stops nobody."""
    axes = "topology=hypercube,ring", "seed=3,4"
    outcomes, beside = swept(tmp_path, *axes)
    assert [outcome.state for outcome in outcomes] == ["failed", "failed", "done", "done"]
    assert "needs a number of nodes" in outcomes[0].reason
    assert max(beside) == 2
    (found,) = tmp_path.glob("ring-3-*")
    assert torch.equal(last_rows(found), undisturbed)
    again, _ = swept(tmp_path, *axes)
    assert [outcome.state for outcome in again] == [
        "failed",
        "failed",
        "before",
        "before",
    ]


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_a_sweep_that_is_stopped_goes_on_where_it_was(
    tmp_path: Path, undisturbed: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = RayRun.record

    def stopping(run: RayRun, row: dict[str, Any], watch: Any) -> None:
        recorded(run, row, watch)
        if row["step"] >= 20 and run.stopping is not None:
            run.stopping.set()

    words = "seed=3,4", "eval_every=2"
    with monkeypatch.context() as patch:
        patch.setattr(RayRun, "record", stopping)
        with pytest.raises(Interrupted):
            swept(tmp_path, *words)
    assert not list(tmp_path.glob("*/summary.json"))
    outcomes, _ = swept(tmp_path, *words)
    assert [outcome.state for outcome in outcomes] == ["done", "done"]
    (found,) = tmp_path.glob("3-*")
    assert events(found, "resume")
    assert torch.equal(last_rows(found), undisturbed)


def test_a_share_is_what_a_run_would_use_alone() -> None:
    hosts = [Host("a", "10.0.0.1", 4, 1), Host("b", "10.0.0.2", 8, 0)]

    def cpus(*given: Any) -> list[tuple[str, float]] | None:
        share = divide(hosts, *given)
        return share and [(host.id, host.cpus) for host in share]

    assert cpus(3, 2.0, 0, "pack") == [("a", 4), ("b", 2)]
    assert cpus(3, 2.0, 0, "spread") == [("a", 2), ("b", 4)]
    assert cpus(1, 1.0, 1, "spread") == [("a", 1)]
    assert cpus(2, 1.0, 1, "pack") is None
    assert cpus(7, 2.0, 0, "pack") is None


# --- members that go and come ---------------------------------------------------------------------


@pytest.mark.hosts
def test_nodes_are_lost_and_return_and_the_log_replays_to_the_same_rows(
    launch: Launch,
) -> None:
    """Their process died, their host goes on: they return there at an epoch of their own, as their
    neighbours' mean.
    """
    out = launch(**LONGER, faults=["kill(worker=2,step=25)"])
    first, second = events(out, "membership")
    assert (first["lost"], first["joined"]) == ([4, 5], [])
    assert (second["lost"], second["joined"]) == ([], [4, 5])
    assert second["step"] > first["step"]
    assert torch.equal(last_rows(out), replayed(out))


@pytest.mark.hosts
def test_workers_that_do_not_reach_each_other_part_and_meet_again(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver is told that contact was lost, and that one link is cut; all else is as it
    would be: it asks the workers, and the nodes of one go and return.
    """
    told: list[list[list[bool]]] = []
    recorded, asked = RayRun.record, attempt.ask_reach

    def reach(*given: Any) -> list[list[bool]]:
        told.append(asked(*given))
        return [[{i, j} != {0, 2} for j in range(3)] for i in range(3)]

    def losing(run: RayRun, row: dict[str, Any], watch: Any) -> None:
        recorded(run, row, watch)
        if row["step"] >= 20 and not run.failures:
            raise WorkersLost([], "worker 1 lost contact with worker 0", row["step"])

    monkeypatch.setattr(attempt, "ask_reach", reach)
    monkeypatch.setattr(RayRun, "record", losing)
    monkeypatch.setattr(WorkerGroup, "_patience_s", 0.1)
    out = launch(**LONGER)
    assert told == [[[True] * 3] * 3]
    (failure,), (first, second) = events(out, "failure"), events(out, "membership")
    assert failure["cause"] == "worker 2 and worker 0 do not reach each other"
    assert (failure["workers"], first["lost"]) == ([2], [4, 5])
    assert second["joined"] == [4, 5]
    assert torch.equal(last_rows(out), replayed(out))


@pytest.mark.soak
@pytest.mark.parametrize(
    ("again", "lost"),
    [
        ("kill(worker=0,step=45)", [[4, 5], [], [0, 1], []]),
        # Before the next checkpoint: so it would go on for ever.
        ("kill(worker=2,step=33)", [[4, 5], [], [4, 5]]),
    ],
)
def test_two_losses_replay_to_the_same_rows(
    again: str, lost: list[list[int]], launch: Launch
) -> None:
    out = launch(**CONTINUE, faults=["kill(worker=2,step=25)", again])
    assert [change["lost"] for change in events(out, "membership")] == lost
    assert torch.equal(last_rows(out), replayed(out))


@pytest.mark.hosts
@pytest.mark.usefixtures("ray_cluster")
def test_a_blocked_host_is_used_again_once_it_answers() -> None:
    cluster = connect(make_config({"engine": "ray"}))
    (host,) = cluster.hosts()
    blocklist = HostBlocklist()
    for each in (host.id, "out of reach"):
        blocklist.add(each)
    assert blocklist.unblock([host]) == set(), "it is asked only now"
    while not (found := blocklist.unblock([host])):
        time.sleep(0.1)
    assert found == {host.id}
    assert host.id not in blocklist
    assert "out of reach" in blocklist


# --- what ends at once ----------------------------------------------------------------------------


@pytest.mark.hosts
@pytest.mark.usefixtures("ray_cluster")
def test_a_busy_host_may_take_long_until_workers_have_a_job() -> None:
    """Before it begins nobody asks a worker for reports, nor is that a reason to give up on it."""
    config = make_config({"engine": "ray(liveness_s=0.5)", "device": "cpu"})
    cluster = connect(config)
    group = start_workers(cluster, config, ["only"], "slow", set())
    try:
        assert len(group.ask_all("handshake", timeout_s=120)) == 1
        time.sleep(ORPHANED * config.engine.liveness_s + 2)
        assert len(group.ask_all("handshake", timeout_s=120)) == 1
        lost = group.wait_for_losses(WorkersLost([0], "no answer within 60 s"))
        assert lost.ranks == [0]
        assert lost.step == 0
    finally:
        group.shut_down()


def test_an_actor_that_cannot_begin_ends_the_run_at_once(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limits of silence and of standing still would take ten minutes."""
    module = tmp_path / "only_on_the_driver.py"
    module.write_text("import networkx as nx\ndef own(n): return nx.cycle_graph(n)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_on_the_driver  # pyright: ignore

    module.unlink()
    with pytest.raises(RunError, match="only_on_the_driver"):
        launch(topology=only_on_the_driver.own, **ONE)
    del sys.modules["only_on_the_driver"]


@pytest.mark.hosts
def test_what_a_plug_in_raises_on_a_worker_is_said_with_the_line_of_the_file_beside_it(
    launch: Launch, tmp_path: Path
) -> None:
    """That file is imported only there and then, long after the run was prepared."""
    beside = tmp_path / "beside.py"
    beside.write_text("def length(step):\n    return {0: 1.0}[step]\n")
    (tmp_path / "mine.py").write_text(
        "def late(snapshot):\n"
        "    from beside import length\n"
        "    late.asked = getattr(late, 'asked', -1) + 1\n"
        "    return {'mine/late': length(late.asked)}\n"
    )
    with pytest.raises(RunError) as caught:
        launch(metrics=["accuracy", f"{tmp_path / 'mine.py'}:late"], **ONE)
    said = (
        f"metric 'late' raised KeyError: 1 ({beside}:2). Run folder: {tmp_path / 'run'}."
    )
    assert str(caught.value) == said


def test_ctrl_c_before_the_workers_have_begun(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker can be asked for a checkpoint yet, and there is nothing to save."""
    from decentral.engines.attempt import Attempt

    introduce = Attempt._introduce

    def interrupted(attempt: Attempt) -> None:
        introduce(attempt)
        attempt.stopping.set()

    monkeypatch.setattr(Attempt, "_introduce", interrupted)
    with pytest.raises(RunError, match="interrupted before anything was saved"):
        launch(**ONE)


# --- again and again ------------------------------------------------------------------------------


def struck(attempt: int, workers: int) -> tuple[int, str]:
    """Return a worker, and the fault that kills it at a random step."""
    draw = random.Random(attempt)
    worker = draw.randrange(workers)
    return worker, f"kill(worker={worker},step={draw.randrange(1, SETTINGS['steps'])})"


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(20))
def test_kills_with_restart_change_no_bit(
    attempt: int, launch: Launch, undisturbed: Tensor
) -> None:
    worker, fault = struck(attempt, 2)
    out = launch(faults=[fault])
    assert torch.equal(last_rows(out), undisturbed)
    assert [failure["workers"] for failure in events(out, "failure")] == [[worker]]


@pytest.mark.soak
@pytest.mark.parametrize("attempt", range(20))
def test_kills_with_continue_end_as_the_log_tells(attempt: int, launch: Launch) -> None:
    worker, fault = struck(attempt, 3)
    out = launch(**CONTINUE, faults=[fault])
    (failure,), (change, *later) = events(out, "failure"), events(out, "membership")
    assert [returned["joined"] for returned in later] in ([], [failure["nodes"]])
    assert failure["workers"] == [worker]
    assert failure["nodes"] == change["lost"] == [2 * worker, 2 * worker + 1]
    assert (out / "merged.safetensors").stat().st_size > 0
    assert events(out, "finished")
    assert torch.equal(last_rows(out), replayed(out))


def test_the_head_may_be_away_for_a_moment() -> None:
    """It is given up once it has not answered for long, though it was asked again and again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        head = Head(address)
        # It is there, too busy to do anything: the kernel answers.
        head.check(head.asked_s + HEAD_EVERY_S)
        assert not head.failed
    # This process was busy for long: the first silence is no reason yet, nor the second.
    head.check(silent_s := head.asked_s + 3 * HEAD_S)
    head.check(at_s := silent_s + 3 * HEAD_S)
    head.check(at_s)  # it was asked a moment ago
    for _ in range(LOOKS - 3):
        head.check(at_s := at_s + HEAD_EVERY_S)
    with socket.create_server(server_address(address)):
        head.check(at_s := at_s + HEAD_EVERY_S)
    for _ in range(LOOKS - 1):
        head.check(at_s := at_s + HEAD_EVERY_S)
    with pytest.raises(RunError, match="has not answered for 30 s"):
        head.check(at_s + HEAD_EVERY_S)


def server_address(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host, int(port)


@pytest.mark.soak
def test_a_run_ends_in_one_line_when_the_head_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [f"{key}={value}" for key, value in (SETTINGS | {"steps": 10**6}).items()]
    command = [sys.executable, "-m", "decentral", "launch", "--quiet", *words]
    with subprocess.Popen(
        [*command, "--out", str(out)], stderr=subprocess.PIPE, text=True
    ) as driver:
        while not list(out.glob("checkpoints/step-*[1-9]*/manifest.json")):
            assert driver.poll() is None
            time.sleep(0.2)
        children = descendants(driver.pid)
        (head,) = (
            pid for pid in children
            if Path(f"/proc/{pid}/comm").read_text().startswith("gcs_server")
        )  # fmt: skip
        os.kill(head, signal.SIGKILL)
        _, said = driver.communicate(timeout=100)
    assert driver.returncode == 1
    assert len(said.splitlines()) == 1
    assert "Ray's head (GCS) has not answered for 30 s" in said
    assert str(out) in said
    assert not any(map(lives, children))


@pytest.mark.soak
def test_a_driver_that_is_killed_leaves_a_run_that_can_be_resumed(
    undisturbed: Tensor, tmp_path: Path
) -> None:
    """Kill -9 while the run stands still after step 35, then go on with a new cluster."""
    out = tmp_path / "run"
    words = [f"{key}={value}" for key, value in SETTINGS.items()]
    command = [sys.executable, "-m", "decentral", "launch", "--quiet", *words]
    driver = subprocess.Popen(
        [*command, "faults=[stall(worker=0,step=35)]", "--out", str(out)]
    )
    try:
        while not list(out.glob("checkpoints/step-*30/manifest.json")):
            assert driver.poll() is None
            time.sleep(0.2)
    finally:
        driver.kill()
        driver.wait()
    decentral.resume(out, faults=[])
    assert torch.equal(last_rows(out), undisturbed)


ORPHAN = """
import time
from decentral.engines.ray.actor import Actor
actor = Actor("worker", orphaned_s=0.1, meeting_s=60.0)
time.sleep(2.5)
print("still here", flush=True)
actor.poll(0.0)
time.sleep(30)
"""


def test_an_actor_outlives_a_slow_start_but_not_its_driver() -> None:
    """Polls begin with the work; a machine that loads torch slowly is no dead driver."""
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert done.stdout == "still here\n"
    assert done.returncode == 1


def died(told: str) -> Exception:
    """Return what Ray raises for an actor that has died."""
    from ray.exceptions import ActorDiedError

    error = ActorDiedError()
    error.error_msg = told
    return error


def unavailable(told: str) -> Exception:
    from ray.exceptions import ActorUnavailableError

    return ActorUnavailableError(told, None)


@pytest.mark.parametrize(
    ("error", "alive", "cause", "process"),
    [
        (died, True, "its process died", True),
        (died, False, "its host is gone", False),
        (unavailable, True, "it is out of reach", False),
        (unavailable, False, "it is out of reach", False),
    ],
)
@pytest.mark.parametrize(
    "told", ["", "The node died: its owner is temporarily unavailable."]
)
def test_why_a_worker_is_gone_is_told_by_types_and_states(
    error: Callable[[str], Exception],
    alive: bool,
    cause: str,
    process: bool,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What Ray says in words may change with any release."""
    hosts = [Host("a", "10.0.0.1", 1, 0), Host("b", "10.0.0.2", 1, 0)]
    nodes = [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": alive}]

    def get(ref: object) -> None:
        raise error(told)

    monkeypatch.setattr("ray.nodes", lambda: nodes)
    monkeypatch.setattr("ray.get", get)
    group = WorkerGroup(actors=[None] * 2, hosts=hosts, engine=make_config({}).engine)
    with pytest.raises(WorkersLost) as lost:
        group._answer(1, None)
    assert (lost.value.ranks, lost.value.cause, lost.value.process) == (
        [1],
        cause,
        process,
    )


def test_a_worker_that_loads_torch_may_be_silent_for_longer() -> None:
    group = WorkerGroup(actors=[None] * 2, hosts=[], engine=make_config({}).engine)
    later_s = time.monotonic() + 30
    group.clocks.check(later_s, group.gone, group.step)
    group.steps[0] = 3
    with pytest.raises(WorkersLost, match="silent for 10 s") as lost:
        group.clocks.check(later_s, group.gone, group.step)
    assert lost.value.ranks == [0]


def test_objects_of_modules_that_workers_lack_are_named() -> None:
    from ray.exceptions import RaySystemError

    lacking = RaySystemError("System error: No module named 'mine'\ntraceback: ...")
    found = worker_error(unwrap(lacking), "")
    assert "a worker cannot import 'mine'; install it on every host" in str(found)
    other = RaySystemError("System error: out of file descriptors")
    assert unwrap(other) is other


def test_workers_import_from_where_the_driver_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", ["here"])
    Actor.look_in(cast("Actor", None), ["here", str(tmp_path), str(tmp_path / "gone")])
    assert sys.path == ["here", str(tmp_path)]
