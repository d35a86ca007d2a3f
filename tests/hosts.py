"""Several hosts on one machine: network namespaces with addresses of their own, on a bridge."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

#: Hosts that are out of reach are noticed by Ray in 12 to 16 seconds, not in a minute.
HEALTH = {
    "initial_delay_ms": 1000,
    "period_ms": 1000,
    "timeout_ms": 3000,
    "failure_threshold": 4,
}


class Hosts:
    """A Ray cluster: host 0 is its head and offers no CPUs, the others offer one each."""

    def __init__(self, folder: Path, dashboard: bool = False) -> None:
        self.folder, self.name = folder, f"dc{os.getpid() % 100000}"
        self.dashboard = dashboard
        self.count = 0
        self.env = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # 15 as Ray has it: a busy machine would starve them
            **{f"RAY_health_check_{key}": str(value) for key, value in HEALTH.items()},
        }

    @property
    def address(self) -> str:
        """Where the cluster is joined."""
        return f"{self.ip(0)}:6379"

    def ip(self, host: int) -> str:
        return f"10.117.0.{10 + host}"

    def space(self, host: int) -> str:
        return f"{self.name}h{host}"

    def link(self, host: int) -> str:
        """Return the end of a host's cable at the bridge."""
        return f"{self.name}v{host}"

    def command(self, host: int, words: Sequence[str]) -> list[str]:
        """Return a command to be given on a host; Ray's folder there is the host's own."""
        disk, seen = self.folder / f"disk-{host}", self.folder / "ray"
        for folder in (disk, seen):
            folder.mkdir(exist_ok=True)
        mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
        space = ["ip", "netns", "exec", self.space(host)]  # a space of mounts, too
        return [*space, "sh", "-c", mount, str(disk), str(seen), *words]

    # --- cables -----------------------------------------------------------------------------------

    def lay_bridge(self) -> None:
        ip("link", "add", self.name, "type", "bridge")
        ip("link", "set", self.name, "up")

    def _connect(self, host: int) -> None:
        space, link = self.space(host), self.link(host)
        ip("netns", "add", space)
        ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", link, "master", self.name, "up")
        ip("-n", space, "address", "add", f"{self.ip(host)}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", space, "link", "set", device, "up")

    def cut(self, host: int) -> None:
        """Pull a host's cable: nothing reaches it, and nobody is told."""
        ip("link", "set", self.link(host), "down")

    def heal(self, host: int) -> None:
        """Put a host's cable back."""
        ip("link", "set", self.link(host), "up")

    def part(self, one: int, other: int) -> None:
        """Let two hosts reach everybody but each other."""
        self._holes("add", one, other)

    def reunite(self, one: int, other: int) -> None:
        """Let two hosts that were parted reach each other."""
        self._holes("delete", one, other)

    def _holes(self, change: str, one: int, other: int) -> None:
        for here, there in ((one, other), (other, one)):
            ip(
                "-n",
                self.space(here),
                "route",
                change,
                "blackhole",
                f"{self.ip(there)}/32",
            )

    def slow(self, host: int, bytes_per_s: int) -> None:
        """Let a host's cable carry so many bytes a second each way, in frames of 9,000 bytes.

        Acknowledgements overtake rows: behind them, TCP would use half of a cable that is busy both
        ways.
        """
        rate = 8 * bytes_per_s
        inside = ["ip", "netns", "exec", self.space(host)]
        for where, device in ((inside, "eth0"), ([], self.link(host))):
            run(*where, "ip", "link", "set", device, "mtu", "9000")
            queue = [
                *where,
                "tc",
                "qdisc",
                "replace",
                "dev",
                device,
                "root",
                "handle",
                "1:",
            ]
            run(*queue, "htb", "default", "3")
            add = [*where, "tc", "class", "add", "dev", device]
            run(*add, *f"parent 1: classid 1:1 htb rate {rate}bit".split())
            for number, share in ((2, 0.1), (3, 0.9)):
                own = f"parent 1:1 classid 1:{number} htb rate {share * rate:.0f}bit"
                run(*add, *f"{own} ceil {rate}bit prio {number}".split())
            small = "parent 1: protocol ip u32 match u16 0 0xff00 at 2 flowid 1:2"
            run(*where, "tc", "filter", "add", "dev", device, *small.split())

    # --- hosts ------------------------------------------------------------------------------------

    def join(self) -> int:
        """Start one more host, the first one as the head; return its number."""
        host, self.count = self.count, self.count + 1
        self._connect(host)
        self.start(host)
        return host

    def start(self, host: int) -> None:
        """Start Ray on a host that is connected."""
        ray = [
            str(Path(sys.executable).with_name("ray")),
            "start",
            "--disable-usage-stats",
        ]
        ray += [f"--node-ip-address={self.ip(host)}", "--object-store-memory=80000000"]
        if host == 0:
            ray += [
                "--head",
                "--port=6379",
                "--num-cpus=0",
                f"--temp-dir={self.folder}/ray",
            ]
            ray += [f"--include-dashboard={self.dashboard}"]
        else:
            ray += [f"--address={self.address}", "--num-cpus=1"]
        log = self.folder / f"host-{host}.log"
        with log.open("w") as out:  # not a pipe: Ray's daemons would keep it open
            done = subprocess.run(
                self.command(host, ray), env=self.env, stdout=out, stderr=out
            )
        assert done.returncode == 0, log.read_text()

    def kill(self, host: int) -> None:
        """Let a host lose its power."""
        found = subprocess.run(
            ["ip", "netns", "pids", self.space(host)],
            capture_output=True,
            text=True,
            check=True,
        )
        for process in found.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)

    def restart(self, host: int) -> None:
        """Start Ray anew on a host: where it was given up by its head, it ends."""
        self.kill(host)
        self.start(host)

    def close(self) -> None:
        """Take everything down."""
        for host in range(self.count):
            self.kill(host)
            # the space itself may live on for a while
            ip("link", "delete", self.link(host))
            ip("netns", "delete", self.space(host))
        ip("link", "delete", self.name)


def ip(*words: str) -> None:
    run("ip", *words)


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)


@contextmanager
def cluster(hosts: int, dashboard: bool = False) -> Iterator[Hosts]:
    """Yield a cluster of a head and some hosts; skip where namespaces cannot be made."""
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2: apt-get install iproute2")
    # short: Unix sockets lie in it
    folder = Path(tempfile.mkdtemp(prefix="dh-", dir="/tmp"))
    made = Hosts(folder, dashboard)
    try:
        made.lay_bridge()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"needs the right to make network devices: {error.stderr.strip()}")
    try:
        for _ in range(1 + hosts):
            made.join()
        yield made
    finally:
        made.close()
        time.sleep(0.5)
        shutil.rmtree(folder, ignore_errors=True)
