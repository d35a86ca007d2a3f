"""Pages in a browser: how they look on phone and screen, and what can be done with them."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from html import escape, unescape
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from conftest import chromium
from synthetic import torus, write_json, write_run
from test_pages import hostile

import decentral.cli
from decentral.records import Record
from decentral.report.compare import Group, compare, write_comparison, write_sweep
from decentral.report.facts import duration_text, facts_of, number_text
from decentral.report.pages import Card, page, write_page
from decentral.report.reader import read_run
from decentral.report.run import write_report
from decentral.report.serve import Server
from decentral.report.studies import claims_html
from decentral.units import format_bytes

pytest.importorskip("aiohttp", reason="needs aiohttp, which comes with Ray")
from browser import Tab

pytestmark = [
    pytest.mark.pages,
    pytest.mark.needs("chromium"),
    pytest.mark.usefixtures("rendered"),
]

#: Figures of the report, of which each stands once, but for the first.
FIGURES = 7


# --- how they look --------------------------------------------------------------------------------

_MEASURE = """<script>
addEventListener("load", () => {
  const shown = [...document.querySelectorAll("svg")].filter(s => s.getBoundingClientRect().width);
  const clashes = [];
  for (const svg of shown) {
    const texts = [...svg.querySelectorAll("text")].filter(t => t.textContent.trim());
    const boxes = texts.map(t => t.getBoundingClientRect());
    const card = svg.closest("figure").getBoundingClientRect();
    boxes.forEach((a, i) => {
      if (a.left < card.left || a.right > card.right) clashes.push("out: " + texts[i].textContent);
      boxes.slice(0, i).forEach((b, j) => {
        const w = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const h = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (w > 1 && h > 0.3 * a.height)
          clashes.push(texts[j].textContent + " / " + texts[i].textContent);
      });
    });
  }
  const known = JSON.parse(parent.document.title || "{}");
  known[name] = {
    inner: innerWidth, scroll: document.documentElement.scrollWidth, clashes, shown: shown.length,
  };
  parent.document.title = JSON.stringify(known);
});
</script>"""


def nearly_equal(run: Path) -> Path:
    """Bring the local mean so near to the merged model that their labels would touch."""
    told = json.loads((run / "summary.json").read_text())
    told["before_merge"]["accuracy_local_mean"] = told["final"]["accuracy_merged"] - 0.006
    write_json(run / "summary.json", told)
    return run


def browse(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run headless Chromium with a profile of its own."""
    command = [
        str(chromium()), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--hide-scrollbars", "--enable-logging=stderr", "--log-level=0",
        f"--user-data-dir={folder / 'profile'}", *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


WIDTHS = (400, 1400)
at_every_width = pytest.mark.parametrize("width", WIDTHS)


@pytest.fixture(scope="module")
def measured(
    late: Path, dozen: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What a browser measures on each page at each width: all are frames of one page."""
    folder = tmp_path_factory.mktemp("browser")
    pages = {
        "report": late / "report.html",
        "comparison": write_comparison(compare(dozen), folder / "comparison.html"),
        "thousand": write_report(
            write_run(folder / "torus", nodes=1024, links=torus(32))
        ),
        "close": write_report(nearly_equal(write_run(folder / "close"))),
    }
    policy, frames = re.compile(r"<meta http-equiv.*?>", re.DOTALL), ""
    for kind, each in pages.items():
        inside = policy.sub("", each.read_text()).replace("</body>", _MEASURE + "</body>")
        # A window cannot be as narrow as a phone, a frame can.
        frames += "".join(
            f'<iframe name="{kind}-{width}" style="border: 0; width: {width}px; height: 1000px" '
            f'srcdoc="{escape(inside)}"></iframe>'
            for width in WIDTHS
        )
    (everything := folder / "all.html").write_text(
        f"<!doctype html><title></title>{frames}", encoding="utf-8"
    )
    dom = browse(
        folder, "--window-size=1500,1000", "--dump-dom", everything.as_uri()
    ).stdout
    return json.loads(unescape(re.search(r"<title>(.*?)</title>", dom)[1]))  # pyright: ignore


@at_every_width
@pytest.mark.parametrize("kind", ["report", "comparison", "thousand", "close"])
def test_a_browser_shows_it_without_overflow_or_overlap(
    measured: dict[str, dict[str, Any]], width: int, kind: str
) -> None:
    found = measured[f"{kind}-{width}"]
    assert found["inner"] == width
    assert found["scroll"] <= width
    assert found["clashes"] == []
    assert found["shown"] == (2 if kind == "comparison" else FIGURES)


@pytest.fixture(scope="module")
def screens(late: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report in light and dark, as wide as a phone and, to the right of it, as a screen."""
    from matplotlib.image import imread

    folder = tmp_path_factory.mktemp("screens")
    frames = "".join(
        f'<iframe src="{(late / "report.html").as_uri()}" style="border: 0; position: absolute; '
        f'top: 0; left: {left}px; width: {width}px; height: 1200px"></iframe>'
        for left, width in zip((0, WIDTHS[0]), WIDTHS, strict=True)
    )
    scheme = '<meta name="color-scheme" content="light dark">'
    (both := folder / "both.html").write_text(
        f"<!doctype html>{scheme}<title></title>{frames}"
    )
    found: dict[str, Any] = {}
    for number, name in enumerate(("dark", "light")):  # as Chromium numbers them
        picture = folder / f"{name}.png"
        done = browse(
            folder, f"--window-size={sum(WIDTHS)},1200", f"--screenshot={picture}",
            f"--blink-settings=preferredColorScheme={number}", both.as_uri(),
        )  # fmt: skip
        assert "CONSOLE" not in done.stderr
        found[name] = imread(picture)
    return found


@at_every_width
def test_screenshots_in_light_and_dark(screens: dict[str, Any], width: int) -> None:
    brightness: dict[str, float] = {}
    for name, picture in screens.items():
        assert picture.shape[:2] == (1200, sum(WIDTHS))
        pixels = (
            picture[:, : WIDTHS[0]] if width == WIDTHS[0] else picture[:, WIDTHS[0] :]
        )
        brightness[name] = float(pixels[..., :3].mean())
        assert pixels[..., :3].std() > 0.03
    assert brightness["light"] > 0.85
    assert brightness["dark"] < 0.2


# --- what can be done -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    tab = Tab()
    yield tab
    tab.close()


@pytest.fixture
def report(tab: Tab, late: Path) -> Iterator[Tab]:
    """The report as it is, its policy included."""
    tab.said.clear()
    tab.show()
    tab.go((late / "report.html").as_uri())
    yield tab
    assert tab.said == []


def tip(tab: Tab, figure: int = 0) -> list[str]:
    """Return the lines of what a figure tells of the place that is pointed at."""
    said: str = tab.js(
        f"document.querySelectorAll('figure')[{figure}].querySelector('.tip').innerText"
    )
    return said.splitlines()


def words(tab: Tab, axis: str) -> list[str]:
    """Return the labels along an axis of the first figure that are shown."""
    return tab.js(
        f"[...document.querySelectorAll('figure svg.wide [data-axis=\"{axis}\"] text')]"
        ".filter(one => one.getBoundingClientRect().width).map(one => one.textContent)"
    )


def test_values_are_told_where_one_points(report: Tab, late: Path) -> None:
    rows = [
        json.loads(line) for line in (late / "metrics.jsonl").read_text().splitlines()
    ]
    (row,) = (one for one in rows if one["step"] == 1500)
    report.point(0, 0.49, 0.5)
    assert tip(report) == [
        "step 1,500",
        f"average of all models {100 * row['accuracy/merged']:.4g} %",
        f"local mean {100 * row['accuracy/local_mean']:.4g} %",
        f"local, lowest to highest {100 * row['accuracy/local_min']:.4g} % "
        f"to {100 * row['accuracy/local_max']:.4g} %",
    ]


def test_keys_do_what_a_pointer_does(report: Tab) -> None:
    report.js("document.querySelector('figure svg').focus()")
    for key in ("Home", "ArrowRight"):
        report.press(key)
    assert tip(report)[0] == "step 150"
    said = report.js("document.querySelector('figure output').textContent")
    assert said.startswith("step 150, average of all models ")
    whole = words(report, "0x")
    report.press("+")
    assert words(report, "0x") != whole
    report.press("Escape")
    assert words(report, "0x") == whole


def test_a_part_is_enlarged_and_given_back(report: Tab) -> None:
    marks = (
        "[...document.querySelectorAll('figure svg.wide *')].map(one => one.tagName + "
    )
    marks += "[...one.attributes].map(a => a.name + a.value).sort())"
    before = report.js(marks)
    report.drag(0, 0.5, 0.8)
    steps = [int(word.replace(",", "")) for word in words(report, "0x") if word != "step"]
    assert len(steps) > 2
    assert 1400 < min(steps) < max(steps) < 2600
    report.point(0, 0.3, 0.5)
    assert int(tip(report)[0].split()[-1].replace(",", "")) > 1400
    report.js("document.querySelector('.back').click()")
    assert report.js(marks) == before


def test_series_are_hidden_by_their_names_in_the_legend(report: Tab) -> None:
    report.js("document.querySelectorAll('figure [role=button]')[1].focus()")
    report.press("Enter")
    hidden = (
        "[...document.querySelectorAll('[data-series]')].filter(s => s.style.display)"
    )
    # wide and narrow
    assert report.js(f"{hidden}.length") == 2
    report.point(0, 0.49, 0.5)
    assert not [line for line in tip(report) if line.startswith("local mean")]
    report.js("document.querySelectorAll('figure [role=button]')[1].focus()")
    report.press(" ")
    assert report.js(f"{hidden}.length") == 0


def test_runs_are_hidden_in_all_figures(
    tab: Tab, dozen: list[Path], tmp_path: Path
) -> None:
    tab.show()
    tab.go(write_comparison(compare(dozen), tmp_path / "compare.html").as_uri())
    tab.js("document.querySelectorAll('[data-run] button')[2].click()")
    shown = (
        "[...document.querySelectorAll('[data-series=run-2]')].map(s => s.style.display)"
    )
    assert set(tab.js(shown)) == {"none"}
    pressed = "[...document.querySelectorAll('[data-run=run-2] button')].map(b => b.ariaPressed)"
    assert tab.js(pressed) == ["false", "false"]


NUMBERS = {
    "bytes": [format_bytes(n) for n in (0, 999, 2_300, 45_000_000, 7e9)],
    "time": [duration_text(n) for n in (0.2, 41.2, 123, 3_725, 90_000)],
    "share": [number_text(n, Record("a", unit="%")) for n in (0.02, 0.1, 0.85, 0.9, 1.0)],
    "plain": [number_text(n, Record("a")) for n in (-2.5, 0.00001, 0.5, 1_234, 2e9)],
}


def test_tables_are_sorted_by_their_numbers_and_filtered(
    tab: Tab, tmp_path: Path
) -> None:
    rows = [[f"row {k}", *(cells[k] for cells in NUMBERS.values())] for k in range(5)]
    rows = [*(rows[k] for k in (3, 0, 4, 1, 2)), ["none", *["—"] * 4]]
    rows += [[f"other {k}", *["—"] * 4] for k in range(5)]
    columns = ["what", *NUMBERS]
    html = page("sweep", title="t", over="o", verdict="v", failures=[], columns=columns,
                numeric=[*NUMBERS], rows=rows, drawn=Card("a", "b", []))  # fmt: skip
    tab.go(write_page(tmp_path / "page.html", html).as_uri())
    first = "[...document.querySelectorAll('tbody tr')].filter(r => !r.hidden)"
    first += ".map(r => r.cells[0].textContent)"
    for place in range(1, 5):
        tab.js(f"document.querySelectorAll('.sort')[{place}].click()")
        assert tab.js(first)[:5] == [f"row {k}" for k in range(5)]
        tab.js(f"document.querySelectorAll('.sort')[{place}].click()")
        assert tab.js(first)[:5] == [f"row {k}" for k in (4, 3, 2, 1, 0)]
        tab.js(f"document.querySelectorAll('.sort')[{place}].click()")
    assert tab.js(first) == [row[0] for row in rows]
    tab.js("document.querySelector('.filter input').focus()")
    for key in "row 4q":
        tab.press(key)
    assert tab.js(first) == []
    tab.press("Backspace")
    tab.js("const f = document.querySelector('.filter input'); f.value = 'ROW 7 gb';"
           "f.dispatchEvent(new Event('input'))")  # fmt: skip
    assert tab.js(first) == ["row 4"]
    assert tab.js("document.querySelector('.filter output').textContent") == "1 of 11"


def test_without_the_script_and_on_paper_nothing_is_missing(tab: Tab, late: Path) -> None:
    said = "document.querySelector('main').innerText"
    tab.show()
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.go((late / "report.html").as_uri())
        plain: str = tab.js(said)
        assert tab.js("document.querySelectorAll('button, input, .tip').length") == 0
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
    tab.go((late / "report.html").as_uri())
    assert tab.js(said).split() == plain.split()
    tab.drag(0, 0.5, 0.8)
    tab.show(media="print")
    seen = "[...document.querySelectorAll('.filter, .back, .tip, .hint')]"
    assert not tab.js(f"{seen}.some(one => one.getBoundingClientRect().width)")
    tab.show()


def test_names_that_are_code_never_run(tab: Tab, tmp_path: Path) -> None:
    """Also where a reader points at what they name, and in the server's list of runs."""
    tab.said.clear()
    run = hostile(tmp_path)
    tab.show()
    tab.go(write_report(run).as_uri())
    for figure in range(tab.js("document.querySelectorAll('figure').length")):
        tab.point(figure, 0.5, 0.6)
    assert tab.js("document.querySelectorAll('img, script').length") == 1
    assert tab.said == []


# --- every kind of page ---------------------------------------------------------------------------


def analysed(folder: Path) -> Path:
    """Analyse a run of four models that the command has trained."""
    words = ["launch", "task=digits", "nodes=4", "steps=20", "-q", "--out", str(folder)]
    assert decentral.cli.run(words) == 0
    assert decentral.cli.run(["analyze", str(folder), "-q"]) == 0
    return folder / "analysis.html"


def simulated(folder: Path) -> Path:
    """Train event by event, over a network."""
    words = (
        "launch --algorithm ad_psgd network=lan compute=20ms nodes=4 steps=20 -q --out"
    )
    assert decentral.cli.run([*words.split(), str(folder)]) == 0
    return folder / "report.html"


def tried(path: Path) -> Path:
    """Write the page of a claim that says much."""
    words = "what is expected of a claim may be a long sentence"
    expected = {"figure": "AdamW minus AdamPower, under WSD", "means": words, "met": False,
                "bound": "-0.01 to 0.01", "over": "interval", "role": "evidence"}  # fmt: skip
    curve = {"label": "all-reduce", "lines": [[[0, 1], [0.1, 1]], [[0, 1], [0, 0.9]]]}
    panel = {
        "title": words,
        "x": "step",
        "y": "accuracy",
        "log": "",
        "curves": [curve] * 3,
    }
    record = {
        "claim": "decentralized_can_be_faster", "title": words, "says": words, "paper": words,
        "verdict": "does not reproduce at this size", "seeds": [0, 1], "seconds": 60.0,
        "time": "2026-11-28T10:00:00", "versions": {"decentral": "0.1.0"}, "panels": [panel],
        "expected": [expected], "figures": {expected["figure"]: [1.0, 2.0], "other": [3.0]},
    }  # fmt: skip
    path.write_text(claims_html([record]), encoding="utf-8")
    return path


def swept(folder: Path, run: Path) -> Path:
    """Write the page of a sweep over names and values that are long."""
    facts = (facts_of(read_run(run)),) * 3
    axes = {"topology": "watts_strogatz(k=4, p=0.3)", "schedule": "late(start=80%)"}
    groups = [Group({**axes, "lr": str(rate)}, 3, facts) for rate in (0.01, 0.02, 0.04)]
    folder.mkdir()
    return write_sweep(folder, groups, ["topology=ring: it failed for a reason"])


@pytest.fixture(scope="module")
def kinds(
    dozen: list[Path], late: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """Where a page of every kind is found."""
    folder = tmp_path_factory.mktemp("kinds")
    long = "a_run_with_a_name_that_is_longer_than_a_phone_is_wide"
    runs = folder / "runs"
    failed = write_run(runs / "failed", finished=False)
    (failed / "metrics.jsonl").unlink()
    write_run(runs / "deep" / long)
    write_run(runs / "training", finished=False)
    found = {
        "report": late / "report.html",
        "report, unfinished": write_report(write_run(folder / "half", finished=False)),
        "report, failed": write_report(failed),
        "report, regression": write_report(write_run(folder / "loss", regression=True)),
        "report, one node": write_report(write_run(folder / "one", nodes=1)),
        "report, long name": write_report(write_run(folder / long)),
        "report, events": simulated(folder / "events"),
        "compare": write_comparison(compare(dozen), folder / "compare.html"),
        "sweep": swept(folder / "sweep", late),
        "analyze": analysed(folder / "analysed"),
        "reproduce": tried(folder / "claims.html"),
    }
    with Server(runs) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        served = {"serve": "", "serve, a run": "training/", "serve, failed": "failed/"}
        yield {name: path.as_uri() for name, path in found.items()} | {
            name: server.address + path for name, path in served.items()
        }
        server.shutdown()


#: What is wider than the screen: the page itself, parts that have to be moved sideways, and
#: whatever else reaches beyond its edge.
_BEYOND = """(() => {
  const wide = [document.documentElement, ...document.querySelectorAll(".scroll")];
  const parts = [...document.querySelectorAll("body *")].filter(one => {
    const box = one.getBoundingClientRect();
    return box.width && (box.right > innerWidth + 1 || box.left < -1);
  });
  return [...wide.filter(one => one.scrollWidth > one.clientWidth), ...parts]
    .map(one => `${one.tagName}.${one.getAttribute("class")}: ${one.textContent.slice(0, 40)}`);
})()"""
#: Words of the page, figures included, whose colour is hardly another than what they stand on.
_FAINT = """(() => {
  const light = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(one => {
      const part = one / 255;
      return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = one => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/rgba\\(.*, 0\\)|transparent/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !one.getBoundingClientRect().width || one.closest(".unseen")) continue;
    const style = getComputedStyle(one), ink = one.closest("svg") ? style.fill : style.color;
    if (!ink.startsWith("rgb")) continue;
    const [a, b] = [light(ink), light(behind(one))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 3) faint.push(`${one.textContent.trim().slice(0, 30)}: ${ratio.toFixed(1)}`);
  }
  return faint;
})()"""

KINDS_OF_PAGES = (
    "report", "report, unfinished", "report, failed", "report, regression", "report, one node",
    "report, long name", "report, events", "compare", "sweep", "analyze", "reproduce", "serve",
    "serve, a run", "serve, failed",
)  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS_OF_PAGES)
def test_on_a_phone_nothing_is_cut_or_faint(
    tab: Tab, kinds: dict[str, str], kind: str, scheme: str
) -> None:
    """Tables included: no part of a page has to be moved sideways to be seen."""
    assert {*kinds} == {*KINDS_OF_PAGES}
    tab.said.clear()
    tab.show(420, scheme)
    tab.go(kinds[kind])
    assert tab.js("innerWidth") == 420
    assert tab.js(_BEYOND) == []
    assert tab.js(_FAINT) == []
    tab.show(1280, scheme)
    assert tab.js("document.documentElement.scrollWidth") <= 1280
    assert tab.js(_FAINT) == []
    assert tab.said == []


# --- served ---------------------------------------------------------------------------------------


def test_a_served_page_follows_its_run(tab: Tab, tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs/one", finished=False)
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:40]))
    tab.said.clear()
    tab.show()
    with Server(tmp_path / "runs") as server:
        Thread(target=server.serve_forever, daemon=True).start()
        tab.go(server.address)
        assert tab.js("document.querySelector('tbody a').textContent") == "one"
        tab.js("document.querySelector('tbody a').click()")
        tab.until("document.querySelector('h1')?.innerText.startsWith('one')")
        tab.until("document.querySelector('.verdict').innerText.includes('step 585 ')")
        time.sleep(2.1)  # until the page has asked once
        (run / "metrics.jsonl").write_text("".join(rows))
        tab.until(
            "document.querySelector('.verdict').innerText.includes('step 1,185 ')", 40
        )
        tab.until("document.querySelector('figure svg').classList.contains('zoomable')")
        server.shutdown()
    assert tab.said == []
