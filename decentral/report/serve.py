"""Runs in a browser while they train: pages of what is below a folder, made when
they are asked for, for this machine alone; nothing is written.

Three things keep others out. The socket is bound to loopback. Every address holds a
token, since other users of a machine reach its loopback, too. And the name under
which the server is asked must be one of this machine's own: a web page elsewhere
that lets its name point here (DNS rebinding) asks under that name.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from decentral.errors import ConfigError, RunError, in_words
from decentral.report.facts import ABSENT, Facts, facts_of, flatten, number_text, state_of
from decentral.report.pages import page
from decentral.report.reader import RunData, is_run, read_run
from decentral.report.run import report_html
from decentral.run.lock import NAME

ADDRESS = "127.0.0.1"
#: Names of this machine that lead nowhere else.
_OWN = frozenset({ADDRESS, "localhost"})
#: What is read of a run.
_FILES = (
    *("config.yaml", "metrics.jsonl", "summary.json", "events.jsonl"),
    *("env.json", "topology.json", "data.json", "records.json"),
)
_COLUMNS = ("run", "state", "topology", "communication", "step", "merged", "of")
#: A page is made anew after so many times what making it took, and so many seconds.
_REST, _REST_S = 5, 2.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


# --- what there is ----------------------------------------------------------------


def find_runs(folder: Path) -> Iterator[Path]:
    """Yield the folders of runs below a folder, finished or not, by their names."""
    for config in sorted(folder.glob("**/config.yaml")):
        if is_run(config.parent):
            yield config.parent


def run_record(name: str, run: RunData, facts: Facts) -> dict[str, Any]:
    """Return what a list of runs says of one, in the order of its columns.

    Args:
        name: What the run is called.
        run: The run.
        facts: Its facts.
    """
    held = flatten(run.config)
    steps, _ = run.series("loss/train")
    return {
        "run": name,
        "state": state_of(run),
        "topology": held.get("topology.name", held.get("topology")),
        "communication": held.get("communication.name", held.get("communication")),
        "step": (run.summary or {}).get("steps", int(steps[-1]) if len(steps) else 0),
        "merged": facts.merged,
    }


# --- pages ------------------------------------------------------------------------


@dataclass
class _Made:
    """A page, the state of files that it shows, and until when it is new enough."""

    version: str
    html: str
    until: float


@dataclass
class Site:
    """The pages of a folder; one is made at a time, since matplotlib has one style."""

    folder: Path
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    made: dict[str, _Made] = field(default_factory=dict[str, _Made])
    records: dict[str, tuple[str, dict[str, Any]]] = field(
        default_factory=dict[str, tuple[str, dict[str, Any]]]
    )
    lock: Any = field(default_factory=Lock)

    def __post_init__(self) -> None:
        """Keep the folder by a name that no link changes."""
        self.folder = self.folder.resolve()

    def answer(self, address: str) -> tuple[HTTPStatus, str, str]:
        """Return status, kind and text for the address of a request."""
        path, _, asked = address.partition("?")
        token, _, rest = urlsplit(path).path.lstrip("/").partition("/")
        if not secrets.compare_digest(token.encode(), self.token.encode()):
            said = "The address that `decentral serve` has printed holds a token."
            return HTTPStatus.FORBIDDEN, "text/plain", said
        name = "/".join(unquote(part) for part in rest.split("/") if part)
        if name and self._folder(name) is None:
            return HTTPStatus.NOT_FOUND, "text/plain", "There is no such run."
        try:
            with self.lock:
                found = self._page(name)
        except Exception as error:  # the next request finds a server
            said = f"This page cannot be made: {in_words(error)}."
            return HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", said
        if asked == "version":
            return HTTPStatus.OK, "text/plain", found.version
        return HTTPStatus.OK, "text/html", found.html

    def _folder(self, name: str) -> Path | None:
        """Return the folder of a run of that name, None where it is none, or it or
        a file of its leads out of the folder that is served.
        """
        if "\0" in name:
            return None
        path = self.folder / name
        inside = all(
            (path / one).resolve().is_relative_to(self.folder) for one in ("", *_FILES)
        )
        return path.resolve() if inside and is_run(path) else None

    def _names(self) -> list[str]:
        """Return the names of all runs."""
        names = [
            path.relative_to(self.folder).as_posix() for path in find_runs(self.folder)
        ]
        return [name for name in names if self._folder(name) is not None]

    def _stamp(self, name: str) -> str:
        """Return what changes whenever a run does."""
        told: list[object] = []
        for file in (*_FILES, NAME):
            with suppress(OSError):
                known = (self.folder / name / file).stat()
                # Of the lock only whether it is there: it is touched all the time.
                parts = () if file == NAME else (known.st_mtime_ns, known.st_size)
                told.append((file, *parts))
        return hashlib.sha256(repr(told).encode()).hexdigest()[:16]

    def _page(self, name: str) -> _Made:
        """Return a page: of a run, or without a name of all; the last one where it
        is new enough.
        """
        known, now = self.made.get(name), time.monotonic()
        if known is not None and now < known.until:
            return known
        names = [name] if name else self._names()
        stamps = {one: self._stamp(one) for one in names}
        version = hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
        if known is None or known.version != version:
            html = self._run_html(name) if name else self._index_html(stamps)
            known = self.made[name] = _Made(version, html, 0.0)
        took = time.monotonic() - now
        known.until = now + took + max(_REST_S, _REST * took)
        return known

    def _run_html(self, name: str) -> str:
        try:
            return report_html(read_run(self.folder / name), live="?version")
        except (ConfigError, RunError) as error:
            return self._table_html(name, [], [str(error)])

    def _index_html(self, stamps: dict[str, str]) -> str:
        """Return the page of all runs; only those that have changed are read again."""
        rows: list[dict[str, Any]] = []
        unread: list[str] = []
        for name, stamp in stamps.items():
            known = self.records.get(name)
            if known is None or known[0] != stamp:
                try:
                    run = read_run(self.folder / name)
                except (ConfigError, RunError) as error:
                    unread.append(f"{name}: {error}")
                    continue
                known = self.records[name] = (stamp, self._row(name, run))
            rows.append(known[1])
        return self._table_html(self.folder.name, rows, unread)

    def _row(self, name: str, run: RunData) -> dict[str, Any]:
        facts = facts_of(run)
        record = run_record(name, run, facts)
        score = number_text(facts.merged, facts.score)
        judged = "" if facts.merged is None else facts.metric
        record |= {"merged": score, "of": judged or ABSENT, "steps": run.steps}
        return record | {"address": "/".join(map(quote, name.split("/"))) + "/"}

    def _table_html(
        self, title: str, rows: list[dict[str, Any]], unread: list[str]
    ) -> str:
        training = sum(row["state"] == "training" for row in rows)
        count = f"{len(rows)} run{'s' * (len(rows) != 1)}"
        said = f"{count}, {training} of them training." if rows else "No runs yet."
        return page(
            "runs",
            live="?version",
            title=title,
            over="decentral serve",
            verdict=said,
            columns=_COLUMNS,
            numeric=["step", "merged"],
            rows=[[row[column] for column in _COLUMNS] for row in rows],
            runs=rows,
            unread=unread,
        )


# --- the server -------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; whatever else is asked for is not there."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = 10.0  # Of a client that sends nothing.
    server_version, sys_version = "decentral", ""

    def do_GET(self) -> None:
        """Answer with a page."""
        status, kind, text = self._answer()
        data = text.encode("utf-8", "backslashreplace")
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            with suppress(BrokenPipeError, ConnectionResetError):  # it has left
                self.wfile.write(data)

    do_HEAD = do_GET

    def _answer(self) -> tuple[HTTPStatus, str, str]:
        host = (self.headers.get("Host") or "").rpartition(":")
        name = host[0] or host[2]
        if name.lower() not in _OWN:
            said = f"Ask for {ADDRESS} or localhost."
            return HTTPStatus.MISDIRECTED_REQUEST, "text/plain", said
        return self.server.site.answer(self.path)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests, whose addresses hold the token."""


class Server(ThreadingHTTPServer):
    """Serves the pages of a folder on loopback."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        """Take a port, 0: any that is free.

        Raises ConfigError where the folder is none or the port is not to be had.
        """
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; give one that holds runs.")
        self.site = Site(folder)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise ConfigError(
                f"port {port}: {error.strerror or error}; give another, or leave --port "
                "out for one that is free."
            ) from error

    @property
    def address(self) -> str:
        """Where a browser finds it, the token included."""
        return f"http://{ADDRESS}:{self.server_port}/{self.site.token}/"
