"""A real Prometheus scrapes a real Ray head, and every panel of the dashboard has data."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPO
from test_launch_files import LAUNCH, queries

pytestmark = [pytest.mark.needs("ray", "prometheus"), pytest.mark.timeout(120)]

EXPORTER = """
import sys, time, ray
from decentral.engines.ray.run import PARTS, Monitor
from decentral.metrics.base import built_in_records
from decentral.records import records_of

ray.init(sys.argv[1], log_to_driver=False)
records = records_of(built_in_records())
keys = [record.key for record in records.declared if "*" not in record.key]
monitor = Monitor("tiny", records)
for step in range(1, 1000):
    parts = [{f"time/{part}_s": 0.1 for part in PARTS}] * 2
    monitor.record(dict.fromkeys(keys, step), parts)
    monitor.repeat()  # Ray drops a gauge that is not set again
    time.sleep(1)
"""


@dataclass(frozen=True)
class Head:
    """A Ray head with a token, and the Prometheus that scrapes it."""

    folder: Path
    dashboard: str
    token: str
    prometheus: str

    def query(self, text: str) -> list[Any]:
        """Return what Prometheus has for a query now."""
        url = f"{self.prometheus}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
        return json.loads(fetch(url)[1])["data"]["result"]

    def targets(self) -> list[str]:
        return [where for group in discovered(self.folder) for where in group["targets"]]


def fetch(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers)
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def discovered(folder: Path) -> list[Any]:
    file = folder / "prom_metrics_service_discovery.json"
    return json.loads(file.read_text()) if file.exists() else []


def eventually(what: Callable[[], Any], timeout_s: float = 60.0) -> None:
    """Wait until something is true."""
    end = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < end, what
        time.sleep(0.5)


def ready(url: str) -> bool:
    try:
        return fetch(url)[0] == 200
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def running(log: Path, command: list[str], **env: str) -> Generator[None]:
    """Run a program beside the test; its whole process group ends with the block."""
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            env={**os.environ, **env},
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def scrape_config(folder: Path) -> str:
    """launch/prometheus.yml for a head with a folder of its own, scraped every second."""
    text = (LAUNCH / "prometheus.yml").read_text()
    config = yaml.safe_load(text.replace("/tmp/ray/", f"{folder}/"))
    assert str(folder) in str(config)
    config["global"]["scrape_interval"] = "1s"
    return yaml.safe_dump(config)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # short: Unix sockets lie in it
    folder = Path(tempfile.mkdtemp(prefix="dp-", dir="/tmp"))
    try:
        with ExitStack() as stack:
            yield start(folder, stack)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start(folder: Path, stack: ExitStack) -> Head:
    gcs, dashboard, client, prometheus = free_ports(4)
    token = secrets.token_hex(32)
    env = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    env |= {"RAY_metrics_report_interval_ms": "1000"}
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
    ray += [
        "--node-ip-address=127.0.0.1",
        f"--port={gcs}",
        f"--temp-dir={folder}",
        "--num-cpus=1",
    ]
    ray += [f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"]
    ray += ["--object-store-memory=100000000", "--dashboard-agent-listen-port=0"]
    stack.enter_context(running(folder / "head.log", ray, **env))
    found = Head(
        folder, f"http://127.0.0.1:{dashboard}", token, f"http://127.0.0.1:{prometheus}"
    )
    eventually(lambda: found.targets())
    exporter = [sys.executable, "-c", EXPORTER, f"127.0.0.1:{gcs}"]
    stack.enter_context(running(folder / "exporter.log", exporter, **env))
    (folder / "prometheus.yml").write_text(scrape_config(folder))
    server = ["prometheus", f"--config.file={folder}/prometheus.yml"]
    server += [
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{prometheus}",
    ]
    stack.enter_context(running(folder / "prometheus.log", server))
    eventually(lambda: ready(f"{found.prometheus}/-/ready"))
    return found


def test_every_panel_has_data(head: Head) -> None:
    eventually(lambda: [query for query in queries() if not head.query(query)] == [])
    (step,) = head.query("max by (run) (ray_decentral_step)")
    assert step["metric"] == {"run": "tiny"}
    parts = head.query("ray_decentral_step_seconds")
    assert {(p["metric"]["worker"], p["metric"]["part"]) for p in parts} == {
        (worker, part) for worker in "01" for part in ("compute", "wait", "mix")
    }


def test_all_that_ray_lists_is_scraped(head: Head) -> None:
    assert head.targets()
    eventually(lambda: len(head.query('up{job="ray"} == 1')) == len(head.targets()))


def test_the_list_over_http_wants_the_token_and_is_the_same(head: Head) -> None:
    url = f"{head.dashboard}/api/prometheus/sd"
    assert fetch(url)[0] == 401
    assert fetch(url, Authorization="Bearer wrong")[0] == 403
    status, text = fetch(url, Authorization=f"Bearer {head.token}")
    assert (status, json.loads(text)) == (200, discovered(head.folder))


@pytest.mark.soak
@pytest.mark.needs("chromium")
@pytest.mark.timeout(400)
def test_pages_show_the_named_actors_and_the_mergeability_of_a_run(
    tmp_path: Path,
) -> None:
    """The script ends with an error where Ray's page does not name the actors."""
    script = REPO / "docs" / "make_pictures.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True
    )
    assert done.returncode == 0, done.stderr
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["prometheus-accuracy.png", "ray-actors.png"]
