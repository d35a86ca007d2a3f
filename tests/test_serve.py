"""Runs in a browser, over HTTP: what is shown, and what nobody is given."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from threading import Thread

import pytest
from synthetic import write_run

import decentral.cli
from decentral.errors import ConfigError
from decentral.report.serve import ADDRESS, Server, Site


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, and one beside it that is not served."""
    folder = tmp_path_factory.mktemp("served")
    write_run(folder / "runs/one", steps=60)
    write_run(folder / "runs/deep er/two#", steps=60, finished=False)
    write_run(folder / "elsewhere", steps=60)
    (folder / "runs/linked").symlink_to(folder / "elsewhere")
    (folder / "runs/part").mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (folder / "runs/part" / name).write_bytes(
            (folder / "runs/one" / name).read_bytes()
        )
    (folder / "secret.json").write_text('{"key": "hidden words"}')
    (folder / "runs/part/env.json").symlink_to(folder / "secret.json")
    return folder / "runs"


@pytest.fixture(scope="module")
def server(runs: Path) -> Iterator[Server]:
    with Server(runs) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(
    server: Server, path: str, host: str | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], str]:
    """Ask for a path as it is written, which browsers and curl would tidy first."""
    link = http.client.HTTPConnection(ADDRESS, server.server_port, timeout=30)
    headers = {} if host is None else {"Host": host}
    link.request(method, path, headers=headers)
    found = link.getresponse()
    text = found.read().decode()
    link.close()
    return found.status, dict(found.getheaders()), text


def test_runs_are_listed_with_how_far_they_are(server: Server) -> None:
    status, headers, said = ask(server, f"/{server.site.token}/")
    assert status == HTTPStatus.OK
    assert "2 runs, 0 of them training." in said
    assert 'href="deep%20er/two%23/"' in said
    assert '<progress value="60" max="60">' in said
    assert "connect-src &#39;self&#39;" in said
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "title"), [("one/", "one"), ("deep%20er/two%23/", "two#")]
)
def test_a_run_has_its_report(server: Server, path: str, title: str) -> None:
    status, _, said = ask(server, f"/{server.site.token}/{path}")
    assert status == HTTPStatus.OK
    assert f"<title>{title} · decentral</title>" in said
    version = ask(server, f"/{server.site.token}/{path}?version")[2]
    assert re.fullmatch("[0-9a-f]{16}", version)


@pytest.mark.parametrize(
    "path",
    [
        "../elsewhere/", "%2e%2e/elsewhere/", "..%2felsewhere/", "one/../../elsewhere/",
        "linked/", "part/", "one/config.yaml", "%00/", "/etc/", "//etc/passwd", "nothing/",
    ],
)  # fmt: skip
def test_nothing_outside_the_folder_is_shown(server: Server, path: str) -> None:
    """Nor a run that is linked there, or a file of whose is."""
    status, _, said = ask(server, f"/{server.site.token}/{path}")
    assert (status, said) == (HTTPStatus.NOT_FOUND, "There is no such run.")


@pytest.mark.parametrize("token", ["", "/", "/x/", "/%C3%BC/", "/%75/one/"])
def test_without_the_token_nothing_is_shown(server: Server, token: str) -> None:
    status, _, said = ask(server, token or "/")
    assert status == HTTPStatus.FORBIDDEN
    assert server.site.token not in said


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (None, HTTPStatus.OK), ("localhost", HTTPStatus.OK), ("LOCALHOST:1", HTTPStatus.OK),
        ("127.0.0.1:9", HTTPStatus.OK), ("evil.example", HTTPStatus.MISDIRECTED_REQUEST),
        ("127.0.0.1.evil.example", HTTPStatus.MISDIRECTED_REQUEST),
        ("evil.example:80", HTTPStatus.MISDIRECTED_REQUEST), ("", HTTPStatus.MISDIRECTED_REQUEST),
    ],
)  # fmt: skip
def test_it_answers_under_names_of_this_machine_only(
    server: Server, host: str | None, expected: HTTPStatus
) -> None:
    """A page elsewhere whose name points here (DNS rebinding) asks under its own name."""
    assert ask(server, f"/{server.site.token}/", host)[0] == expected


def test_it_reads_and_never_writes(server: Server, runs: Path) -> None:
    def state() -> list[tuple[str, int, int]]:
        files = sorted(runs.rglob("*"))
        return [(str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files]

    before = state()
    assert ask(server, f"/{server.site.token}/one/", method="HEAD")[2] == ""
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(server, f"/{server.site.token}/one/", method=method)[0] == 501
    assert state() == before


def test_a_page_is_made_anew_only_when_the_run_has_changed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", steps=60, finished=False)
    site = Site(tmp_path)
    first = site.answer(f"/{site.token}/one/")[2]
    made = site.made["one"]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 59, "loss/train": 0.5}\n')
    assert site.answer(f"/{site.token}/one/")[2] == first  # it rests
    made.until = 0.0
    assert "step 59 " in site.answer(f"/{site.token}/one/")[2]
    assert site.made["one"].version != made.version


def test_a_run_that_writes_is_training(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", steps=60, finished=False)
    (run / ".lock").touch()
    site = Site(tmp_path)
    assert "1 run, 1 of them training." in site.answer(f"/{site.token}/")[2]
    assert '<span class="badge">training</span>' in site.answer(f"/{site.token}/one/")[2]


def test_what_runs_lists_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a run that failed before its first evaluation; and no project."""
    failed = write_run(tmp_path / "failed", steps=60, finished=False)
    (failed / "metrics.jsonl").unlink()
    damaged = write_run(tmp_path / "damaged", steps=60)
    (damaged / "metrics.jsonl").unlink()
    (tmp_path / "project").mkdir()
    (tmp_path / "project/config.yaml").write_text("nodes: 4\n")
    assert decentral.cli.run(["runs", str(tmp_path), "--json"]) == 0
    listed = capsys.readouterr()
    site = Site(tmp_path)
    said = site.answer(f"/{site.token}/")[2]
    assert [row["run"] for row in json.loads(listed.out)] == ["failed"]
    assert re.findall(r'<a href="(\w+)/">', said) == ["failed"]
    for text in (listed.err, said):
        assert "metrics.jsonl missing" in text.replace("\n", " ")
        assert "project" not in text
    status, _, report = site.answer(f"/{site.token}/failed/")
    assert status == HTTPStatus.OK
    assert "Nothing has been evaluated yet." in report


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one", steps=60)
    (run / "metrics.jsonl").write_text("<b>none</b>\n")
    site = Site(tmp_path)
    for path in ("", "one/"):
        status, _, said = site.answer(f"/{site.token}/{path}")
        assert status == HTTPStatus.OK
        assert "cannot be read" in said
        assert "<b>" not in said


def test_a_folder_or_a_port_that_is_not_to_be_had_is_refused(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no such folder; give one that holds runs"):
        Server(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="give another, or leave --port out"):
        Server(tmp_path, server.server_port)


def test_the_command_says_where_and_ends_by_control_c(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Server) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", interrupt)
    assert decentral.cli.run(["serve", str(tmp_path), "--json"]) == 0
    said = capsys.readouterr()
    assert re.search(r'"address": "http://127\.0\.0\.1:\d+/[\w-]{22}/"', said.out)
    assert "Ctrl-C ends it" in said.err
