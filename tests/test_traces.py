"""Traces of machines: their seconds, when they are away, and what that does to messages."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_block, vectors

from decentral.errors import ConfigError
from decentral.loop.rounds import checkpoint_of, restore
from decentral.network.compute import seconds_of
from decentral.network.traces import SAMPLE, Machine
from decentral.registry import build
from decentral.simulation import Simulation


def simulated(algorithm: str, **settings: Any) -> Simulation:
    given: dict[str, Any] = {
        "topology": "complete", "task": "quadratic(dimension=3)",
        "dtype": "float64", "nodes": 3, "steps": 8,
        "local_steps": 1, "communication": "constant", "learning_rate": 0.05,
        "optimizer": "sgd(momentum=0, weight_decay=0)", **settings,
    }  # fmt: skip
    block = tiny_block(**given, algorithm=algorithm)
    block.simulation = Simulation(block)
    return block.simulation


def written(folder: Path, text: str) -> str:
    file = folder / "machines.csv"
    file.write_text(text)
    return f"trace(path={file}"


@given(
    online=st.lists(st.booleans(), min_size=1, max_size=6).filter(any),
    begin=st.integers(0, 20), work=st.integers(1, 12),
)  # fmt: skip
def test_a_step_takes_its_work_in_time_online(
    online: list[bool], begin: int, work: int
) -> None:
    """Second by second: what is left shrinks while the machine is online."""
    lines = tuple(float(at) for at in range(len(online)))
    machine = Machine(lines, (float(work),) * len(online), tuple(online), len(online))
    now, left = begin, work
    while left:
        left -= online[now % len(online)]
        now += 1
    assert machine.step_s(float(begin), 0.02) == now - begin
    assert machine.step_s(float(begin), 0.02, 2.0) >= now - begin + work
    away = next(k for k in range(7) if online[(begin + k) % len(online)])
    assert machine.away_s(float(begin)) == away


def test_a_value_holds_until_the_next_line_of_its_node(tmp_path: Path) -> None:
    text = "node,time_s,compute_s\n3,0,0.5\n7,0,1\n3,10,2\n7,20,\n"
    rule = build("compute", written(tmp_path, text) + ", more=cycled)")
    ids, at = np.arange(4), np.array([9.9, 9.9, 10.0, 25.0])
    assert seconds_of(rule, ids, 0, 0, at).tolist() == [0.5, 1.0, 2.0, 1.0]
    # The file begins anew after 20 s, or its last lines hold on.
    late = np.full(4, 21.0)
    assert seconds_of(rule, ids, 0, 0, late).tolist() == [0.5, 1.0, 0.5, 1.0]
    held = build("compute", written(tmp_path, text) + ", repeat=false, more=cycled)")
    assert seconds_of(held, ids, 0, 0, late).tolist() == [2.0, 1.0, 2.0, 1.0]
    many = np.arange(400)
    drawn = build("compute", written(tmp_path, text) + ")")
    shares = seconds_of(drawn, many, 0, 5, np.zeros(400))
    assert 120 < (shares == 0.5).sum() < 280
    assert (seconds_of(drawn, many, 9, 5, np.zeros(400)) == shares).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("node,time_s,compute_s\n0,1,1\n0,0,1\n", "line 3: time_s 0 of node 0 comes after 1"),
        ("node,time_s,compute_s\n0,0,-1\n", "line 2: compute_s '-1'; it must be seconds above 0"),
        ("node,time_s,compute_s\n0,nan,1\n", "line 2: time_s 'nan'"),
        ("node,time_s,compute_s\nme,0,1\n", "line 2: node 'me'; nodes are whole numbers"),
        ("node,time_s,online\n0,0,1\n1,0,0\n1,5,0\n", "line 4: node 1 is never online"),
        ("node,time_s,online\n0,0,maybe\n", "line 2: online 'maybe'; it is 1 or 0"),
        ("node,time_s,up_kBps\n0,0,5\n", "line 1: columns node, time_s, up_kBps"),
        ("node,time_s,online\n0,0\n", "line 2: 2 cells where the first line has 3"),
        ("", "line 1: columns missing"), ("node,time_s\n", "line 1: no line after the first"),
    ],
)  # fmt: skip
def test_a_bad_trace_is_refused_by_line_before_the_run(
    text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"compute 'trace'.*machines\.csv") as raised:
        simulated("swift", network="lan", compute=written(tmp_path, text) + ")")
    assert said in str(raised.value)


#: Node 1 is away from 50 ms to 250 ms; all take 20 ms for a step.
AWAY = "node,time_s,online\n0,0,1\n1,0,1\n1,0.05,0\n1,0.25,1\n2,0,1\n2,9,1\n"


@pytest.mark.parametrize("offline", ["late", "lost"])
def test_a_node_that_is_away_gets_messages_late_or_not_at_all(
    offline: str, tmp_path: Path
) -> None:
    compute = f"{written(tmp_path, AWAY)}, offline={offline})"
    simulation = simulated("swift", network="lan", compute=compute, steps=20)
    came: list[float] = []
    tell = simulation.tell

    def watched(node: Any, event: Any) -> None:
        if node.id == 1 and event.kind == "message":
            came.append(simulation.now_s)
        assert node.id != 1 or not 0.05 <= simulation.now_s < 0.25
        tell(node, event)

    simulation.tell = watched  # type: ignore[method-assign]
    while not simulation.block.is_over:
        simulation.advance()
    figures = simulation.figures()
    assert figures["simulation/updates_min"] < figures["simulation/updates_max"] - 5
    at_once = sum(one == pytest.approx(0.25, abs=1e-9) for one in came)
    # Two neighbours make ten updates each in these 200 ms.
    assert at_once == (20 if offline == "late" else 0)
    assert figures.get("simulation/lost", 0) == (0 if offline == "late" else 20)
    sent = simulation.block.stats.messages
    assert sent == 20 * 3 * 2


@pytest.mark.parametrize(
    "algorithm", ["swift", "ad_psgd(lock=true)", "dsgd(wait=neighbours)"]
)
def test_a_run_by_a_trace_goes_on_bit_by_bit(algorithm: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "network": "home", "compute": written(tmp_path, AWAY) + ")", "steps": 16
    }  # fmt: skip
    whole, stopped = (simulated(algorithm, **settings) for _ in range(2))
    for _ in range(3):
        stopped.advance()
    other = simulated(algorithm, **settings)
    restore(other.block, checkpoint_of(stopped.block))
    for one in (whole, other):
        while not one.block.is_over:
            one.advance()
    assert torch.equal(vectors(whole.block), vectors(other.block))
    assert whole.now_s == other.now_s > 0.25


def test_waiting_for_neighbours_takes_the_seconds_of_rounds_by_a_trace() -> None:
    from support import trained

    settings: dict[str, Any] = {
        "nodes": 6, "steps": 40, "local_steps": 2, "topology": "ring", "network": "home",
        "communication": "constant", "compute": "trace",
    }  # fmt: skip
    rounds = trained(tiny_block(**settings, algorithm="dsgd"))[-1]
    events = trained(tiny_block(**settings, algorithm="dsgd(wait=neighbours)"))[-1]
    assert rounds["time/simulated_s"] == events["time/simulated_s"]
    assert "compute_s" in SAMPLE


@pytest.mark.parametrize(
    "algorithm", ["dsgd", "dsgd(wait=neighbours)", "async_push_sum", "fedasync"]
)
def test_nothing_is_lost_that_somebody_needs(algorithm: str) -> None:
    with pytest.raises(ConfigError, match="use offline=late"):
        tiny_block(
            algorithm=algorithm, nodes=4, steps=8, network="lan", compute="trace(offline=lost)",
            topology="star" if algorithm == "fedasync" else "ring",
            communication="constant", task="quadratic(dimension=2)",
        )  # fmt: skip


REPO = Path(__file__).parents[1]


def test_the_gallery_is_what_its_script_writes(tmp_path: Path) -> None:
    made = runpy.run_path(str(REPO / "topologies/traces/make_traces.py"))
    made["write"].__globals__["HERE"] = tmp_path
    for name in ("homes", "shared", "lines"):
        made["write"](name, made[name]())
        kept = REPO / f"topologies/traces/{name}.csv"
        assert (tmp_path / f"{name}.csv").read_text() == kept.read_text()
        rule = build("compute", f"trace(path={kept})")
        assert (seconds_of(rule, np.arange(24), 0, 0) > 0).all()


def test_intervals_become_a_trace(tmp_path: Path) -> None:
    """Out of order, overlapping, of machines that begin late."""
    source = tmp_path / "events.tsv"
    source.write_text(
        "who\tfrom\tto\tkind\nb\t120\t150\t1\na\t100\t110\t1\na\t105\t130\t1\n"
        "a\t140\t160\t1\nb\t0\t100\t0\n"
    )
    script = runpy.run_path(str(REPO / "benchmarks/traces/intervals.py"))
    found = script["intervals"](source, "who", "from", "to", "kind=1")
    assert script["trace"](found) == [
        "node,time_s,online", "0,0,1", "0,30,0", "0,40,1", "0,60,0", "1,0,0", "1,20,1", "1,50,0",
    ]  # fmt: skip


def test_states_of_phones_become_a_trace() -> None:
    """Online while all holds that is asked for; of one second the last event counts."""
    day = "2020-01-29 00:0"
    told = [
        f"{day}0:00\twifi", f"{day}0:05\tbattery_charged_on", f"{day}0:20\tscreen_on",
        f"{day}0:20\tscreen_off", f"{day}1:00\t4G", f"{day}1:10\tphone_on", f"{day}1:40\twifi",
        f"{day}2:00\tbattery_charged_off",
    ]  # fmt: skip
    phones = {
        "b": {"model": "one", "messages": "\n".join(told)},
        "a": {"messages": f"{day}1:00\tbattery_charged_on\n{day}1:30\twifi\n"},
        "never": {"messages": f"{day}0:00\tbattery_charged_on"},
    }
    script = runpy.run_path(str(REPO / "benchmarks/traces/states.py"))
    assert script["trace"](phones, ("charging", "wifi")) == [
        "node,time_s,online", "0,0,0", "0,60,0", "0,90,1",
        "1,0,0", "1,5,1", "1,60,0", "1,100,1", "1,120,0",
    ]  # fmt: skip
    ready = script["trace"](phones, script["READY"])
    assert ready == [
        "node,time_s,online", "0,0,0", "0,20,1", "0,60,0", "0,100,1", "0,120,0",
    ]  # fmt: skip


def test_measurements_of_lines_become_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mean of one moment, half of there and back, nothing of what failed; the run can read it."""
    day = "2023-01-01 00:0"
    down, latency = tmp_path / "down.csv", tmp_path / "latency.csv"
    down.write_text(
        f"unit_id,dtime,bytes_sec\n9,{day}0:00,1000\n9,{day}0:00,3000\n9,{day}1:00,0\n"
        f"9,{day}2:00,4000\n12,{day}1:00,500\n12,{day}3:00,\n"
    )
    latency.write_text(f"unit_id,dtime,rtt_avg\n9,{day}1:30,20000\n")
    script = runpy.run_path(str(REPO / "benchmarks/traces/measurements.py"))
    out = tmp_path / "trace.csv"
    asked = [
        "measurements.py",
        "--out",
        str(out),
        "--down",
        str(down),
        "--latency",
        str(latency),
    ]
    monkeypatch.setattr("sys.argv", asked)
    script["main"]()
    assert out.read_text().splitlines() == [
        "node,time_s,down_Bps,latency_s", "0,60,500,", "1,0,2000,", "1,90,,0.01", "1,120,4000,",
    ]  # fmt: skip
    simulation = simulated("swift", network="lan", nodes=2, compute=f"trace(path={out})")
    assert simulation.lines.pair_s(0, 1, 500.0, 100.0) == pytest.approx(1.01, rel=0.01)


LINES = """node,time_s,compute_s,up_Bps,down_Bps,latency_s
0,0,0.1,1000,,
0,0.35,,4000,,0.05
1,0,0.3,,500,
"""


def arrivals(simulation: Simulation) -> dict[tuple[int, int], list[float]]:
    came: dict[tuple[int, int], list[float]] = {}
    tell = simulation.tell

    def watched(node: Any, event: Any) -> None:
        if event.kind == "message":
            came.setdefault((event.sender, node.id), []).append(simulation.now_s)
        tell(node, event)

    simulation.tell = watched  # type: ignore[method-assign]
    while not simulation.block.is_over:
        simulation.advance()
    return came


def test_lines_are_from_moment_to_moment_as_a_trace_says(tmp_path: Path) -> None:
    """A message of 24 bytes takes what its sender's line is when it leaves, what both add to the
    way, and the receiver's line when it begins to arrive; what holds until a next line says
    otherwise; the rest is as the network says."""
    compute = f"{written(tmp_path, LINES)}, repeat=false)"
    simulation = simulated(
        "swift", compute=compute, nodes=2, steps=4,
        network="uniform(latency_s=10ms, bandwidth_Bps=8kB/s)",
    )  # fmt: skip
    size = simulation.size
    came = arrivals(simulation)
    # Node 1 receives over 500 B/s, first come first served; node 0's line is 1,000 B/s, and from
    # 0.35 s on 4,000 B/s with 50 ms more.
    expected, taken = list[float](), 0.0
    for leaves in (0.1, 0.2, 0.3, 0.4, 0.5):
        up, more = (1000.0, 0.0) if leaves < 0.35 else (4000.0, 0.05)
        begins = leaves + 0.01 + more
        taken = max(taken, begins) + size / 500
        expected.append(max(taken, leaves + size / up + 0.01 + more))
    found = came[0, 1][:5]
    assert found == pytest.approx(expected[: len(found)], abs=1e-12)
    assert len(found) == 5
    # Node 1 sends as the network says, and what node 0 adds holds for what it receives.
    assert came[1, 0][0] == pytest.approx(0.3 + size / 8000 + 0.01)
    assert came[1, 0][1] == pytest.approx(0.6 + size / 8000 + 0.01 + 0.05)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0,0,0.1,-5,,", "line 2: up_Bps '-5'.*bytes per second above 0"),
        ("0,0,0.1,,0,", "line 2: down_Bps '0'"), ("0,0,0.1,fast,,", "line 2: up_Bps 'fast'"),
        ("0,0,0.1,,,-1", "line 2: latency_s '-1'.*at least 0"),
    ],
)  # fmt: skip
def test_bad_lines_of_a_trace_are_refused(tmp_path: Path, line: str, said: str) -> None:
    head = LINES.splitlines()[0]
    with pytest.raises(ConfigError, match=said):
        simulated(
            "swift", compute=f"{written(tmp_path, f'{head}{chr(10)}{line}')})", nodes=2
        )


def test_rounds_refuse_lines_that_change(tmp_path: Path) -> None:
    compute = f"{written(tmp_path, LINES)})"
    with pytest.raises(ConfigError, match=r"which rounds do not follow.*such as swift"):
        tiny_block(algorithm="dsgd", compute=compute, network="lan", nodes=2)
