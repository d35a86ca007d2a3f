"""Photograph a run on Ray: ``python docs/make_pictures.py [DIR]``.

Needs Ray, Chromium and Prometheus. Starts a cluster with a token, a run of two workers and a
Prometheus that asks the dashboard what to scrape; writes, here or into DIR, ray-actors.png, the
actors on Ray's dashboard, and prometheus-accuracy.png, the graph of local and merged accuracy while
the run goes on. Ends with an error where the dashboard does not name the actors.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

DOCS = Path(__file__).resolve().parent
DASHBOARD, PROMETHEUS, DEBUGGING = 18265, 19090, 19222
ACTORS = ("worker 0: nodes 0-7", "worker 1: nodes 8-15")
#: Seconds of the run that the graph shows.
WATCHED_S = 75
#: What Prometheus scrapes, as launch/prometheus.yml has it for one without Ray's folder.
SCRAPE = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: ray
    http_sd_configs:
      - url: http://127.0.0.1:{dashboard}/api/prometheus/sd
        refresh_interval: 10s
        authorization: {{type: Bearer, credentials: {token}}}
"""


@contextmanager
def running(command: list[str], **env: str) -> Generator[subprocess.Popen[bytes]]:
    """Run a program beside this one, in silence."""
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, **env}, **quiet)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Page:
    """A page of a browser, by the protocol of its developer tools."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.asked = socket, 0

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result; events in between are dropped."""
        self.asked += 1
        await self.socket.send_json(
            {"id": self.asked, "method": method, "params": parameters}
        )
        while (answer := await self.socket.receive_json()).get("id") != self.asked:
            continue
        return answer["result"]

    async def text(self) -> str:
        """Return what can be read on the page."""
        found = await self.ask("Runtime.evaluate", expression="document.body.innerText")
        return str(found["result"].get("value", ""))

    async def until(self, *words: str, within_s: float = 90.0) -> None:
        """Wait until the page shows all words."""
        end = time.monotonic() + within_s
        shown = await self.text()
        while missing := [word for word in words if word not in shown]:
            if time.monotonic() > end:
                raise SystemExit(f"the page does not show {missing}:\n{shown}")
            await asyncio.sleep(0.5)
            shown = await self.text()

    async def size(self, width: int, height: int) -> None:
        """Set the size of what is seen of the page."""
        view = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.ask("Emulation.setDeviceMetricsOverride", **view)

    async def photograph(self, path: Path) -> None:
        """Write what the page looks like."""
        shot = await self.ask("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(shot["data"]))
        print(f"wrote {path}")


async def opened(session: aiohttp.ClientSession) -> Page:
    """Return the browser's page, as soon as it answers."""
    for _ in range(100):
        try:
            async with session.get(f"http://127.0.0.1:{DEBUGGING}/json") as answer:
                (page,) = [one for one in await answer.json() if one["type"] == "page"]
                return Page(
                    await session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
                )
        except aiohttp.ClientError:
            await asyncio.sleep(0.3)
    raise SystemExit("Chromium does not answer.")


async def reachable(session: aiohttp.ClientSession, url: str) -> None:
    """Wait until something answers there."""
    for _ in range(300):
        try:
            async with session.get(url):
                return
        except aiohttp.ClientError:
            await asyncio.sleep(0.3)
    raise SystemExit(f"{url} does not answer.")


async def photographs(token: str, out: Path) -> None:
    """Log in, look at the actors, then at the graph after a while."""
    async with aiohttp.ClientSession() as session:
        page = await opened(session)
        await reachable(session, f"http://127.0.0.1:{DASHBOARD}")
        await page.ask("Network.enable")
        key = {"Authorization": f"Bearer {token}"}
        await page.ask("Network.setExtraHTTPHeaders", headers=key)
        await page.ask("Page.navigate", url=f"http://127.0.0.1:{DASHBOARD}/#/actors")
        await page.size(1600, 520)
        await page.until(*ACTORS)
        await asyncio.sleep(2)
        await page.photograph(out / "ray-actors.png")
        await asyncio.sleep(WATCHED_S)
        query = {
            "g0.expr": '{__name__=~"ray_decentral_accuracy_(local_mean|merged)"}',
            "g0.tab": 0,
            "g0.range_input": f"{WATCHED_S + 15}s",
        }
        graph = f"http://127.0.0.1:{PROMETHEUS}/graph?{urlencode(query)}"
        await page.ask("Network.setExtraHTTPHeaders", headers={})
        await page.size(1280, 1000)
        await page.ask("Page.navigate", url=graph)
        await page.until(
            "ray_decentral_accuracy_merged", "ray_decentral_accuracy_local_mean"
        )
        await asyncio.sleep(2)
        await page.photograph(out / "prometheus-accuracy.png")


def main(out: Path) -> None:
    """Start everything, take the pictures, stop everything."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    token = secrets.token_hex(32)
    folder = Path(tempfile.mkdtemp())
    launch = (
        "launch --topology ring --schedule late steps=40000 eval_every=100 log_every=20 threads=1 "
        f"engine=ray engine.workers=2 engine.dashboard_port={DASHBOARD} --quiet "
        f"--out {folder}/ring-late"
    )
    scrape = folder / "prometheus.yml"
    scrape.write_text(SCRAPE.format(dashboard=DASHBOARD, token=token))
    chromium = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,760",
        f"--remote-debugging-port={DEBUGGING}", f"--user-data-dir={folder}/browser", "about:blank",
    ]  # fmt: skip
    prometheus = [
        "prometheus", f"--config.file={scrape}", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{PROMETHEUS}",
    ]  # fmt: skip
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    with ExitStack() as stack:
        stack.enter_context(running(chromium))
        stack.enter_context(running(prometheus))
        command = [sys.executable, "-m", "decentral", *launch.split()]
        stack.enter_context(
            running(command, **secret, RAY_metrics_report_interval_ms="1000")
        )
        asyncio.run(photographs(token, out))
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or [DOCS]))
