"""One job in this project and in others: CPU time of a node-step, wall time, memory, accuracy.

python benchmarks/peers/run.py [--peers "decentral,plain loop"] [--nodes 16,64,256] [--envs DIR]

Every peer is installed into an environment of its own below ``--envs`` (gigabytes, since each
brings torch). A step costs the difference between a long and a short run, each the least of some
repeats, so that imports and data count for nothing; children are counted with their parents.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Peer:
    """A project, how it is installed, and what of the job it does otherwise."""

    name: str
    script: str
    note: str
    requirements: tuple[str, ...] = ()  # none: this environment
    python: str = "3.11"
    most: int = 256  # nodes
    steps: tuple[int, int] = (100, 500)


PEERS = (
    Peer("decentral", "decentral_.py", "the job", steps=(200, 1000)),
    Peer("plain loop", "plain_loop.py", "the job, without a framework"),
    Peer(
        "Decent-DP", "decent_dp_.py",
        "a process per node; its ring has one neighbour a step, a half each",
        ("decent-dp==0.2.3",), most=16, steps=(50, 250),
    ),
    Peer(
        "fluke", "fluke_.py",
        "gossip to one random neighbour, half of what came; who was sent nothing does not compute; "
        "torchvision, which does not import beside this torch, is left out",
        ("fluke-fl==0.8.1",), steps=(50, 250),
    ),
    Peer(
        "decent-bench", "decent_bench_.py", "the job; needs Python 3.13",
        ("decent-bench==0.3.0",), python="3.13",
    ),
    Peer(
        "pfl", "pfl_.py", "a server averages all in each round", ("pfl[pytorch]==0.6.0",)
    ),
    Peer(
        "BlazeFL", "blazefl_.py",
        "a server averages all in each round; 3.0 needs Python 3.14",
        ("blazefl==2.0.3", "tqdm"), python="3.13",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds of CPU with its children, of wall time, the largest process."""

    cpu_s: float
    wall_s: float
    peak_mib: float
    accuracy: float
    version: str
    computed: int  # node-steps


def interpreter(version: str) -> str | None:
    """Return a Python of some version, if there is one."""
    if sys.version_info[:2] == tuple(map(int, version.split("."))):
        return sys.executable
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "-V"], capture_output=True).returncode == 0:
        return found
    homes = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return next((str(p) for p in sorted(homes.glob(f"{version}.*/bin/python"))), None)


def environment(peer: Peer, envs: Path) -> str | None:
    """Return the Python of a peer's environment, made where it is not there; None: cannot be."""
    if not peer.requirements:
        return sys.executable
    folder = envs / peer.script.removesuffix(".py").strip("_")
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return str(python)
    base = interpreter(peer.python)
    if base is None:
        return None
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([base, "-m", "venv", str(folder)], check=True)
    wanted = [TORCH, "scikit-learn", *peer.requirements]
    subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True)
    (folder / "ready").touch()
    return str(python)


def measure(python: str, script: str, nodes: int, steps: int) -> Cost:
    """Run a script once."""
    begin = time.perf_counter()
    command = [python, str(HERE / script), str(nodes), str(steps)]
    quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        tempfile.TemporaryDirectory() as folder,
    ):
        child = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=err, env={**os.environ, **quiet}
        )
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - begin
        out.seek(0), err.seek(0)
        said, complained = out.read(), err.read()
    if child.returncode:
        raise SystemExit(
            f"{script} with {nodes} nodes ended with {child.returncode}:\n{complained}"
        )
    last = json.loads(said.strip().splitlines()[-1])
    cpu_s, peak_mib = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    return Cost(
        cpu_s, wall_s, peak_mib, last["accuracy"], last["version"], last["computed"]
    )


def least(costs: Sequence[Cost]) -> tuple[float, float]:
    """Return the least seconds of CPU and of wall time of some runs."""
    return min(c.cpu_s for c in costs), min(c.wall_s for c in costs)


def row(peer: Peer, python: str, nodes: int, repeats: int) -> tuple[float, float, Cost]:
    """Return CPU-milliseconds a node-step, milliseconds a round, and the long run."""
    few, many = peer.steps
    # In turn, so that both see the machine as it is at the time.
    pairs = [
        (
            measure(python, peer.script, nodes, few),
            measure(python, peer.script, nodes, many),
        )
        for _ in range(repeats)
    ]
    short, long = (least([pair[i] for pair in pairs]) for i in (0, 1))
    computed = pairs[0][1].computed - pairs[0][0].computed
    cpu_ms = 1000 * (long[0] - short[0]) / computed
    return cpu_ms, 1000 * (long[1] - short[1]) / (many - few), pairs[0][1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=",".join(peer.name for peer in PEERS))
    parser.add_argument("--nodes", default="16,64,256")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--envs", type=Path, default=Path(tempfile.gettempdir()) / "decentral-peers"
    )
    given = parser.parse_args()
    chosen = [peer for peer in PEERS if peer.name in given.peers.split(",")]
    for nodes in map(int, given.nodes.split(",")):
        print(f"\n{nodes} nodes\n")
        print(
            "| peer | CPU-ms a node-step | times ours | ms a round | MiB | accuracy | steps |"
        )
        print("|---|---|---|---|---|---|---|")
        ours: float | None = None
        for peer in chosen:
            label = peer.name
            if nodes > peer.most:
                print(f"| {label} | not run: {peer.note} | | | | | |")
                continue
            python = environment(peer, given.envs)
            if python is None:
                print(f"| {label} | not run: needs Python {peer.python} | | | | | |")
                continue
            cpu_ms, round_ms, cost = row(peer, python, nodes, given.repeats)
            ours = cpu_ms if peer.name == "decentral" else ours
            ratio = "" if ours is None else f"{cpu_ms / ours:.1f}"
            print(
                f"| {label} {cost.version} | {cpu_ms:.3f} | {ratio} | {round_ms:.1f} "
                f"| {cost.peak_mib:.0f} | {cost.accuracy:.1%} | {peer.steps[1]} |",
                flush=True,
            )
    print()
    for peer in chosen:
        print(f"- {peer.name}: {peer.note}")


if __name__ == "__main__":
    main()
