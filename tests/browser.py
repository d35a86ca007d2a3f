"""Headless Chromium, driven by its own protocol: what a reader sees and does."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
from conftest import chromium

#: Where the drawing of a figure lies that is shown at this width, scrolled into view.
_BOX = """(place => {
  const figure = document.querySelectorAll("figure")[place];
  const shown = [...figure.querySelectorAll("svg")].find(s => s.getBoundingClientRect().width);
  shown.scrollIntoView({block: "center"});
  const box = shown.getBoundingClientRect();
  return [box.left, box.top, box.width, box.height];
})"""
_EVENTS = ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening")


#: Whether a page is wider than the screen.
_WIDE = "document.documentElement.scrollWidth > innerWidth"


def wider_than_a_phone(pages: Iterable[Path]) -> Iterator[str]:
    """Yield the pages that have to be moved sideways to be read on a phone, or on a screen."""
    tab = Tab()
    try:
        for page in pages:
            tab.go(page.as_uri())
            for width in (420, 1280):
                tab.show(width)
                if tab.js(_WIDE):
                    yield f"{page.name}: wider than {width} pixels"
    finally:
        tab.close()


class Tab:
    """A tab of a browser of its own; ``said`` is what went wrong in it."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp()
        command = [
            str(chromium()), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--remote-debugging-port=0", f"--user-data-dir={self.folder}", "about:blank",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        told = (
            re.search(r"DevTools listening on ws://\S+?:(\d+)/", line)
            for line in self.process.stderr
        )
        port = next(found[1] for found in told if found)
        self.loop = asyncio.new_event_loop()
        self.number, self.said = 0, list[Any]()
        self.wait(self._connect(port))

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    async def _connect(self, port: str) -> None:
        self.session = aiohttp.ClientSession()
        async with self.session.get(f"http://127.0.0.1:{port}/json") as told:
            tabs = await told.json()
        address = next(t for t in tabs if t["type"] == "page")["webSocketDebuggerUrl"]
        self.socket = await self.session.ws_connect(address, max_msg_size=0)
        for part in ("Page", "Runtime", "Log"):
            await self._call(f"{part}.enable")

    async def _call(self, method: str, **values: Any) -> Any:
        self.number += 1
        number = self.number
        await self.socket.send_json({"id": number, "method": method, "params": values})
        while True:
            told = json.loads((await self.socket.receive()).data)
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]
            if told.get("method") in _EVENTS:
                self.said.append(told["params"])

    def call(self, method: str, **values: Any) -> Any:
        return self.wait(self._call(method, **values))

    def js(self, code: str) -> Any:
        """Return the value of an expression."""
        told = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def show(self, width: int = 1280, scheme: str = "light", media: str = "") -> None:
        """Be a screen of this width, or paper."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        wanted = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=wanted)

    def go(self, address: str) -> None:
        """Load a page."""
        self.call("Page.navigate", url=address)
        self.until(
            "document.readyState === 'complete' && location.href !== 'about:blank'"
        )

    def until(self, code: str, seconds: float = 20) -> None:
        """Wait until an expression holds."""

        async def look() -> None:
            while True:
                told = await self._call("Runtime.evaluate", expression=f"Boolean({code})")
                if told["result"].get("value"):
                    return
                await asyncio.sleep(0.05)

        self.loop.run_until_complete(asyncio.wait_for(look(), seconds))

    def box(self, figure: int) -> tuple[float, float, float, float]:
        """Return left, top, width and height of a figure's drawing."""
        return tuple(self.js(f"{_BOX}({figure})"))

    def point(self, figure: int, x: float, y: float) -> None:
        """Point at a place of a figure, in parts of its drawing."""
        left, top, width, height = self.box(figure)
        self.mouse("mouseMoved", left + x * width, top + y * height)

    def drag(self, figure: int, start: float, end: float) -> None:
        """Drag across a figure, from and to in parts of its width."""
        left, top, width, height = self.box(figure)
        x0, x1, y = left + start * width, left + end * width, top + height / 2
        self.mouse("mouseMoved", x0, y)
        self.mouse("mousePressed", x0, y, button="left", clickCount=1)
        self.mouse("mouseMoved", (x0 + x1) / 2, y, button="left", buttons=1)
        self.mouse("mouseMoved", x1, y, button="left", buttons=1)
        self.mouse("mouseReleased", x1, y, button="left", clickCount=1)

    def mouse(self, kind: str, x: float, y: float, **values: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **values)

    def press(self, key: str) -> None:
        """Press a key."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def close(self) -> None:
        self.wait(self.session.close())
        self.loop.close()
        self.process.terminate()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)
